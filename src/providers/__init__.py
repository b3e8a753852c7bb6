"""Who talks: realtime speech models and pipelines of speech recognition, language model and voice."""
