"""What the tests of chan_websocket share: a port with a diary, the other end by hand, and calls through Asterisk."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from ari_support import Recorder

from audio.formats import ULAW_8K, AudioFormat
from testkit.asterisk import AsteriskInstance
from testkit.caller import SipCaller
from testkit.waiting import wait_until
from transport.media import Closed, Connected, PortEvent
from transport.websocket import WebSocketPort, WebSocketTransport
from transport.websocket_client import WebSocketClientTransport
from transport.websocket_server import WebSocketServerTransport

CERTIFICATE = Path(__file__).parents[1] / "providers" / "loopback_certificate.pem"
"""Certificate and key for localhost, signed by itself."""
CLIENT_TLS = ssl.create_default_context(cafile=CERTIFICATE)
SERVER_TLS = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
SERVER_TLS.load_cert_chain(CERTIFICATE)

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
MEDIA_START = {"event": "MEDIA_START", "format": "ulaw", "optimal_frame_size": 160, "ptime": 20}
FRAME = bytes(range(160))
KEY = "dGhlIHNhbXBsZSBub25jZQ=="


class Diary:
    """A port, and all that it said."""

    def __init__(self, transport: WebSocketTransport, audio_format: AudioFormat = ULAW_8K) -> None:
        self.media_id = uuid4()
        self.port: WebSocketPort = transport.open_port(self.media_id, audio_format)
        self.events: list[PortEvent] = []
        self.heard: list[bytes] = []
        self.marks: list[tuple[float, int]] = []
        """Time and number of each."""
        self.port.on_event = self.events.append
        self.port.on_audio = self.heard.append
        self.port.on_mark = lambda number: self.marks.append((time.monotonic(), number))

    @property
    def marked(self) -> list[int]:
        return [number for _, number in self.marks]

    async def connected(self) -> None:
        await wait_until(lambda: self.events == [Connected()], what="connected")

    async def mark(self, number: int, timeout_s: float = 5) -> float:
        """When the mark was reported."""
        await wait_until(lambda: number in self.marked, timeout_s, f"mark {number}")
        return next(at for at, found in self.marks if found == number)

    async def ended(self) -> str:
        """The reason of ``Closed``, the last event and the only one of its kind."""
        await wait_until(lambda: bool(self.events) and isinstance(self.events[-1], Closed), what="closed")
        closed = [event for event in self.events if isinstance(event, Closed)]
        assert len(closed) == 1
        return closed[0].reason


def counted(transport: WebSocketTransport) -> dict[str, int]:
    """The counters that are not zero."""
    return {name: count for name, count in transport.counters.items() if count}


# --- the other end by hand


@dataclass(frozen=True)
class Message:
    """One frame of the wire."""

    opcode: int
    payload: bytes
    fin: bool = True


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, mask: bytes | None = b"\x12\x34\x56\x78") -> bytes:
    """A message or a part of one, as a client sends it; without a mask, as a server does."""
    flag = 0 if mask is None else 0x80
    if len(payload) < 126:
        header = struct.pack("!BB", fin << 7 | opcode, flag | len(payload))
    elif len(payload) < 65536:
        header = struct.pack("!BBH", fin << 7 | opcode, flag | 126, len(payload))
    else:
        header = struct.pack("!BBQ", fin << 7 | opcode, flag | 127, len(payload))
    if mask is None:
        return header + payload
    return header + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


def text(**event: object) -> bytes:
    return json.dumps(event).encode()


def basic(username: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def accept(key: str) -> str:
    return base64.b64encode(hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()).decode()


def request(target: str, authorization: str | None = None, *extra: str) -> bytes:
    """What Asterisk asks when it connects."""
    lines = [
        f"GET {target} HTTP/1.1",
        "Sec-WebSocket-Version: 13",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Host: localhost",
        *([f"Authorization: {authorization}"] if authorization else []),
        "Sec-WebSocket-Protocol: media",
        f"Sec-WebSocket-Key: {KEY}",
        *extra,
    ]
    return "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n"


class Peer:
    """Asterisk's end of one connection; ``mask`` where it is the client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, mask: bytes | None) -> None:
        self.reader = reader
        self.writer = writer
        self._mask = mask

    def send(self, opcode: int, payload: bytes = b"", *, fin: bool = True) -> None:
        self.writer.write(frame(opcode, payload, fin=fin, mask=self._mask))

    def say(self, **event: object) -> None:
        self.send(TEXT, text(**event))

    async def head(self) -> str:
        """The lines of HTTP up to the empty one."""
        async with asyncio.timeout(5):
            return (await self.reader.readuntil(b"\r\n\r\n")).decode()

    async def receive(self) -> Message:
        async with asyncio.timeout(5):
            first, second = await self.reader.readexactly(2)
            # A client masks, a server does not.
            assert bool(second & 0x80) == (self._mask is None)
            length = second & 0x7F
            if length == 126:
                (length,) = struct.unpack("!H", await self.reader.readexactly(2))
            elif length == 127:
                (length,) = struct.unpack("!Q", await self.reader.readexactly(8))
            mask = await self.reader.readexactly(4) if second & 0x80 else bytes(4)
            payload = await self.reader.readexactly(length)
        unmasked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload)) if any(mask) else payload
        return Message(first & 0x0F, unmasked, bool(first & 0x80))

    async def command(self) -> Any:
        message = await self.receive()
        assert message.opcode == TEXT and len(message.payload) <= 128
        return json.loads(message.payload)

    async def marked(self) -> str:
        """The id under which it is asked for a mark."""
        command = await self.command()
        assert command["command"] == "MARK_MEDIA"
        return str(command["correlation_id"])

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


class Guests:
    """A listening transport, the calls that wait for Asterisk, and those who come to it."""

    USERNAME, PASSWORD = "asterisk", "pass:word ü"

    def __init__(self, **options: Any) -> None:
        credentials = {"username": self.USERNAME, "password": self.PASSWORD}
        self.transport = WebSocketServerTransport("voice-engine", **{**credentials, **options})
        self.authorization = basic(self.USERNAME, self.PASSWORD)
        self.tls: ssl.SSLContext | None = None
        self.peers: list[Peer] = []

    async def connect(self, hello: bytes = b"") -> Peer:
        host, port = self.transport.address
        name = {"server_hostname": "localhost"} if self.tls else {}
        reader, writer = await asyncio.open_connection(host, port, ssl=self.tls, **name)
        peer = Peer(reader, writer, mask=b"\x12\x34\x56\x78")
        self.peers.append(peer)
        writer.write(hello)
        return peer

    def hello(self, diary: Diary) -> bytes:
        return request(f"/media?call={diary.media_id}", self.authorization)

    async def live_call(self) -> tuple[Diary, Peer]:
        diary = Diary(self.transport)
        peer = await self.connect(self.hello(diary))
        assert (await peer.head()).startswith("HTTP/1.1 101 ")
        peer.say(**MEDIA_START)
        await diary.connected()
        return diary, peer

    async def close(self) -> None:
        await self.transport.close()
        for peer in self.peers:
            peer.writer.close()


OpenGuests = Callable[..., Awaitable[Guests]]


# --- calls through Asterisk


class Switch:
    """An Asterisk, and what the engine would do with its calls."""

    def __init__(self, asterisk: AsteriskInstance, recorder: Recorder) -> None:
        self.asterisk = asterisk
        self.ari = recorder

    def transport(self, way: str, **options: Any) -> WebSocketTransport:
        """``asterisk`` or ``engine`` connects; ``…-tls``: over TLS."""
        asterisk = self.asterisk
        credentials = {"username": asterisk.media_username, "password": asterisk.media_password, **options}
        match way:
            case "asterisk":
                return WebSocketServerTransport("voice-engine", port=asterisk.media_ws_port, **credentials)
            case "asterisk-tls":
                port = asterisk.media_wss_port
                return WebSocketServerTransport("voice-engine-tls", port=port, tls=SERVER_TLS, **credentials)
            case "engine":
                return WebSocketClientTransport(f"ws://127.0.0.1:{asterisk.ari_port}")
            case "engine-tls":
                return WebSocketClientTransport(f"wss://localhost:{asterisk.https_port}", tls=CLIENT_TLS)
        raise AssertionError(way)

    async def make_channel(self, diary: Diary) -> str:
        """Has Asterisk make the port's channel; its id, as soon as it may enter a bridge."""
        channel_id = f"media-{diary.media_id}"
        variables = await self.ari.client.external_media(channel_id, diary.port.external_media())
        await diary.port.join(variables)
        await self.ari.event("StasisStart", channel_id)
        return channel_id

    @asynccontextmanager
    async def call(
        self, transport: WebSocketTransport, audio_format: AudioFormat = ULAW_8K, codec: str = "PCMU"
    ) -> AsyncIterator[Call]:
        """A caller who hears the port and is heard by it."""
        ari = self.ari.client
        diary = Diary(transport, audio_format)
        bridge_id = f"bridge-{diary.media_id}"
        await transport.start()
        try:
            async with SipCaller(server=("127.0.0.1", self.asterisk.sip_port), extension="100", codec=codec) as caller:
                caller_id = await self._answer(caller)
                await ari.create_bridge(bridge_id, "call")
                await ari.add_to_bridge(bridge_id, caller_id)
                channel_id = await self.make_channel(diary)
                await diary.connected()
                await ari.add_to_bridge(bridge_id, channel_id)
                yield Call(caller, diary, channel_id)
                if diary.port.writable:
                    await ari.hang_up(channel_id)
                    assert await diary.ended() == "Asterisk closed the connection"
            await ari.destroy_bridge(bridge_id)
        finally:
            await transport.close()

    async def _answer(self, caller: SipCaller) -> str:
        known = len(self.ari.events("StasisStart"))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(caller.dial())
            await wait_until(lambda: len(self.ari.events("StasisStart")) > known, what="the caller's StasisStart")
            channel_id = str(self.ari.events("StasisStart")[known]["channel"]["id"])
            await self.ari.client.answer(channel_id)
        return channel_id


class Call:
    def __init__(self, caller: SipCaller, diary: Diary, channel_id: str) -> None:
        self.caller = caller
        self.diary = diary
        self.port = diary.port
        self.channel_id = channel_id

    def heard_since(self, packets: int) -> bytes:
        """What the caller heard after so many packets."""
        return b"".join(packet.payload for packet in self.caller.received[packets:] if packet.is_sound)
