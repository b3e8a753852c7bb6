"""A pipeline keeps its promises whatever happens in whatever order; time is virtual."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Sequence

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pipeline_support import Part, ScriptedLlm, ScriptedStt, ScriptedTts, Sink, talking

from providers.base import (
    AgentItemDone,
    AgentText,
    CallerSpeechDismissed,
    CallerSpeechStarted,
    CallerSpeechStopped,
    ProviderEvent,
    ReplyEnded,
)
from providers.pipeline.stages import (
    ToolRequest,
)

STEP = st.one_of(
    st.tuples(st.just("turn"), st.sampled_from([120, 500, 800])),
    st.tuples(st.just("voice"), st.sampled_from([60, 100, 240, 500])),
    st.tuples(st.just("silence"), st.sampled_from([40, 240, 340])),
    st.tuples(st.just("interrupt"), st.sampled_from([0, 100, 400, 5000])),
    st.tuples(st.just("stray"), st.just(0)),
    st.tuples(st.just("say"), st.just(0)),
    st.tuples(st.just("result"), st.just(0)),
)
REPLIES: list[Sequence[str | Part]] = [
    ["Alpha beta gamma. Delta."],
    ["Alpha. ", 0.05, "Beta gamma delta."],
    [0.1, "Alpha."],
    ["Alpha. ", ToolRequest("t", "book", "{}")],
    [],
]


class _JumpingSelector(selectors.DefaultSelector):
    """Where nothing else is to be done until a timer is due, its time comes at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if not events and timeout:
            self.now += timeout
        return events


class _VirtualTimeLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(STEP, min_size=3, max_size=15),
    st.lists(st.sampled_from(REPLIES), min_size=3, max_size=5),
    st.lists(st.sampled_from(["yes", "", "well and"]), min_size=3, max_size=8),
)
def test_whatever_happens(steps: list[tuple[str, int]], replies: list[Sequence[str | Part]], words: list[str]) -> None:
    with asyncio.Runner(loop_factory=_VirtualTimeLoop) as runner:
        runner.run(_whatever_happens(steps, replies, words))


async def _whatever_happens(
    steps: list[tuple[str, int]], replies: list[Sequence[str | Part]], words: list[str]
) -> None:
    llm, tts = ScriptedLlm(*replies), ScriptedTts(chunk_after_s=0.02)
    cut: set[str] = set()
    delivered: list[str] = []
    """By request to the model: all that may have been heard by then."""
    async with talking(ScriptedStt(*words), llm, tts, greeting="Hello there.") as talk:
        sink = talk.sink
        llm.on_asked = lambda: delivered.append(
            " ".join(text for item, text in sink.texts.items() if item in sink.sound and item not in cut)
        )
        for name, argument in steps:
            match name:
                case "turn":
                    await talk.says(argument)
                case "voice":
                    await talk.voice(argument)
                case "silence":
                    await talk.silence(argument)
                case "interrupt" if sink.sound:
                    heard = list(sink.sound)[-1]
                    talk.provider.interrupt(heard, argument)
                    await talk.silence(20)  # a request that was under way is cut, and does not count
                    if not argument:
                        cut.add(heard)
                case "stray":
                    talk.provider.interrupt("", 0)
                case "say":
                    talk.provider.say("Epsilon.")
                case "result":
                    talk.provider.tool_result("t", "done")
        await talk.silence(800)
        await sink.until(lambda: _settled(sink))
    assert llm.at_once <= 1
    assert llm.running == tts.running == 0
    _check_events(sink.events)
    for conversation, may_be_heard in zip(llm.asked, delivered, strict=True):
        said = " ".join(message.content for message in conversation if message.role == "agent")
        assert _is_subsequence(said.split(), may_be_heard.split())


def _settled(sink: Sink) -> bool:
    """Every turn that ended has its reply, and no item is open."""
    at = max((at for at, event in enumerate(sink.events) if isinstance(event, CallerSpeechStopped)), default=0)
    return any(isinstance(event, ReplyEnded) for event in sink.events[at:])


def _check_events(events: list[ProviderEvent]) -> None:
    suspected = False
    open_item: str | None = None
    finished: set[str] = set()
    for event in events:
        match event:
            case CallerSpeechStarted(certain=False):
                assert not suspected
                suspected = True
            case CallerSpeechStarted(certain=True) | CallerSpeechDismissed():
                suspected = False
            case AgentText(item_id=item_id):
                assert open_item is None
                assert item_id not in finished
                open_item = item_id
                finished.add(item_id)
            case AgentItemDone(item_id=item_id):
                assert open_item == item_id
                open_item = None
            case ReplyEnded(status=status):
                assert open_item is None or status == "cancelled"
                open_item = None
    assert not suspected


def _is_subsequence(words: list[str], whole: list[str]) -> bool:
    remaining = iter(whole)
    return all(word in remaining for word in words)
