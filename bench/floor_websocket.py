"""The floor over chan_websocket: μ-law untouched, as it comes. Asterisk keeps the time, so there is no beat of 20 ms.

Asterisk sends nothing to the caller when it has nothing: it is given a second of silence at a time, which makes way
as soon as there is something to say.
"""

from __future__ import annotations

import asyncio
from typing import Any

import picows
import uvloop

from bench.floor import Asterisk, Call, serve

BYTES_PER_S, FRAME_BYTES = 8000, 160
SILENCE = b"\xff" * BYTES_PER_S
SPARE_S = 0.2
"""Silence that is left when more is sent."""
LAG_S = 0.06
"""How far behind our reckoning Asterisk may be with playing: three of its beats."""
FLUSH = b'{"command":"FLUSH_MEDIA"}'


class WebSocketCall(Call):
    def __init__(self) -> None:
        super().__init__()
        self.now = asyncio.get_running_loop().time
        self.wire: Any = None
        self.timer: asyncio.TimerHandle | None = None
        """There is one from when the caller hears on."""
        self.buffer = b""
        self.speaks_until = 0.0
        self.silent_until = 0.0
        """When the silence that Asterisk was given will have been played; 0 when there is none."""

    async def connect(self, media: str, asterisk: Asterisk) -> None:
        far = await asterisk.external_media(
            media,
            connection_type="server",
            transport="websocket",
            encapsulation="none",
            format="ulaw",
            transport_data="f(json)",
        )
        where = f"ws{asterisk.url.removeprefix('http')}media/{far['MEDIA_WEBSOCKET_CONNECTION_ID']}"
        self.wire, _ = await picows.ws_connect(lambda: Media(self), where)

    def begin(self) -> None:
        self.send_silence()
        if self.buffer:
            self.play(b"")

    def play(self, sound: bytes) -> None:
        self.buffer += sound
        if self.timer is None:
            return
        if self.silent_until:
            self.wire.send(picows.WSMsgType.TEXT, FLUSH)
            self.silent_until = 0.0
        whole = len(self.buffer) // FRAME_BYTES * FRAME_BYTES
        self.wire.send(picows.WSMsgType.BINARY, self.buffer[:whole])
        self.buffer = self.buffer[whole:]
        self.speaks_until = max(self.speaks_until, self.now()) + whole / BYTES_PER_S

    def fall_silent(self) -> None:
        self.wire.send(picows.WSMsgType.TEXT, FLUSH)
        self.buffer = b""
        self.speaks_until = self.silent_until = 0.0
        self.send_silence()

    def send_silence(self) -> None:
        """More of it, if nothing else is being played. Sees to it that it is called again."""
        if self.timer is not None:
            self.timer.cancel()
        now = self.now()
        due = self.speaks_until + LAG_S
        if now >= due:
            self.wire.send(picows.WSMsgType.BINARY, SILENCE)
            self.silent_until = max(self.silent_until, now) + len(SILENCE) / BYTES_PER_S
            due = self.silent_until - SPARE_S
        self.timer = asyncio.get_running_loop().call_at(due, self.send_silence)

    def disconnect(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self.wire.disconnect()


class Media(picows.WSListener):
    def __init__(self, call: WebSocketCall) -> None:
        self.call = call

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        if frame.msg_type is picows.WSMsgType.BINARY:
            self.call.hear(frame.get_payload_as_bytes())


if __name__ == "__main__":
    uvloop.run(serve(WebSocketCall))
