"""When the caller's turn begins and ends: a state machine that is handed times, voice edges and transcripts.

Times are seconds on any steady clock. Silence is measured from the last voiced sample, not from the moment when
somebody noticed: the detector's hangover and the recogniser's time are spent inside the pause, not after it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from providers.pipeline.stages import Transcript


@dataclass(slots=True, frozen=True)
class TurnRules:
    """All in milliseconds."""

    proof_ms: int = 250
    """Of voice: what is shorter and without words may be a cough."""
    min_silence_ms: int = 300
    """After which a turn ends whose text is complete."""
    unfinished_silence_ms: int = 900
    """After which a turn ends that sounds unfinished, or has no words."""
    max_silence_ms: int = 2500
    """After which a turn ends although a transcript is still missing."""
    doubt_ms: int = 700
    """How long a sound that was too short for proof waits for its words."""
    max_turn_ms: int = 60_000
    """After which a turn ends in the middle of speech."""


class TurnState(StrEnum):
    QUIET = "quiet"
    SUSPECTED = "suspected"
    """A voice is heard that has proven nothing yet."""
    DOUBTED = "doubted"
    """It fell silent without proof; its words may still come."""
    SPEAKING = "speaking"
    PAUSING = "pausing"


@dataclass(slots=True, frozen=True)
class SpeechSuspected:
    """A voice may have begun; ``SpeechProven`` or ``SpeechDismissed`` follows."""


@dataclass(slots=True, frozen=True)
class SpeechProven:
    """It is speech; ``TurnEnded`` follows."""


@dataclass(slots=True, frozen=True)
class SpeechDismissed:
    """It was none."""


@dataclass(slots=True, frozen=True)
class WordsHeard:
    """The text of the turn so far; not final."""

    text: str


@dataclass(slots=True, frozen=True)
class TurnEnded:
    text: str
    """Empty when a voice was heard and no words."""
    voiced_until: float
    """The time of the last voiced sample."""
    voiced_ms: float


TurnEvent = SpeechSuspected | SpeechProven | SpeechDismissed | WordsHeard | TurnEnded


class CallerTurn:
    """Each method takes one fact and returns what follows from it, in order."""

    def __init__(self, rules: TurnRules, is_complete: Callable[[str], bool]) -> None:
        self._rules = rules
        self._is_complete = is_complete
        self._unanswered = 0
        """Segments that ended and have no final transcript yet; also those of earlier turns."""
        self._voiced_until = 0.0
        self._forget()

    def _forget(self) -> None:
        self.state = TurnState.QUIET
        self._texts: list[str] = []
        self._partial = ""
        self._verdict: bool | None = None
        self._began_at = 0.0
        self._voiced_ms = 0.0
        """Of the runs of voice that are over."""
        self._due: float | None = None

    @property
    def deadline(self) -> float | None:
        """When ``advance`` has something to do next, unless a fact comes first."""
        return self._due

    def voice_started(self, now: float) -> list[TurnEvent]:
        match self.state:
            case TurnState.QUIET:
                self._began_at = now
                self.state = TurnState.SUSPECTED
                events: list[TurnEvent] = [SpeechSuspected()]
            case TurnState.DOUBTED:
                self.state = TurnState.SUSPECTED
                events = []
            case _:
                self.state = TurnState.SPEAKING
                events = []
        self._review()
        return events

    def voice_went_on(self, run_ms: float) -> list[TurnEvent]:
        """``run_ms`` of voice in the run that is being heard; needed while the state is SUSPECTED."""
        if self.state is TurnState.SUSPECTED and self._voiced_ms + run_ms >= self._rules.proof_ms:
            self.state = TurnState.SPEAKING
            return [SpeechProven()]
        return []

    def voice_stopped(self, voiced_until: float, run_ms: float, now: float) -> list[TurnEvent]:
        """The run ended at ``voiced_until``, and the recogniser has been asked for its text."""
        if self.state is TurnState.QUIET:
            return []
        self._unanswered += 1
        events = self.voice_went_on(run_ms)
        self._voiced_ms += run_ms
        self._voiced_until = voiced_until
        if self.state is TurnState.SUSPECTED:
            self.state = TurnState.DOUBTED
        elif self.state is TurnState.SPEAKING:
            self.state = TurnState.PAUSING
        self._review()
        return [*events, *self.advance(now)]

    def transcribed(self, transcript: Transcript, now: float) -> list[TurnEvent]:
        text = transcript.text.strip()
        if transcript.final:
            self._unanswered = max(0, self._unanswered - 1)
            self._partial = ""
            if text:
                self._texts.append(text)
        elif self.state is TurnState.QUIET:
            return []
        else:
            self._partial = text
        self._verdict = transcript.end_of_turn
        events = self._prove_by_words(now) if text else []
        self._review()
        return [*events, *self.advance(now)]

    def advance(self, now: float) -> list[TurnEvent]:
        """Ends what is due at ``now``, and with it a segment that is still open."""
        if self._due is None or now < self._due:
            return []
        proven = self.state in (TurnState.SPEAKING, TurnState.PAUSING)
        voiced_until = self._voiced_until
        if self.state in (TurnState.SPEAKING, TurnState.SUSPECTED):
            voiced_until = now
            self._unanswered += 1
        elif proven:
            self._unanswered = 0
        ended = TurnEnded(self._text, voiced_until, self._voiced_ms)
        self._forget()
        return [ended] if proven else [SpeechDismissed()]

    @property
    def _text(self) -> str:
        return " ".join([*self._texts, self._partial] if self._partial else self._texts)

    def _prove_by_words(self, now: float) -> list[TurnEvent]:
        """Words are proof, also of a sound that was dismissed while they were on their way."""
        match self.state:
            case TurnState.SUSPECTED:
                self.state = TurnState.SPEAKING
            case TurnState.DOUBTED:
                self.state = TurnState.PAUSING
            case TurnState.QUIET:
                self._began_at = now
                self.state = TurnState.PAUSING
            case _:
                return [WordsHeard(self._text)]
        return [SpeechProven(), WordsHeard(self._text)]

    def _review(self) -> None:
        """Sets the deadline by what is known now."""
        rules = self._rules
        match self.state:
            case TurnState.QUIET:
                self._due = None
            case TurnState.SUSPECTED | TurnState.SPEAKING:
                self._due = self._began_at + rules.max_turn_ms / 1000
            case TurnState.DOUBTED:
                # Nothing is on its way any more: there were no words.
                self._due = self._voiced_until + (rules.doubt_ms / 1000 if self._unanswered else 0)
            case TurnState.PAUSING:
                self._due = self._voiced_until + self._patience_ms() / 1000

    def _patience_ms(self) -> int:
        rules = self._rules
        if self._unanswered:
            return rules.max_silence_ms
        text = self._text
        if not text:
            return rules.unfinished_silence_ms
        complete = self._is_complete(text) if self._verdict is None else self._verdict
        return rules.min_silence_ms if complete else rules.unfinished_silence_ms
