"""Changes one key of a YAML text and leaves every other character as it is."""

from __future__ import annotations

import re
from itertools import pairwise, takewhile

import yaml

from engine.config_file import ConfigError

KEY = "default_provider"
NOT_PLAIN = f"{KEY} is not written as a plain value; change it by hand"

_LINE_END = re.compile(r"\r\n|\n|\r")
_COLLECTION_STARTS = (
    yaml.BlockEntryToken,
    yaml.BlockMappingStartToken,
    yaml.BlockSequenceStartToken,
    yaml.FlowMappingStartToken,
    yaml.FlowSequenceStartToken,
)


def with_default_provider(text: str, provider: str) -> str:
    """``text`` with ``default_provider`` set to ``provider``, the key added at the top if it is missing.

    Quotes, comments, anchors, line ends and the byte order mark stay. ``text`` must be a YAML mapping that
    parses; whether the result means what it should is for the caller to check, by parsing it. Raises
    ConfigError where the value is written in a way that cannot be changed in place.
    """
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError("expected 'key: value' lines at the top level")
    tokens = list(yaml.scan(text, Loader=yaml.SafeLoader))
    for key, _ in root.value:
        if key.value == KEY:
            start, end, replacement = _replacement(text, tokens, key.end_mark.index, provider)
            return text[:start] + replacement + text[end:]
    return _with_key_added(text, tokens, provider)


def _replacement(text: str, tokens: list[yaml.Token], key_end: int, provider: str) -> tuple[int, int, str]:
    """What to put in place of which characters, for the value of the key that ends at ``key_end``."""
    colon_or_property = None
    for token in tokens:
        start, end = token.start_mark.index, token.end_mark.index
        if start < key_end:
            continue
        if isinstance(token, yaml.ValueToken | yaml.AnchorToken | yaml.TagToken):
            colon_or_property = token
        elif colon_or_property is None or isinstance(token, _COLLECTION_STARTS):
            break
        elif isinstance(token, yaml.AliasToken):
            return start, end, provider
        elif not isinstance(token, yaml.ScalarToken):
            nothing = colon_or_property.end_mark.index
            return nothing, nothing, f" {provider}"
        elif token.style in ("|", ">"):
            return _in_block(text[start:end], str(token.value).strip(), start, provider)
        else:
            quote = "" if token.plain else token.style
            return start, end, f"{quote}{provider}{quote}"
    raise ConfigError(NOT_PLAIN)


def _in_block(block: str, value: str, start: int, provider: str) -> tuple[int, int, str]:
    header = _LINE_END.search(block)
    if header is None or not value or _LINE_END.search(value):
        raise ConfigError(NOT_PLAIN)
    found = start + block.index(value, header.end())
    return found, found + len(value), provider


def _with_key_added(text: str, tokens: list[yaml.Token], provider: str) -> str:
    mapping_starts = yaml.FlowMappingStartToken | yaml.BlockMappingStartToken
    opening, following = next(pair for pair in pairwise(tokens) if isinstance(pair[0], mapping_starts))
    if isinstance(opening, yaml.FlowMappingStartToken):
        place: int = opening.end_mark.index
        empty = isinstance(following, yaml.FlowMappingEndToken)
        return f"{text[:place]}{KEY}: {provider}{'' if empty else ', '}{text[place:]}"
    first_key = opening.start_mark
    found = _LINE_END.search(text)
    indent, line_end = " " * first_key.column, found.group() if found else "\n"
    line = f"{indent}{KEY}: {provider}{line_end}"
    head = _end_of_head(text, first_key.index - first_key.column)
    return text[:head] + line + text[head:]


def _end_of_head(text: str, first_key_line: int) -> int:
    """Where the comment at the file's head ends: before one that belongs to the first key."""
    lines = text[:first_key_line].splitlines(keepends=True)
    own = sum(1 for _ in takewhile(_is_comment, reversed(lines)))
    head = lines[: len(lines) - own]
    set_apart = own and head and not head[-1].strip()
    return sum(map(len, head)) if set_apart and any(map(_is_comment, head)) else first_key_line


def _is_comment(line: str) -> bool:
    return line.lstrip("\ufeff \t").startswith("#")
