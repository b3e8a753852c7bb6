"""What the tests of AudioSocket share: a listener, its calls, and the other end of the wire."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from uuid import UUID, uuid4

from audio.formats import SLIN_8K, AudioFormat
from testkit.waiting import wait_until
from transport.audiosocket import AudioSocketPort, AudioSocketTransport
from transport.audiosocket_codec import (
    ErrorReceived,
    Identified,
    encode,
)
from transport.media import Closed, Connected, PortEvent

FRAME = bytes(range(160)) * 2
REFUSED = encode(ErrorReceived(b"\x01"))
NOT_UNDERSTOOD = encode(ErrorReceived(b"\x02"))


class Listener:
    """An AudioSocketTransport, the calls that wait for Asterisk, and what Asterisk's side would do."""

    def __init__(self, transport: AudioSocketTransport) -> None:
        self.transport = transport
        self.peers: list[Peer] = []

    @property
    def counters(self) -> dict[str, int]:
        """Those that are not zero."""
        return {name: count for name, count in self.transport.counters.items() if count}

    def expect_call(self, audio_format: AudioFormat = SLIN_8K) -> Call:
        media_id = uuid4()
        return Call(media_id, self.transport.open_port(media_id, audio_format))

    async def connect(self, hello: bytes = b"") -> Peer:
        reader, writer = await asyncio.open_connection(*self.transport.address)
        peer = Peer(reader, writer)
        self.peers.append(peer)
        writer.write(hello)
        return peer

    async def live_call(self, audio_format: AudioFormat = SLIN_8K) -> tuple[Call, Peer]:
        call = self.expect_call(audio_format)
        peer = await self.connect(encode(Identified(call.media_id)))
        await wait_until(lambda: call.events == [Connected()])
        return call, peer


class Call:
    def __init__(self, media_id: UUID, port: AudioSocketPort) -> None:
        self.media_id = media_id
        self.port = port
        self.events: list[PortEvent] = []
        self.heard: list[bytes] = []
        port.on_event = self.events.append
        port.on_audio = self.heard.append

    @property
    def hello(self) -> bytes:
        return encode(Identified(self.media_id))

    async def ended(self) -> str:
        """The reason of ``Closed``, the last event and the only one of its kind."""
        await wait_until(lambda: self.events and isinstance(self.events[-1], Closed))
        closed = [event for event in self.events if isinstance(event, Closed)]
        assert len(closed) == 1
        return closed[0].reason


class Peer:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, message: bytes) -> None:
        self.writer.write(message)

    async def rest(self) -> bytes:
        """All that still comes until the connection ends."""
        received = b""
        async with asyncio.timeout(5):
            try:
                while chunk := await self.reader.read(65536):
                    received += chunk
            except ConnectionResetError:
                pass
        return received

    def reset(self) -> None:
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Open = Callable[..., Awaitable[Listener]]
