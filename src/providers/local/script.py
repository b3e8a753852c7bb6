"""What the agent waits for, and the sentences that it has for it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto


class Step(Enum):
    """What the agent waits for."""

    OPEN = auto()
    OFFERED = auto()
    """Yes or no: shall it take a message?"""
    ANYTHING_ELSE = auto()
    NAME = auto()
    OWN_NUMBER = auto()
    """Yes or no: is the number that the caller calls from the one to call back?"""
    NUMBER = auto()
    REASON = auto()
    CONFIRM = auto()
    WHICH_PART = auto()
    STORING = auto()
    """The message was handed to the tool, whose result is awaited."""


EXPECTS: Mapping[Step, str] = {
    Step.OFFERED: "yes_no",
    Step.ANYTHING_ELSE: "yes_no",
    Step.NAME: "name",
    Step.OWN_NUMBER: "yes_no",
    Step.NUMBER: "digits",
    Step.CONFIRM: "yes_no",
}

QUESTIONS: Mapping[Step, str] = {
    Step.OPEN: "What can I do for you?",
    Step.OFFERED: "Shall I take a message?",
    Step.ANYTHING_ELSE: "Is there anything else?",
    Step.NAME: "What is your name?",
    Step.OWN_NUMBER: "Shall we call you back on the number you are calling from?",
    Step.NUMBER: "What number can we call you back on?",
    Step.REASON: "What is it about?",
    Step.WHICH_PART: "Which part is wrong: the name, the number, or the reason?",
}
AGAIN: Mapping[Step, str] = {
    Step.OFFERED: "Shall I take a message? Please say yes or no.",
    Step.ANYTHING_ELSE: "Is there anything else? Please say yes or no.",
    Step.NAME: "Sorry, I did not get your name. Please say it again, or spell it.",
    Step.OWN_NUMBER: "Shall we call you back on the number you are calling from? Please say yes or no.",
    Step.NUMBER: "Sorry, I did not get the number. Please say it digit by digit.",
    Step.REASON: "Sorry, I did not hear that. What is your message about?",
    Step.CONFIRM: "Is that right? Please say yes or no.",
    Step.WHICH_PART: "Sorry, which part is wrong? Please say name, number or reason.",
}

NOT_UNDERSTOOD = "Sorry, I did not get that."
NOT_HEARD = "Sorry, I did not hear you."
STILL_NOT_UNDERSTOOD = "I am sorry, I still did not get that."
GAVE_UP = "I am sorry, I cannot hear you well enough to take a message. Please call again."
ALL_RIGHT = "All right."
THANK_YOU = "Thank you."
GO_AHEAD = "Yes, please ask."
ONE_MOMENT = "One moment please, I am writing that down."
ONCE_MORE = "I will try that once more."
STORED = "Your message has been taken."
NOT_STORED = "I am sorry, your message could not be stored. Please call again later."
NO_MESSAGES = "I am sorry, I cannot take messages at the moment."
BEFORE_YOU_GO = "Before you go: is your message right? Please say yes or no."
START_AGAIN = "All right, once more from the start, please, digit by digit."
NOTHING_SAID = "I have not said anything yet."
READ_BACK = "Let me read that back."
READ_BACK_END = "Is that right?"

SENTENCES = (
    *QUESTIONS.values(),
    *AGAIN.values(),
    NOT_UNDERSTOOD,
    NOT_HEARD,
    STILL_NOT_UNDERSTOOD,
    GAVE_UP,
    ALL_RIGHT,
    THANK_YOU,
    GO_AHEAD,
    ONE_MOMENT,
    ONCE_MORE,
    STORED,
    NOT_STORED,
    NO_MESSAGES,
    BEFORE_YOU_GO,
    START_AGAIN,
    NOTHING_SAID,
    READ_BACK,
    READ_BACK_END,
)
"""All of the above, to be spoken in advance."""

HEARD = (
    "the name is wrong",
    "the number is wrong",
    "the reason is wrong",
    "the message is wrong",
    "my name is wrong",
    "that is the wrong number",
    "that is the wrong name",
    "the name",
    "the number",
    "the reason",
    "yes please call me back on this number",
    "this number please",
    "no another number",
    "it is about a repair",
    "i am calling about",
    "that is my name",
    "cancel the message please",
)
"""What callers answer to them, for the recogniser to expect."""


def can_be_asked(topics: tuple[str, ...]) -> str:
    """What the agent can be asked about, in a sentence."""
    if not topics:
        return QUESTIONS[Step.OPEN]
    named = topics[0] if len(topics) == 1 else f"{', '.join(topics[:-1])} or {topics[-1]}"
    return f"You can ask me about {named}."
