"""What the classifier understands of phrasings that it was not trained on."""

from __future__ import annotations

import pytest
from local_brain_support import classifier, faq

HELD_OUT = {
    "opening_hours": (
        "when do you close today",
        "what hours are you open",
        "are you open this weekend",
        "tell me your opening times",
        "hello what are your opening hours please",
        "how long are you open tonight",
        "do you open on mondays",
    ),
    "address": (
        "where is your store",
        "i need directions to your shop",
        "could you tell me your address please",
        "where exactly are you",
        "how can i find you",
        "what street is it",
    ),
    "prices": (
        "how much would a repair be",
        "could you tell me how much it costs",
        "what is the price of a new bicycle",
        "how expensive is a service",
        "tell me your prices please",
        "what do new brakes cost",
    ),
    "parking": (
        "is there anywhere to park my car",
        "do you have a place to park",
        "where should i park",
        "can customers park there",
    ),
    "appointment": (
        "i'd like to book an appointment",
        "can you fit me in for a repair tomorrow",
        "do i have to make an appointment",
        "could i schedule a repair for friday",
    ),
    "payment": (
        "can i use my credit card",
        "is cash okay",
        "do you accept card payments",
        "how do i pay",
    ),
    "abilities": (
        "what are you able to do",
        "what can you help me with",
        "what kind of things can i ask",
        "are you a machine",
    ),
    "person": (
        "may i speak with a person",
        "i'd like to talk to someone real",
        "get me a human please",
        "put me through to the owner",
        "can i speak to an agent",
    ),
    "message": (
        "i want to leave a message",
        "could someone call me back please",
        "please take a message",
        "can i leave a message for the owner",
    ),
    "repeat": (
        "could you repeat that please",
        "sorry what did you say",
        "say it again please",
        "i didn't hear that",
    ),
    "cancel": ("forget the message", "please cancel", "actually never mind"),
    "thanks": ("thanks very much", "okay thank you", "thank you that is great"),
    "greeting": ("hello there", "hi good morning", "good day"),
    "goodbye": (
        "okay bye",
        "good bye then",
        "thanks bye",
        "no that's all thank you",
        "that is everything bye bye",
    ),
}
NONSENSE = (
    "",
    "...",
    "asdf qwer",
    "do you sell horses",
    "what is the time in tokyo",
    "my cat is green",
    "the weather is nice",
    "how far is the moon",
    "purple seven flying",
    "can you sing",
    "i had eggs for breakfast",
    "who are the beatles",
    "five five five",
    "what is love",
    "is this the hospital",
    "the children play football",
    "i broke my leg",
    "mark parker",
)


def test_nothing_held_out_was_trained_on() -> None:
    assert not {phrase for phrases in HELD_OUT.values() for phrase in phrases} & set(faq().phrases)
    assert sum(map(len, HELD_OUT.values())) >= 60


def test_most_phrasings_are_understood_and_hardly_any_wrongly() -> None:
    guesses = [(name, classifier().guess(phrase).intent) for name, phrases in HELD_OUT.items() for phrase in phrases]
    right = sum(guess == name for name, guess in guesses)
    wrong = sum(guess not in (name, None) for name, guess in guesses)
    assert right / len(guesses) >= 0.85
    assert wrong / len(guesses) <= 0.05


def test_every_example_is_understood_as_its_own_intent() -> None:
    wrong = [
        (example, guess.intent)
        for intent in faq().intents.values()
        for example in intent.examples
        if (guess := classifier().guess(example)).intent != intent.name
    ]
    assert not wrong


@pytest.mark.parametrize("text", NONSENSE)
def test_nonsense_is_not_understood(text: str) -> None:
    assert classifier().guess(text).intent is None


@pytest.mark.parametrize(
    "text",
    [
        "what are your opening hours",
        "What are your opening hours?",
        "hello, good morning, what are your opening hours please",
        "could you tell me what your opening hours are",
        "okay and what are your opening hours",
    ],
)
def test_courtesies_and_punctuation_change_nothing(text: str) -> None:
    assert classifier().guess(text).intent == "opening_hours"
