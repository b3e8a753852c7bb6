"""The command line, in this process and as a program of its own."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import structlog
import yaml
from typer.testing import CliRunner, Result

from engine.cli import app
from engine.config import Config, parse_config
from engine.credentials import Credentials

SECRETS = {
    "ASTERISK_ARI_USERNAME": "engine",
    "ASTERISK_ARI_PASSWORD": "correct horse",
    "OPENAI_API_KEY": "sk-battery-staple",
}
NOT_SET = ("DEEPGRAM_API_KEY", "ASTERISK_MEDIA_USERNAME", "ASTERISK_MEDIA_PASSWORD")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with no credential in the environment."""
    monkeypatch.chdir(tmp_path)
    for variable in (*SECRETS, *NOT_SET):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "ai-agent.yaml").write_text("default_provider: openai_realtime\n")
    return tmp_path


@pytest.fixture
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, configuration = root.handlers[:], root.level, structlog.get_config()
    yield
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**configuration)


def voice_engine(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def write_env(folder: Path) -> None:
    (folder / ".env").write_text("".join(f"{name}='{value}'\n" for name, value in SECRETS.items()))


# config validate


def test_a_valid_file_is_said_to_be_valid_and_missing_credentials_are_warnings(folder: Path) -> None:
    result = voice_engine("config", "validate")
    assert result.exit_code == 0
    assert result.stdout == "config/ai-agent.yaml: valid; calls are answered by openai_realtime\n"
    assert [line.split()[1] for line in result.stderr.splitlines()] == list(SECRETS)
    write_env(folder)
    assert voice_engine("config", "validate").stderr == ""


def test_a_broken_file_is_a_line_on_standard_error_and_exit_code_2(folder: Path) -> None:
    (folder / "broken.yaml").write_text("http:\n  prot: 80\n")
    for command in (["config", "validate"], ["config", "show"], ["run"]):
        result = voice_engine(*command, "--config", "broken.yaml")
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr == "broken.yaml:2: http.prot is not a known key; did you mean port?\n"


def test_validation_answers_in_json_too(folder: Path) -> None:
    (folder / "broken.yaml").write_text("http: 1\nasterisk: 2\n")
    broken = voice_engine("config", "validate", "--json", "--config", "broken.yaml")
    assert (broken.exit_code, broken.stderr) == (2, "")
    answer = json.loads(broken.stdout)
    assert (answer["valid"], len(answer["errors"]), answer["warnings"]) == (False, 2, [])
    valid = json.loads(voice_engine("config", "validate", "--json").stdout)
    assert (valid["valid"], valid["errors"], len(valid["warnings"])) == (True, [], 3)


# config show


def test_what_is_shown_is_a_configuration_that_means_the_same(folder: Path) -> None:
    (folder / "few.yaml").write_text("limits: {drain_s: 2.5}\nllm: {initial_greeting: 'Grüß Gott: ja'}\n")
    shown = voice_engine("config", "show", "--config", "few.yaml").stdout
    expected = parse_config((folder / "few.yaml").read_text(), Path("few.yaml"))
    assert parse_config(shown, Path("shown.yaml")) == expected
    assert "Grüß" in shown
    answer = json.loads(voice_engine("config", "show", "--config", "few.yaml", "--json").stdout)
    assert answer["config"] == yaml.safe_load(shown)
    assert answer["config"]["conversation"]["no_input_timeout_s"] == 10


def test_credentials_are_shown_as_set_or_not_and_never_as_they_are(folder: Path) -> None:
    write_env(folder)
    text = voice_engine("config", "show").stdout
    answer = json.loads(voice_engine("config", "show", "--json").stdout)
    assert "# OPENAI_API_KEY: set\n" in text
    assert "# DEEPGRAM_API_KEY: not set\n" in text
    assert answer["credentials"] == {**dict.fromkeys(SECRETS, True), **dict.fromkeys(NOT_SET, False)}
    assert not any(secret in text + json.dumps(answer) for secret in ("correct horse", "battery"))


# run


class EngineStandIn(ModuleType):
    """In place of ``engine.app``: takes note of what it is started with."""

    class StartupError(Exception):
        pass

    def __init__(self) -> None:
        super().__init__("engine.app")
        self.started: list[tuple[Config, Credentials, Path]] = []
        self.failure: Exception | None = None

    def run(self, config: Config, credentials: Credentials, config_path: Path) -> None:
        if self.failure:
            raise self.failure
        self.started.append((config, credentials, config_path))


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, logging_as_before: None) -> EngineStandIn:
    import engine as package

    stand_in = EngineStandIn()
    monkeypatch.setitem(sys.modules, "engine.app", stand_in)
    monkeypatch.setattr(package, "app", stand_in, raising=False)
    return stand_in


def test_run_hands_the_engine_its_settings_and_credentials(folder: Path, engine: EngineStandIn) -> None:
    write_env(folder)
    assert voice_engine("run").exit_code == 0
    ((config, credentials, path),) = engine.started
    assert config.default_provider == "openai_realtime"
    assert credentials == Credentials.from_environment(SECRETS)
    assert path == Path("config/ai-agent.yaml")


def test_run_refuses_to_start_without_a_credential_that_is_needed(folder: Path, engine: EngineStandIn) -> None:
    result = voice_engine("run")
    assert result.exit_code == 2
    assert [line.split()[0] for line in result.stderr.splitlines()] == list(SECRETS)
    assert engine.started == []


def test_an_engine_that_cannot_start_is_a_line_and_exit_code_1(folder: Path, engine: EngineStandIn) -> None:
    write_env(folder)
    engine.failure = engine.StartupError("port 9092 is taken")
    result = voice_engine("run")
    assert (result.exit_code, result.stderr) == (1, "port 9092 is taken\n")


def test_the_environment_wins_over_the_env_file(
    folder: Path, engine: EngineStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_env(folder)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-environment")
    voice_engine("run")
    ((_, credentials, _),) = engine.started
    assert credentials.openai_api_key is not None
    assert credentials.openai_api_key.get_secret_value() == "sk-environment"


def test_the_log_of_a_run_has_no_credential_in_it(
    folder: Path, engine: EngineStandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    write_env(folder)
    voice_engine("run")
    logging.getLogger("somebody").error("connecting with sk-battery-staple")
    written = capsys.readouterr().err
    assert "connecting with ***" in written
    assert "battery" not in written


# The program


def test_the_module_and_the_console_command_are_the_same_program(folder: Path) -> None:
    script = Path(sys.executable).parent / "voice-engine"
    outputs = []
    for command in ([sys.executable, "-m", "engine"], [str(script)]):
        version = subprocess.run([*command, "version"], capture_output=True, text=True, check=True, timeout=30)
        nothing = subprocess.run([*command, "run", "--config", "nowhere.yaml"], capture_output=True, timeout=30)
        outputs.append((version.stdout, nothing.returncode, nothing.stdout, nothing.stderr))
    assert outputs[0] == outputs[1]
    assert outputs[0][0].startswith("voice-engine 0")
    assert outputs[0][1:] == (2, b"", b"nowhere.yaml: no such file\n")


def test_help_tells_the_exit_codes() -> None:
    for arguments in (["--help"], ["run", "--help"]):
        text = " ".join(voice_engine(*arguments).stdout.split())
        assert "Exit codes: 0 all went well; 1 the engine could not start" in text


def test_a_wrong_command_line_is_exit_code_2() -> None:
    assert voice_engine("config", "validate", "--konfig", "x").exit_code == 2
