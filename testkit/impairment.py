"""A bad network between two parties of UDP: loses, delays, reorders and repeats datagrams as a plan says, repeatably.

The near side sends to ``path.near``; that goes to ``far``, which sends back to ``path.far``. In real calls the near
side is Asterisk, which is told ``path.near`` as its external host, and the far side a port of the engine's.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from dataclasses import dataclass, field
from itertools import count
from types import TracebackType
from typing import Self

Address = tuple[str, int]

LOOPBACK = "127.0.0.1"
REORDER_MS = 30.0
"""How long a reordered datagram stays behind: with one every 20 ms, until the next has overtaken it."""


@dataclass(slots=True, frozen=True)
class Bursts:
    """Losses in runs (Gilbert's model): between good times and bad ones, in which everything is lost."""

    share: float
    """Of all datagrams, those lost in the long run."""
    mean_length: float
    """Datagrams lost in a row, on average."""

    @property
    def p_end(self) -> float:
        """That a bad time ends, at each datagram."""
        return 1 / self.mean_length

    @property
    def p_begin(self) -> float:
        """That one begins, at each datagram in a good time."""
        return self.share * self.p_end / (1 - self.share)


@dataclass(slots=True, frozen=True)
class Impairment:
    """What happens in one direction. Shares are of all datagrams, from 0 to 1."""

    loss: float = 0.0
    """One at a time, independent of each other."""
    bursts: Bursts | None = None
    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    """Added to the delay or taken from it, evenly; the delay is raised to at least this much. Keeps the order, as a
    queue does that fills and empties: what should overtake leaves right behind."""
    spikes: float = 0.0
    spike_ms: float = 0.0
    """Added to ``spikes`` of all, which hold up what comes behind them."""
    reorder: float = 0.0
    """Overtaken by what follows within ``REORDER_MS``."""
    duplicates: float = 0.0
    """Sent twice, the second right behind the first."""
    drift_ppm: float = 0.0
    """How fast the sender's clock runs: what takes it a second arrives in 1 - drift/10⁶ s. A fast one lives on the
    delay, and ends when that is used up."""

    @property
    def calm_delay_ms(self) -> float:
        """What remains when all trouble is taken away."""
        return max(self.delay_ms, self.jitter_ms)

    @property
    def calm(self) -> Impairment:
        """The same path without its trouble."""
        return Impairment(delay_ms=self.calm_delay_ms)


CLEAN = Impairment()


@dataclass(slots=True, frozen=True)
class Plan:
    to_far: Impairment = CLEAN
    to_near: Impairment = CLEAN


@dataclass(slots=True)
class Counts:
    """What was done in one direction, in datagrams.

    ``arrived`` + ``duplicated`` = ``lost`` + ``sent`` + ``undirected`` + those on the way.
    """

    arrived: int = 0
    lost: int = 0
    longest_loss: int = 0
    """In a row."""
    delayed: int = 0
    """By a spike."""
    reordered: int = 0
    duplicated: int = 0
    sent: int = 0
    undirected: int = 0
    """Dropped because nobody was known yet to send them to."""
    drift_ended: int = 0
    """Those for which a fast clock had used up the delay: they left as they came."""
    latest_ms: float = 0.0
    """The most by which one left later than it should have: how exact the path itself is."""


class Course:
    """What becomes of the datagrams of one direction, sans-I/O; times are seconds of any one clock."""

    def __init__(self, impairment: Impairment, seed: str) -> None:
        self.counts = Counts()
        self._random = random.Random(seed)
        self._last_due = float("-inf")
        self._lost_in_a_row = 0
        self.apply(impairment)

    def apply(self, impairment: Impairment) -> None:
        """From the next datagram on; a clock that is off begins to be so with it."""
        self._impairment = impairment
        self._began_at: float | None = None
        self._in_bad_time = False

    def take(self, now: float) -> list[float]:
        """A datagram arrives: when it is to leave, once for each time that it does; none when it is lost."""
        self.counts.arrived += 1
        # As many draws for each, whatever the plan: of the same seed, a higher loss loses the same ones and more.
        single, turn, jitter, spike, reorder, duplicate = (self._random.random() for _ in range(6))
        if self._is_lost(single, turn):
            self.counts.lost += 1
            self._lost_in_a_row += 1
            self.counts.longest_loss = max(self.counts.longest_loss, self._lost_in_a_row)
            return []
        self._lost_in_a_row = 0
        due = self._due(now, jitter, spike, reorder)
        if duplicate >= self._impairment.duplicates:
            return [due]
        self.counts.duplicated += 1
        return [due, due]

    def _is_lost(self, single: float, turn: float) -> bool:
        bursts = self._impairment.bursts
        if bursts is not None:
            self._in_bad_time = turn >= bursts.p_end if self._in_bad_time else turn < bursts.p_begin
        return self._in_bad_time or single < self._impairment.loss

    def _due(self, now: float, jitter: float, spike: float, reorder: float) -> float:
        plan = self._impairment
        delay_ms = plan.calm_delay_ms + plan.jitter_ms * (2 * jitter - 1)
        if spike < plan.spikes:
            delay_ms += plan.spike_ms
            self.counts.delayed += 1
        due = now + self._drifted(now, delay_ms / 1000)
        if reorder < plan.reorder:
            self.counts.reordered += 1
            return due + REORDER_MS / 1000
        self._last_due = max(due, self._last_due)
        return self._last_due

    def _drifted(self, now: float, delay_s: float) -> float:
        if self._began_at is None:
            self._began_at = now
        drifted_s = delay_s - self._impairment.drift_ppm / 1e6 * (now - self._began_at)
        self.counts.drift_ended += drifted_s < 0
        return max(0.0, drifted_s)


@dataclass(order=True, slots=True, frozen=True)
class _Pending:
    due: float
    number: int
    datagram: bytes = field(compare=False)


class _Direction(asyncio.DatagramProtocol):
    """One way of the path: takes what arrives at one socket, and sends it from the other one when it is due."""

    def __init__(self, course: Course) -> None:
        self.course = course
        self.destination: Address | None = None
        self.exit: asyncio.DatagramTransport
        self.opposite: _Direction | None = None
        """The way that leads to whoever sends here, where that is to be learned."""
        self._loop = asyncio.get_running_loop()
        self._pending: list[_Pending] = []
        self._numbers = count()
        self._timer: asyncio.TimerHandle | None = None

    def close(self) -> None:
        self._pending.clear()
        self._set_timer()
        self.exit.close()

    def datagram_received(self, datagram: bytes, source: Address) -> None:
        if self.opposite is not None:
            self.opposite.destination = source
        for due in self.course.take(self._loop.time()):
            heapq.heappush(self._pending, _Pending(due, next(self._numbers), datagram))
        self._send_due()

    def _send_due(self) -> None:
        now, counts = self._loop.time(), self.course.counts
        while self._pending and self._pending[0].due <= now:
            pending = heapq.heappop(self._pending)
            counts.latest_ms = max(counts.latest_ms, 1000 * (now - pending.due))
            if self.destination is None:
                counts.undirected += 1
            else:
                self.exit.sendto(pending.datagram, self.destination)
                counts.sent += 1
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._pending[0].due, self._send_due) if self._pending else None


class ImpairedPath:
    """``async with ImpairedPath(far, Plan(…)) as path``: a path to ``far``, and back to whoever sends to it."""

    def __init__(self, far: Address, plan: Plan | None = None, *, seed: int = 0) -> None:
        self._plan = plan or Plan()
        self._far = far
        self._seed = seed

    async def __aenter__(self) -> Self:
        self._to_far = _Direction(Course(self._plan.to_far, f"{self._seed} to far"))
        self._to_near = _Direction(Course(self._plan.to_near, f"{self._seed} to near"))
        self._to_far.destination = self._far
        self._to_far.opposite = self._to_near
        loop = asyncio.get_running_loop()
        near, _ = await loop.create_datagram_endpoint(lambda: self._to_far, (LOOPBACK, 0))
        self._to_near.exit = near
        try:
            far, _ = await loop.create_datagram_endpoint(lambda: self._to_near, (LOOPBACK, 0))
        except OSError:
            near.close()
            raise
        self._to_far.exit = far
        self.near: Address = near.get_extra_info("sockname")[:2]
        """Where the near side sends to."""
        self.far: Address = far.get_extra_info("sockname")[:2]
        """Where the far side sends to."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._to_far.close()
        self._to_near.close()

    def lead_to_near(self, near: Address) -> None:
        """Where the near side is, for a far side that sends first; whoever sends to ``near`` later takes its place."""
        self._to_near.destination = near

    def apply(self, plan: Plan) -> None:
        """Another plan from now on; what is on the way arrives as it was going to."""
        self._to_far.course.apply(plan.to_far)
        self._to_near.course.apply(plan.to_near)

    @property
    def to_far(self) -> Counts:
        return self._to_far.course.counts

    @property
    def to_near(self) -> Counts:
        return self._to_near.course.counts
