"""``voice-engine config``: is the configuration right, and what is it in the end."""

from __future__ import annotations

import json
from typing import Any

import typer
import yaml

from engine.cli.common import (
    DEFAULT_CONFIG,
    DEFAULT_ENV,
    MISCONFIGURED,
    ConfigOption,
    EnvOption,
    JsonOption,
    credentials_from,
    fail,
)
from engine.config import ConfigError, load_config
from engine.credentials import VARIABLES, missing_credentials

config_commands = typer.Typer(help="Check and show the configuration.", no_args_is_help=True)


@config_commands.command()
def validate(config: ConfigOption = DEFAULT_CONFIG, env: EnvOption = DEFAULT_ENV, as_json: JsonOption = False) -> None:
    """Check the file: exit code 0 if it is valid, 2 and a line for each problem if it is not.

    A missing credential is a warning here; run refuses to start without it.
    """
    errors: tuple[str, ...] = ()
    warnings: list[str] = []
    try:
        settings = load_config(config)
        warnings = missing_credentials(settings.default_provider, credentials_from(env))
    except ConfigError as error:
        errors = error.problems
    if as_json:
        typer.echo(json.dumps({"valid": not errors, "errors": errors, "warnings": warnings}, indent=2))
    if errors:
        fail(MISCONFIGURED, *(() if as_json else errors))
    if not as_json:
        for warning in warnings:
            typer.echo(f"warning: {warning}", err=True)
        typer.echo(f"{config}: valid; calls are answered by {settings.default_provider}")


@config_commands.command()
def show(config: ConfigOption = DEFAULT_CONFIG, env: EnvOption = DEFAULT_ENV, as_json: JsonOption = False) -> None:
    """Show the settings in effect, defaults included. Of credentials, only whether they are set."""
    try:
        settings = load_config(config)
        credentials = credentials_from(env)
    except ConfigError as error:
        fail(MISCONFIGURED, *error.problems)
    are_set = {variable: credentials.has(name) for name, variable in VARIABLES.items()}
    effective = _whole(settings.model_dump(mode="json"))
    if as_json:
        typer.echo(json.dumps({"config": effective, "credentials": are_set}, indent=2))
        return
    for variable, is_set in are_set.items():
        typer.echo(f"# {variable}: {'set' if is_set else 'not set'}")
    typer.echo(yaml.safe_dump(effective, sort_keys=False, allow_unicode=True, width=100), nl=False)


def _whole(value: Any) -> Any:
    """Numbers as an operator writes them: 10 seconds, not 10.0."""
    if isinstance(value, dict):
        return {key: _whole(inner) for key, inner in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value
