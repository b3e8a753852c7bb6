"""What an agent can do besides talking. One definition serves every provider."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from providers.base import Tool

Arguments = TypeVar("Arguments", bound=BaseModel)

HANGUP_CALL = "hangup_call"
TAKE_MESSAGE = "take_message"


class HangupArguments(BaseModel):
    model_config = ConfigDict(extra="forbid")


class MessageArguments(BaseModel):
    """A message that a caller leaves."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    name: str = Field(min_length=1, max_length=200, description="The caller's name, as they gave it.")
    number: str = Field(min_length=1, max_length=40, description="The telephone number to call back, digits only.")
    reason: str = Field(min_length=1, max_length=2000, description="What the call is about.")


def _tool(name: str, description: str, arguments: type[BaseModel]) -> Tool:
    schema = arguments.model_json_schema()
    parameters: dict[str, Any] = {"type": "object", "properties": schema.get("properties", {})}
    parameters |= {"required": schema.get("required", []), "additionalProperties": False}
    return Tool(name, description, parameters)


TOOLS: tuple[Tool, ...] = (
    _tool(
        HANGUP_CALL,
        "Ends the call politely. Say goodbye first; the call ends once the caller has heard it.",
        HangupArguments,
    ),
    _tool(
        TAKE_MESSAGE,
        "Stores a message for the people who run this line. Read it back and have it confirmed first.",
        MessageArguments,
    ),
)


@dataclass(slots=True, frozen=True)
class ToolContext:
    """What a tool may know and do of the call that it runs in."""

    call_id: str
    caller_number: str
    messages_dir: Path
    hang_up: Callable[[], None]
    """Ends the call after the agent's last words were heard."""


class ToolError(Exception):
    """A tool could not do it; the text is for the model to read."""


async def run_tool(name: str, arguments: str, context: ToolContext) -> str | None:
    """Runs a tool; returns what the model is told, or None if it is to say no more.

    Raises ToolError with a sentence for the model.
    """
    runner = _RUNNERS.get(name)
    if runner is None:
        raise ToolError(f"There is no tool called {name!r}; available: {', '.join(_RUNNERS)}.")
    return await runner(arguments, context)


async def _hangup_call(arguments: str, context: ToolContext) -> None:
    _parse(HangupArguments, arguments or "{}")
    context.hang_up()


async def _take_message(arguments: str, context: ToolContext) -> str:
    message = _parse(MessageArguments, arguments)
    record = {
        "call_id": context.call_id,
        "taken_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "caller_number": context.caller_number,
        **message.model_dump(),
    }
    try:
        path = await asyncio.to_thread(_store, context.messages_dir, context.call_id, record)
    except OSError as error:
        raise ToolError(f"The message could not be stored: {error.strerror}.") from error
    return json.dumps({"status": "stored", "reference": path.stem})


_RUNNERS: Mapping[str, Callable[[str, ToolContext], Awaitable[str | None]]] = {
    HANGUP_CALL: _hangup_call,
    TAKE_MESSAGE: _take_message,
}


def _parse(model: type[Arguments], text: str) -> Arguments:
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc'])) or 'arguments'}: {fault['msg']}" for fault in error.errors()
        )
        raise ToolError(f"The arguments are not valid: {faults}.") from error


def _store(folder: Path, call_id: str, record: Mapping[str, Any]) -> Path:
    """Writes a message so that it is either there whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    stem = f"{stamp}-{re.sub(r'[^A-Za-z0-9]+', '-', call_id)}"
    path = folder / f"{stem}.json"
    number = 1
    while path.exists():
        number += 1
        path = folder / f"{stem}-{number}.json"
    partial = path.with_suffix(".partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            json.dump(record, file, ensure_ascii=False, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)
    return path
