"""``scripts/switch_provider.py`` against an engine that answers calls."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from testkit.asterisk import AsteriskInstance
from testkit.conversing import Ear, say
from testkit.engine import EngineProcess
from testkit.hearing import find_clip
from testkit.openai_realtime import Reply, Script
from testkit.speech import noise, speak
from testkit.waiting import wait_until
from tests.calls.conftest import LineFactory

pytestmark = pytest.mark.asterisk

SCRIPT = Path(__file__).parents[2] / "scripts" / "switch_provider.py"
GREETING = noise(1000, seed=1)


@dataclass
class Outcome:
    exit_code: int
    out: str
    err: str


async def switch(engine: EngineProcess, *arguments: str, key: str = "sk-test-of-the-double") -> Outcome:
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, SCRIPT, "--config", engine.config_path, "--env", engine.folder / "no.env", *arguments),
        env={**environment, "OPENAI_API_KEY": key},
        cwd=engine.folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert process.returncode is not None
    return Outcome(process.returncode, out.decode(), err.decode())


async def reload(engine: EngineProcess) -> tuple[int, dict[str, Any]]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://127.0.0.1:{engine.http_port}/reload") as response,
    ):
        return response.status, await response.json()


def comment(engine: EngineProcess) -> str:
    """Writes the engine's file anew as a person would have it; it means the same."""
    text = yaml.safe_dump({name: part for name, part in engine.settings.items() if name != "default_provider"})
    provider = f"default_provider: '{engine.settings['default_provider']}'   # who talks ☎\r\n"
    text = f"# Our shop's telephone.\n\n{provider}# Ports and folders:\n{text}\n#\tthe end"
    engine.config_path.write_bytes(text.encode())
    assert yaml.safe_load(text) == engine.settings
    return text


async def test_switching_under_calls(open_line: LineFactory) -> None:
    script = Script(greeting=Reply(audio=GREETING))
    async with open_line(script, settings={"default_provider": "local"}) as line:
        engine: EngineProcess = line.engine
        before = comment(engine)
        async with line.caller() as first, line.caller() as second, line.caller() as third:
            await first.dial()
            await engine.wait_for_log("call_connected", provider="local")
            ear = Ear(first)
            await ear.wait_for_voice(after=0)

            outcome = await switch(engine, "openai_realtime")
            assert (outcome.exit_code, outcome.err) == (0, "")
            assert "is ready with it" in outcome.out
            after = engine.config_path.read_bytes().decode()
            assert after == before.replace("'local'", "'openai_realtime'"), "one word changed, every comment stayed"
            health = await engine.health()
            assert health["status"] == "ok"
            assert (health["provider"]["name"], health["provider"]["ready"]) == ("openai_realtime", True)

            await second.dial()
            await wait_until(lambda: find_clip(second.heard(), GREETING), 10, "the new provider's greeting")

            # The call that was running goes on with the agent that it had.
            await ear.wait_for_quiet(1.0)
            await say(first, speak("Goodbye."))
            await first.wait_ended(15)
            assert "Goodbye" in engine.logged("agent_said")[-1]["text"]
            assert len(line.double.sessions) == 1

            outcome = await switch(engine, "local")
            assert (outcome.exit_code, outcome.err) == (0, "")
            assert engine.config_path.read_bytes().decode() == before
            assert (await engine.health())["provider"]["name"] == "local"
            assert line.double.sessions[0].is_open, "the second call keeps its provider, too"
            await third.dial()
            await wait_until(lambda: len(engine.logged("call_connected", provider="local")) == 2, 10, "a local call")
            assert len(line.double.sessions) == 1
        await line.nothing_left()
        assert not engine.logged("call_failed")


async def test_what_cannot_work_is_refused_and_nothing_changes(open_line: LineFactory) -> None:
    script = Script(greeting=Reply(audio=GREETING))
    async with open_line(script) as line:
        engine: EngineProcess = line.engine
        comment(engine)
        before = engine.config_path.read_bytes(), engine.config_path.stat().st_ino

        async def assert_unchanged() -> None:
            assert (engine.config_path.read_bytes(), engine.config_path.stat().st_ino) == before
            assert (await engine.health())["provider"]["name"] == "openai_realtime"
            assert not engine.logged("configuration_reloaded")

        outcome = await switch(engine, "openai_realtme")
        assert (outcome.exit_code, outcome.out) == (2, "")
        assert "did you mean openai_realtime?" in outcome.err
        await assert_unchanged()
        outcome = await switch(engine, "openai_realtime", key="")
        assert (outcome.exit_code, outcome.out) == (2, "")
        assert "OPENAI_API_KEY is not set" in outcome.err
        await assert_unchanged()


BROKEN = {
    "default_provider: [\n": "not valid YAML",
    "default_provider: lcoal\n": "did you mean local?",
    "lllm: {}\n": "lllm is not a known key",
    "conversation: {max_check_ins: many}\n": "conversation.max_check_ins",
    "": "the file is empty",
    "\0": "not valid YAML",
}
"""Files that cannot be used, and what is said about them."""


async def test_a_broken_file_is_refused_with_the_reason(open_line: LineFactory) -> None:
    async with open_line(Script(greeting=Reply(audio=GREETING))) as line:
        engine: EngineProcess = line.engine
        good = engine.config_path.read_bytes()
        for text, reason in BROKEN.items():
            engine.config_path.write_text(text)
            status, answer = await reload(engine)
            assert (status, answer["reloaded"]) == (422, False), text
            assert reason in answer["error"]
        engine.config_path.unlink()
        status, answer = await reload(engine)
        assert (status, answer["reloaded"]) == (422, False)
        assert "no such file" in answer["error"]
        assert (await engine.health())["status"] == "ok"
        async with line.caller() as call:
            await call.dial()
            await wait_until(lambda: find_clip(call.heard(), GREETING), 10, "the greeting by the old settings")
        engine.config_path.write_bytes(good)
        expected = {"reloaded": True, "default_provider": "openai_realtime", "needs_restart": []}
        assert await reload(engine) == (200, expected)
        await line.nothing_left()


async def test_an_engine_without_the_key_keeps_its_provider_and_gets_its_file_back(
    asterisk: AsteriskInstance,
) -> None:
    """The script has the key; the engine, which was started without, has not."""
    engine = EngineProcess(
        ari_port=asterisk.ari_port,
        username=asterisk.username,
        password=asterisk.password,
        app_name=asterisk.app_name,
        settings={"default_provider": "local"},
        environment={"OPENAI_API_KEY": ""},
    )
    async with engine:
        before = comment(engine).encode()
        outcome = await switch(engine, "openai_realtime")
        assert outcome.exit_code == 1
        assert "OPENAI_API_KEY is not set" in outcome.err
        assert "restored" in outcome.err
        assert engine.config_path.read_bytes() == before
        health = await engine.health()
        assert (health["provider"]["name"], health["provider"]["ready"]) == ("local", True)
