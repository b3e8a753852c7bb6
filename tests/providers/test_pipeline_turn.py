"""The caller's turn begins and ends when it should: facts with their times in, events out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.pipeline.stages import Transcript
from providers.pipeline.turn import (
    CallerTurn,
    SpeechDismissed,
    SpeechProven,
    SpeechSuspected,
    TurnEnded,
    TurnEvent,
    TurnRules,
    TurnState,
    WordsHeard,
)

RULES = TurnRules()
HANGOVER_S = 0.2


class Line:
    """A CallerTurn on a clock of its own; every event is kept with the time it came at."""

    def __init__(self, rules: TurnRules = RULES) -> None:
        self.turn = CallerTurn(rules, lambda text: not text.endswith("and"))
        self.now = 100.0
        self.events: list[TurnEvent] = []
        self.times: list[float] = []
        self._run_began = 0.0

    def note(self, events: list[TurnEvent]) -> None:
        self.events += events
        self.times += [self.now] * len(events)

    def wait(self, seconds: float) -> None:
        """Lets time pass, as timers would: stops at every deadline."""
        until = self.now + seconds
        while (due := self.turn.deadline) is not None and due <= until:
            self.now = max(self.now, due)
            self.note(self.turn.advance(self.now))
        self.now = until

    def voice(self, seconds: float) -> None:
        """A run of voice, and the silence after which its end is known."""
        self.note(self.turn.voice_started(self.now))
        began = self.now
        steps = round(seconds / 0.02)
        for step in range(1, steps + 1):
            self.wait(0.02)
            self.note(self.turn.voice_went_on(20 * step))
        voiced_until = began + seconds
        self.wait(HANGOVER_S)
        self.note(self.turn.voice_stopped(voiced_until, 1000 * seconds, self.now))

    def final(self, text: str, end_of_turn: bool | None = None) -> None:
        self.note(self.turn.transcribed(Transcript(text, final=True, end_of_turn=end_of_turn), self.now))

    def partial(self, text: str) -> None:
        self.note(self.turn.transcribed(Transcript(text, final=False), self.now))

    @property
    def ended(self) -> TurnEnded:
        (ended,) = (event for event in self.events if isinstance(event, TurnEnded))
        return ended

    def pause_ms(self) -> float:
        """How long after the last voiced sample the turn ended."""
        return 1000 * (self.times[self.events.index(self.ended)] - self.ended.voiced_until)


@dataclass
class Case:
    text: str
    verdict: bool | None
    answer_ms: int
    """From the end of the segment to its transcript."""
    pause_ms: int


@pytest.mark.parametrize(
    "case",
    [
        Case("opening hours", None, 50, 300),
        Case("opening hours", None, 150, 350),
        Case("opening hours and", None, 50, 900),
        Case("opening hours and", True, 50, 300),
        Case("opening hours", False, 50, 900),
        Case("opening hours", None, 1500, 1700),
        Case("", None, 50, 900),
        Case("", None, 1500, 1700),
    ],
    ids=lambda case: f"{case.text!r} {case.verdict} {case.answer_ms} ms",
)
def test_the_pause_that_ends_a_turn(case: Case) -> None:
    line = Line()
    line.voice(1.0)
    line.wait(case.answer_ms / 1000)
    line.final(case.text, case.verdict)
    line.wait(5)
    assert line.pause_ms() == pytest.approx(case.pause_ms)
    assert line.ended.text == case.text
    assert line.ended.voiced_ms == pytest.approx(1000)


def test_a_turn_in_order() -> None:
    line = Line()
    line.voice(1.0)
    assert line.events == [SpeechSuspected(), SpeechProven()]
    assert line.times[1] - line.times[0] == pytest.approx(0.26, abs=0.001)
    line.final("hello")
    assert line.events[2:] == [WordsHeard("hello")]
    line.wait(1)
    assert line.events[3:] == [line.ended]
    assert line.turn.state is TurnState.QUIET
    assert line.turn.deadline is None


def test_a_short_yes_is_proven_by_its_word_and_does_not_wait() -> None:
    line = Line()
    line.voice(0.16)
    assert line.events == [SpeechSuspected()]
    line.wait(0.05)
    line.final("yes")
    assert line.events == [SpeechSuspected(), SpeechProven(), WordsHeard("yes")]
    line.wait(1)
    assert line.pause_ms() == pytest.approx(300)


def test_a_short_sound_without_words_is_dismissed_by_its_transcript() -> None:
    line = Line()
    line.voice(0.1)
    line.wait(0.05)
    line.final("")
    assert line.events == [SpeechSuspected(), SpeechDismissed()]


def test_a_short_sound_is_dismissed_when_no_transcript_comes() -> None:
    line = Line()
    line.voice(0.1)
    line.wait(5)
    assert line.events == [SpeechSuspected(), SpeechDismissed()]
    assert line.times[1] - 100.1 == pytest.approx(RULES.doubt_ms / 1000)


def test_words_that_come_after_the_dismissal_are_a_turn_all_the_same() -> None:
    line = Line()
    line.voice(0.1)
    line.wait(1)
    line.final("no")
    assert line.events[2:] == [SpeechProven(), WordsHeard("no"), line.ended]


def test_segments_of_one_turn_are_joined() -> None:
    line = Line()
    line.voice(0.8)
    line.final("my name is and")
    line.wait(0.3)
    line.voice(0.8)
    line.final("sarah")
    line.wait(2)
    assert line.ended.text == "my name is and sarah"
    assert line.ended.voiced_ms == pytest.approx(1600)
    assert line.events.count(SpeechProven()) == 1


def test_a_turn_waits_for_all_its_transcripts() -> None:
    line = Line()
    line.voice(0.8)
    line.voice(0.8)
    line.final("one")
    line.wait(0.5)
    assert not any(isinstance(event, TurnEnded) for event in line.events)
    line.final("two")
    line.wait(1)
    assert line.ended.text == "one two"


def test_voice_that_goes_on_takes_the_end_back() -> None:
    line = Line()
    line.voice(0.8)
    line.final("one")
    line.wait(0.05)
    line.note(line.turn.voice_started(line.now))
    line.wait(3)
    assert not any(isinstance(event, TurnEnded) for event in line.events)


def test_a_partial_stands_in_for_a_final_that_never_comes() -> None:
    line = Line()
    line.note(line.turn.voice_started(line.now))
    line.partial("what is")
    assert line.events == [SpeechSuspected(), SpeechProven(), WordsHeard("what is")]
    line.partial("what is it")
    line.note(line.turn.voice_stopped(line.now, 400, line.now + HANGOVER_S))
    line.wait(10)
    assert line.ended.text == "what is it"
    assert line.pause_ms() == pytest.approx(RULES.max_silence_ms)


def test_a_missing_transcript_slows_down_one_turn_only() -> None:
    line = Line()
    line.voice(0.8)
    line.wait(5)
    line.events.clear()
    line.times.clear()
    line.voice(0.8)
    line.final("again")
    line.wait(5)
    assert line.pause_ms() == pytest.approx(300)


def test_coughs_in_a_row_become_speech() -> None:
    line = Line()
    for _ in range(3):
        line.voice(0.1)
    assert line.events == [SpeechSuspected(), SpeechProven()]


def test_speech_without_end_ends() -> None:
    line = Line()
    line.note(line.turn.voice_started(line.now))
    line.note(line.turn.voice_went_on(300))
    line.wait(100)
    assert line.times[-1] == pytest.approx(100 + RULES.max_turn_ms / 1000)
    assert line.ended.text == ""
    line.note(line.turn.voice_stopped(line.now, 99_000, line.now))
    assert line.turn.state is TurnState.QUIET


def test_time_alone_does_nothing() -> None:
    turn = CallerTurn(RULES, bool)
    assert turn.deadline is None
    assert turn.advance(1e9) == []


STEP = st.one_of(
    st.tuples(st.just("voice"), st.sampled_from([0.02, 0.1, 0.3, 1.0])),
    st.tuples(st.just("final"), st.sampled_from(["", "yes", "and"])),
    st.tuples(st.just("partial"), st.sampled_from(["", "yes", "and"])),
    st.tuples(st.just("wait"), st.sampled_from([0.01, 0.1, 0.5, 3.0, 70.0])),
)


@given(st.lists(STEP, max_size=40))
def test_whatever_happens_every_beginning_has_its_end(steps: list[tuple[str, Any]]) -> None:
    line = Line()
    said: list[str] = []
    for name, argument in steps:
        getattr(line, name)(argument)
        if name == "final" and argument:
            said.append(argument)
    line.wait(100)
    assert line.turn.state is TurnState.QUIET
    suspected = proven = False
    for event in line.events:
        match event:
            case SpeechSuspected():
                assert not suspected
                assert not proven
                suspected = True
            case SpeechProven():
                assert not proven
                suspected, proven = False, True
            case SpeechDismissed():
                assert suspected
                suspected = False
            case WordsHeard():
                assert proven
            case TurnEnded(voiced_ms=voiced_ms):
                assert proven
                assert voiced_ms >= 0
                proven = False
    assert not suspected
    assert not proven
    heard = " ".join(event.text for event in line.events if isinstance(event, TurnEnded)).split()
    missing = list(heard)
    for word in said:
        assert word in missing
        missing.remove(word)
