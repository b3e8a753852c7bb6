"""docs/benchmarks.md, from what was measured."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

REPORT = Path("docs/benchmarks.md")

# What a caller would notice, the row's field, the figure to hold, and how it is written.
_FIGURES: tuple[tuple[str, str, float, str], ...] = (
    ("provider's first byte → caller's ear, p50", "first_byte_to_ear_p50", 20, "{:.1f} ms"),
    ("caller's voice → provider, p50", "voice_to_provider_p50", 22, "{:.1f} ms"),
    ("caller interrupts → silence in the ear, p50", "interruption_to_silence_p50", 30, "{:.1f} ms"),
    ("answer → first greeting byte in the ear, p50", "answer_to_greeting_p50", 40, "{:.1f} ms"),
)

_INTRODUCTION = """\
# Benchmarks

Made by `make bench`, which measures the engine **beside the floor in one run**. The floor (`bench/floor.py`) is the
least Python that bridges Asterisk and a realtime provider: no product, no state, only frames. It is the limit that
the engine is compared with. Callers are real SIP calls that keep every RTP packet; the provider is the double of
OpenAI Realtime, in a process of its own, which reports speech after 30 ms of voice and sends replies six times
faster than they play.

"Caller's voice → provider" counts from the packet's leaving the caller; the 20 ms of sound in it come on top. What the
agent says waits for the next 20 ms beat, so figures towards the ear lie between 0 and 20 ms above the rest of the way,
by where the beat happens to fall in a run: floor and engine differ by that chance more than by anything else. CPU times
of one call at a time vary by a third from run to run on a shared machine.

Machine: {machine}; {asterisk}. Callers, Asterisk, double and the system under test share it. Measured {date}.
"""


def write_report(found: dict[str, Any], *, machine: str) -> None:
    parts = [
        _INTRODUCTION.format(machine=machine, asterisk=found["asterisk"], date=datetime.date.today().isoformat()),
        _latencies(found["rows"]),
        _costs(found["rows"]),
    ]
    if found["churn"]:
        parts.append(_churn(found["churn"]))
    REPORT.write_text("\n".join(parts), encoding="utf-8")


def _by_load(rows: list[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    loads = sorted({row["calls"] for row in rows})
    find = {(row["system"], row["calls"]): row for row in rows}
    return [(find["floor", calls], find["engine", calls]) for calls in loads]


def _latencies(rows: list[dict[str, Any]]) -> str:
    lines = ["## What a caller notices", "", "| | calls | floor | engine | to hold | |", "|---|---|---|---|---|---|"]
    for text, key, limit, form in _FIGURES:
        for base, ours in _by_load(rows):
            held = "holds" if ours[key] <= limit else "**falls short**"
            lines.append(
                f"| {text} | {ours['calls']} | {form.format(base[key])} | {form.format(ours[key])} "
                f"| ≤ {limit:.0f} ms | {held} |"
            )
    for base, ours in _by_load(rows):
        held = "holds" if ours["heard_percent"] == 100 else "**falls short**"
        lines.append(
            f"| agent audio heard bit for bit | {ours['calls']} | {base['heard_percent']:.2f} % "
            f"| {ours['heard_percent']:.2f} % | 100 % | {held} |"
        )
    for key, text in (
        ("first_byte_to_ear_p95", "first byte → ear, p95"),
        ("interruption_to_silence_p95", "interruption → silence, p95"),
    ):
        for base, ours in _by_load(rows):
            lines.append(f"| {text} | {ours['calls']} | {base[key]:.1f} ms | {ours[key]:.1f} ms | | |")
    return "\n".join(lines) + "\n"


def _costs(rows: list[dict[str, Any]]) -> str:
    lines = ["## What it costs", "", "| | calls | floor | engine | to hold | |", "|---|---|---|---|---|---|"]
    pairs = _by_load(rows)
    for base, ours in pairs:
        ratio = ours["cpu_s_per_call_minute"] / base["cpu_s_per_call_minute"]
        held = "holds" if ratio <= 1.5 else "**falls short**"
        lines.append(
            f"| CPU per call-minute | {ours['calls']} | {base['cpu_s_per_call_minute']:.2f} s "
            f"| {ours['cpu_s_per_call_minute']:.2f} s ({ratio:.2f} × floor) | ≤ 1.5 × floor | {held} |"
        )
    if len(pairs) > 1:
        first, last = pairs[0], pairs[-1]
        further = last[1]["calls"] - first[1]["calls"]
        grown = [1024 * (last[side]["rss_mib"] - first[side]["rss_mib"]) / further for side in (0, 1)]
        held = "holds" if grown[1] <= 256 else "**falls short**"
        lines.append(
            f"| memory per further call | {first[1]['calls']} to {last[1]['calls']} | {grown[0]:.0f} KiB "
            f"| {grown[1]:.0f} KiB | ≤ 256 KiB | {held} |"
        )
    return "\n".join(lines) + "\n"


def _churn(churn: dict[str, Any]) -> str:
    before, after = churn["before"], churn["after"]
    names = {
        "rss_mib": "memory, MiB",
        "descriptors": "file descriptors",
        "tasks": "asyncio tasks",
        "channels": "channels in Asterisk",
        "bridges": "bridges in Asterisk",
    }
    lines = [
        f"## {churn['calls']} short calls, ten per second",
        "",
        f"{churn['failed']} failed; the event loop's worst delay was {churn['loop_lag_ms']:.1f} ms.",
        "",
        "| of the engine | before | after |",
        "|---|---|---|",
    ]
    for key, text in names.items():
        lines.append(f"| {text} | {_number(before[key])} | {_number(after[key])} |")
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)
