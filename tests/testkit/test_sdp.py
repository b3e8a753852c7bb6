from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testkit.sdp import (
    TELEPHONE_EVENT,
    Direction,
    MediaFormat,
    SdpError,
    SessionDescription,
    answer_direction,
    next_version,
    parse,
    serialize,
)

DIRECTIONS: tuple[Direction, ...] = get_args(Direction)

OFFER = SessionDescription(
    address="127.0.0.1",
    port=40002,
    formats=(MediaFormat(0, "PCMU"), MediaFormat(101, TELEPHONE_EVENT, fmtp="0-16")),
    direction="sendonly",
    session_id=17,
    version=2,
)
OFFER_WIRE = (
    b"v=0\r\n"
    b"o=- 17 2 IN IP4 127.0.0.1\r\n"
    b"s=-\r\n"
    b"c=IN IP4 127.0.0.1\r\n"
    b"t=0 0\r\n"
    b"m=audio 40002 RTP/AVP 0 101\r\n"
    b"a=rtpmap:0 PCMU/8000\r\n"
    b"a=rtpmap:101 telephone-event/8000\r\n"
    b"a=fmtp:101 0-16\r\n"
    b"a=ptime:20\r\n"
    b"a=sendonly\r\n"
)

WORDS = st.text("abcdefghijklmnopqrstuvwxyzABC0123456789-_.", min_size=1, max_size=12)
LINES = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=20)
FORMATS = st.lists(
    st.builds(
        MediaFormat,
        payload_type=st.integers(0, 127),
        encoding=WORDS,
        clock_rate_hz=st.integers(1, 192_000),
        fmtp=st.none() | LINES,
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda each: each.payload_type,
).map(tuple)
DESCRIPTIONS = st.builds(
    SessionDescription,
    address=st.ip_addresses(v=4).map(str) | WORDS,
    port=st.integers(0, 0xFFFF),
    formats=FORMATS,
    direction=st.sampled_from(DIRECTIONS),
    session_id=st.integers(0, 2**64 - 1),
    version=st.integers(0, 2**64 - 1),
    ptime_ms=st.none() | st.integers(1, 9999),
)


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Breaks off what is inside, also in the middle of a match."""

    def give_up(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"not within {seconds} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def replaced(old: bytes, new: bytes) -> bytes:
    assert old in OFFER_WIRE
    return OFFER_WIRE.replace(old, new)


def test_a_description_on_the_wire() -> None:
    assert serialize(OFFER) == OFFER_WIRE
    assert parse(OFFER_WIRE) == OFFER


def test_what_asterisk_may_write_differently() -> None:
    """Line feeds alone, an address and a direction for all streams, static types unnamed, other streams around."""
    described = parse(
        b"v=0\n"
        b"o=root 1 1 IN IP4 pbx.example\n"
        b"s=Asterisk\n"
        b"c=IN IP4 10.0.0.1\n"
        b"t=0 0\n"
        b"a=inactive\n"
        b"m=video 5000 RTP/AVP 99\n"
        b"c=IN IP4 10.0.0.2\n"
        b"m=audio 4000/2 RTP/SAVPF 8 18 101\n"
        b"a=rtpmap:101 Telephone-Event/8000/1\n"
        b"a=maxptime:150\n"
        b"m=audio 6000 RTP/AVP 0\n"
        b"a=sendonly\n"
    )
    assert described == SessionDescription(
        address="10.0.0.1",
        port=4000,
        formats=(MediaFormat(8, "PCMA"), MediaFormat(18, "G729"), MediaFormat(101, "Telephone-Event")),
        direction="inactive",
        ptime_ms=None,
    )
    event = described.find(TELEPHONE_EVENT)
    assert event is not None
    assert event.payload_type == 101
    assert described.find("PCMU") is None


def test_what_the_stream_says_overrides_what_the_session_says() -> None:
    wire = replaced(b"t=0 0\r\n", b"t=0 0\r\na=recvonly\r\na=ptime:30\r\n")
    wire = wire.replace(b"a=ptime:20\r\n", b"a=ptime:20\r\nc=IN IP4 224.2.1.1/127/3\r\n")
    described = parse(wire)
    assert (described.direction, described.ptime_ms, described.address) == ("sendonly", 20, "224.2.1.1")


@pytest.mark.parametrize(
    ("wire", "fault"),
    [
        (b"", "v=: expected"),
        (b"v=1\r\n", "v=: expected"),
        (b"\xff", "not UTF-8 at byte 0"),
        (b"v=0\r\n", "m=: no audio stream"),
        (replaced(b"m=audio", b"m=video"), "m=: no audio stream"),
        (replaced(b"o=- 17", b"o=- x"), "o=: missing or malformed"),
        (replaced(b"c=IN IP4 127.0.0.1\r\n", b""), "c=: missing"),
        (replaced(b"c=IN IP4 127.0.0.1", b"c=IN IPX 127.0.0.1"), "c=: malformed"),
        (replaced(b"audio 40002", b"audio 70000"), "m=: port 70000"),
        (replaced(b"RTP/AVP 0 101", b"RTP/AVP"), "m=: malformed"),
        (replaced(b"RTP/AVP 0 101", b"RTP/AVP 0 x"), "m=: malformed"),
        (replaced(b"RTP/AVP 0 101", b"RTP/AVP 1011"), "m=: malformed"),
        (replaced(b"RTP/AVP", b"UDPTL"), "m=: malformed"),
        (replaced(b"a=rtpmap:101 telephone-event/8000\r\n", b""), "missing for payload type 101"),
        (replaced(b"telephone-event/8000", b"telephone-event"), "a=rtpmap: malformed"),
        (replaced(b"a=fmtp:101", b"a=fmtp:x"), "a=fmtp: malformed"),
    ],
)
def test_what_describes_no_stream_is_refused_with_the_line_at_fault(wire: bytes, fault: str) -> None:
    with pytest.raises(SdpError, match=fault):
        parse(wire)


def test_a_long_malformed_list_of_formats_is_refused_at_once() -> None:
    with limit(10), pytest.raises(SdpError, match="m=: malformed"):
        parse(replaced(b"RTP/AVP 0 101", b"RTP/AVP " + b"1" * 100 + b"x"))


@settings(max_examples=300, deadline=None)
@given(DESCRIPTIONS)
def test_what_was_written_is_read(description: SessionDescription) -> None:
    assert parse(serialize(description)) == description


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=60), st.integers(0, len(OFFER_WIRE)), st.booleans())
def test_garbage_raises_nothing_but_sdp_errors(garbage: bytes, at: int, instead: bool) -> None:
    """Alone, put into a description, and written over part of one."""
    for wire in (garbage, OFFER_WIRE[:at] + garbage + OFFER_WIRE[at + (len(garbage) if instead else 0) :]):
        try:
            parse(wire)
        except SdpError:
            continue


def test_a_description_that_was_cut_off_raises_nothing_but_sdp_errors() -> None:
    for end in range(len(OFFER_WIRE)):
        try:
            parse(OFFER_WIRE[:end])
        except SdpError:
            continue
        assert OFFER_WIRE.index(b"m=audio") < end, "nothing usable is in the session's lines alone"


def test_holding_and_answering() -> None:
    held = next_version(OFFER, "inactive")
    assert (held.direction, held.version, held.session_id) == ("inactive", 3, 17)
    assert [answer_direction(each) for each in DIRECTIONS] == ["sendrecv", "recvonly", "sendonly", "inactive"]
