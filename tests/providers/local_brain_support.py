"""One trained brain for all tests of the local agent, and a call with it in text."""

from __future__ import annotations

import asyncio
from functools import cache
from pathlib import Path

from engine.tools import TOOLS
from providers.base import CallContext, Tool
from providers.local.brain import FaqBrain
from providers.local.faq import Faq, load_faq
from providers.local.intents import IntentClassifier
from providers.pipeline.stages import Message, TextDelta, ToolRequest

FAQ_FILE = Path(__file__).parents[2] / "config" / "faq.yaml"
GREETING = "Hello, this is the automatic assistant. How can I help you?"


@cache
def faq() -> Faq:
    return load_faq(FAQ_FILE)


@cache
def classifier() -> IntentClassifier:
    return IntentClassifier({intent.name: intent.examples for intent in faq().intents.values()})


class TextCall:
    """A caller who types: says lines, keeps the conversation as a pipeline does."""

    def __init__(self, *, caller_number: str = "", tools: tuple[Tool, ...] = TOOLS) -> None:
        context = CallContext("call-1", GREETING, "", caller_number=caller_number, tools=tools)
        self.brain = FaqBrain(faq(), classifier(), context)
        self.tools = tools
        self.conversation = [Message("agent", GREETING)]
        self.requests: list[ToolRequest] = []

    def says(self, text: str) -> str:
        """The caller says it; what the agent answers. A sound without words is no line of the conversation."""
        self.conversation.append(Message("caller", text))
        answer = self.answer()
        if not text:
            del self.conversation[-2]
            self._merge()
        return answer

    def tool_returned(self, output: str) -> str:
        request = self.requests[-1]
        self.conversation.append(Message("tool", output, request.call_id, request.name))
        return self.answer()

    def answer(self) -> str:
        """What the agent says to the conversation; it was all heard."""
        text, requests = self.thought()
        self.conversation.append(Message("agent", text))
        self.requests += requests
        return text

    def _merge(self) -> None:
        """Makes the last two lines one if the agent said both."""
        before, last = self.conversation[-2:]
        if before.role == last.role:
            self.conversation[-2:] = [Message(last.role, f"{before.content} {last.content}")]

    def thought(self) -> tuple[str, list[ToolRequest]]:
        """What the agent would say now; nobody hears it."""

        async def collected() -> list[TextDelta | ToolRequest]:
            return [piece async for piece in self.brain.reply(self.conversation, self.tools)]

        pieces = asyncio.run(collected())
        text = "".join(piece.text for piece in pieces if isinstance(piece, TextDelta))
        return text, [piece for piece in pieces if isinstance(piece, ToolRequest)]
