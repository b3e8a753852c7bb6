"""One WebSocket connection, whichever end has opened it: moves messages, and knows nothing of calls."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from typing import Protocol, cast

from websockets.client import ClientProtocol
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol

from transport.sockets import tune_stream

MAX_MESSAGE_BYTES = 65_536
"""A longer one of the peer's ends the connection; Asterisk sends a frame at a time."""

# At debug level the library logs the headers, and with them the credentials.
websocket_log = logging.getLogger(f"{__name__}.websocket")
websocket_log.setLevel(logging.WARNING)


class WireUser(Protocol):
    """Whoever talks over a connection, from the end of the handshake on."""

    def receive_audio(self, sound: bytes) -> None: ...

    def receive_text(self, text: bytes | bytearray | memoryview) -> None: ...

    def stall(self) -> None:
        """More waits to be sent than the limit: the peer has stopped reading."""

    def unstall(self) -> None: ...

    def fail(self, fault: str) -> None:
        """The peer broke the protocol; the connection is being closed."""

    def lose(self, reason: str) -> None:
        """The connection is gone, if it was not before."""


class WireOwner(Protocol):
    """Whoever keeps the connections, those without a user included."""

    def add(self, wire: Wire) -> None: ...

    def remove(self, wire: Wire) -> None: ...


class Wire(asyncio.Protocol, ABC):
    """The protocol is that of the ``websockets`` library; here is only what moves its bytes.

    The library's own asyncio layer costs ten times as much, for tasks and queues that nobody needs here.
    """

    def __init__(self, owner: WireOwner, websocket: ServerProtocol | ClientProtocol) -> None:
        self.user: WireUser | None = None
        """Given when the handshake is over."""
        self._owner = owner
        self._websocket = websocket
        self._transport: asyncio.Transport

    @abstractmethod
    def _shake_hands(self, message: Request | Response) -> None:
        """Takes what the peer asks or answers before anything else."""

    @abstractmethod
    def _fail_handshake(self, error: Exception) -> None:
        """What the peer asked or answered opens no WebSocket."""

    @property
    def peer(self) -> str:
        address = self._transport.get_extra_info("peername")
        return f"{address[0]}:{address[1]}" if address else "unknown"

    @property
    def is_open(self) -> bool:
        return self._websocket.state is State.OPEN

    def limit_backlog(self, size_bytes: int) -> None:
        """Has the user told when more than this waits to be sent."""
        self._transport.set_write_buffer_limits(high=size_bytes)

    def send_audio(self, frames: memoryview) -> None:
        """One message, unfragmented: Asterisk loses parts of one in fragments."""
        if self.is_open:
            self._websocket.send_binary(frames)
            self._write()

    def send_text(self, text: bytes) -> None:
        if self.is_open:
            self._websocket.send_text(text)
            self._write()

    def close(self) -> None:
        """Says goodbye and closes as soon as what waits has been sent."""
        if self.is_open:
            self._websocket.send_close(CloseCode.NORMAL_CLOSURE)
        self._write()
        self._close_soon()

    def abort(self) -> None:
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        tune_stream(self._transport)
        self._owner.add(self)

    def data_received(self, data: bytes) -> None:
        websocket = self._websocket
        websocket.receive_data(data)
        for event in websocket.events_received():
            if isinstance(event, Frame):
                self._take(event)
            else:
                self._shake_hands(event)
        if websocket.handshake_exc is not None:
            self._fail_handshake(websocket.handshake_exc)
        elif websocket.parser_exc is not None:
            self._reject(str(websocket.parser_exc))
        self._write()

    def pause_writing(self) -> None:
        if self.user is not None:
            self.user.stall()

    def resume_writing(self) -> None:
        if self.user is not None:
            self.user.unstall()

    def eof_received(self) -> None:
        # Nobody reads what is still waiting to be sent.
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._owner.remove(self)
        if self.user is not None:
            self.user.lose(f"connection lost: {exc!r}" if exc else "Asterisk cut the connection")

    def _take(self, frame: Frame) -> None:
        if self.user is None:  # nobody wants what follows the handshake any more
            return
        if frame.opcode is Opcode.BINARY and frame.fin:
            self.user.receive_audio(bytes(frame.data))
        elif frame.opcode is Opcode.TEXT and frame.fin:
            self.user.receive_text(frame.data)
        elif frame.opcode is Opcode.CLOSE:
            # The library has answered it already.
            self.close()
            close = self._websocket.close_rcvd
            ordinary = close is None or close.code == CloseCode.NORMAL_CLOSURE
            self.user.lose("Asterisk closed the connection" + ("" if ordinary else f": {close}"))
        elif frame.opcode not in (Opcode.PING, Opcode.PONG):
            self._reject("a message in fragments")

    def _reject(self, fault: str) -> None:
        self.close()
        if self.user is not None:
            self.user.fail(fault)

    def _write(self) -> None:
        for data in self._websocket.data_to_send():
            if data:
                self._transport.write(data)
            else:  # the end of the stream
                self._close_soon()

    def _close_soon(self) -> None:
        # Not at once: asyncio's TLS is not made for a close out of ``data_received`` where the peer closes as well.
        asyncio.get_running_loop().call_soon(self._transport.close)
