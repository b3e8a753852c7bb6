"""The floor: the least Python that bridges Asterisk and a realtime provider.

No product, no state, no error handling: only frames, on uvloop and the fastest WebSocket client there is (picows).
It is the limit that the engine is compared with, so it must stay as lean as can be. Here is what is the same
whichever way the sound goes, the provider and the setting up; ``floor_audiosocket``, ``floor_rtp`` and
``floor_websocket`` are the wires.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
import uuid
from base64 import b64encode
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable
from typing import Any

import aiohttp
import orjson
import picows

APPEND = b'{"event_id":"a","type":"input_audio_buffer.append","audio":"'
SESSION = orjson.dumps(
    {
        "event_id": "s",
        "type": "session.update",
        "session": {
            "type": "realtime",
            "output_modalities": ["audio"],
            "audio": {
                "input": {"format": {"type": "audio/pcmu"}, "turn_detection": {"type": "server_vad"}},
                "output": {"format": {"type": "audio/pcmu"}, "voice": "marin"},
            },
        },
    }
)
GREET = orjson.dumps({"event_id": "g", "type": "response.create", "response": {"instructions": "Say hello."}})


class Asterisk:
    """Where the media channels come from."""

    def __init__(self, http: aiohttp.ClientSession, url: str, app: str) -> None:
        self.http = http
        self.url = url
        self.app = app

    async def external_media(self, media: str, **parameters: str) -> dict[str, str]:
        """Makes the channel of this id; returns its variables."""
        where = {"app": self.app, "channelId": media, **parameters}
        async with self.http.post("ari/channels/externalMedia", params=where) as response:
            found: dict[str, str] = orjson.loads(await response.read()).get("channelvars", {})
            return found


class Call(picows.WSListener):
    """One call, here its provider's WebSocket; sound is μ-law."""

    def __init__(self) -> None:
        self.provider: Any = None
        self.media_up = asyncio.Event()
        self.over = asyncio.Event()

    async def connect(self, media: str, asterisk: Asterisk) -> None:
        """Gets the media channel of this id and what sound goes through."""
        raise NotImplementedError

    def begin(self) -> None:
        """The caller hears from now on."""

    def play(self, sound: bytes) -> None:
        raise NotImplementedError

    def fall_silent(self) -> None:
        raise NotImplementedError

    def disconnect(self) -> None:
        raise NotImplementedError

    def hear(self, sound: bytes) -> None:
        if self.provider is not None:
            self.provider.send(picows.WSMsgType.TEXT, APPEND + b2a_base64(sound, newline=False) + b'"}')

    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        transport.send(picows.WSMsgType.TEXT, SESSION)
        transport.send(picows.WSMsgType.TEXT, GREET)
        self.provider = transport

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        event = orjson.loads(frame.get_payload_as_bytes())
        if event["type"] == "response.output_audio.delta":
            self.play(a2b_base64(event["delta"]))
        elif event["type"] == "input_audio_buffer.speech_started":
            self.fall_silent()


async def tick(talking: set[Callable[[], None]]) -> None:
    """One ticker for all calls: cheaper than a timer per call."""
    due = time.monotonic()
    while True:
        due += 0.02
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        for send_frame in tuple(talking):
            send_frame()


async def serve(new_call: Callable[[], Call]) -> None:
    """Answers calls until it is killed."""
    parser = argparse.ArgumentParser()
    for name in ("--ari", "--app", "--provider"):
        parser.add_argument(name, required=True)
    options = parser.parse_args()
    live: dict[str, tuple[Call, str]] = {}
    """By both channels' ids: the call, and the other channel."""
    tasks: set[asyncio.Future[Any]] = set()
    login = f"{os.environ['ASTERISK_ARI_USERNAME']}:{os.environ['ASTERISK_ARI_PASSWORD']}"
    basic = {"Authorization": "Basic " + b64encode(login.encode()).decode()}
    async with (
        aiohttp.ClientSession(options.ari, headers=basic) as http,
        http.ws_connect(f"ari/events?app={options.app}") as events,
    ):
        asterisk = Asterisk(http, options.ari, options.app)

        async def talk(caller: str) -> None:
            call, media = new_call(), str(uuid.uuid4())
            live[media], live[caller] = (call, caller), (call, media)

            await asyncio.gather(
                picows.ws_connect(lambda: call, options.provider, extra_headers={"Authorization": "Bearer floor"}),
                http.post(f"ari/channels/{caller}/answer"),
                http.post(f"ari/bridges?type=mixing&bridgeId=b{media}"),
                call.connect(media, asterisk),
            )
            await call.media_up.wait()
            await http.post(f"ari/bridges/b{media}/addChannel?channel={caller},{media}")
            call.begin()
            await call.over.wait()
            call.disconnect()
            call.provider.disconnect()
            await http.delete(f"ari/bridges/b{media}")

        def start(work: Any) -> None:
            task = asyncio.ensure_future(work)
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        print("ready", flush=True)
        async for message in events:
            event = orjson.loads(message.data)
            channel = event.get("channel", {}).get("id")
            if event["type"] == "StasisStart":
                if channel in live:
                    live[channel][0].media_up.set()
                else:
                    start(talk(channel))
            elif event["type"] == "StasisEnd" and channel in live:
                call, other = live.pop(channel)
                call.over.set()
                start(http.delete(f"ari/channels/{other}"))
