"""The caller's side of a pipeline: voice detector, recogniser and turn, joined."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from audio.formats import FRAME_MS
from audio.vad import VoiceDetector, VoiceStarted, VoiceStopped
from providers.pipeline.clock import now
from providers.pipeline.options import PipelineOptions
from providers.pipeline.stages import LanguageModel, SpeechToText, Transcript
from providers.pipeline.turn import CallerTurn, TurnEvent, TurnState

_GAP_MS = 200
"""A line that delivers nothing for this long while a voice is heard is silent: some send nothing in pauses."""


class Hearing:
    """Hears one caller. Everything is synchronous and on the event loop; ``on_event`` may call back into it."""

    def __init__(
        self,
        stt: SpeechToText,
        llm: LanguageModel,
        options: PipelineOptions,
        on_event: Callable[[TurnEvent], None],
    ) -> None:
        self._stt = stt
        self._llm = llm
        self._on_event = on_event
        self._detector = VoiceDetector(stt.format, options.voice)
        self._turn = CallerTurn(options.turn, llm.is_complete)
        self._silent_frame = stt.format.silent_frame
        self._in_segment = False
        self._heard_at = 0.0
        """When the newest frame came."""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due: float | None = None
        self._gap_timer: asyncio.TimerHandle | None = None

    def hear(self, frame: bytes) -> None:
        """Takes one frame."""
        detector, turn = self._detector, self._turn
        edge = detector.feed(frame)
        self._heard_at = now()
        self._stt.push(frame)
        if edge is not None:
            self._crossed(edge)
        elif turn.state is TurnState.SUSPECTED:
            self._tell(turn.voice_went_on(detector.voiced_ms))

    def transcribed(self, transcript: Transcript) -> None:
        self._tell(self._turn.transcribed(transcript, now()))

    def close(self) -> None:
        for timer in (self._timer, self._gap_timer):
            if timer is not None:
                timer.cancel()

    def _crossed(self, edge: VoiceStarted | VoiceStopped) -> None:
        match edge:
            case VoiceStarted():
                self._in_segment = True
                self._stt.segment_started(self._llm.expects)
                self._watch_for_gap()
                self._tell(self._turn.voice_started(self._heard_at))
            case VoiceStopped():
                self._end_segment()
                voiced_until = self._heard_at - self._detector.silence_ms / 1000
                self._tell(self._turn.voice_stopped(voiced_until, self._detector.voiced_ms, self._heard_at))

    def _end_segment(self) -> None:
        if self._in_segment:
            self._in_segment = False
            self._stt.segment_ended()

    def _tell(self, events: list[TurnEvent]) -> None:
        if self._turn.state is TurnState.QUIET:
            self._end_segment()
        for event in events:
            self._on_event(event)
        due = self._turn.deadline
        if due == self._timer_due:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due = due
        if due is not None:
            self._timer = asyncio.get_running_loop().call_at(due, self._advance)

    def _advance(self) -> None:
        self._timer_due = None
        self._tell(self._turn.advance(now()))

    def _watch_for_gap(self) -> None:
        if self._gap_timer is not None:
            self._gap_timer.cancel()
        self._gap_timer = asyncio.get_running_loop().call_later(_GAP_MS / 1000, self._fill_gap)

    def _fill_gap(self) -> None:
        """Hears silence for the time in which the line delivered nothing."""
        self._gap_timer = None
        missing_ms = 1000 * (now() - self._heard_at)
        if missing_ms >= _GAP_MS:
            for _ in range(int(missing_ms) // FRAME_MS):
                self.hear(self._silent_frame)
        if self._detector.voice:
            self._watch_for_gap()
