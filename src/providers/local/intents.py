"""Which of the known questions a caller asked, or none of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from math import exp, log, sqrt
from typing import Any

import yaml

from providers.local.speech.spoken import speakable

_REJECT_BELOW = 0.35
"""Confidence under which a guess is none. Measured on phrasings that the classifier had not seen: lower answers
wrongly, higher asks back too often."""
_OFF_TOPIC = ""
_COURTESY_BEFORE = re.compile(
    r"^(?:(?:hello|hi|hey|good (?:morning|afternoon|evening)|okay|ok|all right|alright|well|um|uh|so|yes|yeah|"
    r"great|thank you|thanks|sorry|excuse me|and|there|then|please)\b ?)+"
)
_FRAME = re.compile(
    r"^(?:(?:can|could|would) you (?:please )?tell me|(?:please )?tell me|i (?:would like|want) to know|do you know) "
)
_COURTESY_AFTER = re.compile(r"(?: (?:please|then|thanks|thank you))+$")
_CONTRACTIONS = tuple(
    (re.compile(pattern), full)
    for pattern, full in (
        (r"\bwon't\b", "will not"),
        (r"\bcan't\b|\bcannot\b", "can not"),
        (r"n't\b", " not"),
        (r"(?<=i)'d\b", " would"),
        (r"(?<=i)'m\b", " am"),
        (r"'ll\b", " will"),
        (r"'re\b", " are"),
        (r"(?<=\bit|\bhe)'s\b|(?<=that|what)'s\b|(?<=where)'s\b", " is"),
        (r"\blet's\b", "let us"),
    )
)
_FEWEST_WORDS_LEFT = 3
_REMEMBERED = 4096


@dataclass(slots=True, frozen=True)
class Guess:
    """``intent`` is the name of one, or None when the words fit none of them."""

    intent: str | None
    confidence: float


@dataclass(slots=True, frozen=True)
class _View:
    """One way to look at a text: its features, and what each says for each label.

    The same sums as the library's, a tenth of the time: they are made on the event loop, in a call.
    """

    features: Callable[[str], list[str]]
    weights: Mapping[str, tuple[float, Any]]
    """By feature: its inverse document frequency, and its coefficients by label."""

    def scores(self, text: str) -> Any:
        counts = Counter(feature for feature in self.features(text) if feature in self.weights)
        squares, total = 0.0, 0.0
        for feature, count in counts.items():
            frequency, coefficients = self.weights[feature]
            weight = (1 + log(count)) * frequency
            squares += weight * weight
            total = total + weight * coefficients
        return total / sqrt(squares) if squares else 0.0


class IntentClassifier:
    """Words and their letters, weighted (TF-IDF), and a logistic regression. Shared by all calls."""

    def __init__(self, examples: Mapping[str, Sequence[str]]) -> None:
        """Trains on example phrases by intent; takes a few hundred ms of pure computation."""
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_union

        elsewhere = yaml.safe_load((files(__package__) / "off_topic.yaml").read_text("utf-8"))["phrases"]
        texts, labels = [], []
        for label, phrases in (*examples.items(), (_OFF_TOPIC, elsewhere)):
            said = {plain(phrase) for phrase in phrases} - {""}
            texts += sorted(said)
            labels += [label] * len(said)
        vectorizers = (
            TfidfVectorizer(token_pattern=r"[a-z']+", ngram_range=(1, 2), sublinear_tf=True),
            TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True),
        )
        regression = LogisticRegression(C=20, max_iter=1000, class_weight="balanced")
        regression.fit(make_union(*vectorizers).fit_transform(texts), labels)
        self._labels = [str(label) for label in regression.classes_]
        self._bias = regression.intercept_
        self._views = _views(vectorizers, regression.coef_)
        self._known = {word for text in texts for word in text.split()}
        self._remembered = lru_cache(_REMEMBERED)(self._guess)

    def guess(self, text: str) -> Guess:
        return self._remembered(plain(text))

    def _guess(self, said: str) -> Guess:
        if not any(word in self._known for word in said.split()):
            return Guess(None, 0.0)
        scores = self._bias + sum(view.scores(said) for view in self._views)
        best = int(scores.argmax())
        label, confidence = self._labels[best], 1 / sum(exp(score - scores[best]) for score in scores)
        if label == _OFF_TOPIC or confidence < _REJECT_BELOW:
            return Guess(None, confidence)
        return Guess(label, confidence)


def _views(vectorizers: Sequence[Any], coefficients: Any) -> tuple[_View, ...]:
    """Takes the trained library objects apart; ``coefficients`` has the shape (labels, features)."""
    views, first = [], 0
    for vectorizer in vectorizers:
        weights = {
            feature: (float(vectorizer.idf_[column]), coefficients[:, first + column].copy())
            for feature, column in vectorizer.vocabulary_.items()
        }
        views.append(_View(vectorizer.build_analyzer(), weights))
        first += len(weights)
    return tuple(views)


def plain(text: str) -> str:
    """Lower-case words without punctuation, figures spelt out, contractions in full, and without the courtesies
    around a question."""
    said = " ".join(re.findall(r"[a-z']+", speakable(text).lower()))
    for short, full in _CONTRACTIONS:
        said = short.sub(full, said)
    shorter = _COURTESY_AFTER.sub("", _COURTESY_BEFORE.sub("", said))
    return _FRAME.sub("", shorter if len(shorter.split()) >= _FEWEST_WORDS_LEFT else said)
