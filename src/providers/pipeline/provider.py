"""A provider made of three stages: speech to text, a model, text to speech."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol, runtime_checkable

from audio.formats import FRAME_MS
from providers.base import (
    CallContext,
    CallerSpeechDismissed,
    CallerSpeechStarted,
    CallerSpeechStopped,
    CallerText,
    Capabilities,
    ProviderError,
    ProviderSink,
    Ready,
)
from providers.pipeline.clock import now
from providers.pipeline.hearing import Hearing
from providers.pipeline.history import History
from providers.pipeline.options import PipelineOptions
from providers.pipeline.speaking import Speaking
from providers.pipeline.stages import LanguageModel, SpeechToText, TextToSpeech
from providers.pipeline.turn import (
    SpeechDismissed,
    SpeechProven,
    SpeechSuspected,
    TurnEnded,
    TurnEvent,
    WordsHeard,
)

HELD_MS = 5000
"""How much of the caller's newest sound is kept before ``run``."""


@runtime_checkable
class _CountsDrops(Protocol):
    """A recogniser that tells how many frames it was too slow for."""

    dropped_frames: int


class PipelineProvider:
    """Talks in one call. Owns the turns: a voice detector and the model's opinion of the text decide."""

    def __init__(
        self,
        context: CallContext,
        stt: SpeechToText,
        llm: LanguageModel,
        tts: TextToSpeech,
        options: PipelineOptions | None = None,
    ) -> None:
        self._options = options or PipelineOptions()
        self._greeting = context.greeting
        self._stt = stt
        self._history = History(context.prompt)
        self._speaking = Speaking(self._history, llm, tts, context.tools, self._options)
        self._hearing = Hearing(stt, llm, self._options, self._on_turn)
        self._capabilities = Capabilities(stt.format, tts.format, owns_turns=True)
        self._sink: ProviderSink | None = None
        self._held: deque[bytes] = deque(maxlen=HELD_MS // FRAME_MS)
        self._held_dropped = 0

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def frames_dropped(self) -> int:
        return self._held_dropped + (self._stt.dropped_frames if isinstance(self._stt, _CountsDrops) else 0)

    async def run(self, sink: ProviderSink) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._recognise())
                tasks.create_task(self._announce(sink))
                self._begin(tasks, sink)
        except BaseExceptionGroup as group:
            raise _cause(group) from group
        finally:
            self._sink = None
            self._speaking.close()
            self._hearing.close()

    def push_audio(self, frame: bytes) -> None:
        if self._sink is not None:
            self._hearing.hear(frame)
            return
        self._held_dropped += len(self._held) == self._held.maxlen
        self._held.append(frame)

    def interrupt(self, item_id: str, heard_ms: int) -> None:
        self._speaking.interrupt(item_id, heard_ms)

    def say(self, text: str) -> None:
        self._speaking.say(text)

    def caller_turn_ended(self) -> None:
        """Nothing to learn from it: this provider hears the end of a turn itself."""

    def tool_result(self, call_id: str, output: str) -> None:
        self._speaking.tool_result(call_id, output)

    def _begin(self, tasks: asyncio.TaskGroup, sink: ProviderSink) -> None:
        self._sink = sink
        self._speaking.start(tasks, sink)
        if self._greeting:
            self._speaking.say(self._greeting)
        else:
            self._speaking.proven.set()
        while self._held:
            self._hearing.hear(self._held.popleft())

    async def _recognise(self) -> None:
        try:
            await self._stt.run(self._hearing.transcribed)
        except ProviderError:
            raise
        except Exception as error:
            raise ProviderError("stt_failed", f"{type(error).__name__}: {error}") from error
        raise ProviderError("stt_failed", "the recogniser stopped serving")

    async def _announce(self, sink: ProviderSink) -> None:
        await self._speaking.proven.wait()
        sink.event(Ready())

    def _on_turn(self, event: TurnEvent) -> None:
        assert self._sink is not None
        sink = self._sink
        match event:
            case SpeechSuspected():
                sink.event(CallerSpeechStarted(certain=False))
            case SpeechProven():
                if self._speaking.preparing:
                    self._speaking.cancel()
                sink.event(CallerSpeechStarted(certain=True))
            case SpeechDismissed():
                sink.event(CallerSpeechDismissed())
            case WordsHeard(text=text):
                sink.event(CallerText(text, final=False))
            case TurnEnded():
                self._end_turn(event, sink)

    def _end_turn(self, turn: TurnEnded, sink: ProviderSink) -> None:
        owed = self._speaking.owes_reply or turn.voiced_ms >= self._options.ask_back_after_ms
        if not turn.text and not owed:
            sink.event(CallerSpeechDismissed())
            return
        if turn.text:
            sink.event(CallerText(turn.text))
        # The call may still cut the agent on hearing this: the history is added to after it.
        sink.event(CallerSpeechStopped(since_voice_ms=1000 * (now() - turn.voiced_until)))
        if turn.text:
            self._history.caller_said(turn.text)
        self._speaking.reply(asks_back=not turn.text and not self._history.unanswered)


def _cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The failure that ended a group of tasks; a provider's own comes first."""
    errors: list[BaseException] = []
    for error in group.exceptions:
        errors.append(_cause(error) if isinstance(error, BaseExceptionGroup) else error)
    return next((error for error in errors if isinstance(error, ProviderError)), errors[0])
