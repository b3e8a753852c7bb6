"""What a stretch of telephone sound looks like in bytes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

FRAME_MS = 20
"""Length of one media frame; the packet time of every wire this engine speaks."""


class Encoding(StrEnum):
    ULAW = "ulaw"
    """G.711 μ-law, one byte a sample."""
    ALAW = "alaw"
    """G.711 A-law, one byte a sample."""
    SLIN = "slin"
    """Signed 16-bit linear PCM, little-endian, mono."""


_BYTES_PER_SAMPLE = {Encoding.ULAW: 1, Encoding.ALAW: 1, Encoding.SLIN: 2}
# G.711 "positive zero": what a line carries when nobody speaks.
_SILENCE = {Encoding.ULAW: b"\xff", Encoding.ALAW: b"\xd5", Encoding.SLIN: b"\x00\x00"}


@dataclass(slots=True, frozen=True)
class AudioFormat:
    """An encoding at a rate; always one channel."""

    encoding: Encoding
    rate_hz: int

    @property
    def bytes_per_sample(self) -> int:
        return _BYTES_PER_SAMPLE[self.encoding]

    @property
    def frame_samples(self) -> int:
        """Samples in one frame of ``FRAME_MS``."""
        return self.rate_hz * FRAME_MS // 1000

    @property
    def frame_bytes(self) -> int:
        """Bytes in one frame of ``FRAME_MS``."""
        return self.frame_samples * self.bytes_per_sample

    @property
    def silent_frame(self) -> bytes:
        return _SILENCE[self.encoding] * self.frame_samples

    def silence(self, samples: int) -> bytes:
        return _SILENCE[self.encoding] * samples

    def size_bytes(self, duration_ms: int) -> int:
        """Of sound that lasts ``duration_ms``, in whole samples."""
        return self.rate_hz * duration_ms // 1000 * self.bytes_per_sample

    def samples(self, size_bytes: int) -> int:
        """Whole samples in ``size_bytes`` bytes."""
        return size_bytes // self.bytes_per_sample

    def duration_ms(self, size_bytes: int) -> float:
        return 1000 * self.samples(size_bytes) / self.rate_hz

    def __str__(self) -> str:
        return f"{self.encoding} {self.rate_hz} Hz"


ULAW_8K = AudioFormat(Encoding.ULAW, 8000)
ALAW_8K = AudioFormat(Encoding.ALAW, 8000)
SLIN_8K = AudioFormat(Encoding.SLIN, 8000)
SLIN_16K = AudioFormat(Encoding.SLIN, 16000)
SLIN_24K = AudioFormat(Encoding.SLIN, 24000)
