"""The callers of the speech tests: what they say, and their voices over the telephone."""

from __future__ import annotations

from functools import cache

from audio.convert import converter
from audio.formats import SLIN_8K, ULAW_8K
from providers.local.speech.flite import Flite
from providers.local.speech.voice import Voice

VOICES = ("rms", "awb", "kal")
"""Voices that are not the agent's."""
PAUSE_FRAMES = 15

FAQ = (
    "what are your opening hours",
    "when do you open",
    "when do you close",
    "are you open on sunday",
    "are you open on the weekend",
    "how late are you open today",
    "where are you",
    "what is your address",
    "where are you located",
    "how do i get to you",
    "is there parking",
    "where can i park my car",
    "how much does it cost",
    "what are your prices",
    "how much is a repair",
    "do you have a price list",
    "how much do you charge",
    "can i pay by card",
    "do you take credit cards",
    "do you accept cash",
    "i would like to talk to a person",
    "can i speak to somebody please",
    "put me through to a human",
    "i want to talk to an agent",
    "may i speak with the manager",
    "i would like to make an appointment",
    "can i book a time",
    "do i need an appointment",
    "i want to cancel my appointment",
    "can i change my booking",
    "how long does a repair take",
    "is my bike ready",
    "when can i pick up my order",
    "do you deliver",
    "how much is the delivery",
    "do you sell electric bikes",
    "do you rent bikes",
    "can i bring it back",
    "what is your return policy",
    "do you have a website",
    "what is your email address",
    "what is your phone number",
    "i would like to leave a message",
    "can i leave a message",
    "please call me back",
    "thank you goodbye",
    "bye bye",
    "that is all thank you",
    "no thank you that was all",
    "can you repeat that",
    "i did not understand",
    "who are you",
    "are you a robot",
    "do you speak spanish",
    "i have a complaint",
)
"""The phrases that the language model is made of."""

PARAPHRASES = (
    "what time do you open on sunday",
    "how late are you open on the weekend",
    "could you tell me your address please",
    "where can i park",
    "how much is it to rent a bike",
    "can i talk to a human please",
    "i need to speak to somebody",
    "i would like to book an appointment",
    "what does a repair cost",
    "do you take cash or card",
    "hello are you open today",
    "could i leave a message for the manager",
)
"""Sentences that are not in the language model word for word."""

YES_NO = {
    "yes": "yes",
    "yeah": "yes",
    "yes please": "yes",
    "that is right": "yes",
    "correct": "yes",
    "sure": "yes",
    "yes that is correct": "yes",
    "okay": "yes",
    "no": "no",
    "nope": "no",
    "no thank you": "no",
    "no that is wrong": "no",
    "not really": "no",
    "no it is not": "no",
    "wrong": "no",
}

DIGITS = (
    "five five five oh one two three",
    "five five five zero one nine nine",
    "two one two five five five seven eight nine zero",
    "four one five double six seven three",
    "eight hundred",
    "nine one one",
    "oh seven nine double four three two one six",
    "six seventy five thirty one",
    "one eight hundred five five five twelve twelve",
    "three three three twenty two forty four",
)

TIMES = (
    "tomorrow at nine thirty",
    "on monday morning",
    "at half past two",
    "friday at three o'clock",
    "the third of march",
    "june twenty first",
    "quarter past ten",
    "wednesday afternoon",
    "next tuesday at four p m",
    "in the evening",
)

NAMES = (
    "my name is sarah johnson",
    "john smith",
    "this is david miller",
    "maria garcia",
    "it's emily clark",
    "robert taylor",
    "my name is michael brown",
    "jennifer lopez",
    "i am thomas wright",
    "helen murphy",
)


@cache
def _voice(name: str) -> Voice:
    return Voice(Flite(name), name)


@cache
def said(text: str, voice: str) -> tuple[bytes, ...]:
    """μ-law frames of a caller who says ``text``, with silence before and after."""
    samples = bytearray()

    def keep(more: bytes) -> bool:
        samples.extend(more)
        return True

    _voice(voice).speak(text, keep)
    sound = converter(SLIN_8K, ULAW_8K)(bytes(samples))
    size, silence = ULAW_8K.frame_bytes, ULAW_8K.silent_frame
    frames = [sound[at : at + size].ljust(size, silence[:1]) for at in range(0, len(sound), size)]
    return (*[silence] * PAUSE_FRAMES, *frames, *[silence] * PAUSE_FRAMES)


def word_errors(said: str, heard: str) -> int:
    """Words that were missed, made up or mistaken (edit distance)."""
    before = list(range(len(heard.split()) + 1))
    for nth, word in enumerate(said.split(), 1):
        row = [nth]
        for at, other in enumerate(heard.split(), 1):
            row.append(min(before[at] + 1, row[-1] + 1, before[at - 1] + (word != other)))
        before = row
    return before[-1]
