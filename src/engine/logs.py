"""One event, one line: structlog's and the standard library's loggers, through one renderer, without secrets.

``configure`` may be called again at any time. Loggers are cached on first use, so what they share
(processors, threshold, stream, secrets) is changed in place.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "console", "json"]

HIDDEN = "***"

QUIET_LOGGERS = ("aiohttp.access", "asyncio", "picows", "websockets")
"""Loggers of libraries that report every connection or frame below ``warning``."""

SHORTEST_SECRET = 4
"""To hide something shorter wherever it occurs would spoil the lines and still give it away."""

_LEVELS: Mapping[str, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_SECRET_NAME = re.compile(r"(?i)(^|[_-])(api[_-]?key|authorization|cookie|credentials?|passw(or)?d|secret|token)$")
_SECRET_IN_TEXT = re.compile(
    r"""(?ix)
    (?<=://) [^/\s@"']+ (?=@)               # user:password in a URL
    | (?<=api_key=) [^&\s"']+
    | (?<=\bbearer\s) [^\s"']+
    """
)


class Redactor:
    """Replaces the values of secret-looking names, and known secrets wherever they occur."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._pattern: re.Pattern[str] | None = None

    def hide(self, secrets: Iterable[str]) -> None:
        self._known |= {secret for secret in secrets if len(secret) >= SHORTEST_SECRET}
        longest_first = sorted(self._known, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def text(self, text: str) -> str:
        if self._pattern:
            text = self._pattern.sub(HIDDEN, text)
        return _SECRET_IN_TEXT.sub(HIDDEN, text)

    def value(self, name: str, value: Any) -> Any:
        """``value`` as something that a renderer shows as it is."""
        if value is None or value == "":
            return value
        if _SECRET_NAME.search(name):
            return HIDDEN
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, bool | int | float):
            return value
        if isinstance(value, Mapping):
            return {self.text(str(key)): self.value(str(key), inner) for key, inner in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self.value("", inner) for inner in value]
        return self.text(repr(value) if isinstance(value, BaseException) else str(value))

    def __call__(self, logger: WrappedLogger, method_name: str, event: EventDict) -> EventDict:
        return {name: self.value(name, value) for name, value in event.items()}


class Sink:
    """Where lines go. A reader that went away costs lines, counted, and never the caller of a logger."""

    def __init__(self) -> None:
        self.threshold = logging.INFO
        self.stream: TextIO | None = None
        """None: whatever standard error is at the time."""
        self.lost_lines = 0

    def write(self, text: str) -> None:
        stream = self.stream or sys.stderr
        try:
            stream.write(text)
            stream.flush()
        except (OSError, ValueError):
            self.lost_lines += 1


sink = Sink()
_redactor = Redactor()
_processors: list[Processor] = []


class LineLogger:
    """What structlog's bound loggers hand a rendered line to."""

    def __init__(self, name: str = "engine") -> None:
        self.name = name

    def msg(self, line: str) -> None:
        sink.write(line + "\n")

    debug = info = warning = error = critical = msg


class Logger(structlog.BoundLoggerBase):
    """A bound logger whose level can change at any time; a call below it is one comparison."""

    def debug(self, event: str, **context: Any) -> None:
        if sink.threshold <= logging.DEBUG:
            self._proxy_to_logger("debug", event, **context)

    def info(self, event: str, **context: Any) -> None:
        if sink.threshold <= logging.INFO:
            self._proxy_to_logger("info", event, **context)

    def warning(self, event: str, **context: Any) -> None:
        if sink.threshold <= logging.WARNING:
            self._proxy_to_logger("warning", event, **context)

    def error(self, event: str, **context: Any) -> None:
        self._proxy_to_logger("error", event, **context)

    def critical(self, event: str, **context: Any) -> None:
        self._proxy_to_logger("critical", event, **context)

    def exception(self, event: str, **context: Any) -> None:
        self._proxy_to_logger("error", event, **{"exc_info": True, **context})


def configure(
    level: Level = "info", style: Format = "auto", secrets: Iterable[str] = (), stream: TextIO | None = None
) -> None:
    """Sends structlog's events and the standard library's records to ``stream`` (None: standard error)."""
    sink.stream = stream
    hide(secrets)
    terminal = (stream or sys.stderr).isatty()
    console = style == "console" or (style == "auto" and terminal)
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.format_exc_info,
        _redactor,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        *(_console(terminal) if console else (_what_matters_first, structlog.processors.JSONRenderer())),
    ]
    _processors[:] = [structlog.stdlib.add_logger_name, *shared]
    structlog.configure(
        processors=_processors,
        wrapper_class=Logger,
        logger_factory=LineLogger,
        context_class=dict,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sink)
    first = (structlog.stdlib.add_logger_name, structlog.stdlib.ProcessorFormatter.remove_processors_meta)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processors=[*first, *shared]))
    logging.getLogger().handlers[:] = [handler]
    logging.captureWarnings(True)
    set_level(level)


def set_level(level: Level) -> None:
    """Changes what is written, from the next event on, for every logger there is."""
    sink.threshold = _LEVELS[level]
    logging.getLogger().setLevel(sink.threshold)
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(max(sink.threshold, logging.WARNING))


def hide(secrets: Iterable[str]) -> None:
    """Adds to the strings that are replaced wherever they occur in an event."""
    _redactor.hide(secrets)


def _what_matters_first(logger: WrappedLogger, method_name: str, event: EventDict) -> EventDict:
    return {name: event.pop(name) for name in ("timestamp", "level", "event") if name in event} | dict(event)


def _console(terminal: bool) -> tuple[Processor, Processor]:
    # structlog's own exception formatter would show local variables, and what is secret in them.
    plain = structlog.dev.plain_traceback
    return _printable, structlog.dev.ConsoleRenderer(colors=terminal, exception_formatter=plain)


def _printable(logger: WrappedLogger, method_name: str, event: EventDict) -> EventDict:
    """Keeps line ends and control codes, from a caller's name for instance, off the terminal."""
    return {
        name: _escaped(value) if isinstance(value, str) and name != "exception" else value
        for name, value in event.items()
    }


def _escaped(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
