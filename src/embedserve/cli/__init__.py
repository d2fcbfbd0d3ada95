"""The command line: one module a command, each imported only when it is the one that runs."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Annotated

import typer

from embedserve import __version__
from embedserve.errors import EmbedserveError

COMMANDS = {
    "serve": "Start the server.",
    "embed": "Turn the texts of files into vectors, without a server.",
    "batch": "Let a server embed files at half price: submit, status, results, cancel.",
    "keys": "Make, list, change, revoke and rotate API keys.",
    "backup": "Copy keys, usage and jobs to a file while servers run.",
    "usage": "Say what was used, by key, workspace, model or day.",
    "models": "Bring, look at, prove and delete models besides the bundled one.",
    "eval": "Measure vectors on a suite of tasks.",
    "doctor": "Say what this machine offers and what embedserve makes of it.",
}
"""name -> help line; ``embedserve.cli.<name>`` holds the command ``<name>``, or a group as ``app``."""


def build(wanted: str | None) -> typer.Typer:
    """The command line with ``wanted`` loaded; the others are stand-ins that only show their help line."""
    app = typer.Typer(
        help=f"embedserve {__version__}: text-embedding-v4 on your own machine.",
        no_args_is_help=True,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        pretty_exceptions_enable=False,
    )
    app.callback()(_options)
    for name, help_line in COMMANDS.items():
        if name != wanted:
            app.command(name, help=help_line)(_stand_in)
            continue
        module = import_module(f"embedserve.cli.{name}")
        if group := getattr(module, "app", None):
            app.add_typer(group, name=name, help=help_line)
        else:
            app.command(name, help=help_line)(getattr(module, name))
    return app


def _print_version(asked: bool) -> None:
    if asked:
        print(__version__)
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it and end.")
    ] = False,
) -> None:
    if any(name.upper().startswith("EMBEDSERVE_") for name in os.environ):
        from embedserve.configuration import check_names

        check_names(os.environ)


def _stand_in() -> None:
    """Never runs: the command that was asked for is always loaded."""


def main() -> None:
    """Entry point of the ``embedserve`` command; refusals are one line on stderr and exit code 2."""
    wanted = next((word for word in sys.argv[1:] if not word.startswith("-")), None)
    try:
        build(wanted)()
    except EmbedserveError as error:
        print(f"embedserve: {error.message}", file=sys.stderr)
        sys.exit(2)
