"""The command line: picks the role, maps every error to a line and an exit status.

A role's module is imported only when it is asked for, and what it needs only when it
runs, so that auditing never loads a machine-learning stack and help loads nothing. The
exit statuses are in ``exit_status``; only ``main`` turns an error into one.

Guarantees:
    Whatever goes wrong ends as one line on standard error, and no traceback. The text
    of an unexpected error is not shown, as it may carry a record;
    ``TAPESTRY_TRACEBACK=1`` shows it on this machine.
"""

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from tapestry import __version__
from tapestry.cli import console
from tapestry.cli.commands import NoVerb, Roles, usage_error
from tapestry.cli.exit_status import ExitStatus, is_broken_pipe, status_of
from tapestry.cli.failures import describe
from tapestry.environment import require_current_folder
from tapestry.errors import TapestryError
from tapestry.inputs.faults import ManyFaults, wants_traceback
from tapestry.inputs.private_data import frames_of

_ROLES = {
    "demo": ("tapestry_demo.cli", "The whole story, on one machine."),
    "node": ("tapestry_node.cli", "An institution's node: run it, see what it spent."),
    "coordinator": (
        "tapestry_coordinator.cli",
        "Found a federation and lead its runs.",
    ),
    "governance": (
        "tapestry_governance.cli.governance",
        "Decide as a member: accept a charter, propose, vote.",
    ),
    "witness": (
        "tapestry_governance.cli.witness",
        "Cosign a federation's log without being a member.",
    ),
    "adapter": (
        "tapestry_node.adapter_commands",
        "Train and publish your adapters, check and list all.",
    ),
    "release": ("tapestry_governance.cli.release", "Check a released base model."),
    "chat": ("tapestry_serve.cli", "Ask a base and its adapters, side by side."),
    "serve": (
        "tapestry_serve.serve_commands",
        "Serve a base and its adapters over HTTP.",
    ),
    "audit": ("tapestry_governance.cli.audit", "Check everything, from files alone."),
}


def _print_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        console.say(f"tapestry {__version__}")
        context.exit()


@click.group(cls=Roles)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_version,
    help="Print the version.",
)
def app() -> None:
    """Institutions train one open base model together; no record leaves its node."""


app.modules = _ROLES


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # neighbours may be busy, too
    console.prepare()
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = _run(words)
        console.finish()
    except BaseException as error:  # noqa: BLE001  the last place where one can be told
        status = _end(error, words)
    sys.exit(int(status))


def _run(words: list[str]) -> ExitStatus:
    """Run a command and return its status."""
    require_current_folder()
    try:
        with app.make_context("tapestry", words) as context:
            return ExitStatus(app.invoke(context) or ExitStatus.HOLDS)
    except click.exceptions.Exit as error:
        return ExitStatus(error.exit_code)
    except click.UsageError as error:
        raise usage_error(error) from None


def _end(error: BaseException, words: Sequence[str]) -> ExitStatus:
    """Print the error, and return the exit status for it."""
    if isinstance(error, NoVerb):
        for line in str(error).splitlines():
            console.note(line)
        return ExitStatus.USAGE
    if is_broken_pipe(error):
        console.abandon()
        return ExitStatus.INCOMPLETE
    status = status_of(error)
    if status is ExitStatus.INTERNAL and wants_traceback():
        for line in frames_of(error).splitlines():
            console.note(line)
    try:
        _tell(error, words, status)
        console.finish()
    except OSError:
        console.abandon()
    return status


def _tell(error: BaseException, words: Sequence[str], status: ExitStatus) -> None:
    """Print the message and the rule's code, with ``--json`` as an object as well.

    Raises:
        OSError: Standard output is closed, full or gone.
    """
    said = describe(error, words[0] if words else "")
    code = error.code if isinstance(error, TapestryError) else status.name.lower()
    first, *others = said.split("\n") if isinstance(error, ManyFaults) else [said]
    for line in (f"tapestry: {first} [{code}]", *others):
        console.note(line)
    if "--json" in words:
        console.say_json({"error": {"code": code, "message": said}})
