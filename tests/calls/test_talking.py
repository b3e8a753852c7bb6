"""What callers hear and what the provider hears, on whole calls."""

from __future__ import annotations

import asyncio

import pytest

from testkit.hearing import find_clip, voice_edges
from testkit.openai_realtime import FunctionCall, Reply, Script
from testkit.speech import noise, tone
from testkit.waiting import wait_until
from tests.calls.conftest import LineFactory

pytestmark = pytest.mark.asterisk

GREETING = noise(1500, seed=1)
LONG_REPLY = noise(30_000, seed=2)
QUESTION = tone(440, 800)


async def test_the_greeting_is_heard_bit_for_bit_and_the_first_words_reach_the_provider(
    open_line: LineFactory,
) -> None:
    async with open_line(Script(greeting=Reply(audio=GREETING))) as line:
        async with line.caller() as call:
            await call.dial()
            await wait_until(lambda: find_clip(call.heard(), GREETING), 10, "the greeting")
            words = noise(1000, seed=3)
            await call.speak(words).done
            session = line.double.sessions[0]
            await wait_until(lambda: find_clip(bytes(session.received_audio), words), 5, "the caller's words")
        await line.nothing_left()
        assert await line.engine.metric("ai_agent_answer_to_greeting_seconds_count") == 1
        assert await line.engine.metric("ai_agent_underruns_total") == 0


async def test_thirty_seconds_delivered_in_five_are_heard_bit_for_bit(open_line: LineFactory) -> None:
    async with open_line(Script(greeting=Reply(audio=LONG_REPLY), burst_factor=6.0)) as line:
        async with line.caller() as call:
            await call.dial()
            await wait_until(lambda: find_clip(call.heard(), LONG_REPLY), 45, "the long greeting")
        await line.nothing_left()


async def test_a_caller_who_speaks_is_heard_at_once_and_the_provider_knows_what_was_said(
    open_line: LineFactory,
) -> None:
    reply = noise(600, seed=4)
    script = Script(greeting=Reply(audio=LONG_REPLY), replies=(Reply(audio=reply),), burst_factor=None)
    async with open_line(script) as line, line.caller() as call:
        await call.dial()
        await wait_until(lambda: find_clip(call.heard(), LONG_REPLY[: 160 * 50]), 10, "a second of the greeting")
        spoken = call.speak(QUESTION)
        started = await spoken.started
        await wait_until(lambda: find_clip(call.heard(), reply), 10, "the reply")
        await wait_until(lambda: line.double.sessions[0].truncated, 5, "the truncation")
        heard = call.heard()
        cut_ms = line.double.sessions[0].truncated[0].audio_end_ms
        assert find_clip(heard, LONG_REPLY[: 8 * cut_ms]) is not None, "all that was counted as heard was heard"
        assert find_clip(heard, LONG_REPLY[: 8 * (cut_ms + 60)]) is None, "and no more than a frame or two more"
        silent_at = next(edge.at for edge in voice_edges(call.received) if not edge.voice and edge.at > started)
        assert silent_at - started < 0.5
        assert await line.engine.metric("ai_agent_barge_ins_total") == 1
        await call.hangup()
        await line.nothing_left()


async def test_keys_reach_the_engine_once(open_line: LineFactory) -> None:
    async with open_line(Script(greeting=Reply(audio=GREETING))) as line:
        async with line.caller() as call:
            await call.dial()
            await wait_until(lambda: find_clip(call.heard(), GREETING), 10, "the greeting")
            call.dtmf("12#")
            await line.engine.wait_for_log("key_pressed", digit="#")
            assert [event["digit"] for event in line.engine.logged("key_pressed")] == ["1", "2", "#"]
        await line.nothing_left()


async def test_the_agent_hangs_up_after_its_goodbye_was_heard(open_line: LineFactory) -> None:
    goodbye = noise(2000, seed=5)
    script = Script(
        greeting=Reply(audio=GREETING),
        replies=(Reply(audio=goodbye, calls=(FunctionCall(name="hangup_call"),)),),
        burst_factor=None,
    )
    async with open_line(script) as line:
        async with line.caller() as call:
            await call.dial()
            await wait_until(lambda: find_clip(call.heard(), GREETING), 10, "the greeting")
            await call.speak(QUESTION).done
            await call.wait_ended(10)
            assert call.ended_by == "callee"
            assert find_clip(call.heard(), goodbye) is not None
        await line.nothing_left()
        await line.engine.wait_for_log("call_ended", reason="agent_hung_up")


async def test_a_message_is_stored_and_the_model_told(open_line: LineFactory) -> None:
    message = '{"name": "Ann Smith", "number": "5550123", "reason": "the delivery"}'
    script = Script(
        greeting=Reply(audio=GREETING),
        replies=(Reply(calls=(FunctionCall(name="take_message", arguments=message),)), Reply(audio=GREETING)),
    )
    async with open_line(script) as line:
        async with line.caller() as call:
            await call.dial()
            await wait_until(lambda: find_clip(call.heard(), GREETING), 10, "the greeting")
            await call.speak(QUESTION).done
            folder = line.engine.folder / "messages"
            stored = await wait_until(lambda: list(folder.glob("*.json")) or None, 10, "the message")
            assert '"reason": "the delivery"' in stored[0].read_text()
            await wait_until(
                lambda: any(
                    event["item"]["type"] == "function_call_output" and "stored" in event["item"]["output"]
                    for event in line.double.sessions[0].events("conversation.item.create")
                ),
                10,
                "the tool's result",
            )
        await line.nothing_left()


async def test_a_silent_caller_is_asked_and_then_left(open_line: LineFactory) -> None:
    script = Script(greeting=Reply(audio=GREETING), announcement=Reply(audio=noise(500, seed=6)))
    settings = {"conversation": {"no_input_timeout_s": 1, "max_check_ins": 1}}
    async with open_line(script, settings=settings) as line:
        async with line.caller() as call:
            await call.dial()
            await call.wait_ended(20)
        await line.engine.wait_for_log("call_ended", reason="no_input")
        await line.nothing_left()


async def test_the_dialplan_chooses_greeting_and_provider(open_line: LineFactory) -> None:
    async with open_line(Script(greeting=Reply(audio=GREETING))) as line:
        headers = {"X-AI-Greeting": "Welcome to the shop", "X-AI-Provider": "no_such_provider"}
        async with line.caller(headers=headers) as call:
            await call.dial()
            await wait_until(lambda: find_clip(call.heard(), GREETING), 10, "the greeting")
            asked = line.double.sessions[0].events("response.create")[0]["response"]["instructions"]
            assert "Welcome to the shop" in asked
            await line.engine.wait_for_log("provider_unknown", asked_for="no_such_provider")
        await line.nothing_left()


async def test_twenty_calls_at_once_each_hear_their_own_greeting_whole(open_line: LineFactory) -> None:
    long_greeting = noise(6000, seed=7)
    async with open_line(Script(greeting=Reply(audio=long_greeting)), validate="first_of_kind") as line:

        async def one() -> None:
            async with line.caller() as call:
                await call.dial()
                await wait_until(lambda: find_clip(call.heard(), long_greeting), 30, "the greeting")

        await asyncio.gather(*(one() for _ in range(20)))
        await line.nothing_left()
        assert await line.engine.metric("ai_agent_calls_ended_total", reason="caller_hung_up") == 20
        assert await line.engine.metric("ai_agent_frames_dropped_total") <= 20, "only after hang-up, if at all"
