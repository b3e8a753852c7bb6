"""Who used the machine for how long."""

from __future__ import annotations

import time
from dataclasses import dataclass

import psutil

from testkit.rtp_stream import shared_metronome


@dataclass(slots=True)
class Usage:
    """What was used between two moments, in seconds; readings are subtracted from one another."""

    elapsed: float = 0.0
    system: float = 0.0
    asterisk: float = 0.0
    test: float = 0.0
    machine: float = 0.0
    callers_late: int = 0

    def add(self, other: Usage, sign: int = 1) -> None:
        self.elapsed += sign * other.elapsed
        self.system += sign * other.system
        self.asterisk += sign * other.asterisk
        self.test += sign * other.test
        self.machine += sign * other.machine
        self.callers_late += sign * other.callers_late


@dataclass(slots=True, frozen=True)
class Processes:
    system: psutil.Process
    asterisk: psutil.Process
    double: psutil.Process

    def read(self) -> Usage:
        times = psutil.cpu_times()
        beats = shared_metronome().stats
        return Usage(
            elapsed=time.monotonic(),
            system=_cpu_s(self.system),
            asterisk=_cpu_s(self.asterisk),
            test=_cpu_s(self.double) + _cpu_s(psutil.Process()),
            machine=sum(times) - times.idle - times.iowait - times.guest - times.guest_nice,
            callers_late=beats.late + beats.skipped,
        )


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system
