"""The configuration file: what it may say, and what it is told when it is wrong."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from engine.config import PROVIDERS, Config, ConfigError, load_config, parse_config, unknown_provider
from engine.config_file import key_paths, parse
from engine.credentials import Credentials, missing_credentials, missing_for_provider, read_environment

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "config" / "ai-agent.yaml"
FILE = Path("agent.yaml")


@pytest.fixture(autouse=True)
def no_shipped_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """The project's own FAQ lies in the directory that the tests run in; here it is not to be found."""
    monkeypatch.setattr("engine.config.SHIPPED_CONFIG", Path("nowhere"))


def test_a_faq_that_is_not_beside_the_file_is_the_shipped_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.config.SHIPPED_CONFIG", SHIPPED.parent)
    for path in (Path("/elsewhere/agent.yaml"), SHIPPED):
        config = parse_config("default_provider: local", path)
        assert config.providers.local.faq_file == SHIPPED.parent / "faq.yaml"


def problems_of(text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, FILE)
    return caught.value.problems


def leaves(model: type[BaseModel]) -> set[tuple[str | int, ...]]:
    paths = list(key_paths(model))
    return {path for path in paths if not any(other[: len(path)] == path for other in paths if other != path)}


# What is accepted


def test_three_lines_are_a_configuration() -> None:
    config = parse_config("default_provider: openai_realtime\nasterisk:\n  host: pbx.example\n", FILE)
    assert config.default_provider == "openai_realtime"
    assert (config.asterisk.host, config.asterisk.port) == ("pbx.example", 8088)
    same = ("streaming", "barge_in", "conversation", "limits", "logging", "llm", "http", "messages_dir")
    assert all(getattr(config, name) == getattr(Config(), name) for name in same)


def test_a_section_whose_lines_are_all_commented_out_means_its_defaults() -> None:
    text = "streaming:\n  # min_start_ms: 10\nproviders:\n  openai_realtime:\n    turn_detection:\n"
    assert parse_config(text, FILE) == Config()


def test_anchors_merges_byte_order_marks_and_windows_line_ends_are_yaml_too() -> None:
    text = (
        "\ufeffhttp: &here {host: 127.0.0.2, port: 1}\r\n"
        "asterisk:\r\n  <<: *here\r\n  port: 2\r\n"
        "audiosocket: *here\r\n"
    )
    config = parse_config(text, FILE)
    assert (config.asterisk.host, config.asterisk.port, config.audiosocket.port) == ("127.0.0.2", 2, 1)


def test_what_is_read_is_found_beside_the_file_and_what_is_written_from_the_working_directory() -> None:
    text = "providers: {local: {faq_file: ours.yaml}}\nmessages_dir: messages\n"
    config = parse_config(text, Path("/etc/voice/agent.yaml"))
    assert config.providers.local.faq_file == Path("/etc/voice/ours.yaml")
    assert config.messages_dir == Path("messages")
    absolute = parse_config("providers: {local: {faq_file: /srv/faq.yaml}}", Path("/etc/voice/agent.yaml"))
    assert absolute.providers.local.faq_file == Path("/srv/faq.yaml")


def test_a_configuration_does_not_change() -> None:
    config = Config()
    with pytest.raises(ValidationError):
        config.streaming.min_start_ms = 1  # type: ignore[misc]


def test_whole_seconds_and_fractions_are_both_numbers() -> None:
    config = parse_config("limits: {drain_s: 0}\nconversation: {no_input_timeout_s: 2.5}", FILE)
    assert (config.limits.drain_s, config.conversation.no_input_timeout_s) == (0, 2.5)


# What is refused, and in which words


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "# c\n\nstreaming:\n  min_strat_ms: 60\n",
            ":4: streaming.min_strat_ms is not a known key; did you mean min_start_ms?",
        ),
        (
            "defualt_provider: local",
            ":1: defualt_provider is not a known key; did you mean default_provider?",
        ),
        (
            "\nmin_start_ms: 60\n",
            ":2: min_start_ms is not a known key here; did you mean streaming.min_start_ms?",
        ),
        (
            "http: {zzz: 1}",
            ":1: http.zzz is not a known key; known here: host, port",
        ),
        ("providers: {openai: {}}", ":1: providers.openai is not a known key; did you mean openai_realtime?"),
        (
            "default_provider: openai_realtme",
            ":1: default_provider: 'openai_realtme' is not a known provider; did you mean openai_realtime?",
        ),
        ("http:\n  port: soon\n", ":2: http.port: expected a whole number, got 'soon'"),
        ('http:\n  port: "80"\n', ":2: http.port: expected a whole number, got '80'"),
        ("http:\n  port: true\n", ":2: http.port: expected a whole number, got True"),
        ("http:\n  port:\n", ":2: http.port: expected a whole number, got nothing"),
        ("http: {port: 65536}", ":1: http.port: expected at most 65535, got 65536"),
        (
            f"http: {{port: {10**30}}}",
            f":1: http.port: expected a whole number, got '{10**30}'",
        ),
        ("limits: {max_calls: 0}", ":1: limits.max_calls: expected at least 1, got 0"),
        ("limits: {max_calls: 1.5}", ":1: limits.max_calls: expected a whole number, got 1.5"),
        ("limits: {provider_timeout_s: .inf}", ":1: limits.provider_timeout_s: expected a finite number, got inf"),
        ("limits: {provider_timeout_s: .nan}", ":1: limits.provider_timeout_s: expected a finite number, got nan"),
        ("barge_in: {enabled: 'no'}", ":1: barge_in.enabled: expected true or false, got 'no'"),
        ("barge_in: [true]", ":1: barge_in: expected a section with keys of its own, got a list"),
        (
            "conversation: {check_in: 10:30}",
            ":1: conversation.check_in: expected text (in quotes if it looks like something else), got 630",
        ),
        (
            "logging: {level: loud}",
            ":1: logging.level: expected 'debug', 'info', 'warning' or 'error', got 'loud'",
        ),
        (
            "asterisk: {host: 'http://pbx'}",
            ":1: asterisk.host: expected a host name or an address alone, without http:// or a path, got 'http://pbx'",
        ),
        (
            "audiosocket:\n  host: 0.0.0.0\n",
            ":1: audiosocket: with host 0.0.0.0, advertise_host must say where Asterisk finds the engine",
        ),
        (
            "streaming:\n  min_start_ms: 500\n",
            ":1: streaming: min_start_ms (500) must not be more than jitter_buffer_ms (400)",
        ),
        ("http: {port: 1, port: 2}", ":1: http.port is given twice (first on line 1)"),
        (
            "http: {<<: 3}",
            ":1: http: expected a mapping or list of mappings for merging, but found scalar",
        ),
        ("http: &h [*h]", ":1: http.0 contains itself"),
        (
            "http: {host: !!python/name:os.system x}",
            ":1: http.host: 'x' cannot be understood: could not determine a constructor for the tag "
            "'tag:yaml.org,2002:python/name:os.system'",
        ),
        ("- a\n- b\n", ":1: expected 'key: value' lines at the top level"),
        ("just words", ":1: expected 'key: value' lines at the top level"),
        ("a: b: c", ":1:5: not valid YAML: mapping values are not allowed here"),
        ("http:\n\tport: 1\n", ":2:1: not valid YAML: found character '\\t' that cannot start any token"),
        ("http: *nothing", ":1:7: not valid YAML: found undefined alias 'nothing'"),
        ("a: 1\n---\nb: 2\n", ":2:1: not valid YAML: but found another document"),
        ("http:\n  host: a\x00b\n", ":2: not valid YAML: unprintable character U+0000"),
        ("[" * 10_000, ": not valid YAML: nested too deeply"),
        ("", ": the file is empty (one line such as 'default_provider: local' is enough)"),
        ("# nothing\n\n", ": the file is empty (one line such as 'default_provider: local' is enough)"),
    ],
)
def test_a_mistake_is_told_in_one_line_with_its_place(text: str, problem: str) -> None:
    assert f"agent.yaml{problem}" in problems_of(text)


def test_several_mistakes_are_a_line_each_in_the_order_of_the_file() -> None:
    text = "http:\n  prot: 1\nlimits: {max_calls: x}\nhttp: {}\nasterisk: {port: -1}\n"
    assert [problem.split()[0] for problem in problems_of(text)] == [
        "agent.yaml:3:",
        "agent.yaml:4:",
        "agent.yaml:5:",
    ]


@pytest.mark.parametrize(
    ("text", "variable"),
    [
        ("asterisk: {password: hunter22}", "ASTERISK_ARI_PASSWORD"),
        ("asterisk: {username: hunter22}", "ASTERISK_ARI_USERNAME"),
        ("ari_password: hunter22", "ASTERISK_ARI_PASSWORD"),
        ("providers: {openai_realtime: {api_key: hunter22}}", "OPENAI_API_KEY"),
        ("OPENAI_API_KEY: hunter22", "OPENAI_API_KEY"),
        ("deepgram_api_key: hunter22", "DEEPGRAM_API_KEY"),
    ],
)
def test_a_credential_in_the_file_is_refused_with_its_variable_and_not_repeated(text: str, variable: str) -> None:
    (problem,) = problems_of(text)
    assert f"set {variable} in the environment or in .env" in problem
    assert "hunter22" not in problem


def test_a_mistyped_key_that_only_looks_like_a_secret_is_a_mistyped_key() -> None:
    (problem,) = problems_of("providers: {openai_realtime: {commit_threshold_key: 1}}")
    assert problem.endswith("did you mean commit_threshold_ms?")


# The file itself


def test_a_file_that_cannot_be_read_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"ELF\x7f\x80\xff\x00")
    (tmp_path / "utf16").write_text("http: {}", encoding="utf-16")
    expected = {
        "missing": "no such file",
        ".": "is a folder, not a file",
        "binary/below": "cannot be read: Not a directory",
        "binary": "not UTF-8 text (byte 0x80 at offset 4)",
        "utf16": "not UTF-8 text (byte 0xff at offset 0)",
    }
    for name, reason in expected.items():
        with pytest.raises(ConfigError) as caught:
            load_config(tmp_path / name)
        assert caught.value.problems == (f"{tmp_path / name}: {reason}",)


def well_reported(text: str) -> None:
    try:
        parse_config(text, FILE)
    except ConfigError as error:
        assert error.problems
        assert all(re.match(r"agent\.yaml(:\d+){0,2}: \S", problem) for problem in error.problems)
        assert all("\n" not in problem for problem in error.problems)


scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.dates())
keys = st.one_of(st.text(max_size=6), st.sampled_from([str(path[-1]) for path in key_paths(Config)]))
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(keys, trees, max_size=5))
@settings(max_examples=150, deadline=None)
def test_any_data_is_accepted_or_well_reported(data: dict[str, object]) -> None:
    well_reported(yaml.safe_dump(data, allow_unicode=True))


@given(st.text(max_size=60) | st.text(alphabet="ab:-[]{}&*!|>'\"#%@ \n\t", max_size=40))
@settings(max_examples=200, deadline=None)
def test_any_text_is_accepted_or_well_reported(text: str) -> None:
    well_reported(text)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_the_shipped_file_with_a_slip_of_the_finger_is_accepted_or_well_reported(data: st.DataObject) -> None:
    text = SHIPPED.read_text()
    place = data.draw(st.integers(0, len(text)))
    removed = data.draw(st.integers(0, 5))
    typed = data.draw(st.text(alphabet="abc:-[{'\"#\n ", max_size=3))
    well_reported(text[:place] + typed + text[place + removed :])


# The shipped file


def test_the_shipped_file_has_every_key_with_its_default() -> None:
    document = parse(SHIPPED.read_text(), "shipped")
    assert set(document.lines) == set(key_paths(Config))
    assert parse_config(SHIPPED.read_text(), FILE) == Config()


def test_the_shipped_file_stays_small_enough_to_read() -> None:
    keys = leaves(Config)
    assert len({path for path in keys if path[0] != "providers"}) <= 49
    assert len(keys) <= 62


def test_every_key_of_the_shipped_file_has_a_comment_above() -> None:
    lines = SHIPPED.read_text().splitlines()
    document = parse(SHIPPED.read_text(), "shipped")
    uncommented = [path for path, line in document.lines.items() if not lines[line - 2].strip().startswith("#")]
    assert uncommented == []
    assert max(map(len, lines)) <= 110


def test_every_key_has_a_description() -> None:
    def check(model: type[BaseModel]) -> None:
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name}"
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                check(field.annotation)

    check(Config)


# Providers and credentials

FULL = {
    "ASTERISK_ARI_USERNAME": "engine",
    "ASTERISK_ARI_PASSWORD": "p&ss word",
    "ASTERISK_MEDIA_USERNAME": "engine",
    "ASTERISK_MEDIA_PASSWORD": "m:dia word",
    "OPENAI_API_KEY": "sk-0123456789",
    "DEEPGRAM_API_KEY": "dg-0123456789",
}


def test_an_unknown_provider_is_told_the_nearest_or_all() -> None:
    assert unknown_provider("lokal") == "'lokal' is not a known provider; did you mean local?"
    assert unknown_provider("zzz") == f"'zzz' is not a known provider; known: {', '.join(PROVIDERS)}"


def test_credentials_come_from_the_environment_and_do_not_show() -> None:
    credentials = Credentials.from_environment(FULL)
    shown = f"{credentials} {credentials!r} {credentials.model_dump()} {credentials.model_dump_json()}"
    assert not any(secret in shown for secret in FULL.values() if secret != "engine")
    assert credentials.openai_api_key is not None
    assert credentials.openai_api_key.get_secret_value() == "sk-0123456789"


def test_a_blank_variable_is_not_set_and_a_stray_line_end_is_not_part_of_a_key() -> None:
    credentials = Credentials.from_environment({"OPENAI_API_KEY": " \n", "DEEPGRAM_API_KEY": "dg\r\n"})
    assert not credentials.has("openai_api_key")
    assert credentials.deepgram_api_key is not None
    assert credentials.deepgram_api_key.get_secret_value() == "dg"


def test_what_must_not_be_written_includes_the_forms_in_which_it_travels() -> None:
    revealed = Credentials.from_environment(FULL).revealed()
    assert {"p&ss word", "p%26ss%20word", "m:dia word", "sk-0123456789"} <= set(revealed)
    assert base64.b64encode(b"engine:p&ss word").decode() in revealed
    assert base64.b64encode(b"engine:m:dia word").decode() in revealed
    assert "engine" not in revealed


def test_a_missing_credential_names_its_variable_and_what_needs_it() -> None:
    nothing, everything = Credentials(), Credentials.from_environment(FULL)
    assert missing_credentials("openai_realtime", everything) == []
    assert [line.split()[0] for line in missing_credentials("openai_realtime", nothing)] == [
        "ASTERISK_ARI_USERNAME",
        "ASTERISK_ARI_PASSWORD",
        "OPENAI_API_KEY",
    ]
    assert len(missing_credentials("local", nothing)) == 2
    assert missing_for_provider("local", nothing) is None


def test_the_environment_wins_over_the_env_file_unless_it_is_empty(tmp_path: Path) -> None:
    env = tmp_path / ".env"
    env.write_text("# c\nexport A=file\nB='file # b'\nC=${A}\nD=file\nE=\nF\n")
    environ = {"A": "environ", "D": "", "G": ""}
    assert read_environment(env, environ) == {
        "A": "environ", "B": "file # b", "C": "${A}", "D": "file", "E": "", "G": "",
    }  # fmt: skip
    assert read_environment(tmp_path / "none", environ) == environ


def test_an_env_file_that_is_no_text_is_told_in_one_line(tmp_path: Path) -> None:
    env = tmp_path / ".env"
    env.write_bytes(b"A=\xff")
    with pytest.raises(ConfigError, match=r"\.env: not UTF-8 text"):
        read_environment(env, {})


def test_the_example_env_file_names_exactly_the_variables_that_are_read() -> None:
    written = read_environment(ROOT / ".env.example", {})
    assert set(written) == set(FULL)
    assert not any(written.values())
