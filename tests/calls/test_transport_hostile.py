"""Strangers and garbage on every wire while a call runs over each: no caller notices, and the counters tell."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import random
import socket
import struct
import uuid
from collections.abc import AsyncIterator, Iterable, Sequence

import psutil
import pytest
import pytest_asyncio

from testkit import rtp
from testkit.engine import EngineProcess
from testkit.exchange import WAYS, Conversation, Exchange, Way
from testkit.hearing import find_clip
from testkit.speech import noise
from testkit.waiting import wait_until
from tests.calls.test_hostile import (
    GARBAGE,
    NOT_EXPECTED,
    NOT_UNDERSTOOD,
    TRUNCATED,
    assert_no_traceback,
    introduction,
    status_of,
    talk,
)
from tests.calls.websocket_intruder import Intruder, frame

pytestmark = [pytest.mark.asterisk, pytest.mark.asyncio(loop_scope="module")]

STORY = noise(12_000, seed=21)
TLS_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
MIB = 2**20
SLOW = 10
NEVER = ("underruns", "frames_dropped", "frames_lost", "provider_frames_dropped")
"""What must not happen to anybody meanwhile."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def intruder() -> AsyncIterator[Intruder]:
    intruder = Intruder()
    await intruder.open()
    yield intruder
    await intruder.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def exchange(intruder: Intruder) -> AsyncIterator[Exchange]:
    settings = {"websocket": {"asterisk_url": f"ws://127.0.0.1:{intruder.port}"}}
    exchange = Exchange(WAYS, settings)
    intruder.asterisk_port = exchange.asterisk.ari_port
    async with exchange:
        yield exchange
        await exchange.nothing_left()


@contextlib.asynccontextmanager
async def calls_by_every_way(exchange: Exchange) -> AsyncIterator[dict[str, Conversation]]:
    """A call by each way, by name, in the middle of a story that is heard bit for bit, whatever happens meanwhile."""
    before = await _counted(exchange)
    async with contextlib.AsyncExitStack() as stack:

        async def one(way: Way) -> Conversation:
            call = await stack.enter_async_context(exchange.conversation(way, STORY))
            await call.asks()
            await call.hears(STORY[:4000])
            return call

        calls = await asyncio.gather(*map(one, exchange.ways))
        yield {call.way.name: call for call in calls}
        for call in calls:
            assert find_clip(call.call.heard(), STORY) is None, "it was still being told"
        for call in calls:
            await call.hears(STORY, 30)
        assert await _counted(exchange) == before
    for engine in exchange.engines.values():
        assert_no_traceback(engine)


async def _counted(exchange: Exchange) -> dict[str, float]:
    return {
        f"{site}: {name}": await engine.metric(f"ai_agent_{name}_total")
        for site, engine in exchange.engines.items()
        for name in NEVER
    }


# Datagrams

STREAM = [rtp.RtpPacket(0, 7 * n, 1120 * n, 0xBADBAD, noise(20, seed=n)) for n in range(40)]
"""Sound of somebody else; its numbers have holes, as if others heard the rest."""
WHOLE = rtp.serialize(STREAM[0])
DATAGRAMS: Sequence[bytes] = (
    b"",
    *(WHOLE[:size] for size in range(1, 13)),
    *(random.Random(size).randbytes(size) for size in (1, 11, 12, 20, 172, 1500, 9000, 65_000)),
    *(bytes((version << 6,)) + WHOLE[1:] for version in (0, 1, 3)),
    b"\x9f" + WHOLE[1:],  # an extension and fifteen sources that are not there
    b"\xa0" + WHOLE[1:-1] + b"\xff",  # more padding than packet
    b"\x80\xc8\x00\x06" + bytes(24),  # a report of RTCP
    b"\x00\x01\x00\x00\x21\x12\xa4\x42" + bytes(12),  # STUN
    b"\x16\xfe\xfd" + bytes(50),  # DTLS
    TLS_HELLO,
    *map(rtp.serialize, STREAM),
)
HARMLESS_FROM_PEER = frozenset({b""})


async def test_datagrams(exchange: Exchange) -> None:
    """From strangers none is listened to; none of Asterisk's own address takes the stream over by its garbage."""
    engine = exchange.engines["engine_connects"]
    async with calls_by_every_way(exchange) as calls:
        channel = await exchange.media_channel_of(calls["externalmedia"])
        target = "127.0.0.1", int(channel["name"].partition(":")[2].partition("-")[0])
        sent = 0
        for host in ("127.0.0.1", "127.0.0.2"):
            with socket.socket(type=socket.SOCK_DGRAM) as stranger:
                stranger.bind((host, 0))
                async for datagram in _gently(DATAGRAMS):
                    stranger.sendto(datagram, target)
                    sent += 1
        await _settles(engine, "externalmedia_strangers", sent)
        peer_port = int(await exchange.variable_of(channel, "UNICASTRTP_LOCAL_PORT"))
        try:
            spoofer = socket.socket(type=socket.SOCK_RAW, proto=socket.IPPROTO_UDP)
        except PermissionError:
            return  # only root may pretend to be Asterisk
        with spoofer:
            async for datagram in _gently(DATAGRAMS[:-1]):
                header = struct.pack("!HHHH", peer_port, target[1], 8 + len(datagram), 0)
                with contextlib.suppress(OSError):  # what is longer than the interface takes
                    spoofer.sendto(header + datagram, ("127.0.0.1", 0))
        await wait_until_metric(engine, "externalmedia_foreign_ssrc", len(STREAM) - 1)
        assert await engine.metric("ai_agent_externalmedia_malformed_total") > 10
        assert await engine.metric("ai_agent_externalmedia_rtcp_total") == 1
        assert await engine.metric("ai_agent_externalmedia_restarts_total") == 0


async def _gently(datagrams: Iterable[bytes]) -> AsyncIterator[bytes]:
    """A few at a time: a flood would fill the kernel's buffer, and what is lost there nobody can count."""
    for number, datagram in enumerate(datagrams):
        if number % 4 == 0:
            await asyncio.sleep(0.01)
        yield datagram


# Messages of a WebSocket

TEXTS = (
    b"",
    b"{",
    b"[]",
    b"null",
    b"5",
    b"\xff\xfe",
    b"MEDIA_START connection_id:x",
    b'{"event":"TELEPATHY"}',
    b'{"event":5}',
    b'{"event":"DTMF_END"}',
    b'{"event":"DTMF_END","digit":7}',
    b'{"event":"MEDIA_MARK_PROCESSED","correlation_id":"none-of-ours"}',
    b'{"event":"MEDIA_MARK_PROCESSED","correlation_id":[]}',
    b'{"event":"MEDIA_START","format":"opus","optimal_frame_size":0}',
    b"[" * 10_000,
    b'{"event":"' + b"x" * 60_000 + b'"}',
)
TEXT, BINARY, PING, PONG = 1, 2, 9, 10
ENDS = {
    "oversized": frame(BINARY, bytes(70_000)),
    "in fragments": frame(BINARY, bytes(160), final=False),
    "masked": b"\x82\x85" + bytes(9),
    "of no known kind": frame(3, b"?"),
}
"""Frames after which nobody knows how to go on."""


async def test_websocket_messages(exchange: Exchange, intruder: Intruder) -> None:
    """What nobody expects is passed over; what breaks the protocol ends that one call, with a reason."""
    way = next(way for way in WAYS if way.name == "websocket")
    engine = exchange.engine(way)
    async with calls_by_every_way(exchange) as calls:
        target = await _connection_id(exchange, calls["websocket"])
        intruder.say(target, *(frame(TEXT, text) for text in TEXTS))
        intruder.say(target, frame(PING, bytes(125)), frame(PONG, b"never asked for"))
        await wait_until_metric(engine, "websocket_texts_ignored", len(TEXTS) - 1)
        errors = await engine.metric("ai_agent_websocket_protocol_errors_total")

        async def break_one(fault: str) -> None:
            async with exchange.conversation(way) as victim:
                intruder.say(await _connection_id(exchange, victim), ENDS[fault])
                # Its caller is apologised to.
                await victim.call.wait_ended(15)
                ended = await engine.wait_for_log("call_ended", call_id=victim.call_id)
                assert ended["reason"] == "media_lost", fault

        await asyncio.gather(*map(break_one, ENDS))
        assert await engine.metric("ai_agent_websocket_protocol_errors_total") == errors + len(ENDS)


async def _connection_id(exchange: Exchange, conversation: Conversation) -> str:
    channel = await exchange.media_channel_of(conversation)
    return await exchange.variable_of(channel, "MEDIA_WEBSOCKET_CONNECTION_ID")


# Strangers at the listeners


async def test_strangers_at_every_listener(exchange: Exchange) -> None:
    """Scanners, half-open connections and those who never come to an end."""
    own, other = exchange.engines["engine_connects"], exchange.engines["asterisk_connects"]
    media_port = exchange.asterisk.media_ws_port
    async with calls_by_every_way(exchange) as calls:
        processes = {engine: psutil.Process(engine.pid) for engine in (own, other)}
        before = {engine: (each.num_fds(), each.memory_info().rss) for engine, each in processes.items()}
        async with contextlib.AsyncExitStack() as stack:
            for port, beginning in (
                (own.audiosocket_port, introduction(uuid.uuid4())),
                (own.http_port, handshake("/health")),
                (media_port, handshake("/media")),
            ):
                await stack.enter_async_context(_slow_connections(port, beginning))
            await stack.enter_async_context(_unread_answers(own.http_port))
            await _scan_audiosocket(own)
            await _scan_websocket(exchange, other, calls["websocket_by_asterisk"])
            for engine in (own, other):
                assert (await engine.health())["status"] == "ok"
                assert await status_of(engine.http_port, TLS_HELLO, closes=True) in (None, 400)
            # Nobody waits for those who dribble or say nothing.
            for engine, name in ((own, "audiosocket_timeouts"), (other, "websocket_timeouts")):
                await wait_until_metric(engine, name, 2 * SLOW)
        for engine, process in processes.items():
            descriptors, memory = before[engine]
            await wait_until(lambda: process.num_fds() <= descriptors, 5, "their end")  # noqa: B023 - called at once
            assert process.memory_info().rss - memory < 8 * MIB


@contextlib.asynccontextmanager
async def _slow_connections(port: int, beginning: bytes) -> AsyncIterator[None]:
    """Some that say nothing, and some that say how they would begin a byte at a time."""
    streams = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2 * SLOW)]

    async def dribble() -> None:
        for byte in beginning:
            for _, writer in streams[:SLOW]:
                writer.write(bytes((byte,)))
            await asyncio.sleep(0.5)

    dribbling = asyncio.create_task(dribble())
    try:
        yield
    finally:
        dribbling.cancel()
        for _, writer in streams:
            writer.transport.abort()


@contextlib.asynccontextmanager
async def _unread_answers(port: int) -> AsyncIterator[None]:
    """Asks for a hundred megabytes of pages, and reads none of them."""
    _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: engine\r\n\r\n" * 5000)
    try:
        yield
    finally:
        writer.transport.abort()


async def _scan_audiosocket(engine: EngineProcess) -> None:
    for garbage in GARBAGE:
        assert await talk(engine.audiosocket_port, garbage) in (NOT_UNDERSTOOD, b"")
    for piece in TRUNCATED:
        assert await talk(engine.audiosocket_port, piece, closes=True) == b""
    assert await talk(engine.audiosocket_port, introduction(uuid.uuid4())) == NOT_EXPECTED
    assert await engine.metric("ai_agent_audiosocket_protocol_errors_total") == len(GARBAGE)
    assert await engine.metric("ai_agent_audiosocket_refused_total") == 1


async def _scan_websocket(exchange: Exchange, engine: EngineProcess, running: Conversation) -> None:
    asterisk = exchange.asterisk
    port = asterisk.media_ws_port
    user = f"{asterisk.media_username}:{asterisk.media_password}"
    own = (await exchange.media_channel_of(running))["id"][-36:]
    for requested, expected in (
        (handshake(f"/media?call={uuid.uuid4()}"), 401),
        (handshake(f"/media?call={uuid.uuid4()}", "user:password"), 401),
        (handshake(f"/media?call={uuid.uuid4()}", user), 404),
        (handshake("/media?call=x", user), 404),
        (handshake("/media", user), 404),
        (handshake("/../../etc/passwd", user), 404),
        (handshake(f"/media?call={own}", user), 409),
    ):
        assert await status_of(port, requested) == expected, requested
    for garbage in (
        b"\r\n" * 1000,
        b"POST /media HTTP/1.1\r\n\r\n",
        b"GET /media HTTP/1.1\r\nUpgrade: websocket\r\n" + b"X: y\r\n" * 5000 + b"\r\n",
        b"GET /" + b"a" * 100_000,
        TLS_HELLO + bytes(500),
        random.Random(4).randbytes(100_000),
    ):
        assert await status_of(port, garbage, closes=True) in (None, 400, 405, 414, 431), garbage[:40]
    assert await engine.metric("ai_agent_websocket_unauthorized_total") == 2
    assert await engine.metric("ai_agent_websocket_refused_total") == 5
    assert await engine.metric("ai_agent_websocket_protocol_errors_total") > 0


def handshake(target: str, credentials: str | None = None) -> bytes:
    """A client's request to become a WebSocket."""
    lines = [f"GET {target} HTTP/1.1", "Host: engine", "Upgrade: websocket", "Connection: Upgrade"]
    lines += ["Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {base64.b64encode(bytes(16)).decode()}"]
    if credentials is not None:
        lines.append(f"Authorization: Basic {base64.b64encode(credentials.encode()).decode()}")
    return "\r\n".join([*lines, "\r\n"]).encode()


async def wait_until_metric(engine: EngineProcess, name: str, least: int) -> None:
    async with asyncio.timeout(10):
        while await engine.metric(f"ai_agent_{name}_total") < least:
            await asyncio.sleep(0.05)


async def _settles(engine: EngineProcess, name: str, expected: int) -> None:
    """All of them are counted, and none twice."""
    await wait_until_metric(engine, name, expected)
    assert await engine.metric(f"ai_agent_{name}_total") == expected
