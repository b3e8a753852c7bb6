"""RTP packets and telephone events, byte by byte."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testkit import rtp
from testkit.rtp import DIGITS, RtpError, RtpPacket, TelephoneEvent

PACKETS = st.builds(
    RtpPacket,
    payload_type=st.integers(0, 127),
    sequence=st.integers(0, 0xFFFF),
    timestamp=st.integers(0, 0xFFFF_FFFF),
    ssrc=st.integers(0, 0xFFFF_FFFF),
    payload=st.binary(max_size=400),
    marker=st.booleans(),
)
EVENTS = st.builds(
    TelephoneEvent,
    digit=st.sampled_from(DIGITS),
    duration_samples=st.integers(0, 0xFFFF),
    end=st.booleans(),
    volume_dbm0=st.integers(-63, 0),
)


def test_the_bytes_of_a_packet() -> None:
    packet = RtpPacket(0, 0x1234, 0xA0, 0xDEADBEEF, b"\xff\x00", marker=True)
    assert rtp.serialize(packet) == bytes.fromhex("80 80 1234 000000a0 deadbeef ff00")


def test_the_bytes_of_an_event() -> None:
    assert rtp.serialize_event(TelephoneEvent("#", 800, end=True)) == bytes.fromhex("0b 8a 0320")


@given(PACKETS)
def test_what_is_written_is_read_back(packet: RtpPacket) -> None:
    assert rtp.parse(rtp.serialize(packet)) == packet


@given(EVENTS)
def test_what_is_pressed_is_read_back(event: TelephoneEvent) -> None:
    assert rtp.parse_event(rtp.serialize_event(event)) == event


def test_contributing_sources_extension_and_padding_are_skipped() -> None:
    head = bytes.fromhex("b2 00 0001 00000002 00000003")
    sources, extension, padding = bytes(8), bytes.fromhex("bede 0001 00000000"), b"\x00\x00\x03"
    packet = rtp.parse(head + sources + extension + b"sound" + padding, arrived_at=1.5)
    assert packet == RtpPacket(0, 1, 2, 3, b"sound", arrived_at=1.5)


@given(PACKETS, st.integers(0, 11))
def test_a_packet_cut_short_is_a_clear_error(packet: RtpPacket, length: int) -> None:
    with pytest.raises(RtpError, match=f"header: {length} of 12 bytes"):
        rtp.parse(rtp.serialize(packet)[:length])


@given(st.binary(max_size=60))
def test_nothing_but_an_rtp_error_comes_of_garbage(datagram: bytes) -> None:
    for parse in (rtp.parse, rtp.parse_event):
        with suppress(RtpError):
            parse(datagram)


@pytest.mark.parametrize(
    ("datagram", "field"),
    [
        ("40 00 0001 00000002 00000003", "version: 1"),
        ("81 00 0001 00000002 00000003", "payload: starts at byte 16 of 12"),
        ("90 00 0001 00000002 00000003 bede", "extension"),
        ("a0 00 0001 00000002 00000003", "padding"),
        ("a0 00 0001 00000002 00000003 ff05", "padding"),
    ],
)
def test_errors_name_the_field(datagram: str, field: str) -> None:
    with pytest.raises(RtpError, match=field):
        rtp.parse(bytes.fromhex(datagram))


@pytest.mark.parametrize("digit", ["", "12", "x", "E"])
def test_a_key_that_no_telephone_has_is_refused(digit: str) -> None:
    with pytest.raises(RtpError, match="digit"):
        rtp.serialize_event(TelephoneEvent(digit, 160))
