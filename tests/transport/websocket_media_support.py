"""What the tests of chan_websocket share: a port with a diary, and calls through a real Asterisk."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID, uuid4

from ari_support import Recorder

from audio.formats import ULAW_8K, AudioFormat
from testkit.asterisk import AsteriskInstance
from testkit.caller import SipCaller
from testkit.waiting import wait_until
from transport.ari import AriClient
from transport.media import Closed, Connected, MediaUnavailable, PortEvent
from transport.websocket import WebSocketPort, WebSocketTransport
from transport.websocket_client import WebSocketClientTransport
from transport.websocket_server import WebSocketServerTransport

CERTIFICATE = Path(__file__).parents[1] / "providers" / "loopback_certificate.pem"
"""Certificate and key for localhost, signed by itself."""
CLIENT_TLS = ssl.create_default_context(cafile=CERTIFICATE)
SERVER_TLS = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
SERVER_TLS.load_cert_chain(CERTIFICATE)


class Diary:
    """A port, and all that it said."""

    def __init__(self, transport: WebSocketTransport, audio_format: AudioFormat = ULAW_8K) -> None:
        self.transport = transport
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
        await wait_until(lambda: self.events and isinstance(self.events[-1], Closed), what="closed")
        closed = [event for event in self.events if isinstance(event, Closed)]
        assert len(closed) == 1
        return closed[0].reason


def counted(transport: WebSocketTransport) -> Mapping[str, int]:
    """The counters that are not zero."""
    return {name: count for name, count in transport.counters.items() if count}


class Switch:
    """An Asterisk, and what the engine would do with its calls."""

    def __init__(self, asterisk: AsteriskInstance, recorder: Recorder) -> None:
        self.asterisk = asterisk
        self.ari = recorder

    def transport(self, way: str) -> WebSocketTransport:
        """``asterisk`` or ``engine`` connects; ``…-tls``: over TLS."""
        match way:
            case "asterisk":
                return self._server("voice-engine", self.asterisk.media_ws_port, None)
            case "asterisk-tls":
                return self._server("voice-engine-tls", self.asterisk.media_wss_port, SERVER_TLS)
            case "engine":
                return WebSocketClientTransport(f"ws://127.0.0.1:{self.asterisk.ari_port}")
            case "engine-tls":
                return WebSocketClientTransport(f"wss://localhost:{self.asterisk.https_port}", tls=CLIENT_TLS)
        raise AssertionError(way)

    def _server(self, client_name: str, port: int, tls: ssl.SSLContext | None) -> WebSocketServerTransport:
        return WebSocketServerTransport(
            client_name,
            port=port,
            username=self.asterisk.media_username,
            password=self.asterisk.media_password,
            tls=tls,
        )

    async def channel(self, diary: Diary) -> str:
        """Has Asterisk make the port's channel; its id, as soon as it may enter a bridge."""
        channel_id = f"media-{diary.media_id}"
        variables = await self.ari.client.external_media(channel_id, diary.port.external_media())
        await diary.port.join(variables)
        await self.ari.event("StasisStart", channel_id)
        return channel_id

    @asynccontextmanager
    async def call(
        self, transport: WebSocketTransport, audio_format: AudioFormat = ULAW_8K, **caller_options: object
    ) -> AsyncIterator[Call]:
        """A caller who hears the port and is heard by it."""
        await transport.start()
        diary = Diary(transport, audio_format)
        server = ("127.0.0.1", self.asterisk.sip_port)
        bridge_id = f"bridge-{diary.media_id}"
        try:
            async with SipCaller(server=server, extension="100", **caller_options) as caller:  # type: ignore[arg-type]
                known = len(self.ari.events("StasisStart"))
                dialled = asyncio.create_task(caller.dial())
                await wait_until(lambda: len(self.ari.events("StasisStart")) > known, what="the caller's StasisStart")
                caller_id = self.ari.events("StasisStart")[known]["channel"]["id"]
                await self.ari.client.answer(caller_id)
                await dialled
                await self.ari.client.create_bridge(bridge_id, "call")
                await self.ari.client.add_to_bridge(bridge_id, caller_id)
                media_id = await self.channel(diary)
                await diary.connected()
                await self.ari.client.add_to_bridge(bridge_id, media_id)
                yield Call(caller, diary, caller_id, media_id, bridge_id)
                if not any(isinstance(event, Closed) for event in diary.events):
                    await self.ari.client.hang_up(media_id)
                    assert await diary.ended() == "Asterisk closed the connection"
            await self.ari.client.destroy_bridge(bridge_id)
        finally:
            await transport.close()


class Call:
    def __init__(self, caller: SipCaller, diary: Diary, caller_id: str, media_id: str, bridge_id: str) -> None:
        self.caller = caller
        self.diary = diary
        self.port = diary.port
        self.caller_id = caller_id
        self.media_id = media_id
        self.bridge_id = bridge_id

    def arrivals(self, since: int = 0) -> list[float]:
        """When the packets that the caller heard arrived, from number ``since`` on."""
        return [packet.arrived_at for packet in self.caller.received[since:] if packet.is_sound]


