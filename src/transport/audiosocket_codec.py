"""The AudioSocket wire format, without a socket in sight.

A message is ``kind:u8 | length:u16 big-endian | payload``. Asterisk connects, names the call with a UUID and
then sends sound (signed 16-bit linear, little-endian) and DTMF; sound goes back the same way.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from uuid import UUID


class Kind(IntEnum):
    HANGUP = 0x00
    UUID = 0x01
    DTMF = 0x03
    AUDIO = 0x10
    """8 kHz; the kinds up to 0x18 are the other rates."""
    ERROR = 0xFF


AUDIO_RATES_HZ = {
    0x10: 8000,
    0x11: 12000,
    0x12: 16000,
    0x13: 24000,
    0x14: 32000,
    0x15: 44100,
    0x16: 48000,
    0x17: 96000,
    0x18: 192000,
}
_AUDIO_KINDS = {rate_hz: kind for kind, rate_hz in AUDIO_RATES_HZ.items()}

_HEADER = struct.Struct("!BH")
_MAX_PAYLOAD = 0xFFFF
_MAX_ERROR_PAYLOAD = 255
_LENGTHS = {
    Kind.HANGUP: (0, 0),
    Kind.UUID: (16, 16),
    Kind.DTMF: (1, 1),
    Kind.ERROR: (0, _MAX_ERROR_PAYLOAD),
    # One second is far beyond any frame of a telephone line.
    **{kind: (2, min(2 * rate_hz, _MAX_PAYLOAD - 1)) for kind, rate_hz in AUDIO_RATES_HZ.items()},
}
"""Shortest and longest payload of each kind, in bytes."""

_FRAME_20_MS = _HEADER.pack(Kind.AUDIO, 320)
_MESSAGE_20_MS_BYTES = 323


class AudioSocketError(ValueError):
    """The peer does not speak AudioSocket; the text names the fault."""


@dataclass(slots=True, frozen=True)
class Identified:
    """Asterisk's first message: which call this is."""

    media_id: UUID


@dataclass(slots=True, frozen=True)
class AudioReceived:
    pcm: bytes
    """Whole samples, usually 20 ms."""
    rate_hz: int


@dataclass(slots=True, frozen=True)
class DigitReceived:
    digit: str


@dataclass(slots=True, frozen=True)
class HangupReceived:
    pass


@dataclass(slots=True, frozen=True)
class ErrorReceived:
    code: bytes
    """Up to the application; one byte as a rule."""


AudioSocketEvent = Identified | AudioReceived | DigitReceived | HangupReceived | ErrorReceived


class AudioSocketDecoder:
    """Bytes of one connection in, events out; dead after the first ``AudioSocketError``."""

    __slots__ = ("_identified", "_rest")

    def __init__(self) -> None:
        self._rest = b""
        self._identified = False

    def decode(self, received: bytes) -> Iterator[AudioSocketEvent]:
        """The events that ``received`` completes. Read the iterator to its end: that does the work."""
        # Almost every read is exactly one frame of 20 ms.
        if (
            len(received) == _MESSAGE_20_MS_BYTES
            and received.startswith(_FRAME_20_MS)
            and self._identified
            and not self._rest
        ):
            yield AudioReceived(received[3:], 8000)
            return
        received, self._rest = self._rest + received, b""
        start = 0
        while len(received) - start >= _HEADER.size:
            kind, length = _HEADER.unpack_from(received, start)
            self._check(kind, length)
            end = start + _HEADER.size + length
            if end > len(received):
                break
            yield self._event(kind, received[start + _HEADER.size : end])
            start = end
        self._rest = received[start:]

    def _check(self, kind: int, length: int) -> None:
        """Judges a message by its header, so that no fault is waited for or stored."""
        bounds = _LENGTHS.get(kind)
        if bounds is None:
            raise AudioSocketError(f"unknown kind 0x{kind:02x}")
        shortest, longest = bounds
        if not shortest <= length <= longest:
            expected = str(shortest) if shortest == longest else f"{shortest} to {longest}"
            raise AudioSocketError(f"kind 0x{kind:02x} of {length} bytes, expected {expected}")
        if kind in AUDIO_RATES_HZ and length % 2:
            raise AudioSocketError(f"kind 0x{kind:02x} of {length} bytes: half a sample")
        if kind == Kind.UUID and self._identified:
            raise AudioSocketError("a second UUID")
        if kind != Kind.UUID and not self._identified:
            raise AudioSocketError(f"kind 0x{kind:02x} before the UUID")

    def _event(self, kind: int, payload: bytes) -> AudioSocketEvent:
        if kind in AUDIO_RATES_HZ:
            return AudioReceived(payload, AUDIO_RATES_HZ[kind])
        if kind == Kind.UUID:
            self._identified = True
            return Identified(UUID(bytes=payload))
        if kind == Kind.DTMF:
            return DigitReceived(payload.decode("latin-1"))
        if kind == Kind.HANGUP:
            return HangupReceived()
        return ErrorReceived(payload)


def encode_audio(pcm: bytes, rate_hz: int = 8000) -> bytes:
    """One message, to be sent in one write: Asterisk hangs up when a payload comes 5 ms after its header."""
    if len(pcm) == 320 and rate_hz == 8000:
        return _FRAME_20_MS + pcm
    return _HEADER.pack(_AUDIO_KINDS[rate_hz], len(pcm)) + pcm


def encode(event: AudioSocketEvent) -> bytes:
    """The message that the peer decodes as ``event``."""
    match event:
        case AudioReceived(pcm, rate_hz):
            return encode_audio(pcm, rate_hz)
        case Identified(media_id):
            return _HEADER.pack(Kind.UUID, 16) + media_id.bytes
        case DigitReceived(digit):
            return _HEADER.pack(Kind.DTMF, 1) + digit.encode("latin-1")
        case HangupReceived():
            return _HEADER.pack(Kind.HANGUP, 0)
        case ErrorReceived(code):
            return _HEADER.pack(Kind.ERROR, len(code)) + code
