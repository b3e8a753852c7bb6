"""The dialogue as a pipeline's language model."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from dataclasses import asdict, replace

from providers.base import CallContext, Tool
from providers.local.dialogue import Dialogue, State, Turn
from providers.local.faq import Faq
from providers.local.intents import IntentClassifier
from providers.local.script import EXPECTS
from providers.pipeline.stages import Message, TextDelta, ToolRequest

TAKE_MESSAGE = "take_message"
HANGUP_CALL = "hangup_call"


class FaqBrain:
    """Talks in one call. Each reply follows from the whole conversation, which is gone through from its start:
    a reply that was cancelled, or made in advance and not wanted, leaves no trace."""

    def __init__(self, faq: Faq, classifier: IntentClassifier, context: CallContext) -> None:
        offered = {tool.name for tool in context.tools}
        self._dialogue = Dialogue(
            faq, classifier, caller_number=context.caller_number, takes_messages=TAKE_MESSAGE in offered
        )
        self._beginning = State(said=context.greeting)
        self._state = self._beginning

    @property
    def expects(self) -> str | None:
        return EXPECTS.get(self._state.step)

    def is_complete(self, text: str) -> bool:
        return self._dialogue.is_complete(self._state, text)

    async def reply(
        self, conversation: Sequence[Message], tools: Sequence[Tool]
    ) -> AsyncGenerator[TextDelta | ToolRequest, None]:
        turn = self._turn(conversation)
        self._state = turn.state
        yield TextDelta(turn.says)
        offered = {tool.name for tool in tools}
        call_id = f"{len(conversation)}"
        if turn.stores is not None and TAKE_MESSAGE in offered:
            message = asdict(turn.stores)
            del message["partial"]
            yield ToolRequest(f"{TAKE_MESSAGE}-{call_id}", TAKE_MESSAGE, json.dumps(message))
        if turn.hangs_up and HANGUP_CALL in offered:
            yield ToolRequest(f"{HANGUP_CALL}-{call_id}", HANGUP_CALL, "{}")

    def _turn(self, conversation: Sequence[Message]) -> Turn:
        """Goes through the conversation; the turn that its last caller or tool line leads to."""
        turn = Turn(self._beginning, self._beginning.said)
        reminded = False
        untold = ""  # how storing went, while the caller has not heard it
        for message in conversation:
            match message.role:
                case "caller":
                    hear = self._dialogue.reminded if reminded else self._dialogue.hear
                    turn = hear(turn.state, message.content)
                    if untold:
                        turn = replace(turn, says=f"{untold} {turn.says}")
                    reminded = False
                case "tool" if message.tool_name == TAKE_MESSAGE:
                    turn = self._dialogue.stored(turn.state, _succeeded(message.content))
                    untold = turn.says
                case "agent":
                    turn, reminded = self._spoken(turn, message.content)
                    untold = ""
                case _:
                    pass
        return turn

    def _spoken(self, turn: Turn, heard: str) -> tuple[Turn, bool]:
        """The agent spoke: ``turn``, perhaps cut short, and what followed it without a word of the caller.

        That is asking back after sounds without words, which are no lines of their own; the rest is the engine's
        (``Provider.say``). Returns the last turn, and whether the engine asked something after it.
        """
        own = next(
            (place for place, (one, other) in enumerate(zip(heard, turn.says, strict=False)) if one != other),
            len(turn.says),
        )
        rest = heard[own:].strip()
        while rest:
            asked_back = self._dialogue.hear(turn.state, "")
            if not rest.startswith(asked_back.says) and not asked_back.says.startswith(rest):
                return turn, rest.endswith("?")
            turn = asked_back
            rest = rest[len(asked_back.says) :].strip()
        return turn, False


def _succeeded(result: str) -> bool:
    try:
        outcome = json.loads(result)
    except ValueError:
        return False
    return isinstance(outcome, dict) and "error" not in outcome
