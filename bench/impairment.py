"""``python -m bench.impairment``: what a bad network does to the sound of the RTP leg; writes docs/impairment.md."""

from __future__ import annotations

import argparse
import asyncio
import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import uvloop

from audio.formats import FRAME_MS
from bench.impaired_leg import Switch
from bench.impaired_sound import DEEPEST_BUFFER_MS, Clip, Outcome, Take, judge, play_out, pool
from testkit.asterisk import AsteriskInstance
from testkit.impairment import CLEAN, Bursts, Impairment, Plan
from testkit.waiting import wait_until

REPORT = Path("docs/impairment.md")
AT_ONCE = 6
"""Calls at a time; many more, and the machine itself becomes a bad network."""
SETTLE_S = 0.4

Direction = Literal["caller → engine", "engine → caller"]


@dataclass(slots=True, frozen=True)
class Cell:
    name: str
    impairment: Impairment
    """In both directions, by different lots."""


@dataclass(slots=True, frozen=True)
class Row:
    cell: Cell
    direction: Direction
    outcome: Outcome


CELLS = (
    Cell("clean", CLEAN),
    *(Cell(f"loss {share:.0%}, single", Impairment(loss=share)) for share in (0.01, 0.03, 0.1)),
    *(Cell(f"loss {share:.0%}, in bursts of 3", Impairment(bursts=Bursts(share, 3))) for share in (0.01, 0.03, 0.1)),
    *(Cell(f"jitter ±{jitter_ms} ms", Impairment(jitter_ms=jitter_ms)) for jitter_ms in (20, 60)),
    Cell("jitter ±20 ms, 1% spikes of 150 ms", Impairment(jitter_ms=20, spikes=0.01, spike_ms=150)),
    Cell("reorder 5%", Impairment(reorder=0.05)),
    Cell("duplicates 5%", Impairment(duplicates=0.05)),
    *(Cell(f"clock {drift:+} ppm", Impairment(delay_ms=50, drift_ppm=drift)) for drift in (100, -100, 3000, -3000)),
)


async def play_cell(switch: Switch, cell: Cell, clip: Clip, *, seed: int = 0) -> tuple[Take, Take]:
    """One call in which both sides say the clip at once; what came of it, caller → engine first."""
    calm = Plan(cell.impairment.calm, cell.impairment.calm)
    async with switch.leg(calm, seed=seed) as leg:
        await asyncio.sleep(SETTLE_S)
        leg.path.apply(Plan(cell.impairment, cell.impairment))
        leg.say(clip.words)
        said = leg.caller.speak(clip.words)
        await wait_until(lambda: leg.silent and said.done.settled, clip.frames * FRAME_MS / 1000 + 10, "the clip's end")
        leg.path.apply(calm)
        leg.say(clip.aftermath)
        await leg.caller.speak(clip.aftermath).done
        await asyncio.sleep(SETTLE_S)
        packets = list(leg.caller.received)
        uplink = Take(leg.caller.sent, leg.heard, leg.heard, leg.path.to_far.lost, cell.impairment.calm_delay_ms)
    played = play_out(packets)
    downlink = Take(
        leg.said,
        [(packet.arrived_at, packet.payload) for packet in packets],
        played.frames,
        leg.path.to_near.lost,
        cell.impairment.calm_delay_ms,
        played.buffer_ms,
    )
    return uplink, downlink


async def measure(
    asterisk: AsteriskInstance, cells: Sequence[Cell] = CELLS, *, runs: int = 1, clip: Clip | None = None
) -> list[Row]:
    """Plays every cell in ``runs`` calls, some at a time; two rows for each cell."""
    clip = clip or Clip()
    room = asyncio.Semaphore(AT_ONCE)

    async def one(cell: Cell, seed: int) -> tuple[Take, Take]:
        async with room:
            return await play_cell(switch, cell, clip, seed=seed)

    async with Switch.open(asterisk) as switch, asyncio.TaskGroup() as group:
        playing = [(cell, [group.create_task(one(cell, seed)) for seed in range(runs)]) for cell in cells]
    rows: list[Row] = []
    for cell, calls in playing:
        for direction, takes in zip(
            get_args(Direction), zip(*(call.result() for call in calls), strict=True), strict=True
        ):
            rows.append(Row(cell, direction, pool([judge(clip, take) for take in takes])))
    return rows


_TEXT = """\
# The RTP leg on a bad network

Made by `python -m bench.impairment`. A call stands between a SIP phone and the engine's RTP port, through Asterisk's
ExternalMedia channel. Between Asterisk and the port lies a proxy that loses, delays, reorders and repeats datagrams by
seeded lots (`testkit/impairment.py`), in both directions at once. Both sides say the same {seconds:.0f} seconds of
speech in μ-law. Asterisk has no jitter buffer here: what happens on the way to it goes on to the phone as it is.

Towards the engine, frames are counted as they leave the port's jitter buffer, which hands each on when it comes and
waits only behind a hole. Towards the caller they are those of a reference phone, which plays at an even pace from a
buffer just deep enough for what comes (at most {deepest_ms} ms), and conceals as the port does. *Missing* frames were
lost or too late; the *longest hole* is of missing frames, the *longest wait* from one frame's coming to the next one's
(20 ms is none; the machine's other work adds to it). *Delay* is what is added to the path's own, less than nothing
where a fast clock lives on that; *afterwards* is the median once the path has been calm again for a second. PESQ-NB is
that of the words, against what was said: 4.55 is the best there is. While they are said, a clock that is 3000 ppm off
comes as far as one of 100 ppm does in {drift_minutes:.0f} minutes.

Means of {runs} calls per cell; what is the longest or worst is that of all of them.
{asterisk}; callers, Asterisk and the port share the machine. Measured {date}.
"""
_COLUMNS = ("path", "lost", "missing", "longest hole", "longest wait", "delay p50 / p95", "afterwards")


def table(rows: Sequence[Row], direction: Direction) -> str:
    """The rows of one direction in Markdown."""
    with_buffer = direction == "engine → caller"
    columns = [*_COLUMNS, *(["phone's buffer"] if with_buffer else []), "PESQ-NB (worst)"]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        if row.direction == direction:
            it = row.outcome
            cells = [
                row.cell.name,
                f"{it.lost:.1%}",
                f"{it.missing:.1%}",
                f"{it.longest_hole_ms:.0f} ms",
                f"{it.longest_wait_ms:.0f} ms",
                f"{it.delay_p50_ms:.1f} / {it.delay_p95_ms:.1f} ms",
                f"{it.aftermath_p50_ms:.1f} ms",
                *([f"{it.buffer_ms:.0f} ms"] if with_buffer else []),
                f"{it.pesq:.2f} ({it.pesq_worst:.2f})",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def report(rows: Sequence[Row], clip: Clip, *, runs: int, asterisk: str) -> str:
    """The whole document."""
    seconds = clip.frames * FRAME_MS / 1000
    text = _TEXT.format(
        seconds=seconds,
        deepest_ms=DEEPEST_BUFFER_MS,
        drift_minutes=30 * seconds / 60,
        runs=runs,
        asterisk=asterisk,
        date=datetime.date.today().isoformat(),
    )
    tables = (f"## From the {way.replace(' → ', ' to the ')}\n\n{table(rows, way)}" for way in get_args(Direction))
    return "\n".join((text, *tables))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="calls per cell, by different lots")
    options = parser.parse_args()
    clip = Clip()
    with AsteriskInstance() as asterisk:
        version = asterisk.cli("core show version").split(" built")[0].strip()
        rows = uvloop.run(measure(asterisk, runs=options.runs, clip=clip))
    REPORT.write_text(report(rows, clip, runs=options.runs, asterisk=version), encoding="utf-8")


if __name__ == "__main__":
    main()
