"""What the coordinator is told about a conversation, and what it has done in return."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from engine.ending import EndReason
from engine.playout import PlayoutEvent
from providers.base import ProviderEvent


@dataclass(slots=True, frozen=True)
class MediaConnected:
    """Sound flows both ways from now on."""

    greeting_due: bool


@dataclass(slots=True, frozen=True)
class KeyPressed:
    digit: str


@dataclass(slots=True, frozen=True)
class ProviderLost:
    """The provider cannot go on; what it has delivered is still played."""


@dataclass(slots=True, frozen=True)
class HangupWanted:
    """The agent wants to end the call, once its goodbye was heard."""


@dataclass(slots=True, frozen=True)
class ToolStarted:
    """A tool runs; a reply follows from its result."""


@dataclass(slots=True, frozen=True)
class ToolFinished:
    """The provider has been given a tool's result."""


ConversationEvent = (
    MediaConnected
    | KeyPressed
    | ProviderLost
    | HangupWanted
    | ToolStarted
    | ToolFinished
    | ProviderEvent
    | PlayoutEvent
)


class Clip(StrEnum):
    """Sentences that ship with the engine."""

    ONE_MOMENT = "one_moment"
    APOLOGY = "apology"


CLIP_PREFIX = "clip:"
"""Begins the id of every item that plays a clip, as no provider's item does."""


@dataclass(slots=True, frozen=True)
class Pause:
    """Hold the agent's playback."""


@dataclass(slots=True, frozen=True)
class Resume:
    """Let the agent's playback go on where it was held."""


@dataclass(slots=True, frozen=True)
class CutAgent:
    """Drop what the agent has not said yet and tell the provider what was heard."""


@dataclass(slots=True, frozen=True)
class Say:
    """Have the agent say this."""

    text: str


@dataclass(slots=True, frozen=True)
class PlayClip:
    """Play a sentence that ships with the engine."""

    clip: Clip


@dataclass(slots=True, frozen=True)
class EndCall:
    reason: EndReason


Command = Pause | Resume | CutAgent | Say | PlayClip | EndCall
