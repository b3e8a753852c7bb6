"""AudioSocket: Asterisk connects to us over TCP, one connection per call, linear sound both ways."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from enum import Enum, auto
from typing import Literal, cast
from uuid import UUID

import structlog

from audio.formats import FRAME_MS, SLIN_8K, SLIN_16K, SLIN_24K, AudioFormat
from transport.audiosocket_codec import (
    AudioReceived,
    AudioSocketDecoder,
    AudioSocketError,
    AudioSocketEvent,
    DigitReceived,
    ErrorReceived,
    HangupReceived,
    Identified,
    encode,
    encode_audio,
)
from transport.media import Closed, Connected, DtmfReceived, ExternalMedia, PortEvent, Requirement
from transport.sockets import STALL_LIMIT_S, is_wildcard, tune_stream

log = structlog.get_logger(__name__)

IDENTIFY_TIMEOUT_S = 5.0
MAX_UNIDENTIFIED = 64
"""Connections that have not said which call they are; beyond it the oldest makes room."""
FEED_S = 0.1
"""A connection over which nothing was sent for so long gets a frame of silence. Asterisk 22.10 reads with its channel
locked and waits for a whole frame: woken for another reason, it holds up all that asks about the channel until then.
"""
MAX_BACKLOG_MS = 500
"""Sound of ours that waits in this process for a peer that has stopped reading."""

_ARI_FORMATS = {SLIN_8K: "slin", SLIN_16K: "slin16", SLIN_24K: "slin24"}
# Keys by the wire came with 22.4, other rates than 8 kHz with 22.7.
_NARROWBAND = Requirement(("res_audiosocket.so", "chan_audiosocket.so"), (22, 4))
_WIDEBAND = Requirement(_NARROWBAND.modules, (22, 7))
_MAX_FRAME_MS = 1000
# What an error code means is up to the application.
_NOT_EXPECTED = encode(ErrorReceived(b"\x01"))
_NOT_UNDERSTOOD = encode(ErrorReceived(b"\x02"))


@dataclass(slots=True)
class AudioSocketCounters:
    connections: int = 0
    refused: int = 0
    """A UUID that no call waits for, or not any more."""
    protocol_errors: int = 0
    timeouts: int = 0
    """No UUID in time."""
    crowded_out: int = 0
    """Closed without a UUID, to make room for another connection."""
    abandoned: int = 0
    """Closed by the peer before it sent a UUID."""


class _PortState(Enum):
    WAITING = auto()
    LIVE = auto()
    STALLED = auto()
    """Live, but the peer has stopped reading."""
    CLOSED = auto()


def _ignore(_: object) -> None:
    pass


class AudioSocketPort:
    """One call's ``MediaPort``: waits for Asterisk's connection, lives with it, and is not used again."""

    paced_by_peer: Literal[False] = False
    brings_keys = True
    notices_end = True
    frames_lost = 0
    frames_concealed = 0

    def __init__(self, transport: AudioSocketTransport, media_id: UUID, audio_format: AudioFormat) -> None:
        self.format = audio_format
        self.on_audio: Callable[[bytes], None] = _ignore
        self.on_event: Callable[[PortEvent], None] = _ignore
        self.frames_received = 0
        self.frames_sent = 0
        self.frames_dropped = 0
        self._transport = transport
        self._media_id = media_id
        self._sent_when_fed = 0
        self._max_frame_bytes = audio_format.frame_bytes * _MAX_FRAME_MS // FRAME_MS
        self._state = _PortState.WAITING
        self._wire: asyncio.Transport
        self._stall_limit: asyncio.TimerHandle | None = None

    def external_media(self) -> ExternalMedia:
        return ExternalMedia(
            format=_ARI_FORMATS[self.format],
            encapsulation="audiosocket",
            transport="tcp",
            external_host=self._transport.advertised,
            data=str(self._media_id),
        )

    async def join(self, variables: Mapping[str, str]) -> None:
        """Nothing to do: Asterisk connects to us."""

    def send(self, frame: bytes) -> None:
        """Sends one frame in one write. Asterisk plays it at once: the sender keeps the time."""
        # An empty message would make Asterisk hang up.
        if self._state is not _PortState.LIVE or not 0 < len(frame) <= self._max_frame_bytes:
            self.frames_dropped += 1
            return
        self._wire.write(encode_audio(frame, self.format.rate_hz))
        self.frames_sent += 1

    def flush(self) -> None:
        """Nothing to drop: Asterisk plays what it is sent at once."""

    def close(self) -> None:
        self._transport._expect_no_more(self._media_id)
        if self._state in (_PortState.LIVE, _PortState.STALLED):
            self._wire.abort()
        self._enter_closed()

    def _feed(self) -> None:
        """Sends silence unless something was sent since it was last looked at."""
        if self.frames_sent == self._sent_when_fed and self._state is _PortState.LIVE:
            self._wire.write(encode_audio(self.format.silent_frame, self.format.rate_hz))
        self._sent_when_fed = self.frames_sent

    def _attach(self, wire: asyncio.Transport) -> None:
        wire.set_write_buffer_limits(high=MAX_BACKLOG_MS // FRAME_MS * (3 + self.format.frame_bytes))
        self._wire = wire
        self._state = _PortState.LIVE

    def _stall(self) -> None:
        if self._state is _PortState.LIVE:
            self._state = _PortState.STALLED
            self._stall_limit = asyncio.get_running_loop().call_later(STALL_LIMIT_S, self._give_up)

    def _resume(self) -> None:
        if self._state is _PortState.STALLED:
            self._state = _PortState.LIVE
            self._forget_stall()

    def _give_up(self) -> None:
        self._wire.abort()
        self._lose("Asterisk has stopped reading")

    def _forget_stall(self) -> None:
        if self._stall_limit is not None:
            self._stall_limit.cancel()

    def _enter_closed(self) -> None:
        self._state = _PortState.CLOSED
        self._forget_stall()

    def _receive(self, pcm: bytes) -> None:
        self.frames_received += 1
        self.on_audio(pcm)

    def _lose(self, reason: str) -> None:
        if self._state is not _PortState.CLOSED:
            self._enter_closed()
            self.on_event(Closed(reason))


class _Connection(asyncio.Protocol):
    """One TCP connection, of Asterisk or of a stranger."""

    def __init__(self, server: AudioSocketTransport) -> None:
        self.wire: asyncio.Transport
        self.port: AudioSocketPort | None = None
        self._server = server
        self._decoder = AudioSocketDecoder()

    @property
    def peer(self) -> str:
        address = self.wire.get_extra_info("peername")
        return f"{address[0]}:{address[1]}" if address else "unknown"

    def dismiss(self, error_message: bytes) -> None:
        """Sends one last message and closes."""
        # A peer that has stopped reading would keep a graceful close waiting.
        if self.port is not None and self.port._state is _PortState.STALLED:
            self.wire.abort()
        else:
            self.wire.write(error_message)
            self.wire.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.wire = cast(asyncio.Transport, transport)
        tune_stream(self.wire)
        self._server._welcome(self)

    def data_received(self, data: bytes) -> None:
        try:
            for event in self._decoder.decode(data):
                self._handle(event)
                if self.wire.is_closing():
                    return
        except AudioSocketError as error:
            self._reject(str(error))

    def pause_writing(self) -> None:
        if self.port is not None:
            self.port._stall()

    def resume_writing(self) -> None:
        if self.port is not None:
            self.port._resume()

    def eof_received(self) -> None:
        # Asterisk never half-closes: nobody reads what is still waiting to be sent.
        self.wire.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._server._forget(self)
        if self.port is not None:
            self.port._lose("Asterisk closed the connection" if exc is None else f"connection lost: {exc!r}")

    def _handle(self, event: AudioSocketEvent) -> None:
        if isinstance(event, Identified):
            self._server._identify(self, event.media_id)
            return
        # The decoder lets nothing through before ``Identified``.
        assert self.port is not None
        match event:
            case AudioReceived(pcm, rate_hz):
                if rate_hz == self.port.format.rate_hz:
                    self.port._receive(pcm)
                else:
                    self._reject(f"sound at {rate_hz} Hz, expected {self.port.format.rate_hz}")
            case DigitReceived(digit):
                self.port.on_event(DtmfReceived(digit))
            case HangupReceived():
                self.port._lose("Asterisk hung up")
                self.wire.abort()
            case ErrorReceived(code):
                self.port._lose(f"Asterisk reported error {code.hex() or 'without a code'}")
                self.wire.abort()

    def _reject(self, fault: str) -> None:
        self._server._settle(self)
        self._server._counts.protocol_errors += 1
        log.warning("audiosocket_message_rejected", peer=self.peer, fault=fault)
        self.dismiss(_NOT_UNDERSTOOD)
        if self.port is not None:
            self.port._lose(f"protocol error: {fault}")


class AudioSocketTransport:
    """The ``MediaTransport`` that listens for AudioSocket connections of Asterisk.

    ``port`` 0 takes a free one; ``address`` tells which. ``advertise_host`` is where Asterisk reaches us,
    needed where ``host`` is a wildcard. A UUID is all the proof a peer gives: keep to a private network.
    """

    name = "audiosocket"
    formats = tuple(_ARI_FORMATS)

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        advertise_host: str | None = None,
        identify_timeout_s: float = IDENTIFY_TIMEOUT_S,
        max_unidentified: int = MAX_UNIDENTIFIED,
    ) -> None:
        if advertise_host is None and is_wildcard(host):
            raise ValueError(f"listening on {host!r} needs advertise_host: where does Asterisk reach it?")
        self._counts = AudioSocketCounters()
        self._host = host
        self._port = port
        self._advertise_host = advertise_host
        self._identify_timeout_s = identify_timeout_s
        self._max_unidentified = max_unidentified
        self._waiting: dict[UUID, AudioSocketPort] = {}
        self._listener: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self._feeding: asyncio.TimerHandle | None = None
        self._unidentified: dict[_Connection, asyncio.TimerHandle] = {}
        """Oldest first, each with the timer that closes it."""
        self._all_gone = asyncio.Event()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port it listens on."""
        if self._listener is None or not self._listener.sockets:
            raise RuntimeError("the AudioSocket transport does not listen")
        host, port = self._listener.sockets[0].getsockname()[:2]
        return host, port

    @property
    def advertised(self) -> str:
        """``host:port`` as Asterisk is told."""
        host, port = self.address
        host = self._advertise_host or host
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def counters(self) -> Mapping[str, int]:
        return asdict(self._counts)

    def requirement(self, audio_format: AudioFormat) -> Requirement:
        return _NARROWBAND if audio_format == SLIN_8K else _WIDEBAND

    async def start(self) -> None:
        self._listener = await asyncio.get_running_loop().create_server(
            lambda: _Connection(self), self._host, self._port, backlog=512, start_serving=False
        )
        await self._listener.start_serving()
        self._feed()
        log.info("audiosocket_listening", host=self.address[0], port=self.address[1])

    async def close(self) -> None:
        """Stops listening and drops every connection; a close of our own, so no port reports ``Closed``."""
        if self._listener is None:
            return
        self._listener.close()
        if self._feeding is not None:
            self._feeding.cancel()
        for stranger in list(self._unidentified):
            self._give_up(stranger)
        for connection in list(self._connections):
            if connection.port is not None:
                connection.port.close()
            connection.wire.abort()
        while self._connections:
            self._all_gone.clear()
            await self._all_gone.wait()
        await self._listener.wait_closed()

    def _feed(self) -> None:
        self._feeding = asyncio.get_running_loop().call_later(FEED_S, self._feed)
        for connection in self._connections:
            if connection.port is not None:
                connection.port._feed()

    def open_port(self, media_id: UUID, audio_format: AudioFormat) -> AudioSocketPort:
        port = AudioSocketPort(self, media_id, audio_format)
        self._waiting[media_id] = port
        return port

    def _expect_no_more(self, media_id: UUID) -> None:
        self._waiting.pop(media_id, None)

    def _welcome(self, connection: _Connection) -> None:
        self._counts.connections += 1
        self._connections.add(connection)
        if self._listener is None or not self._listener.is_serving():
            connection.wire.abort()
            return
        if len(self._unidentified) >= self._max_unidentified:
            oldest = next(iter(self._unidentified))
            self._give_up(oldest)
            self._counts.crowded_out += 1
        self._unidentified[connection] = asyncio.get_running_loop().call_later(
            self._identify_timeout_s, self._time_out, connection
        )

    def _time_out(self, connection: _Connection) -> None:
        self._counts.timeouts += 1
        self._give_up(connection)

    def _give_up(self, connection: _Connection) -> None:
        self._settle(connection)
        connection.wire.abort()

    def _settle(self, connection: _Connection) -> bool:
        """Waits no longer for the connection's UUID; False where it did not."""
        timer = self._unidentified.pop(connection, None)
        if timer is not None:
            timer.cancel()
        return timer is not None

    def _identify(self, connection: _Connection, media_id: UUID) -> None:
        self._settle(connection)
        port = self._waiting.pop(media_id, None)
        if port is None:
            self._counts.refused += 1
            log.warning("audiosocket_refused", peer=connection.peer, media_id=str(media_id))
            connection.dismiss(_NOT_EXPECTED)
            return
        port._attach(connection.wire)
        connection.port = port
        port.on_event(Connected())

    def _forget(self, connection: _Connection) -> None:
        self._connections.discard(connection)
        if self._settle(connection):
            self._counts.abandoned += 1
        if not self._connections:
            self._all_gone.set()
