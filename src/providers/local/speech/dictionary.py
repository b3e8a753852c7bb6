"""How words are pronounced: the recogniser's own dictionary, and flite's rules for what is not in it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable

from providers.local.speech.flite import Flite

Pronounce = Callable[[str], str]


def dictionary(words: Collection[str], known: Iterable[str], pronounce: Pronounce) -> str:
    """A pronouncing dictionary of just these words, as pocketsphinx reads it.

    ``known`` are lines of the big dictionary (``word PH ON EMES``, further pronunciations as ``word(2) …``);
    a decoder that holds all of it takes ten times the memory.
    """
    found: defaultdict[str, list[str]] = defaultdict(list)
    for line in known:
        word, _, phones = line.rstrip("\n").partition(" ")
        word = word.partition("(")[0]
        if word in words:
            found[word].append(phones)
    lines = []
    for word in sorted(words):
        for nth, phones in enumerate(found.get(word) or [pronounce(word)], 1):
            lines.append(f"{word if nth == 1 else f'{word}({nth})'} {phones}")
    return "\n".join(lines) + "\n"


def by_rules(flite: Flite) -> Pronounce:
    """Pronounces any English-looking word in the phones of the CMU dictionary, after flite's rules."""

    def pronounce(word: str) -> str:
        phones = (phone.rstrip("012").upper() for phone in flite.phones(word))
        # A schwa has no name of its own in the recogniser's set.
        return " ".join("AH" if phone == "AX" else phone for phone in phones)

    return pronounce
