"""ExternalMedia: plain RTP to and from Asterisk, one UDP port for each call.

Asterisk sends to the address that it was given when the channel was made, and says where it receives: we send there
first, from the same port, and nothing has to be learned. Neither side can tell whether the other is still there;
what ends a call are ARI's events.
"""

from __future__ import annotations

import asyncio
import random
import resource
import socket
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from enum import Enum, auto
from typing import Literal, cast
from uuid import UUID

import structlog

from audio.conceal import Concealer
from audio.formats import AudioFormat
from transport.jitter_buffer import Gap, JitterBuffer, Piece, StreamCounters
from transport.media import Closed, Connected, ExternalMedia, MediaUnavailable, PortEvent, Requirement
from transport.rtp_codec import OutgoingStream, RtpError, is_rtcp, parse
from transport.rtp_formats import CLOCK_HZ, WIRE_FORMATS
from transport.sockets import is_wildcard

log = structlog.get_logger(__name__)

PORTS = range(21_000, 25_000)
MAX_DATAGRAM_BYTES = 2048
"""More than an Ethernet frame holds, and 60 ms of any format."""

# Three seconds of sound on Linux, which doubles the figure and counts some 700 bytes for a packet.
_RECEIVE_BUFFER_BYTES = 65_536
_OTHER_FILES = 1024
"""Files of this process that are not ports: connections to providers, to ARI, logs."""

Address = tuple[str, int]

_MODULES = ("chan_rtp.so", "res_rtp_asterisk.so")


@dataclass(slots=True)
class RtpCounters:
    strangers: int = 0
    """Datagrams of somebody else than the peer; never answered."""
    malformed: int = 0
    rtcp: int = 0
    icmp_errors: int = 0
    """The network reported that something could not be delivered."""
    ports_exhausted: int = 0


class _PortState(Enum):
    BOUND = auto()
    JOINING = auto()
    LIVE = auto()
    CLOSED = auto()


def _ignore(_: object) -> None:
    pass


class RtpPort:
    """One call's ``MediaPort``: a UDP port that is bound from the beginning, and live once Asterisk's is known."""

    paced_by_peer: Literal[False] = False
    brings_keys = False
    notices_end = False

    def __init__(self, transport: RtpTransport, bound: socket.socket, audio_format: AudioFormat) -> None:
        wire_format = WIRE_FORMATS[audio_format]
        self.format = audio_format
        self.on_audio: Callable[[bytes], None] = _ignore
        self.on_event: Callable[[PortEvent], None] = _ignore
        self.frames_received = 0
        self.frames_sent = 0
        self.frames_dropped = 0
        self._transport = transport
        self._counts = transport._counts
        self._socket = bound
        self._wire_format = wire_format
        self._encode, self._decode = wire_format.recoders()
        self._outgoing = OutgoingStream(wire_format.payload_type, bytes_per_tick=wire_format.bytes_per_tick)
        self._incoming = JitterBuffer(wire_format.payload_type, bytes_per_tick=wire_format.bytes_per_tick)
        self._concealer = Concealer(audio_format)
        self._samples_per_tick = audio_format.rate_hz // CLOCK_HZ
        self._state = _PortState.BOUND
        self._endpoint: asyncio.DatagramTransport | None = None
        self._peer: Address
        """Where Asterisk receives, and so whence it should send."""
        self._source: Address | None = None
        """Whence it does send."""
        self._allowed_hosts: Collection[str] = ()
        self._hole_timer: asyncio.TimerHandle | None = None
        self._fault_reported = False

    @property
    def frames_lost(self) -> int:
        return self._incoming.counts.lost

    @property
    def frames_concealed(self) -> int:
        return self._incoming.counts.concealed

    def external_media(self) -> ExternalMedia:
        host = self._transport.advertised_host
        port = self._socket.getsockname()[1]
        return ExternalMedia(
            format=self._wire_format.name,
            encapsulation="rtp",
            transport="udp",
            external_host=f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
        )

    async def join(self, variables: Mapping[str, str]) -> None:
        """Finds Asterisk's end by UNICASTRTP_LOCAL_ADDRESS and _PORT; from then on ``send`` goes there."""
        peer = await self._transport._locate(variables, self._socket.family)
        if self._state is not _PortState.BOUND:
            raise MediaUnavailable("the RTP port is closed or has joined already")
        self._peer = peer
        self._allowed_hosts = {peer[0], *self._transport._allowed_addresses}
        self._state = _PortState.JOINING
        await asyncio.get_running_loop().create_datagram_endpoint(lambda: _Endpoint(self), sock=self._socket)
        if self._state is not _PortState.JOINING:
            raise MediaUnavailable("the RTP port was closed while it joined")
        self._state = _PortState.LIVE
        self.on_event(Connected())

    def send(self, frame: bytes) -> None:
        """Sends one frame at once: the sender keeps the time."""
        if self._state is not _PortState.LIVE:
            self.frames_dropped += 1
            return
        payload = self._encode(frame)
        if not payload:
            return
        datagram = self._outgoing.packet(payload, time.monotonic())
        try:
            # Past the endpoint, which would keep without limit what the network does not take at once.
            self._socket.sendto(datagram, self._peer)
        except BlockingIOError:
            self.frames_dropped += 1
        except OSError as error:
            self.frames_dropped += 1
            self._take_error(error)
        else:
            self.frames_sent += 1

    def flush(self) -> None:
        """Nothing to drop: Asterisk plays what it is sent at once."""

    def close(self) -> None:
        state, self._state = self._state, _PortState.CLOSED
        if state is _PortState.CLOSED:
            return
        if self._hole_timer is not None:
            self._hole_timer.cancel()
        if self._endpoint is not None:
            self._endpoint.abort()
        elif state is _PortState.BOUND:
            self._socket.close()
        # Else the loop is about to hand the endpoint over, and has the socket.
        self._transport._retire(self)

    def _attach(self, endpoint: asyncio.DatagramTransport) -> None:
        if self._state is _PortState.CLOSED:
            endpoint.abort()
            return
        self._endpoint = endpoint
        # An implementation detail of asyncio's selector transports, which allocate as much for each read.
        if hasattr(endpoint, "max_size"):
            endpoint.max_size = MAX_DATAGRAM_BYTES

    def _receive(self, datagram: bytes, source: Address) -> None:
        if source != self._source and not self._may_send(source):
            self._counts.strangers += 1
            self._report("a stranger", source)
            return
        try:
            if len(datagram) >= MAX_DATAGRAM_BYTES:
                raise RtpError(f"size: {len(datagram)} bytes")
            packet = parse(datagram)
            if len(packet.payload) % self._wire_format.bytes_per_tick:
                raise RtpError(f"payload: {len(packet.payload)} bytes are not whole samples")
        except RtpError as error:
            if is_rtcp(datagram):
                self._counts.rtcp += 1
            else:
                self._counts.malformed += 1
                self._report(str(error), source)
            return
        self._source = source
        self._hear(self._incoming.push(packet, time.monotonic()))

    def _may_send(self, source: Address) -> bool:
        """Whether to listen to an address, from now on; the announced one has precedence for good."""
        return source == self._peer or (self._source is None and source[0] in self._allowed_hosts)

    def _hear(self, pieces: Collection[Piece]) -> None:
        for piece in pieces:
            if isinstance(piece, Gap):
                frame = self._concealer.conceal(piece.ticks * self._samples_per_tick)
            else:
                self.frames_received += 1
                frame = self._concealer.hear(self._decode(piece))
            # Whoever listens may close the port.
            if self._state is _PortState.LIVE:
                self.on_audio(frame)
        due = self._incoming.due
        if due is not None and self._hole_timer is None and self._state is _PortState.LIVE:
            delay_s = max(0.0, due - time.monotonic())
            self._hole_timer = asyncio.get_running_loop().call_later(delay_s, self._give_up)

    def _give_up(self) -> None:
        self._hole_timer = None
        self._hear(self._incoming.advance(time.monotonic()))

    def _take_error(self, error: OSError) -> None:
        self._counts.icmp_errors += 1
        self._report(repr(error), self._peer)

    def _report(self, fault: str, source: Address) -> None:
        """Says what is wrong once for each port, lest a flood of datagrams become one of lines."""
        if not self._fault_reported:
            self._fault_reported = True
            log.debug("rtp_fault_noticed", fault=fault, source=source, port_format=str(self.format))

    def _lose(self, reason: str) -> None:
        if self._state is not _PortState.CLOSED:
            self.close()
            self.on_event(Closed(reason))


class _Endpoint(asyncio.DatagramProtocol):
    """What asyncio calls when something happens to a port's socket."""

    def __init__(self, port: RtpPort) -> None:
        self._port = port

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._port._attach(cast(asyncio.DatagramTransport, transport))

    def datagram_received(self, data: bytes, addr: tuple[str | object, int]) -> None:
        # IPv6 addresses have two more fields.
        self._port._receive(data, addr[:2])  # type: ignore[arg-type]

    def error_received(self, exc: Exception) -> None:
        if isinstance(exc, OSError):
            self._port._take_error(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        self._port._lose(f"the RTP port broke: {exc!r}")


class RtpTransport:
    """The ``MediaTransport`` of Asterisk's ExternalMedia channels.

    ``host`` is the address to bind and ``advertise_host`` where Asterisk reaches it, needed where ``host`` is a
    wildcard. ``asterisk_host`` is where Asterisk is, should it name a wildcard itself. Besides the address that
    Asterisk names, sound may come from ``allowed_hosts``.
    """

    name = "externalmedia"
    formats = tuple(WIRE_FORMATS)

    def __init__(
        self,
        host: str = "127.0.0.1",
        ports: range = PORTS,
        *,
        advertise_host: str | None = None,
        asterisk_host: str = "127.0.0.1",
        allowed_hosts: Collection[str] = (),
    ) -> None:
        if advertise_host is None and is_wildcard(host):
            raise ValueError(f"listening on {host!r} needs advertise_host: where does Asterisk reach it?")
        self.advertised_host = advertise_host or host
        self._counts = RtpCounters()
        self._host = host
        self._ports = ports
        self._asterisk_host = asterisk_host
        self._allowed_hosts = allowed_hosts
        self._allowed_addresses: set[str] = set()
        self._family = socket.AF_INET
        self._next_port = random.randrange(len(ports))
        self._open_ports: set[RtpPort] = set()
        self._of_closed_ports = Counter(asdict(StreamCounters()))

    @property
    def counters(self) -> Mapping[str, int]:
        streams = self._of_closed_ports.copy()
        for port in self._open_ports:
            streams.update(asdict(port._incoming.counts))
        return asdict(self._counts) | streams

    def requirement(self, audio_format: AudioFormat) -> Requirement:
        codec_module = WIRE_FORMATS[audio_format].codec_module
        return Requirement(_MODULES if codec_module is None else (*_MODULES, codec_module))

    async def start(self) -> None:
        """Looks the hosts up. Raises OSError."""
        loop = asyncio.get_running_loop()
        self._family = (await loop.getaddrinfo(self._host, None, type=socket.SOCK_DGRAM))[0][0]
        for host in self._allowed_hosts:
            self._allowed_addresses.update(await _addresses(host, self._family))
        _allow_open_files(len(self._ports) + _OTHER_FILES)
        log.info("rtp_ready", host=self._host, ports=f"{self._ports[0]}-{self._ports[-1]}")

    async def close(self) -> None:
        for port in list(self._open_ports):
            port.close()

    def open_port(self, media_id: UUID, audio_format: AudioFormat) -> RtpPort:
        bound = self._bind()
        try:
            port = RtpPort(self, bound, audio_format)
        except BaseException:
            bound.close()
            raise
        self._open_ports.add(port)
        return port

    def _bind(self) -> socket.socket:
        """The next free port. They go round, so that one is not soon used again: its last caller may linger."""
        refusal: OSError | None = None
        for _ in self._ports:
            number = self._ports[self._next_port]
            self._next_port = (self._next_port + 1) % len(self._ports)
            try:
                bound = socket.socket(self._family, socket.SOCK_DGRAM)
            except OSError as error:
                refusal = error
                break
            try:
                bound.bind((self._host, number))
            except OSError as error:
                refusal = error
                bound.close()
                continue
            bound.setblocking(False)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
            return bound
        self._counts.ports_exhausted += 1
        raise MediaUnavailable(f"no RTP port is free on {self._host}: {refusal}")

    async def _locate(self, variables: Mapping[str, str], family: socket.AddressFamily) -> Address:
        """Where Asterisk receives."""
        host = variables.get("UNICASTRTP_LOCAL_ADDRESS", "")
        number = variables.get("UNICASTRTP_LOCAL_PORT", "")
        if not number.isdecimal() or not 0 < int(number) < 65536:
            raise MediaUnavailable(f"Asterisk did not say where it receives RTP: port {number!r}")
        if is_wildcard(host):
            host = self._asterisk_host
        try:
            found = await _addresses(host, family)
        except OSError as error:
            raise MediaUnavailable(f"Asterisk's address {host!r} is of no use: {error}") from None
        return found[0], int(number)

    def _retire(self, port: RtpPort) -> None:
        self._open_ports.discard(port)
        self._of_closed_ports.update(asdict(port._incoming.counts))


async def _addresses(host: str, family: socket.AddressFamily) -> list[str]:
    """The addresses of a host, as a socket of ``family`` reports them. Raises OSError."""
    flags = socket.AI_V4MAPPED if family == socket.AF_INET6 else 0
    found = await asyncio.get_running_loop().getaddrinfo(host, None, family=family, type=socket.SOCK_DGRAM, flags=flags)
    return [str(address[0]) for *_, address in found]


def _allow_open_files(wanted: int) -> None:
    """Raises this process's limit of open files as far as it may: each port is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if allowed < wanted:
        log.warning("open_files_limited", allowed=allowed, wanted=wanted)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
