from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testkit.caller import in_sequence
from testkit.rtp import (
    DIGITS,
    RtpError,
    RtpPacket,
    TelephoneEvent,
    parse,
    parse_event,
    serialize,
    serialize_event,
)

PACKET = RtpPacket(payload_type=0, sequence=0x1234, timestamp=0x01020304, ssrc=0xA1B2C3D4, payload=b"\x7f\xff\x00")
WIRE = bytes.fromhex("80 00 1234 01020304 a1b2c3d4 7fff00")

PACKETS = st.builds(
    RtpPacket,
    payload_type=st.integers(0, 0x7F),
    sequence=st.integers(0, 0xFFFF),
    timestamp=st.integers(0, 0xFFFFFFFF),
    ssrc=st.integers(0, 0xFFFFFFFF),
    payload=st.binary(max_size=200),
    marker=st.booleans(),
)
EVENTS = st.builds(
    TelephoneEvent,
    digit=st.sampled_from(DIGITS),
    duration_samples=st.integers(0, 0xFFFF),
    end=st.booleans(),
    volume_dbm0=st.integers(-63, 0),
)


def test_a_packet_on_the_wire() -> None:
    assert serialize(PACKET) == WIRE
    assert parse(WIRE) == PACKET
    assert parse(WIRE, arrived_at=4.5).arrived_at == 4.5


def test_the_marker_is_no_part_of_the_payload_type() -> None:
    packet = parse(bytes.fromhex("80 e5 0001 00000000 00000000 0a"))
    assert (packet.payload_type, packet.marker) == (101, True)


@pytest.mark.parametrize(
    ("wire", "payload"),
    [
        pytest.param("82 00 0001 00000000 00000000 11111111 22222222 7f", b"\x7f", id="contributing sources"),
        pytest.param("90 00 0001 00000000 00000000 bede 0001 12345678 7f", b"\x7f", id="extension"),
        pytest.param("a0 00 0001 00000000 00000000 7f 000003", b"\x7f", id="padding"),
        pytest.param("b1 00 0001 00000000 00000000 11111111 bede 0000 7f 02 02", b"\x7f", id="all of them"),
        pytest.param("a0 00 0001 00000000 00000000 000003", b"", id="nothing but padding"),
        pytest.param("80 00 0001 00000000 00000000", b"", id="nothing"),
    ],
)
def test_what_surrounds_the_payload_is_skipped(wire: str, payload: bytes) -> None:
    assert parse(bytes.fromhex(wire)).payload == payload


@pytest.mark.parametrize(
    ("wire", "fault"),
    [
        ("", "header: 0 of 12"),
        ("80 00 0001 00000000 000000", "header: 11 of 12"),
        ("40 00 0001 00000000 00000000", "version: 1"),
        ("81 00 0001 00000000 00000000 1111", "payload: starts at byte 16 of 14"),
        ("90 00 0001 00000000 00000000 bede", "extension: header truncated"),
        ("90 00 0001 00000000 00000000 bede 0002 12345678", "payload: starts at byte 24 of 20"),
        ("a0 00 0001 00000000 00000000", "padding"),
        ("a0 00 0001 00000000 00000000 00", "padding"),
        ("a0 00 0001 00000000 00000000 7f 03", "padding"),
    ],
)
def test_what_is_no_packet_is_refused_with_the_field_at_fault(wire: str, fault: str) -> None:
    with pytest.raises(RtpError, match=fault):
        parse(bytes.fromhex(wire))


@given(PACKETS)
def test_what_was_written_is_read(packet: RtpPacket) -> None:
    assert parse(serialize(packet)) == packet


@settings(max_examples=300)
@given(st.binary(max_size=60))
def test_garbage_raises_nothing_but_rtp_errors(garbage: bytes) -> None:
    for datagram in (garbage, b"\xbf" + garbage, b"\x9f\x00" + garbage):
        try:
            packet = parse(datagram)
        except RtpError:
            continue
        assert datagram.find(packet.payload) >= 0


@given(EVENTS)
def test_a_key_that_was_written_is_read(event: TelephoneEvent) -> None:
    assert parse_event(serialize_event(event)) == event


def test_keys_on_the_wire() -> None:
    assert serialize_event(TelephoneEvent("#", 800, end=True)) == bytes.fromhex("0b 8a 0320")
    assert serialize_event(TelephoneEvent("a", 160)) == bytes.fromhex("0c 0a 00a0")
    assert parse_event(bytes.fromhex("0a 47 0001 ffff")) == TelephoneEvent("*", 1, volume_dbm0=-7)


@pytest.mark.parametrize("digit", ["", "E", "12", "ß", "٣"])
def test_a_key_that_no_telephone_has_is_not_written(digit: str) -> None:
    with pytest.raises(RtpError, match="digit"):
        serialize_event(TelephoneEvent(digit, 160))


@given(st.binary(max_size=6))
def test_garbage_is_no_key(garbage: bytes) -> None:
    try:
        event = parse_event(garbage)
    except RtpError:
        assert len(garbage) < 4 or garbage[0] >= len(DIGITS)
    else:
        assert event.digit == DIGITS[garbage[0]]


@given(st.integers(0, 0xFFFF), st.integers(1, 500), st.randoms(use_true_random=False))
def test_packets_are_put_in_order_though_the_counter_goes_round(first: int, count: int, chance: object) -> None:
    """As a network may deliver them: each at most a few places from where it belongs."""
    sent = [RtpPacket(0, (first + number) & 0xFFFF, 0, 0, number.to_bytes(2, "big")) for number in range(count)]
    jitter = [number + chance.uniform(0, 8) for number in range(count)]  # type: ignore[attr-defined]
    arrived = [sent[number] for number in sorted(range(count), key=jitter.__getitem__)]
    assert in_sequence(arrived) == sent
