"""What is written when something is logged, and what never is."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from engine import logs


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, configuration = root.handlers[:], root.level, structlog.get_config()
    structlog.contextvars.clear_contextvars()
    yield
    structlog.contextvars.clear_contextvars()
    logs.set_level("info")
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**configuration)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def events(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def json_log(level: logs.Level = "info", *secrets: str) -> io.StringIO:
    stream = io.StringIO()
    logs.configure(level, "json", secrets, stream)
    return stream


# One event, one line


def test_an_event_is_a_json_line_with_what_matters_first() -> None:
    stream = json_log()
    structlog.get_logger("engine.call").warning("frame_dropped", count=3, where=Path("a/b"), gap=None)
    (event,) = events(stream)
    assert list(event)[:3] == ["timestamp", "level", "event"]
    when = datetime.fromisoformat(event.pop("timestamp"))
    assert when.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - when) < timedelta(minutes=1)
    assert event == {
        "level": "warning",
        "event": "frame_dropped",
        "logger": "engine.call",
        "count": 3,
        "where": "a/b",
        "gap": None,
    }


def test_records_of_the_standard_library_look_the_same() -> None:
    stream = json_log()
    logging.getLogger("some.library").warning("lost %d of %s", 2, "five")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old habit", stacklevel=1)
    record, warning = events(stream)
    assert record["timestamp"]
    assert (record["level"], record["event"], record["logger"]) == (
        "warning",
        "lost 2 of five",
        "some.library",
    )
    assert "old habit" in warning["event"]


def test_an_exception_stays_within_its_line() -> None:
    stream = json_log()
    try:
        raise ValueError("two\nlines")
    except ValueError as error:
        structlog.get_logger("a").exception("call_failed")
        logging.getLogger("b").exception("library failed")
        structlog.get_logger("c").warning("retried", error=error)
    ours, theirs, retried = events(stream)
    for event in (ours, theirs):
        assert event["level"] == "error"
        assert event["exception"].startswith("Traceback")
        assert event["exception"].endswith("ValueError: two\nlines")
    assert retried["error"] == "ValueError('two\\nlines')"


@given(st.text() | st.characters(categories=["Cc", "Cs", "Zl", "Zp"]))
def test_whatever_a_caller_is_called_an_event_is_one_line(name: str) -> None:
    for style in ("json", "console"):
        stream = io.StringIO()
        logs.configure("info", style, (), stream)  # type: ignore[arg-type]
        structlog.get_logger("fresh").info("call_started", caller=name)
        logging.getLogger("fresh").info("call from %s", name)
        lines = stream.getvalue().split("\n")
        assert len(lines) == 3
        assert all(line.isprintable() for line in lines)


def test_the_call_id_that_a_task_is_bound_to_is_in_its_events_only() -> None:
    stream = json_log()
    log = structlog.get_logger("engine.call")

    async def call(call_id: str) -> None:
        structlog.contextvars.bind_contextvars(call_id=call_id)
        await asyncio.sleep(0)
        log.info("call_ended")
        logging.getLogger("library").info("too")

    async def calls() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(call("one"))
            tasks.create_task(call("two"))
        log.info("engine_stopped")

    asyncio.run(calls())
    assert [event.get("call_id") for event in events(stream)] == ["one", "one", "two", "two", None]


# How it looks


def test_lines_are_for_people_on_a_terminal_and_for_machines_elsewhere() -> None:
    terminal, pipe, forced = Terminal(), io.StringIO(), io.StringIO()
    for style, stream in (("auto", terminal), ("auto", pipe), ("console", forced)):
        logs.configure("info", style, (), stream)  # type: ignore[arg-type]
        structlog.get_logger("fresh").info("engine_started", port=1)
    assert "\x1b[" in terminal.getvalue()
    assert events(pipe)[0]["event"] == "engine_started"
    assert "\x1b[" not in forced.getvalue()
    assert "engine_started" in forced.getvalue()
    assert "port=1" in forced.getvalue()


# Levels


def test_the_level_changes_for_loggers_that_are_in_use() -> None:
    stream = json_log("warning")
    cached = structlog.get_logger("engine.call")
    bound = structlog.get_logger("engine.call").bind(a=1)
    library = logging.getLogger("library")

    def everywhere(event: str) -> None:
        cached.info(event)
        bound.info(event)
        library.info(event)

    everywhere("before")
    logs.set_level("info")
    everywhere("while")
    logs.set_level("error")
    everywhere("after")
    cached.warning("after")
    cached.error("at last")
    assert [event["event"] for event in events(stream)] == ["while"] * 3 + ["at last"]


def test_below_the_level_nothing_is_made_of_an_event() -> None:
    json_log("info")

    class Untouchable:
        def __str__(self) -> str:
            raise AssertionError("rendered in vain")

        __repr__ = __str__

    structlog.get_logger("engine.call").debug("frame_sent", frame=Untouchable())


@pytest.mark.parametrize("name", ["aiohttp.access", "websockets.client", "picows", "asyncio"])
def test_chatty_libraries_are_heard_from_warning_up_even_when_debugging(name: str) -> None:
    stream = json_log("debug")
    logging.getLogger(name).info("one more frame")
    logging.getLogger(name).warning("trouble")
    assert [event["event"] for event in events(stream)] == ["trouble"]


def test_configuring_again_reaches_loggers_that_are_in_use() -> None:
    log = structlog.get_logger("engine.call")
    first = json_log()
    log.info("one")
    second = json_log()
    log.info("two")
    logging.getLogger("library").info("three")
    assert [event["event"] for event in events(first)] == ["one"]
    assert [event["event"] for event in events(second)] == ["two", "three"]


# Secrets


def test_known_secrets_are_hidden_wherever_they_occur() -> None:
    stream = json_log("info", "hunter22", 'quo"te\\d', "pin")
    log = structlog.get_logger("engine.call")
    try:
        raise RuntimeError("login hunter22 failed")
    except RuntimeError as error:
        log.exception("hunter22_leaked", error=error, nested={"hunter22": [("xhunter22x", {1: "hunter22"})]})
    log.info("a", value='say quo"te\\d now', data=b"hunter22", spinning="pinned")
    logging.getLogger("hunter22").error("with %s", {"key": "hunter22"})
    written = stream.getvalue()
    assert "hunter22" not in written
    assert "te" + "\\\\d" not in written
    assert events(stream)[0]["nested"] == {"***": [["x***x", {"1": "***"}]]}
    assert events(stream)[1]["value"] == "say *** now"
    assert events(stream)[1]["spinning"] == "pinned"  # too short to hide: it would be everywhere


@pytest.mark.parametrize(
    "name",
    [
        "api_key",
        "OPENAI_API_KEY",
        "password",
        "ari_password",
        "x-api-key",
        "authorization",
        "access_token",
        "secret",
    ],
)
def test_values_of_secret_looking_names_are_hidden(name: str) -> None:
    stream = json_log()
    structlog.get_logger("a").info("b", **{name: "value", "headers": {name: 1234}, "kept": "value"})
    (event,) = events(stream)
    assert (event[name], event["headers"], event["kept"]) == ("***", {name: "***"}, "value")


def test_names_that_only_sound_secret_are_kept() -> None:
    stream = json_log()
    structlog.get_logger("a").info("b", output_tokens=5, token_count=6, api_key=None, keys=["k"])
    (event,) = events(stream)
    assert [event[name] for name in ("output_tokens", "token_count", "api_key", "keys")] == [
        5,
        6,
        None,
        ["k"],
    ]


def test_credentials_in_addresses_and_headers_are_hidden_without_being_known() -> None:
    stream = json_log()
    structlog.get_logger("a").info(
        "b",
        url="ws://user:pw@pbx:8088/ari/events?api_key=user:pw&app=x",
        header="Authorization: Bearer abc.def",
    )
    (event,) = events(stream)
    assert event["url"] == "ws://***@pbx:8088/ari/events?api_key=***&app=x"
    assert event["header"] == "Authorization: Bearer ***"


def test_a_wrapped_secret_stays_wrapped() -> None:
    stream = json_log()
    structlog.get_logger("a").info("b", value=SecretStr("hunter22"))
    assert "hunter22" not in stream.getvalue()


def test_a_secret_that_becomes_known_later_is_hidden_from_then_on() -> None:
    stream = json_log()
    log = structlog.get_logger("a")
    log.info("using late-secret")
    logs.hide(["late-secret"])
    log.info("using late-secret")
    assert [event["event"] for event in events(stream)] == ["using late-secret", "using ***"]


# Trouble


def test_a_reader_that_went_away_costs_lines_and_nothing_else() -> None:
    stream = json_log()
    stream.close()
    lost = logs.sink.lost_lines
    structlog.get_logger("engine.call").error("call_ended")
    logging.getLogger("library").error("too")
    assert logs.sink.lost_lines == lost + 2


def test_standard_error_is_found_when_it_is_written_to(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    structlog.get_logger("engine.call").info("call_ended")
    assert json.loads(capsys.readouterr().err)["event"] == "call_ended"
