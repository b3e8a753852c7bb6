"""Many short calls, to see what they leave behind."""

from __future__ import annotations

import asyncio
import gc
import statistics
from dataclasses import dataclass

import psutil

from bench.systems import Double, engine
from testkit.asterisk import AsteriskInstance
from testkit.caller import SipCaller
from testkit.engine import EngineProcess

CALLS_PER_S = 10
CALL_S = 2.0
WARM_UP = 50


@dataclass(slots=True)
class Footprint:
    rss_mib: float
    descriptors: int
    tasks: int
    channels: int
    bridges: int


@dataclass(slots=True)
class ChurnResult:
    calls: int
    failed: int
    before: Footprint
    after: Footprint
    loop_lag_ms: float
    """The worst delay of the event loop seen while it ran."""


async def churn(asterisk: AsteriskInstance, calls: int) -> ChurnResult:
    """``WARM_UP`` calls, then ``calls`` of them, ten per second; the engine's footprint around the latter."""
    async with Double() as double:
        async with engine(asterisk, double) as running:
            await _calls(asterisk, WARM_UP)
            before = await _footprint(asterisk, running)
            lags: list[float] = []
            watching = asyncio.create_task(_watch_lag(running, lags))
            failed = await _calls(asterisk, calls)
            watching.cancel()
            after = await _footprint(asterisk, running)
        await double.stop()
    return ChurnResult(calls, failed, before, after, max(lags, default=0.0))


async def _calls(asterisk: AsteriskInstance, number: int) -> int:
    """Makes them; returns how many failed."""

    async def one(index: int) -> None:
        await asyncio.sleep(index / CALLS_PER_S)
        async with SipCaller(server=("127.0.0.1", asterisk.sip_port), extension="100") as call:
            await call.dial(timeout_s=15)
            await asyncio.sleep(CALL_S * (0.5 + index % 10 / 10))

    results = await asyncio.gather(*(one(index) for index in range(number)), return_exceptions=True)
    return sum(isinstance(result, BaseException) for result in results)


async def _footprint(asterisk: AsteriskInstance, running: EngineProcess) -> Footprint:
    await running.idle(15)
    gc.collect()
    process = psutil.Process(running.pid)
    rss = statistics.median([process.memory_info().rss for _ in range(3)])
    return Footprint(
        rss_mib=rss / 2**20,
        descriptors=process.num_fds(),
        tasks=int(await running.metric("ai_agent_asyncio_tasks")),
        channels=len(asterisk.channels()),
        bridges=len(asterisk.bridges()),
    )


async def _watch_lag(running: EngineProcess, lags: list[float]) -> None:
    while True:
        lags.append((await running.health())["event_loop_lag_ms"])
        await asyncio.sleep(2)
