"""Conversations with the local agent, in text: what the caller says, and a piece of what the agent answers."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from local_brain_support import GREETING, TextCall, faq

from engine.tools import TOOLS
from providers.pipeline.stages import Message

OWN_NUMBER = "+49 30 5550123"
TO_CONFIRMATION = (
    ("can i leave a message", "What is your name?"),
    ("sarah johnson", "Thank you, Sarah Johnson. What number"),
    ("five five five oh one two three", "What is it about?"),
    ("my bicycle is broken", "Your number is 555 0123. Your message is: My bicycle is broken. Is that right?"),
)

CONVERSATIONS = {
    "questions": (
        ("hello", "What can I do for you?"),
        ("what are your opening hours", "Monday to Friday"),
        ("where are you", "12 Green Street"),
        ("and what are your prices", "A flat tire costs $15"),
        ("thank you", "You are welcome"),
        ("bye", "Goodbye."),
    ),
    "two misses end in an offer that is taken": (
        ("purple elephants", "Sorry, I did not get that. You can ask me about our opening hours"),
        ("banana window", "Shall I take a message?"),
        ("yes please", "What is your name?"),
    ),
    "two misses end in an offer that is refused": (
        ("", "Sorry, I did not hear you. You can ask me about"),
        ("", "Shall I take a message?"),
        ("no thanks", "Is there anything else?"),
        ("where are you", "12 Green Street"),
    ),
    "misses that are not in a row": (
        ("purple elephants", "Sorry, I did not get that."),
        ("where are you", "12 Green Street"),
        ("purple elephants", "Sorry, I did not get that. You can ask me about"),
    ),
    "misses without an end": (
        ("", "Sorry, I did not hear you."),
        ("", "Shall I take a message?"),
        ("", "Please say yes or no."),
        ("", "Sorry, I did not hear you. You can ask me about"),
        ("", "Shall I take a message?"),
    ),
    "an offer cancelled": (
        ("a person please", "Shall I take a message"),
        ("cancel please", "Is there anything else?"),
        ("never mind", "Goodbye."),
    ),
    "a question instead of an answer to the offer": (
        ("can i speak to a person", "Shall I take a message"),
        ("where are you", "12 Green Street"),
    ),
    "a person": (
        ("a person please", "cannot put you through"),
        ("yes", "What is your name?"),
    ),
    "a repetition": (
        ("where are you", "12 Green Street"),
        ("say that again please", "I said: You find us at 12 Green Street"),
        ("pardon", "I said: You find us at 12 Green Street"),
    ),
    "the greeting repeated": (("what did you say", f"I said: {GREETING}"),),
    "a message": (*TO_CONFIRMATION, ("yes that is right", "Thank you.")),
    "a message whose number comes in breaths": (
        *TO_CONFIRMATION[:2],
        ("five five five", "I have 5 5 5. What comes next?"),
        ("oh one two three", "What is it about?"),
        ("my bicycle is broken", "Your number is 555 0123."),
    ),
    "a number started again": (
        *TO_CONFIRMATION[:2],
        ("five five five", "What comes next?"),
        ("no that is wrong", "once more from the start"),
        ("four four four oh one two three", "What is it about?"),
        ("my bicycle is broken", "Your number is 444 0123."),
    ),
    "too many figures": (
        *TO_CONFIRMATION[:2],
        (" ".join(["five"] * 20), "Please say it digit by digit."),
        ("five five five oh one two three", "What is it about?"),
    ),
    "questions in the middle": (
        *TO_CONFIRMATION[:1],
        ("what are your opening hours", "2 p.m. What is your name?"),
        ("sarah johnson", "What number"),
        ("where is your shop", "train station. What number can we call you back on?"),
        ("can i leave a message", "What number can we call you back on?"),
    ),
    "a repetition in the middle": (
        *TO_CONFIRMATION[:1],
        ("what did you say", "I said: Sure, I can take a message. What is your name?"),
        ("sarah johnson", "Thank you, Sarah Johnson."),
    ),
    "people named like questions": (
        *TO_CONFIRMATION[:1],
        ("grace price", "Thank you, Grace Price."),
    ),
    "a message cancelled at the name": (*TO_CONFIRMATION[:1], ("never mind", "What can I do for you?")),
    "a message cancelled at the number": (*TO_CONFIRMATION[:2], ("cancel that", "What can I do for you?")),
    "a message cancelled at the reason": (*TO_CONFIRMATION[:3], ("forget it", "What can I do for you?")),
    "a message cancelled at the end": (*TO_CONFIRMATION, ("i changed my mind", "What can I do for you?")),
    "a reason that speaks of cancelling": (
        *TO_CONFIRMATION[:3],
        ("i would like to cancel my appointment for tomorrow", "I would like to cancel my appointment"),
    ),
    "a reason that is a question": (
        *TO_CONFIRMATION[:3],
        ("i would like to know your prices", "Your message is: I would like to know your prices."),
    ),
    "a wrong name": (
        *TO_CONFIRMATION,
        ("no", "Which part is wrong"),
        ("the name", "What is your name?"),
        ("sarah jones", "Your name is Sarah Jones. Your number is 555 0123."),
    ),
    "a wrong number, said at once": (
        *TO_CONFIRMATION,
        ("no the number is wrong", "What number"),
        ("five five five nine nine nine nine", "Your number is 555 9999. Your message is: My bicycle is broken."),
    ),
    "a number corrected at once": (
        *TO_CONFIRMATION,
        ("no it is five five five nine nine nine nine", "Your number is 555 9999."),
    ),
    "a name corrected at once": (
        *TO_CONFIRMATION,
        ("no my name is sarah jones", "Your name is Sarah Jones. Your number is 555 0123."),
    ),
    "a wrong reason": (
        *TO_CONFIRMATION,
        ("no that is wrong", "Which part is wrong"),
        ("purple elephants", "Please say name, number or reason."),
        ("the reason", "What is it about?"),
        ("i have a flat tire", "Your message is: I have a flat tire. Is that right?"),
    ),
    "a confirmation not understood": (
        *TO_CONFIRMATION,
        ("purple elephants", "Is that right? Please say yes or no."),
        ("", "Is that right? Please say yes or no."),
        ("yes", "Thank you."),
    ),
    "a confirmation repeated": (
        *TO_CONFIRMATION,
        ("can you repeat that please", "I said: Let me read that back."),
        ("yes", "Thank you."),
    ),
    "a correction that sounds like a yes": (
        *TO_CONFIRMATION,
        ("correct the number please", "What number can we call you back on?"),
    ),
    "a goodbye that would lose the message": (
        *TO_CONFIRMATION,
        ("bye", "Before you go"),
        ("yes", "Thank you."),
    ),
    "a form that nobody can fill": (
        *TO_CONFIRMATION[:1],
        ("", "I did not get your name"),
        ("", "I did not get your name"),
        ("", "I cannot hear you well enough"),
        ("where are you", "12 Green Street"),
    ),
    "yes and no out of nowhere": (
        ("yes", "please ask"),
        ("no", "Is there anything else?"),
        ("no", "Goodbye."),
    ),
}


@pytest.mark.parametrize("lines", CONVERSATIONS.values(), ids=CONVERSATIONS.keys())
def test_a_conversation(lines: tuple[tuple[str, str], ...]) -> None:
    call = TextCall()
    for text, expected in lines:
        answer = call.says(text)
        assert expected in answer, f"{text!r} was answered {answer!r}"


def after(lines: tuple[tuple[str, str], ...], **context: object) -> TextCall:
    call = TextCall(**context)  # type: ignore[arg-type]
    for text, _ in lines:
        call.says(text)
    return call


# Messages and tools


def test_a_confirmed_message_is_handed_over_and_reported() -> None:
    call = after((*TO_CONFIRMATION, ("yes", "")))
    (request,) = call.requests
    assert request.name == "take_message"
    message = {"name": "Sarah Johnson", "number": "5550123", "reason": "My bicycle is broken"}
    assert json.loads(request.arguments) == message
    assert "has been taken" in call.tool_returned('{"status": "stored", "reference": "x"}')
    assert call.brain.expects == "yes_no"
    assert call.says("no thank you").endswith("Goodbye.")
    assert [request.name for request in call.requests] == ["take_message", "hangup_call"]


@pytest.mark.parametrize("output", ['{"error": "disk full"}', "no json", "[]", ""])
def test_a_message_that_was_not_stored_is_not_said_to_be(output: str) -> None:
    call = after((*TO_CONFIRMATION, ("yes", "")))
    assert "could not be stored" in call.tool_returned(output)


def test_a_caller_who_talks_while_the_message_is_stored_still_learns_how_it_went() -> None:
    call = after((*TO_CONFIRMATION, ("yes", "")))
    assert "One moment" in call.says("hello")
    assert len(call.requests) == 1
    request = call.requests[0]
    call.conversation.insert(-2, Message("tool", '{"status": "stored"}', request.call_id, request.name))
    call.conversation.append(Message("caller", "where are you"))
    del call.conversation[-2]
    text, _ = call.thought()
    assert "has been taken" in text
    assert "12 Green Street" in text


def test_a_message_whose_tool_never_answered_is_handed_over_again() -> None:
    call = after((*TO_CONFIRMATION, ("yes", ""), ("hello", ""), ("hello", "")))
    assert [request.name for request in call.requests] == ["take_message", "take_message"]
    assert call.requests[0].arguments == call.requests[1].arguments
    assert call.requests[0].call_id != call.requests[1].call_id


def test_nothing_is_stored_that_was_not_confirmed() -> None:
    call = after((*TO_CONFIRMATION, ("no", ""), ("never mind", ""), ("bye", "")))
    assert [request.name for request in call.requests] == ["hangup_call"]


def test_the_callers_own_number_is_offered_and_taken() -> None:
    call = after(TO_CONFIRMATION[:1], caller_number=OWN_NUMBER)
    assert "the number you are calling from?" in call.says("sarah johnson")
    assert call.brain.expects == "yes_no"
    assert "What is it about?" in call.says("yes please")
    assert "Your number is 493 055 501 23." in call.says("my bicycle is broken")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("no", "What number can we call you back on?"),
        ("no five five five oh one two three", "What is it about?"),
        ("purple elephants", "Please say yes or no."),
    ],
)
def test_the_callers_own_number_refused(answer: str, expected: str) -> None:
    call = after(TO_CONFIRMATION[:2], caller_number=OWN_NUMBER)
    assert expected in call.says(answer)


def test_tools_that_are_not_offered_are_not_asked_for() -> None:
    call = TextCall(tools=())
    assert "cannot take messages" in call.says("can i leave a message")
    assert "cannot take messages" in call.says("a person please")
    assert call.says("goodbye").endswith("Goodbye.")
    assert call.requests == []


def test_goodbye_hangs_up_after_the_farewell() -> None:
    call = TextCall()
    assert call.says("goodbye") == faq().intents["goodbye"].answer
    assert [request.name for request in call.requests] == ["hangup_call"]
    assert {request.name for request in call.requests} <= {tool.name for tool in TOOLS}


# What the recogniser is told, and when a turn is over


def test_each_question_tells_what_it_expects() -> None:
    call = TextCall()
    expectations = [call.brain.expects]
    for text, _ in (*TO_CONFIRMATION, ("yes", "")):
        call.says(text)
        expectations.append(call.brain.expects)
    assert expectations == [None, "name", "digits", None, "yes_no", None]


@pytest.mark.parametrize(
    ("lines", "text", "complete"),
    [
        (0, "what are your opening hours", True),
        (0, "what are your opening hours and", False),
        (0, "i would like to", False),
        (0, "purple elephants", False),
        (0, "yes", True),
        (0, "goodbye", True),
        (0, "", True),
        (1, "sarah johnson", True),
        (1, "sarah", False),
        (1, "my name is", False),
        (1, "never mind", True),
        (2, "five five five", False),
        (2, "five five five oh one two three four five six", True),
        (2, "my number is", False),
        (3, "my bicycle is broken", False),
        (4, "yes", True),
        (4, "no", False),
        (4, "no my name is", False),
    ],
)
def test_when_a_turn_is_over(lines: int, text: str, complete: bool) -> None:
    assert after(TO_CONFIRMATION[:lines]).brain.is_complete(text) is complete


# Conversations that do not go straight on


def test_a_reply_that_nobody_wanted_leaves_no_trace() -> None:
    call = after(TO_CONFIRMATION)
    call.conversation.append(Message("caller", "yes"))
    _, requests = call.thought()
    assert [request.name for request in requests] == ["take_message"]
    call.conversation[-1] = Message("caller", "no that is not right")
    text, requests = call.thought()
    assert "Which part is wrong" in text
    assert requests == []


def test_a_yes_to_a_question_of_the_engine_confirms_nothing() -> None:
    call = after(TO_CONFIRMATION)
    read_back = call.conversation.pop().content
    call.conversation.append(Message("agent", f"{read_back} Are you still there?"))
    answer = call.says("yes")
    assert answer.endswith("Is that right?")
    assert call.requests == []
    call.says("yes")
    assert [request.name for request in call.requests] == ["take_message"]


def test_asking_back_after_an_interruption_is_remembered() -> None:
    call = after((("where are you", ""),))
    call.conversation[-1] = Message("agent", "You find us at")
    assert call.says("").startswith("Sorry, I did not hear you.")
    call.conversation.pop()
    call.conversation.append(
        Message("agent", "You find us at Sorry, I did not hear you. You can ask me about our opening hours,")
    )
    assert "Shall I take a message?" in call.says("")


def test_an_interrupted_question_is_still_answered() -> None:
    call = after(TO_CONFIRMATION)
    read_back = call.conversation.pop().content
    call.conversation.append(Message("agent", read_back[:40]))
    assert call.says("yes") == "Thank you."


@given(
    st.lists(
        st.text(max_size=30)
        | st.sampled_from(
            [
                "can i leave a message",
                "sarah johnson",
                "five five five oh one two three",
                "yes",
                "no",
                "the number",
                "bye",
                "never mind",
                "a person please",
                "pardon",
                "where are you",
                "",
            ]
        ),
        max_size=12,
    ),
    st.sampled_from([(), TOOLS]),
)
@settings(max_examples=150, deadline=None)
def test_whatever_is_said_is_answered(texts: list[str], tools: tuple[()]) -> None:
    call = TextCall(tools=tools)
    for text in texts:
        call.brain.is_complete(text)
        assert call.says(text).strip()
        for request in call.requests:
            assert request.name in {tool.name for tool in tools}
            json.loads(request.arguments)
