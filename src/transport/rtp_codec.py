"""RTP packets (RFC 3550), and the numbers and times of a stream of them, without a socket in sight."""

from __future__ import annotations

import secrets
import struct
from dataclasses import dataclass
from typing import NamedTuple

HEADER_BYTES = 12
PAUSE_S = 0.1
"""Behind its time by more, what we send begins anew; less is a beat that came late and is caught up with."""
STEP_S = 0.02
"""Timestamps jump by whole frames, so that what was sent before and after a pause lies on one grid."""

_HEADER = struct.Struct("!BBHII")
_EXTENSION = struct.Struct("!HH")
_VERSION_2 = 2 << 6
_PADDING = 0x20
_EXTENDED = 0x10
_CSRC_COUNT = 0x0F
_MARKER = 0x80
_TYPE = 0x7F
# The types of RTCP (200 to 204) with the marker bit taken off; RTP leaves them unused for that reason (RFC 3551, 6).
_RTCP_TYPES = range(72, 77)


class RtpError(ValueError):
    """Bytes that are no RTP packet; the text names the field at fault."""


@dataclass(slots=True, frozen=True)
class Extension:
    """A header extension, the meaning of which ``profile`` (16 bits) says; ``data`` is whole 32-bit words."""

    profile: int
    data: bytes


# A tuple, because a frozen dataclass takes four times as long to make, and one is made for each packet.
class RtpPacket(NamedTuple):
    """One packet; ``sequence`` has 16 bits, ``timestamp`` 32, in ticks of the payload type's clock."""

    payload_type: int
    sequence: int
    timestamp: int
    ssrc: int
    payload: bytes
    marker: bool = False
    """The first packet after a pause."""
    csrc: tuple[int, ...] = ()
    extension: Extension | None = None
    padding_bytes: int = 0
    """Octets of padding behind the payload, their count among them."""


def is_rtcp(datagram: bytes) -> bool:
    """Whether this is RTCP, which some peers send to the port of RTP."""
    return len(datagram) >= 2 and datagram[0] >> 6 == 2 and datagram[1] & _TYPE in _RTCP_TYPES


def parse(datagram: bytes) -> RtpPacket:
    """One datagram as a packet. Raises ``RtpError``, for RTCP too."""
    size = len(datagram)
    if size < HEADER_BYTES:
        raise RtpError(f"header: {size} of {HEADER_BYTES} bytes")
    first, second, sequence, timestamp, ssrc = _HEADER.unpack_from(datagram)
    payload_type = second & _TYPE
    if payload_type in _RTCP_TYPES:
        raise RtpError(f"payload type: {second} is RTCP")
    if first == _VERSION_2:  # nearly every packet has nothing but these twelve bytes before its payload
        return RtpPacket(payload_type, sequence, timestamp, ssrc, datagram[HEADER_BYTES:], second >= _MARKER)
    if first >> 6 != 2:
        raise RtpError(f"version: {first >> 6}")
    start = HEADER_BYTES + 4 * (first & _CSRC_COUNT)
    if size < start:
        raise RtpError(f"csrc: {size - HEADER_BYTES} of {start - HEADER_BYTES} bytes")
    csrc = struct.unpack_from(f"!{first & _CSRC_COUNT}I", datagram, HEADER_BYTES)
    extension = None
    if first & _EXTENDED:
        extension = _parse_extension(datagram, start)
        start += _EXTENSION.size + len(extension.data)
    padding_bytes = datagram[-1] if first & _PADDING else 0
    if first & _PADDING and not 1 <= padding_bytes <= size - start:
        raise RtpError(
            f"padding: {padding_bytes if size > start else 'no'} bytes where {size - start} follow the header"
        )
    payload = datagram[start : size - padding_bytes]
    return RtpPacket(
        payload_type, sequence, timestamp, ssrc, payload, second >= _MARKER, csrc, extension, padding_bytes
    )


def _parse_extension(datagram: bytes, start: int) -> Extension:
    if len(datagram) < start + _EXTENSION.size:
        raise RtpError(f"extension: {len(datagram) - start} of {_EXTENSION.size} bytes of its header")
    profile, words = _EXTENSION.unpack_from(datagram, start)
    data = datagram[start + _EXTENSION.size :][: 4 * words]
    if len(data) < 4 * words:
        raise RtpError(f"extension: {len(data)} of {4 * words} bytes")
    return Extension(profile, data)


def encode(
    payload_type: int, sequence: int, timestamp: int, ssrc: int, payload: bytes, *, marker: bool = False
) -> bytes:
    """A packet of twelve bytes of header and the payload, which is all that telephony sends."""
    second = payload_type | _MARKER if marker else payload_type
    return _HEADER.pack(_VERSION_2, second, sequence, timestamp, ssrc) + payload


def serialize(packet: RtpPacket) -> bytes:
    """Any packet as one datagram; ``parse`` gives it back. Raises ``RtpError``."""
    if not 0 <= packet.payload_type <= _TYPE or packet.payload_type in _RTCP_TYPES:
        raise RtpError(f"payload type: {packet.payload_type}")
    if len(packet.csrc) > _CSRC_COUNT:
        raise RtpError(f"csrc: {len(packet.csrc)} of at most {_CSRC_COUNT}")
    if not 0 <= packet.padding_bytes <= 255:
        raise RtpError(f"padding: {packet.padding_bytes} bytes")
    first = _VERSION_2 | len(packet.csrc)
    optional = struct.pack(f"!{len(packet.csrc)}I", *packet.csrc)
    if packet.extension is not None:
        words, odd_bytes = divmod(len(packet.extension.data), 4)
        if odd_bytes or words > 0xFFFF:
            raise RtpError(f"extension: {len(packet.extension.data)} bytes")
        first |= _EXTENDED
        optional += _EXTENSION.pack(packet.extension.profile, words) + packet.extension.data
    padding = b""
    if packet.padding_bytes:
        first |= _PADDING
        padding = packet.padding_bytes.to_bytes(1, "big").rjust(packet.padding_bytes, b"\x00")
    second = packet.payload_type | (_MARKER if packet.marker else 0)
    header = _HEADER.pack(first, second, packet.sequence, packet.timestamp, packet.ssrc)
    return header + optional + packet.payload + padding


class OutgoingStream:
    """Numbers and times what we send; the clock is passed in.

    Timestamps follow the clock in whole frames: packet upon packet while they keep up with it, a jump and the
    marker after a pause.
    """

    __slots__ = ("_bytes_per_tick", "_clock_hz", "_next_at", "_payload_type", "_sequence", "_ssrc", "_timestamp")

    def __init__(self, payload_type: int, *, bytes_per_tick: int = 1, clock_hz: int = 8000) -> None:
        self._payload_type = payload_type
        self._bytes_per_tick = bytes_per_tick
        self._clock_hz = clock_hz
        self._ssrc = secrets.randbits(32)
        self._sequence = secrets.randbits(16)
        self._timestamp = secrets.randbits(32)
        self._next_at: float | None = None
        """When the next packet is to leave; None before the first."""

    def packet(self, payload: bytes, now: float) -> bytes:
        """The datagram that carries ``payload`` and leaves ``now``."""
        begins = self._next_at is None or now - self._next_at > PAUSE_S
        if self._next_at is None:
            self._next_at = now
        elif begins:
            steps = round((now - self._next_at) / STEP_S)
            self._timestamp += round(steps * STEP_S * self._clock_hz)
            self._next_at += steps * STEP_S
        sequence, timestamp = self._sequence & 0xFFFF, self._timestamp & 0xFFFFFFFF
        ticks = len(payload) // self._bytes_per_tick
        self._sequence += 1
        self._timestamp += ticks
        self._next_at += ticks / self._clock_hz
        return encode(self._payload_type, sequence, timestamp, self._ssrc, payload, marker=begins)
