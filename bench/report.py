"""The part of docs/benchmarks.md that ``make bench`` makes, from what was measured."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from bench.churn import ChurnResult
from bench.load import ENGINE, FLOOR, Row

FULL_PERCENT = 85
"""The machine counts as full from here on: what is measured is the machine then."""
FULL = " ‡"
NAMES = {"audiosocket": "AudioSocket", "externalmedia": "ExternalMedia RTP", "websocket": "chan_websocket"}

_INTRODUCTION = """\
# Benchmarks

Made by `make bench`, which measures the engine over every wire **beside the floor of that wire, in one run**. A floor
(`bench/floor_*.py`) is the least Python that bridges Asterisk and a realtime provider: no product, no state, only
frames. It is the limit that the engine is compared with. Callers are real SIP calls with μ-law that keep every RTP
packet; the provider is the double of OpenAI Realtime, in a process of its own, which reports speech after 30 ms of
voice and sends replies six times faster than they play.

"Caller's voice → provider" counts from the packet's leaving the caller; the 20 ms of sound in it come on top. What the
agent says waits for the next 20 ms beat, so figures towards the ear lie between 0 and 20 ms above the rest of the way,
by where the beat happens to fall in a run. Over AudioSocket and RTP it is our beat, the same for all calls of a run:
floor and engine differ by that chance more than by anything else. Over chan_websocket it is Asterisk's, another one
for each call. CPU times of one call at a time vary by a third from run to run on a shared machine.

Machine: {machine}. Callers, Asterisk, double and the system under test share it. Measured {date}.
"""


@dataclass(slots=True, frozen=True)
class Found:
    rows: list[Row]
    churn: ChurnResult | None
    machine: str
    date: str


@dataclass(slots=True, frozen=True)
class _Pair:
    """Floor and engine under the same load."""

    floor: Row
    engine: Row

    @property
    def load(self) -> str:
        full = max(self.floor.machine_percent, self.engine.machine_percent) >= FULL_PERCENT
        return f"{NAMES[self.engine.transport]} | {self.engine.calls}{FULL if full else ''}"


@dataclass(slots=True, frozen=True)
class _Latency:
    title: str
    field: str
    limit_ms: float


_LATENCIES = (
    _Latency("Provider's first byte → caller's ear", "first_byte_to_ear", 20),
    _Latency("Caller's voice → provider", "voice_to_provider", 22),
    _Latency("Caller interrupts → silence in the ear", "interruption_to_silence", 30),
    _Latency("Answer → first greeting byte in the ear", "answer_to_greeting", 40),
)


def report(found: Found) -> str:
    pairs = _pairs(found.rows)
    loads = len({row.calls for row in found.rows})
    parts = [
        _INTRODUCTION.format(machine=found.machine, date=found.date),
        *(_latency(figure, pairs) for figure in _LATENCIES),
        _fidelity(pairs),
        _cpu(pairs),
        *([_memory(pairs)] if loads > 1 else []),
        _punctuality(pairs),
        _machine(pairs),
    ]
    if found.churn is not None:
        parts.append(_churn(found.churn))
    return "\n".join(parts)


def _pairs(rows: Iterable[Row]) -> list[_Pair]:
    by_key = {(row.transport, row.calls, row.system): row for row in rows}
    loads = dict.fromkeys((row.transport, row.calls) for row in by_key.values())
    ordered = sorted(loads, key=lambda load: (list(NAMES).index(load[0]), load[1]))
    return [_Pair(by_key[*load, FLOOR], by_key[*load, ENGINE]) for load in ordered]


def _table(title: str, columns: str, rows: Iterable[str], note: str = "") -> str:
    width = columns.count("|") + 1
    lines = [f"### {title}", "", *([note, ""] if note else [])]
    lines += [f"| {columns} |", "|" + "---|" * width, *(f"| {row} |" for row in rows)]
    return "\n".join(lines) + "\n"


def _held(holds: bool) -> str:
    return "holds" if holds else "**falls short**"


def _latency(figure: _Latency, pairs: list[_Pair]) -> str:
    def cells(row: Row) -> str:
        return f"{getattr(row, f'{figure.field}_p50'):.1f} / {getattr(row, f'{figure.field}_p95'):.1f}"

    return _table(
        f"{figure.title}, ms",
        "wire | calls | floor p50 / p95 | engine p50 / p95 | p50 to hold | ",
        (
            f"{pair.load} | {cells(pair.floor)} | {cells(pair.engine)} | ≤ {figure.limit_ms:.0f} "
            f"| {_held(getattr(pair.engine, f'{figure.field}_p50') <= figure.limit_ms)}"
            for pair in pairs
        ),
    )


def _fidelity(pairs: list[_Pair]) -> str:
    def cells(row: Row) -> str:
        return f"{row.heard_percent:.2f} / {row.understood_percent:.2f}"

    return _table(
        "Heard bit for bit, %",
        "wire | calls | floor | engine | to hold | ",
        (
            f"{pair.load} | {cells(pair.floor)} | {cells(pair.engine)} | 100 / 100 "
            f"| {_held(pair.engine.heard_percent == pair.engine.understood_percent == 100)}"
            for pair in pairs
        ),
        "The agent's frames by the caller / the caller's frames by the provider.",
    )


def _cpu(pairs: list[_Pair]) -> str:
    def row(pair: _Pair) -> str:
        ours, base = pair.engine.cpu_s_per_call_minute, pair.floor.cpu_s_per_call_minute
        ratio = ours / base if base else math.inf
        theirs = f"{pair.floor.asterisk_cpu_s_per_call_minute:.2f} | {pair.engine.asterisk_cpu_s_per_call_minute:.2f}"
        return f"{pair.load} | {base:.2f} | {ours:.2f} ({ratio:.2f} ×) | ≤ 1.5 × | {_held(ratio <= 1.5)} | {theirs}"

    return _table(
        "CPU per call-minute, s",
        "wire | calls | floor | engine | to hold | | Asterisk with floor | with engine",
        map(row, pairs),
        "Wires move work between the engine and Asterisk: the last columns are Asterisk's own, with the caller's leg.",
    )


def _memory(pairs: list[_Pair]) -> str:
    def rows() -> Iterator[str]:
        for fewer, more in pairwise(pairs):
            if fewer.engine.transport == more.engine.transport:
                grown = [_kib_per_call(fewer, more, lambda p: p.floor), _kib_per_call(fewer, more, lambda p: p.engine)]
                yield (
                    f"{NAMES[more.engine.transport]} | {fewer.engine.calls} to {more.engine.calls} "
                    f"| {grown[0]:.0f} | {grown[1]:.0f} | ≤ 256 | {_held(grown[1] <= 256)}"
                )

    return _table("Memory per further call, KiB", "wire | calls | floor | engine | to hold | ", rows())


def _kib_per_call(fewer: _Pair, more: _Pair, side: Callable[[_Pair], Row]) -> float:
    return 1024 * (side(more).rss_mib - side(fewer).rss_mib) / (more.engine.calls - fewer.engine.calls)


def _punctuality(pairs: list[_Pair]) -> str:
    def rows() -> Iterator[str]:
        for pair in pairs:
            if found := pair.engine.watched:
                lost = f"{found.frames_dropped} / {found.frames_lost} / {found.provider_frames_dropped}"
                yield (
                    f"{pair.load} | ≤ {found.loop_lag_p99:.0f} | ≤ {found.loop_lag_worst:.0f} | < 10 "
                    f"| {_held(found.loop_lag_p99 <= 10)} | {found.beats_late} / {found.beats_skipped} | {lost}"
                )

    return _table(
        "Punctuality of the engine",
        "wire | calls | loop's delay p99, ms | worst, ms | p99 to hold | | beats late / given up | frames lost",
        rows(),
        "Delays of the event loop, by the bounds that the metric knows. A beat is late when it comes a whole period "
        "(20 ms) after it was due. Frames lost: ours that the wire did not take / the caller's that did not come, or "
        "too late / the caller's that the provider's connection did not take.",
    )


def _machine(pairs: list[_Pair]) -> str:
    return _table(
        "Who used the machine, % of all cores",
        "wire | calls | with floor | with engine | engine | Asterisk | the test | others | callers' beats late",
        (
            f"{pair.load} | {pair.floor.machine_percent:.0f} | {row.machine_percent:.0f} "
            f"| {_share(row, row.cpu_s_per_call_minute):.0f} | {_share(row, row.asterisk_cpu_s_per_call_minute):.0f} "
            f"| {row.test_percent:.0f} | {_others(row):.0f} | {pair.floor.callers_late} / {row.callers_late}"
            for pair in pairs
            for row in (pair.engine,)
        ),
        f"From {FULL_PERCENT} % on ({FULL.strip()}) the machine is full: figures beside that mark are those of a "
        "crowd, the test itself in it, and what the callers measure suffers with what they call. The test: callers "
        "and double. Others: the kernel's own work for the network, and whatever else ran.",
    )


def _share(row: Row, cpu_s_per_call_minute: float) -> float:
    """Of all cores, in percent."""
    return 100 * cpu_s_per_call_minute * row.calls / 60 / (os.cpu_count() or 1)


def _others(row: Row) -> float:
    known = row.cpu_s_per_call_minute + row.asterisk_cpu_s_per_call_minute
    return max(0.0, row.machine_percent - row.test_percent - _share(row, known))


def _churn(churn: ChurnResult) -> str:
    names = {
        "rss_mib": "memory, MiB",
        "descriptors": "file descriptors",
        "tasks": "asyncio tasks",
        "channels": "channels in Asterisk",
        "bridges": "bridges in Asterisk",
    }
    return _table(
        f"{churn.calls} short calls, ten per second, over AudioSocket",
        "of the engine | before | after",
        (
            f"{text} | {_number(getattr(churn.before, key))} | {_number(getattr(churn.after, key))}"
            for key, text in names.items()
        ),
        f"{churn.failed} failed; the event loop's worst delay was {churn.loop_lag_ms:.1f} ms.",
    )


def _number(value: float) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)
