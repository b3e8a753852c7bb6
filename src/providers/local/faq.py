"""What the agent knows: an operator's YAML file of questions, answers and what to do."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
KeyPath = tuple[str | int, ...]

FEWEST_EXAMPLES = 4
_VARIABLE = re.compile(r"\{([^{}]*)\}")


class FaqError(Exception):
    """The file cannot be used. The message names the file, and the line and the key where there is one."""


class Action(StrEnum):
    """What an intent makes the agent do, besides saying its answer."""

    ANSWER = "answer"
    TAKE_MESSAGE = "take_message"
    OFFER_MESSAGE = "offer_message"
    REPEAT = "repeat"
    CANCEL = "cancel"
    GOODBYE = "goodbye"


NEEDED = (Action.TAKE_MESSAGE, Action.OFFER_MESSAGE, Action.REPEAT, Action.CANCEL, Action.GOODBYE)
"""What no conversation goes well without."""


@dataclass(slots=True, frozen=True)
class Intent:
    name: str
    examples: tuple[str, ...]
    answer: str
    action: Action
    topic: str
    """How it is named among what the agent can be asked about; empty: it is not."""


@dataclass(slots=True, frozen=True)
class Faq:
    business: str
    intents: Mapping[str, Intent]
    also_heard: tuple[str, ...] = ()

    @property
    def phrases(self) -> tuple[str, ...]:
        """What callers are expected to say."""
        asked = tuple(example for intent in self.intents.values() for example in intent.examples)
        return asked + self.also_heard

    @property
    def topics(self) -> tuple[str, ...]:
        return tuple(intent.topic for intent in self.intents.values() if intent.topic)

    def doing(self, action: Action) -> Intent:
        """The first intent with an action that every file must have."""
        return next(intent for intent in self.intents.values() if intent.action is action)


class _IntentSection(BaseModel):
    model_config = ConfigDict(extra="forbid")

    examples: list[Text] = Field(min_length=FEWEST_EXAMPLES)
    answer: Text
    does: Action = Action.ANSWER
    topic: Text | None = None


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    variables: dict[str, Text] = Field(min_length=1)
    intents: dict[str, _IntentSection] = Field(min_length=1)
    also_heard: list[Text] = []


def load_faq(path: Path) -> Faq:
    """Reads the file. Raises FaqError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise FaqError(f"{path}: no such file") from None
    except OSError as error:
        raise FaqError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise FaqError(f"{path}: not UTF-8 text (byte 0x{error.object[error.start]:02x})") from None
    return parse_faq(text, str(path))


def parse_faq(text: str, name: str) -> Faq:
    """Makes a Faq of YAML text that errors call ``name``. Raises FaqError."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise FaqError(f"{name}{line}: not valid YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise FaqError(f"{name}: not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise FaqError(f"{name}: not valid YAML: nested too deeply") from None
    if not isinstance(root, yaml.MappingNode):
        raise FaqError(f"{name}: expected the sections variables and intents")
    lines = dict(_lines(root, (), ()))
    try:
        file = _File.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        raise _fault(name, lines, first["loc"], _explained(first)) from None
    return _checked(file, name, lines)


def _checked(file: _File, name: str, lines: Mapping[KeyPath, int]) -> Faq:
    if "business" not in file.variables:
        raise _fault(name, lines, ("variables",), "the variable business is missing")
    intents = {}
    for key, section in file.intents.items():

        def filled(text: str, *place: str | int, key: str = key) -> str:
            for variable in _VARIABLE.findall(text):
                if variable not in file.variables:
                    known = _hint(variable, file.variables)
                    raise _fault(name, lines, ("intents", key, *place), f"there is no variable {{{variable}}}; {known}")
            return " ".join(_VARIABLE.sub(lambda found: file.variables[found[1]], text).split())

        intents[key] = Intent(
            name=key,
            examples=tuple(filled(text, "examples", index) for index, text in enumerate(section.examples)),
            answer=filled(section.answer, "answer"),
            action=section.does,
            topic=filled(section.topic, "topic") if section.topic else "",
        )
    for action in NEEDED:
        if not any(intent.action is action for intent in intents.values()):
            raise _fault(name, lines, ("intents",), f"one of them must have 'does: {action}'")
    return Faq(file.variables["business"], intents, tuple(file.also_heard))


def _lines(node: yaml.Node, path: KeyPath, inside: tuple[yaml.Node, ...]) -> Iterator[tuple[KeyPath, int]]:
    if node in inside:
        return
    if isinstance(node, yaml.MappingNode):
        for key, child in node.value:
            yield (*path, str(key.value)), key.start_mark.line + 1
            yield from _lines(child, (*path, str(key.value)), (*inside, node))
    elif isinstance(node, yaml.SequenceNode):
        for index, child in enumerate(node.value):
            yield (*path, index), child.start_mark.line + 1
            yield from _lines(child, (*path, index), (*inside, node))


def _fault(name: str, lines: Mapping[KeyPath, int], path: KeyPath, problem: str) -> FaqError:
    stands = path
    while stands and stands not in lines:
        stands = stands[:-1]
    line = f":{lines[stands]}" if stands else ""
    return FaqError(f"{name}{line}: {'.'.join(map(str, path)) or 'the file'}: {problem}")


def _explained(error: Any) -> str:
    path, kind = error["loc"], error["type"]
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        known = _IntentSection.model_fields if len(path) > 1 else _File.model_fields
        return f"is not a known key; {_hint(str(path[-1]), known)}"
    if kind == "string_type":
        return f"expected text (in quotes if it looks like something else), got {error['input']!r}"
    if kind == "too_short" and path[-1] == "examples":
        return f"expected at least {FEWEST_EXAMPLES} examples of what callers say"
    if kind == "enum":
        return f"{error['input']!r} is nothing the agent can do; {_hint(str(error['input']), list(Action))}"
    message: str = error["msg"]
    return message[:1].lower() + message[1:]


def _hint(word: str, known: Any) -> str:
    near = difflib.get_close_matches(word, [str(key) for key in known], n=1)
    return f"did you mean {near[0]}?" if near else f"known: {', '.join(map(str, known))}"
