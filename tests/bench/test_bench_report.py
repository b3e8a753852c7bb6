"""What ``make bench`` makes of its figures."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from bench.load import ENGINE, FLOOR, Row
from bench.report import Found, report
from bench.scenario import p50, p95
from bench.watch import Watched

QUIET = Watched(
    loop_lag_p99=5.0,
    loop_lag_worst=20.0,
    beats_late=3,
    beats_skipped=1,
    frames_dropped=0,
    frames_lost=0,
    provider_frames_dropped=0,
)
ROW = Row(
    system=FLOOR,
    transport="websocket",
    calls=20,
    first_byte_to_ear_p50=10.0,
    first_byte_to_ear_p95=19.0,
    voice_to_provider_p50=1.0,
    voice_to_provider_p95=2.0,
    interruption_to_silence_p50=12.0,
    interruption_to_silence_p95=21.0,
    answer_to_greeting_p50=20.0,
    answer_to_greeting_p95=30.0,
    heard_percent=100.0,
    understood_percent=100.0,
    cpu_s_per_call_minute=0.08,
    asterisk_cpu_s_per_call_minute=0.25,
    rss_mib=40.0,
    machine_percent=30.0,
    test_percent=4.0,
    callers_late=0,
    watched=None,
)


def _engine(**changes: object) -> Row:
    return replace(ROW, system=ENGINE, watched=QUIET, rss_mib=80.0, **changes)  # type: ignore[arg-type]


def _section(text: str, title: str) -> list[list[str]]:
    """The rows of one table, by cells."""
    body = next(part for part in text.split("\n### ") if part.startswith(title))
    rows = [line.strip("| ").split(" | ") for line in body.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row] for row in rows[1:]]


def _report(*rows: Row) -> str:
    return report(Found(list(rows), churn=None, machine="a machine", date="2026-01-01"))


def test_engine_stands_beside_the_floor_of_its_own_wire() -> None:
    other = replace(ROW, transport="audiosocket", first_byte_to_ear_p50=3.0)
    text = _report(ROW, _engine(), other, replace(_engine(first_byte_to_ear_p50=4.0), transport="audiosocket"))
    rows = _section(text, "Provider's first byte")
    assert [row[:4] for row in rows] == [
        ["AudioSocket", "20", "3.0 / 19.0", "4.0 / 19.0"],
        ["chan_websocket", "20", "10.0 / 19.0", "10.0 / 19.0"],
    ]


@pytest.mark.parametrize(
    ("title", "changes"),
    [
        ("Provider's first byte", {"first_byte_to_ear_p50": 20.1}),
        ("Caller interrupts", {"interruption_to_silence_p50": 30.1}),
        ("Answer", {"answer_to_greeting_p50": math.nan}),
        ("Heard bit for bit", {"heard_percent": 99.99}),
        ("Heard bit for bit", {"understood_percent": 99.99}),
        ("CPU per call-minute", {"cpu_s_per_call_minute": 0.13}),
    ],
)
def test_shortfall_is_said_where_it_is(title: str, changes: dict[str, float]) -> None:
    assert "falls short" not in _report(ROW, _engine())
    text = _report(ROW, _engine(**changes))
    assert "**falls short**" in _section(text, title)[0]
    assert text.count("falls short") == 1


def test_late_event_loop_falls_short() -> None:
    text = _report(ROW, replace(_engine(), watched=replace(QUIET, loop_lag_p99=20.0)))
    assert "**falls short**" in _section(text, "Punctuality")[0]


def test_memory_is_that_of_the_calls_between_two_loads() -> None:
    more = [replace(row, calls=60, rss_mib=row.rss_mib + 5) for row in (ROW, _engine())]
    (row,) = _section(_report(ROW, _engine(), *more), "Memory")
    assert row == ["chan_websocket", "20 to 60", "128", "128", "≤ 256", "holds"]


def test_full_machine_is_marked_at_every_figure() -> None:
    text = _report(ROW, _engine(machine_percent=97.0))
    marked = [line for line in text.splitlines() if line.startswith("| chan_websocket")]
    assert marked
    assert all("| 20 ‡ |" in line for line in marked)


def test_percentiles_of_few_values_are_among_them() -> None:
    assert p95([3.0, 1.0]) == 3.0
    assert p95([float(n) for n in range(1, 101)]) == 95.0
    assert math.isnan(p50([]))
    assert math.isnan(p95([]))
