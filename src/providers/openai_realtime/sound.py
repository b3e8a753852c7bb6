"""The formats of sound that the Realtime API has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from audio.formats import ALAW_8K, SLIN_24K, ULAW_8K, AudioFormat, Encoding

DECLARATIONS: Mapping[AudioFormat, Mapping[str, Any]] = {
    ULAW_8K: {"type": "audio/pcmu"},
    ALAW_8K: {"type": "audio/pcma"},
    SLIN_24K: {"type": "audio/pcm", "rate": SLIN_24K.rate_hz},
}
"""How a session's settings call each of them."""


def nearest(wire: AudioFormat) -> AudioFormat:
    """The format that takes nothing from what the wire carries and needs least for it."""
    if wire.rate_hz > ULAW_8K.rate_hz:
        return SLIN_24K
    return ALAW_8K if wire.encoding is Encoding.ALAW else ULAW_8K
