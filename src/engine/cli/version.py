"""``voice-engine version``."""

from __future__ import annotations

from importlib.metadata import version as installed_version

import typer


def version() -> None:
    """Show the version."""
    typer.echo(f"voice-engine {installed_version('voice-engine')}")
