"""The agent that needs no key: an FAQ, a small dialogue brain, and speech by programs on this machine."""
