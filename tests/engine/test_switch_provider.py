"""Switching the provider of a running engine, of one that refuses, and of none."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import sys
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from engine.config import load_config
from scripts import switch_provider

SCRIPT = Path(switch_provider.__file__)
BEFORE = "# Our file\ndefault_provider: 'local'   # who talks\nhttp: {port: %d}\r\n# ☎ the end"
AFTER = "# Our file\ndefault_provider: 'openai_realtime'   # who talks\nhttp: {port: %d}\r\n# ☎ the end"


@dataclass
class EngineStandIn:
    """The engine's HTTP side: reads its file on /reload, and is ready when it is told to be."""

    config: Path
    port: int = 0
    provider: str = "local"
    ready: bool = True
    detail: str = ""
    refusal: str = ""
    status: int = 422
    read_by_reload: list[str] = field(default_factory=list)
    site: web.TCPSite | None = None
    on_health: Callable[[], None] = lambda: None
    on_reloaded: Callable[[], None] = lambda: None

    async def reload(self, _: web.Request) -> web.Response:
        fresh = load_config(self.config)
        self.read_by_reload.append(fresh.default_provider)
        if self.refusal:
            return web.json_response({"reloaded": False, "error": self.refusal}, status=self.status)
        self.provider = fresh.default_provider
        self.on_reloaded()
        return web.json_response({"reloaded": True, "default_provider": self.provider})

    async def health(self, _: web.Request) -> web.Response:
        self.on_health()
        ready = self.ready or self.provider == "local"
        provider = {"name": self.provider, "ready": ready, "detail": self.detail}
        return web.json_response({"default_provider": self.provider, "provider": provider})


@pytest.fixture
def config(tmp_path: Path, unused_port: int) -> Path:
    path = tmp_path / "agent.yaml"
    path.write_bytes((BEFORE % unused_port).encode())
    return path


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
async def engine(config: Path, unused_port: int) -> AsyncIterator[EngineStandIn]:
    stand_in = EngineStandIn(config, unused_port)
    app = web.Application()
    app.router.add_post("/reload", stand_in.reload)
    app.router.add_get("/health", stand_in.health)
    runner = web.AppRunner(app)
    await runner.setup()
    stand_in.site = web.TCPSite(runner, "127.0.0.1", unused_port)
    await stand_in.site.start()
    yield stand_in
    await runner.cleanup()


@dataclass
class Outcome:
    exit_code: int
    out: str
    err: str


async def started(config: Path, *arguments: str, **environment: str) -> asyncio.subprocess.Process:
    """The script as a program of its own, with a key unless told otherwise."""
    environ = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    environ |= {"OPENAI_API_KEY": "sk-test", "http_proxy": "http://127.0.0.1:1"} | environment
    return await asyncio.create_subprocess_exec(
        sys.executable, SCRIPT, "--config", config, "--env", config.parent / ".env", *arguments,
        cwd=config.parent, env=environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def outcome_of(process: asyncio.subprocess.Process) -> Outcome:
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    assert process.returncode is not None
    return Outcome(process.returncode, out.decode(), err.decode())


async def switch(config: Path, *arguments: str, **environment: str) -> Outcome:
    return await outcome_of(await started(config, *arguments, **environment))


def leftovers(config: Path) -> set[str]:
    return {path.name for path in config.parent.iterdir()} - {config.name}


# Switching


async def test_the_engine_is_brought_along_and_the_file_changes_in_one_word(engine: EngineStandIn) -> None:
    outcome = await switch(engine.config, "openai_realtime")
    assert (outcome.exit_code, outcome.err) == (0, "")
    assert f"the engine at http://127.0.0.1:{engine.port} is ready with it" in outcome.out
    assert engine.config.read_bytes() == (AFTER % engine.port).encode()
    assert engine.provider == "openai_realtime"
    assert leftovers(engine.config) == set()


async def test_a_provider_that_needs_a_moment_is_waited_for(engine: EngineStandIn) -> None:
    asked = 0

    def on_health() -> None:
        nonlocal asked
        asked += 1
        engine.ready = asked == 3

    engine.on_health = on_health
    outcome = await switch(engine.config, "openai_realtime")
    assert (outcome.exit_code, asked) == (0, 3)


async def test_switching_there_and_back_leaves_the_file_as_it_was(engine: EngineStandIn) -> None:
    before = engine.config.read_bytes()
    assert (await switch(engine.config, "openai_realtime")).exit_code == 0
    assert (await switch(engine.config, "local")).exit_code == 0
    assert engine.config.read_bytes() == before
    assert engine.read_by_reload == ["openai_realtime", "local"]


async def test_the_provider_that_it_is_already_is_confirmed_without_touching_the_file(
    engine: EngineStandIn,
) -> None:
    before = engine.config.stat()
    outcome = await switch(engine.config, "local")
    assert outcome.exit_code == 0
    assert "default_provider is already local" in outcome.out
    assert engine.config.stat().st_ino == before.st_ino


async def test_without_an_engine_the_change_is_kept_and_said(config: Path, unused_port: int) -> None:
    outcome = await switch(config, "openai_realtime")
    assert outcome.exit_code == 0
    assert f"no engine runs at http://127.0.0.1:{unused_port}: it will start with openai_realtime" in outcome.out
    assert config.read_bytes() == (AFTER % unused_port).encode()


async def test_no_reload_only_changes_the_file(engine: EngineStandIn) -> None:
    outcome = await switch(engine.config, "openai_realtime", "--no-reload")
    assert outcome.exit_code == 0
    assert engine.read_by_reload == []
    assert engine.config.read_bytes() == (AFTER % engine.port).encode()


# Failing


async def test_an_engine_that_refuses_gets_the_old_file_back(engine: EngineStandIn) -> None:
    engine.refusal = "no such voice"
    before = engine.config.read_bytes()
    outcome = await switch(engine.config, "openai_realtime")
    assert (outcome.exit_code, outcome.out) == (1, "")
    assert "the engine refused: no such voice" in outcome.err
    assert engine.config.read_bytes() == before
    assert leftovers(engine.config) == set()


async def test_a_provider_that_does_not_become_ready_is_switched_back(engine: EngineStandIn) -> None:
    engine.ready, engine.detail = False, "key rejected"
    before = engine.config.read_bytes()
    outcome = await switch(engine.config, "openai_realtime", "--timeout", "0.5")
    assert outcome.exit_code == 1
    assert "openai_realtime is not ready: key rejected" in outcome.err
    assert f"{engine.config} is restored" in outcome.err
    assert engine.config.read_bytes() == before
    assert (engine.provider, engine.read_by_reload) == ("local", ["openai_realtime", "local"])


async def test_an_engine_that_dies_of_the_reload_is_no_success(engine: EngineStandIn) -> None:
    before = engine.config.read_bytes()
    stopping: list[asyncio.Task[None]] = []

    def stop() -> None:
        assert engine.site is not None
        stopping.append(asyncio.create_task(engine.site.stop()))

    engine.on_reloaded = stop
    outcome = await switch(engine.config, "openai_realtime", "--timeout", "0.5")
    assert outcome.exit_code == 1
    assert "the engine stopped answering after it was told to reload" in outcome.err
    assert "is restored, but the engine has not read it again" in outcome.err
    assert engine.config.read_bytes() == before


async def test_an_interrupted_switch_is_switched_back(engine: EngineStandIn) -> None:
    before = engine.config.read_bytes()
    waiting = asyncio.Event()
    engine.ready, engine.on_health = False, waiting.set
    process = await started(engine.config, "openai_realtime")
    async with asyncio.timeout(30):
        await waiting.wait()
    process.send_signal(signal.SIGINT)
    outcome = await outcome_of(process)
    assert outcome.exit_code == 1
    assert "interrupted" in outcome.err
    assert (engine.config.read_bytes(), engine.provider) == (before, "local")


async def test_an_engine_that_runs_with_another_file_is_noticed(engine: EngineStandIn, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(f"http: {{port: {engine.port}}}\n")
    outcome = await switch(other, "openai_realtime", "--timeout", "0.5")
    assert outcome.exit_code == 1
    assert "the engine stays with local; does it run with another file?" in outcome.err
    assert other.read_text() == f"http: {{port: {engine.port}}}\n"


async def test_something_else_at_the_engines_address_is_no_success(config: Path, unused_port: int) -> None:
    before = config.read_bytes()

    async def rude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"SSH-2.0-surprise\r\n")
        writer.close()

    async with await asyncio.start_server(rude, "127.0.0.1", unused_port):
        outcome = await switch(config, "openai_realtime", "--timeout", "1")
    assert outcome.exit_code == 1
    assert "no proper answer from the engine" in outcome.err
    assert config.read_bytes() == before


async def test_what_somebody_saved_while_the_engine_refused_is_not_overwritten(engine: EngineStandIn) -> None:
    engine.ready = False
    engine.on_health = lambda: engine.config.write_text(f"llm: {{}}\nhttp: {{port: {engine.port}}}\n")
    outcome = await switch(engine.config, "openai_realtime", "--timeout", "0.5")
    assert outcome.exit_code == 1
    assert "the file was not restored" in outcome.err
    assert "changed by somebody else" in outcome.err
    assert engine.config.read_text().startswith("llm: {}")


# Refusing


@pytest.mark.parametrize(
    ("arguments", "key", "reason"),
    [
        (["openai"], "sk-test", "'openai' is not a known provider; did you mean openai_realtime?"),
        (["openai_realtime"], "", "OPENAI_API_KEY is not set: openai_realtime cannot work without it"),
        ([], "sk-test", "name a provider, or use --list"),
    ],
)
async def test_what_cannot_work_is_refused_before_anything_changes(
    engine: EngineStandIn, arguments: list[str], key: str, reason: str
) -> None:
    before = engine.config.read_bytes()
    outcome = await switch(engine.config, *arguments, OPENAI_API_KEY=key)
    assert (outcome.exit_code, outcome.out) == (2, "")
    assert reason in outcome.err
    assert (engine.config.read_bytes(), engine.read_by_reload) == (before, [])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("http: {prot: 1}\n", ":1: http.prot is not a known key; did you mean port?"),
        ("http: [\n", "not valid YAML"),
        ("# nothing\n", "the file is empty"),
        (
            "default_provider: &name local\nllm: {prompt: *name}\n",
            "default_provider is tied to other keys; change it by hand",
        ),
        ("default_provider: &name local\nllm: {prompt: *nmae}\n", "found undefined alias 'nmae'"),
    ],
)
async def test_a_file_that_would_not_be_valid_is_left_alone(config: Path, text: str, reason: str) -> None:
    config.write_text(text)
    outcome = await switch(config, "openai_realtime")
    assert (outcome.exit_code, outcome.out) == (2, "")
    assert reason in outcome.err
    assert config.read_text() == text
    assert leftovers(config) == set()


async def test_a_file_or_folder_that_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    outcome = await switch(tmp_path / "agent.yaml", "local")
    assert (outcome.exit_code, outcome.err) == (2, f"{tmp_path}/agent.yaml: no such file\n")


async def test_a_switch_repairs_a_provider_that_does_not_exist(config: Path) -> None:
    config.write_text("default_provider: lcoal\n")
    assert (await switch(config, "local", "--no-reload")).exit_code == 0
    assert config.read_text() == "default_provider: local\n"


# The file


async def test_the_key_may_be_in_the_env_file(config: Path) -> None:
    (config.parent / ".env").write_text("OPENAI_API_KEY=sk-file\n")
    outcome = await switch(config, "openai_realtime", "--no-reload", OPENAI_API_KEY="")
    assert outcome.exit_code == 0
    assert "sk-file" not in outcome.out + outcome.err


async def test_mode_and_links_stay(config: Path, tmp_path: Path) -> None:
    config.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(config, 12345, 23456)
    owner = (config.stat().st_uid, config.stat().st_gid)
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link.yaml"
    link.symlink_to(config)
    assert (await switch(link, "openai_realtime", "--no-reload")).exit_code == 0
    assert link.is_symlink()
    assert load_config(config).default_provider == "openai_realtime"
    assert stat.S_IMODE(config.stat().st_mode) == 0o640
    assert (config.stat().st_uid, config.stat().st_gid) == owner


async def test_an_editor_that_has_the_file_open_keeps_what_it_read(config: Path) -> None:
    with config.open("rb") as editor:
        await switch(config, "openai_realtime", "--no-reload")
        assert editor.read().startswith(b"# Our file\ndefault_provider: 'local'")


async def test_switches_at_the_same_time_do_not_mix(engine: EngineStandIn) -> None:
    wanted = ["openai_realtime", "local", "openai_realtime", "local"]
    outcomes = await asyncio.gather(*(switch(engine.config, provider) for provider in wanted))
    assert [outcome.exit_code for outcome in outcomes] == [0] * 4
    assert engine.provider == load_config(engine.config).default_provider
    template = AFTER if engine.provider == "openai_realtime" else BEFORE
    assert engine.config.read_bytes() == (template % engine.port).encode()


async def test_a_switch_that_is_under_way_is_waited_for_only_so_long(config: Path) -> None:
    before = config.read_bytes()
    with switch_provider.lock(config.parent, timeout_s=1):
        outcome = await switch(config, "openai_realtime", "--timeout", "0.1")
    assert outcome.exit_code == 1
    assert "another switch has been under way" in outcome.err
    assert config.read_bytes() == before


def test_a_reader_sees_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    old, new = b"a" * 100_000, b"b" * 200_000
    path.write_bytes(old)
    seen: set[bytes] = set()
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(30):
        switch_provider.replace(path, old, new)
        switch_provider.replace(path, new, old)
    stop.set()
    reader.join()
    assert seen <= {old, new}


# Listing


async def test_the_list_marks_the_provider_in_the_file_and_what_is_missing(config: Path) -> None:
    outcome = await switch(config, "--list", OPENAI_API_KEY="")
    assert outcome.exit_code == 0
    lines = outcome.out.splitlines()
    assert "* local" in lines
    assert any(line.startswith("  openai_realtime   (OPENAI_API_KEY is not set") for line in lines)
