from __future__ import annotations

import asyncio
import gc
import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

import pytest
import uvloop
from ari_support import APP, PASSWORD, USERNAME, Connect, PrivateAsterisk, Recorder, Wire, free_port
from audiosocket_support import Listener, Open
from websocket_media_support import Guests, OpenGuests

from transport.ari import AriClient
from transport.audiosocket import AudioSocketTransport


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """What talks to raw sockets is tested on both event loops that the engine runs on; slow calls on the usual one."""
    if item.path.stem == "test_websocket_media_asterisk":
        return {"uvloop": uvloop.new_event_loop}
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if item.path.stem.startswith(("test_audiosocket", "test_websocket_media", "test_rtp_port")):
        factories["uvloop"] = uvloop.new_event_loop
    return factories


@pytest.fixture(scope="session")
def private_asterisk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateAsterisk]:
    asterisk = PrivateAsterisk(
        tmp_path_factory.mktemp("asterisk"),
        free_port(socket.SOCK_STREAM),
        free_port(socket.SOCK_DGRAM),
    )
    asterisk.run("start")
    yield asterisk
    asterisk.run("stop")


@pytest.fixture
async def start(private_asterisk: PrivateAsterisk) -> AsyncIterator[Connect]:
    """Starts clients, and ends them when the test is over."""
    recorders: list[Recorder] = []

    async def start_client(
        *, app: str = APP, password: str = PASSWORD, port: int = private_asterisk.ari_port, **options: Any
    ) -> Recorder:
        recorder = Recorder(AriClient("127.0.0.1", port, app, USERNAME, password, **options))
        recorder.runner = asyncio.create_task(recorder.client.run())
        recorders.append(recorder)
        return recorder

    yield start_client
    for recorder in recorders:
        assert recorder.runner is not None
        recorder.runner.cancel()
        await asyncio.gather(recorder.runner, return_exceptions=True)
        await recorder.client.close()
    private_asterisk.run("cli", "channel request hangup all")


@pytest.fixture
async def engine(start: Connect) -> Recorder:
    recorder = await start()
    await recorder.connected()
    return recorder


@pytest.fixture
async def wire(private_asterisk: PrivateAsterisk) -> AsyncIterator[Wire]:
    relay = Wire(private_asterisk.ari_port)
    await relay.open()
    yield relay
    relay.cut()


@pytest.fixture
async def listen() -> AsyncIterator[Open]:
    """Opens listeners, and closes them and their peers when the test is over."""
    listeners: list[Listener] = []

    async def open_listener(**options: object) -> Listener:
        listener = Listener(AudioSocketTransport(**options))  # type: ignore[arg-type]
        await listener.transport.start()
        listeners.append(listener)
        return listener

    yield open_listener
    for listener in listeners:
        await listener.transport.close()
        for peer in listener.peers:
            peer.writer.close()


@pytest.fixture
async def listener(listen: Open) -> Listener:
    return await listen()


@pytest.fixture
def no_traceback(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing that the other end did has made this one stumble."""
    yield
    gc.collect()
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.fixture
async def open_guests() -> AsyncIterator[OpenGuests]:
    """Opens listeners for Asterisk's WebSockets, and closes them and their peers when the test is over."""
    opened: list[Guests] = []

    async def open_one(**options: object) -> Guests:
        guests = Guests(**options)
        await guests.transport.start()
        opened.append(guests)
        return guests

    yield open_one
    for guests in opened:
        await guests.close()


@pytest.fixture
async def guests(open_guests: OpenGuests) -> Guests:
    return await open_guests()
