"""The floor over AudioSocket: frames of linear sound over TCP, one for each beat of 20 ms."""

from __future__ import annotations

import asyncio
import uuid
import warnings
from collections.abc import Callable
from typing import Any

import uvloop

from bench.floor import Asterisk, Call, serve, tick

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import audioop

HEADER = b"\x10\x01\x40"
SILENCE = HEADER + bytes(320)


class AudioSocketCall(Call):
    def __init__(self, waiting: dict[bytes, AudioSocketCall], talking: set[Callable[[], None]], server: str) -> None:
        super().__init__()
        self.waiting = waiting
        self.talking = talking
        self.server = server
        self.inbox = b""
        self.buffer = bytearray()
        self.wire: Any = None

    async def connect(self, media: str, asterisk: Asterisk) -> None:
        self.waiting[uuid.UUID(media).bytes] = self
        await asterisk.external_media(
            media, external_host=self.server, format="slin", encapsulation="audiosocket", transport="tcp", data=media
        )

    def begin(self) -> None:
        self.talking.add(self.send_frame)

    def receive(self, data: bytes) -> None:
        self.inbox += data
        while len(self.inbox) >= 3:
            end = 3 + int.from_bytes(self.inbox[1:3], "big")
            if len(self.inbox) < end:
                return
            kind, payload, self.inbox = self.inbox[0], self.inbox[3:end], self.inbox[end:]
            if kind == 0x10:
                self.hear(audioop.lin2ulaw(payload, 2))

    def play(self, sound: bytes) -> None:
        self.buffer += audioop.ulaw2lin(sound, 2)

    def fall_silent(self) -> None:
        self.buffer.clear()

    def send_frame(self) -> None:
        if len(self.buffer) >= 320:
            self.wire.write(HEADER + self.buffer[:320])
            del self.buffer[:320]
        else:
            self.wire.write(SILENCE)

    def disconnect(self) -> None:
        self.talking.discard(self.send_frame)
        self.wire.close()


class Connection(asyncio.Protocol):
    """Finds the call by its UUID, then hands it what comes."""

    call: AudioSocketCall | None = None

    def __init__(self, waiting: dict[bytes, AudioSocketCall]) -> None:
        self.waiting = waiting

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.call is None:
            self.call = self.waiting.pop(data[3:19])
            self.call.wire = self.transport
            data = data[19:]
        self.call.receive(data)


async def main() -> None:
    waiting: dict[bytes, AudioSocketCall] = {}
    talking: set[Callable[[], None]] = set()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(waiting), "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    ticking = asyncio.create_task(tick(talking))
    await serve(lambda: AudioSocketCall(waiting, talking, f"{host}:{port}"))
    await ticking


if __name__ == "__main__":
    uvloop.run(main())
