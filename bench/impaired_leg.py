"""One call whose sound goes by RTP over a bad network, between Asterisk and the engine's own port."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from uuid import uuid4

from audio.formats import ULAW_8K
from testkit.asterisk import AsteriskInstance
from testkit.caller import SipCaller
from testkit.impairment import LOOPBACK, ImpairedPath, Plan
from testkit.rtp_stream import shared_metronome
from testkit.waiting import wait_until
from transport.ari import AriClient, Event
from transport.rtp import RtpPort, RtpTransport

LIMIT_S = 20
FRAME = ULAW_8K.frame_bytes

Heard = tuple[float, bytes]
"""A frame, and when it came or went in ``time.monotonic()`` seconds."""


@dataclass
class ImpairedLeg:
    """A call that stands: a caller, and in the place of an engine a port that always sends, be it silence."""

    caller: SipCaller
    port: RtpPort
    path: ImpairedPath
    transport: RtpTransport
    heard: list[Heard] = field(default_factory=list)
    """What the port gave its listener."""
    said: list[Heard] = field(default_factory=list)
    """What the port was given to send."""
    _words: list[bytes] = field(default_factory=list)

    def say(self, sound: bytes) -> None:
        """Has the port send μ-law, a frame every 20 ms."""
        self._words += [sound[start : start + FRAME].ljust(FRAME, b"\xff") for start in range(0, len(sound), FRAME)]

    @property
    def silent(self) -> bool:
        """All has been said."""
        return not self._words

    def beat(self) -> None:
        frame = self._words.pop(0) if self._words else ULAW_8K.silent_frame
        self.said.append((time.monotonic(), frame))
        self.port.send(frame)

    def hear(self, frame: bytes) -> None:
        self.heard.append((time.monotonic(), frame))


class Switch:
    """An application of Asterisk that joins callers with ports: what the engine does, without the engine."""

    def __init__(self, asterisk: AsteriskInstance) -> None:
        self._asterisk = asterisk
        self._client = AriClient(LOOPBACK, asterisk.ari_port, asterisk.app_name, asterisk.username, asterisk.password)
        self._client.on_event = self._notice
        self._connected = asyncio.Event()
        self._client.on_connected = lambda _: self._connected.set()
        self._started: dict[str, Event] = {}
        """By channel."""

    @classmethod
    @asynccontextmanager
    async def open(cls, asterisk: AsteriskInstance) -> AsyncIterator[Switch]:
        switch = cls(asterisk)
        running = asyncio.create_task(switch._client.run())
        try:
            async with asyncio.timeout(LIMIT_S):
                await switch._connected.wait()
            yield switch
        finally:
            running.cancel()
            await asyncio.wait([running])
            await switch._client.close()

    @asynccontextmanager
    async def leg(self, plan: Plan, *, seed: int = 0) -> AsyncIterator[ImpairedLeg]:
        """A call whose sound goes by this plan from the beginning."""
        user = uuid4().hex[:12]
        async with AsyncExitStack() as stack:
            transport = RtpTransport()
            await transport.start()
            stack.push_async_callback(transport.close)
            port = transport.open_port(uuid4(), ULAW_8K)
            external = port.external_media()
            assert external.external_host is not None
            host, _, number = external.external_host.rpartition(":")
            path = await stack.enter_async_context(ImpairedPath((host, int(number)), plan, seed=seed))
            server = (LOOPBACK, self._asterisk.sip_port)
            caller = await stack.enter_async_context(SipCaller(server=server, extension="100", user=user))

            dialling = asyncio.create_task(caller.dial(LIMIT_S))
            stack.callback(dialling.cancel)
            channel = await wait_until(lambda: self._channel_of(user), LIMIT_S, "the caller's channel")
            await self._client.answer(channel)
            await dialling
            bridge, media = f"bridge-{user}", f"media-{user}"
            await self._client.create_bridge(bridge, bridge)
            stack.push_async_callback(self._client.destroy_bridge, bridge)
            by_path = replace(external, external_host=f"{path.near[0]}:{path.near[1]}")
            said = await self._client.external_media(media, by_path)
            stack.push_async_callback(self._client.hang_up, media)
            path.lead_to_near((said["UNICASTRTP_LOCAL_ADDRESS"], int(said["UNICASTRTP_LOCAL_PORT"])))
            await port.join({"UNICASTRTP_LOCAL_ADDRESS": path.far[0], "UNICASTRTP_LOCAL_PORT": str(path.far[1])})
            await wait_until(lambda: self._started.get(media), LIMIT_S, "the media channel")
            await self._client.add_to_bridge(bridge, channel, media)

            leg = ImpairedLeg(caller, port, path, transport)
            port.on_audio = leg.hear
            stack.callback(shared_metronome().join(leg.beat))
            yield leg

    def _notice(self, event: Event) -> None:
        if event["type"] == "StasisStart":
            self._started[event["channel"]["id"]] = event

    def _channel_of(self, user: str) -> str | None:
        started = self._started.items()
        return next((channel for channel, event in started if event["channel"]["caller"]["number"] == user), None)
