"""Telephone numbers as callers say them: words in, figures out."""

from __future__ import annotations

import re

SHORTEST_NUMBER, LONGEST_NUMBER = 6, 15
"""Figures of a number that can be called: from a short local one to the most that E.164 allows."""

_UNITS = {
    "zero": "0",
    "one": "1",
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
}
_DIGITS = _UNITS | {"oh": "0", "o": "0", "nought": "0", "naught": "0", "niner": "9"}
_TEENS = {
    "ten": "10",
    "eleven": "11",
    "twelve": "12",
    "thirteen": "13",
    "fourteen": "14",
    "fifteen": "15",
    "sixteen": "16",
    "seventeen": "17",
    "eighteen": "18",
    "nineteen": "19",
}
_TENS = {
    "twenty": "2",
    "thirty": "3",
    "forty": "4",
    "fifty": "5",
    "sixty": "6",
    "seventy": "7",
    "eighty": "8",
    "ninety": "9",
}
_TIMES = {"double": 2, "triple": 3, "treble": 3}
_SCALES = {"hundred": "00", "thousand": "000"}
_SOUND_ALIKE = {"won": "1", "to": "2", "too": "2", "for": "4", "fore": "4", "ate": "8", "owe": "0"}
_FIGURES = {**_DIGITS, **_TEENS, **_TENS}
_TOKEN = re.compile(r"\d+|[a-z]+")


def figures(text: str) -> str:
    """The figures in ``text``, in order: "my number is oh one double five" is "0155"; "" if there are none.

    Words that only sound like a figure ("for", "to") count between figures.
    """
    tokens = _TOKEN.findall(text.lower())
    found: list[str] = []
    place = 0
    while place < len(tokens):
        figure, used = _read(tokens, place)
        found.append(figure)
        place += used
    return "".join(found)


def is_number(digits: str) -> bool:
    """Whether ``digits`` can be a whole telephone number."""
    return SHORTEST_NUMBER <= len(digits) <= LONGEST_NUMBER


def callable_number(caller_number: str) -> str:
    """The caller's own number, with figures alone, or "" where it is withheld, internal or a name."""
    if not re.fullmatch(r"\+?[\d ()./-]+", caller_number):
        return ""
    digits = re.sub(r"\D", "", caller_number)
    return digits if 7 <= len(digits) <= LONGEST_NUMBER else ""


def grouped(digits: str) -> str:
    """Figures in the groups in which they are read out: "5550123456" is "555 012 3456"."""
    if len(digits) < 7:
        return " ".join(digits)
    groups = []
    while len(digits) > 4:
        groups.append(digits[:3])
        digits = digits[3:]
    return " ".join((*groups, digits))


def _read(tokens: list[str], place: int) -> tuple[str, int]:
    """The figures that begin at a token, and how many tokens they took; no figures where it is another word."""
    word = tokens[place]
    after = tokens[place + 1] if place + 1 < len(tokens) else ""
    if word.isdigit():
        return word, 1
    if word in _TIMES:
        repeated = after if after.isdigit() and len(after) == 1 else _DIGITS.get(after, "")
        return repeated * _TIMES[word], 2 if repeated else 1
    if word in _TENS:
        unit = _UNITS.get(after, "0")
        return (_TENS[word] + unit, 2) if unit != "0" else (_TENS[word] + "0", 1)
    if word in _DIGITS or word in _TEENS:
        figure = _DIGITS.get(word) or _TEENS[word]
        return (figure + _SCALES[after], 2) if after in _SCALES else (figure, 1)
    if word in _SOUND_ALIKE and _among_figures(tokens, place):
        return _SOUND_ALIKE[word], 1
    return "", 1


def _among_figures(tokens: list[str], place: int) -> bool:
    before = tokens[place - 1] if place else ""
    after = tokens[place + 1] if place + 1 < len(tokens) else ""
    return _is_figure(before) and (_is_figure(after) or not after)


def _is_figure(word: str) -> bool:
    return word.isdigit() or word in _FIGURES or word in _TIMES
