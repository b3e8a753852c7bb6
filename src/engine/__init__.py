"""The call: lifecycle, whose turn it is, playback, sessions, tools, metrics, HTTP, command line."""
