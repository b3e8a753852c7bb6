"""The media of one call: sends a packet every 20 ms without fail, keeps every packet that arrives."""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast
from weakref import WeakKeyDictionary

from engine.metronome import Metronome
from testkit import rtp
from testkit.waiting import Moment

LOOPBACK = "127.0.0.1"
FRAME_SAMPLES = 160
SILENCE = b"\xff" * FRAME_SAMPLES
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
    """What was waited for did not happen before the call was over."""


@dataclass(slots=True)
class Utterance:
    """Something that is being said; times in ``time.monotonic()`` seconds."""

    sound: bytes
    not_before: float
    started: Moment = field(default_factory=Moment)
    """When its first packet left."""
    done: Moment = field(default_factory=Moment)
    """When its last packet left."""
    offset: int = 0

    def give_up(self) -> None:
        """The call is over: what has not happened of it never will."""
        self.started.never(CallOverError("the call ended first"))
        self.done.never(CallOverError("the call ended first"))


@dataclass(slots=True)
class _Digit:
    digit: str
    packets: int = 0


class RtpStream(asyncio.DatagramProtocol):
    """Sends μ-law, 160 samples a packet; ``received`` and ``sent`` keep everything."""

    def __init__(self) -> None:
        self.received: list[rtp.RtpPacket] = []
        self.sent: list[tuple[float, bytes]] = []
        """Time and sound of every packet of ours (keys are silence)."""
        self.errors = 0
        self._queue: deque[Utterance | _Digit] = deque()
        self._sequence = secrets.randbelow(1 << 15)
        self._timestamp = secrets.randbelow(1 << 31)
        self._ssrc = secrets.randbits(32)
        self._event_type = 101
        self._remote: tuple[str, int] | None = None
        self._transport: asyncio.DatagramTransport
        self._rtcp: socket.socket
        self._over = False
        self._leave: Callable[[], None] | None = None

    async def open(self) -> int:
        """Binds a pair of ports of its own; returns the even one, which is that of RTP."""
        own, self._rtcp = _port_pair()
        await asyncio.get_running_loop().create_datagram_endpoint(lambda: self, sock=own)
        port: int = own.getsockname()[1]
        return port

    def start(self, remote: tuple[str, int], event_type: int) -> None:
        """Sends to ``remote`` from now on; called again, follows it to another place."""
        self._remote = remote
        self._event_type = event_type
        if self._leave is None:
            self._leave = shared_metronome().join(self._beat)

    def stop(self) -> None:
        """Sends nothing from now on; what was still to be said never will be. Still receives."""
        self._over = True
        if self._leave is not None:
            self._leave()
            self._leave = None
        for entry in self._queue:
            if isinstance(entry, Utterance):
                entry.give_up()
        self._queue.clear()

    def close(self) -> None:
        """Stops, and gives the ports back."""
        self.stop()
        self._transport.close()
        self._rtcp.close()

    def say(self, sound: bytes, after_s: float = 0.0) -> Utterance:
        utterance = Utterance(sound, time.monotonic() + after_s)
        if self._over:
            utterance.give_up()
        else:
            self._queue.append(utterance)
        return utterance

    def press(self, digits: str) -> None:
        self._queue.extend(_Digit(digit) for digit in digits)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, datagram: bytes, _: object) -> None:
        arrived_at = time.monotonic()
        try:
            self.received.append(rtp.parse(datagram, arrived_at))
        except rtp.RtpError:
            self.errors += 1

    def error_received(self, _: Exception) -> None:
        self.errors += 1

    def _beat(self) -> None:
        now = time.monotonic()
        head = self._queue[0] if self._queue else None
        if isinstance(head, _Digit):
            self._send_digit(head)
            sound = SILENCE
        else:
            sound = self._next_sound(head, now)
            self._send(0, sound)
            self._timestamp = (self._timestamp + FRAME_SAMPLES) & 0xFFFFFFFF
        self.sent.append((now, sound))

    def _next_sound(self, utterance: Utterance | None, now: float) -> bytes:
        if utterance is None or now < utterance.not_before:
            return SILENCE
        utterance.started.come(now)
        sound = utterance.sound[utterance.offset : utterance.offset + FRAME_SAMPLES]
        utterance.offset += FRAME_SAMPLES
        if utterance.offset >= len(utterance.sound):
            self._queue.popleft()
            utterance.done.come(now)
        return sound.ljust(FRAME_SAMPLES, b"\xff")

    def _send_digit(self, digit: _Digit) -> None:
        """One packet's time of a key: it is held, repeated three times at its end, and followed by a pause."""
        digit.packets += 1
        held = min(digit.packets, DIGIT_PACKETS)
        if digit.packets <= DIGIT_PACKETS + 2:
            event = rtp.TelephoneEvent(digit.digit, held * FRAME_SAMPLES, end=digit.packets >= DIGIT_PACKETS)
            self._send(self._event_type, rtp.serialize_event(event), marker=digit.packets == 1)
        elif digit.packets > DIGIT_PACKETS + 2 + DIGIT_PAUSE_PACKETS:
            # All packets of a key carry the time at which it went down; the clock goes on afterwards.
            self._timestamp = (self._timestamp + digit.packets * FRAME_SAMPLES) & 0xFFFFFFFF
            self._queue.popleft()

    def _send(self, payload_type: int, payload: bytes, *, marker: bool = False) -> None:
        packet = rtp.RtpPacket(
            payload_type, self._sequence, self._timestamp, self._ssrc, payload, marker or not self.sent
        )
        self._sequence = (self._sequence + 1) & 0xFFFF
        self._transport.sendto(rtp.serialize(packet), self._remote)


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
