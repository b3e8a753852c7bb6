"""The WebSocket client against a server of another make."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from websockets.asyncio.server import ServerConnection, serve

from providers import ws
from providers.base import ProviderError
from testkit.waiting import wait_until

CERTIFICATE = Path(__file__).with_name("loopback_certificate.pem")
HEADERS = {"Authorization": "Bearer sk-test"}

Script = Callable[[ServerConnection], Awaitable[None]]


class Listener:
    def __init__(self) -> None:
        self.texts: list[bytes] = []
        self.binaries: list[bytes] = []
        self.writable_again = 0

    def on_open(self, websocket: ws.WebSocket) -> None:
        websocket.send(b"first")

    def on_text(self, message: bytes | memoryview) -> None:
        self.texts.append(bytes(message))

    def on_binary(self, message: bytes | memoryview) -> None:
        self.binaries.append(bytes(message))

    def on_writable(self) -> None:
        self.writable_again += 1


@asynccontextmanager
async def server(script: Script, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    async with serve(script, "127.0.0.1", 0, ssl=tls) as running:
        port = next(iter(running.sockets)).getsockname()[1]
        yield f"{'wss' if tls else 'ws'}://localhost:{port}/path?x=1"


async def test_messages_whole_and_in_fragments() -> None:
    async def script(connection: ServerConnection) -> None:
        request = connection.request
        assert request is not None
        assert (request.path, request.headers["Authorization"]) == ("/path?x=1", "Bearer sk-test")
        assert await connection.recv() == "first"
        await connection.send("whole")
        await connection.send(["frag", "men", "ted"])
        await connection.send([b"bi", b"nary"])
        await connection.send("x" * 200_000)

    listener = Listener()
    async with server(script) as url:
        websocket = await ws.connect(url, listener, headers=HEADERS, timeout_s=5)
        close = await asyncio.wait_for(websocket.wait_closed(), 5)
    assert listener.texts == [b"whole", b"fragmented", b"x" * 200_000]
    assert listener.binaries == [b"binary"]
    assert close == ws.Close(1000, "")
    assert not websocket.writable
    websocket.send(b"into the void")
    websocket.close()


async def test_fragments_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ws, "MAX_MESSAGE_BYTES", 50_000)

    async def script(connection: ServerConnection) -> None:
        await connection.send("x" * 1000 for _ in range(1000))

    async with server(script) as url:
        websocket = await ws.connect(url, Listener(), headers={}, timeout_s=5)
        with pytest.raises(ProviderError) as failure:
            await asyncio.wait_for(websocket.wait_closed(), 5)
    assert failure.value.code == "protocol_error"


async def test_what_a_handler_raises_ends_the_connection() -> None:
    gone = asyncio.Event()

    async def script(connection: ServerConnection) -> None:
        await connection.send("trouble")
        await connection.wait_closed()
        gone.set()

    class Broken(Listener):
        def on_text(self, message: bytes | memoryview) -> None:
            raise LookupError("no such thing")

    async with server(script) as url:
        websocket = await ws.connect(url, Broken(), headers={}, timeout_s=5)
        with pytest.raises(LookupError):
            await asyncio.wait_for(websocket.wait_closed(), 5)
        await asyncio.wait_for(gone.wait(), 5)


async def test_over_tls() -> None:
    async def script(connection: ServerConnection) -> None:
        await connection.send(await connection.recv())

    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(CERTIFICATE)
    listener = Listener()
    async with server(script, server_side) as url:
        trusting = ssl.create_default_context(cafile=str(CERTIFICATE))
        websocket = await ws.connect(url, listener, headers={}, timeout_s=5, tls=trusting)
        await wait_until(lambda: listener.texts == [b"first"], what="the echo")
        websocket.close()
        await asyncio.wait_for(websocket.wait_closed(), 5)

        with pytest.raises(ProviderError) as failure:
            await ws.connect(url, listener, headers={}, timeout_s=5, tls=ssl.create_default_context())
    assert failure.value.code == "connect_failed"


async def test_a_peer_that_stops_reading_is_noticed_and_so_is_its_return() -> None:
    read_on = asyncio.Event()
    received: list[int] = []

    async def script(connection: ServerConnection) -> None:
        connection.transport.pause_reading()
        await read_on.wait()
        connection.transport.resume_reading()
        async for message in connection:
            received.append(len(message))

    listener = Listener()
    async with server(script) as url:
        websocket = await ws.connect(url, listener, headers={}, timeout_s=5)
        sent = 0
        while websocket.writable:
            websocket.send(bytes(300))
            sent += 1
            assert sent < 100_000
            if sent % 100 == 0:
                await asyncio.sleep(0)
        read_on.set()
        await wait_until(lambda: listener.writable_again == 1, what="room to write")
        assert websocket.writable
        await wait_until(lambda: len(received) == sent + 1, what="all messages")
        websocket.close()
        await websocket.wait_closed()


async def test_a_peer_that_does_not_answer_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ws, "PING_AFTER_IDLE_S", 0.05)
    monkeypatch.setattr(ws, "PONG_WITHIN_S", 0.05)

    given_up = asyncio.Event()

    async def script(connection: ServerConnection) -> None:
        connection.transport.pause_reading()
        await given_up.wait()
        connection.transport.abort()

    async with server(script) as url:
        websocket = await ws.connect(url, Listener(), headers={}, timeout_s=5)
        close = await asyncio.wait_for(websocket.wait_closed(), 5)
        given_up.set()
    assert close.code == ws.NO_CLOSE_FRAME
    assert "ping" in close.reason
