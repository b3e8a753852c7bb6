"""``python -m engine`` is the console command ``voice-engine``."""

from engine.cli import main

if __name__ == "__main__":
    main()
