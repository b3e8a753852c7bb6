"""What the tests of the ARI client share: a private Asterisk, a recorded client, a wire that can be cut."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from testkit.waiting import wait_until
from transport.ari import AriClient, AriState, Event, Snapshot

REPOSITORY = Path(__file__).parents[2]
APP = "voice-engine"
USERNAME = "engine"
PASSWORD = 'p&a#s%2 +=?/\\"ü'
"""Every character that would break a URL it is pasted into."""


@dataclass
class PrivateAsterisk:
    home: Path
    ari_port: int
    sip_port: int

    def run(self, *command: str) -> str:
        """Runs ``scripts/asterisk`` for this instance."""
        environment = os.environ | {
            "ASTERISK_HOME": str(self.home),
            "ASTERISK_ARI_USERNAME": USERNAME,
            "ASTERISK_ARI_PASSWORD": PASSWORD,
            "ARI_APP": APP,
            "ARI_PORT": str(self.ari_port),
            "SIP_PORT": str(self.sip_port),
        }
        done = subprocess.run(
            [REPOSITORY / "scripts" / "asterisk", *command],
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def free_port(kind: socket.SocketKind) -> int:
    with socket.socket(type=kind) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Recorder:
    """A client, and all that it said, in order."""

    client: AriClient
    log: list[Any] = field(default_factory=list)
    runner: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        self.client.on_event = self.log.append
        self.client.on_connected = self.log.append
        self.client.on_disconnected = self.log.append
        self.client.on_replaced = lambda: self.log.append("replaced")

    @property
    def snapshots(self) -> list[Snapshot]:
        return [entry for entry in self.log if isinstance(entry, Snapshot)]

    def events(self, event_type: str, channel_id: str | None = None) -> list[Event]:
        return [
            entry
            for entry in self.log
            if isinstance(entry, dict)
            and entry["type"] == event_type
            and channel_id in (None, entry.get("channel", {}).get("id"))
        ]

    async def event(self, event_type: str, channel_id: str | None = None) -> Event:
        found = await wait_until(lambda: self.events(event_type, channel_id) or None, what=event_type)
        return found[0]

    async def connected(self, times: int = 1) -> Snapshot:
        await wait_until(lambda: len(self.snapshots) >= times, timeout_s=15, what="connected")
        return self.snapshots[-1]

    async def state(self, state: AriState) -> None:
        await wait_until(lambda: self.client.state is state, what=f"state {state}")

    async def originate(self, endpoint: str = "Local/600@from-sip", **parameters: object) -> str:
        """A channel in the application, the other end of which is the echo of extension 600."""
        channel_id = f"test-{uuid4()}"
        await self.client._rest.call(
            "channels",
            "originateWithId",
            channelId=channel_id,
            endpoint=endpoint,
            app=self.client.app,
            **parameters,
        )
        await self.event("StasisStart", channel_id)
        return channel_id


Connect = Callable[..., Awaitable[Recorder]]


class Wire:
    """A TCP relay to Asterisk that can be frozen and cut, and keeps what the client sent."""

    def __init__(self, target_port: int) -> None:
        self.port = 0
        self.sent = b""
        self._target_port = target_port
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._relays: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def freeze(self) -> None:
        self._flowing.clear()

    def thaw(self) -> None:
        self._flowing.set()

    def cut(self) -> None:
        """Ends all connections and takes no new ones."""
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        for relay in self._relays:
            relay.cancel()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._target_port)
        self._writers += [writer, back]
        for source, target, client in ((reader, back, True), (there, writer, False)):
            task = asyncio.create_task(self._pump(source, target, client))
            self._relays.add(task)
            task.add_done_callback(self._relays.discard)

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, client: bool) -> None:
        try:
            while chunk := await source.read(65536):
                await self._flowing.wait()
                if client:
                    self.sent += chunk
                target.write(chunk)
        except OSError:
            pass
        finally:
            target.close()


async def dialplan_application(engine: Recorder, channel_id: str) -> str:
    """What Asterisk runs on the channel."""
    places = {channel["id"]: channel["dialplan"]["app_name"] for channel in await engine.client.channels()}
    return places[channel_id]
