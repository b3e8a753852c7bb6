"""``make bench``: the engine beside the floor, in one run; writes docs/benchmarks.md."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import uvloop

from bench.churn import ChurnResult, churn
from bench.report import write_report
from bench.scenario import CYCLE_S, CallRecord, Samples, make_call, measure, p50, p95
from bench.systems import Double, engine, floor
from testkit.asterisk import AsteriskInstance

OUT = Path("out/bench.json")
FEWEST_CALLS = 5
"""Loads of fewer calls at once are repeated until so many were made: medians of one are none."""


@dataclass(slots=True)
class Row:
    """One system under one load. Milliseconds unless named otherwise."""

    system: str
    calls: int
    first_byte_to_ear_p50: float
    first_byte_to_ear_p95: float
    voice_to_provider_p50: float
    interruption_to_silence_p50: float
    interruption_to_silence_p95: float
    answer_to_greeting_p50: float
    heard_percent: float
    cpu_s_per_call_minute: float
    rss_mib: float


async def measure_system(name: str, calls: int, cycles: int, asterisk: AsteriskInstance) -> Row:
    double = Double()
    await double.start()
    records: list[CallRecord] = []
    spent = call_minutes = 0.0
    async with AsyncExitStack() as stack:
        if name == "floor":
            pid = await stack.enter_async_context(floor(asterisk, double))
        else:
            pid = (await stack.enter_async_context(engine(asterisk, double))).pid
        process = psutil.Process(pid)
        for first in range(0, max(calls, FEWEST_CALLS), calls):
            barrier = asyncio.Barrier(calls + 1)
            server = ("127.0.0.1", asterisk.sip_port)
            making = [asyncio.create_task(make_call(first + n, server, cycles, barrier)) for n in range(calls)]
            await _together(barrier, making)
            started, before = time.monotonic(), _cpu_s(process)
            # Everybody waits again at the end, so that nobody's hanging up is in the measurement.
            await asyncio.sleep(cycles * CYCLE_S)
            spent += _cpu_s(process) - before
            call_minutes += calls * (time.monotonic() - started) / 60
            rss = process.memory_info().rss / 2**20
            await _together(barrier, making)
            records += await asyncio.gather(*making)
        await asyncio.sleep(1)
    samples = measure(records, await double.stop())
    return _row(name, calls, samples, spent / call_minutes, rss)


async def _together(barrier: asyncio.Barrier, making: Sequence[asyncio.Task[object]]) -> None:
    """Waits for all callers; a caller that failed fails the run instead of hanging it."""
    waiting = asyncio.ensure_future(barrier.wait())
    done, _ = await asyncio.wait([waiting, *making], return_when=asyncio.FIRST_COMPLETED)
    for task in done - {waiting}:
        task.result()
    await waiting


def _row(name: str, calls: int, samples: Samples, cpu: float, rss: float) -> Row:
    return Row(
        system=name,
        calls=calls,
        first_byte_to_ear_p50=p50(samples.first_byte_to_ear),
        first_byte_to_ear_p95=p95(samples.first_byte_to_ear),
        voice_to_provider_p50=p50(samples.voice_to_provider),
        interruption_to_silence_p50=p50(samples.interruption_to_silence),
        interruption_to_silence_p95=p95(samples.interruption_to_silence),
        answer_to_greeting_p50=p50(samples.answer_to_greeting),
        heard_percent=100 * samples.heard_share,
        cpu_s_per_call_minute=cpu,
        rss_mib=rss,
    )


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


async def run(loads: Sequence[int], cycles: int, churn_calls: int) -> dict[str, Any]:
    rows: list[Row] = []
    result: ChurnResult | None = None
    with AsteriskInstance() as asterisk:
        version = asterisk.cli("core show version").split(" built")[0].strip()
        for calls in loads:
            for name in ("floor", "engine"):
                print(f"{name}, {calls} calls …", file=sys.stderr, flush=True)
                rows.append(await measure_system(name, calls, cycles, asterisk))
                print(f"  {asdict(rows[-1])}", file=sys.stderr, flush=True)
        if churn_calls:
            print(f"churn, {churn_calls} calls …", file=sys.stderr, flush=True)
            result = await churn(asterisk, churn_calls)
            print(f"  {asdict(result)}", file=sys.stderr, flush=True)
    return {
        "rows": [asdict(row) for row in rows],
        "churn": asdict(result) if result else None,
        "asterisk": version,
    }


def _machine() -> str:
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return (
        f"{os.cpu_count()} cores, {model}, {platform.system()} {platform.release()}, Python {platform.python_version()}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", default="1,20,60", help="how many at once, one load after the other")
    parser.add_argument("--cycles", type=int, default=3, help="questions and interruptions per call")
    parser.add_argument("--churn", type=int, default=500, help="short calls, ten per second, at the end")
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    found = uvloop.run(run([int(n) for n in options.calls.split(",")], options.cycles, options.churn))
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(found, indent=2), encoding="utf-8")
    write_report(found, machine=_machine())


if __name__ == "__main__":
    main()
