"""Whose turn it is, under a clock of the test's own and in any order of events."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.conversation_events import (
    Clip,
    Command,
    ConversationEvent,
    CutAgent,
    EndCall,
    HangupWanted,
    KeyPressed,
    MediaConnected,
    Pause,
    PlayClip,
    ProviderLost,
    Resume,
    Say,
    ToolFinished,
    ToolStarted,
)
from engine.coordinator import CALLER_SPEECH_LIMIT_S, ConversationCoordinator, ConversationRules, Turn
from engine.ending import EndReason
from engine.playout import PlayoutDrained, PlayoutFinished, PlayoutStarted
from providers.base import (
    CallerSpeechDismissed,
    CallerSpeechStarted,
    CallerSpeechStopped,
    CallerText,
    ReplyEnded,
)


class Talk:
    """A coordinator with a clock, and an agent that speaks or not."""

    def __init__(self, greeting: bool = True, **rules: object) -> None:
        self.now = 1000.0
        self.speaking = False
        self.commands: list[Command] = []
        self.coordinator = ConversationCoordinator(ConversationRules(**rules), lambda: self.speaking)  # type: ignore[arg-type]
        self.tell(MediaConnected(greeting_due=greeting))

    @property
    def turn(self) -> Turn:
        return self.coordinator.turn

    def tell(self, *events: ConversationEvent) -> list[Command]:
        commands: list[Command] = []
        for event in events:
            commands += self.coordinator.handle(event, self.now)
        self._done(commands)
        return commands

    def agent_starts(self, item: str = "item") -> list[Command]:
        self.speaking = True
        return self.tell(PlayoutStarted(item))

    def agent_ends(self, item: str = "item") -> list[Command]:
        commands = self.tell(PlayoutFinished(item))
        self.speaking = False
        commands += self.tell(PlayoutDrained())
        return commands + self.wait(0.21) if self.turn is Turn.CLOSING else commands

    def wait(self, seconds: float) -> list[Command]:
        """Lets time pass, doing what falls due on the way."""
        until = self.now + seconds
        commands: list[Command] = []
        while (due := self.coordinator.deadline()) is not None and due <= until:
            self.now = max(self.now, due)
            step = self.coordinator.advance(self.now)
            self._done(step)
            commands += step
        self.now = until
        return commands

    def _done(self, commands: list[Command]) -> None:
        self.commands += commands
        for command in commands:
            if isinstance(command, CutAgent):
                self.speaking = False
            elif isinstance(command, PlayClip):
                self.speaking = True


def listening() -> Talk:
    """After the greeting, long enough for its tail to be over."""
    talk = Talk()
    talk.agent_starts()
    talk.agent_ends()
    talk.tell(ReplyEnded())
    talk.wait(1)
    assert talk.turn is Turn.LISTENING
    return talk


def test_greeting_question_reply() -> None:
    talk = Talk()
    assert talk.turn is Turn.GREETING_DUE
    talk.agent_starts()
    assert talk.turn is Turn.AGENT_SPEAKING
    talk.tell(ReplyEnded())
    talk.agent_ends()
    assert talk.turn is Turn.LISTENING
    talk.wait(1)
    talk.tell(CallerSpeechStarted())
    assert talk.turn is Turn.CALLER_SPEAKING
    talk.tell(CallerSpeechStopped(since_voice_ms=300))
    assert talk.turn is Turn.REPLY_DUE
    assert talk.coordinator.reply_due_since == talk.now - 0.3
    talk.agent_starts("reply")
    assert talk.coordinator.reply_due_since is None
    assert talk.commands == []


def test_certain_speech_cuts_the_agent() -> None:
    talk = Talk()
    talk.agent_starts()
    assert talk.tell(CallerSpeechStarted()) == [CutAgent()]
    assert talk.turn is Turn.CALLER_SPEAKING
    assert talk.coordinator.stats.barge_ins == 1


def test_suspected_speech_holds_the_agent_until_proof() -> None:
    talk = Talk()
    talk.agent_starts()
    assert talk.tell(CallerSpeechStarted(certain=False)) == [Pause()]
    assert talk.turn is Turn.SUSPENDED
    assert talk.tell(CallerSpeechStarted(certain=True)) == [CutAgent()]


def test_a_cough_lets_the_agent_go_on() -> None:
    talk = Talk()
    talk.agent_starts()
    talk.tell(CallerSpeechStarted(certain=False))
    assert talk.tell(CallerSpeechDismissed()) == [Resume()]
    assert talk.turn is Turn.AGENT_SPEAKING
    assert talk.coordinator.stats.false_barge_ins == 1


def test_a_suspicion_that_nobody_settles_ends_by_itself() -> None:
    talk = Talk(resume_after_ms=700)
    talk.agent_starts()
    talk.tell(CallerSpeechStarted(certain=False))
    assert talk.wait(0.6) == []
    assert talk.wait(0.2) == [Resume()]


def test_barge_in_can_be_switched_off() -> None:
    talk = Talk(barge_in=False)
    talk.agent_starts()
    assert talk.tell(CallerSpeechStarted(), CallerSpeechStopped()) == []
    assert talk.turn is Turn.AGENT_SPEAKING


def test_the_agents_tail_does_not_cut_the_rest_of_its_reply() -> None:
    talk = Talk(post_tts_end_protection_ms=250)
    talk.agent_starts("first")
    talk.agent_ends("first")  # more of the reply is to come
    talk.now += 0.1
    assert talk.tell(CallerSpeechStarted()) == []
    assert talk.turn is Turn.GUARDED
    talk.now += 0.05
    assert talk.tell(CallerSpeechDismissed()) == []
    assert talk.coordinator.stats.tails_ignored == 1
    talk.agent_starts("second")
    assert talk.turn is Turn.AGENT_SPEAKING


def test_speech_that_outlasts_the_protection_is_the_caller() -> None:
    talk = Talk(post_tts_end_protection_ms=250)
    talk.agent_starts("first")
    talk.agent_ends("first")
    talk.now += 0.1
    talk.tell(CallerSpeechStarted())
    talk.agent_starts("second")
    assert talk.wait(0.2) == [CutAgent()]
    assert talk.turn is Turn.CALLER_SPEAKING


def test_a_first_word_inside_the_protection_is_answered() -> None:
    talk = Talk(post_tts_end_protection_ms=250)
    talk.agent_starts()
    talk.agent_ends()
    talk.tell(ReplyEnded())
    talk.now += 0.05
    talk.tell(CallerSpeechStarted())
    talk.now += 0.15
    talk.tell(CallerSpeechStopped())
    assert talk.turn is Turn.REPLY_DUE


def test_nothing_heard_for_too_long_plays_a_filler_and_at_last_an_apology() -> None:
    talk = Talk(fallback_timeout_ms=2500, stall_timeout_s=8)
    assert talk.wait(2.4) == []
    assert talk.wait(0.2) == [PlayClip(Clip.ONE_MOMENT)]
    talk.agent_starts("clip:one_moment:1")
    talk.now += 1.3
    talk.agent_ends("clip:one_moment:1")
    assert talk.wait(2.4) == []
    assert talk.wait(0.2) == [PlayClip(Clip.ONE_MOMENT)]
    talk.agent_starts("clip:one_moment:2")
    talk.agent_ends("clip:one_moment:2")
    assert talk.wait(3) == [PlayClip(Clip.APOLOGY)]
    assert talk.turn is Turn.CLOSING
    assert talk.agent_ends("clip:apology:3") == [EndCall(EndReason.PROVIDER_STALLED)]


def test_a_reply_during_the_filler_resets_the_stall() -> None:
    talk = Talk(stall_timeout_s=8)
    talk.wait(2.6)
    talk.agent_starts("clip:one_moment:1")
    talk.agent_starts("greeting")
    talk.tell(ReplyEnded())
    talk.agent_ends("greeting")
    assert talk.turn is Turn.LISTENING


def test_an_empty_reply_gives_the_turn_back() -> None:
    talk = listening()
    talk.tell(CallerSpeechStarted(), CallerSpeechStopped(), ReplyEnded())
    assert talk.turn is Turn.LISTENING


def test_the_end_of_a_cancelled_reply_does_not_end_the_wait_for_the_next() -> None:
    talk = Talk()
    talk.agent_starts()
    talk.tell(CallerSpeechStarted(), CallerSpeechStopped(), ReplyEnded("cancelled"))
    assert talk.turn is Turn.REPLY_DUE


def test_a_silent_caller_is_asked_twice_and_then_left_politely() -> None:
    talk = listening()
    heard: list[Command] = []
    for _ in range(3):
        heard += talk.wait(10.1)
        talk.agent_starts()
        talk.tell(ReplyEnded())
        heard += talk.agent_ends()
    assert heard == [
        Say("Are you still there?"),
        Say("Are you still there?"),
        Say("Goodbye."),
        EndCall(EndReason.NO_INPUT),
    ]


def test_a_word_or_a_key_starts_the_count_of_check_ins_again() -> None:
    talk = listening()
    for sign_of_life in (CallerText("yes"), KeyPressed("1")):
        assert talk.wait(10.1) == [Say("Are you still there?")]
        talk.agent_starts()
        talk.tell(ReplyEnded())
        talk.agent_ends()
        talk.tell(sign_of_life)
    assert talk.wait(10.1) == [Say("Are you still there?")]


def test_the_agent_hangs_up_when_its_goodbye_was_heard() -> None:
    talk = listening()
    talk.tell(CallerSpeechStarted(), CallerSpeechStopped())
    talk.agent_starts("goodbye")
    talk.tell(ToolStarted(), HangupWanted(), ReplyEnded())
    assert talk.turn is Turn.CLOSING
    assert talk.agent_ends("goodbye") == [EndCall(EndReason.AGENT_HUNG_UP)]


def test_a_goodbye_that_is_queued_but_not_begun_is_waited_for() -> None:
    talk = listening()
    talk.tell(CallerSpeechStarted(), CallerSpeechStopped())
    talk.speaking = True
    assert talk.tell(HangupWanted(), ReplyEnded()) == []
    talk.agent_starts("goodbye")
    assert talk.agent_ends("goodbye") == [EndCall(EndReason.AGENT_HUNG_UP)]


def test_an_agent_that_hangs_up_without_a_word_does_not_keep_the_line() -> None:
    talk = listening()
    talk.tell(HangupWanted())
    assert talk.wait(1) == [EndCall(EndReason.AGENT_HUNG_UP)]


def test_a_lost_provider_is_apologised_for_after_what_it_had_said() -> None:
    talk = Talk()
    talk.agent_starts()
    assert talk.tell(ProviderLost()) == [PlayClip(Clip.APOLOGY)]
    assert talk.agent_ends() == [EndCall(EndReason.PROVIDER_FAILED)]


def test_a_provider_lost_before_there_is_sound_ends_the_call_only_once_connected() -> None:
    talk = Talk.__new__(Talk)
    talk.now, talk.speaking, talk.commands = 0.0, False, []
    talk.coordinator = ConversationCoordinator(ConversationRules(), lambda: talk.speaking)
    assert talk.tell(ProviderLost()) == []
    assert talk.tell(MediaConnected(greeting_due=True)) == [PlayClip(Clip.APOLOGY)]


def test_a_caller_who_speaks_for_ever_is_taken_for_noise() -> None:
    talk = listening()
    talk.tell(CallerSpeechStarted())
    talk.wait(CALLER_SPEECH_LIMIT_S + 1)
    assert talk.turn is Turn.LISTENING


def test_a_greeting_that_was_whole_before_there_was_sound_is_waited_for_no_longer_than_it_lasts() -> None:
    talk = Talk.__new__(Talk)
    talk.now, talk.speaking, talk.commands = 0.0, True, []
    talk.coordinator = ConversationCoordinator(ConversationRules(), lambda: talk.speaking)
    talk.tell(ReplyEnded(), MediaConnected(greeting_due=True))
    assert talk.turn is Turn.GREETING_DUE
    talk.agent_starts("greeting")
    talk.agent_ends("greeting")
    assert talk.turn is Turn.LISTENING
    assert talk.wait(9) == []


@pytest.mark.parametrize("status", ["failed", "incomplete"])
def test_a_reply_that_failed_before_its_first_sound_is_still_owed(status: str) -> None:
    talk = listening()
    talk.tell(CallerSpeechStarted(), CallerSpeechStopped(), ReplyEnded(status))
    assert talk.turn is Turn.REPLY_DUE
    assert talk.wait(2.6) == [PlayClip(Clip.ONE_MOMENT)]


def test_a_reply_that_failed_after_it_was_heard_gives_the_turn_back() -> None:
    talk = Talk()
    talk.agent_starts()
    talk.tell(ReplyEnded("failed"))
    talk.agent_ends()
    assert talk.turn is Turn.LISTENING


@pytest.mark.parametrize("event", [HangupWanted(), ProviderLost()])
def test_an_end_that_comes_while_the_agent_is_held_lets_it_finish(event: ConversationEvent) -> None:
    talk = Talk()
    talk.agent_starts("goodbye")
    talk.tell(CallerSpeechStarted(certain=False))
    assert Resume() in talk.tell(event)
    assert talk.turn is Turn.CLOSING


def test_a_caller_who_speaks_up_while_nothing_is_left_to_cut_still_ends_the_pause() -> None:
    talk = listening()
    talk.tell(CallerSpeechStarted(), CallerSpeechStopped())
    assert talk.tell(CallerSpeechStarted(certain=False)) == [Pause()]
    talk.tell(ReplyEnded())
    assert talk.tell(CallerSpeechStarted(certain=True)) == [CutAgent()]
    assert talk.coordinator.stats.barge_ins == 0


def test_a_provider_that_is_lost_after_the_goodbye_is_missed_by_nobody() -> None:
    talk = Talk()
    talk.agent_starts("goodbye")
    assert talk.tell(HangupWanted(), ProviderLost()) == []
    assert talk.agent_ends("goodbye") == [EndCall(EndReason.AGENT_HUNG_UP)]


def test_the_end_of_a_tool_does_not_keep_a_call_that_is_being_closed() -> None:
    talk = listening()
    talk.tell(CallerSpeechStarted(), CallerSpeechStopped(), ToolStarted())
    assert talk.tell(ProviderLost()) == [PlayClip(Clip.APOLOGY)]
    talk.tell(ToolFinished())
    assert talk.agent_ends("clip:apology:1") == [EndCall(EndReason.PROVIDER_FAILED)]


def test_what_the_agent_has_begun_is_heard_before_the_apology_however_long_it_is() -> None:
    talk = Talk()
    talk.agent_starts("long")
    assert talk.tell(ProviderLost()) == [PlayClip(Clip.APOLOGY)]
    assert talk.wait(30) == []
    assert talk.agent_ends("long") == [EndCall(EndReason.PROVIDER_FAILED)]


def test_silence_in_which_an_item_was_given_up_counts_towards_the_filler() -> None:
    talk = Talk(fallback_timeout_ms=2500)
    talk.agent_starts()
    talk.now += 1.5
    talk.tell(PlayoutFinished("item"))
    talk.speaking = False
    talk.tell(PlayoutDrained(silent_ms=1500))
    assert talk.turn is Turn.REPLY_DUE
    assert talk.wait(0.9) == []
    assert talk.wait(0.2) == [PlayClip(Clip.ONE_MOMENT)]


def test_a_reply_that_gathers_its_cushion_is_not_interrupted_by_a_filler() -> None:
    talk = listening()
    talk.tell(CallerSpeechStarted(), CallerSpeechStopped())
    talk.wait(2.4)
    talk.speaking = True
    assert talk.wait(1) == []


def test_a_tool_may_take_as_long_as_tools_may_and_the_provider_its_time_after_it() -> None:
    talk = listening()
    talk.tell(CallerSpeechStarted(), CallerSpeechStopped(), ToolStarted(), ReplyEnded())
    for _ in range(3):
        assert talk.wait(3) == [PlayClip(Clip.ONE_MOMENT)]
        talk.agent_starts("clip:one_moment")
        talk.agent_ends("clip:one_moment")
    talk.tell(ToolFinished())
    assert talk.wait(2) == []
    talk.agent_starts("result")
    assert talk.turn is Turn.AGENT_SPEAKING


def test_the_wait_for_a_reply_that_never_came_is_not_the_next_ones_latency() -> None:
    talk = listening()
    talk.tell(CallerSpeechStarted(), CallerSpeechStopped(), ReplyEnded())
    assert talk.wait(10.1) == [Say("Are you still there?")]
    assert talk.coordinator.reply_due_since is None


def test_a_call_that_is_over_decides_nothing() -> None:
    talk = Talk()
    talk.coordinator.stop()
    assert talk.tell(CallerSpeechStarted(), ProviderLost()) == []
    assert talk.coordinator.deadline() is None


def test_a_tool_keeps_the_reply_due() -> None:
    talk = listening()
    talk.tell(CallerSpeechStarted(), CallerSpeechStopped(), ToolStarted(), ReplyEnded())
    assert talk.turn is Turn.REPLY_DUE
    assert PlayClip(Clip.ONE_MOMENT) in talk.wait(3)
    talk.agent_starts("clip:one_moment:1")
    talk.agent_ends("clip:one_moment:1")
    talk.tell(ToolFinished())
    assert talk.turn is Turn.REPLY_DUE
    talk.agent_starts("result")
    assert talk.turn is Turn.AGENT_SPEAKING


def test_the_longest_call_ends_with_a_goodbye() -> None:
    talk = Talk(greeting=False, max_call_s=60, no_input_timeout_s=100)
    commands = talk.wait(60)
    assert commands == [CutAgent(), Say("Goodbye.")]
    talk.agent_starts()
    talk.tell(ReplyEnded())
    assert talk.agent_ends() == [EndCall(EndReason.MAX_DURATION)]


EVENTS: st.SearchStrategy[object] = st.sampled_from(
    [
        CallerSpeechStarted(certain=True),
        CallerSpeechStarted(certain=False),
        CallerSpeechDismissed(),
        CallerSpeechStopped(200),
        CallerText("hello"),
        CallerText(""),
        KeyPressed("5"),
        ReplyEnded(),
        ReplyEnded("cancelled"),
        ToolStarted(),
        ToolFinished(),
        HangupWanted(),
        ProviderLost(),
        "agent starts",
        "agent ends",
        "wait",
    ]
)


@settings(max_examples=300)
@given(st.lists(EVENTS, max_size=60), st.booleans())
def test_in_any_order_of_events(events: list[object], greeting: bool) -> None:
    talk = Talk(greeting=greeting, max_call_s=600)
    paused = False
    for event in events:
        before = len(talk.commands)
        match event:
            case "agent starts":
                talk.agent_starts()
            case "agent ends" if talk.speaking:
                talk.agent_ends()
            case "agent ends":
                pass
            case "wait":
                talk.wait(0.7)
            case _:
                talk.tell(event)  # type: ignore[arg-type]
        new = talk.commands[before:]
        assert new.count(CutAgent()) <= 1
        if talk.turn is not Turn.ENDED:
            assert talk.coordinator.deadline() is not None, "somebody owns every state of a live call"
        for command in new:
            if isinstance(command, Pause | Resume | CutAgent):
                paused = isinstance(command, Pause)
        assert not paused or talk.turn is Turn.SUSPENDED, "paused implies an owner"
    held = [command for command in talk.commands if isinstance(command, Pause | Resume | CutAgent)]
    for first, second in pairwise(held):
        assert not (isinstance(first, Pause) and isinstance(second, Pause)), "a pause is settled first"
    talk.wait(700)
    if talk.speaking:
        talk.agent_ends()
    talk.wait(1400)
    ends = [command for command in talk.commands if isinstance(command, EndCall)]
    assert len(ends) == 1, "every call ends, once"
