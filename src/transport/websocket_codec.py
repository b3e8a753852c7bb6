"""What Asterisk's chan_websocket and an application say to each other in text, as JSON and without a socket.

Sound travels beside it in binary messages, raw and without a header.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

MAX_COMMAND_BYTES = 128
"""Asterisk ignores longer commands."""
MAX_EVENT_BYTES = 16_384
"""The longest event, MEDIA_START, names the channel's variables: some hundred bytes."""

FLUSH_MEDIA = b'{"command":"FLUSH_MEDIA"}'
"""Drops the queue and the marks in it; does not undo PAUSE_MEDIA."""
PAUSE_MEDIA = b'{"command":"PAUSE_MEDIA"}'
CONTINUE_MEDIA = b'{"command":"CONTINUE_MEDIA"}'


def mark_media(correlation_id: str) -> bytes:
    """Asks for ``MarkProcessed`` when all sound before it has been played. Raises ValueError for a long id."""
    command = orjson.dumps({"command": "MARK_MEDIA", "correlation_id": correlation_id})
    if len(command) > MAX_COMMAND_BYTES:
        raise ValueError(f"a command of {len(command)} bytes, {MAX_COMMAND_BYTES} are possible")
    return command


@dataclass(slots=True, frozen=True)
class MediaStarted:
    """The first event: how sound goes over this connection, both ways."""

    format: str
    """Asterisk's name, as ``ulaw`` or ``slin16``."""
    frame_bytes: int
    """What sound to Asterisk comes in multiples of; 0 where it would not be queued there."""


@dataclass(slots=True, frozen=True)
class MarkProcessed:
    correlation_id: str


@dataclass(slots=True, frozen=True)
class DigitEnded:
    digit: str


@dataclass(slots=True, frozen=True)
class QueueFilled:
    """MEDIA_XOFF: Asterisk's queue holds 900 frames; from 1000 on it discards what comes."""


@dataclass(slots=True, frozen=True)
class QueueRelieved:
    """MEDIA_XON: the queue holds less than 800 frames again."""


@dataclass(slots=True, frozen=True)
class CommandRefused:
    """Asterisk did not understand a command of ours."""

    text: str


@dataclass(slots=True, frozen=True)
class UnknownEvent:
    """An event that nothing here acts upon."""

    name: str


@dataclass(slots=True, frozen=True)
class Unreadable:
    """A text that is no event; ``fault`` names what is wrong with it."""

    fault: str


ControlEvent = (
    MediaStarted | MarkProcessed | DigitEnded | QueueFilled | QueueRelieved | CommandRefused | UnknownEvent | Unreadable
)

_XOFF = QueueFilled()
_XON = QueueRelieved()


def parse_event(text: bytes | bytearray | memoryview) -> ControlEvent:
    """One text message as an event; never raises."""
    if len(text) > MAX_EVENT_BYTES:
        return Unreadable(f"{len(text)} bytes, expected at most {MAX_EVENT_BYTES}")
    try:
        message = orjson.loads(text)
    except orjson.JSONDecodeError:
        return Unreadable("not JSON")
    if not isinstance(message, dict):
        return Unreadable("not a JSON object")
    try:
        return _event(message)
    except _FieldError as error:
        return Unreadable(str(error))


class _FieldError(ValueError):
    pass


def _event(message: dict[str, Any]) -> ControlEvent:
    name = _text(message, "event")
    match name:
        case "MEDIA_MARK_PROCESSED":
            return MarkProcessed(_text(message, "correlation_id"))
        case "MEDIA_XOFF":
            return _XOFF
        case "MEDIA_XON":
            return _XON
        case "DTMF_END":
            digit = _text(message, "digit")
            if len(digit) != 1:
                raise _FieldError(f"digit: {digit[:20]!r}")
            return DigitEnded(digit)
        case "MEDIA_START":
            return MediaStarted(_text(message, "format"), _count(message, "optimal_frame_size"))
        case "ERROR":
            return CommandRefused(_text(message, "error_text"))
        case _:
            return UnknownEvent(name)


def _text(message: dict[str, Any], field: str) -> str:
    value = message.get(field)
    if not isinstance(value, str):
        raise _FieldError(f"{field}: not a text")
    return value


def _count(message: dict[str, Any], field: str) -> int:
    value = message.get(field)
    # To Python, true is a 1.
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise _FieldError(f"{field}: not a count")
    return value
