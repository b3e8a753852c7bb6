"""Sound, and nothing but sound: formats, conversion, voice detection, WAV."""
