"""Cuts a reply that is still being written into pieces that can be spoken one by one."""

from __future__ import annotations

import re

MAX_CHARS = 240
"""A voice says this in about 15 s; text without any stop is cut at a space."""
COMMA_CHARS = 60
"""A clause of this length is long enough to end at a comma."""

# A stop counts when a space follows: "9.30" and "example.com" go on, and the space shows that they do not.
_STOP = re.compile(r"[.!?…]+[\"')\]”’]*(?=\s)|\n|[,;:–—](?=\s)")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\"'])(?:mr|mrs|ms|dr|prof|st|sr|jr|no|vs|etc|approx|e\.g|i\.e|a\.m|p\.m|u\.s|[a-z])\.$",
    re.IGNORECASE,
)


class ClauseSplitter:
    """Text in, in any portions; clauses out, the same ones however the text was portioned."""

    def __init__(self) -> None:
        self._rest = ""

    def feed(self, text: str) -> list[str]:
        """The clauses that are certain to be over now."""
        self._rest = (self._rest + text).lstrip()
        clauses = []
        while (end := _end_of_clause(self._rest)) is not None:
            clauses.append(self._rest[:end])
            self._rest = self._rest[end:].lstrip()
        return _speakable(clauses)

    def finish(self) -> list[str]:
        """What is left; the text is over."""
        rest, self._rest = self._rest, ""
        return _speakable([rest])


def split_clauses(text: str) -> list[str]:
    """The clauses of a whole text."""
    splitter = ClauseSplitter()
    return [*splitter.feed(text), *splitter.finish()]


def _end_of_clause(text: str) -> int | None:
    """Where the first clause of ``text`` ends; None when that cannot be told yet."""
    for stop in _STOP.finditer(text, 0, MAX_CHARS + 1):
        end = stop.end()
        if stop[0][0] in ",;:–—":
            if end >= COMMA_CHARS:
                return end
        elif stop[0] == "\n" or not _ABBREVIATION.search(text, 0, end):
            return end
    if len(text) <= MAX_CHARS:
        return None
    space = text.rfind(" ", 1, MAX_CHARS)
    return space if space > 0 else MAX_CHARS


def _speakable(clauses: list[str]) -> list[str]:
    return [clause.strip() for clause in clauses if any(map(str.isalnum, clause))]
