"""How much of the agent's audio is held back before it plays, by how the provider delivers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from audio.formats import FRAME_MS, AudioFormat

FAST_ENOUGH = 1.5
"""A provider this many times faster than real time needs no cushion before its first frame."""


@dataclass(slots=True, frozen=True)
class Cushioning:
    """How much is held back against a provider that streams unevenly. All in milliseconds."""

    min_start_ms: int = 60
    """Held before the first frame of an item, if the provider is slower than ``FAST_ENOUGH``."""
    low_watermark_ms: int = 40
    """Held before an item that ran dry goes on."""
    jitter_buffer_ms: int = 400
    """The most that a cushion grows to when it proved too small."""
    provider_grace_ms: int = 1500
    """How long an item that ran dry may take to go on."""
    least_ms: int = FRAME_MS
    """Held in any case, however fast the provider is; no less than a frame."""


class Cushion:
    """The cushion before the next item, judged by the arrival of the latest one."""

    def __init__(self, settings: Cushioning, wire: AudioFormat, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._wire = wire
        self._clock = clock
        self._grown_ms = settings.min_start_ms
        self._fast = True
        """Nothing was slow so far: the next item needs no cushion."""
        self._item_id = ""
        self._first_at = 0.0
        self._after_first_bytes = 0

    @property
    def start_ms(self) -> int:
        """What to hold before the first frame of an item."""
        least_ms = self._settings.least_ms
        return least_ms if self._fast else max(least_ms, self._grown_ms)

    @property
    def again_ms(self) -> int:
        """What to hold before an item that ran dry goes on."""
        return max(self._settings.least_ms, self._settings.low_watermark_ms)

    def chunk(self, item_id: str, size: int) -> None:
        """Notes that a chunk of ``size`` bytes arrived."""
        if item_id != self._item_id:
            self._item_id = item_id
            self._first_at = self._clock()
            self._after_first_bytes = 0
        else:
            self._after_first_bytes += size

    def complete(self, item_id: str) -> None:
        """Notes that an item has arrived whole."""
        elapsed_ms = 1000 * (self._clock() - self._first_at)
        if item_id == self._item_id and elapsed_ms >= FRAME_MS:
            self._fast = self._wire.duration_ms(self._after_first_bytes) >= FAST_ENOUGH * elapsed_ms

    def ran_dry(self) -> None:
        """Notes that the cushion proved too small."""
        self._fast = False
        self._grown_ms = min(2 * self._grown_ms, self._settings.jitter_buffer_ms)
