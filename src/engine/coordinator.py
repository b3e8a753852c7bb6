"""Whose turn it is: a state machine that takes events and gives commands.

Synchronous, with the time handed in: it is tested with a clock of the test's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from engine.conversation_events import (
    CLIP_PREFIX,
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
from engine.ending import EndReason
from engine.playout import PlayoutDrained, PlayoutFinished, PlayoutStarted
from providers.base import (
    CallerSpeechDismissed,
    CallerSpeechStarted,
    CallerSpeechStopped,
    CallerText,
    ReplyEnded,
)

CLOSING_LIMIT_S = 12.0
"""The longest a last sentence may let itself be waited for before the call ends without it."""
CLOSING_SPEECH_LIMIT_S = 60.0
"""The longest that the agent may go on with what it had begun, and with its last sentence."""
CLOSING_TAIL_S = 0.2
"""From the last sample sent to hanging up: what telephones and Asterisk still hold is heard first."""
CLOSING_QUIET_S = 0.4
"""The same for an agent that hangs up in the middle of its reply and may have more to say."""
CALLER_SPEECH_LIMIT_S = 180.0
"""A caller who has been speaking for this long without a word recognised is taken for noise."""


class Turn(StrEnum):
    CONNECTING = "connecting"
    """No sound yet."""
    FAILED = "failed"
    """No sound yet, and the provider is lost already: there is an apology to make."""
    GREETING_DUE = "greeting_due"
    AGENT_SPEAKING = "agent_speaking"
    SUSPENDED = "suspended"
    """The agent is held: the caller may have begun to speak."""
    GUARDED = "guarded"
    """Speech right after the agent's last sample: its own tail, unless it goes on."""
    CALLER_SPEAKING = "caller_speaking"
    REPLY_DUE = "reply_due"
    LISTENING = "listening"
    """Nobody speaks and it is the caller's turn."""
    CLOSING = "closing"
    """The last sentence is being said."""
    ENDED = "ended"


_SILENT = frozenset({Turn.CONNECTING, Turn.FAILED})


@dataclass(slots=True, frozen=True)
class ConversationRules:
    """The knobs of a conversation; durations in the unit of their name."""

    barge_in: bool = True
    post_tts_end_protection_ms: float = 250
    resume_after_ms: float = 1000
    fallback_timeout_ms: float = 2500
    stall_timeout_s: float = 8
    no_input_timeout_s: float = 10
    max_check_ins: int = 2
    check_in: str = "Are you still there?"
    goodbye: str = "Goodbye."
    max_call_s: float = 3600


@dataclass(slots=True)
class ConversationStats:
    barge_ins: int = 0
    false_barge_ins: int = 0
    """Times that the agent was held and went on."""
    tails_ignored: int = 0
    """Sounds right after the agent's last sample that did not last."""
    fillers: int = 0
    """Sentences of our own, played because nothing else was heard for too long."""
    check_ins: int = 0


class ConversationCoordinator:
    """Decides who speaks. ``handle`` and ``advance`` return what is to be done, in order.

    ``advance`` is to be called when ``deadline`` has come (and may be called at any time).
    """

    def __init__(self, rules: ConversationRules, agent_speaking: Callable[[], bool]) -> None:
        """``agent_speaking`` tells, off the ledger, whether the agent has something begun or queued."""
        self._rules = rules
        self._agent_speaking = agent_speaking
        self.turn = Turn.CONNECTING
        self.stats = ConversationStats()
        self._since = 0.0
        """When the present turn began."""
        self._quiet_since = 0.0
        """When the caller last heard or said something, or was last owed nothing."""
        self._progress_at = 0.0
        """When the provider last was given the turn, or was heard."""
        self._connected_at = 0.0
        self._agent_ended_at = float("-inf")
        self._reply_expected = True
        """The provider is to say something, or to say more. It may have greeted before there is sound."""
        self._tools_running = 0
        self.reply_due_since: float | None = None
        """When the caller stopped speaking, until the first sample of the reply."""
        self._check_ins = 0
        self._closing_reason = EndReason.AGENT_HUNG_UP

    @property
    def gating(self) -> bool:
        """The agent has the floor, or had it a moment ago: the caller's speech is weighed as a barge-in."""
        return self.turn in (Turn.AGENT_SPEAKING, Turn.SUSPENDED, Turn.GUARDED)

    def handle(self, event: ConversationEvent, now: float) -> list[Command]:
        """Takes one event; returns the commands that follow from it."""
        if self.turn is Turn.ENDED:
            return []
        match event:
            case MediaConnected(greeting_due=greeting_due):
                return self._media_connected(greeting_due, now)
            case PlayoutStarted(item_id=item_id):
                self._agent_started(item_id, now)
            case PlayoutDrained(silent_ms=silent_ms):
                return self._agent_ended(now, now - silent_ms / 1000)
            case PlayoutFinished(item_id=item_id):
                self._heard(item_id, now)
            case CallerSpeechStarted(certain=certain):
                return self._caller_started(certain, now)
            case CallerSpeechDismissed():
                return self._caller_dismissed(now)
            case CallerSpeechStopped(since_voice_ms=since_ms):
                return self._caller_stopped(now, since_ms)
            case CallerText(text=text):
                if text:
                    self._caller_is_there(now)
            case KeyPressed():
                self._caller_is_there(now)
            case ReplyEnded(status=status):
                self._reply_ended(status, now)
            case ProviderLost() | HangupWanted() if self.turn is Turn.CLOSING:
                # The call ends anyway, and nobody will say more than is there.
                self._reply_expected = False
                self._tools_running = 0
            case ToolStarted() | ToolFinished() if self.turn is Turn.CLOSING:
                pass  # no reply to it is waited for
            case ToolStarted():
                self._tool_started(now)
            case ToolFinished():
                self._tools_running -= 1
                self._reply_expected = True
                self._progress_at = now
            case HangupWanted() if self.turn in _SILENT and not self._agent_speaking():
                return self._end(EndReason.AGENT_HUNG_UP)
            case HangupWanted():
                self._tools_running = 0
                return self._close(EndReason.AGENT_HUNG_UP, now)
            case ProviderLost():
                return self._give_up(EndReason.PROVIDER_FAILED, now)
        return []

    def stop(self) -> None:
        """The call is over, whoever ended it: nothing is decided any more."""
        self.turn = Turn.ENDED

    def deadline(self) -> float | None:
        """When ``advance`` has something to do next, unless an event comes first."""
        if self.turn in _SILENT or self.turn is Turn.ENDED:
            return None
        call_limit = self._connected_at + self._rules.max_call_s
        match self.turn:
            case Turn.GREETING_DUE | Turn.REPLY_DUE:
                own = min(self._filler_at(), self._stalled_at())
            case Turn.SUSPENDED:
                own = self._since + self._rules.resume_after_ms / 1000
            case Turn.GUARDED:
                own = self._protected_until()
            case Turn.CALLER_SPEAKING:
                own = max(self._since, self._quiet_since) + CALLER_SPEECH_LIMIT_S
            case Turn.LISTENING:
                own = self._quiet_since + self._rules.no_input_timeout_s
            case Turn.CLOSING:
                return self._closing_at()
            case _:
                own = call_limit
        return min(own, call_limit)

    def advance(self, now: float) -> list[Command]:
        """Does what is due at ``now``."""
        due = self.deadline()
        if due is None or now < due:
            return []
        if self.turn is Turn.CLOSING:
            return self._end(self._closing_reason)
        if now >= self._connected_at + self._rules.max_call_s:
            return [CutAgent(), *self._say_goodbye(EndReason.MAX_DURATION, now)]
        match self.turn:
            case Turn.GREETING_DUE | Turn.REPLY_DUE:
                return self._nothing_heard(now)
            case Turn.SUSPENDED:
                self.stats.false_barge_ins += 1
                self._rest(now)
                return [Resume()]
            case Turn.GUARDED:
                return self._caller_speaks(now)
            case Turn.CALLER_SPEAKING:
                self._quiet_since = now
                self._rest(now)
            case Turn.LISTENING:
                return self._no_input(now)
        return []

    @property
    def _reply_pending(self) -> bool:
        return self._reply_expected or self._tools_running > 0

    def _media_connected(self, greeting_due: bool, now: float) -> list[Command]:
        self._connected_at = self._quiet_since = self._progress_at = now
        if self.turn is Turn.CLOSING:
            return []
        if self.turn is Turn.FAILED:
            return self._give_up(EndReason.PROVIDER_FAILED, now)
        self._reply_expected = self._reply_expected and greeting_due
        due = self._reply_pending or self._agent_speaking()
        self._enter(Turn.GREETING_DUE if due else Turn.LISTENING, now)
        return []

    def _agent_started(self, item_id: str, now: float) -> None:
        self._heard(item_id, now)
        if not item_id.startswith(CLIP_PREFIX):
            self.reply_due_since = None
        if self.turn not in (Turn.GUARDED, Turn.SUSPENDED, Turn.CLOSING):
            self._enter(Turn.AGENT_SPEAKING, now)

    def _heard(self, item_id: str, now: float) -> None:
        """The caller hears something; only what the provider made shows that the provider is alive."""
        self._quiet_since = now
        if not item_id.startswith(CLIP_PREFIX):
            self._progress_at = now

    def _agent_ended(self, now: float, last_sample_at: float) -> list[Command]:
        self._agent_ended_at = self._quiet_since = last_sample_at
        paused = self.turn is Turn.SUSPENDED
        if self.turn in (Turn.AGENT_SPEAKING, Turn.SUSPENDED):
            self._rest(now)
        # Its last words were beyond holding; the next ones are not to wait for a verdict on the caller.
        return [Resume()] if paused else []

    def _tool_started(self, now: float) -> None:
        self._tools_running += 1
        self._progress_at = now
        if self.turn is Turn.LISTENING:
            self._quiet_since = now
            self._enter(Turn.REPLY_DUE, now)

    def _caller_started(self, certain: bool, now: float) -> list[Command]:
        if self.turn in _SILENT or self.turn is Turn.CLOSING:
            return []
        if self.turn is Turn.AGENT_SPEAKING and not self._rules.barge_in:
            return []
        if now < self._protected_until() and not self._agent_speaking():
            if self.turn is not Turn.GUARDED:
                self._enter(Turn.GUARDED, now)
            return []
        if certain:
            return self._caller_speaks(now)
        if self.turn in (Turn.AGENT_SPEAKING, Turn.REPLY_DUE):
            self._enter(Turn.SUSPENDED, now)
            return [Pause()]
        return []

    def _caller_speaks(self, now: float) -> list[Command]:
        """It is the caller, beyond doubt: the agent yields."""
        self._caller_is_there(now)
        speaking = self._agent_speaking()
        # Cutting is also what ends a pause.
        yields = speaking or self._reply_pending or self.turn is Turn.SUSPENDED
        if speaking:
            self.stats.barge_ins += 1
        self._reply_expected = False
        self.reply_due_since = None
        self._enter(Turn.CALLER_SPEAKING, now)
        return [CutAgent()] if yields else []

    def _caller_dismissed(self, now: float) -> list[Command]:
        match self.turn:
            case Turn.SUSPENDED:
                self.stats.false_barge_ins += 1
                self._rest(now)
                return [Resume()]
            case Turn.GUARDED:
                self.stats.tails_ignored += 1
                self._rest(now)
            case Turn.CALLER_SPEAKING:
                self._quiet_since = now
                self._rest(now)
        return []

    def _caller_stopped(self, now: float, since_voice_ms: float) -> list[Command]:
        """The provider closed the caller's turn: whatever was in doubt, it was speech."""
        if self.turn in _SILENT or self.turn is Turn.CLOSING:
            return []
        if self.turn is Turn.AGENT_SPEAKING and not self._rules.barge_in:
            return []
        commands = self._caller_speaks(now) if self.turn is not Turn.CALLER_SPEAKING else []
        self._caller_is_there(now)
        self.reply_due_since = now - since_voice_ms / 1000
        self._expect_reply(now)
        return commands

    def _caller_is_there(self, now: float) -> None:
        self._quiet_since = now
        self._check_ins = 0

    def _reply_ended(self, status: str, now: float) -> None:
        if status == "cancelled":
            return
        unheard = self.turn in (Turn.CONNECTING, Turn.REPLY_DUE, Turn.GREETING_DUE) and not self._agent_speaking()
        if unheard and status != "completed":
            return  # the caller is still owed an answer: a filler and then an apology, not silence
        self._reply_expected = False
        if unheard and self.turn is not Turn.CONNECTING:
            self._rest(now)

    def _rest(self, now: float) -> None:
        """Goes back to what the facts say, after a doubt was settled or the agent fell silent."""
        if self._agent_speaking():
            self._enter(Turn.AGENT_SPEAKING, now)
        elif self._reply_pending:
            self._enter(Turn.REPLY_DUE, now)
        else:
            self._enter(Turn.LISTENING, now)

    def _expect_reply(self, now: float) -> None:
        self._reply_expected = True
        self._progress_at = now
        self._enter(Turn.REPLY_DUE, now)

    def _nothing_heard(self, now: float) -> list[Command]:
        if self._agent_speaking():
            # The reply is here and gathers its cushion; playback lets it begin or gives it up.
            self._quiet_since = self._progress_at = now
            return []
        if now >= self._stalled_at():
            return self._give_up(EndReason.PROVIDER_STALLED, now)
        self._quiet_since = now
        self.stats.fillers += 1
        return [PlayClip(Clip.ONE_MOMENT)]

    def _no_input(self, now: float) -> list[Command]:
        self._quiet_since = now
        self.reply_due_since = None
        if self._check_ins >= self._rules.max_check_ins:
            return self._say_goodbye(EndReason.NO_INPUT, now)
        self._check_ins += 1
        self.stats.check_ins += 1
        self._expect_reply(now)
        return [Say(self._rules.check_in)]

    def _say_goodbye(self, reason: EndReason, now: float) -> list[Command]:
        self._reply_expected = True
        return [*self._close(reason, now), Say(self._rules.goodbye)]

    def _give_up(self, reason: EndReason, now: float) -> list[Command]:
        if self.turn is Turn.CONNECTING:
            self._enter(Turn.FAILED, now)
            return []
        self._reply_expected = False
        self._tools_running = 0
        return [*self._close(reason, now), PlayClip(Clip.APOLOGY)]

    def _close(self, reason: EndReason, now: float) -> list[Command]:
        """Lets what the agent has begun be heard to its end, also what was held."""
        held: list[Command] = [Resume()] if self.turn is Turn.SUSPENDED else []
        self._closing_reason = reason
        self._quiet_since = now
        self._enter(Turn.CLOSING, now)
        return held

    def _closing_at(self) -> float:
        if self._agent_speaking():
            return self._since + CLOSING_SPEECH_LIMIT_S
        limit = self._since + CLOSING_LIMIT_S
        hangs_up = self._closing_reason is EndReason.AGENT_HUNG_UP
        if self._reply_pending and not hangs_up:
            return limit
        return min(limit, self._quiet_since + (CLOSING_QUIET_S if self._reply_pending else CLOSING_TAIL_S))

    def _end(self, reason: EndReason) -> list[Command]:
        self.turn = Turn.ENDED
        return [EndCall(reason)]

    def _protected_until(self) -> float:
        return self._agent_ended_at + self._rules.post_tts_end_protection_ms / 1000

    def _filler_at(self) -> float:
        return self._quiet_since + self._rules.fallback_timeout_ms / 1000

    def _stalled_at(self) -> float:
        """When the provider has kept the caller waiting for too long. A tool has a limit of its own."""
        return float("inf") if self._tools_running > 0 else self._progress_at + self._rules.stall_timeout_s

    def _enter(self, turn: Turn, now: float) -> None:
        self.turn = turn
        self._since = now
