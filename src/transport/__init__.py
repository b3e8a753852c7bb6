"""How calls and sound get in and out of Asterisk: ARI, AudioSocket, and whatever carries media next."""
