"""Replies are cut into clauses, the same ones however they are streamed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.pipeline.clauses import COMMA_CHARS, MAX_CHARS, ClauseSplitter, split_clauses


@pytest.mark.parametrize(
    ("text", "clauses"),
    [
        ("", []),
        ("  \n ", []),
        ("Hello.", ["Hello."]),
        ("Hello. How are you? Fine!", ["Hello.", "How are you?", "Fine!"]),
        ("We open at 9.30 and close at 17.00.", ["We open at 9.30 and close at 17.00."]),
        ("Write to info@example.com. Thanks.", ["Write to info@example.com.", "Thanks."]),
        ("Mr. Smith is with Dr. Jones, e.g. today. Bye.", ["Mr. Smith is with Dr. Jones, e.g. today.", "Bye."]),
        ('He said "Stop!" Then he left.', ['He said "Stop!"', "Then he left."]),
        ("Wait... what?! Yes.", ["Wait...", "what?!", "Yes."]),
        ("One line\nanother line", ["One line", "another line"]),
        ("Yes, we do.", ["Yes, we do."]),
        ("... - !", []),
        ("Good. 👍", ["Good."]),
    ],
)
def test_a_text_is_cut_where_one_breathes(text: str, clauses: list[str]) -> None:
    assert split_clauses(text) == clauses


def test_a_long_sentence_is_cut_at_a_comma() -> None:
    head = "We are open from Monday to Friday between nine and five o'clock,"
    assert len(head) >= COMMA_CHARS
    assert split_clauses(f"{head} and on Saturdays until noon.") == [head, "and on Saturdays until noon."]


def test_a_text_without_stops_is_cut_at_a_space() -> None:
    clauses = split_clauses("word " * 200)
    assert all(len(clause) <= MAX_CHARS for clause in clauses)
    assert " ".join(clauses).split() == ["word"] * 200


def test_a_word_without_end_is_cut_all_the_same() -> None:
    assert split_clauses("x" * (2 * MAX_CHARS + 1)) == ["x" * MAX_CHARS, "x" * MAX_CHARS, "x"]


def test_a_clause_comes_as_soon_as_it_is_certain() -> None:
    splitter = ClauseSplitter()
    assert splitter.feed("Yes.") == []
    assert splitter.feed(" We") == ["Yes."]
    assert splitter.feed(" do.") == []
    assert splitter.finish() == ["We do."]
    assert splitter.finish() == []


TEXT = st.text(alphabet=st.sampled_from("aB1 .,!?…\n\"')-:;x—👍"), max_size=700)


@given(TEXT, st.lists(st.integers(1, 40), min_size=1))
def test_portions_make_no_difference(text: str, sizes: list[int]) -> None:
    splitter = ClauseSplitter()
    clauses: list[str] = []
    at = turn = 0
    while at < len(text):
        size = sizes[turn % len(sizes)]
        clauses += splitter.feed(text[at : at + size])
        at, turn = at + size, turn + 1
    assert clauses + splitter.finish() == split_clauses(text)


@given(TEXT)
def test_no_letter_is_lost_or_added(text: str) -> None:
    said = "".join(split_clauses(text))
    assert [char for char in said if char.isalnum()] == [char for char in text if char.isalnum()]


@given(TEXT)
def test_clauses_are_short_and_say_something(text: str) -> None:
    for clause in split_clauses(text):
        assert clause == clause.strip()
        assert len(clause) <= MAX_CHARS + 1
        assert any(map(str.isalnum, clause))
