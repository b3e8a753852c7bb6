"""RTP packets to bytes and back, and the numbers and times of what we send."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.rtp_codec import (
    Extension,
    OutgoingStream,
    RtpError,
    RtpPacket,
    encode,
    is_rtcp,
    parse,
    serialize,
)

FULL = RtpPacket(
    payload_type=9,
    sequence=0xFFFE,
    timestamp=0xFFFFFFF0,
    ssrc=0xDEADBEEF,
    payload=b"sound",
    marker=True,
    csrc=(1, 0xFFFFFFFF),
    extension=Extension(0xBEDE, b"\x10\xaa\x00\x00"),
    padding_bytes=3,
)
FULL_BYTES = bytes.fromhex("b2 89 fffe fffffff0 deadbeef 00000001 ffffffff bede 0001 10aa0000") + b"sound\0\0\x03"

packets = st.builds(
    RtpPacket,
    payload_type=st.integers(0, 127).filter(lambda number: number not in range(72, 77)),
    sequence=st.integers(0, 0xFFFF),
    timestamp=st.integers(0, 0xFFFFFFFF),
    ssrc=st.integers(0, 0xFFFFFFFF),
    payload=st.binary(max_size=200),
    marker=st.booleans(),
    csrc=st.lists(st.integers(0, 0xFFFFFFFF), max_size=15).map(tuple),
    extension=st.none()
    | st.builds(
        Extension,
        profile=st.integers(0, 0xFFFF),
        data=st.lists(st.binary(min_size=4, max_size=4), max_size=5).map(b"".join),
    ),
    padding_bytes=st.integers(0, 255),
)


@given(packets)
def test_every_packet_comes_back(packet: RtpPacket) -> None:
    assert parse(serialize(packet)) == packet


@given(st.binary(max_size=100) | st.binary(max_size=60).map(lambda rest: b"\xbf\x80" + rest))
def test_any_bytes_are_a_packet_or_an_error(datagram: bytes) -> None:
    try:
        packet = parse(datagram)
    except RtpError:
        return
    assert parse(serialize(packet)) == packet
    assert len(serialize(packet)) == len(datagram)


def test_every_field_has_its_place() -> None:
    assert serialize(FULL) == FULL_BYTES
    assert parse(FULL_BYTES) == FULL


def test_a_plain_packet() -> None:
    packet = RtpPacket(0, 7, 1120, 0x01020304, b"\x55" * 160)
    datagram = bytes.fromhex("80 00 0007 00000460 01020304") + b"\x55" * 160
    assert parse(datagram) == packet
    assert serialize(packet) == encode(0, 7, 1120, 0x01020304, b"\x55" * 160) == datagram
    marked = encode(0, 7, 1120, 0x01020304, b"\x55" * 160, marker=True)
    assert parse(marked) == packet._replace(marker=True)


@pytest.mark.parametrize("size", range(28))
def test_a_truncated_packet_names_the_field(size: int) -> None:
    # Without padding, the count of which is the last byte and so never missing.
    whole = serialize(FULL._replace(padding_bytes=0))
    field = "header" if size < 12 else "csrc" if size < 20 else "extension"
    with pytest.raises(RtpError, match=f"^{field}:"):
        parse(whole[:size])


@pytest.mark.parametrize(
    ("datagram", "fault"),
    [
        (b"", "header: 0 of 12"),
        (b"\x40" + bytes(11), "version: 1"),
        (b"\xc0" + bytes(11), "version: 3"),
        (b"\xa0" + bytes(11), "padding: no bytes"),
        (b"\xa0" + bytes(12), "padding: 0 bytes"),
        (b"\xa0" + bytes(11) + b"\x02", "padding: 2 bytes where 1 follow"),
        (b"\x90" + bytes(11) + b"\0\0\0\x02" + bytes(7), "extension: 7 of 8 bytes"),
    ],
)
def test_what_is_wrong_is_named(datagram: bytes, fault: str) -> None:
    with pytest.raises(RtpError, match=fault):
        parse(datagram)


@pytest.mark.parametrize("kind", range(200, 205))
def test_rtcp_is_not_rtp(kind: int) -> None:
    report = struct.pack("!BBHI", 0x80, kind, 6, 1) + bytes(20)
    assert is_rtcp(report)
    with pytest.raises(RtpError, match=f"{kind} is RTCP"):
        parse(report)


@pytest.mark.parametrize("datagram", [b"", b"\x80", b"\x00\xc8" + bytes(20), encode(0, 1, 2, 3, b"x", marker=True)])
def test_other_things_are_not_rtcp(datagram: bytes) -> None:
    assert not is_rtcp(datagram)


@pytest.mark.parametrize(
    ("packet", "fault"),
    [
        (FULL._replace(payload_type=128), "payload type: 128"),
        (FULL._replace(payload_type=72), "payload type: 72"),
        (FULL._replace(csrc=tuple(range(16))), "csrc: 16"),
        (FULL._replace(padding_bytes=256), "padding: 256"),
        (FULL._replace(extension=Extension(1, b"odd")), "extension: 3 bytes"),
    ],
)
def test_what_cannot_be_sent_is_named(packet: RtpPacket, fault: str) -> None:
    with pytest.raises(RtpError, match=fault):
        serialize(packet)


# --- what we send


class Sender:
    """An outgoing stream, its packets told as steps from the first."""

    def __init__(self, bytes_per_tick: int = 1) -> None:
        self._stream = OutgoingStream(0, bytes_per_tick=bytes_per_tick)
        self._sent: list[RtpPacket] = []

    def send(self, now: float, payload: bytes = b"\x55" * 160) -> tuple[int, int, bool]:
        """Sends at a time; returns how far sequence and timestamp are from those of the first, and the marker."""
        self._sent.append(parse(self._stream.packet(payload, now)))
        first, last = self._sent[0], self._sent[-1]
        assert (last.ssrc, last.payload_type, last.payload) == (first.ssrc, 0, payload)
        return (last.sequence - first.sequence) & 0xFFFF, (last.timestamp - first.timestamp) & 0xFFFFFFFF, last.marker


def test_what_is_sent_in_time_is_contiguous() -> None:
    sender = Sender()
    assert sender.send(5.0) == (0, 0, True)
    for number in range(1, 200):
        assert sender.send(5.0 + number * 0.02 + (number % 3) * 0.015) == (number, number * 160, False)


def test_late_beats_are_caught_up_with() -> None:
    sender = Sender()
    sender.send(0.0)
    # Three periods late, then all at once.
    assert [sender.send(0.08) for _ in range(4)] == [(number, number * 160, False) for number in range(1, 5)]


def test_a_pause_is_jumped_over_and_marked() -> None:
    sender = Sender()
    sender.send(0.0)
    sender.send(0.02)
    assert sender.send(2.043) == (2, 320 + 16000, True)
    assert sender.send(2.063) == (3, 480 + 16000, False)


def test_beats_that_were_given_up_are_a_pause_once_they_add_up() -> None:
    sender = Sender()
    steps = [sender.send(number * 0.02 + (number // 50) * 0.04) for number in range(200)]
    assert [number for number, (_, _, marker) in enumerate(steps) if marker] == [0, 150]
    assert steps[149][1] == 149 * 160
    assert steps[150][1] == 156 * 160


def test_what_is_sent_ahead_of_time_is_contiguous_and_so_is_what_follows_in_time() -> None:
    sender = Sender()
    for number in range(50):
        assert sender.send(0.0)[1] == number * 160
    assert sender.send(1.0) == (50, 8000, False)


def test_frames_of_any_size_are_timed_by_their_samples() -> None:
    sender = Sender(bytes_per_tick=2)
    sender.send(0.0, bytes(320))
    assert sender.send(0.02, bytes(960))[1] == 160
    assert sender.send(0.08, bytes(320))[1] == 640


def test_the_counters_go_round() -> None:
    sender = Sender()
    # 30 hours: the timestamps pass 2³² once, the numbers 16 bits often.
    frames = 30 * 3600 * 50
    for number in range(0, frames, 1000):
        _, timestamp, _ = sender.send(number * 0.02)
        assert timestamp == number * 160 & 0xFFFFFFFF


def test_streams_do_not_begin_alike() -> None:
    firsts = [parse(OutgoingStream(0).packet(b"x", 0.0)) for _ in range(5)]
    assert len({packet.ssrc for packet in firsts}) == 5
    assert len({(packet.sequence, packet.timestamp) for packet in firsts}) == 5
