"""The language model made of phrases, and the dictionary to it."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from providers.local.speech.dictionary import by_rules, dictionary
from providers.local.speech.expectations import DIGITS, GENERAL, NAME, TIME, YES_NO, expectations
from providers.local.speech.flite import Flite
from providers.local.speech.language_model import END, START, Gram, arpa, count_grams, words

PHRASES = ("when do you open", "when do you close", "Are you open on Sunday?", "do you close at 5 pm")


class Model:
    """An ARPA file as a decoder understands it."""

    def __init__(self, text: str) -> None:
        self.grams: dict[Gram, tuple[float, float]] = {}
        sections = text.split("\\")
        for section in sections:
            if not section[1:].startswith("-grams:"):
                continue
            for line in section.splitlines()[1:]:
                if line:
                    probability, gram, *backoff = line.split("\t")
                    self.grams[tuple(gram.split(" "))] = (float(probability), float(backoff[0]) if backoff else 0.0)
        self.declared = [int(line.split("=")[1]) for line in text.splitlines() if line.startswith("ngram ")]

    def probability(self, context: Gram, word: str) -> float:
        if (*context, word) in self.grams:
            return float(10 ** self.grams[(*context, word)][0])
        if not context:
            return 0.0
        backoff = self.grams[context][1] if context in self.grams else 0.0
        return float(10**backoff * self.probability(context[1:], word))


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(arpa(count_grams(PHRASES)))


def test_words_are_as_spoken() -> None:
    assert words("What's 20% of $5, Zoë?") == ("what's", "twenty", "percent", "of", "five", "dollars", "zoe")


def test_phrases_without_words_count_nothing() -> None:
    assert count_grams(["", "…!"]) == Counter()


def test_a_weight_is_as_good_as_saying_it_so_often() -> None:
    assert count_grams(PHRASES, 3) == count_grams(PHRASES * 3)


def test_the_header_says_how_many_grams_follow(model: Model) -> None:
    assert model.declared == [sum(len(gram) == order for gram in model.grams) for order in (1, 2, 3)]


def test_after_every_context_the_probabilities_add_up_to_one(model: Model) -> None:
    vocabulary = {gram[0] for gram in model.grams if len(gram) == 1} - {START}
    contexts = [(), *(gram for gram in model.grams if len(gram) < 3 and gram[-1] != END)]
    for context in contexts:
        total = sum(model.probability(context, word) for word in vocabulary)
        assert math.isclose(total, 1.0, abs_tol=0.01), context


def test_what_was_said_is_likelier_than_what_was_not(model: Model) -> None:
    assert model.probability(("do", "you"), "close") > 10 * model.probability(("do", "you"), "sunday") > 0


def test_every_kind_of_answer_has_a_model_that_still_hears_the_rest() -> None:
    kinds = expectations(PHRASES, names=["Chukwuemeka Okonkwo"])
    assert set(kinds) == {GENERAL, YES_NO, DIGITS, TIME, NAME}
    for counts in kinds.values():
        assert counts[("do", "you", "close")] > 0
    assert ("chukwuemeka",) in kinds[NAME]
    assert kinds[YES_NO][("yes",)] > 100 * kinds[GENERAL][("yes",)]
    assert {("double", "seven"), ("oh", "oh"), ("twenty", "one")} <= set(kinds[DIGITS])
    assert {("half", "past", "nine"), ("on", "monday")} <= set(kinds[TIME])


def test_models_are_the_same_in_every_process() -> None:
    assert expectations(PHRASES) == expectations(PHRASES)


def test_known_words_keep_all_their_pronunciations_and_unknown_ones_get_one_by_rule() -> None:
    known = ["the DH AH\n", "the(2) DH IY\n", "other AH DH ER\n"]
    made = dictionary({"the", "zylberstein"}, known, by_rules(Flite("slt")))
    assert made == "the DH AH\nthe(2) DH IY\nzylberstein Z IH L B ER S T AY N\n"


@pytest.mark.parametrize("word", ["joao", "wifi", "okonkwo", "o'shea", "qxz"])
def test_rules_use_phones_that_the_acoustic_model_has(word: str) -> None:
    phones = frozenset(
        [
            "AA",
            "AE",
            "AH",
            "AO",
            "AW",
            "AY",
            "B",
            "CH",
            "D",
            "DH",
            "EH",
            "ER",
            "EY",
            "F",
            "G",
            "HH",
            "IH",
            "IY",
            "JH",
            "K",
            "L",
            "M",
            "N",
            "NG",
            "OW",
            "OY",
            "P",
            "R",
            "S",
            "SH",
            "T",
            "TH",
            "UH",
            "UW",
            "V",
            "W",
            "Y",
            "Z",
            "ZH",
        ]
    )
    said = by_rules(Flite("slt"))(word).split()
    assert said
    assert set(said) <= phones
