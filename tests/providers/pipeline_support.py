"""Stages that follow a script, a sink that keeps everything, and a line to talk on."""

from __future__ import annotations

import asyncio
import math
from array import array
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from audio.convert import converter
from audio.formats import SLIN_8K, ULAW_8K
from providers.base import (
    AgentText,
    CallContext,
    ProviderEvent,
    Ready,
    ReplyEnded,
    Tool,
)
from providers.pipeline.options import PipelineOptions
from providers.pipeline.provider import PipelineProvider
from providers.pipeline.stages import (
    LanguageModel,
    Message,
    SpeechToText,
    TextDelta,
    TextToSpeech,
    ToolRequest,
    Transcript,
)
from providers.pipeline.turn import TurnRules

LIMIT_S = 5.0
FRAME_S = 0.02
QUICK = PipelineOptions(
    turn=TurnRules(proof_ms=120, min_silence_ms=220, unfinished_silence_ms=300, max_silence_ms=600, doubt_ms=300),
    ask_back_after_ms=400,
    tool_limit_s=0.3,
    stage_limit_s=1.0,
)
"""The silences are short, since they pass in real time."""

BOOK = Tool("book", "Books a table.", {"type": "object"})


def _buzz(ms: int) -> list[bytes]:
    """Frames of what a throat does: harmonics of 120 Hz that swell and sink like syllables."""
    samples = array(
        "h",
        (
            int(
                (0.55 - 0.45 * math.cos(2 * math.pi * n / 8 / 250))
                * sum(9000 / k * math.sin(2 * math.pi * 120 * k * n / 8000) for k in (1, 2, 3, 4, 5, 6))
            )
            for n in range(8 * ms)
        ),
    )
    ulaw = converter(SLIN_8K, ULAW_8K)(samples.tobytes())
    return [ulaw[at : at + 160] for at in range(0, len(ulaw) - 159, 160)]


VOICE = _buzz(1000)
SILENT = ULAW_8K.silent_frame


class ScriptedStt:
    """Answers each segment with the next of its texts, after ``delay_s``; then with ``""``."""

    format = ULAW_8K

    def __init__(self, *texts: str, delay_s: float = 0.01) -> None:
        self.texts = list(texts)
        self.delay_s = delay_s
        self.expected: list[str | None] = []
        self.frames = 0
        self.open = False
        self.failure: Exception | None = None
        self._ended: asyncio.Queue[None] = asyncio.Queue()
        self.dropped_frames = 0

    async def run(self, on_transcript: Callable[[Transcript], None]) -> None:
        if self.failure is not None:
            raise self.failure
        while True:
            await self._ended.get()
            await asyncio.sleep(self.delay_s)
            on_transcript(Transcript(self.texts.pop(0) if self.texts else "", final=True))

    def segment_started(self, expects: str | None) -> None:
        assert not self.open
        self.open = True
        self.expected.append(expects)

    def push(self, frame: bytes) -> None:
        self.frames += 1

    def segment_ended(self) -> None:
        assert self.open
        self.open = False
        self._ended.put_nowait(None)


Part = TextDelta | ToolRequest | float | Exception


class ScriptedLlm:
    """Gives the next of its replies, each a list of parts; a number is a wait in seconds."""

    expects: str | None = "yes_no"

    def __init__(self, *replies: Sequence[str | Part]) -> None:
        self.replies = [list(reply) for reply in replies]
        self.asked: list[list[Message]] = []
        self.running = 0
        self.at_once = 0
        self.on_asked: Callable[[], None] | None = None

    async def reply(
        self, conversation: Sequence[Message], tools: Sequence[Tool]
    ) -> AsyncIterator[TextDelta | ToolRequest]:
        self.asked.append(list(conversation))
        if self.on_asked is not None:
            self.on_asked()
        self.running += 1
        self.at_once = max(self.at_once, self.running)
        try:
            for part in self.replies.pop(0) if self.replies else ["Fine."]:
                match part:
                    case Exception():
                        raise part
                    case str():
                        yield TextDelta(part)
                    case float():
                        await asyncio.sleep(part)
                    case _:
                        yield part
        finally:
            self.running -= 1

    def is_complete(self, text: str) -> bool:
        return not text.endswith("and")

    def heard(self, at: int = -1) -> list[tuple[str, str]]:
        """The conversation of a request, without the system line."""
        return [(message.role, message.content) for message in self.asked[at] if message.role != "system"]


class ScriptedTts:
    """Makes ``MS_PER_CHAR`` of sound per character, in chunks of 100 ms."""

    format = ULAW_8K
    MS_PER_CHAR = 50

    def __init__(self, *, chunk_after_s: float | None = 0.0, close_takes_s: float = 0.0) -> None:
        """``chunk_after_s`` None: all is there at once, without a moment in which others run."""
        self.chunk_after_s = chunk_after_s
        self.close_takes_s = close_takes_s
        self.at_once = 0
        self.asked: list[str] = []
        self.running = 0
        self.failure: Exception | None = None

    async def synthesize(self, text: str) -> AsyncIterator[bytes]:
        self.asked.append(text)
        self.running += 1
        self.at_once = max(self.at_once, self.running)
        try:
            if self.failure is not None:
                raise self.failure
            left = len(text) * self.MS_PER_CHAR * 8
            while left:
                size = min(left, 800)
                left -= size
                yield b"\x80" * size
                if self.chunk_after_s is not None:
                    await asyncio.sleep(self.chunk_after_s)
        finally:
            if self.close_takes_s:
                await asyncio.sleep(self.close_takes_s)
            self.running -= 1


@dataclass
class Sink:
    """Keeps what a provider delivers; ``on_event`` answers as the engine does, from within the event."""

    events: list[ProviderEvent] = field(default_factory=list)
    sound: dict[str, int] = field(default_factory=dict)
    """Bytes by item, in the order of their first ones."""
    on_event: Callable[[ProviderEvent], None] | None = None
    on_audio: Callable[[str], None] | None = None
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def audio(self, item_id: str, chunk: bytes) -> None:
        self.sound[item_id] = self.sound.get(item_id, 0) + len(chunk)
        self._news.set()
        if self.on_audio is not None:
            self.on_audio(item_id)

    def event(self, event: ProviderEvent) -> None:
        self.events.append(event)
        self._news.set()
        if self.on_event is not None:
            self.on_event(event)

    def count(self, event: ProviderEvent) -> int:
        return self.events.count(event)

    def of(self, kind: type[ProviderEvent]) -> list[ProviderEvent]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def texts(self) -> dict[str, str]:
        return {event.item_id: event.text for event in self.events if isinstance(event, AgentText)}

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(LIMIT_S):
            while not condition():
                self._news.clear()
                await self._news.wait()

    async def replies(self, number: int) -> None:
        """Waits for the end of so many replies (or sayings), however they ended."""
        await self.until(lambda: len(self.of(ReplyEnded)) >= number)


class Talk:
    """A provider that runs, and the caller's end of the line."""

    def __init__(self, provider: PipelineProvider, sink: Sink) -> None:
        self.provider = provider
        self.sink = sink

    async def voice(self, ms: int, pace_s: float = 0.0) -> None:
        for frame in VOICE[: ms // 20]:
            self.provider.push_audio(frame)
            await asyncio.sleep(pace_s)

    async def silence(self, ms: int) -> None:
        """Silence at the line's pace: what follows from it depends on the time that passes."""
        for _ in range(ms // 20):
            self.provider.push_audio(SILENT)
            await asyncio.sleep(FRAME_S)

    async def says(self, ms: int = 500) -> None:
        await self.voice(ms)
        await self.silence(400)


@asynccontextmanager
async def talking(
    stt: SpeechToText,
    llm: LanguageModel,
    tts: TextToSpeech,
    *,
    greeting: str = "",
    prompt: str = "",
    options: PipelineOptions = QUICK,
) -> AsyncIterator[Talk]:
    """Runs a provider; afterwards nothing of it may be left."""
    before = asyncio.all_tasks()
    context = CallContext("call-1", greeting, prompt, tools=(BOOK,))
    provider = PipelineProvider(context, stt, llm, tts, options)
    sink = Sink()
    running = asyncio.create_task(provider.run(sink))
    talk = Talk(provider, sink)
    try:
        await sink.until(lambda: Ready() in sink.events)
        await talk.silence(120)
        yield talk
        assert not running.done(), running
    finally:
        running.cancel()
        async with asyncio.timeout(1):
            await asyncio.wait((running,))
    assert running.cancelled()
    assert asyncio.all_tasks() == before
