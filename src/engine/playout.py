"""The seam between a conversation and the ways in which the agent's sound is played."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from engine.ledger import PlayoutLedger


@dataclass(slots=True, frozen=True)
class PlayoutStarted:
    """The first frame of an item left; or the next one of an item that had been given up and goes on."""

    item_id: str


@dataclass(slots=True, frozen=True)
class PlayoutFinished:
    """The last frame of an item left; it was heard to its end."""

    item_id: str


@dataclass(slots=True, frozen=True)
class PlayoutDrained:
    """Every item is over: the agent is silent, and has been for ``silent_ms`` already."""

    silent_ms: float = 0.0


@dataclass(slots=True, frozen=True)
class PlayoutStalled:
    """An item ran dry and did not go on in time; what there was of it counts as all of it."""

    item_id: str


@dataclass(slots=True, frozen=True)
class AgentSilenced:
    """The first silent frame after a pause or a cut left, ``after_ms`` after it was asked for."""

    after_ms: float


PlayoutEvent = PlayoutStarted | PlayoutFinished | PlayoutDrained | PlayoutStalled | AgentSilenced


@dataclass(slots=True, frozen=True)
class Cut:
    """What became of an item when playback was cut: the caller heard ``heard_ms`` of it."""

    item_id: str
    heard_ms: int


class PlaybackState(StrEnum):
    IDLE = "idle"
    FILLING = "filling"
    PLAYING = "playing"
    STARVED = "starved"
    PAUSED = "paused"


@dataclass(slots=True)
class PlaybackStats:
    underruns: int = 0
    """Times that an item ran dry in the middle."""
    stalls: int = 0
    late_chunks: int = 0
    """Chunks of items that had been cut."""
    flushed_frames: int = 0
    """Frames that a barge-in threw away unheard."""


class Playback(Protocol):
    """Plays one call's agent, in the wire's format. Everything is synchronous.

    A whole reply may be queued at once: minutes of it are small, and nothing that was not heard is ever
    dropped but by ``cut``. What happens is told as ``PlayoutEvent`` to the callable given at creation.
    """

    ledger: PlayoutLedger
    stats: PlaybackStats

    @property
    def state(self) -> PlaybackState: ...

    @property
    def speaking(self) -> bool:
        """An item is begun or waiting: the agent has the floor."""

    def start(self) -> None:
        """The caller can hear from now on; what was queued before begins to play."""

    def tick(self) -> None:
        """Called once per 20 ms from ``start`` on."""

    def enqueue(self, item_id: str, chunk: bytes) -> None:
        """Adds audio of an item, in the order it is to be heard. Audio of a cut item is ignored."""

    def complete(self, item_id: str) -> None:
        """No more audio of this item will come."""

    def complete_all(self) -> None:
        """No more audio of any item will come: whoever made it is gone."""

    def describe(self, item_id: str, text: str) -> None:
        """Notes what an item says (the whole text so far)."""

    def pause(self) -> None:
        """Holds playback, also of what is still to come; nothing is lost."""

    def resume(self) -> None:
        """Goes on with the very next sample."""

    def cut(self) -> list[Cut]:
        """Drops everything that was not heard yet; returns the items concerned, in the order of their audio.

        They are over: audio of theirs that is still to come is ignored.
        """

    def close(self) -> None:
        """The call is over: stops for good and leaves nothing behind."""
