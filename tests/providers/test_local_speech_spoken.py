"""Printed text becomes what one says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.local.speech.spoken import number, ordinal, speakable

SAID = {
    "Call 555-0123.": "Call five five five, oh one two three.",
    "+1 (212) 555-7890": "plus one, two one two, five five five, seven eight nine oh",
    "Dial 5550199 now": "Dial five five five oh one nine nine now",
    "It opens at 9:30.": "It opens at nine thirty.",
    "9:05 am": "nine oh five a m",
    "at 9:00": "at nine o'clock",
    "from 9 am to 5 pm": "from nine a m to five p m",
    "9am-5:30pm": "nine a m to five thirty p m",
    "from 9:00–17:30": "from nine o'clock to five thirty p m",
    "9-5": "nine to five",
    "0:15": "twelve fifteen a m",
    "Mon–Fri, 9 a.m.": "Monday to Friday, nine a m",
    "Sat: closed": "Saturday: closed",
    "Sun 10:00": "Sunday ten o'clock",
    "The sun sat there.": "The sun sat there.",
    "It costs $12.50.": "It costs twelve dollars and fifty cents.",
    "$1": "one dollar",
    "$0.99": "ninety nine cents",
    "£1.01": "one pound and one penny",
    "€1,200": "one thousand two hundred euros",
    "$10-$20": "ten dollars to twenty dollars",
    "info@bike-shop.example": "info at bike dash shop dot example",
    "Write to a.b2@x.org!": "Write to a dot b two at x dot org!",
    "See www.bikes.com/rent, please": "See w w w dot bikes dot com slash rent, please",
    "https://bikes.net": "bikes dot net",
    "1984": "nineteen eighty four",
    "12 Main Street": "twelve Main Street",
    "1205 Main Street": "twelve oh five Main Street",
    "in 2000": "in two thousand",
    "1,250 bikes": "one thousand two hundred fifty bikes",
    "room 007": "room oh oh seven",
    "2.5 hours": "two point five hours",
    "the 3rd of May": "the third of May",
    "on May 22nd": "on May twenty second",
    "20% off & more": "twenty percent off and more",
    "24/7": "twenty four seven",
    "We’re open…": "We're open.",
    "Café Zoë – naïve": "Cafe Zoe - naive",
    "Hello, World!": "Hello, World!",
    "": "",
}


@pytest.mark.parametrize(("printed", "said"), SAID.items())
def test_printed_text_is_said_as_people_say_it(printed: str, said: str) -> None:
    assert speakable(printed) == said


@given(st.text(max_size=80))
def test_any_text_becomes_ascii_and_stays_as_it_is_when_made_speakable_again(text: str) -> None:
    said = speakable(text)
    assert said.isascii()
    assert speakable(said) == said


@given(st.text(alphabet="0123456789 .,:-$%ap/m()+@", max_size=30))
def test_no_figure_is_left_over(text: str) -> None:
    assert not any(c.isdigit() for c in speakable(text))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "zero"),
        (13, "thirteen"),
        (40, "forty"),
        (101, "one hundred one"),
        (1_000_003, "one million three"),
    ],
)
def test_numbers_in_words(value: int, words: str) -> None:
    assert number(value) == words


@pytest.mark.parametrize(
    ("value", "word"),
    [(1, "first"), (12, "twelfth"), (20, "twentieth"), (23, "twenty third"), (100, "one hundredth")],
)
def test_ordinals_in_words(value: int, word: str) -> None:
    assert ordinal(value) == word
