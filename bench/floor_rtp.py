"""The floor over RTP: μ-law untouched in packets over UDP, one for each beat of 20 ms. No jitter buffer."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable

import uvloop

from bench.floor import Asterisk, Call, serve, tick

HEADER = struct.Struct("!BBHII")
SILENCE = b"\xff" * 160


class RtpCall(Call):
    def __init__(self, talking: set[Callable[[], None]]) -> None:
        super().__init__()
        self.talking = talking
        self.buffer = bytearray()
        self.sent = 0

    async def connect(self, media: str, asterisk: Asterisk) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.bind(("127.0.0.1", 0))
        host, port = self.socket.getsockname()
        far = await asterisk.external_media(media, external_host=f"{host}:{port}", format="ulaw")
        self.socket.connect((far["UNICASTRTP_LOCAL_ADDRESS"], int(far["UNICASTRTP_LOCAL_PORT"])))
        asyncio.get_running_loop().add_reader(self.socket, self.receive)

    def begin(self) -> None:
        self.talking.add(self.send_frame)

    def receive(self) -> None:
        self.hear(self.socket.recv(2048)[12:])

    def play(self, sound: bytes) -> None:
        self.buffer += sound

    def fall_silent(self) -> None:
        self.buffer.clear()

    def send_frame(self) -> None:
        self.sent += 1
        header = HEADER.pack(0x80, 0, self.sent & 0xFFFF, self.sent * 160, 1)
        if len(self.buffer) >= 160:
            self.socket.send(header + self.buffer[:160])
            del self.buffer[:160]
        else:
            self.socket.send(header + SILENCE)

    def disconnect(self) -> None:
        self.talking.discard(self.send_frame)
        asyncio.get_running_loop().remove_reader(self.socket)
        self.socket.close()


async def main() -> None:
    talking: set[Callable[[], None]] = set()
    ticking = asyncio.create_task(tick(talking))
    await serve(lambda: RtpCall(talking))
    await ticking


if __name__ == "__main__":
    uvloop.run(main())
