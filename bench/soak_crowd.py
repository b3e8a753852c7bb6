"""Many calls at once by one way after the other: whether anything of theirs is lost, and what is late."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import asdict, dataclass

import psutil

from bench.scenario import CYCLE_S, make_call, measure, warm_up
from bench.systems import Double
from bench.usage import Processes, Usage
from bench.watch import Watch, Watched
from testkit.asterisk import AsteriskInstance
from testkit.exchange import WAYS, Way, engine_at

LAG_LIMIT_MS = 10


@dataclass(slots=True, frozen=True)
class _Row:
    way: Way
    heard_percent: float
    understood_percent: float
    engine: Watched
    callers_late: int
    """Beats of the phones themselves that came a whole period late, or were given up."""
    machine_percent: float
    rss_mib: float


async def section(calls: int, minutes: float) -> str:
    cycles = max(1, round(60 * minutes / CYCLE_S))
    rows = []
    with AsteriskInstance() as asterisk:
        for way in WAYS:
            rows.append(await _crowd(way, calls, cycles, asterisk))
            print(f"  {asdict(rows[-1])}", file=sys.stderr, flush=True)
    lines = [
        f"## {calls} calls at once for {cycles * CYCLE_S / 60:.1f} minutes",
        "",
        f"Everybody asks and interrupts every {CYCLE_S:.0f} s, by one way after the other. Heard and understood: how",
        "many of the agent's frames came to the callers, and of the callers' to the provider, bit for bit. To hold:",
        f"all of them, nothing dropped, and 99 of 100 delays of the event loop below {LAG_LIMIT_MS} ms.",
        "",
        "| | heard | understood | dropped | lost on the wire | dropped to provider | loop delay p99 | worst "
        "| beats late | skipped | phones' beats late | machine busy | memory |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.way.name} | {row.heard_percent:.2f} % | {row.understood_percent:.2f} % | {row.engine.frames_dropped} "
        f"| {row.engine.frames_lost} | {row.engine.provider_frames_dropped} | ≤ {row.engine.loop_lag_p99:.0f} ms "
        f"| ≤ {row.engine.loop_lag_worst:.0f} ms | {row.engine.beats_late} | {row.engine.beats_skipped} "
        f"| {row.callers_late} | {row.machine_percent:.0f} % | {row.rss_mib:.0f} MiB |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


async def _crowd(way: Way, calls: int, cycles: int, asterisk: AsteriskInstance) -> _Row:
    server = ("127.0.0.1", asterisk.sip_port)
    barrier = asyncio.Barrier(calls + 1)
    usage, watch = Usage(), Watch()
    double = Double()
    await double.start()
    running = engine_at(
        asterisk,
        way.site,
        app_name=asterisk.app_name,
        provider_url=double.url,
        settings={
            "audio_transport": way.transport,
            "conversation": {"no_input_timeout_s": 600},
            "limits": {"max_calls": calls + 1, "drain_s": 0},
        },
    )
    async with running:
        process = psutil.Process(running.pid)
        processes = Processes(process, psutil.Process(asterisk.pid), psutil.Process(double.pid))
        await warm_up(server)
        async with asyncio.TaskGroup() as group:
            making = [group.create_task(make_call(number, server, cycles, barrier)) for number in range(calls)]
            await barrier.wait()
            await watch.begin(running)
            usage.add(processes.read(), -1)
            await asyncio.sleep(cycles * CYCLE_S)
            usage.add(processes.read())
            await watch.end(running)
            rss_mib = process.memory_info().rss / 2**20
            await barrier.wait()
        await running.idle(15)
    samples = measure([task.result() for task in making], await double.stop())
    return _Row(
        way=way,
        heard_percent=100 * samples.heard_share,
        understood_percent=100 * samples.understood_share,
        engine=watch.found(),
        callers_late=usage.callers_late,
        machine_percent=100 * usage.machine / usage.elapsed / (psutil.cpu_count() or 1),
        rss_mib=rss_mib,
    )
