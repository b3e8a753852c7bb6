"""The model is told what was said; of the agent, what was heard."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.pipeline.history import MAX_LINES, MS_PER_CHAR, History
from providers.pipeline.stages import Message

NOW = 50.0


def said(history: History, item_id: str, text: str, duration_ms: float = 1000, *, whole: bool = True) -> None:
    line = history.agent_says(item_id, text)
    if duration_ms:
        history.sounded(line, duration_ms, NOW)
    line.whole = whole


def texts(history: History) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in history.conversation()]


def test_a_conversation_in_order() -> None:
    history = History("Be kind.")
    said(history, "1", "Hello.")
    said(history, "2", "How are you?")
    history.caller_said("fine")
    history.tool_called("t1", "take_message")
    history.tool_answered("t1", '{"ok":true}')
    said(history, "3", "Done.")
    assert history.conversation() == [
        Message("system", "Be kind."),
        Message("agent", "Hello. How are you?"),
        Message("caller", "fine"),
        Message("tool", '{"ok":true}', "t1", "take_message"),
        Message("agent", "Done."),
    ]


def test_without_a_prompt_there_is_no_system_line() -> None:
    assert History("").conversation() == []


@pytest.mark.parametrize(
    ("heard_ms", "text"),
    [
        (0, None),
        (150, None),
        (300, "One"),
        (500, "One two"),
        (999, "One two three"),
        (1000, "One two three four."),
        (5000, "One two three four."),
    ],
)
def test_an_interrupted_item_is_cut_at_a_word(heard_ms: int, text: str | None) -> None:
    history = History("")
    said(history, "1", "One two three four.")
    history.cut("1", heard_ms, NOW)
    assert texts(history) == ([("agent", text)] if text else [])


def test_what_came_before_stays_and_what_came_after_goes() -> None:
    history = History("")
    for item_id in ("1", "2", "3"):
        said(history, item_id, f"This is item {item_id}.")
    history.cut("2", 0, NOW)
    assert texts(history) == [("agent", "This is item 1.")]


def test_an_item_that_is_still_being_made_is_cut_by_the_usual_speed() -> None:
    history = History("")
    text = "One two three four five six seven eight."
    said(history, "1", text, 500, whole=False)
    history.cut("1", 500, NOW)
    ((_, heard),) = texts(history)
    assert heard == "One two"
    assert len(heard) <= 500 / MS_PER_CHAR


def test_of_nothing_in_particular_what_had_the_time_to_be_heard_was_heard() -> None:
    history = History("")
    said(history, "1", "Earlier.", 1000)
    said(history, "2", "Later.", 1000)
    history.cut("", 0, NOW + 1.5)
    assert texts(history) == [("agent", "Earlier.")]


def test_what_was_heard_before_a_cut_stays_heard() -> None:
    history = History("")
    said(history, "1", "One two.")
    said(history, "2", "Three four.")
    history.cut("2", 600, NOW + 0.1)
    history.cut("", 0, NOW + 0.2)
    history.cut("clip:1", 900, NOW + 0.2)
    assert texts(history) == [("agent", "One two. Three")]


def test_an_item_without_sound_was_not_heard() -> None:
    history = History("")
    said(history, "1", "Silent.", 0)
    assert texts(history) == []


def test_tool_results_survive_an_interruption() -> None:
    history = History("")
    history.caller_said("book it")
    said(history, "1", "One moment.")
    history.tool_called("t1", "book")
    history.cut("1", 0, NOW)
    assert history.tool_answered("t1", "booked")
    assert texts(history) == [("caller", "book it"), ("tool", "booked")]


def test_an_unknown_tool_result_is_refused() -> None:
    assert not History("").tool_answered("t9", "x")


def test_words_after_an_unheard_reply_join_the_turn() -> None:
    history = History("")
    history.caller_said("I want")
    said(history, "1", "Yes?")
    history.cut("1", 0, NOW)
    history.caller_said("an appointment")
    assert texts(history) == [("caller", "I want an appointment")]


def test_unanswered() -> None:
    history = History("")
    assert not history.unanswered
    history.caller_said("hello")
    assert history.unanswered
    said(history, "1", "Hi.")
    assert not history.unanswered
    history.cut("1", 0, NOW)
    assert history.unanswered


def test_the_oldest_lines_are_forgotten() -> None:
    history = History("Be kind.")
    for number in range(MAX_LINES + 10):
        history.caller_said(str(number))
    prompt, caller = history.conversation()
    assert prompt.content == "Be kind."
    assert caller.content.split() == [str(number) for number in range(10, MAX_LINES + 10)]


@given(
    st.lists(st.text(alphabet="ab c", min_size=1, max_size=30), min_size=1, max_size=6),
    st.integers(0, 6),
    st.integers(-10, 3000),
)
def test_a_cut_keeps_a_beginning_of_what_was_said(said_texts: list[str], which: int, heard_ms: int) -> None:
    history = History("")
    for number, text in enumerate(said_texts):
        said(history, str(number), text)
    history.cut(str(which), heard_ms, NOW)
    heard = "".join(message.content for message in history.conversation()).replace(" ", "")
    assert "".join(said_texts).replace(" ", "").startswith(heard)
