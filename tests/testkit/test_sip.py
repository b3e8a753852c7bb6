from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testkit.sip import (
    SipError,
    SipMessage,
    SipRequest,
    SipResponse,
    address_of,
    new_branch,
    parameter,
    parse,
    serialize,
    uri_of,
)

INVITE = SipRequest(
    headers=(
        ("Via", "SIP/2.0/UDP 127.0.0.1:40000;branch=z9hG4bK0123;rport"),
        ("From", "<sip:5550100@127.0.0.1>;tag=ab"),
        ("To", "<sip:100@127.0.0.1>"),
        ("Call-ID", "f00"),
        ("CSeq", "1 INVITE"),
    ),
    body=b"v=0\r\n",
    method="INVITE",
    uri="sip:100@127.0.0.1:5060",
)
INVITE_WIRE = (
    b"INVITE sip:100@127.0.0.1:5060 SIP/2.0\r\n"
    b"Via: SIP/2.0/UDP 127.0.0.1:40000;branch=z9hG4bK0123;rport\r\n"
    b"From: <sip:5550100@127.0.0.1>;tag=ab\r\n"
    b"To: <sip:100@127.0.0.1>\r\n"
    b"Call-ID: f00\r\n"
    b"CSeq: 1 INVITE\r\n"
    b"Content-Length: 5\r\n"
    b"\r\n"
    b"v=0\r\n"
)
RINGING = SipResponse(headers=(("CSeq", "1 INVITE"),), body=b"", status=180, reason="Ringing")
RINGING_WIRE = b"SIP/2.0 180 Ringing\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n"

TOKENS = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-.!%*_+`'~", min_size=1, max_size=20)
# Names of one letter are short for others, and the length belongs to the wire.
NAMES = TOKENS.filter(lambda name: len(name) > 1 and name.lower() != "content-length")
LINES = st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]), max_size=40)
VALUES = LINES.map(lambda text: text.strip(" \t"))
HEADERS = st.lists(st.tuples(NAMES, VALUES), max_size=6).map(tuple)
URIS = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=40)
MESSAGES: st.SearchStrategy[SipMessage] = st.one_of(
    st.builds(SipRequest, headers=HEADERS, body=st.binary(max_size=60), method=TOKENS, uri=URIS),
    st.builds(SipResponse, headers=HEADERS, body=st.binary(max_size=60), status=st.integers(100, 699), reason=LINES),
)


@pytest.mark.parametrize(("message", "wire"), [(INVITE, INVITE_WIRE), (RINGING, RINGING_WIRE)])
def test_messages_on_the_wire(message: SipMessage, wire: bytes) -> None:
    assert serialize(message) == wire
    assert parse(wire) == message


def test_what_asterisk_may_write_differently() -> None:
    """Compact names, folded lines, blanks around the colon, no length, bytes after the body."""
    message = parse(
        b"SIP/2.0 200 OK\r\n"
        b"v : SIP/2.0/UDP 10.0.0.1;received=10.0.0.2\r\n"
        b" ;branch=z9hG4bKfolded\r\n"
        b"i:f00\r\n"
        b"cseq: 7 \t BYE\r\n"
        b"l: 2\r\n"
        b"\r\n"
        b"okay"
    )
    assert isinstance(message, SipResponse)
    assert message.branch == "z9hG4bKfolded"
    assert message.header("CALL-ID") == "f00"
    assert message.cseq == (7, "BYE")
    assert message.body == b"ok"
    assert parse(b"SIP/2.0 200 OK\r\n\r\neverything").body == b"everything"
    assert parse(b"SIP/2.0 200\r\n\r\n") == SipResponse((), b"", 200, "")


def test_headers_that_occur_twice_are_kept_in_order() -> None:
    message = parse(b"SIP/2.0 200 OK\r\nVia: a;branch=1, b;branch=2\r\nvia: c;branch=3\r\n\r\n")
    assert message.all("Via") == (("Via", "a;branch=1, b;branch=2"), ("via", "c;branch=3"))
    assert message.branch == "1"
    assert message.header("Contact") is None


@pytest.mark.parametrize(
    ("wire", "fault"),
    [
        (b"", "no empty line"),
        (b"SIP/2.0 200 OK\r\nCSeq: 1 INVITE\r\n", "no empty line"),
        (b"\r\n\r\n", "first line"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "first line"),
        (b"SIP/2.0 700 Strange\r\n\r\n", "first line"),
        (b"SIP/2.0 99 Strange\r\n\r\n", "first line"),
        (b"SIP/2.0 2000 Strange\r\n\r\n", "first line"),
        (b"INVITE sip:1@h SIP/3.0\r\n\r\n", "first line"),
        (b"INVITE sip:1 @h SIP/2.0\r\n\r\n", "first line"),
        (b"SIP/2.0 200 \xff\r\n\r\n", "not UTF-8 at byte 12"),
        (b"SIP/2.0 200 OK\r\nno colon\r\n\r\n", "header: malformed"),
        (b"SIP/2.0 200 OK\r\nna me: 1\r\n\r\n", "header: malformed"),
        (b"SIP/2.0 200 OK\r\n folded: 1\r\n\r\n", "header: malformed"),
        (b"SIP/2.0 200 OK\r\nContent-Length: -1\r\n\r\n", "Content-Length: malformed"),
        (b"SIP/2.0 200 OK\r\nContent-Length: 4\r\n\r\nabc", "body: 3 of 4 bytes"),
    ],
)
def test_what_is_no_message_is_refused_with_the_field_at_fault(wire: bytes, fault: str) -> None:
    with pytest.raises(SipError, match=fault):
        parse(wire)


@pytest.mark.parametrize(
    "message",
    [
        SipRequest((), b"", "IN VITE", "sip:1@h"),
        SipRequest((), b"", "INVITE", "sip:1@h\r\nX: 1"),
        SipRequest((), b"", "", "sip:1@h"),
        SipResponse((), b"", 200, "OK\r\nX: 1"),
        SipResponse((), b"", 99, "OK"),
        SipResponse((), b"", 2000, "OK"),
        SipResponse((("X", "1\r\nY: 2"),), b"", 200, "OK"),
        SipResponse((("X: 1\r\nY", "2"),), b"", 200, "OK"),
        SipResponse((("X", " 1"),), b"", 200, "OK"),
        SipResponse((("X", "1\0"),), b"", 200, "OK"),
    ],
)
def test_what_would_break_out_of_its_field_is_not_written(message: SipMessage) -> None:
    with pytest.raises(SipError, match="cannot be written"):
        serialize(message)


@settings(max_examples=300, deadline=None)
@given(MESSAGES)
def test_what_was_written_is_read(message: SipMessage) -> None:
    assert parse(serialize(message)) == message


@pytest.mark.parametrize("wire", [INVITE_WIRE, RINGING_WIRE])
def test_a_message_that_was_cut_off_is_refused(wire: bytes) -> None:
    for end in range(len(wire)):
        with pytest.raises(SipError):
            parse(wire[:end])


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([b"", INVITE_WIRE, RINGING_WIRE]), st.data())
def test_garbage_raises_nothing_but_sip_errors(garbage: bytes, wire: bytes, data: st.DataObject) -> None:
    """Alone, and written over part of a message; what can be read can be asked about."""
    at = data.draw(st.integers(0, len(wire)))
    try:
        message = parse(wire[:at] + garbage + wire[at + len(garbage) :])
    except SipError:
        return
    for ask in (lambda: message.cseq, lambda: message.branch, lambda: uri_of(message.require("From"))):
        try:
            ask()
        except SipError:
            continue


@pytest.mark.parametrize("cseq", ["", "INVITE", "x INVITE", "1", "12345678901 INVITE", "1 IN VITE"])
def test_a_malformed_cseq_is_refused(cseq: str) -> None:
    message = SipResponse((("CSeq", cseq),), b"", 200, "OK")
    with pytest.raises(SipError, match="CSeq"):
        _ = message.cseq


@pytest.mark.parametrize("headers", [(), (("Via", "SIP/2.0/UDP h"),), (("Via", "SIP/2.0/UDP h, x;branch=1"),)])
def test_a_transaction_without_an_id_is_refused(headers: tuple[tuple[str, str], ...]) -> None:
    with pytest.raises(SipError, match="Via"):
        _ = SipResponse(headers, b"", 200, "OK").branch


def test_parameters_are_looked_for_behind_the_address() -> None:
    value = '"a;tag=no" <sip:1@h;tag=neither> ; Tag = yes;x=1'
    assert parameter(value, "tag") == "yes"
    assert parameter(value, "ag") is None
    assert parameter("<sip:1@h;lr>", "lr") is None


@pytest.mark.parametrize(
    ("value", "uri", "address"),
    [
        (
            "<sip:600@127.0.0.1:5070;transport=udp>;expires=5",
            "sip:600@127.0.0.1:5070;transport=udp",
            ("127.0.0.1", 5070),
        ),
        ('"Ann" <sips:h>', "sips:h", ("h", 5060)),
        ("sip:a@h;tag=1", "sip:a@h", ("h", 5060)),
        ("<sip:a@[::1]:7>", "sip:a@[::1]:7", ("::1", 7)),
    ],
)
def test_addresses(value: str, uri: str, address: tuple[str, int]) -> None:
    assert uri_of(value) == uri
    assert address_of(uri) == address


@pytest.mark.parametrize("value", ["", "tel:123", "<>", "sip:", "<http://h>"])
def test_what_is_no_sip_uri_is_refused(value: str) -> None:
    with pytest.raises(SipError, match="URI"):
        uri_of(value)
    with pytest.raises(SipError, match="URI"):
        address_of(value)


def test_every_transaction_has_an_id_of_its_own() -> None:
    branches = {new_branch() for _ in range(1000)}
    assert len(branches) == 1000
    assert all(branch.startswith("z9hG4bK") for branch in branches)
