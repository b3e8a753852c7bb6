"""A media port over chan_websocket, with an Asterisk played by hand."""

from __future__ import annotations

import asyncio
from uuid import uuid4

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

from audio.formats import ALAW_8K, SLIN_8K, SLIN_16K, SLIN_24K, ULAW_8K, AudioFormat
from testkit.waiting import wait_until
from transport.media import Connected, DtmfReceived, ExternalMedia, Requirement
from transport.websocket_client import WebSocketClientTransport
from transport.websocket_server import WebSocketServerTransport

pytestmark = pytest.mark.usefixtures("no_traceback")


# --- what Asterisk is asked


@pytest.mark.parametrize(
    ("audio_format", "name"),
    [(ULAW_8K, "ulaw"), (ALAW_8K, "alaw"), (SLIN_8K, "slin"), (SLIN_16K, "slin16"), (SLIN_24K, "slin24")],
)
def test_external_media_and_requirement(audio_format: AudioFormat, name: str) -> None:
    server, client = WebSocketServerTransport("media1"), WebSocketClientTransport("ws://pbx:8088")
    media_id = uuid4()
    assert server.open_port(media_id, audio_format).external_media() == ExternalMedia(
        format=name,
        encapsulation="none",
        transport="websocket",
        external_host="media1",
        transport_data=f"f(json)v(call={media_id})",
    )
    assert client.open_port(media_id, audio_format).external_media() == ExternalMedia(
        format=name,
        encapsulation="none",
        transport="websocket",
        connection_type="server",
        transport_data="f(json)",
    )
    assert server.requirement(audio_format) == Requirement(("chan_websocket.so", "res_websocket_client.so"), (22, 8))
    assert client.requirement(audio_format) == Requirement(("chan_websocket.so", "res_http_websocket.so"), (22, 8))
    assert server.formats == client.formats == (ULAW_8K, ALAW_8K, SLIN_8K, SLIN_16K, SLIN_24K)


# --- a call


async def test_sound_both_ways_bit_for_bit(guests: Guests) -> None:
    diary, peer = await guests.live_call()
    frames = [bytes([number]) * 160 for number in range(100)]
    for sound in frames:
        peer.send(BINARY, sound)
        diary.port.send(sound)
    assert [await peer.receive() for _ in frames] == [Message(BINARY, sound) for sound in frames]
    await wait_until(lambda: len(diary.heard) == 100)
    assert diary.heard == frames
    assert all(type(sound) is bytes for sound in diary.heard)
    assert (diary.port.frames_received, diary.port.frames_sent, diary.port.frames_dropped) == (100, 100, 0)
    assert counted(guests.transport) == {"connections": 1}


async def test_everything_in_one_packet_and_in_single_bytes(guests: Guests) -> None:
    stream = (
        frame(TEXT, text(**MEDIA_START))
        + frame(BINARY, FRAME)
        + frame(PING, b"there?")
        + frame(TEXT, text(event="DTMF_END", digit="#"))
        + frame(BINARY, b"\1")
    )
    at_once, dripping = Diary(guests.transport), Diary(guests.transport)
    await guests.connect(guests.hello(at_once) + stream)
    peer = await guests.connect()
    for byte in guests.hello(dripping) + stream:
        peer.writer.write(bytes([byte]))
        await peer.writer.drain()
        await asyncio.sleep(0)
    for diary in (at_once, dripping):
        await wait_until(lambda diary=diary: len(diary.heard) == 2)
        assert diary.heard == [FRAME, b"\1"]
        assert diary.events == [Connected(), DtmfReceived("#")]
    await peer.head()
    assert await peer.receive() == Message(PONG, b"there?")


async def test_sound_is_split_into_whole_messages_of_at_most_a_second(guests: Guests) -> None:
    diary, peer = await guests.live_call()
    sound = bytes(number % 251 for number in range(160 * 120))
    diary.port.send(sound + b"a part of a frame")
    messages = [await peer.receive() for _ in range(3)]
    assert [len(message.payload) for message in messages] == [8000, 8000, 3200]
    assert all(message.fin and message.opcode == BINARY for message in messages)
    assert b"".join(message.payload for message in messages) == sound
    assert (diary.port.frames_sent, diary.port.frames_dropped) == (120, 1)


async def test_the_longest_message_of_the_widest_format_is_one_that_asterisk_takes(guests: Guests) -> None:
    diary = Diary(guests.transport, SLIN_24K)
    peer = await guests.connect(guests.hello(diary))
    await peer.head()
    peer.say(**MEDIA_START | {"format": "slin24", "optimal_frame_size": 960})
    await diary.connected()
    diary.port.send(bytes(960 * 51))
    assert [len((await peer.receive()).payload) for _ in range(2)] == [48_000, 960]


async def test_nothing_is_live_before_media_start(guests: Guests) -> None:
    diary = Diary(guests.transport)
    diary.port.send(FRAME)
    peer = await guests.connect(guests.hello(diary))
    await peer.head()
    peer.send(BINARY, FRAME)
    await wait_until(lambda: counted(guests.transport) == {"connections": 1, "audio_ignored": 1})
    assert diary.events == [] and diary.heard == [] and not diary.port.writable
    for act in (diary.port.flush, diary.port.pause, diary.port.resume):
        act()
    diary.port.mark(1)
    diary.port.send(FRAME * 3)
    peer.say(**MEDIA_START)
    await diary.connected()
    assert diary.port.writable
    diary.port.send(FRAME)
    # Nothing of what came too early.
    assert await peer.receive() == Message(BINARY, FRAME)
    assert (diary.port.frames_sent, diary.port.frames_dropped) == (1, 4)


@pytest.mark.parametrize(("audio_format", "frame_bytes"), [("alaw", 160), ("ulaw", 80), ("opus", 0)])
async def test_another_format_than_asked_for_ends_it(guests: Guests, audio_format: str, frame_bytes: int) -> None:
    diary = Diary(guests.transport)
    peer = await guests.connect(guests.hello(diary))
    await peer.head()
    peer.say(**MEDIA_START | {"format": audio_format, "optimal_frame_size": frame_bytes})
    reason = f"{audio_format} in frames of {frame_bytes} bytes instead of ulaw of 160"
    assert await diary.ended() == f"protocol error: {reason}"
    assert len(diary.events) == 1
    assert (await peer.receive()).opcode == CLOSE
    assert counted(guests.transport) == {"connections": 1, "protocol_errors": 1}


# --- the queue of the peer


async def test_commands_byte_for_byte(guests: Guests) -> None:
    diary, peer = await guests.live_call()
    port = diary.port
    port.pause()
    port.resume()
    port.flush()
    port.mark(5)
    assert [(await peer.receive()).payload for _ in range(4)] == [
        b'{"command":"PAUSE_MEDIA"}',
        b'{"command":"CONTINUE_MEDIA"}',
        b'{"command":"FLUSH_MEDIA"}',
        b'{"command":"MARK_MEDIA","correlation_id":"0"}',
    ]


async def test_a_flush_while_paused_goes_on(guests: Guests) -> None:
    diary, peer = await guests.live_call()
    diary.port.pause()
    diary.port.flush()
    diary.port.flush()
    commands = [(await peer.command())["command"] for _ in range(4)]
    assert commands == ["PAUSE_MEDIA", "FLUSH_MEDIA", "CONTINUE_MEDIA", "FLUSH_MEDIA"]


async def test_marks_are_reported_in_order_and_once(guests: Guests) -> None:
    diary, peer = await guests.live_call()
    for number in (7, 8, 7):
        diary.port.send(FRAME)
        diary.port.mark(number)
    ids = []
    for _ in range(3):
        assert await peer.receive() == Message(BINARY, FRAME)
        ids.append(await peer.marked())
    assert len(set(ids)) == 3
    for correlation_id in (*ids, *ids, "never made"):
        peer.say(event="MEDIA_MARK_PROCESSED", correlation_id=correlation_id)
    peer.say(event="DTMF_END", digit="1")
    await wait_until(lambda: diary.events[-1] == DtmfReceived("1"))
    assert diary.marked == [7, 8, 7]


async def test_a_mark_that_crosses_a_flush_is_not_reported(guests: Guests) -> None:
    diary, peer = await guests.live_call()
    diary.port.mark(1)
    before = await peer.marked()
    diary.port.flush()
    diary.port.mark(1)
    assert await peer.command() == {"command": "FLUSH_MEDIA"}
    after = await peer.marked()
    peer.say(event="MEDIA_MARK_PROCESSED", correlation_id=before)
    peer.say(event="DTMF_END", digit="1")
    await wait_until(lambda: diary.events[-1] == DtmfReceived("1"))
    assert diary.marked == []
    peer.say(event="MEDIA_MARK_PROCESSED", correlation_id=after)
    await diary.mark(1)


async def test_a_full_queue_takes_nothing_until_it_is_relieved_or_flushed(guests: Guests) -> None:
    diary, peer = await guests.live_call()
    port = diary.port
    peer.say(event="MEDIA_XOFF")
    await wait_until(lambda: not port.writable)
    port.send(FRAME * 10)
    assert (port.frames_sent, port.frames_dropped) == (0, 10)
    peer.say(event="MEDIA_XON")
    await wait_until(lambda: port.writable)
    port.send(FRAME)
    assert await peer.receive() == Message(BINARY, FRAME)
    peer.say(event="MEDIA_XOFF")
    await wait_until(lambda: not port.writable)
    port.flush()
    assert port.writable
    port.send(FRAME)
    assert await peer.command() == {"command": "FLUSH_MEDIA"}
    assert await peer.receive() == Message(BINARY, FRAME)


async def test_a_peer_that_stops_reading(guests: Guests) -> None:
    diary, peer = await guests.live_call()
    port = diary.port
    peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
    second = FRAME * 50
    accepted = 0
    async with asyncio.timeout(10):
        while port.writable:
            port.send(second)
            accepted += 1
            await asyncio.sleep(0)
    dropped = port.frames_dropped
    port.send(second)
    assert port.frames_dropped == dropped + 50
    assert port.frames_sent == 50 * accepted
    peer.send(BINARY, FRAME)
    await wait_until(lambda: diary.heard == [FRAME])
    peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
    for _ in range(accepted):
        assert await peer.receive() == Message(BINARY, second)
    await wait_until(lambda: port.writable)
    port.send(FRAME)
    assert await peer.receive() == Message(BINARY, FRAME)


async def test_a_peer_that_never_reads_again_is_given_up(guests: Guests, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transport.websocket.STALL_LIMIT_S", 0.1)
    other, other_peer = await guests.live_call()
    diary, peer = await guests.live_call()
    peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
    async with asyncio.timeout(10):
        while len(diary.events) < 2:
            diary.port.send(FRAME * 50)
            peer.send(BINARY, FRAME)
            await asyncio.sleep(0.001)
    assert await diary.ended() == "Asterisk has stopped reading"
    other_peer.send(BINARY, FRAME)
    await wait_until(lambda: other.heard == [FRAME])


async def test_a_close_does_not_wait_for_a_peer_that_has_stopped_reading(guests: Guests) -> None:
    diary, peer = await guests.live_call()
    peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
    async with asyncio.timeout(10):
        while diary.port.writable:
            diary.port.send(FRAME * 50)
            await asyncio.sleep(0)
    diary.port.close()
    await asyncio.wait_for(guests.transport.close(), 5)
    assert diary.events == [Connected()]
