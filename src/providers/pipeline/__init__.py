"""A provider made of three stages: speech to text, a language model (or a small brain), text to speech."""
