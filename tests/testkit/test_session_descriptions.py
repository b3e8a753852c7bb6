"""SDP, byte by byte."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testkit import sdp
from testkit.sdp import Direction, MediaFormat, SdpError, SessionDescription

# As Asterisk 22 answers, with a second stream and a session-wide direction laid over it.
ANSWER = (
    b"v=0\r\n"
    b"o=- 1 3 IN IP4 127.0.0.1\r\n"
    b"s=Asterisk\r\n"
    b"c=IN IP4 127.0.0.1\r\n"
    b"t=0 0\r\n"
    b"a=inactive\r\n"
    b"m=video 0 RTP/AVP 96\r\n"
    b"m=audio 10018 RTP/AVP 0 8 101\r\n"
    b"a=rtpmap:0 PCMU/8000\r\n"
    b"a=rtpmap:101 telephone-event/8000\r\n"
    b"a=fmtp:101 0-16\r\n"
    b"a=ptime:20\r\n"
    b"a=maxptime:150\r\n"
    b"a=sendonly\r\n"
)

NAMES = st.from_regex(r"[A-Za-z0-9\-]{1,20}", fullmatch=True)
FORMATS = st.lists(
    st.builds(
        MediaFormat,
        st.integers(0, 127),
        NAMES,
        st.integers(1, 192_000),
        st.none() | st.from_regex(r"[a-z0-9=;\-]{1,20}", fullmatch=True),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda each: each.payload_type,
)
DESCRIPTIONS = st.builds(
    SessionDescription,
    address=st.ip_addresses(v=4).map(str),
    port=st.integers(0, 65535),
    formats=FORMATS.map(tuple),
    direction=st.sampled_from(("sendrecv", "sendonly", "recvonly", "inactive")),
    session_id=st.integers(0, 2**63),
    version=st.integers(0, 2**63),
    ptime_ms=st.none() | st.integers(1, 200),
)


def test_the_first_audio_stream_is_taken() -> None:
    description = sdp.parse(ANSWER)
    assert (description.address, description.port, description.direction) == ("127.0.0.1", 10018, "sendonly")
    assert [each.payload_type for each in description.formats] == [0, 8, 101]
    assert description.find("pcma") == MediaFormat(8, "PCMA"), "static types need no rtpmap"
    assert description.find("TELEPHONE-EVENT") == MediaFormat(101, "telephone-event", 8000, "0-16")
    assert description.find("opus") is None
    assert description.ptime_ms == 20


@given(DESCRIPTIONS)
def test_what_is_written_is_read_back(description: SessionDescription) -> None:
    assert sdp.parse(sdp.serialize(description)) == description


@pytest.mark.parametrize(
    ("offered", "answered"),
    [("sendrecv", "sendrecv"), ("sendonly", "recvonly"), ("recvonly", "sendonly"), ("inactive", "inactive")],
)
def test_an_answer_mirrors_the_offer(offered: Direction, answered: Direction) -> None:
    assert sdp.answer_direction(offered) == answered


@given(st.integers(0, len(ANSWER)))
def test_a_description_cut_short_is_read_or_refused(length: int) -> None:
    with suppress(SdpError):
        sdp.parse(ANSWER[:length])


@given(st.binary(max_size=200) | st.binary(max_size=40).map(lambda noise: ANSWER[:150] + noise + ANSWER[150:]))
def test_nothing_but_an_sdp_error_comes_of_garbage(body: bytes) -> None:
    with suppress(SdpError):
        sdp.parse(body)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (b"v=0", b"v=1", "v="),
        (b"o=-", b"o=", "o="),
        (b"c=IN IP4 127.0.0.1\r\n", b"", "c="),
        (b"m=audio", b"m=sound", "m="),
        (b"10018", b"70000", "m="),
        (b"PCMU/8000", b"PCMU", "a=rtpmap"),
        (b"a=rtpmap:101 telephone-event/8000\r\n", b"", "a=rtpmap: missing for payload type 101"),
        (b"a=fmtp:101", b"a=fmtp:x", "a=fmtp"),
    ],
)
def test_errors_name_the_line(old: bytes, new: bytes, line: str) -> None:
    with pytest.raises(SdpError, match=line):
        sdp.parse(ANSWER.replace(old, new))
