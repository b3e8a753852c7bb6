"""Printed text made into what is said: figures, prices, times, telephone numbers, web addresses."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

# fmt: off
_UNITS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
# fmt: on
_SCALES = ((1_000_000_000, "billion"), (1_000_000, "million"), (1000, "thousand"), (100, "hundred"))
_ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}
_DAYS = {
    "mon": "Monday",
    "tue": "Tuesday",
    "tues": "Tuesday",
    "wed": "Wednesday",
    "thu": "Thursday",
    "thur": "Thursday",
    "thurs": "Thursday",
    "fri": "Friday",
    "sat": "Saturday",
    "sun": "Sunday",
}
_MONEY = {"$": ("dollar", "cent", "cents"), "€": ("euro", "cent", "cents"), "£": ("pound", "penny", "pence")}
_PLAIN = str.maketrans("’‘“”–", "''\"\"-", "") | {ord("—"): " - ", ord("…"): "."}
_ADDRESS_SIGNS = {".": "dot", "@": "at", "-": "dash", "_": "underscore", "/": "slash"}
_SIGNS = {"&": " and ", "%": " percent", "@": " at ", "+": " plus ", "=": " equals ", "#": " number "}

_Said = str | Callable[[re.Match[str]], str]


def speakable(text: str) -> str:
    """``text`` as one would read it aloud, in plain ASCII words and punctuation; idempotent."""
    decomposed = unicodedata.normalize("NFKD", text.translate(_PLAIN))
    text = "".join(c for c in decomposed if not unicodedata.combining(c))
    for pattern, said in _RULES:
        text = pattern.sub(said, text)
    text = "".join(c if c.isascii() else " " for c in text)
    return re.sub(r"\s+([,.;:!?])", r"\1", re.sub(r"\s+", " ", text)).strip()


def number(value: int) -> str:
    """A cardinal number in words: 1234 is "one thousand two hundred thirty four"."""
    if value < 20:
        return _UNITS[value]
    if value < 100:
        tens, unit = divmod(value, 10)
        return _TENS[tens] if unit == 0 else f"{_TENS[tens]} {_UNITS[unit]}"
    for scale, name in _SCALES:
        if value >= scale:
            many, rest = divmod(value, scale)
            words = f"{number(many)} {name}"
            return words if rest == 0 else f"{words} {number(rest)}"
    raise AssertionError("every number from 100 on has a scale")


def ordinal(value: int) -> str:
    """3 is "third", 22 is "twenty second"."""
    *before, last = number(value).split(" ")
    if last in _ORDINALS:
        last = _ORDINALS[last]
    elif last.endswith("y"):
        last = last[:-1] + "ieth"
    else:
        last += "th"
    return " ".join((*before, last))


def digits(figures: str) -> str:
    """Figures one by one, as telephone numbers are read: 0 is "oh"."""
    return " ".join("oh" if figure == "0" else _UNITS[int(figure)] for figure in figures)


def pairs(figures: str) -> str:
    """Four figures as house numbers and years are read: 1984 is "nineteen eighty four"."""
    left, right = int(figures[:2]), int(figures[2:])
    if figures[0] == "0":
        return digits(figures)
    if figures[1:3] == "00":
        return number(int(figures))
    if right == 0:
        return f"{number(left)} hundred"
    if right < 10:
        return f"{number(left)} oh {number(right)}"
    return f"{number(left)} {number(right)}"


def _number(match: re.Match[str]) -> str:
    whole, fraction = match["whole"], match["fraction"]
    plain = whole.replace(",", "")
    if fraction is not None:
        return f"{_cardinal(plain)} point {' '.join(_UNITS[int(figure)] for figure in fraction)}"
    if len(whole) == 4:
        return pairs(whole)
    if (len(whole) > 6 and plain == whole) or (len(plain) > 1 and plain[0] == "0"):
        return digits(plain)
    return _cardinal(plain)


def _cardinal(figures: str) -> str:
    return number(int(figures)) if len(figures) <= 12 else digits(figures)


def _ordinal(match: re.Match[str]) -> str:
    return ordinal(int(match["number"]))


def _telephone(match: re.Match[str]) -> str:
    groups = re.findall(r"\d+", match[0])
    if sum(map(len, groups)) < 7:
        return match[0]
    plus = "plus " if match[0].startswith("+") else ""
    return plus + ", ".join(map(digits, groups))


def _time(match: re.Match[str]) -> str:
    """A time of day; without a.m. or p.m. the hours of the afternoon and of the night tell it themselves."""
    hour, minute, half = int(match["hour"]), int(match["minute"] or 0), match["half"].lower()[:1]
    if not half and not 1 <= hour <= 12:
        half = "p" if hour > 12 else "a"
    said = number(hour - 12 if hour > 12 else hour or 12)
    if minute:
        said += f" oh {number(minute)}" if minute < 10 else f" {number(minute)}"
    elif not half:
        said += " o'clock"
    return f"{said} {half} m" if half else said


def _money(match: re.Match[str]) -> str:
    unit, cent, cents_name = _MONEY[match["sign"]]
    whole, cents = match["whole"].replace(",", ""), int(match["cents"] or 0)
    said = []
    if int(whole) or not cents:
        said.append(f"{_cardinal(whole)} {unit if int(whole) == 1 else unit + 's'}")
    if cents:
        said.append(f"{number(cents)} {cent if cents == 1 else cents_name}")
    return " and ".join(said)


def _address(match: re.Match[str]) -> str:
    said = []
    for part in re.findall(r"[a-z]+|\d+|\S", match["address"], re.IGNORECASE):
        if part.isdigit():
            said.append(digits(part))
        elif part.lower() == "www":
            said.append("w w w")
        else:
            said.append(_ADDRESS_SIGNS.get(part, part))
    return " ".join(said)


def _day(match: re.Match[str]) -> str:
    return _DAYS[match["day"].lower()]


def _sign(match: re.Match[str]) -> str:
    return _SIGNS[match[0]]


def _rule(pattern: str, said: _Said) -> tuple[re.Pattern[str], _Said]:
    return re.compile(pattern, re.IGNORECASE | re.ASCII), said


_NAME = r"[a-z0-9_-]+"
_DAY = "|".join(sorted(_DAYS, key=len, reverse=True))
_HALF = r"(?P<half>[ap]\.?m\b\.?)"

# What is most particular first; bare figures and signs last.
_RULES = (
    _rule(rf"\b(?P<address>{_NAME}(\.{_NAME})*@{_NAME}(\.{_NAME})+)", _address),
    _rule(rf"\b(https?://)(?P<address>{_NAME}(\.{_NAME})+(/{_NAME})*)", _address),
    _rule(rf"\b(?P<address>www\.{_NAME}(\.{_NAME})*(/{_NAME})*)", _address),
    _rule(rf"\b(?P<address>{_NAME}\.(com|org|net|info|shop|example))\b", _address),
    # "Mon", "sat" and "sun" are words of their own unless a range or a time follows or precedes.
    _rule(rf"\b(?P<day>{_DAY})\b\.?(?=\s*-\s*[a-z]|:|,?\s+\d)", _day),
    _rule(rf"(?<=day-)(?P<day>{_DAY})\b\.?", _day),
    _rule(rf"(?<=day - )(?P<day>{_DAY})\b\.?", _day),
    _rule(r"(?<=day)\s*-\s*(?=[a-z]+day)", " to "),
    _rule(r"(?<![\d$€£.,:])\+?\(?\d{1,4}\)?([ ./-]+\(?\d{2,5}\)?){1,5}(?![\d,:])", _telephone),
    _rule(r"\b24/7\b", "twenty four seven"),
    _rule(r"(?<=[\dapm])\s*-\s*(?=[$€£]?\d)", " to "),
    _rule(r"(?P<sign>[$€£])\s?(?P<whole>\d{1,3}(,\d{3})+|\d+)(\.(?P<cents>\d\d))?\b", _money),
    _rule(rf"\b(?P<hour>[01]?\d|2[0-3])[:.](?P<minute>[0-5]\d)\s*{_HALF}", _time),
    _rule(r"\b(?P<hour>[01]?\d|2[0-3]):(?P<minute>[0-5]\d)\b(?P<half>)", _time),
    _rule(rf"\b(?P<hour>1[0-2]|[1-9])(?P<minute>)\s*{_HALF}", _time),
    _rule(r"\b(?P<number>\d{1,4})(st|nd|rd|th)\b", _ordinal),
    _rule(r"(?P<whole>\d{1,3}(,\d{3})+|\d+)(\.(?P<fraction>\d+))?", _number),
    _rule(r"[&%@+=#]", _sign),
)
