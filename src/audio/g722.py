"""G.722 at 64 kbit/s: wideband speech in as many bits as G.711 takes.

A byte holds two samples at 16 kHz; RTP counts this encoding at 8000 Hz all the same (RFC 3551, 4.5.2), so a byte is
one tick of its timestamps. Both directions carry state from frame to frame: an object belongs to one stream. What
goes in comes out 1.4 ms later, by the codec's own filters.

The codec is libg722: byte for byte what FFmpeg's gives, and what the ITU's tests ask for. FFmpeg's through PyAV
would cost a thread per core for each encoder, which sits in a filter graph whose threads cannot be set.
"""

from __future__ import annotations

from array import array
from typing import Final

from G722 import G722

RATE_HZ: Final = 16000
SAMPLES_PER_BYTE: Final = 2

_BIT_RATE: Final = 64000
_PAIR_BYTES: Final = 4
"""Of slin, for each byte of G.722."""


class G722Encoder:
    """Turns slin at 16 kHz into G.722."""

    __slots__ = ("_encode", "_rest")

    def __init__(self) -> None:
        self._encode = G722(RATE_HZ, _BIT_RATE).encode
        self._rest = b""

    def encode(self, slin: bytes) -> bytes:
        """A byte for every two samples, 160 for 20 ms; half a pair at the end waits for the next call."""
        if self._rest:
            slin = self._rest + slin
            self._rest = b""
        if odd := len(slin) % _PAIR_BYTES:
            self._rest = slin[-odd:]
            slin = slin[:-odd]
        encoded: bytes = self._encode(array("h", slin))
        return encoded


class G722Decoder:
    """Turns G.722 into slin at 16 kHz."""

    __slots__ = ("_decode",)

    def __init__(self) -> None:
        self._decode = G722(RATE_HZ, _BIT_RATE).decode

    def decode(self, g722: bytes) -> bytes:
        """Two samples for each byte, whatever the chunks are. There are no wrong bytes: noise decodes as noise."""
        slin: array[int] = self._decode(g722)
        return slin.tobytes()
