"""Somebody between the engine and Asterisk's chan_websocket, who says what Asterisk never would."""

from __future__ import annotations

import asyncio
import struct


class Intruder:
    """Between the engine and Asterisk's ``/media``: passes all on, and can put frames among those of Asterisk."""

    def __init__(self) -> None:
        self.port = 0
        self.asterisk_port = 0
        self._pumps: set[asyncio.Task[None]] = set()
        self._engines: dict[str, asyncio.StreamWriter] = {}
        """The engine's ends by the path that it asked for."""

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._welcome, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        self._server.close()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    def say(self, connection_id: str, *messages: bytes) -> None:
        """Sends whole frames to the engine, as Asterisk might."""
        (engine,) = [writer for path, writer in self._engines.items() if connection_id in path]
        engine.write(b"".join(messages))

    def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pump = asyncio.create_task(self._pass_on(reader, writer))
        self._pumps.add(pump)
        pump.add_done_callback(self._pumps.discard)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        from_asterisk, to_asterisk = await asyncio.open_connection("127.0.0.1", self.asterisk_port)
        to_asterisk.write(request)
        writer.write(await from_asterisk.readuntil(b"\r\n\r\n"))
        self._engines[request.split(b" ", 2)[1].decode()] = writer
        there = asyncio.create_task(_pass_bytes(reader, to_asterisk))
        try:
            # Whole frames only, so that there is room for others between them at any time.
            while frame := await _read_frame(from_asterisk):
                writer.write(frame)
        finally:
            there.cancel()
            for each in (writer, to_asterisk):
                each.close()


async def _pass_bytes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(4096):
        writer.write(data)
    writer.close()


async def _read_frame(reader: asyncio.StreamReader) -> bytes:
    """A WebSocket frame of a server, with its header; nothing at the end."""
    try:
        head = await reader.readexactly(2)
        size = head[1]
        if size == 126:
            head += await reader.readexactly(2)
            size = int.from_bytes(head[2:], "big")
        return head + await reader.readexactly(size)
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""


def frame(opcode: int, payload: bytes, *, final: bool = True) -> bytes:
    """A WebSocket frame of a server (RFC 6455, 5.2)."""
    first = opcode | (0x80 if final else 0)
    if len(payload) < 126:
        return bytes((first, len(payload))) + payload
    if len(payload) < 65_536:
        return struct.pack("!BBH", first, 126, len(payload)) + payload
    return struct.pack("!BBQ", first, 127, len(payload)) + payload
