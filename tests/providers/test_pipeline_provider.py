"""The pipeline as a provider, in real time: turns, replies, interruptions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from pipeline_support import FRAME_S, QUICK, SILENT, VOICE, ScriptedLlm, ScriptedStt, ScriptedTts, Sink, talking

from audio.formats import ULAW_8K
from providers.base import (
    AgentItemDone,
    AgentText,
    CallContext,
    CallerSpeechDismissed,
    CallerSpeechStarted,
    CallerSpeechStopped,
    CallerText,
    Provider,
    ProviderEvent,
    Ready,
    ReplyEnded,
)
from providers.pipeline.provider import PipelineProvider
from providers.pipeline.stages import (
    Message,
)


def _is_provider(provider: PipelineProvider) -> Provider:
    return provider


async def test_the_greeting_is_said_and_then_it_is_ready() -> None:
    async with talking(ScriptedStt(), ScriptedLlm(), ScriptedTts(), greeting="Hello. How are you?") as talk:
        await talk.sink.replies(1)
        assert list(talk.sink.texts.values()) == ["Hello.", "How are you?"]
        assert list(talk.sink.sound.values()) == [6 * 50 * 8, 12 * 50 * 8]
        first, second = talk.sink.texts
        assert [event for event in talk.sink.events if not isinstance(event, Ready)] == [
            AgentText(first, "Hello."),
            AgentItemDone(first),
            AgentText(second, "How are you?"),
            AgentItemDone(second),
            ReplyEnded("completed"),
        ]


async def test_without_a_greeting_it_is_ready_at_once() -> None:
    async with talking(ScriptedStt(), ScriptedLlm(), ScriptedTts()) as talk:
        assert talk.sink.events == [Ready()]
        able = _is_provider(talk.provider).capabilities
        assert (able.input_format, able.output_format, able.owns_turns) == (ULAW_8K, ULAW_8K, True)


async def test_a_turn_and_its_reply() -> None:
    stt, llm = ScriptedStt("what does it cost"), ScriptedLlm(["It costs ten ", "euros. Any", "thing else?"])
    async with talking(stt, llm, ScriptedTts(), greeting="Hello.", prompt="Be kind.") as talk:
        await talk.says()
        await talk.sink.replies(2)
        caller = [event for event in talk.sink.events if isinstance(event, CALLER)]
        stopped = caller.pop()
        assert isinstance(stopped, CallerSpeechStopped)
        assert stopped.since_voice_ms >= 200
        assert caller == [
            CallerSpeechStarted(certain=False),
            CallerSpeechStarted(certain=True),
            CallerText("what does it cost", final=False),
            CallerText("what does it cost", final=True),
        ]
        assert list(talk.sink.texts.values()) == ["Hello.", "It costs ten euros.", "Anything else?"]
        assert talk.sink.events[-1] == ReplyEnded("completed")
        assert llm.asked[0] == [
            Message("system", "Be kind."),
            Message("agent", "Hello."),
            Message("caller", "what does it cost"),
        ]
        assert stt.expected == ["yes_no"]


CALLER = (CallerSpeechStarted, CallerSpeechDismissed, CallerSpeechStopped, CallerText)


async def test_the_voice_starts_before_the_model_is_done() -> None:
    llm = ScriptedLlm(["First one. ", "Sec", 0.4, "ond one."])
    async with talking(ScriptedStt("go on"), llm, ScriptedTts()) as talk:
        await talk.says()
        await talk.sink.until(lambda: len(talk.sink.sound) == 1)
        assert llm.running == 1
        await talk.sink.replies(1)
        assert list(talk.sink.texts.values()) == ["First one.", "Second one."]


async def test_a_short_yes_is_answered() -> None:
    llm = ScriptedLlm(["Good."])
    async with talking(ScriptedStt("yes"), llm, ScriptedTts()) as talk:
        await talk.voice(120)
        await talk.silence(400)
        await talk.sink.replies(1)
        assert llm.heard() == [("caller", "yes")]


async def test_a_cough_is_dismissed() -> None:
    llm = ScriptedLlm()
    async with talking(ScriptedStt(""), llm, ScriptedTts()) as talk:
        await talk.voice(100)
        await talk.silence(600)
        assert talk.sink.events == [Ready(), CallerSpeechStarted(certain=False), CallerSpeechDismissed()]
        assert llm.asked == []


async def test_long_speech_without_words_is_asked_about() -> None:
    llm = ScriptedLlm(["Sorry?"])
    async with talking(ScriptedStt(""), llm, ScriptedTts()) as talk:
        await talk.says(800)
        await talk.sink.replies(1)
        assert llm.heard() == [("caller", "")]
        assert not talk.sink.of(CallerText)
        assert talk.sink.of(CallerSpeechStopped)


async def test_speech_without_words_is_asked_about_when_it_cut_the_agent_off() -> None:
    llm = ScriptedLlm(["Sorry?"])
    async with talking(ScriptedStt(""), llm, ScriptedTts(), greeting="Hello there.") as talk:
        await talk.sink.replies(1)
        await talk.voice(240)
        await talk.sink.until(lambda: CallerSpeechStarted(certain=True) in talk.sink.events)
        talk.provider.interrupt(next(iter(talk.sink.sound)), 300)
        await talk.silence(400)
        await talk.sink.replies(2)
        assert llm.heard() == [("agent", "Hello"), ("caller", "")]


async def test_short_speech_without_words_is_let_pass() -> None:
    llm = ScriptedLlm()
    async with talking(ScriptedStt(""), llm, ScriptedTts()) as talk:
        await talk.voice(240)
        await talk.silence(600)
        assert [event for event in talk.sink.events if isinstance(event, CALLER)] == [
            CallerSpeechStarted(certain=False),
            CallerSpeechStarted(certain=True),
            CallerSpeechDismissed(),
        ]
        assert llm.asked == []


async def test_a_line_that_falls_silent_by_sending_nothing_ends_the_turn() -> None:
    llm = ScriptedLlm()
    async with talking(ScriptedStt("hello"), llm, ScriptedTts()) as talk:
        await talk.voice(500, FRAME_S)
        await talk.sink.replies(1)
        assert llm.heard() == [("caller", "hello")]


async def test_sound_from_before_the_start_is_heard() -> None:
    stt = ScriptedStt("early")
    provider = PipelineProvider(CallContext("c", "", ""), stt, ScriptedLlm(), ScriptedTts(), QUICK)
    for _ in range(300):
        provider.push_audio(SILENT)
    for frame in VOICE:
        provider.push_audio(frame)
    assert provider.frames_dropped == 300 + len(VOICE) - 250
    sink = Sink()
    running = asyncio.create_task(provider.run(sink))
    await sink.replies(1)
    running.cancel()
    await asyncio.wait((running,))
    assert CallerText("early") in sink.events


async def test_a_barge_in_cuts_the_reply_and_the_history() -> None:
    llm = ScriptedLlm(["One two three four. Five six seven eight. ", 0.5, "Nine ten."], ["Yes?"])
    async with talking(ScriptedStt("count", "stop"), llm, ScriptedTts()) as talk:
        await talk.says()
        await talk.sink.until(lambda: len(talk.sink.of(AgentItemDone)) == 2)
        second = list(talk.sink.sound)[1]
        talk.provider.say("Are you there?")
        talk.provider.interrupt(second, 500)
        assert talk.sink.events[-1] == ReplyEnded("cancelled")
        await talk.silence(40)
        assert llm.running == 0
        delivered = dict(talk.sink.sound)
        await talk.says()
        await talk.sink.replies(2)
        assert llm.heard() == [
            ("caller", "count"),
            ("agent", "One two three four. Five six"),
            ("caller", "stop"),
        ]
        assert {item: size for item, size in talk.sink.sound.items() if item in delivered} == delivered
        assert list(talk.sink.texts.values()) == ["One two three four.", "Five six seven eight.", "Yes?"]


async def test_nothing_is_heard_of_a_reply_that_was_cut_in_the_middle_of_a_clause() -> None:
    llm, tts = ScriptedLlm(["One two three four five six seven eight nine."]), ScriptedTts(chunk_after_s=0.05)
    async with talking(ScriptedStt("count"), llm, tts) as talk:
        await talk.says()
        await talk.sink.until(lambda: bool(talk.sink.sound))
        item, size = next(iter(talk.sink.sound.items()))
        talk.provider.interrupt(item, 0)
        await talk.silence(300)
        assert talk.sink.sound == {item: size}
        assert tts.running == llm.running == 0
        assert not talk.sink.of(AgentItemDone)


async def test_sound_that_is_there_at_once_is_cut_all_the_same() -> None:
    llm = ScriptedLlm(["One two three four five six seven eight nine."])
    async with talking(ScriptedStt("count"), llm, ScriptedTts(chunk_after_s=None)) as talk:
        talk.sink.on_audio = lambda item_id: talk.provider.interrupt(item_id, 0)
        await talk.says()
        await talk.sink.replies(1)
        await talk.silence(100)
        assert list(talk.sink.sound.values()) == [800]
        assert talk.sink.of(ReplyEnded) == [ReplyEnded("cancelled")]
        assert not talk.sink.of(AgentItemDone)


class _OpenEnded:
    """A stage's output that is no generator: only ``aclose`` tells it that nobody listens any more."""

    def __init__(self) -> None:
        self.closed = False

    def __aiter__(self) -> _OpenEnded:
        return self

    async def __anext__(self) -> bytes:
        await asyncio.sleep(0.02)
        return b"\x80" * 160

    async def aclose(self) -> None:
        self.closed = True


async def test_a_stage_is_closed_when_it_is_cut() -> None:
    made: list[_OpenEnded] = []

    class Tts(ScriptedTts):
        def synthesize(self, text: str) -> AsyncIterator[bytes]:
            made.append(_OpenEnded())
            return made[-1]

    async with talking(ScriptedStt(), ScriptedLlm(), Tts(), greeting="Hello.") as talk:
        talk.provider.interrupt("item-1", 100)
        await talk.silence(40)
        assert [stage.closed for stage in made] == [True]


async def test_what_was_answered_is_owed_no_more() -> None:
    llm = ScriptedLlm(["One two three four."], ["Yes?"])
    async with talking(ScriptedStt("count", "stop", ""), llm, ScriptedTts()) as talk:
        await talk.says()
        await talk.sink.replies(1)
        talk.provider.interrupt("item-1", 500)
        await talk.says()
        await talk.sink.replies(2)
        await talk.voice(240)
        await talk.silence(600)
        assert talk.sink.events[-1] == CallerSpeechDismissed()
        assert len(llm.asked) == 2


async def test_what_was_cut_closes_before_the_next_thing_is_said() -> None:
    tts = ScriptedTts(chunk_after_s=0.02, close_takes_s=0.1)
    async with talking(ScriptedStt(), ScriptedLlm(), tts) as talk:
        talk.provider.say("One two three four five six seven.")
        await talk.sink.until(lambda: bool(talk.sink.sound))
        talk.provider.interrupt("item-1", 0)
        talk.provider.say("Goodbye.")
        await talk.sink.replies(2)
        assert list(talk.sink.sound) == ["item-1", "item-2"]
        assert tts.at_once == 1


async def test_speech_before_anything_was_heard_goes_on_with_the_turn() -> None:
    llm = ScriptedLlm([0.6, "Too early."], ["Now."])
    async with talking(ScriptedStt("I would like", "a table"), llm, ScriptedTts()) as talk:
        await talk.says()
        await talk.sink.until(lambda: llm.running == 1)
        await talk.says()
        await talk.sink.replies(2)
        assert talk.sink.of(ReplyEnded) == [ReplyEnded("cancelled"), ReplyEnded("completed")]
        assert llm.heard() == [("caller", "I would like a table")]
        assert list(talk.sink.texts.values()) == ["Now."]
        assert llm.at_once == 1


async def test_noise_while_a_reply_is_prepared_does_not_lose_it() -> None:
    llm = ScriptedLlm([0.8, "Too early."], ["Now."])
    async with talking(ScriptedStt("a table", ""), llm, ScriptedTts()) as talk:
        await talk.says()
        await talk.sink.until(lambda: llm.running == 1)
        await talk.voice(240)
        await talk.silence(500)
        await talk.sink.replies(2)
        assert llm.heard() == [("caller", "a table")]
        assert list(talk.sink.texts.values()) == ["Now."]


async def test_an_interruption_from_within_the_event_is_taken() -> None:
    """The engine answers certain speech, and the end of a turn, before ``event`` returns."""
    llm = ScriptedLlm(["One two three four."], ["Yes?"])
    async with talking(ScriptedStt("count", "stop"), llm, ScriptedTts()) as talk:
        await talk.says()
        await talk.sink.replies(1)
        item = next(iter(talk.sink.sound))

        def engine(event: ProviderEvent) -> None:
            if event == CallerSpeechStarted(certain=True):
                talk.provider.interrupt(item, 500)
            elif isinstance(event, CallerSpeechStopped):
                talk.provider.interrupt("", 0)

        talk.sink.on_event = engine
        await talk.says()
        await talk.sink.replies(2)
        assert llm.heard() == [("caller", "count"), ("agent", "One two"), ("caller", "stop")]
        assert "Yes?" in talk.sink.texts.values()


async def test_a_turn_that_nobody_cut_in_for_is_answered_after_the_reply() -> None:
    llm, tts = ScriptedLlm(["One two three."], ["Four."]), ScriptedTts(chunk_after_s=0.15)
    async with talking(ScriptedStt("count", "go on"), llm, tts) as talk:
        await talk.says()
        await talk.sink.until(lambda: bool(talk.sink.sound))
        await talk.says()
        await talk.sink.replies(2)
        assert list(talk.sink.texts.values()) == ["One two three.", "Four."]
        assert talk.sink.of(ReplyEnded) == 2 * [ReplyEnded("completed")]
        assert llm.at_once == 1
