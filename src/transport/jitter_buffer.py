"""What a network does to a stream of sound, undone as far as that goes without delay: sans-I/O, clock passed in.

A packet that is next in sequence leaves at once: nobody plays these packets at a steady pace, and whoever listens
answers the sooner. Only behind a hole do packets wait, until it is filled or its time has passed on the playout
clock; then the hole becomes a ``Gap`` to be concealed, and all that waited leaves: there is no lag to get rid of.

A stream that stops is not losing anything. Silence suppression, hold and keys (RFC 4733) all stop it, and Asterisk
does not pass the packets of keys on but keeps their numbers, so that a hole counts as loss only if the timestamps
agree: as much time has passed as the missing packets would have filled.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from transport.rtp_codec import RtpPacket

PATIENCE_S = 0.07
"""How far behind its time on the playout clock a packet may be. Measured with delays spread over 120 ms, which put
nearly every packet out of order: 14 % come too late for 50 ms, 2.3 % for 60 ms, 0.04 % for 70 ms."""
LONGEST_WAIT_S = 0.1
"""However the clock stands."""
GRACE_S = 0.01
"""What a hole is given even if its time has passed: after a stall packets come in a rush, and out of order."""
MAX_CONCEALED_MS = 200
"""In a row. What lasts longer is heard as the silence that it is."""
MAX_HOLE = 50
"""Packets, a second as a rule; what is further away does not belong to the stream as it was."""
PROBATION = 3
"""Packets in sequence, and none of the stream itself between them, that make a new stream of strange ones."""

_RESTART_S = 0.2
_CLOCK_GAIN = 1 / 32


@dataclass(slots=True, frozen=True)
class Gap:
    """A lost packet, to be concealed; as long as the one before it, in ticks of the RTP clock."""

    ticks: int


Piece = bytes | Gap


@dataclass(slots=True)
class StreamCounters:
    """What befell one stream, in packets."""

    lost: int = 0
    """Never came, or too late."""
    late: int = 0
    """Came when they had been given up on."""
    concealed: int = 0
    """Gaps to be concealed."""
    duplicate: int = 0
    reordered: int = 0
    """Came after a later one and still in time."""
    passed_over: int = 0
    """Numbers that no sound was lost with, as the timestamps tell: keys."""
    foreign_ssrc: int = 0
    """Ignored: of a source, or of a part of the numbers, that did not become the stream."""
    foreign_type: int = 0
    """Ignored: of a payload type other than the stream's, or empty."""
    restarts: int = 0
    """Another source took over, or this one began its numbers anew."""


class JitterBuffer:
    """One stream of one payload type. ``push`` what arrives, and ``advance`` once it is ``due``.

    Times are in seconds of any steady clock; ``clock_hz`` is that of the timestamps.
    """

    __slots__ = (
        "_bytes_per_tick",
        "_clock_hz",
        "_concealed_ticks",
        "_given_up",
        "_held",
        "_next",
        "_next_at",
        "_next_timestamp",
        "_payload_type",
        "_ssrc",
        "_suspects",
        "_ticks",
        "counts",
    )

    def __init__(self, payload_type: int, *, bytes_per_tick: int = 1, clock_hz: int = 8000) -> None:
        self.counts = StreamCounters()
        self._payload_type = payload_type
        self._bytes_per_tick = bytes_per_tick
        self._clock_hz = clock_hz
        self._ssrc: int | None = None
        self._next = 0
        """Number of the packet to leave next, counted on where the 16 bits go round."""
        self._next_timestamp = 0
        self._next_at = 0.0
        """When it should arrive: the playout clock, which follows the mean of the arrivals."""
        self._ticks = 0
        """Length of the last packet."""
        self._concealed_ticks = 0
        """In a row, up to now."""
        self._held: dict[int, tuple[RtpPacket, float]] = {}
        """Packets behind a hole by number, with their arrivals, in the order of these."""
        self._given_up: deque[int] = deque(maxlen=MAX_HOLE)
        self._suspects: list[tuple[RtpPacket, float]] = []

    @property
    def due(self) -> float | None:
        """When the next hole is to be given up on; None while there is none."""
        if not self._held:
            return None
        _, waiting_since = next(iter(self._held.values()))
        return min(max(self._next_at + PATIENCE_S, waiting_since + GRACE_S), waiting_since + LONGEST_WAIT_S)

    def push(self, packet: RtpPacket, now: float) -> Sequence[Piece]:
        """Takes a packet that has just arrived; returns what can be heard now."""
        if packet.ssrc != self._ssrc:
            return self._suspect(packet, now)
        distance = _signed(packet.sequence - self._next, 16)
        if distance == 0 and not self._held:
            if self._suspects:
                self._dismiss_suspects()
            return self._take(packet, now)
        if distance > MAX_HOLE or (distance < 0 and not self._is_old(packet, distance)):
            return self._suspect(packet, now)
        self._dismiss_suspects()
        number = self._next + distance
        if distance < 0:
            if number in self._given_up:
                self._given_up.remove(number)
                self.counts.late += 1
            else:
                self.counts.duplicate += 1
            return ()
        if number in self._held:
            self.counts.duplicate += 1
            return ()
        self.counts.reordered += any(later > number for later in self._held)
        self._held[number] = packet, now
        return self.advance(now)

    def advance(self, now: float) -> Sequence[Piece]:
        """Returns what can be heard now that it is ``now``."""
        pieces: list[Piece] = []
        while (due := self.due) is not None:
            if self._next in self._held:
                pieces += self._take(*self._held.pop(self._next))
            elif now >= due:
                pieces += self._give_up()
            else:
                break
        return pieces

    def _take(self, packet: RtpPacket, arrived_at: float) -> Sequence[Piece]:
        """The packet that is next in sequence leaves."""
        self._next += 1
        if packet.payload_type != self._payload_type or not packet.payload:
            self.counts.foreign_type += 1
            return ()
        ticks = len(packet.payload) // self._bytes_per_tick
        expected_at = self._next_at + _signed(packet.timestamp - self._next_timestamp, 32) / self._clock_hz
        lateness_s = arrived_at - expected_at
        if -_RESTART_S < lateness_s < _RESTART_S:
            expected_at += lateness_s * _CLOCK_GAIN
        else:
            # A pause that the timestamps pass over, or time of another source.
            expected_at = arrived_at
        self._next_at = expected_at + ticks / self._clock_hz
        self._next_timestamp = packet.timestamp + ticks
        self._ticks = ticks
        self._concealed_ticks = 0
        return (packet.payload,)

    def _give_up(self) -> Sequence[Piece]:
        """The first packet of a hole will not be waited for any more; or the whole hole, if no sound was in it."""
        nearest = min(self._held)
        missing = nearest - self._next
        elapsed = _signed(self._held[nearest][0].timestamp - self._next_timestamp, 32)
        if elapsed != missing * self._ticks:
            self.counts.passed_over += missing
            self._given_up.extend(range(self._next, nearest))
            self._next = nearest
            return ()
        self.counts.lost += 1
        self._given_up.append(self._next)
        self._next += 1
        self._next_timestamp += self._ticks
        self._next_at += self._ticks / self._clock_hz
        self._concealed_ticks += self._ticks
        if self._concealed_ticks * 1000 > MAX_CONCEALED_MS * self._clock_hz:
            return ()
        self.counts.concealed += 1
        return (Gap(self._ticks),)

    def _is_old(self, packet: RtpPacket, distance: int) -> bool:
        """Whether a number that is behind is that of a packet of before; else the numbers have begun anew."""
        return distance >= -MAX_HOLE and _signed(packet.timestamp - self._next_timestamp, 32) < 0

    def _suspect(self, packet: RtpPacket, now: float) -> Sequence[Piece]:
        """Takes a packet that does not fit the stream: the first of a new one, or a stray."""
        if self._ssrc is None:
            self._restart(packet, now)
            return self._take(packet, now)
        if self._suspects:
            last, _ = self._suspects[-1]
            step = _signed(packet.sequence - last.sequence, 16)
            if packet.ssrc == last.ssrc and step == 0:
                self.counts.duplicate += 1
                return ()
            if packet.ssrc != last.ssrc or step != 1:
                self._dismiss_suspects()
        self._suspects.append((packet, now))
        return self._admit_suspects() if len(self._suspects) == PROBATION else ()

    def _dismiss_suspects(self) -> None:
        self.counts.foreign_ssrc += len(self._suspects)
        self._suspects.clear()

    def _admit_suspects(self) -> Sequence[Piece]:
        """They are the stream from now on. Nothing that came is lost by the change."""
        pieces = list(self.advance(float("inf")))
        first, arrived_at = self._suspects[0]
        missing = _signed(first.sequence - self._next, 16)
        same_source = first.ssrc == self._ssrc
        if same_source and _signed(first.timestamp - self._next_timestamp, 32) == missing * self._ticks > 0:
            self.counts.lost += missing
        else:
            self.counts.restarts += 1
        self._restart(first, arrived_at)
        for packet, arrival in self._suspects:
            pieces += self._take(packet, arrival)
        self._suspects.clear()
        return pieces

    def _restart(self, packet: RtpPacket, arrived_at: float) -> None:
        self._ssrc = packet.ssrc
        self._next = packet.sequence
        self._next_timestamp = packet.timestamp
        self._next_at = arrived_at
        self._ticks = 0
        self._given_up.clear()


def _signed(difference: int, bits: int) -> int:
    """The way from one number to another where the counter goes round: never more than half a turn."""
    half = 1 << (bits - 1)
    return ((difference + half) & ((1 << bits) - 1)) - half
