"""What is carried between the provider, the playback and the coordinator of one call."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from call_support import CLIPS, FRAME, SETTINGS, Line, ScriptedProvider, line

from audio.formats import ULAW_8K
from engine import conversation as conversation_module
from engine.conversation_events import Clip
from engine.coordinator import Turn
from engine.tools import ToolError
from providers.base import (
    AgentItemDone,
    AgentText,
    CallerSpeechStarted,
    CallerSpeechStopped,
    ProviderSink,
    Ready,
    ReplyEnded,
    ToolCalled,
)

MESSAGE = json.dumps({"name": "Ann", "number": "5550123", "reason": "the delivery"})


def speech(frames: int, value: int = 0x33) -> bytes:
    return bytes([value]) * FRAME * frames


def says(sink: ProviderSink, item_id: str, sound: bytes) -> None:
    """A whole reply of one item, in a burst."""
    sink.audio(item_id, sound)
    sink.event(AgentText(item_id, f"this is {item_id}"))
    sink.event(AgentItemDone(item_id))
    sink.event(ReplyEnded())


async def asked(on: Line) -> ProviderSink:
    """The caller has asked something and waits for the reply; returns the way to give it."""
    await on.connected()
    sink = on.provider.sink
    says(sink, "greeting", speech(2))
    await on.until(lambda: on.session.call.turn is Turn.LISTENING)
    sink.event(CallerSpeechStarted())
    sink.event(CallerSpeechStopped())
    return sink


async def test_a_greeting_that_is_whole_before_there_is_sound_is_heard_once_and_then_it_is_the_callers_turn() -> None:
    async def eager(_: ScriptedProvider, sink: ProviderSink) -> None:
        sink.event(Ready())
        says(sink, "greeting", speech(5))
        await asyncio.Event().wait()

    async with line(eager) as on:
        await on.connected()
        await on.until(lambda: on.session.call.turn is Turn.LISTENING)
        assert on.port.voiced == speech(5)
        assert on.sample("ai_agent_answer_to_greeting_seconds_count") == 1


async def test_a_barge_in_tells_the_provider_what_left() -> None:
    async with line() as on:
        sink = await asked(on)
        says(sink, "reply", speech(200))
        await on.until(lambda: on.conversation.playback.ledger.heard_ms("reply") >= 100)
        sink.event(CallerSpeechStarted(certain=True))
        heard_ms = len(on.port.voiced) // FRAME * 20 - 40
        assert on.provider.interruptions == [("reply", heard_ms)]
        assert on.session.call.turn is Turn.CALLER_SPEAKING
        sent = len(on.port.voiced)
        await on.until(lambda: on.sample("ai_agent_barge_in_reaction_seconds_count") == 1)
        assert len(on.port.voiced) == sent


async def test_of_two_items_the_one_being_heard_is_named() -> None:
    async with line() as on:
        sink = await asked(on)
        sink.audio("first", speech(3))
        sink.event(AgentItemDone("first"))
        sink.audio("second", speech(200))
        sink.audio("third", speech(200))
        await on.until(lambda: on.conversation.playback.ledger.heard_ms("second") >= 60)
        sink.event(CallerSpeechStarted(certain=True))
        ((item_id, heard_ms),) = on.provider.interruptions
        assert item_id == "second"
        assert heard_ms == on.conversation.playback.ledger.heard_ms("second")
        sink.audio("third", speech(1))
        assert on.conversation.counts().late_chunks == 1


async def test_a_reply_that_waited_behind_a_filler_is_named_when_the_filler_is_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(CLIPS, Clip.ONE_MOMENT, speech(200, 0x11))
    rules = replace(SETTINGS.rules, fallback_timeout_ms=60)
    async with line(rules=rules) as on:
        sink = await asked(on)
        await on.until(lambda: on.port.voiced.endswith(speech(2, 0x11)), "the filler")
        says(sink, "reply", speech(100))
        sink.event(CallerSpeechStarted(certain=True))
        assert on.provider.interruptions == [("reply", 0)], "the caller has heard nothing of it"


async def test_a_caller_who_speaks_before_the_reply_has_begun_cuts_it_without_a_name() -> None:
    async with line() as on:
        sink = await asked(on)
        sink.event(CallerSpeechStarted(certain=True))
        assert on.provider.interruptions == [("", 0)]


async def test_a_cough_holds_the_agent_and_not_a_sample_is_lost() -> None:
    async with line(rules=replace(SETTINGS.rules, resume_after_ms=80)) as on:
        sink = await asked(on)
        says(sink, "reply", speech(20))
        await on.until(lambda: on.conversation.playback.ledger.heard_ms("reply") >= 100)
        sink.event(CallerSpeechStarted(certain=False))
        assert on.session.call.turn is Turn.SUSPENDED
        await on.until(lambda: on.session.call.turn is Turn.LISTENING)
        assert on.port.voiced == speech(22)
        assert on.provider.interruptions == []


async def test_a_provider_that_ends_while_the_agent_is_held_lets_its_last_words_be_heard() -> None:
    leave = asyncio.Event()

    async def leaves(_: ScriptedProvider, sink: ProviderSink) -> None:
        sink.event(Ready())
        sink.audio("goodbye", speech(20))
        await leave.wait()

    async with line(leaves) as on:
        await on.connected()
        await on.until(lambda: on.conversation.playback.ledger.heard_ms("goodbye") >= 100)
        on.provider.sink.event(CallerSpeechStarted(certain=False))
        on.provider.sink.event(AgentItemDone("goodbye"))
        leave.set()
        await on.over()
        assert on.port.voiced == speech(20)
        assert on.ended("agent_hung_up") == 1


async def test_a_slow_greeting_is_counted_too() -> None:
    async with line(rules=replace(SETTINGS.rules, fallback_timeout_ms=60)) as on:
        await on.connected()
        await on.until(lambda: bool(on.port.voiced), "the filler")
        await on.until(lambda: on.session.call.turn is Turn.REPLY_DUE)
        says(on.provider.sink, "greeting", speech(2))
        await on.until(lambda: on.session.call.turn is Turn.LISTENING)
        assert on.sample("ai_agent_answer_to_greeting_seconds_count") == 1
        assert on.sample("ai_agent_reply_latency_seconds_count") == 0


async def test_a_tools_result_reaches_the_provider_and_a_reply_is_due_meanwhile(tmp_path: Path) -> None:
    async with line(messages_dir=tmp_path) as on:
        sink = await asked(on)
        sink.event(ToolCalled("c1", "take_message", MESSAGE))
        sink.event(ReplyEnded())
        assert on.session.call.turn is Turn.REPLY_DUE
        await on.until(lambda: "c1" in on.provider.results)
        assert json.loads(on.provider.results["c1"])["status"] == "stored"
        assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("trouble", "hint"),
    [(ToolError("no such day"), "no such day"), (RuntimeError("secret detail"), "failed"), (None, "did not finish")],
)
async def test_a_tools_trouble_is_told_to_the_model_and_costs_nothing_else(
    trouble: Exception | None, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run_tool(*_: Any) -> str:
        if trouble is None:
            await asyncio.Event().wait()
        else:
            raise trouble
        return ""

    monkeypatch.setattr(conversation_module, "run_tool", run_tool)
    monkeypatch.setattr(conversation_module, "TOOL_LIMIT_S", 0.05)
    async with line() as on:
        sink = await asked(on)
        sink.event(ToolCalled("c1", "book", "{}"))
        await on.until(lambda: "c1" in on.provider.results)
        error = json.loads(on.provider.results["c1"])["error"]
        assert hint in error and "secret" not in error
        assert on.session.call.turn is Turn.REPLY_DUE


async def test_a_caller_who_hangs_up_in_the_middle_of_a_tool_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cancelled = asyncio.Event()

    async def run_tool(*_: Any) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return ""

    monkeypatch.setattr(conversation_module, "run_tool", run_tool)
    async with line() as on:
        sink = await asked(on)
        sink.event(ToolCalled("c1", "book", "{}"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        on.pbx.caller_hangs_up()
        await on.over()
        assert cancelled.is_set()
        assert on.provider.results == {}


async def test_the_agent_hangs_up_after_its_goodbye() -> None:
    async with line() as on:
        sink = await asked(on)
        sink.audio("goodbye", speech(10))
        sink.event(AgentItemDone("goodbye"))
        sink.event(ToolCalled("c1", "hangup_call", "{}"))
        sink.event(ReplyEnded())
        await on.over()
        assert on.port.voiced == speech(12)
        assert on.ended("agent_hung_up") == 1


async def test_a_hiccup_of_the_provider_longer_than_the_grace_does_not_end_the_call() -> None:
    from engine.cushion import Cushioning

    rules = replace(SETTINGS.rules, fallback_timeout_ms=500, stall_timeout_s=0.8)
    async with line(rules=rules, cushioning=Cushioning(provider_grace_ms=60)) as on:
        sink = await asked(on)
        sink.audio("reply", speech(3))
        await on.until(lambda: not on.conversation.playback.speaking)
        for _ in range(60):
            sink.audio("reply", speech(1, 0x44))
        sink.event(AgentItemDone("reply"))
        sink.event(ReplyEnded())
        await on.until(lambda: on.session.call.turn is Turn.AGENT_SPEAKING)
        await on.until(lambda: on.session.call.turn is Turn.LISTENING)
        assert on.port.voiced == speech(5) + speech(60, 0x44), "no filler and no apology"


async def test_a_provider_that_never_answers_is_filled_for_and_then_apologised_for() -> None:
    rules = replace(SETTINGS.rules, fallback_timeout_ms=100, stall_timeout_s=0.25)
    async with line(rules=rules) as on:
        await asked(on)
        port = on.port
        await on.over()
        assert on.ended("provider_stalled") == 1
        assert port.voiced.startswith(speech(2) + CLIPS[Clip.ONE_MOMENT])
        assert port.voiced.endswith(CLIPS[Clip.APOLOGY])


async def test_a_silent_caller_is_asked_and_then_left() -> None:
    rules = replace(SETTINGS.rules, no_input_timeout_s=0.1, max_check_ins=1)
    async with line(rules=rules) as on:
        await on.connected()
        sink = on.provider.sink
        says(sink, "greeting", speech(2))
        await on.until(lambda: on.provider.said == ["Are you still there?"])
        says(sink, "check-in", speech(2))
        await on.until(lambda: on.provider.said[1:] == ["Goodbye."])
        says(sink, "goodbye", speech(2))
        await on.over()
        assert on.ended("no_input") == 1
        assert on.port.voiced == speech(6)


async def test_a_phone_that_sends_nothing_in_pauses_is_heard_as_silence() -> None:
    async with line() as on:
        await on.connected()
        on.port.hear(speech(1))
        await on.until(lambda: on.provider.heard[-3:] == [ULAW_8K.silent_frame] * 3, "silence")
        assert on.provider.heard[0] == speech(1), "and not before the gap is a gap"


async def test_a_provider_is_told_whether_it_may_be_interrupted() -> None:
    rules = replace(SETTINGS.rules, barge_in=False)
    async with line(rules=rules) as on:
        await on.connected()
        assert not on.provider.context.interruptible
