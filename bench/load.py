"""One system under one load: what callers noticed, and what it cost whom."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import psutil

from bench.scenario import CYCLE_S, CallRecord, Samples, make_call, measure, p50, p95, warm_up
from bench.systems import Double, engine, floor
from bench.usage import Processes, Usage
from bench.watch import Watch, Watched
from testkit.asterisk import AsteriskInstance
from testkit.engine import EngineProcess

FLOOR, ENGINE = "floor", "engine"


@dataclass(slots=True, frozen=True)
class Load:
    transport: str
    calls: int
    """At once."""
    rounds: int
    """Times that so many calls are made, each with processes of its own: medians of one call are none."""
    cycles: int
    """Questions and interruptions per call."""


@dataclass(slots=True)
class Row:
    """One system under one load. Milliseconds unless named otherwise."""

    system: str
    transport: str
    calls: int
    first_byte_to_ear_p50: float
    first_byte_to_ear_p95: float
    voice_to_provider_p50: float
    voice_to_provider_p95: float
    interruption_to_silence_p50: float
    interruption_to_silence_p95: float
    answer_to_greeting_p50: float
    answer_to_greeting_p95: float
    heard_percent: float
    """Of the agent's frames, by the caller, bit for bit."""
    understood_percent: float
    """Of the caller's frames, by the provider, bit for bit."""
    cpu_s_per_call_minute: float
    asterisk_cpu_s_per_call_minute: float
    rss_mib: float
    machine_percent: float
    """Of all cores, by everything that ran."""
    test_percent: float
    """Of all cores, by the callers and the double."""
    callers_late: int
    """Beats of the callers themselves that came a whole period late, or were given up."""
    watched: Watched | None
    """What the engine says of itself; a floor says nothing."""


async def measure_load(system: str, load: Load, asterisk: AsteriskInstance) -> Row:
    samples, usage, watch = Samples(), Usage(), Watch()
    rss = 0.0
    for number in range(load.rounds):
        async with Double() as double:
            async with _running(system, load.transport, asterisk, double) as (pid, running):
                processes = Processes(psutil.Process(pid), psutil.Process(asterisk.pid), psutil.Process(double.pid))
                records = await _round(number, load, asterisk, processes, usage, watch, running)
                rss = max(rss, processes.system.memory_info().rss / 2**20)
                await asyncio.sleep(1)
            samples.add(measure(records, await double.stop()))
    return _row(system, load, samples, usage, rss, watch.found() if system == ENGINE else None)


async def _round(
    number: int,
    load: Load,
    asterisk: AsteriskInstance,
    processes: Processes,
    usage: Usage,
    watch: Watch,
    running: EngineProcess | None,
) -> Sequence[CallRecord]:
    """Makes the calls once. What they use is counted while all of them talk: nobody's dialling or hanging up is."""
    server = ("127.0.0.1", asterisk.sip_port)
    await warm_up(server)
    barrier = asyncio.Barrier(load.calls + 1)
    async with asyncio.TaskGroup() as callers:
        making = [
            callers.create_task(make_call(number * load.calls + n, server, load.cycles, barrier))
            for n in range(load.calls)
        ]
        await barrier.wait()
        if running is not None:
            await watch.begin(running)
        usage.add(processes.read(), -1)
        await asyncio.sleep(load.cycles * CYCLE_S)
        usage.add(processes.read())
        if running is not None:
            await watch.end(running)
            _check_wires(running, load.transport)
        await barrier.wait()
    return [task.result() for task in making]


def _check_wires(running: EngineProcess, transport: str) -> None:
    """A call that cannot have the wire that was asked for gets another one: that would be the wrong figure."""
    chosen = {line["transport"] for line in running.logged("wire_chosen")}
    assert chosen == {transport}, f"calls went over {chosen}, not {transport}"


@asynccontextmanager
async def _running(
    system: str, transport: str, asterisk: AsteriskInstance, double: Double
) -> AsyncIterator[tuple[int, EngineProcess | None]]:
    """The system's process id; and itself, if it is the engine."""
    if system == FLOOR:
        async with floor(transport, asterisk, double) as pid:
            yield pid, None
    else:
        async with engine(asterisk, double, transport) as running:
            yield running.pid, running


def _row(system: str, load: Load, samples: Samples, usage: Usage, rss: float, watched: Watched | None) -> Row:
    call_minutes = load.calls * usage.elapsed / 60
    capacity = usage.elapsed * (os.cpu_count() or 1)
    return Row(
        system=system,
        transport=load.transport,
        calls=load.calls,
        first_byte_to_ear_p50=p50(samples.first_byte_to_ear),
        first_byte_to_ear_p95=p95(samples.first_byte_to_ear),
        voice_to_provider_p50=p50(samples.voice_to_provider),
        voice_to_provider_p95=p95(samples.voice_to_provider),
        interruption_to_silence_p50=p50(samples.interruption_to_silence),
        interruption_to_silence_p95=p95(samples.interruption_to_silence),
        answer_to_greeting_p50=p50(samples.answer_to_greeting),
        answer_to_greeting_p95=p95(samples.answer_to_greeting),
        heard_percent=100 * samples.heard_share,
        understood_percent=100 * samples.understood_share,
        cpu_s_per_call_minute=usage.system / call_minutes,
        asterisk_cpu_s_per_call_minute=usage.asterisk / call_minutes,
        rss_mib=rss,
        machine_percent=100 * usage.machine / capacity,
        test_percent=100 * usage.test / capacity,
        callers_late=usage.callers_late,
        watched=watched,
    )
