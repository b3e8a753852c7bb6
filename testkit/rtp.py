"""RTP packets (RFC 3550) and telephone events in them (RFC 4733), sans-I/O."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

HEADER = struct.Struct("!BBHII")
VERSION_2 = 0x80
MARKER = 0x80

KEYS = 101
"""The payload type of telephone events: what our phone offers and Asterisk itself prefers."""

DIGITS = "0123456789*#ABCD"
"""Keys in the order of their RFC 4733 event codes."""

_EVENT = struct.Struct("!BBH")
_END = 0x80


class RtpError(ValueError):
    """Bytes that are no RTP packet; the text names the field at fault."""


@dataclass(slots=True, frozen=True)
class RtpPacket:
    """One packet. ``timestamp`` counts samples (mod 2³²); ``arrived_at`` is in ``time.monotonic()`` seconds."""

    payload_type: int
    sequence: int
    timestamp: int
    ssrc: int
    payload: bytes
    marker: bool = False
    arrived_at: float = 0.0

    @property
    def is_sound(self) -> bool:
        """Whether it carries sound, not keys."""
        return self.payload_type != KEYS


def serialize(packet: RtpPacket) -> bytes:
    """The packet as one datagram, without contributing sources, extension or padding."""
    second = packet.payload_type | (MARKER if packet.marker else 0)
    return HEADER.pack(VERSION_2, second, packet.sequence, packet.timestamp, packet.ssrc) + packet.payload


def parse(datagram: bytes, arrived_at: float = 0.0) -> RtpPacket:
    """One datagram as a packet; contributing sources, extension and padding are skipped. Raises ``RtpError``."""
    if len(datagram) < HEADER.size:
        raise RtpError(f"header: {len(datagram)} of {HEADER.size} bytes")
    first, second, sequence, timestamp, ssrc = HEADER.unpack_from(datagram)
    if first >> 6 != 2:
        raise RtpError(f"version: {first >> 6}")
    if first == VERSION_2:  # nearly every packet: nothing to skip
        payload = datagram[HEADER.size :]
    else:
        payload = _skip_optional_fields(datagram, first)
    return RtpPacket(second & 0x7F, sequence, timestamp, ssrc, payload, second >= MARKER, arrived_at)


def sequence_numbers(packets: Sequence[RtpPacket]) -> list[int]:
    """The sequence number of each packet, counted on where the 16-bit counter goes round."""
    numbers: list[int] = []
    last = packets[0].sequence if packets else 0
    for packet in packets:
        # The signed distance to the last one, which is never half a turn.
        last += ((packet.sequence - last + 0x8000) & 0xFFFF) - 0x8000
        numbers.append(last)
    return numbers


def in_sequence(packets: Sequence[RtpPacket]) -> list[RtpPacket]:
    """The packets in the order in which they were sent, keys (telephone events) included, each once."""
    placed: dict[int, RtpPacket] = {}
    for number, packet in zip(sequence_numbers(packets), packets, strict=True):
        placed.setdefault(number, packet)
    return [placed[number] for number in sorted(placed)]


def _skip_optional_fields(datagram: bytes, first: int) -> bytes:
    start = HEADER.size + 4 * (first & 0x0F)
    if first & 0x10:
        if len(datagram) < start + 4:
            raise RtpError("extension: header truncated")
        start += 4 + 4 * int.from_bytes(datagram[start + 2 : start + 4], "big")
    if len(datagram) < start:
        raise RtpError(f"payload: starts at byte {start} of {len(datagram)}")
    payload = datagram[start:]
    if not first & 0x20:
        return payload
    if not payload or not 1 <= payload[-1] <= len(payload):
        raise RtpError("padding: count missing or longer than the payload")
    return payload[: -payload[-1]]


@dataclass(slots=True, frozen=True)
class TelephoneEvent:
    """The payload of a telephone-event packet; ``duration_samples`` counts since the key went down."""

    digit: str
    duration_samples: int
    end: bool = False
    volume_dbm0: int = -10


def serialize_event(event: TelephoneEvent) -> bytes:
    """The event as a payload of 4 bytes. Raises ``RtpError`` for a key that no telephone has."""
    code = DIGITS.find(event.digit.upper()) if len(event.digit) == 1 else -1
    if code < 0:
        raise RtpError(f"digit: {event.digit!r}")
    return _EVENT.pack(code, (_END if event.end else 0) | -event.volume_dbm0, event.duration_samples)


def parse_event(payload: bytes) -> TelephoneEvent:
    """A payload of 4 bytes as an event. Raises ``RtpError``, also for events that are no keys (fax, flash …)."""
    if len(payload) < _EVENT.size:
        raise RtpError(f"telephone-event: {len(payload)} of {_EVENT.size} bytes")
    code, flags, duration_samples = _EVENT.unpack_from(payload)
    if code >= len(DIGITS):
        raise RtpError(f"telephone-event: code {code} is no key")
    return TelephoneEvent(DIGITS[code], duration_samples, flags >= _END, -(flags & 0x3F))
