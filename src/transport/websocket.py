"""chan_websocket: Asterisk queues and paces what it is sent, and reports what it has played.

Either end may open the connection: see ``websocket_server`` and ``websocket_client``.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from enum import Enum, auto
from typing import Literal
from uuid import UUID

import structlog

from audio.formats import ALAW_8K, FRAME_MS, SLIN_8K, SLIN_16K, SLIN_24K, ULAW_8K, AudioFormat
from transport.media import Closed, Connected, DtmfReceived, ExternalMedia, PortEvent, Requirement
from transport.sockets import STALL_LIMIT_S
from transport.websocket_codec import (
    CONTINUE_MEDIA,
    FLUSH_MEDIA,
    PAUSE_MEDIA,
    CommandRefused,
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
from transport.websocket_wire import Wire

log = structlog.get_logger(__name__)

MESSAGE_FRAMES = 50
"""Longest message of ours, one second of sound; Asterisk ends a connection over one of 65,528 bytes."""
MAX_BACKLOG_MS = 5000
"""Sound of ours that waits in this process before ``writable`` turns false."""

ARI_FORMATS: Mapping[AudioFormat, str] = {
    ULAW_8K: "ulaw",
    ALAW_8K: "alaw",
    SLIN_8K: "slin",
    SLIN_16K: "slin16",
    SLIN_24K: "slin24",
}
SINCE = (22, 8)
"""The release that brought JSON, MARK_MEDIA and transport_data."""


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
    """One call's ``PeerPacedPort``: waits for its connection, lives with it, and is not used again.

    A ``WireUser`` from ``attach`` on.
    """

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
        self._stall_limit: asyncio.TimerHandle | None = None

    # --- for the call

    def external_media(self) -> ExternalMedia:
        return self._transport._external_media(self)

    async def join(self, variables: Mapping[str, str]) -> None:
        await self._transport._join(self, variables)

    @property
    def writable(self) -> bool:
        """The wire is live, Asterisk's queue is below its mark of 900 frames, and little waits in this process."""
        return self._state is _PortState.LIVE and not self._queue_full and self._wire.is_open

    def send(self, frames: bytes) -> None:
        """Sends whole frames; drops all of them while not ``writable``, and in any case a part of one.

        Asterisk discards silently what comes when its queue holds 1000, and what it says of its queue takes a turn
        of the event loop to get here: what was sent and not yet marked as played must stay well below.
        """
        frame_bytes = self.format.frame_bytes
        count, rest = divmod(len(frames), frame_bytes)
        if not self.writable:
            self.frames_dropped += count + bool(rest)
            return
        whole = memoryview(frames)[: count * frame_bytes]
        message_bytes = MESSAGE_FRAMES * frame_bytes
        for start in range(0, len(whole), message_bytes):
            self._wire.send_audio(whole[start : start + message_bytes])
        self.frames_sent += count
        self.frames_dropped += bool(rest)

    def mark(self, number: int) -> None:
        """Never reported where there is no live wire."""
        if self._state in _LIVE:
            # An id of our own: a number may come again after a flush, with its mark of before still on the way.
            correlation_id = str(self._marks_made)
            self._marks_made += 1
            self._marks[correlation_id] = number
            self._wire.send_text(mark_media(correlation_id))

    def flush(self) -> None:
        """Drops the peer's queue, which is neither full nor paused afterwards."""
        self._marks.clear()
        self._queue_full = False
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
        if self._state is _PortState.STALLED:
            # Such a peer would keep a graceful close waiting.
            self._wire.abort()
        elif self._state in (_PortState.JOINED, _PortState.LIVE):
            self._wire.close()
        self._enter_closed()

    # --- for the connection

    @property
    def is_waiting(self) -> bool:
        """No connection has come or been made for it, and it is not closed."""
        return self._state is _PortState.WAITING

    def attach(self, wire: Wire) -> None:
        wire.limit_backlog(MAX_BACKLOG_MS // FRAME_MS * self.format.frame_bytes)
        wire.user = self
        self._wire = wire
        self._state = _PortState.JOINED

    def receive_audio(self, sound: bytes) -> None:
        if self._state in _LIVE and len(sound) % self.format.bytes_per_sample == 0:
            self.frames_received += 1
            self.on_audio(sound)
        elif self._state is not _PortState.CLOSED:
            self._transport._counts.audio_ignored += 1

    def receive_text(self, text: bytes | bytearray | memoryview) -> None:
        if self._state is _PortState.CLOSED:
            return
        match parse_event(text):
            case MarkProcessed(correlation_id):
                # Unknown where a flush has overtaken it.
                number = self._marks.pop(correlation_id, None)
                if number is not None:
                    self.on_mark(number)
            case QueueFilled():
                self._queue_full = True
            case QueueRelieved():
                self._queue_full = False
            case DigitEnded(digit):
                self.on_event(DtmfReceived(digit))
            case MediaStarted() as start if self._state is _PortState.JOINED:
                self._begin(start)
            case CommandRefused(complaint):
                self._transport._counts.commands_refused += 1
                log.warning("websocket_command_refused", media_id=str(self.media_id), complaint=complaint)
            case MediaStarted() | UnknownEvent() | Unreadable():
                self._transport._counts.texts_ignored += 1

    def stall(self) -> None:
        if self._state is _PortState.LIVE:
            self._state = _PortState.STALLED
            # The kernel's own limit is set back by each frame that the peer goes on sending.
            self._stall_limit = asyncio.get_running_loop().call_later(STALL_LIMIT_S, self._give_up)

    def unstall(self) -> None:
        if self._state is _PortState.STALLED:
            self._state = _PortState.LIVE
            self._forget_stall()

    def fail(self, fault: str) -> None:
        if self._state is not _PortState.CLOSED:
            self._transport._counts.protocol_errors += 1
            log.warning("websocket_message_rejected", media_id=str(self.media_id), fault=fault)
            self.lose(f"protocol error: {fault}")

    def lose(self, reason: str) -> None:
        if self._state is not _PortState.CLOSED:
            self._enter_closed()
            self.on_event(Closed(reason))

    def _give_up(self) -> None:
        self._wire.abort()
        self.lose("Asterisk has stopped reading")

    def _forget_stall(self) -> None:
        if self._stall_limit is not None:
            self._stall_limit.cancel()

    def _enter_closed(self) -> None:
        self._state = _PortState.CLOSED
        self._forget_stall()
        self._transport._forget(self)

    def _command(self, text: bytes) -> None:
        if self._state in _LIVE:
            self._wire.send_text(text)

    def _begin(self, start: MediaStarted) -> None:
        expected = MediaStarted(ARI_FORMATS[self.format], self.format.frame_bytes)
        if start == expected:
            self._state = _PortState.LIVE
            self.on_event(Connected())
        else:
            self._wire.close()
            self.fail(
                f"{start.format} in frames of {start.frame_bytes} bytes instead of "
                f"{expected.format} of {expected.frame_bytes}"
            )


class WebSocketTransport(ABC):
    """What both ``MediaTransport``s over chan_websocket share. A ``WireOwner``."""

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
    async def start(self) -> None: ...

    @abstractmethod
    async def close(self) -> None: ...

    @abstractmethod
    def open_port(self, media_id: UUID, audio_format: AudioFormat) -> WebSocketPort: ...

    @abstractmethod
    def _external_media(self, port: WebSocketPort) -> ExternalMedia: ...

    @abstractmethod
    async def _join(self, port: WebSocketPort, variables: Mapping[str, str]) -> None: ...

    @abstractmethod
    def _forget(self, port: WebSocketPort) -> None:
        """The port is closed."""

    def add(self, wire: Wire) -> None:
        self._counts.connections += 1
        self._wires.add(wire)

    def remove(self, wire: Wire) -> None:
        self._wires.discard(wire)
        if not self._wires:
            self._all_gone.set()

    async def _drop_all(self) -> None:
        for wire in list(self._wires):
            wire.abort()
        while self._wires:
            self._all_gone.clear()
            await self._all_gone.wait()
