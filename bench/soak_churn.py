"""Hundreds of short calls by all ways in turn: what they leave behind."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import psutil

from testkit.engine import EngineProcess
from testkit.exchange import WAYS, Exchange

CALLS_PER_S = 10
CALL_S = 2.0
WARM_UP = 100
"""Calls that go before, so that what is made once and kept is there."""


@dataclass(slots=True, frozen=True)
class _Footprint:
    rss_mib: float
    descriptors: int
    tasks: int


async def section(calls: int) -> str:
    settings = {"conversation": {"no_input_timeout_s": 600}}
    async with Exchange(WAYS, settings, {"validate": "first_of_kind"}) as exchange:
        await _calls(exchange, min(WARM_UP, calls))
        before = await _footprints(exchange)
        failed = await _calls(exchange, calls)
        after = await _footprints(exchange)
        await exchange.nothing_left()
        reasons = await _endings(exchange)
    lines = [
        f"## {calls} short calls, {CALLS_PER_S} per second, by all ways in turn",
        "",
        f"{failed} failed. No channel and no bridge was left in Asterisk, and no session at the provider. Why the",
        f"calls ended, with {min(WARM_UP, calls)} that went before: "
        f"{', '.join(f'{reason} {count}' for reason, count in reasons.items())}.",
        "",
        "| engine | memory before | after | file descriptors before | after | tasks before | after |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {site}: {', '.join(way.name for way in WAYS if way.site == site)} "
        f"| {before[site].rss_mib:.1f} MiB | {after[site].rss_mib:.1f} MiB "
        f"| {before[site].descriptors} | {after[site].descriptors} | {before[site].tasks} | {after[site].tasks} |"
        for site in exchange.engines
    ]
    return "\n".join(lines) + "\n"


async def _calls(exchange: Exchange, number: int) -> int:
    """Makes them; returns how many failed."""

    async def one(index: int) -> None:
        await asyncio.sleep(index / CALLS_PER_S)
        async with exchange.caller(WAYS[index % len(WAYS)]) as call:
            await call.dial(timeout_s=15)
            await asyncio.sleep(CALL_S * (0.5 + index % 10 / 10))

    results = await asyncio.gather(*(one(index) for index in range(number)), return_exceptions=True)
    return sum(isinstance(result, BaseException) for result in results)


async def _footprints(exchange: Exchange) -> dict[str, _Footprint]:
    return {site: await _footprint(engine) for site, engine in exchange.engines.items()}


async def _footprint(engine: EngineProcess) -> _Footprint:
    await engine.idle(15)
    process = psutil.Process(engine.pid)
    return _Footprint(
        rss_mib=process.memory_info().rss / 2**20,
        descriptors=process.num_fds(),
        tasks=int(await engine.metric("ai_agent_asyncio_tasks")),
    )


async def _endings(exchange: Exchange) -> dict[str, int]:
    endings: dict[str, int] = {}
    for engine in exchange.engines.values():
        for event in engine.logged("call_ended"):
            endings[event["reason"]] = endings.get(event["reason"], 0) + 1
    return endings
