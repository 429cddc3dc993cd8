"""The command line: pick the role, map errors to exit status.

A role's module is imported only when it is asked for, so auditing never loads a
machine-learning stack. Exit status: 0 done, or it holds; 1 refused, or it does not
hold; 2 wrong usage. ``tapestry audit`` and ``tapestry adapter`` have their own, see
there.
"""

import importlib
import os
import sqlite3
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import click
import typer
from typer.core import TyperGroup

from tapestry import __version__
from tapestry.errors import TapestryError

_ROLES = {
    "demo": ("tapestry.cli.demo", "The whole story, on one machine."),
    "node": ("tapestry.cli.node", "An institution's node: run it, see what it spent."),
    "coordinator": ("tapestry.cli.coordinator", "Lead a federation's run."),
    "adapter": ("tapestry.cli.adapter", "Check and list country adapters."),
    "release": ("tapestry.cli.release", "Check a released base model."),
    "chat": ("tapestry.cli.chat", "Ask a base and its adapters, side by side."),
    "audit": ("tapestry.cli.audit", "Check everything, from files alone."),
}


class _Lazy(TyperGroup):
    """A group whose commands are imported when they are needed."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """Name the roles, in the order of the handbook."""
        return list(_ROLES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a role."""
        if cmd_name not in _ROLES:
            return None
        module, summary = _ROLES[cmd_name]
        if ctx.resilient_parsing or "--help" in sys.argv[1:2]:
            return click.Command(cmd_name, short_help=summary, help=summary)
        found: Any = importlib.import_module(module)
        command: click.Command = typer.main.get_command(found.app)
        command.name = cmd_name
        return command


def _version(wanted: bool) -> None:
    if wanted:
        print(f"tapestry {__version__}")
        raise typer.Exit


app = typer.Typer(
    cls=_Lazy,
    help="Institutions train one open base model together; no record leaves its node.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _root(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_version
        ),
    ] = False,
) -> None:
    """Nothing to do before a command."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # neighbours may be busy, too
    try:
        app(args=None if arguments is None else list(arguments))
    except TapestryError as error:
        print(f"tapestry: {error}", file=sys.stderr)
        sys.exit(1)
    except (OSError, sqlite3.Error) as error:  # the machine's; no bug of ours
        print(f"tapestry: {_in_one_line(error)}", file=sys.stderr)
        sys.exit(1)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("tapestry"):
            raise
        print(
            f"tapestry: {error.name} is not installed; this command needs more than an"
            " auditor's install; in the source folder: make setup, or pip install"
            " '.[demo]'",
            file=sys.stderr,
        )
        sys.exit(1)
    except KeyboardInterrupt:
        print("tapestry: interrupted", file=sys.stderr)
        sys.exit(130)


def _in_one_line(error: OSError | sqlite3.Error) -> str:
    """Say what the machine refuses, and where."""
    why = getattr(error, "strerror", None) or str(error) or type(error).__name__
    where = getattr(error, "filename", None)
    return " ".join((f"{where}: {why}" if where else str(why)).split())
