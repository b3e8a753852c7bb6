"""Changing one key of a YAML text and nothing else."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from engine.config_edit import with_default_provider
from engine.config_file import ConfigError, parse


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("default_provider: local  # why\nhttp: {}\n", "default_provider: NEW  # why\nhttp: {}\n"),
        ("default_provider : 'local'\r\n", "default_provider : 'NEW'\r\n"),
        ('"default_provider": "local"', '"default_provider": "NEW"'),
        ('{"default_provider":"local","http":{}}', '{"default_provider":"NEW","http":{}}'),
        ("{http: {}, default_provider: local}", "{http: {}, default_provider: NEW}"),
        ("default_provider:\n  # here\n  local\n", "default_provider:\n  # here\n  NEW\n"),
        ("default_provider: &name !!str local\n", "default_provider: &name !!str NEW\n"),
        ("a: &name local\ndefault_provider: *name # c\n", "a: &name local\ndefault_provider: NEW # c\n"),
        ("? default_provider\n: local\n", "? default_provider\n: NEW\n"),
        ("default_provider: >- # c\n  local\n\nhttp: {}\n", "default_provider: >- # c\n  NEW\n\nhttp: {}\n"),
        ("http: {}\ndefault_provider:", "http: {}\ndefault_provider: NEW"),
        ("default_provider:  # which?\nhttp: {}\n", "default_provider: NEW  # which?\nhttp: {}\n"),
        ("llm: {default_provider: local}\n", "default_provider: NEW\nllm: {default_provider: local}\n"),
        ("\ufeff# grüezi ☎\rhttp: {}\r", "\ufeff# grüezi ☎\rdefault_provider: NEW\rhttp: {}\r"),
        ("\ufeffhttp: {}\r\n", "\ufeffdefault_provider: NEW\r\nhttp: {}\r\n"),
        ("# head\n\n# http\nhttp: {}\n", "# head\n\ndefault_provider: NEW\n# http\nhttp: {}\n"),
        ("# head\n\nhttp: {}\n", "# head\n\ndefault_provider: NEW\nhttp: {}\n"),
        ("%YAML 1.1\n---\n# c\nhttp: {}\n", "%YAML 1.1\n---\n# c\ndefault_provider: NEW\nhttp: {}\n"),
        ("  http: {}\n  llm: {}\n", "  default_provider: NEW\n  http: {}\n  llm: {}\n"),
        ("# c\n{http: {}}\n", "# c\n{default_provider: NEW, http: {}}\n"),
        ("{}", "{default_provider: NEW}"),
    ],
)
def test_the_value_is_replaced_and_all_else_stays(before: str, after: str) -> None:
    assert with_default_provider(before, "NEW") == after
    assert yaml.safe_load(after)["default_provider"] == "NEW"


@pytest.mark.parametrize(
    "text",
    [
        "default_provider: [local]\n",
        "default_provider: {a: b}\n",
        "default_provider:\n- local\n",
        "default_provider:\n  a: b\n",
        "default_provider: |\n  two\n  lines\n",
        "? default_provider\n",
    ],
)
def test_what_cannot_be_replaced_in_place_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="change it by hand"):
        with_default_provider(text, "NEW")


comments = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "Zs", "So"]), max_size=12)
values = st.sampled_from(["1", "x", "'it''s'", '"a\\tb"', "[1, {{b: c}}]", "&anchor{} v", "|\n  text\n  more", "☎ ünï"])
written = st.sampled_from(["local", "'local'", '"local"', "&d local", "!!str local", "!!str &d 'local'", ""])


@st.composite
def files(draw: st.DrawFn) -> str:
    """A mapping in block or flow style with the key somewhere, in some style, or without it."""
    others = draw(st.lists(st.tuples(st.sampled_from(["http", "llm", "z_1"]), values), max_size=3))
    entries = [f"{key}{number}: {value.format(number)}" for number, (key, value) in enumerate(others)]
    if draw(st.booleans()) or not entries:
        name = draw(st.sampled_from(["default_provider", "'default_provider'", '"default_provider"']))
        gap = " " * draw(st.integers(1, 3))
        entries.insert(draw(st.integers(0, len(entries))), f"{name}:{gap}{draw(written)}")
    if draw(st.booleans()):
        assume(not any("\n" in entry for entry in entries))
        return draw(st.sampled_from(["", "# c\n", "\ufeff"])) + "{" + ", ".join(entries) + "}"
    lines = []
    for entry in entries:
        lines += [f"# {draw(comments)}"] * draw(st.integers(0, 2)) + [""] * draw(st.integers(0, 1))
        lines.append(f"{entry} # {draw(comments)}" if draw(st.booleans()) and "\n" not in entry else entry)
    text = draw(st.sampled_from(["", "\ufeff", "---\n", "# head\n\n"])) + "\n".join(lines)
    return (text + draw(st.sampled_from(["", "\n", "\n# end"]))).replace("\n", draw(st.sampled_from(["\n", "\r\n"])))


@given(files())
@settings(max_examples=400, deadline=None)
def test_in_any_file_the_meaning_changes_only_at_the_key_and_the_text_only_in_one_place(text: str) -> None:
    before = parse(text, "before")
    changed = with_default_provider(text, "openai_realtime")
    after = parse(changed, "after")
    assert after.problems == []
    assert after.data == {**before.data, "default_provider": "openai_realtime"}
    # One stretch of the text was replaced: what is common at the start and at the end leaves only the name.
    old = before.data.get("default_provider")
    if old:
        assert changed.replace("openai_realtime", old, 1) == text
        assert with_default_provider(changed, old) == text
    elif "default_provider" in before.data:
        assert changed.replace(" openai_realtime", "", 1) == text
    else:
        start, end = changed.split("default_provider: openai_realtime", 1)
        assert text in {start + end.removeprefix(added) for added in (", ", "\r\n", "\n", "")}
