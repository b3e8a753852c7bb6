"""``voice-engine run``: answer calls until told to stop."""

from __future__ import annotations

from engine import logs
from engine.cli.common import (
    DEFAULT_CONFIG,
    DEFAULT_ENV,
    FAILED,
    MISCONFIGURED,
    ConfigOption,
    EnvOption,
    credentials_from,
    fail,
)
from engine.config import ConfigError, load_config
from engine.credentials import missing_credentials


def run(config: ConfigOption = DEFAULT_CONFIG, env: EnvOption = DEFAULT_ENV) -> None:
    """Answer calls until told to stop (SIGTERM or Ctrl-C)."""
    try:
        settings = load_config(config)
        credentials = credentials_from(env)
    except ConfigError as error:
        fail(MISCONFIGURED, *error.problems)
    missing = missing_credentials(settings.default_provider, credentials)
    if missing:
        fail(MISCONFIGURED, *missing)
    logs.configure(settings.logging.level, settings.logging.format, credentials.revealed())

    from engine import app  # the other commands answer without loading what only calls need

    try:
        app.run(settings, credentials, config)
    except app.StartupError as error:
        fail(FAILED, str(error))
