"""Hears the caller's turns for a provider that leaves that to the call."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto

from audio.formats import AudioFormat
from audio.vad import VoiceDetector, VoiceStarted, VoiceStopped
from providers.base import (
    CallerSpeechDismissed,
    CallerSpeechStarted,
    CallerSpeechStopped,
    ProviderEvent,
)

PROOF_MS = 200
"""Of voice: what is shorter may be a cough or a click."""
END_OF_TURN_MS = 500
"""Of silence: what is shorter may be a breath."""


class _State(Enum):
    QUIET = auto()
    SUSPECTED = auto()
    SPEAKING = auto()
    PAUSING = auto()


class TurnListener:
    """Passes the caller's frames on and reports the edges of the caller's speech.

    Time is counted in samples heard, so nothing happens while the line delivers nothing.
    """

    def __init__(
        self,
        format: AudioFormat,  # noqa: A002 - the word of the house for it
        hear: Callable[[bytes], None],
        on_turn: Callable[[ProviderEvent], None],
    ) -> None:
        self._hear = hear
        self._on_turn = on_turn
        self._detector = VoiceDetector(format)
        self._state = _State.QUIET

    def hear(self, frame: bytes) -> None:
        """Takes one frame: the provider hears it before anything is said about it."""
        self._hear(frame)
        detector = self._detector
        match detector.feed(frame):
            case VoiceStarted():
                self._voice_started()
            case VoiceStopped():
                self._voice_stopped()
        if self._state is _State.SUSPECTED and detector.voiced_ms >= PROOF_MS:
            self._state = _State.SPEAKING
            self._on_turn(CallerSpeechStarted(certain=True))
        elif self._state is _State.PAUSING and detector.silence_ms >= END_OF_TURN_MS:
            self._state = _State.QUIET
            self._on_turn(CallerSpeechStopped(since_voice_ms=detector.silence_ms))

    def _voice_started(self) -> None:
        if self._state is _State.PAUSING:
            self._state = _State.SPEAKING
        else:
            self._state = _State.SUSPECTED
            self._on_turn(CallerSpeechStarted(certain=False))

    def _voice_stopped(self) -> None:
        if self._state is _State.SPEAKING:
            self._state = _State.PAUSING
        else:
            self._state = _State.QUIET
            self._on_turn(CallerSpeechDismissed())
