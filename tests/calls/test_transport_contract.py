"""What every way of carrying a call's sound has to do, on whole calls: callers cannot tell them apart.

Each scene is played by all ways at once, and judged for each by itself.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AsyncExitStack
from operator import attrgetter

import psutil
import pytest
import pytest_asyncio

from testkit.caller import SipCaller
from testkit.exchange import (
    QUESTION,
    SCRIPT,
    WAYS,
    Conversation,
    Exchange,
    Way,
    frames,
    growth_ms,
    lost_frames,
    murmur,
)
from testkit.hearing import clip_arrived_at, is_voice
from testkit.openai_realtime import Reply
from testkit.speech import noise
from testkit.waiting import wait_until

pytestmark = [pytest.mark.asterisk, pytest.mark.asyncio(loop_scope="module")]

MINUTE, LONG, REPLY = noise(60_000, seed=11), noise(12_000, seed=12), noise(1500, seed=13)
LAST = noise(1500, seed=18)
CHECK_IN = noise(500, seed=14)
MURMUR = murmur(58_000, seed=17)
INTERRUPTION = noise(400, seed=15)
KEYS = "0123456789*#ABCD"
NO_INPUT_S = 4.0
MOST_GROWTH_MS = 1500
"""In a minute: less than beats would come to that slip by 0.6 ms each, as after a plain sleep (1800). Whoever paces is
later by a frame for each beat that a busy machine made it give up; ``make soak`` shows the rest of it.
"""
CHANGE_FRAMES = 4
"""What Asterisk may lose where it begins to mix and where it ceases to."""
MIB = 2**20

Scene = Callable[[Exchange, Way], Awaitable[None]]


class Stage:
    """Plays a scene by all of its ways at once when the first of them is asked for."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._played: dict[Scene, dict[Way, asyncio.Task[None]]] = {}

    async def play(self, scene: Scene, ways: Collection[Way], way: Way) -> None:
        if scene not in self._played:
            self._played[scene] = {
                each: asyncio.ensure_future(scene(self._exchange, each)) for each in self._exchange.ways if each in ways
            }
            await asyncio.wait(self._played[scene].values())
        await self._played[scene][way]


def by(*ways: Way) -> Callable[[Scene], Callable[[Stage, Way], Awaitable[None]]]:
    """Makes a test for each way of a scene."""

    def decorate(scene: Scene) -> Callable[[Stage, Way], Awaitable[None]]:
        @pytest.mark.parametrize("way", ways, ids=attrgetter("name"))
        async def test(stage: Stage, way: Way) -> None:
            await stage.play(scene, ways, way)

        test.__doc__ = scene.__doc__
        return test

    return decorate


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def exchange(request: pytest.FixtureRequest) -> AsyncIterator[Exchange]:
    """One for all tests here, with the ways that are to be tested."""
    chosen = {item.callspec.params.get("way") for item in request.session.items if hasattr(item, "callspec")}
    script = SCRIPT.model_copy(update={"announcement": Reply(audio=CHECK_IN)})
    settings = {"conversation": {"no_input_timeout_s": NO_INPUT_S}}
    async with Exchange([way for way in WAYS if way in chosen] or WAYS, settings) as exchange:
        exchange.double.script = script
        yield exchange
        await exchange.nothing_left()
        assert exchange.double.violations == []


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(exchange: Exchange) -> Stage:
    return Stage(exchange)


@by(*WAYS)
async def test_a_minute_in_one_burst_both_ways(exchange: Exchange, way: Way) -> None:
    """All is heard bit for bit in both directions, and the end of it is no later than its beginning was."""
    async with exchange.conversation(way, MINUTE) as it:
        await it.asks()
        # Too quiet to interrupt.
        words = it.call.speak(MURMUR)
        await it.hears(MINUTE, 75)
        await it.is_heard(MURMUR, 10)
        await words.done
        for delays_ms in (it.delays_to_caller_ms(MINUTE), it.delays_to_provider_ms(MURMUR)):
            assert abs(growth_ms(delays_ms)) < MOST_GROWTH_MS


@by(*WAYS)
async def test_an_interruption(exchange: Exchange, way: Way) -> None:
    """The rest is never heard, the next reply is heard whole, and the provider knows how much was heard."""
    async with exchange.conversation(way, LONG, REPLY) as it:
        await it.asks()
        await it.hears(LONG[:8000])
        interrupted_at = await it.call.speak(INTERRUPTION).started
        await it.hears(REPLY)
        cut = await wait_until(lambda: it.session.truncated or None, 5, "the truncation")
        heard, sound = it.call.heard(), list(frames(LONG))
        heard_frames = next(number for number, frame in enumerate(sound) if frame not in heard)
        assert not [frame for frame in sound[heard_frames + 1 :] if frame in heard], "it was over, then went on"
        last_heard_at = clip_arrived_at(it.call.received, sound[heard_frames - 1])
        assert last_heard_at is not None
        assert last_heard_at - interrupted_at < 0.5
        assert abs(cut[0].audio_end_ms - 20 * heard_frames) <= way.heard_within_ms


@by(*WAYS)
async def test_hold(exchange: Exchange, way: Way) -> None:
    """Whoever comes back from hold is heard and hears."""
    async with exchange.conversation(way, REPLY) as it:
        await it.call.hold()
        await asyncio.sleep(1.5)
        await it.call.unhold()
        await it.asks()
        await it.is_heard(QUESTION)
        await it.hears(REPLY)


@by(*WAYS)
async def test_a_phone_that_moves(exchange: Exchange, way: Way) -> None:
    """A re-INVITE in the middle of a reply, then one to another port: no more is lost than what was on its way."""
    story = LONG[:32_000]
    async with exchange.conversation(way, story, REPLY) as it:
        await it.asks()
        await it.hears(story[:8000])
        await it.call.reinvite()
        await it.hears(story[:16_000])
        await it.call.reinvite(move=True)
        await it.hears_end_of(story)
        assert lost_frames(it.call.heard(), story) <= 1
        await it.asks(INTERRUPTION)
        await it.is_heard(INTERRUPTION)
        await it.hears(REPLY)


@by(*(way for way in WAYS if way.bridged))
async def test_a_third_party(exchange: Exchange, way: Way) -> None:
    """Somebody joins in the middle of a reply, hears the rest of it, is heard, and leaves: no word is lost.

    Asterisk mixes meanwhile, which would throw away what it is sent ahead of time.
    """
    story = LONG[:48_000]
    async with exchange.conversation(way, story, REPLY, LAST) as it:
        await it.asks()
        await it.hears(story[:8000])
        async with exchange.guest_in(it) as guest:
            await it.hears_end_of(story)
            assert lost_frames(it.call.heard(), story) <= CHANGE_FRAMES
            assert lost_frames(guest.heard(), story[16_000:]) == 0
            aside = murmur(1000, seed=16)
            await guest.speak(aside).done
            await it.is_heard(aside)
            await it.asks()
            await it.hears_end_of(REPLY)
            assert lost_frames(it.call.heard(), REPLY) == 0
        await it.asks()
        await it.hears(LAST)


@by(*WAYS)
async def test_keys(exchange: Exchange, way: Way) -> None:
    """Each key comes once, in the order of pressing, by the wire or else by ARI."""
    async with exchange.conversation(way, REPLY) as it:
        it.call.dtmf(KEYS)
        await wait_until(lambda: it.logged("key_pressed", digit=KEYS[-1]) or None, 10, "the last key")
        await it.asks()
        await it.hears(REPLY)
        assert [event["digit"] for event in it.logged("key_pressed")] == list(KEYS)


@by(*WAYS)
async def test_a_phone_that_sends_nothing(exchange: Exchange, way: Way) -> None:
    """Its caller hears the greeting, is asked whether there is anybody, and is heard when it does send."""
    async with exchange.conversation(way, REPLY, sends=False) as it:
        await it.hears(CHECK_IN)
        it.call.resume_sending()
        await it.asks()
        await it.is_heard(QUESTION)
        await it.hears(REPLY)


RACERS = 20


@by(*WAYS)
async def test_hanging_up_at_any_moment(exchange: Exchange, way: Way) -> None:
    """Twenty callers at once, each of whom hangs up at another moment: nothing of them is left."""

    async def one(index: int) -> None:
        async with exchange.caller(way, number=numbers[index]) as call:
            dialling = asyncio.create_task(call.dial())
            await MOMENTS[index % len(MOMENTS)](call)
            await call.hangup()
            await asyncio.gather(dialling, return_exceptions=True)

    engine = exchange.engine(way)
    numbers = [exchange.number(way) for _ in range(RACERS)]
    await asyncio.gather(*(one(index) for index in range(RACERS)))
    arrived = [event["call_id"] for event in engine.logged("call_arrived") if event["dialled"] in numbers]
    assert len(arrived) > RACERS // 2
    for call_id in arrived:
        ended = await engine.wait_for_log("call_ended", call_id=call_id)
        assert ended["reason"] == "caller_hung_up"
        assert not engine.logged("call_failed", call_id=call_id)


async def _at_once(call: SipCaller) -> None: ...


async def _ringing(call: SipCaller) -> None:
    await asyncio.sleep(0.01)


async def _answered(call: SipCaller) -> None:
    await wait_until(lambda: call.answered_at, 10, "the answer")


async def _at_the_first_packet(call: SipCaller) -> None:
    await wait_until(lambda: call.received or None, 10, "the first packet")


async def _in_the_greeting(call: SipCaller) -> None:
    await wait_until(lambda: any(is_voice(packet.payload) for packet in call.received), 10, "the greeting")


async def _while_asking(call: SipCaller) -> None:
    await _in_the_greeting(call)
    await call.speak(QUESTION).started


async def _as_the_reply_begins(call: SipCaller) -> None:
    await _in_the_greeting(call)
    await call.speak(QUESTION).done
    # The double's turn ends 200 ms after the voice.
    await asyncio.sleep(0.2)


MOMENTS = (
    _at_once,
    _ringing,
    _answered,
    _at_the_first_packet,
    _in_the_greeting,
    _while_asking,
    _as_the_reply_begins,
)


async def test_asterisk_stands_still(exchange: Exchange) -> None:
    """For four seconds in the middle of a reply: the engine does not, grows by little, and goes on afterwards."""
    processes = {engine: psutil.Process(engine.pid) for engine in exchange.engines.values()}
    async with AsyncExitStack() as stack:

        async def begin(way: Way) -> Conversation:
            it = await stack.enter_async_context(exchange.conversation(way, LONG, REPLY))
            await it.asks()
            await it.hears(LONG[:8000])
            return it

        async def go_on(it: Conversation) -> None:
            await it.asks(INTERRUPTION)
            await it.hears(REPLY)

        calls = await asyncio.gather(*map(begin, exchange.ways))
        before = {engine: process.memory_info().rss for engine, process in processes.items()}
        os.kill(exchange.asterisk.pid, signal.SIGSTOP)
        try:
            for _ in range(8):
                await asyncio.sleep(0.5)
                for engine in processes:
                    assert (await engine.health())["status"] == "ok"
        finally:
            os.kill(exchange.asterisk.pid, signal.SIGCONT)
        for engine, process in processes.items():
            assert process.memory_info().rss - before[engine] < 4 * MIB
        await asyncio.gather(*map(go_on, calls))
