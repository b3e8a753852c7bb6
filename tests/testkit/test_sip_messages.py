"""SIP messages, byte by byte."""

from __future__ import annotations

import string
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testkit import sip
from testkit.sip import SipError, SipRequest, SipResponse

RESPONSE = (
    b"SIP/2.0 200 OK\r\n"
    b"v: SIP/2.0/UDP 127.0.0.1:40000;rport=40000;branch=z9hG4bKabc\r\n"
    b'f: "Ann" <sip:ann@127.0.0.1>;tag=one\r\n'
    b"t: <sip:600@127.0.0.1>;tag=two\r\n"
    b"i: call-1\r\n"
    b"CSeq: 7 INVITE\r\n"
    b"m: <sip:600@127.0.0.1:5099;transport=udp>\r\n"
    b"Subject: folded\r\n  over two lines\r\n"
    b"l: 4\r\n"
    b"\r\n"
    b"v=0\n"
)

TOKENS = st.text(string.ascii_letters + string.digits + "-.!%*_+`'~", min_size=1, max_size=20)
# Names that parsing leaves as they are: not the compact ones, which are expanded, nor the one it consumes.
NAMES = TOKENS.filter(lambda name: len(name) > 1 and name.lower() != "content-length")
VALUES = st.text(st.characters(exclude_categories=("Cs", "Cc"))).map(lambda text: text.strip(" \t"))
HEADERS = st.lists(st.tuples(NAMES, VALUES), max_size=8).map(tuple)
REQUESTS = st.builds(
    SipRequest,
    headers=HEADERS,
    body=st.binary(max_size=200),
    method=TOKENS,
    uri=TOKENS.map(lambda user: f"sip:{user}@127.0.0.1:5060"),
)
RESPONSES = st.builds(
    SipResponse, headers=HEADERS, body=st.binary(max_size=200), status=st.integers(100, 699), reason=VALUES
)


def test_compact_names_are_expanded_and_folded_lines_joined() -> None:
    message = sip.parse(RESPONSE)
    assert isinstance(message, SipResponse)
    assert (message.status, message.reason, message.body) == (200, "OK", b"v=0\n")
    assert message.header("call-id") == "call-1"
    assert message.header("Subject") == "folded over two lines"
    assert message.header("Content-Length") is None
    assert message.cseq == (7, "INVITE")
    assert message.branch == "z9hG4bKabc"
    assert sip.uri_of(message.require("Contact")) == "sip:600@127.0.0.1:5099;transport=udp"
    assert sip.address_of("sip:600@127.0.0.1:5099;transport=udp") == ("127.0.0.1", 5099)
    assert sip.address_of("sip:example.org") == ("example.org", 5060)
    assert sip.parameter(message.require("To"), "tag") == "two"


def test_a_tag_within_the_uri_is_not_that_of_the_header() -> None:
    assert sip.parameter("<sip:600@127.0.0.1;tag=inner>", "tag") is None


def test_several_headers_of_one_name_keep_their_order() -> None:
    message = sip.parse(b"BYE sip:a@b SIP/2.0\r\nVia: first\r\nv: second\r\n\r\n")
    assert message.all("via") == (("Via", "first"), ("Via", "second"))


@given(REQUESTS | RESPONSES)
def test_what_is_written_is_read_back(message: SipRequest | SipResponse) -> None:
    assert sip.parse(sip.serialize(message)) == message


@pytest.mark.parametrize("length", range(len(RESPONSE)))
def test_a_message_cut_short_is_a_clear_error(length: int) -> None:
    with pytest.raises(SipError, match=r"headers: no empty line|body: \d of 4 bytes"):
        sip.parse(RESPONSE[:length])


@given(st.binary(max_size=300) | st.binary(max_size=60).map(lambda noise: RESPONSE[:40] + noise + RESPONSE[40:]))
def test_nothing_but_a_sip_error_comes_of_garbage(datagram: bytes) -> None:
    with suppress(SipError):
        message = sip.parse(datagram)
        _ = message.cseq, message.branch


@pytest.mark.parametrize(
    ("datagram", "field"),
    [
        (b"HELLO\r\n\r\n", "first line"),
        (b"BYE sip:a@b SIP/1.0\r\n\r\n", "first line"),
        (b"BYE sip:a@b SIP/2.0\r\nno colon\r\n\r\n", "header"),
        (b"BYE sip:a@b SIP/2.0\r\nContent-Length: -1\r\n\r\n", "Content-Length"),
        (b"BYE sip:a@b SIP/2.0\r\nSubject: \xff\r\n\r\n", "UTF-8"),
    ],
)
def test_errors_name_the_field(datagram: bytes, field: str) -> None:
    with pytest.raises(SipError, match=field):
        sip.parse(datagram)


@pytest.mark.parametrize(("cseq", "text"), [("INVITE", "malformed"), ("7", "malformed"), (None, "missing")])
def test_a_bad_cseq_is_a_clear_error(cseq: str | None, text: str) -> None:
    headers = (("CSeq", cseq),) if cseq is not None else ()
    with pytest.raises(SipError, match=f"CSeq: .*{text}"):
        _ = SipRequest(headers, b"", "BYE", "sip:a@b").cseq


@pytest.mark.parametrize(
    "header", [("X-AI-Greeting", "hello\r\nBYE: now"), ("X-AI-Greeting", " padded"), ("bad name", "x")]
)
def test_no_header_breaks_out_of_its_line(header: tuple[str, str]) -> None:
    with pytest.raises(SipError, match="cannot be written"):
        sip.serialize(SipRequest((header,), b"", "INVITE", "sip:a@b"))
