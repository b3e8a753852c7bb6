from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.audiosocket_codec import (
    AUDIO_RATES_HZ,
    AudioReceived,
    AudioSocketDecoder,
    AudioSocketError,
    AudioSocketEvent,
    DigitReceived,
    ErrorReceived,
    HangupReceived,
    Identified,
    encode,
    encode_audio,
)

MEDIA_ID = UUID("0f8fad5b-d9cb-469f-a165-70867728950e")
HELLO = bytes.fromhex("01 0010 0f8fad5bd9cb469fa16570867728950e")

WIRE = {
    "uuid": (HELLO, Identified(MEDIA_ID)),
    "hangup": (bytes.fromhex("00 0000"), HangupReceived()),
    "dtmf": (bytes.fromhex("03 0001 23"), DigitReceived("#")),
    "error": (bytes.fromhex("ff 0001 04"), ErrorReceived(b"\x04")),
    "error without a code": (bytes.fromhex("ff 0000"), ErrorReceived(b"")),
    "one sample": (bytes.fromhex("10 0002 3412"), AudioReceived(b"\x34\x12", 8000)),
    "20 ms at 8 kHz": (bytes.fromhex("10 0140") + bytes(320), AudioReceived(bytes(320), 8000)),
    "20 ms at 16 kHz": (bytes.fromhex("12 0280") + bytes(640), AudioReceived(bytes(640), 16000)),
    "20 ms at 48 kHz": (bytes.fromhex("16 0780") + bytes(1920), AudioReceived(bytes(1920), 48000)),
}

sounds = st.builds(
    AudioReceived,
    st.one_of(st.just(bytes(range(160)) * 2), st.binary(min_size=1, max_size=40).map(lambda half: half * 2)),
    st.sampled_from(sorted(AUDIO_RATES_HZ.values())),
)
later_events = st.one_of(
    sounds,
    st.builds(DigitReceived, st.sampled_from("0123456789*#ABCD")),
    st.just(HangupReceived()),
    st.builds(ErrorReceived, st.binary(max_size=255)),
)
conversations = st.tuples(st.builds(Identified, st.uuids()), st.lists(later_events, max_size=12)).map(
    lambda parts: [parts[0], *parts[1]]
)


def decode_pieces(pieces: Iterator[bytes] | list[bytes]) -> tuple[list[AudioSocketEvent], str | None]:
    """The events, and the fault that ended them."""
    decoder, events = AudioSocketDecoder(), list[AudioSocketEvent]()
    try:
        for piece in pieces:
            for event in decoder.decode(piece):
                # One by one: an event before a fault counts.
                events.append(event)
    except AudioSocketError as error:
        return events, str(error)
    return events, None


@pytest.mark.parametrize(("wire", "event"), WIRE.values(), ids=WIRE.keys())
def test_each_kind_both_ways(wire: bytes, event: AudioSocketEvent) -> None:
    assert encode(event) == wire
    stream = wire if isinstance(event, Identified) else HELLO + wire
    assert decode_pieces([stream]) == ([event] if stream is wire else [Identified(MEDIA_ID), event], None)


@pytest.mark.parametrize(("kind", "rate_hz"), AUDIO_RATES_HZ.items())
def test_every_rate_has_its_kind(kind: int, rate_hz: int) -> None:
    frame = bytes(2 * rate_hz // 50)
    wire = encode_audio(frame, rate_hz)
    assert wire[0] == kind
    assert decode_pieces([HELLO, wire]) == ([Identified(MEDIA_ID), AudioReceived(frame, rate_hz)], None)


FAULTS = {
    "unknown kind": (HELLO + b"\x02\0\0", "unknown kind 0x02"),
    "kind after the last rate": (HELLO + b"\x19\0\2", "unknown kind 0x19"),
    "short UUID": (b"\x01\0\x0f", "kind 0x01 of 15 bytes, expected 16"),
    "long UUID": (b"\x01\0\x11", "kind 0x01 of 17 bytes, expected 16"),
    "two digits": (HELLO + b"\x03\0\2", "kind 0x03 of 2 bytes, expected 1"),
    "no digit": (HELLO + b"\x03\0\0", "kind 0x03 of 0 bytes, expected 1"),
    "hang-up with a payload": (HELLO + b"\0\0\1", "kind 0x00 of 1 bytes, expected 0"),
    "long error": (HELLO + b"\xff\1\0", "kind 0xff of 256 bytes, expected 0 to 255"),
    "half a sample": (HELLO + b"\x10\x01\x41", "kind 0x10 of 321 bytes: half a sample"),
    "no sound": (HELLO + b"\x10\0\0", "kind 0x10 of 0 bytes, expected 2 to 16000"),
    "more than a second": (HELLO + b"\x10\x3e\x82", "kind 0x10 of 16002 bytes, expected 2 to 16000"),
    "sound first": (b"\x10\x01\x40" + bytes(320), "kind 0x10 before the UUID"),
    "hang-up first": (b"\0\0\0", "kind 0x00 before the UUID"),
    "second UUID": (HELLO + HELLO, "a second UUID"),
    "HTTP": (b"GET / HTTP/1.1\r\n\r\n", "unknown kind 0x47"),
    "TLS": (bytes.fromhex("16 0301 0200 01"), "kind 0x16 of 769 bytes: half a sample"),
}


@pytest.mark.parametrize(("wire", "fault"), FAULTS.values(), ids=FAULTS.keys())
def test_faults_are_named(wire: bytes, fault: str) -> None:
    hello = [Identified(MEDIA_ID)] if wire.startswith(HELLO) else []
    assert decode_pieces([wire]) == (hello, fault)


def test_a_fault_is_seen_in_the_header_without_waiting_for_the_payload() -> None:
    assert decode_pieces([HELLO, b"\x10\xff", b"\xfe"])[1] == "kind 0x10 of 65534 bytes, expected 2 to 16000"


def test_the_longest_sound_is_one_second() -> None:
    second = bytes(16000)
    assert decode_pieces([HELLO, encode_audio(second)])[0][1:] == [AudioReceived(second, 8000)]


def test_a_frame_split_at_every_byte() -> None:
    stream = HELLO + encode_audio(bytes(range(160)) * 2) + encode(DigitReceived("5"))
    whole = decode_pieces([stream])
    for cut in range(len(stream)):
        assert decode_pieces([stream[:cut], stream[cut:]]) == whole
    assert decode_pieces([stream[at : at + 1] for at in range(len(stream))]) == whole


def test_a_whole_frame_after_half_a_frame_is_not_mistaken_for_a_message() -> None:
    # The second read is 323 bytes that look exactly like one message, and is not.
    message = encode_audio(bytes(320))
    first = b"\x10\x01\x44" + b"\1"
    decoder = AudioSocketDecoder()
    assert list(decoder.decode(HELLO + first)) == [Identified(MEDIA_ID)]
    assert list(decoder.decode(message)) == [AudioReceived(b"\1" + message, 8000)]


@given(events=conversations, cuts=st.lists(st.integers(0, 3000), max_size=12))
def test_any_split_gives_the_same_events(events: list[AudioSocketEvent], cuts: list[int]) -> None:
    stream = b"".join(encode(event) for event in events)
    edges = [0, *sorted(cuts), len(stream)]
    assert decode_pieces(stream[start:end] for start, end in pairwise(edges)) == (events, None)


@given(
    garbage=st.binary(max_size=600),
    hello=st.booleans(),
    cuts=st.lists(st.integers(0, 600), max_size=6),
)
def test_garbage_gives_events_or_a_fault_whatever_the_split(garbage: bytes, hello: bool, cuts: list[int]) -> None:
    stream = HELLO + garbage if hello else garbage
    edges = [0, *sorted(cuts), len(stream)]
    assert decode_pieces(stream[start:end] for start, end in pairwise(edges)) == decode_pieces([stream])
