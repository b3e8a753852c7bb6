"""The texts between chan_websocket and an application, byte by byte."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from transport import websocket_codec as codec
from transport.websocket_codec import (
    CommandRefused,
    ControlEvent,
    DigitEnded,
    MarkProcessed,
    MediaStarted,
    QueueFilled,
    QueueRelieved,
    UnknownEvent,
    Unreadable,
    mark_media,
    parse_event,
)

EVENTS: list[tuple[bytes, ControlEvent]] = [
    (
        b'{"event":"MEDIA_START","connection_id":"media1","channel":"WebSocket/media1/0x7fa6b00027d0",'
        b'"channel_id":"1795175795.119","format":"ulaw","optimal_frame_size":160,"ptime":20,"channel_variables":'
        b'{"MEDIA_WEBSOCKET_CONNECTION_ID":"media1","MEDIA_WEBSOCKET_OPTIMAL_FRAME_SIZE":"160"}}',
        MediaStarted("ulaw", 160),
    ),
    (b'{"event":"MEDIA_START","format":"opus","optimal_frame_size":0}', MediaStarted("opus", 0)),
    (b'{"event":"MEDIA_MARK_PROCESSED","channel_id":"1.2","correlation_id":"end"}', MarkProcessed("end")),
    (b'{"event":"MEDIA_XOFF","channel_id":"1.2"}', QueueFilled()),
    (b'{"event":"MEDIA_XON","channel_id":"1.2"}', QueueRelieved()),
    (b'{"event":"DTMF_END","channel_id":"1.2","digit":"#"}', DigitEnded("#")),
    (
        b'{"event":"ERROR","channel_id":"1.2","error_text":"Unable to parse JSON command"}',
        CommandRefused("Unable to parse JSON command"),
    ),
    (b'{"event":"QUEUE_DRAINED","channel_id":"1.2"}', UnknownEvent("QUEUE_DRAINED")),
    (b' {"event" : "MEDIA_XON"}\n', QueueRelieved()),
]


@pytest.mark.parametrize(("text", "event"), EVENTS)
def test_events(text: bytes, event: ControlEvent) -> None:
    assert parse_event(text) == event
    assert parse_event(bytearray(text)) == event
    assert parse_event(memoryview(text)) == event


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b"", "not JSON"),
        (b"MEDIA_START connection_id:media1 format:ulaw", "not JSON"),
        (b'{"event":"MEDIA_XON"', "not JSON"),
        (b'{"event":"\xff"}', "not JSON"),
        (b"[" * 10_000, "not JSON"),
        (b"[]", "not a JSON object"),
        (b'"MEDIA_XON"', "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"{}", "event: not a text"),
        (b'{"event":7}', "event: not a text"),
        (b'{"event":"MEDIA_START","optimal_frame_size":160}', "format: not a text"),
        (b'{"event":"MEDIA_START","format":"ulaw"}', "optimal_frame_size: not a count"),
        (b'{"event":"MEDIA_START","format":"ulaw","optimal_frame_size":"160"}', "optimal_frame_size: not a count"),
        (b'{"event":"MEDIA_START","format":"ulaw","optimal_frame_size":-1}', "optimal_frame_size: not a count"),
        (b'{"event":"MEDIA_START","format":"ulaw","optimal_frame_size":true}', "optimal_frame_size: not a count"),
        (b'{"event":"MEDIA_MARK_PROCESSED","correlation_id":7}', "correlation_id: not a text"),
        (b'{"event":"DTMF_END","digit":""}', "digit: ''"),
        (b'{"event":"DTMF_END","digit":"12"}', "digit: '12'"),
        (b'{"event":"ERROR"}', "error_text: not a text"),
        (b" " * 16_385, "16385 bytes, expected at most 16384"),
    ],
)
def test_texts_that_are_no_events(text: bytes, fault: str) -> None:
    assert parse_event(text) == Unreadable(fault)


@given(st.binary(max_size=300))
def test_garbage_never_raises(text: bytes) -> None:
    assert isinstance(parse_event(text), ControlEvent)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
NAMES = st.sampled_from(
    ["MEDIA_START", "MEDIA_MARK_PROCESSED", "MEDIA_XOFF", "MEDIA_XON", "DTMF_END", "ERROR", "STATUS"]
)
FIELDS = st.sampled_from(["format", "optimal_frame_size", "correlation_id", "digit", "error_text"])


@given(NAMES | JSON, st.dictionaries(FIELDS, JSON))
@example("DTMF_END", {"digit": "\ud800"})
def test_events_with_odd_fields_never_raise(name: Any, fields: dict[str, Any]) -> None:
    text = json.dumps({"event": name, **fields}).encode()
    assert isinstance(parse_event(text), ControlEvent)


@given(st.sampled_from([text for text, _ in EVENTS]), st.data())
def test_damaged_events_never_raise(text: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(text) - 1))
    damaged = text[:at] + data.draw(st.binary(max_size=2)) + text[at + data.draw(st.integers(0, 3)) :]
    assert isinstance(parse_event(damaged), ControlEvent)


def test_commands_are_compact_json() -> None:
    assert codec.FLUSH_MEDIA == b'{"command":"FLUSH_MEDIA"}'
    assert codec.PAUSE_MEDIA == b'{"command":"PAUSE_MEDIA"}'
    assert codec.CONTINUE_MEDIA == b'{"command":"CONTINUE_MEDIA"}'
    assert mark_media("17") == b'{"command":"MARK_MEDIA","correlation_id":"17"}'
    assert mark_media('"') == b'{"command":"MARK_MEDIA","correlation_id":"\\""}'


def test_a_mark_takes_what_asterisk_reads() -> None:
    longest = "x" * (codec.MAX_COMMAND_BYTES - len(mark_media("")))
    assert len(mark_media(longest)) == 128
    with pytest.raises(ValueError, match="129 bytes"):
        mark_media(longest + "x")
