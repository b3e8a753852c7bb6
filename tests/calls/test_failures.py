"""Whatever fails, the caller hears a sentence, the other calls go on, and nothing is left behind."""

from __future__ import annotations

import asyncio
import wave
from pathlib import Path

import pytest

from audio.convert import converter
from audio.formats import SLIN_8K, ULAW_8K
from testkit.hearing import find_clip, longest_silence_ms
from testkit.openai_realtime import FunctionCall, Reply, Script
from testkit.speech import noise, tone
from testkit.waiting import wait_until
from tests.calls.conftest import Line, LineFactory

pytestmark = pytest.mark.asterisk

GREETING = noise(1000, seed=1)
LONG = noise(20_000, seed=2)
QUESTION = tone(440, 600)
SOUNDS = Path(__file__).parents[2] / "src" / "engine" / "sounds"


def shipped(name: str) -> bytes:
    """A sentence of the engine's own, as the caller's phone receives it."""
    with wave.open(str(SOUNDS / f"{name}.wav")) as file:
        return converter(SLIN_8K, ULAW_8K)(file.readframes(file.getnframes()))


APOLOGY = shipped("apology")
ONE_MOMENT = shipped("one_moment")
APOLOGY_START = APOLOGY[8000:16000]


# Ten moments at which a caller may hang up. Each waits for its moment on a call that is being made.


async def _at_once(line: Line, call: object) -> None: ...


async def _while_the_provider_connects(line: Line, call: object) -> None:
    await line.engine.wait_for_log("call_arrived")


async def _when_answered(line: Line, call: object) -> None:
    await wait_until(lambda: getattr(call, "answered_at", None), 10, "the answer")


async def _when_the_provider_is_there(line: Line, call: object) -> None:
    await wait_until(lambda: line.double.sessions or None, 10, "the provider's session")


async def _at_the_first_sample(line: Line, call: object) -> None:
    await wait_until(lambda: find_clip(call.heard(), LONG[:160]), 10, "the first frame")  # type: ignore[attr-defined]


async def _in_the_greeting(line: Line, call: object) -> None:
    await wait_until(lambda: find_clip(call.heard(), LONG[:8000]), 10, "a second of it")  # type: ignore[attr-defined]


async def _while_speaking(line: Line, call: object) -> None:
    await _in_the_greeting(line, call)
    await call.speak(QUESTION).started  # type: ignore[attr-defined]


async def _while_interrupting(line: Line, call: object) -> None:
    await _while_speaking(line, call)
    await line.engine.wait_for_log("agent_interrupted")


async def _while_the_reply_is_due(line: Line, call: object) -> None:
    await _in_the_greeting(line, call)
    await call.speak(QUESTION).done  # type: ignore[attr-defined]


async def _in_a_tool(line: Line, call: object) -> None:
    await _while_the_reply_is_due(line, call)
    await line.engine.wait_for_log("tool_ran")


MOMENTS = [
    _at_once,
    _while_the_provider_connects,
    _when_answered,
    _when_the_provider_is_there,
    _at_the_first_sample,
    _in_the_greeting,
    _while_speaking,
    _while_interrupting,
    _while_the_reply_is_due,
    _in_a_tool,
]


@pytest.mark.parametrize("side", ["caller", "pbx"])
async def test_either_side_may_hang_up_at_any_moment(open_line: LineFactory, side: str) -> None:
    call_a_tool = Reply(calls=(FunctionCall(name="take_message", arguments="{}"),))
    script = Script(greeting=Reply(audio=LONG), replies=(call_a_tool,), burst_factor=None)
    async with open_line(script) as line:
        for moment in MOMENTS:
            line.engine.events.clear()
            line.double.sessions.clear()
            async with line.caller() as call:
                dialling = asyncio.create_task(call.dial())
                try:
                    await moment(line, call)
                    if side == "pbx":
                        await asyncio.to_thread(line.asterisk.cli, "channel request hangup all")
                finally:
                    # Before there is a channel the PBX has nothing to hang up: then it is the caller's turn.
                    await call.hangup()
                    await asyncio.gather(dialling, return_exceptions=True)
            await line.nothing_left()
            assert not line.engine.logged("call_failed"), moment.__name__


async def test_a_provider_that_never_answers_is_apologised_for(open_line: LineFactory) -> None:
    settings = {"limits": {"provider_timeout_s": 4}}
    async with open_line(Script(never_answers="upgrades"), settings=settings) as line, line.caller() as call:
        await call.dial()
        await wait_until(lambda: find_clip(call.heard(), APOLOGY_START), 20, "the apology")
        assert find_clip(call.heard(), ONE_MOMENT[4000:8000]) is not None, "a filler before that"
        await call.wait_ended(20)
        assert call.ended_by == "callee"
        await line.nothing_left()
        await line.engine.wait_for_log("call_ended", reason="provider_failed")


async def test_a_provider_that_refuses_is_apologised_for(open_line: LineFactory) -> None:
    async with open_line(Script(reject_status=401)) as line, line.caller() as call:
        await call.dial()
        await wait_until(lambda: find_clip(call.heard(), APOLOGY_START), 20, "the apology")
        await call.wait_ended(20)
        await line.engine.wait_for_log("provider_lost", code="unauthorized")
        await line.nothing_left()


async def test_a_provider_that_dies_in_the_middle_of_a_word(open_line: LineFactory) -> None:
    script = Script(greeting=Reply(audio=LONG), disconnect_after_ms=2000)
    async with open_line(script) as line, line.caller() as call:
        await call.dial()
        await wait_until(lambda: find_clip(call.heard(), APOLOGY_START), 20, "the apology")
        heard = call.heard()
        delivered = find_clip(heard, LONG[: 8 * 1900])
        assert delivered is not None, "what it had said was still played"
        await call.wait_ended(20)
        await line.engine.wait_for_log("call_ended", reason="provider_failed")
        await line.nothing_left()


async def test_a_provider_that_stalls_when_it_is_its_turn(open_line: LineFactory) -> None:
    script = Script(
        greeting=Reply(audio=GREETING), replies=(Reply(audio=LONG),), faultless_responses=1, stall_after_ms=0
    )
    settings = {"limits": {"provider_timeout_s": 5}}
    async with open_line(script, settings=settings) as line, line.caller() as call:
        await call.dial()
        await wait_until(lambda: find_clip(call.heard(), GREETING), 10, "the greeting")
        done = await call.speak(QUESTION).done
        await wait_until(lambda: find_clip(call.heard(), APOLOGY_START), 20, "the apology")
        silence = longest_silence_ms(call.received, after=done)
        assert silence < 1.5 * 2500, "never silent for long: a filler, then the apology"
        await call.wait_ended(20)
        await line.engine.wait_for_log("call_ended", reason="provider_stalled")
        await line.nothing_left()


async def test_garbage_from_the_provider_does_not_end_the_call(open_line: LineFactory) -> None:
    script = Script(greeting=Reply(audio=GREETING), garbage=("invalid_json", "wrong_types", "unknown_events", "binary"))
    async with open_line(script) as line, line.caller() as call:
        await call.dial()
        await wait_until(lambda: find_clip(call.heard(), GREETING), 10, "the greeting")
        assert await line.engine.metric("ai_agent_provider_warnings_total") > 0
        await call.hangup()
        await line.nothing_left()
        await line.engine.wait_for_log("call_ended", reason="caller_hung_up")


async def test_an_error_event_does_not_end_the_call(open_line: LineFactory) -> None:
    script = Script(greeting=Reply(audio=GREETING), error={"type": "server_error", "message": "a hiccup"})
    async with open_line(script) as line, line.caller() as call:
        await call.dial()
        await wait_until(lambda: find_clip(call.heard(), GREETING), 10, "the greeting")
        await line.engine.wait_for_log("provider_warned", error="a hiccup")
        await call.hangup()
        await line.nothing_left()


async def test_one_calls_trouble_stays_in_that_call(open_line: LineFactory) -> None:
    healthy = Script(greeting=Reply(audio=LONG))
    async with open_line(healthy) as line, line.caller() as good:
        await good.dial()
        await wait_until(lambda: find_clip(good.heard(), LONG[:1600]), 10, "its greeting")
        line.double.script = Script(greeting=Reply(audio=LONG), garbage=("huge",), disconnect_after_ms=500)
        async with line.caller() as bad:
            await bad.dial()
            await bad.wait_ended(30)
        await wait_until(lambda: find_clip(good.heard(), LONG), 40, "the whole of the other's greeting")
        await good.hangup()
        await line.nothing_left()


async def test_the_engine_hangs_up_its_calls_when_it_is_stopped(open_line: LineFactory) -> None:
    async with open_line(Script(greeting=Reply(audio=LONG))) as line:
        async with line.caller() as first, line.caller() as second:
            await asyncio.gather(first.dial(), second.dial())
            await wait_until(lambda: find_clip(first.heard(), LONG[:8000]), 10, "a second of greeting")
            assert await line.engine.stop() == 0
            await asyncio.gather(first.wait_ended(5), second.wait_ended(5))
        assert line.asterisk.channels() == []
        assert line.asterisk.bridges() == []
        reasons = [event["reason"] for event in line.engine.logged("call_ended")]
        assert reasons == ["engine_stopped"] * 2


async def test_a_killed_engines_callers_are_adopted_by_the_next(open_line: LineFactory) -> None:
    async with open_line(Script(greeting=Reply(audio=LONG))) as line:
        async with line.caller() as call:
            await call.dial()
            await wait_until(lambda: find_clip(call.heard(), LONG[:8000]), 10, "a second of greeting")
            assert line.engine.process is not None
            line.engine.process.kill()
            await line.engine.process.wait()
            line.double.script = Script(greeting=Reply(audio=GREETING))
            await line.engine.stop()
            await line.engine.start()
            await wait_until(lambda: find_clip(call.heard(), GREETING), 15, "the next engine's greeting")
            assert len(line.asterisk.bridges()) == 1, "the bridge of the call that was, is gone"
        await line.nothing_left()


async def test_more_calls_than_allowed_are_turned_away(open_line: LineFactory) -> None:
    from testkit.caller import CallRejected

    async with open_line(Script(greeting=Reply(audio=LONG)), settings={"limits": {"max_calls": 1}}) as line:
        async with line.caller() as first, line.caller() as second:
            await first.dial()
            with pytest.raises(CallRejected) as refusal:
                await second.dial()
            assert refusal.value.status == 503
            await first.hangup()
        await line.nothing_left()
        assert await line.engine.metric("ai_agent_calls_refused_total", reason="full") == 1


async def test_asterisk_restarted_under_the_engine(own_asterisk: object, open_line_at: LineFactory) -> None:
    async with open_line_at(own_asterisk, Script(greeting=Reply(audio=GREETING))) as line:
        async with line.caller() as call:
            await call.dial()
            await wait_until(lambda: find_clip(call.heard(), GREETING), 10, "the greeting")
            await asyncio.to_thread(line.asterisk.restart)
        await line.engine.idle(15)
        async with asyncio.timeout(30):
            while not await line.engine.ready():
                await asyncio.sleep(0.1)
        async with line.caller() as call:
            await call.dial()
            await wait_until(lambda: find_clip(call.heard(), GREETING), 10, "the greeting again")
        await line.nothing_left()
        health = await line.engine.health()
        assert health["ari"]["reconnects"] >= 1
