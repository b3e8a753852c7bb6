"""Reading what the Realtime API sends: one JSON object per message, checked field by field as used."""

from __future__ import annotations

from binascii import a2b_base64
from typing import Any

import orjson

Event = dict[str, Any]

UNUSED = frozenset(
    {
        "session.created",
        "conversation.created",
        "conversation.item.done",
        "conversation.item.deleted",
        "conversation.item.retrieved",
        "conversation.item.truncated",
        "conversation.item.input_audio_transcription.segment",
        "input_audio_buffer.cleared",
        "input_audio_buffer.timeout_triggered",
        "response.content_part.added",
        "response.content_part.done",
        "response.function_call_arguments.delta",
        "rate_limits.updated",
    }
)
"""Types of events that tell this session nothing it needs."""


class MalformedEventError(ValueError):
    """A message that is no event, or an event without what its type promises; the text names the field."""


def parse(message: bytes | memoryview) -> tuple[str, Event]:
    """The type of an event and the event. Raises ``MalformedEventError``."""
    try:
        event = orjson.loads(message)
    except orjson.JSONDecodeError as error:
        raise MalformedEventError(f"not JSON: {error}") from error
    if type(event) is not dict:
        raise MalformedEventError("not an object")
    return text(event, "type"), event


def text(event: Event, key: str) -> str:
    value = event.get(key)
    if type(value) is not str:
        raise MalformedEventError(f"{key}: {type(value).__name__} instead of a string")
    return value


def optional_text(event: Event, key: str) -> str:
    """The string, or an empty one where the event has none."""
    return text(event, key) if event.get(key) is not None else ""


def mapping(event: Event, key: str) -> Event:
    value = event.get(key)
    if type(value) is not dict:
        raise MalformedEventError(f"{key}: {type(value).__name__} instead of an object")
    return value


def optional_mapping(event: Event, key: str) -> Event:
    """The object, or an empty one where the event has none."""
    return mapping(event, key) if event.get(key) is not None else {}


def objects(event: Event, key: str) -> list[Event]:
    """The objects of a list that may be missing."""
    value = event.get(key) or []
    if type(value) is not list or not all(type(element) is dict for element in value):
        raise MalformedEventError(f"{key}: not a list of objects")
    return value


def audio(event: Event, key: str) -> bytes:
    """Decoded base64."""
    encoded = text(event, key)
    try:
        return a2b_base64(encoded, strict_mode=True)
    except ValueError as error:
        raise MalformedEventError(f"{key}: {error}") from error
