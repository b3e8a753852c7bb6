"""What commands share: their options, and how they fail."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from engine.credentials import Credentials, read_environment

FAILED = 1
MISCONFIGURED = 2

ConfigOption = Annotated[Path, typer.Option("--config", help="The configuration file.", metavar="FILE")]
EnvOption = Annotated[
    Path,
    typer.Option(
        "--env",
        help="A file of NAME=value lines; variables of the environment win over it.",
        metavar="FILE",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]

DEFAULT_CONFIG = Path("config/ai-agent.yaml")
DEFAULT_ENV = Path(".env")


def fail(exit_code: int, *lines: str) -> NoReturn:
    """Ends the command with ``lines`` on standard error."""
    for line in lines:
        typer.echo(line, err=True)
    raise typer.Exit(exit_code)


def credentials_from(env_file: Path) -> Credentials:
    """Raises ConfigError when the file is there and cannot be read."""
    return Credentials.from_environment(read_environment(env_file, os.environ))
