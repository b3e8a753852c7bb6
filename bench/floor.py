"""The floor: the least Python that bridges Asterisk and a realtime provider.

No product, no state, no error handling: only frames. AudioSocket parse, μ-law, WebSocket, and back, with
silence while idle, on uvloop and the fastest WebSocket client there is (picows). It is the limit that the
engine is compared with, so it must stay as lean as can be.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import os
import time
import uuid
import warnings
from typing import Any

import aiohttp
import orjson
import picows
import uvloop

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import audioop

SILENCE = b"\x10\x01\x40" + bytes(320)
HEADER = b"\x10\x01\x40"
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


class Call(picows.WSListener, asyncio.Protocol):
    """One call: the AudioSocket connection and the provider's WebSocket, joined."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.inbox = b""
        self.write: Any = None
        self.ws: Any = None
        self.media_up = asyncio.Event()
        self.hung_up = asyncio.Event()

    def frames_from_asterisk(self, data: bytes) -> None:
        self.inbox += data
        while len(self.inbox) >= 3:
            end = 3 + int.from_bytes(self.inbox[1:3], "big")
            if len(self.inbox) < end:
                return
            kind, payload, self.inbox = self.inbox[0], self.inbox[3:end], self.inbox[end:]
            if kind == 0x10 and self.ws is not None:
                sound = base64.b64encode(audioop.lin2ulaw(payload, 2))
                self.ws.send(picows.WSMsgType.TEXT, APPEND + sound + b'"}')

    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        transport.send(picows.WSMsgType.TEXT, SESSION)
        transport.send(picows.WSMsgType.TEXT, GREET)
        self.ws = transport

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        event = orjson.loads(frame.get_payload_as_bytes())
        if event["type"] == "response.output_audio.delta":
            self.buffer += audioop.ulaw2lin(base64.b64decode(event["delta"]), 2)
        elif event["type"] == "input_audio_buffer.speech_started":
            self.buffer.clear()

    def tick(self) -> None:
        if len(self.buffer) >= 320:
            self.write(HEADER + self.buffer[:320])
            del self.buffer[:320]
        else:
            self.write(SILENCE)


async def tick_all(talking: set[Call]) -> None:
    """One ticker for all calls: cheaper than a timer per call."""
    due = time.monotonic()
    while True:
        due += 0.02
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        for call in tuple(talking):
            call.tick()


class AudioSocket(asyncio.Protocol):
    """Finds the call by its UUID, then hands it the frames."""

    def __init__(self, calls: dict[bytes, Call], talking: set[Call]) -> None:
        self.calls = calls
        self.talking = talking
        self.call: Call | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.call is None:
            self.call = self.calls.pop(data[3:19])
            self.call.write = self.transport.write
            data = data[19:]
        self.call.frames_from_asterisk(data)

    def connection_lost(self, _: Exception | None) -> None:
        if self.call is not None:
            self.talking.discard(self.call)
            self.call.hung_up.set()
            if self.call.ws is not None:
                self.call.ws.disconnect()


async def main(ari: str, app: str, port: int, provider: str) -> None:
    waiting: dict[bytes, Call] = {}
    live: dict[str, tuple[Call, str]] = {}
    tasks: set[asyncio.Task[None]] = set()
    talking: set[Call] = set()
    login = f"{os.environ['ASTERISK_ARI_USERNAME']}:{os.environ['ASTERISK_ARI_PASSWORD']}"
    basic = {"Authorization": "Basic " + base64.b64encode(login.encode()).decode()}
    await asyncio.get_running_loop().create_server(lambda: AudioSocket(waiting, talking), "127.0.0.1", port)
    async with (
        aiohttp.ClientSession(ari, headers=basic) as http,
        http.ws_connect(f"ari/events?app={app}") as events,
    ):

        async def talk(caller: str) -> None:
            call, media = Call(), uuid.uuid4()
            waiting[media.bytes], live[str(media)], live[caller] = call, (call, caller), (call, str(media))
            where = (
                f"ari/channels/externalMedia?app={app}&external_host=127.0.0.1:{port}&format=slin"
                f"&encapsulation=audiosocket&transport=tcp&data={media}&channelId={media}"
            )
            await asyncio.gather(
                picows.ws_connect(lambda: call, provider, extra_headers={"Authorization": "Bearer floor"}),
                http.post(f"ari/channels/{caller}/answer"),
                http.post(f"ari/bridges?type=mixing&bridgeId=b{media}"),
                http.post(where),
            )
            await call.media_up.wait()
            await http.post(f"ari/bridges/b{media}/addChannel?channel={caller},{media}")
            talking.add(call)
            await call.hung_up.wait()
            await http.delete(f"ari/bridges/b{media}")

        def start(work: Any) -> None:
            task = asyncio.ensure_future(work)
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        start(tick_all(talking))
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
                other = live.pop(channel)[1]
                start(http.delete(f"ari/channels/{other}"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--ari", "--app", "--provider"):
        parser.add_argument(name, required=True)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    uvloop.run(main(options.ari, options.app, options.port, options.provider))
