"""The command line: ``voice-engine`` and ``python -m engine``. A file here is a command or a group."""

from __future__ import annotations

import typer

from engine.cli.config import config_commands
from engine.cli.run import run
from engine.cli.version import version

EXIT_CODES = """
Exit codes: 0 all went well; 1 the engine could not start, or failed; 2 the configuration, a credential or the
command line is wrong.
"""

app = typer.Typer(
    name="voice-engine",
    help="A voice engine that answers telephones: Asterisk on one side, an AI agent on the other.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,  # they would show local variables, and what is secret in them
)
app.command(epilog=EXIT_CODES)(run)
app.add_typer(config_commands, name="config")
app.command()(version)


def main() -> None:
    app()
