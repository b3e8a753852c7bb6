"""What Prometheus is told. Nothing here is called once per frame: frames are counted in plain integers."""

from __future__ import annotations

import asyncio
import time
from collections import Counter as Tally
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from engine.ending import EndReason
from engine.metronome import BeatStats
from engine.playout import PlaybackState
from engine.sessions import Session, SessionStore

PREFIX = "ai_agent_"
LAG_PROBE_S = 0.1
LAG_WINDOW_S = 10.0

# Seconds; dense where a caller begins to notice.
_LATENCY_BUCKETS = (0.02, 0.04, 0.08, 0.15, 0.25, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0)
_DELAY_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5)
_REACTION_BUCKETS = (0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.06, 0.1, 0.2)


@dataclass(slots=True)
class FrameCounts:
    """What one call (or all calls that ended) moved and lost. Exported under these names."""

    frames_in: int = 0
    frames_out: int = 0
    frames_dropped: int = 0
    """Frames of ours that found no live wire, or a peer that had stopped reading."""
    frames_lost: int = 0
    """The caller's frames that never came, or too late."""
    frames_concealed: int = 0
    underruns: int = 0
    playback_stalls: int = 0
    late_chunks: int = 0
    flushed_frames: int = 0
    provider_frames_dropped: int = 0
    """Caller's frames that the provider's connection could not take in time."""
    barge_ins: int = 0
    false_barge_ins: int = 0
    tails_ignored: int = 0
    fillers: int = 0
    check_ins: int = 0

    def add(self, other: FrameCounts) -> None:
        for name in _COUNT_NAMES:
            setattr(self, name, getattr(self, name) + getattr(other, name))


_COUNT_NAMES = tuple(field.name for field in fields(FrameCounts))


class EngineMetrics:
    """The engine's registry, and the numbers that are not read off live objects."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.answer_to_greeting = self._histogram(
            "answer_to_greeting_seconds",
            "From answering a call to the first sample of the greeting.",
            _LATENCY_BUCKETS,
        )
        self.reply_latency = self._histogram(
            "reply_latency_seconds",
            "From the caller's last voiced sample to the first sample of the reply.",
            _LATENCY_BUCKETS,
        )
        self.barge_in_reaction = self._histogram(
            "barge_in_reaction_seconds",
            "From hearing of the caller's speech to the agent's first silent frame.",
            _REACTION_BUCKETS,
        )
        self.loop_delay = self._histogram(
            "event_loop_delay_seconds",
            f"By how much the event loop was late, looked at every {LAG_PROBE_S} s.",
            _DELAY_BUCKETS,
        )
        self.calls_started = Counter(f"{PREFIX}calls_started", "Calls taken.", registry=self.registry)
        self.calls_refused = Counter(f"{PREFIX}calls_refused", "Calls turned away.", ["reason"], registry=self.registry)
        self.calls_ended = Counter(
            f"{PREFIX}calls_ended", "Calls that ended, by reason.", ["reason"], registry=self.registry
        )
        self.provider_errors = Counter(
            f"{PREFIX}provider_errors", "Providers lost.", ["provider", "code"], registry=self.registry
        )
        self.provider_warnings = Counter(
            f"{PREFIX}provider_warnings", "Errors that calls survived.", ["provider"], registry=self.registry
        )
        self.orphans_removed = Counter(
            f"{PREFIX}orphans_removed",
            "Channels and bridges without a call.",
            ["kind"],
            registry=self.registry,
        )
        for reason in EndReason:
            self.calls_ended.labels(reason)
        self.finished = FrameCounts()
        """Sums over the calls that are no more."""

    def render(self) -> bytes:
        """The exposition text."""
        return generate_latest(self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(PREFIX + name, text, buckets=buckets, registry=self.registry)


class LiveCollector(Collector):
    """Reads the live calls when Prometheus asks."""

    def __init__(
        self,
        store: SessionStore,
        metrics: EngineMetrics,
        beats: BeatStats,
        lag: LoopLagProbe,
        counters: Callable[[], Mapping[str, int]],
    ) -> None:
        """``counters`` tells what parts of the engine count by themselves, by exported name; asked once per scrape."""
        self._store = store
        self._metrics = metrics
        self._beats = beats
        self._lag = lag
        self._counters = counters

    def collect(self) -> Iterator[Metric]:
        sessions: list[Session] = list(self._store)
        playing = Tally(session.call.playback_state for session in sessions)
        yield _gauge("active_calls", "Calls that are not over.", len(sessions))
        yield _gauge(
            "tts_gating_active",
            "Calls in which the agent has the floor, so that speech is weighed as a barge-in.",
            sum(session.call.gating for session in sessions),
        )
        states = GaugeMetricFamily(PREFIX + "playback_state", "Calls by playback state.", labels=["state"])
        for state in PlaybackState:
            states.add_metric([state], playing[state])
        yield states
        yield _gauge("event_loop_lag_seconds", f"The worst delay of the last {LAG_WINDOW_S:.0f} s.", self._lag.worst_s)
        total = FrameCounts()
        total.add(self._metrics.finished)
        for session in sessions:
            total.add(session.call.counts())
        for name in _COUNT_NAMES:
            yield _counter(name, f"{name.replace('_', ' ').capitalize()} over all calls.", getattr(total, name))
        yield _gauge("asyncio_tasks", "Tasks that are not done.", len(asyncio.all_tasks()))
        yield _counter("beats_late", "Playout beats a whole period late.", self._beats.late)
        yield _counter("beats_skipped", "Playout beats given up after a stall.", self._beats.skipped)
        for name, count in self._counters().items():
            yield _counter(name, f"{_sentence(name)}.", count)


class LoopLagProbe:
    """Measures by how much the event loop is late."""

    def __init__(self, observe: Callable[[float], None]) -> None:
        """``observe`` is told each delay, in seconds."""
        self._observe = observe
        self._recent: deque[float] = deque(maxlen=int(LAG_WINDOW_S / LAG_PROBE_S))

    @property
    def worst_s(self) -> float:
        return max(self._recent, default=0.0)

    async def run(self) -> None:
        while True:
            due = time.monotonic() + LAG_PROBE_S
            await asyncio.sleep(LAG_PROBE_S)
            delay_s = max(0.0, time.monotonic() - due)
            self._recent.append(delay_s)
            self._observe(delay_s)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(PREFIX + name, text, value=value)


def _counter(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(PREFIX + name, text, value=value)


def _sentence(name: str) -> str:
    return name.replace("_", " ").capitalize()
