"""The media of one call: sends a packet every 20 ms without fail, keeps every packet that arrives."""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from engine.metronome import Metronome
from testkit import rtp
from testkit.codecs import PCMU, Codec, Coder
from testkit.waiting import Moment

LOOPBACK = "127.0.0.1"
FRAME_SAMPLES = 160
"""20 ms at 8000 Hz: a packet of PCMU, and what a telephone event counts in."""
DIGIT_PACKETS = 5
"""100 ms of key."""
DIGIT_PAUSE_PACKETS = 4

_metronomes: WeakKeyDictionary[asyncio.AbstractEventLoop, Metronome] = WeakKeyDictionary()


def shared_metronome() -> Metronome:
    """The one beat of this event loop: a hundred callers are a hundred calls of a function, not timers."""
    loop = asyncio.get_running_loop()
    if loop not in _metronomes:
        _metronomes[loop] = Metronome()
    return _metronomes[loop]


class CallOverError(Exception):
    """What was waited for did not happen before the call, or its codec, was over."""


@dataclass(slots=True)
class Utterance:
    """Something that is being said; times in ``time.monotonic()`` seconds."""

    sound: bytes
    not_before: float
    is_pcm: bool = False
    """``sound`` is 16-bit samples at the codec's rate, otherwise the codec's bytes."""
    started: Moment = field(default_factory=Moment)
    """When its first packet left."""
    done: Moment = field(default_factory=Moment)
    """When its last packet left."""
    offset: int = 0

    def give_up(self, reason: str = "the call ended first") -> None:
        """What has not happened of it never will."""
        self.started.never(CallOverError(reason))
        self.done.never(CallOverError(reason))


@dataclass(slots=True)
class _Digit:
    digit: str
    packets: int = 0


class RtpStream(asyncio.DatagramProtocol):
    """Sends 20 ms of its codec a packet; ``received`` and ``sent`` keep everything."""

    def __init__(self, codec: Codec = PCMU, *, sends: bool = True) -> None:
        self.codec = codec
        """What is spoken."""
        self.sends = sends
        """Whether packets leave; while none do, time passes, and what is being said waits."""
        self.received: list[rtp.RtpPacket] = []
        self.sent: list[tuple[float, bytes]] = []
        """Time and payload of every packet of ours (keys are silence)."""
        self.errors = 0
        self._queue: deque[Utterance | _Digit] = deque()
        self._sequence = secrets.randbelow(1 << 15)
        self._timestamp = secrets.randbelow(1 << 31)
        self._ssrc = secrets.randbits(32)
        self._encode: Coder = codec.new_encoder()
        self._payload_type = codec.media.payload_type
        self._event_type = rtp.KEYS
        self._remote: tuple[str, int] | None = None
        self._ports: _Ports
        self._resumes = True
        """The next packet is the first after a pause."""
        self._over = False
        self._leave: Callable[[], None] | None = None

    async def open(self) -> int:
        """Binds a pair of ports of its own; returns the even one, which is that of RTP."""
        self._ports = await self._bind()
        return self._ports.number

    async def move(self) -> Move:
        """Binds another pair of ports, at which it hears as well; it sends from there once that is kept."""
        return Move(self, await self._bind())

    async def _bind(self) -> _Ports:
        own, rtcp = _port_pair()
        number: int = own.getsockname()[1]
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: self, sock=own)
        return _Ports(number, transport, rtcp)

    def start(self, remote: tuple[str, int], codec: Codec, payload_type: int, event_type: int) -> None:
        """Sends to ``remote`` from now on, in ``codec``; called again, follows it to another place or codec.

        What is still to be said in another codec never will be.
        """
        if codec is not self.codec:
            self._give_up("the codec changed first")
            self.codec = codec
            self._encode = codec.new_encoder()
        self._remote = remote
        self._payload_type = payload_type
        self._event_type = event_type
        if self._leave is None:
            self._leave = shared_metronome().join(self._beat)

    def stop(self) -> None:
        """Sends nothing from now on; what was still to be said never will be. Still receives."""
        self._over = True
        if self._leave is not None:
            self._leave()
            self._leave = None
        self._give_up("the call ended first")

    def close(self) -> None:
        """Stops, and gives the ports back."""
        self.stop()
        self._ports.close()

    def say(self, sound: bytes, after_s: float = 0.0, *, is_pcm: bool = False) -> Utterance:
        if not is_pcm and self.codec.packet_bytes is None:
            raise ValueError(f"packets of {self.codec.name} have no fixed size: it is spoken as PCM")
        utterance = Utterance(sound, time.monotonic() + after_s, is_pcm)
        if self._over:
            utterance.give_up()
        else:
            self._queue.append(utterance)
        return utterance

    def press(self, digits: str) -> None:
        self._queue.extend(_Digit(digit) for digit in digits)

    def datagram_received(self, datagram: bytes, _: object) -> None:
        arrived_at = time.monotonic()
        try:
            self.received.append(rtp.parse(datagram, arrived_at))
        except rtp.RtpError:
            self.errors += 1

    def error_received(self, _: Exception) -> None:
        self.errors += 1

    def _beat(self) -> None:
        if not self.sends:
            self._timestamp = (self._timestamp + self.codec.packet_ticks) & 0xFFFFFFFF
            self._resumes = True
            return
        now = time.monotonic()
        head = self._queue[0] if self._queue else None
        if isinstance(head, _Digit):
            self._send_digit(head)
            payload = self.codec.padding * (self.codec.packet_bytes or 0)
        else:
            payload = self._next_payload(head, now)
            self._send(self._payload_type, payload)
            self._timestamp = (self._timestamp + self.codec.packet_ticks) & 0xFFFFFFFF
        self.sent.append((now, payload))

    def _next_payload(self, utterance: Utterance | None, now: float) -> bytes:
        codec = self.codec
        if utterance is None or now < utterance.not_before:
            return codec.silence or self._encode(bytes(codec.packet_pcm_bytes))
        utterance.started.come(now)
        size = codec.packet_pcm_bytes if utterance.is_pcm else codec.packet_bytes
        assert size is not None
        piece = utterance.sound[utterance.offset : utterance.offset + size]
        utterance.offset += size
        if utterance.offset >= len(utterance.sound):
            self._queue.popleft()
            utterance.done.come(now)
        if utterance.is_pcm:
            return self._encode(piece.ljust(size, b"\0"))
        return piece.ljust(size, codec.padding)

    def _send_digit(self, digit: _Digit) -> None:
        """One packet's time of a key: it is held, repeated three times at its end, and followed by a pause."""
        digit.packets += 1
        held = min(digit.packets, DIGIT_PACKETS)
        if digit.packets <= DIGIT_PACKETS + 2:
            event = rtp.TelephoneEvent(digit.digit, held * FRAME_SAMPLES, end=digit.packets >= DIGIT_PACKETS)
            self._send(self._event_type, rtp.serialize_event(event), marker=digit.packets == 1)
        elif digit.packets > DIGIT_PACKETS + 2 + DIGIT_PAUSE_PACKETS:
            # All packets of a key carry the time at which it went down; the clock goes on afterwards.
            self._timestamp = (self._timestamp + digit.packets * self.codec.packet_ticks) & 0xFFFFFFFF
            self._queue.popleft()

    def _send(self, payload_type: int, payload: bytes, *, marker: bool = False) -> None:
        packet = rtp.RtpPacket(
            payload_type, self._sequence, self._timestamp, self._ssrc, payload, marker or self._resumes
        )
        self._resumes = False
        self._sequence = (self._sequence + 1) & 0xFFFF
        self._ports.transport.sendto(rtp.serialize(packet), self._remote)

    def _give_up(self, reason: str) -> None:
        """Keys go with the words: they were to follow them."""
        for entry in self._queue:
            if isinstance(entry, Utterance):
                entry.give_up(reason)
        self._queue.clear()


@dataclass(slots=True, frozen=True)
class _Ports:
    number: int
    """The even one."""
    transport: asyncio.DatagramTransport
    rtcp: socket.socket

    def close(self) -> None:
        self.transport.close()
        self.rtcp.close()


@dataclass(slots=True, frozen=True)
class Move:
    """Ports that the other side has been told of. Until it has agreed, sound comes to the old ones."""

    _stream: RtpStream
    _ports: _Ports

    @property
    def port(self) -> int:
        return self._ports.number

    def keep(self) -> None:
        """Agreed: the old ports go."""
        self._stream._ports.close()
        self._stream._ports = self._ports

    def take_back(self) -> None:
        """Refused: the new ports go."""
        self._ports.close()


def _port_pair() -> tuple[socket.socket, socket.socket]:
    """Two neighbouring ports, even and odd. Asterisk reports (RTCP) to the odd one, unheard: it is held because
    another caller would take the reports for sound."""
    while True:
        even = _bound(0)
        port = even.getsockname()[1]
        if port % 2 == 0:
            try:
                odd = _bound(port + 1)
            except OSError:
                pass
            else:
                even.setblocking(False)
                return even, odd
        even.close()


def _bound(port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        bound.bind((LOOPBACK, port))
    except OSError:
        bound.close()
        raise
    return bound
