"""What kinds of answer a question may expect, as weighted phrases for the language model.

An expectation narrows what is likely and closes nothing out: callers who are asked for their number say "a
person, please" too. A closed grammar turns that into figures; a weighted model hears both.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any

import yaml

from providers.local.speech.language_model import Gram, count_grams

GENERAL = "general"
YES_NO = "yes_no"
DIGITS = "digits"
TIME = "time"
NAME = "name"

_OWN_WEIGHT = 4
"""An agent's own phrases, and answers that are expected, against what any caller may say (1)."""
_VERDICT_WEIGHT = 40
_LIKELIEST_VERDICT_WEIGHT = 400
_MADE_UP = 2000
"""Made-up answers of one kind: enough for every pair of words to have been seen."""
_ROUNDS_OF_NAMES = 4


def expectations(phrases: Sequence[str], names: Sequence[str] = ()) -> Mapping[str, Counter[Gram]]:
    """The counts of each kind's language model. ``phrases`` are the agent's own, ``names`` are added."""
    said = _resource("callers.yaml")
    general = count_grams(phrases, _OWN_WEIGHT) + count_grams(said["phrases"])
    answers = MadeUpAnswers(said)
    return {
        GENERAL: general,
        YES_NO: general
        + count_grams(said["likeliest_verdicts"], _LIKELIEST_VERDICT_WEIGHT)
        + count_grams(said["verdicts"], _VERDICT_WEIGHT),
        DIGITS: general + count_grams(_many(answers.number), _OWN_WEIGHT),
        TIME: general + count_grams(_many(answers.time), _OWN_WEIGHT),
        NAME: general + count_grams(answers.names(_resource("names.yaml"), names), _OWN_WEIGHT),
    }


def _resource(name: str) -> Mapping[str, Any]:
    content: Mapping[str, Any] = yaml.safe_load((files(__package__) / name).read_text("utf-8"))
    return content


def _many(make: Callable[[], str]) -> Iterator[str]:
    return (make() for _ in range(_MADE_UP))


class MadeUpAnswers:
    """Answers as people might give them, put together from ``callers.yaml``; the same in every process."""

    def __init__(self, words: Mapping[str, Any]) -> None:
        self._words = words
        self._digits = ["zero", "oh", *words["units"]]
        self._random = random.Random(1)

    def number(self) -> str:
        """A telephone or order number, read as people read them."""
        length = self._random.choice((1, 2, 3, 4, 5, 6, 7, 7, 7, 8, 9, 10, 10, 10, 11))
        said = " ".join(self._figure() for _ in range(length))
        return f"{self._a('before_number')} {said}" if self._random.random() < 0.1 else said

    def time(self) -> str:
        """A time of day, a day, or both."""
        day, clock = self._day(), self._clock()
        return self._random.choice((clock, day, f"{day} {clock}", f"{day} {clock}", f"{clock} {day}"))

    def names(self, known: Mapping[str, str], more: Sequence[str]) -> Iterator[str]:
        """Every name several times, in company and alone, with what comes before it, and spelt."""
        extra = [word for name in more for word in name.split()]
        first, last = known["first"].split() + extra, known["last"].split() + extra
        for _ in range(_ROUNDS_OF_NAMES):
            for name in first:
                yield f"{self._a('before_name')} {name} {self._random.choice(last)}"
            for name in last:
                yield f"{self._a('before_name')} {self._random.choice(first)} {name}"
        for name in (*first, *last):
            yield f"{self._a('before_name')} {name}"
            yield " ".join(letter for letter in name.lower() if "a" <= letter <= "z")
        for name in last:
            yield f"mister {name}"
            yield f"missus {name}"

    def _a(self, kind: str) -> str:
        word: str = self._random.choice(self._words[kind])
        return word

    def _figure(self) -> str:
        kinds = ("digit", "double", "teen", "tens", "tens and unit", "hundred")
        match self._random.choices(kinds, (84, 5, 3, 2, 4, 2))[0]:
            case "double":
                many = self._random.choice(("double", "double", "double", "triple"))
                return f"{many} {self._random.choice(self._digits)}"
            case "teen":
                return self._a("teens")
            case "tens":
                return self._a("tens")
            case "tens and unit":
                return f"{self._a('tens')} {self._a('units')}"
            case "hundred":
                return f"{self._a('units')} hundred"
            case _:
                digit: str = self._random.choice(self._digits)
                return digit

    def _clock(self) -> str:
        hour = self._random.choice((*self._words["units"], "ten", "eleven", "twelve"))
        match self._random.choice(("full", "full", "half", "minutes", "minutes", "past", "part")):
            case "part":
                return self._a("parts_of_day")
            case "half":
                said = f"half past {hour}"
            case "minutes":
                said = f"{hour} {self._a('minutes')}"
            case "past":
                minutes = self._random.choice(("quarter", "a quarter", "ten", "twenty", "five"))
                said = f"{minutes} {self._random.choice(('past', 'to', 'after'))} {hour}"
            case _:
                said = self._random.choice((hour, f"{hour} o'clock"))
        before = self._random.choice(("at", "at", "around", "about", "after", "before", ""))
        after = self._random.choice(("", "", "a m", "p m", "in the morning", "in the afternoon", "please"))
        return f"{before} {said} {after}"

    def _day(self) -> str:
        day, month = self._a("ordinals"), self._a("months")
        match self._random.choice(("weekday", "weekday", "date", "date", "near")):
            case "weekday":
                before = self._random.choice(("", "on", "next", "this"))
                part = self._random.choice(("", "", "morning", "afternoon", "evening"))
                return f"{before} {self._a('weekdays')} {part}"
            case "near":
                return self._a("near_days")
            case _:
                forms = (f"the {day} of {month}", f"{month} {day}", f"{month} the {day}", f"on the {day}")
                return self._random.choice(forms)
