"""The clock of a pipeline: the event loop's, by which its timers go off too."""

from __future__ import annotations

import asyncio


def now() -> float:
    """Seconds; only within a running loop."""
    return asyncio.get_running_loop().time()
