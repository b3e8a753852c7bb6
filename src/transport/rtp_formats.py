"""The formats that Asterisk takes and gives as RTP without any SDP, and how each goes over the wire."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from audio._audioop import audioop
from audio.formats import ALAW_8K, SLIN_8K, SLIN_16K, ULAW_8K

CLOCK_HZ = 8000
"""Of the timestamps, for all of them: RFC 3551 keeps it for G.722 too, which has twice as many samples."""

Recode = Callable[[bytes], bytes]


def _as_it_is(payload: bytes) -> bytes:
    return payload


def _passthrough() -> tuple[Recode, Recode]:
    return _as_it_is, _as_it_is


def _swap_bytes(payload: bytes) -> bytes:
    return audioop.byteswap(payload, 2)


def _network_order() -> tuple[Recode, Recode]:
    return _swap_bytes, _swap_bytes


def _g722() -> tuple[Recode, Recode]:
    from audio.g722 import G722Decoder, G722Encoder

    return G722Encoder().encode, G722Decoder().decode


@dataclass(slots=True, frozen=True)
class WireFormat:
    """One of our formats on the wire."""

    name: str
    """What Asterisk calls it."""
    payload_type: int
    bytes_per_tick: int
    recoders: Callable[[], tuple[Recode, Recode]]
    """Makes a call's own pair: from our format to the wire's, and back. The one back takes whole ticks."""
    codec_module: str | None = None
    """What Asterisk needs besides, where the caller's codec is another."""


# 16 kHz only as G.722: Asterisk takes no payload types but those that RFC 3551 fixes, and linear 16 kHz has none.
WIRE_FORMATS = {
    ULAW_8K: WireFormat("ulaw", 0, 1, _passthrough),
    ALAW_8K: WireFormat("alaw", 8, 1, _passthrough),
    SLIN_8K: WireFormat("slin", 10, 2, _network_order),
    SLIN_16K: WireFormat("g722", 9, 1, _g722, "codec_g722.so"),
}
