"""Sayings, tools and failing stages of a pipeline, in real time."""

from __future__ import annotations

import asyncio

import pytest
from pipeline_support import LIMIT_S, QUICK, SILENT, ScriptedLlm, ScriptedStt, ScriptedTts, Sink, Talk, talking

from providers.base import (
    AgentItemDone,
    AgentText,
    CallContext,
    ProviderError,
    ProviderWarned,
    ReplyEnded,
    ToolCalled,
)
from providers.pipeline.provider import PipelineProvider
from providers.pipeline.speaking import MAX_TOOL_ROUNDS
from providers.pipeline.stages import (
    Message,
    ToolRequest,
)


async def test_say_waits_for_the_reply_and_is_an_item_of_its_own() -> None:
    llm = ScriptedLlm(["One. ", 0.3, "Two."])
    async with talking(ScriptedStt("count"), llm, ScriptedTts()) as talk:
        await talk.says()
        await talk.sink.until(lambda: bool(talk.sink.sound))
        talk.provider.say("Are you there?")
        await talk.sink.replies(2)
        assert list(talk.sink.texts.values()) == ["One.", "Two.", "Are you there?"]
        spoken = [event for event in talk.sink.events if isinstance(event, AgentText | ReplyEnded)]
        assert spoken[2:] == [ReplyEnded("completed"), spoken[3], ReplyEnded("completed")]


BOOKING = ["One moment. ", ToolRequest("t1", "book", "{}")]


async def test_a_tool_round() -> None:
    llm = ScriptedLlm(BOOKING, ["It is booked."])
    async with talking(ScriptedStt("book it"), llm, ScriptedTts()) as talk:
        await talk.says()
        await talk.sink.until(lambda: bool(talk.sink.of(ToolCalled)))
        assert talk.sink.events[-2:] == [AgentItemDone("item-1"), ToolCalled("t1", "book", "{}")]
        assert talk.sink.sound == {"item-1": 11 * 50 * 8}
        talk.provider.tool_result("t1", '{"ok":true}')
        await talk.sink.replies(1)
        assert llm.heard() == [("caller", "book it"), ("agent", "One moment."), ("tool", '{"ok":true}')]
        assert llm.asked[-1][-1] == Message("tool", '{"ok":true}', "t1", "book")
        assert list(talk.sink.texts.values()) == ["One moment.", "It is booked."]
        assert talk.sink.of(ReplyEnded) == [ReplyEnded("completed")]


async def test_a_tool_that_answers_at_once() -> None:
    llm = ScriptedLlm(BOOKING, ["It is booked."])
    async with talking(ScriptedStt("book it"), llm, ScriptedTts()) as talk:
        talk.sink.on_event = lambda event: (
            talk.provider.tool_result(event.call_id, "booked") if isinstance(event, ToolCalled) else None
        )
        await talk.says()
        await talk.sink.replies(1)
        assert list(talk.sink.texts.values()) == ["One moment.", "It is booked."]


async def test_two_tools_in_one_reply() -> None:
    llm = ScriptedLlm([ToolRequest("a", "book", "{}"), ToolRequest("b", "book", "{}")], ["Both done."])
    async with talking(ScriptedStt("book two"), llm, ScriptedTts()) as talk:
        await talk.says()
        await talk.sink.until(lambda: len(talk.sink.of(ToolCalled)) == 2)
        talk.provider.tool_result("b", "second")
        talk.provider.tool_result("a", "first")
        await talk.sink.replies(1)
        assert llm.heard() == [("caller", "book two"), ("tool", "first"), ("tool", "second")]


async def test_a_model_that_asks_for_tools_without_end_is_stopped() -> None:
    llm = ScriptedLlm(*(20 * [[ToolRequest("t", "book", "{}")]]))
    async with talking(ScriptedStt("book it"), llm, ScriptedTts()) as talk:
        talk.sink.on_event = lambda event: (
            talk.provider.tool_result("t", "full") if isinstance(event, ToolCalled) else None
        )
        await talk.says()
        await talk.sink.replies(1)
        assert len(llm.asked) == MAX_TOOL_ROUNDS
        assert [warning.code for warning in talk.sink.events if isinstance(warning, ProviderWarned)] == [
            "too_many_tools"
        ]


async def test_a_tool_without_a_result_leaves_the_agent_able_to_speak() -> None:
    llm = ScriptedLlm(BOOKING, ["That did not work."])
    async with talking(ScriptedStt("book it"), llm, ScriptedTts()) as talk:
        await talk.says()
        await talk.sink.until(lambda: bool(talk.sink.of(ToolCalled)))
        talk.provider.say("Goodbye.")
        await talk.sink.replies(1)
        assert len(llm.asked) == 1
        await talk.sink.replies(2)
        assert list(talk.sink.texts.values()) == ["One moment.", "Goodbye.", "That did not work."]
        assert "no result" in llm.asked[-1][-2].content


async def test_a_tool_result_survives_the_interruption_of_its_reply() -> None:
    llm = ScriptedLlm(BOOKING, ["It is booked."])
    async with talking(ScriptedStt("book it", "hello"), llm, ScriptedTts()) as talk:
        await talk.says()
        await talk.sink.until(lambda: bool(talk.sink.of(ToolCalled)))
        talk.provider.interrupt("item-1", 5000)
        await talk.voice(500)
        talk.provider.tool_result("t1", "booked")
        await talk.silence(400)
        await talk.sink.replies(2)
        assert llm.heard() == [
            ("caller", "book it"),
            ("agent", "One moment."),
            ("tool", "booked"),
            ("caller", "hello"),
        ]


async def _outcome(stt: ScriptedStt, llm: ScriptedLlm, tts: ScriptedTts) -> ProviderError:
    """The error that ends a call in which the caller says one thing."""
    before = asyncio.all_tasks()
    provider = PipelineProvider(CallContext("c", "", ""), stt, llm, tts, QUICK)
    sink = Sink()
    running = asyncio.create_task(provider.run(sink))
    talk = Talk(provider, sink)
    await talk.silence(120)
    await talk.says()
    async with asyncio.timeout(LIMIT_S):
        with pytest.raises(ProviderError) as caught:
            await running
    provider.push_audio(SILENT)
    provider.say("too late")
    provider.interrupt("", 0)
    assert asyncio.all_tasks() == before
    return caught.value


LOST = ProviderError("recognition_lost", "the worker died")


@pytest.mark.parametrize(("failure", "code"), [(OSError("gone"), "stt_failed"), (LOST, "recognition_lost")])
async def test_a_recogniser_that_fails_ends_the_call(failure: Exception, code: str) -> None:
    stt = ScriptedStt()
    stt.failure = failure
    assert (await _outcome(stt, ScriptedLlm(), ScriptedTts())).code == code


@pytest.mark.parametrize(
    ("failure", "code"), [(OSError("gone"), "llm_failed"), (TimeoutError(), "llm_failed"), (LOST, "recognition_lost")]
)
async def test_a_model_that_fails_ends_the_call(failure: Exception, code: str) -> None:
    assert (await _outcome(ScriptedStt("hi"), ScriptedLlm(["Well. ", failure]), ScriptedTts())).code == code


async def test_a_model_that_stalls_ends_the_call() -> None:
    assert (await _outcome(ScriptedStt("hi"), ScriptedLlm([60.0]), ScriptedTts())).code == "llm_stalled"


@pytest.mark.parametrize(("failure", "code"), [(OSError("gone"), "tts_failed"), (LOST, "recognition_lost")])
async def test_a_voice_that_fails_ends_the_call(failure: Exception, code: str) -> None:
    tts = ScriptedTts()
    tts.failure = failure
    assert (await _outcome(ScriptedStt("hi"), ScriptedLlm(), tts)).code == code


async def test_frames_that_the_recogniser_dropped_are_counted() -> None:
    stt = ScriptedStt()
    stt.dropped_frames = 7
    async with talking(stt, ScriptedLlm(), ScriptedTts()) as talk:
        assert talk.provider.frames_dropped == 7
