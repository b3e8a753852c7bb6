"""The rooms of the house and who may look into which."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src"
ALLOWED = {
    "audio": {"audio"},
    "transport": {"audio", "transport"},
    "providers": {"audio", "providers"},
    "engine": {"audio", "transport", "providers", "engine"},
}
CONCRETE = {
    "transport.audiosocket": {"engine.app"},
    "transport.rtp": {"engine.app"},
    "transport.websocket_client": {"engine.app"},
    "transport.websocket_server": {"engine.app"},
    "providers.openai_realtime": {"engine.app", "engine.config"},
    "providers.local": {"engine.app", "engine.config"},
}
"""Who outside their own room may name the concrete classes."""


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path} imports relatively"
            found.add(node.module)
    return found


def _modules() -> dict[str, set[str]]:
    return {
        ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): _imports(path)
        for path in SOURCE.rglob("*.py")
    }


@pytest.mark.parametrize("room", ALLOWED)
def test_rooms_import_only_what_they_may(room: str) -> None:
    for module, imports in _modules().items():
        if module.split(".")[0] == room:
            ours = {name for name in imports if name.split(".")[0] in ALLOWED}
            forbidden = {name for name in ours if name.split(".")[0] not in ALLOWED[room]}
            assert not forbidden, f"{module} imports {forbidden}"


@pytest.mark.parametrize("concrete", CONCRETE)
def test_concrete_classes_are_named_in_the_composition_root_alone(concrete: str) -> None:
    for module, imports in _modules().items():
        outside = module.split(".")[0] != concrete.split(".")[0]
        if outside and any(name == concrete or name.startswith(f"{concrete}.") for name in imports):
            assert module in CONCRETE[concrete], f"{module} names {concrete}"


def test_providers_do_not_know_each_other() -> None:
    for module, imports in _modules().items():
        if module.startswith("providers.openai_realtime"):
            assert not any(name.startswith(("providers.local", "providers.pipeline")) for name in imports)
        if module.startswith(("providers.local", "providers.pipeline")):
            assert not any(name.startswith("providers.openai_realtime") for name in imports)
        if module.startswith("providers.pipeline"):
            assert not any(name.startswith("providers.local") for name in imports)
