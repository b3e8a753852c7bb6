"""One long call by every way, all at the same time: both sides speak without a pause."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from bench.scenario import p50, p95
from testkit.exchange import WAYS, Conversation, Exchange, Way, growth_ms, lost_frames, murmur
from testkit.speech import noise

LATER_S = 60
"""How much longer than it lasts the agent's speech may take."""


@dataclass(slots=True, frozen=True)
class _Row:
    """One call. Frames are of 20 ms; times in milliseconds."""

    way: Way
    frames: int
    agent_lost: int
    caller_lost: int
    whole: bool
    """Heard bit for bit and without a gap, in both directions."""
    agent_growth: float
    caller_growth: float
    """By how much the last five seconds took longer than the first five."""
    caller_delay_p50: float
    caller_delay_p95: float


async def section(minutes: float) -> str:
    speech = noise(int(60_000 * minutes), seed=1001)
    words = murmur(int(60_000 * minutes) - 2000, seed=1002)
    settings = {"conversation": {"no_input_timeout_s": 600}}
    async with Exchange(WAYS, settings) as exchange:
        calls = await asyncio.gather(*(_long_call(exchange, way, speech, words) for way in WAYS))
        await exchange.nothing_left()
        skipped = {way: await exchange.engine(way).metric("ai_agent_beats_skipped_total") for way in WAYS}
    rows = [_row(it, speech, words) for it in calls]
    lines = [
        f"## {minutes:g} minutes without a pause, both sides at once",
        "",
        "One call by each way at the same time. The double sends the agent's speech six times faster than it plays,",
        "the caller speaks throughout. Growth is by how much the last five seconds were later than the first five, by",
        "medians: for the agent against an even clock, for the caller from the phone to the provider. A beat that the",
        "engine's process was held up for, and gave up, makes what it paces 20 ms later; so does one of Asterisk's.",
        "",
        "| | frames each way | agent's lost | caller's lost | bit for bit, no gap | growth agent → ear "
        "| engine's beats skipped | growth caller → provider | caller → provider p50 | p95 |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.way.name} | {row.frames} | {row.agent_lost} | {row.caller_lost} | {'yes' if row.whole else 'no'} "
        f"| {row.agent_growth:.1f} ms | {skipped[row.way]:.0f} | {row.caller_growth:.1f} ms "
        f"| {row.caller_delay_p50:.1f} ms | {row.caller_delay_p95:.1f} ms |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


async def _long_call(exchange: Exchange, way: Way, speech: bytes, words: bytes) -> Conversation:
    async with exchange.conversation(way, speech) as it:
        it.session.script = it.session.script.model_copy(update={"burst_factor": 6.0})
        await it.asks()
        spoken = it.call.speak(words)
        await it.hears_end_of(speech, len(speech) / 8000 + LATER_S)
        await spoken.done
        await asyncio.sleep(1)
    return it


def _row(it: Conversation, speech: bytes, words: bytes) -> _Row:
    heard, received = it.call.heard(), bytes(it.session.received_audio)
    delays = it.delays_to_provider_ms(words)
    return _Row(
        way=it.way,
        frames=len(speech) // 160,
        agent_lost=lost_frames(heard, speech),
        caller_lost=lost_frames(received, words),
        whole=speech in heard and words in received,
        agent_growth=growth_ms(it.delays_to_caller_ms(speech)),
        caller_growth=growth_ms(delays),
        caller_delay_p50=p50(delays),
        caller_delay_p95=p95(delays),
    )
