"""A message being taken: its parts, and how it is read back."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto

from providers.local.numbers import grouped
from providers.local.script import READ_BACK, READ_BACK_END


class Field(Enum):
    NAME = auto()
    NUMBER = auto()
    REASON = auto()


@dataclass(slots=True, frozen=True)
class Draft:
    name: str = ""
    number: str = ""
    """Figures only."""
    reason: str = ""
    partial: str = ""
    """The figures so far of a number that is said in several breaths."""

    def read_back(self) -> str:
        return (
            f"{READ_BACK} Your name is {self.name}. Your number is {grouped(self.number)}. "
            f"Your message is: {self.reason.rstrip('.!? ')}. {READ_BACK_END}"
        )


EMPTY = Draft()

_NAMED = (
    (Field.NUMBER, re.compile(r"\b(number|phone|telephone|digits?)\b")),
    (Field.NAME, re.compile(r"\b(name|surname|called)\b")),
    (Field.REASON, re.compile(r"\b(reason|message|about|text|topic|subject)\b")),
)


def field_named(text: str) -> Field | None:
    """Which part of the message the caller speaks of."""
    lowered = text.lower()
    return next((field for field, pattern in _NAMED if pattern.search(lowered)), None)
