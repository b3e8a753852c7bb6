"""The 20 ms beat that paces every call whose wire we pace ourselves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from audio.formats import FRAME_MS

PERIOD_S = FRAME_MS / 1000
PHASES = 4
CROWD = 50
"""Calls that share a phase before the next one is opened: waking up costs more than sending a frame, so few
calls beat together, and only many are spread over the period."""
MAX_CATCH_UP = 3
"""Beats made up for at once after a stall; Asterisk keeps at most 80 ms of surplus in a softmix bridge."""


@dataclass(slots=True)
class BeatStats:
    """Counters since the start of the process."""

    beats: int = 0
    late: int = 0
    """Beats that came a whole period or more after they were due."""
    skipped: int = 0
    """Beats given up because the process stood still for longer than can be made up for."""


class Metronome:
    """Calls each member once per 20 ms, on absolute deadlines: lateness never adds up."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.stats = BeatStats()
        epoch = clock()
        self._phases = [_Phase(epoch + n * PERIOD_S / PHASES, clock, self.stats) for n in range(PHASES)]

    def join(self, beat: Callable[[], None]) -> Callable[[], None]:
        """Calls ``beat`` every 20 ms; returns what ends that."""
        roomy = [phase for phase in self._phases if len(phase.members) < CROWD]
        if roomy:
            phase = max(roomy, key=lambda phase: (len(phase.members), -phase.due_in()))
        else:
            phase = min(self._phases, key=lambda phase: len(phase.members))
        phase.add(beat)
        return lambda: phase.remove(beat)


class _Phase:
    """One of the interleaved beats. Sleeps while it has no members."""

    def __init__(self, epoch: float, clock: Callable[[], float], stats: BeatStats) -> None:
        self.members: tuple[Callable[[], None], ...] = ()
        self._deadline = epoch
        self._clock = clock
        self._stats = stats
        self._timer: asyncio.TimerHandle | None = None

    def due_in(self) -> float:
        """Seconds until this phase would next beat."""
        return (self._deadline - self._clock()) % PERIOD_S

    def add(self, beat: Callable[[], None]) -> None:
        self.members += (beat,)
        if self._timer is None:
            self._deadline = self._clock() + self.due_in()
            self._schedule()

    def remove(self, beat: Callable[[], None]) -> None:
        self.members = tuple(member for member in self.members if member is not beat)
        if not self.members and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _schedule(self) -> None:
        delay = max(0.0, self._deadline - self._clock())
        self._timer = asyncio.get_running_loop().call_later(delay, self._beat)

    def _beat(self) -> None:
        debt = int((self._clock() - self._deadline) / PERIOD_S)
        stats = self._stats
        self._deadline += (max(0, debt) + 1) * PERIOD_S
        due = 1
        if debt > 0:
            due = min(debt + 1, MAX_CATCH_UP)
            stats.late += 1
            stats.skipped += debt + 1 - due
        stats.beats += due
        self._schedule()
        for _ in range(due):
            for beat in self.members:
                beat()
