"""What the engine says of itself in /metrics."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass

from testkit.engine import EngineProcess


@dataclass(slots=True, frozen=True)
class Watched:
    """The engine's own metrics, over the time in which all calls talked."""

    loop_lag_p99: float
    """The bound, of those that the metric knows, that 99 of 100 delays of the event loop kept."""
    loop_lag_worst: float
    beats_late: int
    beats_skipped: int
    frames_dropped: int
    """Of ours, that found no live wire or a peer that had stopped reading."""
    frames_lost: int
    """The caller's, that never came, or too late."""
    provider_frames_dropped: int
    """The caller's, that the provider's connection could not take in time."""


class Watch:
    """Reads the engine's metrics before and after."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    async def begin(self, running: EngineProcess) -> None:
        self._counts.subtract(await _metrics(running))

    async def end(self, running: EngineProcess) -> None:
        self._counts.update(await _metrics(running))

    def found(self) -> Watched:
        return Watched(
            self._delay_ms(0.99),
            self._delay_ms(1.0),
            *(
                self._counts[f"{name}_total"]
                for name in ("beats_late", "beats_skipped", "frames_dropped", "frames_lost", "provider_frames_dropped")
            ),
        )

    def _delay_ms(self, share: float) -> float:
        within = {
            float(bucket[1]): count
            for name, count in self._counts.items()
            if (bucket := re.fullmatch(r'event_loop_delay_seconds_bucket\{le="(.*)"\}', name))
        }
        return 1000 * min(bound for bound, count in within.items() if count >= share * within[math.inf])


async def _metrics(running: EngineProcess) -> dict[str, int]:
    """Everything that is counted without labels but a histogram's bounds."""
    _, text = await running.get("/metrics")
    lines = re.findall(r'^ai_agent_(\w+(?:\{le="[^"]*"\})?) (\d+)(?:\.0)?$', text, re.MULTILINE)
    return {name: int(value) for name, value in lines}
