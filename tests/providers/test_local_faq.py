"""The operator's file of questions and answers: what it may say, and what is told when it is wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from providers.local.faq import NEEDED, Action, FaqError, load_faq, parse_faq

SHIPPED = Path(__file__).parents[2] / "config" / "faq.yaml"


def written(**replaced: str) -> str:
    """A small file that is valid, with parts of it replaced."""
    examples = "[aa, bb, cc, dd]"
    needed = "".join(
        f"  {action.value}: {{does: {action.value}, examples: {examples}, answer: Fine.}}\n" for action in NEEDED
    )
    parts = {
        "variables": "variables: {business: Bikes, street: Green Street}\n",
        "intents": "intents:\n",
        "hours": f"  hours: {{topic: our hours, examples: {examples}, answer: 'Nine to six in {{street}}.'}}\n",
        "needed": needed,
    }
    return "".join((parts | replaced).values())


def problem_of(text: str) -> str:
    with pytest.raises(FaqError) as caught:
        parse_faq(text, "faq.yaml")
    return str(caught.value)


def test_a_small_file_is_enough() -> None:
    faq = parse_faq(written(), "faq.yaml")
    assert faq.business == "Bikes"
    assert faq.intents["hours"].answer == "Nine to six in Green Street."
    assert faq.topics == ("our hours",)
    assert faq.doing(Action.GOODBYE).answer == "Fine."


def test_the_shipped_file_is_filled_with_what_callers_say() -> None:
    faq = load_faq(SHIPPED)
    assert min(len(intent.examples) for intent in faq.intents.values()) >= 8
    assert faq.business in faq.doing(Action.GOODBYE).answer
    spoken = (*faq.phrases, *(intent.answer for intent in faq.intents.values()))
    assert not any(re.search(r"[{}]", text) for text in spoken)


def test_the_shipped_answers_are_short_enough_to_listen_to() -> None:
    for intent in load_faq(SHIPPED).intents.values():
        assert len(intent.answer.split()) <= 40, intent.name


def test_every_example_belongs_to_one_intent() -> None:
    phrases = [example for intent in load_faq(SHIPPED).intents.values() for example in intent.examples]
    assert len(phrases) == len(set(phrases))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "faq.yaml: expected the sections variables and intents"),
        ("- a", "faq.yaml: expected the sections variables and intents"),
        ("a: b: c", "faq.yaml:1: not valid YAML: mapping values are not allowed here"),
        ("a: 'b", "faq.yaml:1: not valid YAML: found unexpected end of stream"),
        ("a: 1\n---\nb: 2", "faq.yaml:2: not valid YAML: but found another document"),
        ("[" * 5000, "faq.yaml: not valid YAML: nested too deeply"),
        (written(variables=""), "faq.yaml: variables: is missing"),
        (
            written(variables="\nvariables: {name: Bikes}\n"),
            "faq.yaml:2: variables: the variable business is missing",
        ),
        (
            written(variables="variables: {business: 12}\n"),
            "faq.yaml:1: variables.business: expected text (in quotes if it looks like something else), got 12",
        ),
        (
            written(hours="  hours: {exmaples: [a, b, c, d], answer: x}\n"),
            "faq.yaml:3: intents.hours.examples: is missing",
        ),
        (
            written(hours="  hours: {examples: [a, b, c, d], answer: x, tpoic: y}\n"),
            "faq.yaml:3: intents.hours.tpoic: is not a known key; did you mean topic?",
        ),
        (
            written(hours="  hours: {examples: [a, b], answer: x}\n"),
            "faq.yaml:3: intents.hours.examples: expected at least 4 examples of what callers say",
        ),
        (
            written(hours="  hours:\n    examples:\n      - a\n      - no\n    answer: x\n"),
            "faq.yaml:6: intents.hours.examples.1: expected text (in quotes if it looks like something else), "
            "got False",
        ),
        (
            written(hours="  hours: {examples: [a, b, c, d], answer: '{stret}'}\n"),
            "faq.yaml:3: intents.hours.answer: there is no variable {stret}; did you mean street?",
        ),
        (
            written(hours="  hours: {examples: [a, b, c, d], answer: x, does: sing}\n"),
            "faq.yaml:3: intents.hours.does: 'sing' is nothing the agent can do; known: answer, take_message, "
            "offer_message, repeat, cancel, goodbye",
        ),
        (
            re.sub(r".*does: goodbye.*\n", "", written()),
            "faq.yaml:2: intents: one of them must have 'does: goodbye'",
        ),
    ],
)
def test_a_mistake_is_told_with_its_place(text: str, problem: str) -> None:
    assert problem_of(text) == problem


def test_a_file_that_contains_itself_is_refused() -> None:
    assert problem_of("variables: &v {business: *v}\nintents: {}\n").startswith("faq.yaml:1: variables.business")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FaqError, match=re.escape(f"{tmp_path / 'none.yaml'}: no such file")):
        load_faq(tmp_path / "none.yaml")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(FaqError, match="cannot be read"):
        load_faq(tmp_path)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "faq.yaml"
    path.write_bytes(b"variables: \xff")
    with pytest.raises(FaqError, match="not UTF-8 text"):
        load_faq(path)
