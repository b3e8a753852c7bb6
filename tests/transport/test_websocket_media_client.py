"""The engine as the one that connects, to an HTTP server of Asterisk played by hand."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import structlog
from websocket_media_support import (
    BINARY,
    CLIENT_TLS,
    CLOSE,
    FRAME,
    MEDIA_START,
    SERVER_TLS,
    TEXT,
    Diary,
    Message,
    Peer,
    accept,
    counted,
    frame,
    text,
)

from testkit.waiting import wait_until
from transport.media import Connected, MediaUnavailable
from transport.websocket_client import WebSocketClientTransport

pytestmark = pytest.mark.usefixtures("no_traceback")

VARIABLES = {"MEDIA_WEBSOCKET_CONNECTION_ID": "0b5e-the-secret"}
START = frame(TEXT, text(**MEDIA_START), mask=None)

Script = Callable[[Peer], Awaitable[None]]


class Asterisk:
    """Its HTTP server: takes a request, keeps it, and does what the test says with the connection."""

    def __init__(self, script: Script) -> None:
        self.requests: list[str] = []
        self.peers: list[Peer] = []
        self.port = 0
        self._script = script

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer, mask=None)
        self.peers.append(peer)
        self.requests.append(await peer.head())
        await self._script(peer)

    def key(self) -> str:
        (line,) = [line for line in self.requests[-1].split("\r\n") if line.startswith("Sec-WebSocket-Key: ")]
        return line.split()[1]

    def switching(self, key: str | None = None) -> bytes:
        answer = accept(key or self.key())
        lines = ["HTTP/1.1 101 Switching Protocols", "Upgrade: WebSocket", "Connection: Upgrade"]
        return "\r\n".join([*lines, f"Sec-WebSocket-Accept: {answer}", "", ""]).encode()


Serve = Callable[..., Awaitable[Asterisk]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    servers: list[tuple[asyncio.Server, Asterisk]] = []

    async def start(script: Callable[[Asterisk, Peer], Awaitable[None]], tls: ssl.SSLContext | None = None) -> Asterisk:
        asterisk = Asterisk(lambda peer: script(asterisk, peer))
        server = await asyncio.start_server(asterisk.serve, "127.0.0.1", 0, ssl=tls)
        asterisk.port = server.sockets[0].getsockname()[1]
        servers.append((server, asterisk))
        return asterisk

    yield start
    for server, asterisk in servers:
        server.close()
        for peer in asterisk.peers:
            peer.writer.close()


async def open_at_once(asterisk: Asterisk, peer: Peer) -> None:
    peer.writer.write(asterisk.switching() + START)


async def test_a_call(serve: Serve) -> None:
    asterisk = await serve(open_at_once)
    transport = WebSocketClientTransport(f"ws://127.0.0.1:{asterisk.port}/prefix/")
    await transport.start()
    diary = Diary(transport)
    await diary.port.join({**VARIABLES, "OTHER": "x"})
    await diary.connected()
    assert asterisk.requests[0].startswith("GET /prefix/media/0b5e-the-secret HTTP/1.1\r\n")
    peer = asterisk.peers[0]
    peer.send(BINARY, FRAME)
    diary.port.send(FRAME * 60)
    diary.port.mark(1)
    assert [len((await peer.receive()).payload) for _ in range(2)] == [8000, 1600]
    correlation_id = await peer.marked()
    peer.say(event="MEDIA_MARK_PROCESSED", correlation_id=correlation_id)
    await diary.mark(1)
    await wait_until(lambda: diary.heard == [FRAME])
    assert type(diary.heard[0]) is bytes
    peer.send(CLOSE, b"\x03\xe8")
    assert await diary.ended() == "Asterisk closed the connection"
    assert await peer.receive() == Message(CLOSE, b"\x03\xe8")
    assert await peer.rest() == b""
    await asyncio.wait_for(transport.close(), 5)
    assert counted(transport) == {"connections": 1}


async def test_an_answer_in_single_bytes(serve: Serve) -> None:
    async def drip(asterisk: Asterisk, peer: Peer) -> None:
        for byte in asterisk.switching() + START + frame(BINARY, FRAME, mask=None):
            peer.writer.write(bytes([byte]))
            await peer.writer.drain()
            await asyncio.sleep(0)

    asterisk = await serve(drip)
    transport = WebSocketClientTransport(f"ws://127.0.0.1:{asterisk.port}")
    diary = Diary(transport)
    await diary.port.join(VARIABLES)
    await wait_until(lambda: diary.heard == [FRAME])
    assert diary.events == [Connected()]
    await transport.close()


async def test_an_id_cannot_lead_elsewhere(serve: Serve) -> None:
    asterisk = await serve(open_at_once)
    transport = WebSocketClientTransport(f"ws://127.0.0.1:{asterisk.port}")
    diary = Diary(transport)
    await diary.port.join({"MEDIA_WEBSOCKET_CONNECTION_ID": "../ari?x=1 HTTP/1.1\r\nA: b"})
    assert asterisk.requests[0].startswith("GET /media/..%2Fari%3Fx%3D1%20HTTP%2F1.1%0D%0AA%3A%20b HTTP/1.1\r\n")
    await transport.close()


ANSWERS = [
    (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "Asterisk answered HTTP 404", "refused"),
    (b"HTTP/1.1 409 Conflict\r\nContent-Length: 0\r\n\r\n", "Asterisk answered HTTP 409", "refused"),
    (b"HTTP/1.1 302 Found\r\nLocation: ws://elsewhere/\r\nContent-Length: 0\r\n\r\n", "HTTP 302", "refused"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "HTTP 200", "refused"),
    (b"SSH-2.0-OpenSSH\r\n", "no WebSocket", "protocol_errors"),
    (b"\x15\x03\x03\x00\x02\x02\x28" * 10, "connection", ""),
    (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "no WebSocket", "protocol_errors"),
    (b"", "Asterisk closed the connection", ""),
]


@pytest.mark.parametrize(("answer", "reason", "counter"), ANSWERS)
async def test_an_answer_that_opens_nothing(serve: Serve, answer: bytes, reason: str, counter: str) -> None:
    async def refuse(_: Asterisk, peer: Peer) -> None:
        peer.writer.write(answer)
        peer.writer.close()

    asterisk = await serve(refuse)
    transport = WebSocketClientTransport(f"ws://127.0.0.1:{asterisk.port}")
    diary = Diary(transport)
    with pytest.raises(MediaUnavailable, match=reason):
        await diary.port.join(VARIABLES)
    await asyncio.wait_for(transport.close(), 5)
    assert diary.events == []
    assert counted(transport) == {"connections": 1} | ({counter: 1} if counter else {})


async def test_an_answer_to_another_request(serve: Serve) -> None:
    async def mistake(asterisk: Asterisk, peer: Peer) -> None:
        peer.writer.write(asterisk.switching("dGhlIHNhbXBsZSBub25jZQ==") + START)

    asterisk = await serve(mistake)
    transport = WebSocketClientTransport(f"ws://127.0.0.1:{asterisk.port}")
    diary = Diary(transport)
    with pytest.raises(MediaUnavailable, match="no WebSocket"):
        await diary.port.join(VARIABLES)
    assert diary.events == []
    await transport.close()


async def test_a_masked_message_from_a_server_ends_it(serve: Serve) -> None:
    asterisk = await serve(open_at_once)
    transport = WebSocketClientTransport(f"ws://127.0.0.1:{asterisk.port}")
    diary = Diary(transport)
    await diary.port.join(VARIABLES)
    await diary.connected()
    asterisk.peers[0].writer.write(frame(BINARY, FRAME))
    assert "masking" in await diary.ended()
    assert (await asterisk.peers[0].receive()).opcode == CLOSE
    await asterisk.peers[0].rest()
    assert counted(transport) == {"connections": 1, "protocol_errors": 1}
    await transport.close()


async def never(_: Asterisk, peer: Peer) -> None:
    await peer.rest()


async def test_no_answer_in_time(serve: Serve) -> None:
    asterisk = await serve(never)
    transport = WebSocketClientTransport(f"ws://127.0.0.1:{asterisk.port}", connect_timeout_s=0.05)
    diary = Diary(transport)
    with pytest.raises(MediaUnavailable, match=r"within 0\.05 s"):
        await diary.port.join(VARIABLES)
    await asyncio.wait_for(transport.close(), 5)
    assert counted(transport) == {"connections": 1, "timeouts": 1}
    assert diary.events == []


async def test_a_call_that_ends_while_we_connect(serve: Serve) -> None:
    asterisk = await serve(never)
    transport = WebSocketClientTransport(f"ws://127.0.0.1:{asterisk.port}")
    diary = Diary(transport)
    joining = asyncio.create_task(diary.port.join(VARIABLES))
    await wait_until(lambda: len(asterisk.requests) == 1)
    joining.cancel()
    with pytest.raises(asyncio.CancelledError):
        await joining
    diary.port.close()
    await wait_until(asterisk.peers[0].reader.at_eof)

    async def late(asterisk: Asterisk, peer: Peer) -> None:
        other.port.close()
        peer.writer.write(asterisk.switching() + START)

    asterisk = await serve(late)
    transport = WebSocketClientTransport(f"ws://127.0.0.1:{asterisk.port}")
    other = Diary(transport)
    with pytest.raises(MediaUnavailable, match="over first"):
        await other.port.join(VARIABLES)
    assert (diary.events, other.events) == ([], [])
    await asyncio.wait_for(transport.close(), 5)


async def test_nobody_listens() -> None:
    with socket.socket() as bound:  # and does not listen
        bound.bind(("127.0.0.1", 0))
        transport = WebSocketClientTransport(f"ws://127.0.0.1:{bound.getsockname()[1]}")
        with pytest.raises(MediaUnavailable, match="no connection to Asterisk"):
            await Diary(transport).port.join(VARIABLES)


async def test_asterisk_says_no_id() -> None:
    transport = WebSocketClientTransport("ws://127.0.0.1:1")
    for variables in ({}, {"MEDIA_WEBSOCKET_CONNECTION_ID": ""}):
        with pytest.raises(MediaUnavailable, match="MEDIA_WEBSOCKET_CONNECTION_ID"):
            await Diary(transport).port.join(variables)


def test_a_url_that_is_none() -> None:
    for url in ("http://pbx:8088", "pbx:8088", "ws://", "ws://user:geheim@pbx/#x"):
        with pytest.raises(ValueError, match="not the URL of a WebSocket") as caught:
            WebSocketClientTransport(url)
        assert "geheim" not in str(caught.value)


async def test_the_id_is_never_logged(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    async def refuse(_: Asterisk, peer: Peer) -> None:
        peer.writer.write(ANSWERS[0][0])

    caplog.set_level(logging.DEBUG)
    with structlog.testing.capture_logs() as lines:
        for script in (open_at_once, refuse):
            asterisk = await serve(script)
            transport = WebSocketClientTransport(f"ws://127.0.0.1:{asterisk.port}")
            diary = Diary(transport)
            if script is refuse:
                with pytest.raises(MediaUnavailable) as caught:
                    await diary.port.join(VARIABLES)
                assert "the-secret" not in str(caught.value)
            else:
                await diary.port.join(VARIABLES)
                await diary.connected()
                asterisk.peers[0].send(0x3)
                await diary.ended()
            await transport.close()
    assert "the-secret" not in repr(lines) + caplog.text


async def test_over_tls(serve: Serve) -> None:
    asterisk = await serve(open_at_once, SERVER_TLS)
    transport = WebSocketClientTransport(f"wss://localhost:{asterisk.port}", tls=CLIENT_TLS)
    diary = Diary(transport)
    await diary.port.join(VARIABLES)
    await diary.connected()
    diary.port.send(FRAME * 500)
    assert b"".join([(await asterisk.peers[0].receive()).payload for _ in range(10)]) == FRAME * 500
    diary.port.close()
    await asterisk.peers[0].rest()
    await transport.close()
    untrusting = WebSocketClientTransport(f"wss://localhost:{asterisk.port}")
    with pytest.raises(MediaUnavailable, match="certificate"):
        await Diary(untrusting).port.join(VARIABLES)
    await untrusting.close()
