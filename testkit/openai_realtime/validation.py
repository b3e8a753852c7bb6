"""Holds messages against the official SDK's types, which by themselves let unknown keys pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin

from openai.types.realtime.realtime_client_event import RealtimeClientEvent
from openai.types.realtime.realtime_server_event import RealtimeServerEvent
from pydantic import BaseModel, ValidationError


def _models_by_type(union: Any) -> dict[str, type[BaseModel]]:
    members = get_args(get_args(union)[0] if get_origin(union) is Annotated else union)
    return {name: model for model in members for name in get_args(model.model_fields["type"].annotation)}


CLIENT_EVENTS = _models_by_type(RealtimeClientEvent)
SERVER_EVENTS = _models_by_type(RealtimeServerEvent)


def problems(models: dict[str, type[BaseModel]], kind: str, message: bytes) -> list[str]:
    """What is wrong with a message of type ``kind``; empty when nothing is."""
    model = models.get(kind)
    if model is None:
        return [f"{kind!r} is no type of event"]
    try:
        event = model.model_validate_json(message, strict=True)
    except ValidationError as error:
        return [f"{kind}: {'.'.join(str(part) for part in issue['loc'])}: {issue['msg']}" for issue in error.errors()]
    return [f"{kind}: {path}: unknown key" for path in _unknown_keys(event, "")]


def _unknown_keys(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, BaseModel):
        yield from (f"{path}{key}" for key in value.model_extra or ())
        for key in value.model_fields_set:
            yield from _unknown_keys(getattr(value, key), f"{path}{key}.")
    elif isinstance(value, list):
        for index, element in enumerate(value):
            yield from _unknown_keys(element, f"{path}{index}.")
