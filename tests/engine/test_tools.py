"""What an agent can do, and what it is told when it asks for it wrongly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.tools import HANGUP_CALL, TAKE_MESSAGE, TOOLS, ToolContext, ToolError, run_tool

MESSAGE = {"name": "Ann Smith", "number": "5550123", "reason": "the delivery"}


@pytest.fixture
def context(tmp_path: Path) -> ToolContext:
    return ToolContext("17.4", "5550199", tmp_path / "messages", lambda: hung_up.append(True))


hung_up: list[bool] = []


def test_every_tool_has_a_schema_that_forbids_what_it_does_not_name() -> None:
    assert {tool.name for tool in TOOLS} == {HANGUP_CALL, TAKE_MESSAGE}
    for tool in TOOLS:
        assert tool.parameters["type"] == "object"
        assert tool.parameters["additionalProperties"] is False
        assert json.dumps(tool.parameters)


async def test_a_message_is_stored_whole(context: ToolContext) -> None:
    told = json.loads(await run_tool(TAKE_MESSAGE, json.dumps(MESSAGE), context) or "")
    (path,) = context.messages_dir.iterdir()
    assert told == {"status": "stored", "reference": path.stem}
    stored = json.loads(path.read_text())
    assert MESSAGE.items() <= stored.items()
    assert (stored["call_id"], stored["caller_number"]) == ("17.4", "5550199")


async def test_two_messages_of_one_call_are_two_files(context: ToolContext) -> None:
    for _ in range(3):
        await run_tool(TAKE_MESSAGE, json.dumps(MESSAGE), context)
    assert len(list(context.messages_dir.iterdir())) == 3


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ("not json", "arguments"),
        ("{}", "name"),
        (json.dumps(MESSAGE | {"urgent": True}), "urgent"),
        (json.dumps(MESSAGE | {"name": " "}), "name"),
        ("[1]", "arguments"),
    ],
)
async def test_wrong_arguments_are_explained_and_store_nothing(context: ToolContext, arguments: str, hint: str) -> None:
    with pytest.raises(ToolError, match=hint):
        await run_tool(TAKE_MESSAGE, arguments, context)
    assert not context.messages_dir.exists()


async def test_a_disk_that_takes_nothing_is_told_to_the_model(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    context = ToolContext("17.4", "", tmp_path / "file" / "messages", lambda: None)
    with pytest.raises(ToolError, match="could not be stored"):
        await run_tool(TAKE_MESSAGE, json.dumps(MESSAGE), context)


async def test_an_unknown_tool_names_those_there_are(context: ToolContext) -> None:
    with pytest.raises(ToolError, match=TAKE_MESSAGE):
        await run_tool("fly", "{}", context)


@pytest.mark.parametrize("arguments", ["", "{}"])
async def test_hanging_up_says_nothing_more_to_the_model(context: ToolContext, arguments: str) -> None:
    hung_up.clear()
    assert await run_tool(HANGUP_CALL, arguments, context) is None
    assert hung_up == [True]
