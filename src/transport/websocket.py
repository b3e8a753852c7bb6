"""chan_websocket: Asterisk queues and paces what it is sent, and reports what it has played.

Either end may open the connection: see ``websocket_server`` and ``websocket_client``.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from enum import Enum, auto
from typing import Literal, cast
from uuid import UUID

import structlog
from websockets.client import ClientProtocol
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol

from audio.formats import ALAW_8K, FRAME_MS, SLIN_8K, SLIN_16K, SLIN_24K, ULAW_8K, AudioFormat
from transport.media import Closed, Connected, DtmfReceived, ExternalMedia, PortEvent, Requirement
from transport.websocket_codec import (
    CONTINUE_MEDIA,
    FLUSH_MEDIA,
    PAUSE_MEDIA,
    CommandRefused,
    ControlEvent,
    DigitEnded,
    MarkProcessed,
    MediaStarted,
    QueueFilled,
    QueueRelieved,
    UnknownEvent,
    Unreadable,
    mark_media,
    parse_event,
)

log = structlog.get_logger(__name__)

MESSAGE_FRAMES = 50
"""Longest message of ours, one second of sound; Asterisk ends a connection over one of 65,528 bytes."""
MAX_MESSAGE_BYTES = 65_536
"""A longer one of Asterisk's ends the connection; it sends a frame at a time."""
MAX_BACKLOG_MS = 1000
"""Sound of ours that waits in this process before ``writable`` turns false."""
PEER_TIMEOUT_MS = 10_000
"""How long the peer may leave what we sent unacknowledged before the kernel gives the connection up."""

ARI_FORMATS: Mapping[AudioFormat, str] = {
    ULAW_8K: "ulaw",
    ALAW_8K: "alaw",
    SLIN_8K: "slin",
    SLIN_16K: "slin16",
    SLIN_24K: "slin24",
}
# JSON, MARK_MEDIA and transport_data came with 22.8.
SINCE = (22, 8)

# What the kernel holds on top; left alone it grows to minutes of sound.
_SEND_BUFFER_BYTES = 16_384
# asyncio allocates this much for each read, 256 KiB by default: half the cost of a frame.
_READ_BYTES = 8192

# At debug level the library logs the headers, and with them the credentials.
websocket_log = logging.getLogger(f"{__name__}.websocket")
websocket_log.setLevel(logging.WARNING)


@dataclass(slots=True)
class WebSocketCounters:
    connections: int = 0
    unauthorized: int = 0
    refused: int = 0
    """Requests for a call that does not wait for one, or that Asterisk turned down."""
    protocol_errors: int = 0
    timeouts: int = 0
    """No request, or no answer to ours, in time."""
    crowded_out: int = 0
    """Closed before it asked for anything, to make room for another connection."""
    abandoned: int = 0
    """Closed by the peer before it asked for anything."""
    texts_ignored: int = 0
    audio_ignored: int = 0
    """Sound that is no whole number of samples, or came before its format was told."""
    commands_refused: int = 0


class _PortState(Enum):
    WAITING = auto()
    JOINED = auto()
    """There is a connection, over which Asterisk has not said yet how sound goes."""
    LIVE = auto()
    STALLED = auto()
    """Live, but the peer has stopped reading."""
    CLOSED = auto()


_LIVE = (_PortState.LIVE, _PortState.STALLED)


def _ignore(_: object) -> None:
    pass


class WebSocketPort:
    """One call's ``PeerPacedPort``: waits for its connection, lives with it, and is not used again."""

    paced_by_peer: Literal[True] = True
    brings_keys = True
    notices_end = True
    frames_lost = 0
    frames_concealed = 0

    def __init__(self, transport: WebSocketTransport, media_id: UUID, audio_format: AudioFormat) -> None:
        self.media_id = media_id
        self.format = audio_format
        self.on_audio: Callable[[bytes], None] = _ignore
        self.on_event: Callable[[PortEvent], None] = _ignore
        self.on_mark: Callable[[int], None] = _ignore
        self.frames_received = 0
        self.frames_sent = 0
        self.frames_dropped = 0
        self._transport = transport
        self._state = _PortState.WAITING
        self._wire: Wire
        self._queue_full = False
        self._paused = False
        self._marks: dict[str, int] = {}
        """Numbers of the marks that the peer has not come to, by the id it was given for them."""
        self._marks_made = 0

    def external_media(self) -> ExternalMedia:
        return self._transport._external_media(self)

    async def join(self, variables: Mapping[str, str]) -> None:
        await self._transport._join(self, variables)

    @property
    def is_waiting(self) -> bool:
        """No connection has come or been made for it, and it is not closed."""
        return self._state is _PortState.WAITING

    @property
    def writable(self) -> bool:
        """The wire is live, Asterisk's queue is below its mark of 900 frames, and little waits in this process."""
        return self._state is _PortState.LIVE and not self._queue_full and self._wire.is_open

    def send(self, frames: bytes) -> None:
        """Sends whole frames; all of them are dropped while not ``writable``, and in any case a part of one.

        Asterisk discards silently what comes when its queue holds 1000: ask ``writable`` every few seconds of
        sound, after the event loop has had its turn.
        """
        frame_bytes = self.format.frame_bytes
        count, rest = divmod(len(frames), frame_bytes)
        if not self.writable:
            self.frames_dropped += count + bool(rest)
            return
        self.frames_dropped += bool(rest)
        whole = memoryview(frames)[: count * frame_bytes]
        message_bytes = MESSAGE_FRAMES * frame_bytes
        for start in range(0, len(whole), message_bytes):
            self._wire.send_audio(whole[start : start + message_bytes])
        self.frames_sent += count

    def mark(self, number: int) -> None:
        """Never reported where there is no live wire."""
        if self._state in _LIVE:
            # An id of our own: a number may come again after a flush, and a mark of before be on its way still.
            correlation_id = str(self._marks_made)
            self._marks_made += 1
            self._marks[correlation_id] = number
            self._wire.send_text(mark_media(correlation_id))

    def flush(self) -> None:
        """Drops the peer's queue; it is not paused afterwards."""
        self._marks.clear()
        self._command(FLUSH_MEDIA)
        if self._paused:
            self.resume()

    def pause(self) -> None:
        self._paused = True
        self._command(PAUSE_MEDIA)

    def resume(self) -> None:
        self._paused = False
        self._command(CONTINUE_MEDIA)

    def close(self) -> None:
        self._transport._forget(self)
        if self._state is _PortState.STALLED:
            # It would keep a graceful close waiting.
            self._wire.abort()
        elif self._state in (_PortState.JOINED, _PortState.LIVE):
            self._wire.close()
        self._state = _PortState.CLOSED

    def _command(self, text: bytes) -> None:
        if self._state in _LIVE:
            self._wire.send_text(text)

    def _attach(self, wire: Wire) -> None:
        wire.limit_backlog(MAX_BACKLOG_MS // FRAME_MS * self.format.frame_bytes)
        self._wire = wire
        self._state = _PortState.JOINED

    def _stall(self) -> None:
        if self._state is _PortState.LIVE:
            self._state = _PortState.STALLED

    def _unstall(self) -> None:
        if self._state is _PortState.STALLED:
            self._state = _PortState.LIVE

    def _receive_audio(self, sound: bytes) -> None:
        if self._state in _LIVE and len(sound) % self.format.bytes_per_sample == 0:
            self.frames_received += 1
            self.on_audio(sound)
        elif self._state is not _PortState.CLOSED:
            self._transport._counts.audio_ignored += 1

    def _receive_event(self, event: ControlEvent) -> None:
        if self._state is _PortState.CLOSED:
            return
        match event:
            case MarkProcessed(correlation_id):
                # None was sent before a flush.
                number = self._marks.pop(correlation_id, None)
                if number is not None:
                    self.on_mark(number)
            case QueueFilled():
                self._queue_full = True
            case QueueRelieved():
                self._queue_full = False
            case DigitEnded(digit):
                self.on_event(DtmfReceived(digit))
            case MediaStarted() if self._state is _PortState.JOINED:
                self._begin(event)
            case CommandRefused(text):
                self._transport._counts.commands_refused += 1
                log.warning("websocket_command_refused", media_id=str(self.media_id), text=text)
            case MediaStarted() | UnknownEvent() | Unreadable():
                self._transport._counts.texts_ignored += 1

    def _begin(self, start: MediaStarted) -> None:
        expected = MediaStarted(ARI_FORMATS[self.format], self.format.frame_bytes)
        if start == expected:
            self._state = _PortState.LIVE
            self.on_event(Connected())
        else:
            self._wire.close()
            self._lose(
                f"Asterisk sends {start.format} in frames of {start.frame_bytes} bytes, "
                f"not {expected.format} of {expected.frame_bytes}"
            )

    def _lose(self, reason: str) -> None:
        if self._state is not _PortState.CLOSED:
            self._transport._forget(self)
            self._state = _PortState.CLOSED
            self.on_event(Closed(reason))


class Wire(asyncio.Protocol, ABC):
    """One WebSocket connection. The protocol is that of the ``websockets`` library, here is only what moves bytes.

    Its asyncio layer costs ten times as much, with tasks and queues that nobody needs here.
    """

    def __init__(self, owner: WebSocketTransport, websocket: ServerProtocol | ClientProtocol) -> None:
        self.port: WebSocketPort | None = None
        self._owner = owner
        self._websocket = websocket
        self._wire: asyncio.Transport

    @abstractmethod
    def _shake_hands(self, message: Request | Response) -> None:
        """Takes what the peer asks or answers before anything else."""

    @abstractmethod
    def _fail_handshake(self, error: Exception) -> None:
        """What the peer asked or answered opens no WebSocket."""

    @property
    def peer(self) -> str:
        address = self._wire.get_extra_info("peername")
        return f"{address[0]}:{address[1]}" if address else "unknown"

    @property
    def is_open(self) -> bool:
        return self._websocket.state is State.OPEN

    def limit_backlog(self, size_bytes: int) -> None:
        self._wire.set_write_buffer_limits(high=size_bytes)

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
        self._wire.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._wire = cast(asyncio.Transport, transport)
        # An implementation detail of asyncio's selector transports; uvloop has no such cost.
        if hasattr(self._wire, "max_size"):
            self._wire.max_size = _READ_BYTES
        _tune(self._wire.get_extra_info("socket"))
        self._owner._add(self)

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
        if self.port is not None:
            self.port._stall()

    def resume_writing(self) -> None:
        if self.port is not None:
            self.port._unstall()

    def eof_received(self) -> None:
        # Nobody reads what is still waiting to be sent.
        self._wire.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._owner._remove(self)
        if self.port is not None:
            self.port._lose(f"connection lost: {exc!r}" if exc else "Asterisk cut the connection")

    def _join(self, port: WebSocketPort) -> None:
        self.port = port
        port._attach(self)

    def _take(self, frame: Frame) -> None:
        # No frame comes before the handshake is over.
        assert self.port is not None
        if frame.opcode is Opcode.BINARY and frame.fin:
            self.port._receive_audio(bytes(frame.data))
        elif frame.opcode is Opcode.TEXT and frame.fin:
            self.port._receive_event(parse_event(frame.data))
        elif frame.opcode is Opcode.CLOSE:
            # The library has answered it.
            close = self._websocket.close_rcvd
            assert close is not None
            self.close()
            ordinary = close.code == CloseCode.NORMAL_CLOSURE
            self.port._lose("Asterisk closed the connection" + ("" if ordinary else f": {close}"))
        elif frame.opcode not in (Opcode.PING, Opcode.PONG):
            self._reject("a message in fragments")

    def _reject(self, fault: str) -> None:
        if self.port is not None and self.port._state is not _PortState.CLOSED:
            self._owner._counts.protocol_errors += 1
            log.warning("websocket_message_rejected", peer=self.peer, media_id=str(self.port.media_id), fault=fault)
            self.port._lose(f"protocol error: {fault}")
            self.close()

    def _write(self) -> None:
        for data in self._websocket.data_to_send():
            if data:
                self._wire.write(data)
            else:  # the end of the stream
                self._close_soon()

    def _close_soon(self) -> None:
        # Not at once: asyncio's TLS is not made for a close out of ``data_received`` where the peer closes as well.
        asyncio.get_running_loop().call_soon(self._wire.close)


class WebSocketTransport(ABC):
    """What both ``MediaTransport``s over chan_websocket share."""

    name = "websocket"
    formats = tuple(ARI_FORMATS)

    def __init__(self) -> None:
        self._counts = WebSocketCounters()
        self._wires: set[Wire] = set()
        self._all_gone = asyncio.Event()

    @property
    def counters(self) -> Mapping[str, int]:
        return asdict(self._counts)

    @abstractmethod
    def requirement(self, audio_format: AudioFormat) -> Requirement: ...

    @abstractmethod
    def _external_media(self, port: WebSocketPort) -> ExternalMedia: ...

    @abstractmethod
    async def _join(self, port: WebSocketPort, variables: Mapping[str, str]) -> None: ...

    @abstractmethod
    def _forget(self, port: WebSocketPort) -> None:
        """The port waits for no connection any more."""

    def _add(self, wire: Wire) -> None:
        self._counts.connections += 1
        self._wires.add(wire)

    def _remove(self, wire: Wire) -> None:
        self._wires.discard(wire)
        if not self._wires:
            self._all_gone.set()

    async def _drop_all(self) -> None:
        """A close of our own, so no port reports ``Closed``."""
        for wire in list(self._wires):
            if wire.port is not None:
                wire.port.close()
            wire.abort()
        while self._wires:
            self._all_gone.clear()
            await self._all_gone.wait()


def _tune(wire: socket.socket) -> None:
    wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, PEER_TIMEOUT_MS)
