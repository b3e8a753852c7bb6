"""What was said in one call, as the model is told it: of the agent, only what the caller heard."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from providers.pipeline.stages import Message

MAX_LINES = 400
"""The oldest are forgotten beyond this."""
MS_PER_CHAR = 65
"""About how long a voice takes, for a clause of which not all sound is there yet."""


@dataclass(slots=True)
class AgentLine:
    """One item: a clause, and how much sound of it was handed over."""

    item_id: str
    text: str
    made_ms: float = 0.0
    whole: bool = False
    """All of its sound was handed over."""
    heard_by: float = 0.0
    """When its sound so far must be over, if nothing held it."""


@dataclass(slots=True, frozen=True)
class _CallerLine:
    text: str


@dataclass(slots=True)
class _ToolLine:
    call_id: str
    name: str
    output: str | None = None


class History:
    """Times are seconds on any steady clock."""

    def __init__(self, prompt: str) -> None:
        self._prompt = prompt
        self._lines: deque[AgentLine | _CallerLine | _ToolLine] = deque(maxlen=MAX_LINES)
        self._busy_until = 0.0
        """When the sound handed over so far must be over, if nothing held it."""

    def caller_said(self, text: str) -> None:
        self._lines.append(_CallerLine(text))

    def agent_says(self, item_id: str, text: str) -> AgentLine:
        line = AgentLine(item_id, text)
        self._lines.append(line)
        return line

    def sounded(self, line: AgentLine, duration_ms: float, now: float) -> None:
        """So much more of an item's sound was handed over."""
        line.made_ms += duration_ms
        self._busy_until = line.heard_by = max(self._busy_until, now) + duration_ms / 1000

    def tool_called(self, call_id: str, name: str) -> None:
        self._lines.append(_ToolLine(call_id, name))

    @property
    def unanswered(self) -> bool:
        """Somebody said something, or a tool gave its result, after what the caller heard last."""
        for line in reversed(self._lines):
            if not isinstance(line, AgentLine):
                return True
            if line.made_ms:
                return False
        return False

    def tool_answered(self, call_id: str, output: str) -> bool:
        """Keeps a result, whatever became of the reply that asked for it; False when nothing asked for it."""
        for line in reversed(self._lines):
            if isinstance(line, _ToolLine) and line.call_id == call_id:
                line.output = output
                return True
        return False

    def cut(self, item_id: str, heard_ms: float, now: float) -> None:
        """The caller heard so much of an item, and nothing of what came after it.

        For an item that is none of ours, what can have been heard by ``now`` counts as heard.
        """
        self._busy_until = now
        lines = list(self._lines)
        ids = [line.item_id if isinstance(line, AgentLine) else None for line in lines]
        cut_at = ids.index(item_id) if item_id and item_id in ids else None
        self._lines.clear()
        for index, line in enumerate(lines):
            if isinstance(line, AgentLine):
                if cut_at is None:
                    if not line.made_ms or line.heard_by > now:
                        continue
                elif index > cut_at:
                    continue
                elif index == cut_at:
                    line.text = _heard_text(line, heard_ms)
                    line.made_ms, line.whole = heard_ms, True
                    if not line.text:
                        continue
                line.heard_by = min(line.heard_by, now)
            self._lines.append(line)

    def conversation(self) -> list[Message]:
        """Lines of one speaker that follow each other are one message."""
        messages = [Message("system", self._prompt)] if self._prompt else []
        for line in self._lines:
            match line:
                case AgentLine(text=text, made_ms=made_ms):
                    if made_ms:
                        _append(messages, Message("agent", text))
                case _CallerLine(text=text):
                    _append(messages, Message("caller", text))
                case _ToolLine(output=None):
                    pass
                case _ToolLine(call_id=call_id, name=name, output=str(output)):
                    messages.append(Message("tool", output, call_id, name))
        return messages


def _append(messages: list[Message], message: Message) -> None:
    if messages and messages[-1].role == message.role:
        message = Message(message.role, f"{messages[-1].content} {message.content}")
        messages.pop()
    messages.append(message)


def _heard_text(line: AgentLine, heard_ms: float) -> str:
    """The words that were heard to their end, by proportion."""
    all_ms = line.made_ms if line.whole else max(line.made_ms, len(line.text) * MS_PER_CHAR)
    if not all_ms:
        return ""
    chars = int(len(line.text) * max(0.0, heard_ms) / all_ms)
    if chars >= len(line.text):
        return line.text
    heard = line.text[: chars + 1]
    return heard[: heard.rfind(" ")].rstrip() if " " in heard else ""
