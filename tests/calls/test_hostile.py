"""Strangers on the engine's ports while a call runs: the call does not notice, and the counters tell."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import random
import socket
import uuid
from collections.abc import AsyncIterator
from urllib.parse import quote

import aiohttp
import psutil
import pytest

from testkit.asterisk import AsteriskInstance
from testkit.engine import EngineFailedError, EngineProcess
from testkit.hearing import find_clip
from testkit.openai_realtime import Reply, Script
from testkit.speech import noise
from testkit.waiting import wait_until
from tests.calls.conftest import Line, LineFactory

pytestmark = pytest.mark.asterisk

GREETING = noise(20_000, seed=1)
KEY = "sk-test-of-the-double"
NOT_EXPECTED, NOT_UNDERSTOOD = b"\xff\x00\x01\x01", b"\xff\x00\x01\x02"
"""The error messages with which a stranger is sent away."""
MIB = 2**20


# Strangers on the AudioSocket port


async def talk(port: int, sound: bytes, *, closes: bool = False) -> bytes:
    """Connects, sends everything and returns all that comes until the connection is over."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = b""
    try:
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionError):
                writer.write(sound)
                await writer.drain()
                if closes:
                    writer.write_eof()
                while piece := await reader.read(4096):
                    answer += piece
    finally:
        writer.close()
    return answer


def introduction(media_id: uuid.UUID) -> bytes:
    return b"\x01\x00\x10" + media_id.bytes


GARBAGE = (
    b"GET / HTTP/1.1\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a TLS handshake
    b"\x00" * 64,
    b"\x10\x01\x40" + bytes(320),  # sound before the UUID
    b"\x01\x00\x11" + bytes(17),  # a UUID of 17 bytes
    b"\x01\xff\xff" + bytes(10),
    b"\x02\x00\x00",  # no such kind
    random.Random(2).randbytes(2 * MIB).replace(b"\x01", b"\x7f"),
)
"""Each is refused for what it is."""
TRUNCATED = (b"\x01", b"\x01\x00", b"\x01\x00\x10", introduction(uuid.uuid4())[:-1])
"""Each may go on yet, and is cut off."""
UNKNOWN = 20
SILENT = 200


@contextlib.asynccontextmanager
async def silent_connections(port: int) -> AsyncIterator[list[asyncio.StreamReader]]:
    """Many that connect and say nothing."""
    streams = await asyncio.gather(*(asyncio.open_connection("127.0.0.1", port) for _ in range(SILENT)))
    try:
        yield [reader for reader, _ in streams]
    finally:
        for _, writer in streams:
            writer.transport.abort()


async def own_media_id(line: Line) -> uuid.UUID:
    """That of the running call, as whoever may read ARI learns it."""
    asterisk = line.asterisk
    auth = base64.b64encode(f"{asterisk.username}:{asterisk.password}".encode()).decode()
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Basic {auth}"}) as session,
        session.get(f"http://127.0.0.1:{asterisk.ari_port}/ari/bridges") as response,
    ):
        (bridge,) = await response.json()
    return uuid.UUID(bridge["id"][-36:])


async def audiosocket_round(line: Line) -> None:
    """One of everything."""
    port = line.engine.audiosocket_port
    for garbage in GARBAGE:
        # The last word may be lost to a sender that had more to say.
        assert await talk(port, garbage) in (NOT_UNDERSTOOD, b"")
    for piece in TRUNCATED:
        assert await talk(port, piece, closes=True) == b""
    for _ in range(UNKNOWN):
        assert await talk(port, introduction(uuid.uuid4())) == NOT_EXPECTED
    assert await talk(port, introduction(await own_media_id(line))) == NOT_EXPECTED


# Strangers on the HTTP port


async def status_of(port: int, sent: bytes, *, closes: bool = False) -> int | None:
    """Sends raw bytes; the status of the answer, None where the connection was closed without one."""
    answer = await talk(port, sent, closes=closes)
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.") else None


def request(first_line: str, *headers: str, body: bytes = b"") -> bytes:
    return "\r\n".join([first_line, "Host: engine", "Connection: close", *headers, "\r\n"]).encode() + body


BAD_REQUESTS = (
    (request("GET /health HTTP/1.1", "X-Long: " + "x" * 100_000), {400, 431}),
    (request("GET /health HTTP/1.1", *(f"X-{number}: 1" for number in range(20_000))), {200, 400, 431}),
    (request(f"GET /{'a' * 100_000} HTTP/1.1"), {400, 404, 414}),
    (request("DELETE /health HTTP/1.1"), {405}),
    (request("GET /reload HTTP/1.1"), {405}),
    (request("BREW /health HTTP/1.1"), {400, 405}),
    (request("GET /../../../../etc/passwd HTTP/1.1"), {400, 404}),
    (request("GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1"), {400, 404}),
    (request("GET /metrics/..%2f..%2fetc%2fpasswd HTTP/1.1"), {400, 404}),
    (request("GET http://[::1 HTTP/1.1"), {400, 404}),
    (request("GET /health HTTP/9.9"), {400, 505}),
    (request("POST /reload HTTP/1.1", "Content-Length: -1"), {400}),
    (request("POST /reload HTTP/1.1", "Transfer-Encoding: chunked", body=b"ffffffffffffffffffff\r\n"), {200, 400}),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", {None, 400}),
    (b"\r\n" * 1000, {None, 400}),
    (random.Random(3).randbytes(100_000), {None, 400}),
)
BIG_BODY = request("POST /reload HTTP/1.1", f"Content-Length: {10 * MIB}", body=bytes(10 * MIB))


async def http_round(line: Line) -> None:
    port = line.engine.http_port
    for bad, expected in BAD_REQUESTS:
        # What is no whole request ends with the connection.
        assert await status_of(port, bad, closes=None in expected) in expected, bad[:80]
    assert await status_of(port, BIG_BODY) in (None, 200, 413)


@contextlib.asynccontextmanager
async def partial_requests(port: int) -> AsyncIterator[None]:
    """Fifty that never come to an end of their headers."""
    writers = []
    for _ in range(50):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /health HTTP/1.1\r\nHost: eng")
        writers.append(writer)
    try:
        yield
    finally:
        for writer in writers:
            writer.transport.abort()


# What is held against them


@contextlib.asynccontextmanager
async def undisturbed_call(line: Line) -> AsyncIterator[None]:
    """A call whose long greeting is heard bit for bit to its end, whatever happens meanwhile."""
    async with line.caller() as call:
        await call.dial()
        await wait_until(lambda: find_clip(call.heard(), GREETING[:4000]), 10, "half a second of the greeting")
        yield
        assert find_clip(call.heard(), GREETING) is None, "it was still being said"
        await wait_until(lambda: find_clip(call.heard(), GREETING), 30, "the whole greeting")
    await line.nothing_left()
    assert await line.engine.metric("ai_agent_underruns_total") == 0
    for dropped in ("frames_dropped", "provider_frames_dropped", "beats_skipped"):
        assert await line.engine.metric(f"ai_agent_{dropped}_total") == 0
    assert_no_traceback(line.engine)


def assert_no_traceback(engine: EngineProcess) -> None:
    for event in engine.events:
        assert "exception" not in event, event
        assert "Traceback" not in json.dumps(event), event
        assert event.get("level") not in ("error", "critical"), event


async def test_strangers_on_the_audiosocket_port(open_line: LineFactory) -> None:
    async with open_line(Script(greeting=Reply(audio=GREETING))) as line:
        engine: EngineProcess = line.engine
        process = psutil.Process(engine.pid)
        async with undisturbed_call(line):
            await audiosocket_round(line)
            files, memory = process.num_fds(), process.memory_info().rss
            for _ in range(3):
                await audiosocket_round(line)
            assert await engine.metric("ai_agent_audiosocket_protocol_errors_total") == 4 * len(GARBAGE)
            assert await engine.metric("ai_agent_audiosocket_refused_total") == 4 * (UNKNOWN + 1)
            async with silent_connections(engine.audiosocket_port) as strangers:
                # The next call's sound finds its way through them.
                async with line.caller() as other:
                    await other.dial()
                    await wait_until(lambda: find_clip(other.heard(), GREETING[:4000]), 10, "another greeting")
                async with asyncio.timeout(10):
                    ends = await asyncio.gather(*(each.read() for each in strangers), return_exceptions=True)
                assert all(end == b"" or isinstance(end, ConnectionError) for end in ends)
            assert await engine.metric("ai_agent_audiosocket_timeouts_total") > 0
            await engine.wait_for_log("call_ended")
            assert process.num_fds() <= files
            assert process.memory_info().rss - memory < 4 * MIB


async def test_strangers_on_the_http_port(open_line: LineFactory) -> None:
    async with open_line(Script(greeting=Reply(audio=GREETING))) as line:
        engine: EngineProcess = line.engine
        process = psutil.Process(engine.pid)
        async with undisturbed_call(line):
            await http_round(line)
            memory = process.memory_info().rss
            async with partial_requests(engine.http_port):
                for _ in range(3):
                    await http_round(line)
                assert (await engine.health())["active_calls"] == 1
            assert process.memory_info().rss - memory < 16 * MIB


# What nobody is to learn


async def test_it_listens_on_loopback_only(open_line: LineFactory) -> None:
    """Unless told otherwise; the speech processes of the local agent included."""
    async with open_line(settings={"default_provider": "local"}) as line:
        engine: EngineProcess = line.engine
        process = psutil.Process(engine.pid)
        family = [process, *process.children(recursive=True)]
        assert len(family) > 1
        listening = {
            (connection.laddr.ip, connection.laddr.port)
            for each in family
            for connection in each.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN or connection.type == socket.SOCK_DGRAM
        }
        assert listening == {("127.0.0.1", engine.http_port), ("127.0.0.1", engine.audiosocket_port)}


async def test_no_secret_is_ever_written(open_line: LineFactory, asterisk: AsteriskInstance) -> None:
    """At level debug, while everything fails that has to do with a secret."""
    debug = {"logging": {"level": "debug"}}
    wrong = "wr/ong+pass%word"
    script = Script(reject_status=401, error={"type": "invalid_request_error", "message": f"Incorrect API key: {KEY}"})

    async def a_call_that_fails() -> None:
        """The provider refuses the key; then it quotes it; and the caller tries to have it written."""
        async with open_line(script, settings=debug) as line:
            engines.append(line.engine)
            async with line.caller() as call:
                await call.dial()
                await line.engine.wait_for_log("provider_lost", code="unauthorized")
            line.double.script = script.model_copy(update={"reject_status": None})
            said = {"X-AI-Provider": KEY, "X-AI-Greeting": f"{asterisk.password} {KEY}"}
            async with line.caller(headers=said, user=KEY) as call:
                await call.dial()
                await line.engine.wait_for_log("provider_unknown")
                await line.engine.wait_for_log("provider_warned")
            for page in ("/health", "/ready", "/metrics", f"/{KEY}"):
                _, body = await line.engine.get(page)
                pages.append(body)

    async def an_engine_that_asterisk_does_not_let_in(port: int, password: str, state: str) -> None:
        engine = EngineProcess(
            ari_port=port,
            username=asterisk.username,
            password=password,
            app_name="another",
            settings={**debug, "default_provider": "openai_realtime"},
        )
        engines.append(engine)
        try:
            with pytest.raises(EngineFailedError):
                await engine.start(timeout_s=4)
            _, body = await engine.get("/health")
            pages.append(body)
        finally:
            await engine.stop()
        assert state in json.dumps(engine.events), engine.events

    engines: list[EngineProcess] = []
    pages: list[str] = []
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        await asyncio.gather(
            a_call_that_fails(),
            an_engine_that_asterisk_does_not_let_in(asterisk.ari_port, wrong, "401"),
            an_engine_that_asterisk_does_not_let_in(nobody.getsockname()[1], asterisk.password, "refused"),
        )
    written = "\n".join([*pages, *(json.dumps(event) for engine in engines for event in engine.events)])
    for secret in (KEY, asterisk.password, wrong):
        pair = f"{asterisk.username}:{secret}".encode()
        for form in (secret, quote(secret, safe=""), base64.b64encode(pair).decode()):
            assert form not in written
    assert "***" in written, "something was hidden"
