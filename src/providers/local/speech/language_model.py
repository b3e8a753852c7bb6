"""What a caller may say, in the forms that the recogniser reads: an n-gram model of phrases in ARPA text."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from providers.local.speech.spoken import speakable

ORDER = 3
START, END = "<s>", "</s>"
_WORD = re.compile(r"[a-z][a-z']*")
_NEVER_SAID = -99.0
"""Log probability of what is only ever a context (the convention of the ARPA format)."""

Gram = tuple[str, ...]


def words(phrase: str) -> tuple[str, ...]:
    """The words of a phrase as a caller says them: lower case, figures spelt out, no punctuation."""
    return tuple(word.strip("'") for word in _WORD.findall(speakable(phrase).lower()))


def vocabulary(phrases: Iterable[str]) -> frozenset[str]:
    return frozenset(word for phrase in phrases for word in words(phrase))


def count_grams(phrases: Iterable[str], weight: int = 1) -> Counter[Gram]:
    """How often each sequence of one to ``ORDER`` words occurs, sentence ends included."""
    counts: Counter[Gram] = Counter()
    for phrase in phrases:
        sentence = (START, *words(phrase), END)
        if len(sentence) == 2:
            continue
        for order in range(1, ORDER + 1):
            for first in range(len(sentence) - order + 1):
                counts[sentence[first : first + order]] += weight
    return counts


def arpa(counts: Counter[Gram]) -> str:
    """A back-off model of ``counts`` in ARPA format, smoothed after Witten and Bell.

    What follows a context often in few forms is trusted; a context with many different followers leaves much
    of its probability to the shorter context.
    """
    followers: defaultdict[Gram, dict[str, int]] = defaultdict(dict)
    for gram, count in counts.items():
        if gram[-1] != START:
            followers[gram[:-1]][gram[-1]] = count
    probability: dict[Gram, float] = {}
    backoff: dict[Gram, float] = {}
    for context in sorted(followers, key=len):
        following = followers[context]
        total, kinds = sum(following.values()), len(following)
        if not context:
            for word, count in following.items():
                probability[(word,)] = count / total
            continue
        for word, count in following.items():
            probability[(*context, word)] = count / (total + kinds)
        shorter = sum(probability[(*context[1:], word)] for word in following)
        # All the vocabulary follows this context: nothing is left to back off to.
        left = max(1.0 - shorter, 1e-6)
        backoff[context] = kinds / (total + kinds) / left
    return _arpa_text(counts, probability, backoff)


def _arpa_text(counts: Counter[Gram], probability: dict[Gram, float], backoff: dict[Gram, float]) -> str:
    by_order: Sequence[list[Gram]] = [sorted(g for g in counts if len(g) == n) for n in range(1, ORDER + 1)]
    lines = ["\\data\\", *(f"ngram {n}={len(grams)}" for n, grams in enumerate(by_order, 1)), ""]
    for order, grams in enumerate(by_order, 1):
        lines.append(f"\\{order}-grams:")
        for gram in grams:
            log_probability = math.log10(probability[gram]) if gram in probability else _NEVER_SAID
            line = f"{log_probability:.4f}\t{' '.join(gram)}"
            if order < ORDER:
                line += f"\t{math.log10(backoff.get(gram, 1.0)):.4f}"
            lines.append(line)
        lines.append("")
    lines.append("\\end\\")
    return "\n".join(lines) + "\n"
