"""The life of a call, from Stasis to its last record."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class CallState(StrEnum):
    ARRIVED = "arrived"
    """In Stasis; nothing done yet."""
    CONNECTING = "connecting"
    """Being answered and bridged with its media channel, while the provider connects."""
    TALKING = "talking"
    """Sound flows both ways."""
    ENDING = "ending"
    """The reason is known; things are being taken down."""
    ENDED = "ended"
    """Nothing of it is left."""


_NEXT: Mapping[CallState, frozenset[CallState]] = {
    CallState.ARRIVED: frozenset({CallState.CONNECTING, CallState.ENDING}),
    CallState.CONNECTING: frozenset({CallState.TALKING, CallState.ENDING}),
    CallState.TALKING: frozenset({CallState.ENDING}),
    CallState.ENDING: frozenset({CallState.ENDED}),
    CallState.ENDED: frozenset(),
}


class IllegalTransitionError(Exception):
    """A call was told to go where it cannot go from where it is."""


class Lifecycle:
    """Holds a call's state and refuses impossible changes of it."""

    def __init__(self) -> None:
        self.state = CallState.ARRIVED

    def to(self, state: CallState) -> None:
        if state not in _NEXT[self.state]:
            raise IllegalTransitionError(f"{self.state} -> {state}")
        self.state = state
