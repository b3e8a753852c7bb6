"""Waiting for what will happen, always with a limit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator
from typing import TypeVar

Found = TypeVar("Found")

POLL_INTERVAL_S = 0.01


class Moment:
    """An instant that may still lie ahead: ``await`` it to get ``time.monotonic()`` seconds.

    Any number of tasks may await it; cancelling one of them leaves the others waiting (a plain future would be
    cancelled for all). When it can no longer come, awaiting it raises the reason.
    """

    __slots__ = ("_error", "_event", "at")

    def __init__(self) -> None:
        self.at: float | None = None
        self._error: BaseException | None = None
        self._event = asyncio.Event()

    @property
    def settled(self) -> bool:
        """Whether the instant has come, or never will."""
        return self._event.is_set()

    def come(self, at: float) -> None:
        """The instant has come; only the first verdict counts."""
        if not self.settled:
            self.at = at
            self._event.set()

    def never(self, reason: BaseException) -> None:
        """The instant will not come; only the first verdict counts."""
        if not self.settled:
            self._error = reason
            self._event.set()

    async def _wait(self) -> float:
        await self._event.wait()
        if self._error is not None:
            raise self._error
        assert self.at is not None
        return self.at

    def __await__(self) -> Generator[None, None, float]:
        return self._wait().__await__()


async def wait_until(condition: Callable[[], Found], timeout_s: float = 5.0, what: str = "condition") -> Found:
    """Poll ``condition`` until it returns something that is neither ``None`` nor ``False``, and return that.

    A time of ``0.0`` or an offset of ``0`` is a find. Raises ``TimeoutError`` naming ``what`` after ``timeout_s``.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        found = condition()
        if found is not None and found is not False:
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout_s} s")
        await asyncio.sleep(POLL_INTERVAL_S)
