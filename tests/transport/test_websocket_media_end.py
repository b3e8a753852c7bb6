"""A media port over chan_websocket: what Asterisk should not send, and how it ends."""

from __future__ import annotations

import asyncio

import pytest
from websocket_media_support import (
    BINARY,
    CLOSE,
    FRAME,
    MEDIA_START,
    PING,
    PONG,
    TEXT,
    Diary,
    Guests,
    Message,
    counted,
    frame,
    text,
)

from audio.formats import SLIN_8K
from testkit.waiting import wait_until
from transport.media import Connected

pytestmark = pytest.mark.usefixtures("no_traceback")

# --- what Asterisk should not send


async def test_what_is_not_understood_is_counted_and_disturbs_nothing(guests: Guests) -> None:
    diary, peer = await guests.live_call()
    for message in (b"", b"MEDIA_XOFF", b"{}", b'{"event":"FUTURE"}', b"x" * 20_000, text(**MEDIA_START)):
        peer.send(TEXT, message)
    peer.say(event="ERROR", error_text="what?")
    peer.send(PONG, b"unasked")
    peer.send(BINARY, FRAME)
    await wait_until(lambda: diary.heard == [FRAME])
    assert counted(guests.transport) == {"connections": 1, "texts_ignored": 6, "commands_refused": 1}
    assert diary.events == [Connected()] and diary.port.writable


async def test_sound_of_half_a_sample_is_ignored(guests: Guests) -> None:
    diary = Diary(guests.transport, SLIN_8K)
    peer = await guests.connect(guests.hello(diary))
    await peer.head()
    peer.say(**MEDIA_START | {"format": "slin", "optimal_frame_size": 320})
    for size in (319, 1, 320, 640):
        peer.send(BINARY, bytes(size))
    await wait_until(lambda: len(diary.heard) == 2)
    assert [len(sound) for sound in diary.heard] == [320, 640]
    assert counted(guests.transport) == {"connections": 1, "audio_ignored": 2}


@pytest.mark.parametrize(
    ("wire", "fault"),
    [
        (frame(BINARY, FRAME, fin=False), "in fragments"),
        (frame(TEXT, b"{", fin=False), "in fragments"),
        (frame(0x0, FRAME), "continuation"),
        (frame(BINARY, FRAME, mask=None), "masking"),
        (frame(0x3), "opcode"),
        (frame(PING, bytes(126)), "too long"),
        (b"\xc2\x80\x00\x00\x00\x00", "reserved bits"),
        (frame(CLOSE, b"\x03"), "too short"),
    ],
)
async def test_what_breaks_the_protocol_ends_that_call_alone(guests: Guests, wire: bytes, fault: str) -> None:
    other, other_peer = await guests.live_call()
    diary, peer = await guests.live_call()
    peer.writer.write(wire)
    reason = await diary.ended()
    assert reason.startswith("protocol error: ") and fault in reason
    assert (await peer.receive()).opcode == CLOSE
    await peer.rest()
    assert counted(guests.transport) == {"connections": 2, "protocol_errors": 1}
    other_peer.send(BINARY, FRAME)
    await wait_until(lambda: other.heard == [FRAME])
    diary.port.send(FRAME)
    assert diary.port.frames_dropped == 1


async def test_a_message_beyond_all_measure_ends_it(guests: Guests) -> None:
    diary, peer = await guests.live_call()
    peer.send(BINARY, bytes(65_537))
    assert "65537 bytes" in await diary.ended()
    await peer.rest()
    assert counted(guests.transport) == {"connections": 1, "protocol_errors": 1}


# --- the end


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"\x03\xe8", "Asterisk closed the connection"),
        (b"", "Asterisk closed the connection: 1005 (no status received [internal])"),
        (b"\x03\xf3oh", "Asterisk closed the connection: 1011 (internal error) oh"),
    ],
)
async def test_asterisk_closes(guests: Guests, payload: bytes, reason: str) -> None:
    diary, peer = await guests.live_call()
    peer.writer.write(frame(BINARY, FRAME) + frame(CLOSE, payload) + frame(BINARY, FRAME))
    assert await diary.ended() == reason
    assert diary.heard == [FRAME]
    assert await peer.receive() == Message(CLOSE, payload)
    assert await peer.rest() == b""


async def test_the_connection_breaks(guests: Guests) -> None:
    for end in ("reset", "eof"):
        diary, peer = await guests.live_call()
        if end == "reset":
            peer.reset()
        else:
            peer.writer.write_eof()
        reason = await diary.ended()
        assert reason.startswith("connection lost") or reason == "Asterisk cut the connection"


async def test_sending_from_within_the_last_messages_is_harmless(guests: Guests) -> None:
    diary, peer = await guests.live_call()
    diary.port.on_audio = lambda _: (diary.port.send(FRAME), diary.port.mark(1), diary.port.flush())
    peer.writer.write(frame(BINARY, FRAME) + frame(CLOSE, b"\x03\xe8"))
    assert await diary.ended() == "Asterisk closed the connection"
    assert diary.port.frames_dropped == 1


async def test_a_close_of_our_own_is_immediate_final_and_not_reported(guests: Guests) -> None:
    diary, peer = await guests.live_call()
    diary.port.mark(1)
    correlation_id = await peer.marked()
    peer.send(BINARY, FRAME)
    peer.say(event="MEDIA_MARK_PROCESSED", correlation_id=correlation_id)
    diary.port.close()
    diary.port.close()
    for act in (diary.port.flush, diary.port.pause, diary.port.resume):
        act()
    diary.port.send(FRAME)
    assert await peer.receive() == Message(CLOSE, b"\x03\xe8")
    assert await peer.rest() == b""
    assert (diary.events, diary.marked, diary.heard) == ([Connected()], [], [])
    assert diary.port.frames_dropped == 1 and not diary.port.writable


async def test_the_transport_closes_with_calls_and_strangers(guests: Guests) -> None:
    diary, _ = await guests.live_call()
    waiting = Diary(guests.transport)
    stranger = await guests.connect(b"GET /")
    await wait_until(lambda: guests.transport.counters["connections"] == 2)
    await asyncio.wait_for(guests.transport.close(), 5)
    assert await stranger.rest() == b""
    assert (diary.events, waiting.events) == ([Connected()], [])
    assert len(asyncio.all_tasks()) == 1


async def test_a_call_ends_itself_from_within(guests: Guests) -> None:
    diary, peer = await guests.live_call()
    diary.port.on_event = lambda _: diary.port.close()
    peer.writer.write(frame(TEXT, text(event="DTMF_END", digit="1")) + frame(BINARY, FRAME) + frame(TEXT, b"?"))
    assert await peer.receive() == Message(CLOSE, b"\x03\xe8")
    assert diary.heard == []
    assert counted(guests.transport) == {"connections": 1}
