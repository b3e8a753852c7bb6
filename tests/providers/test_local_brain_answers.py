"""Numbers, names, yes and no, as callers say them and the recogniser hears them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.local.answers import introduces_name, person_name, reason, trails_off, yes_or_no
from providers.local.numbers import callable_number, figures, grouped, is_number
from providers.local.speech.spoken import digits as read_out


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("five five five one two three four", "5551234"),
        ("oh one six three two nine six oh double oh one", "01632960001"),
        ("my number is zero one double five", "0155"),
        ("triple seven treble two", "777222"),
        ("twenty three forty five", "2345"),
        ("twenty forty one", "2041"),
        ("fifteen nineteen ten", "151910"),
        ("eight hundred five five five", "800555"),
        ("five thousand", "5000"),
        ("twenty oh five", "2005"),
        ("double", ""),
        ("double trouble", ""),
        ("it is five to five", "525"),
        ("this is for you", ""),
        ("two for one", "241"),
        ("five five five won", "5551"),
        ("555-0123, extension 4", "55501234"),
        ("double 5 6", "556"),
        ("no number at all", ""),
        ("", ""),
    ],
)
def test_figures(text: str, number: str) -> None:
    assert figures(text) == number


@given(st.text("0123456789", min_size=1, max_size=15))
def test_what_is_read_out_is_understood(number: str) -> None:
    assert figures(read_out(number)) == number
    assert grouped(number).replace(" ", "") == number


@given(st.text())
def test_any_text_has_figures_or_none(text: str) -> None:
    assert figures(text).isdigit() or figures(text) == ""


@pytest.mark.parametrize(
    ("digits", "possible"), [("12345", False), ("123456", True), ("1" * 15, True), ("1" * 16, False)]
)
def test_how_long_a_number_is(digits: str, possible: bool) -> None:
    assert is_number(digits) is possible


@pytest.mark.parametrize(
    ("caller", "number"),
    [
        ("+49 30 123456", "4930123456"),
        ("(555) 012-3456", "5550123456"),
        ("100", ""),
        ("", ""),
        ("anonymous", ""),
        ("sip:alice@pbx", ""),
        ("1" * 20, ""),
    ],
)
def test_the_callers_own_number(caller: str, number: str) -> None:
    assert callable_number(caller) == number


def test_numbers_are_read_in_groups() -> None:
    assert grouped("5550123456") == "555 012 3456"
    assert grouped("01632960001") == "016 329 600 01"
    assert grouped("123456") == "1 2 3 4 5 6"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("yes", True),
        ("Yes, please.", True),
        ("yeah that's right", True),
        ("that is correct", True),
        ("go ahead", True),
        ("no problem", True),
        ("why not", True),
        ("sure", True),
        ("please", True),
        ("repeat that please", None),
        ("cancel please", None),
        ("correct the number", False),
        ("no", False),
        ("no thank you", False),
        ("that is not right", False),
        ("that's wrong", False),
        ("not really", False),
        ("no please don't", False),
        ("yes no", None),
        ("maybe", None),
        ("", None),
        ("what are your opening hours", None),
        ("i would like to know what time you open please", None),
        ("yes i would like to know what time you open", True),
        ("no i would like to know what time you open", False),
    ],
)
def test_yes_and_no(text: str, answer: bool | None) -> None:
    assert yes_or_no(text) is answer


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("sarah johnson", "Sarah Johnson"),
        ("my name is sarah johnson", "Sarah Johnson"),
        ("um yes hello my name's o'brien", "O'brien"),
        ("this is mister smith speaking", "Mr Smith"),
        ("s m i t h", "Smith"),
        ("john s m i t h", "John Smith"),
        ("it's anna please", "Anna"),
        ("my name is", ""),
        ("i am", ""),
        ("", ""),
        ("please", ""),
        ("well i do not really know what to tell you", ""),
    ],
)
def test_names(text: str, name: str) -> None:
    assert person_name(text) == name


def test_a_name_is_introduced() -> None:
    assert introduces_name("hello my name is grace price")
    assert not introduces_name("what is your name")
    assert not introduces_name("this is difficult")


def test_reasons_lose_their_lead_in() -> None:
    assert reason("it is about my  bicycle") == "My bicycle"
    assert reason("my chain is broken") == "My chain is broken"
    assert reason("about") == "About"


@pytest.mark.parametrize(
    ("text", "unfinished"),
    [
        ("my number is", True),
        ("i would like to", True),
        ("what are your prices and", True),
        ("um", True),
        ("what are your prices", False),
        ("what is it about", False),
        ("thank you", False),
        ("", False),
    ],
)
def test_unfinished_sentences(text: str, unfinished: bool) -> None:
    assert trails_off(text) is unfinished
