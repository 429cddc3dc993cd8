"""``tapestry coordinator plan`` and ``run``: plan runs, and lead them."""

import logging
import signal
import threading
from pathlib import Path
from typing import TypedDict, Unpack

import click

from tapestry.cli import console
from tapestry.cli.commands import PATH, Argument, Command, as_json
from tapestry_coordinator.founding_commands import folder_argument, read_folder

_DIGITS = 18  # of a number among a workload's options


class _PlanOptions(TypedDict):
    base: str | None
    held_out: Path
    rounds: int
    epsilon: float
    steps: int
    batch_size: int
    learning_rate: float
    clip_norm: float
    rank: int
    target: tuple[str, ...]
    option: tuple[str, ...]
    as_json: bool


@click.command(cls=Command)
@folder_argument
@click.argument("name", cls=Argument, metavar="RUN", help="The run's name.")
@click.option(
    "--base",
    metavar="BASE",
    help="The model to start from; default: the newest release.",
)
@click.option(
    "--held-out",
    type=PATH,
    metavar="DIR",
    required=True,
    help="Public data, a file for each language, by which each round is judged.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    metavar="N",
    default=10,
    show_default=True,
    help="How many rounds, with one release after the last.",
)
@click.option(
    "--epsilon",
    type=click.FloatRange(min=0.01, max=1000),
    metavar="E",
    default=4.0,
    show_default=True,
    help="Of the whole run, for the institution with the fewest records.",
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    metavar="N",
    default=4,
    show_default=True,
    help="Of training, in a round.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    metavar="N",
    default=16,
    show_default=True,
    help="Records of a step, on average.",
)
@click.option(
    "--learning-rate",
    type=float,
    metavar="RATE",
    default=0.5,
    show_default=True,
    help="Of a step.",
)
@click.option(
    "--clip-norm",
    type=float,
    metavar="NORM",
    default=0.5,
    show_default=True,
    help="Of a record's gradient.",
)
@click.option(
    "--rank",
    type=click.IntRange(0, 1024),
    metavar="R",
    default=8,
    show_default=True,
    help="Of the low-rank update; 0 trains all parameters.",
)
@click.option(
    "--target",
    multiple=True,
    metavar="NAME",
    help="A module that the update moves; default: chosen from the model.",
)
@click.option(
    "--option",
    multiple=True,
    metavar="KEY=VALUE",
    help="An option of the workload, such as sequence_length=96.",
)
@as_json
def plan(folder: Path, name: str, **given: Unpack[_PlanOptions]) -> None:
    """Plan a run, say what it costs, and put it into the queue.

    Nothing is queued that a member could not afford by the log.
    """
    from tapestry_coordinator.run_planner import Wish, newest_release, plan_run

    wish = Wish(
        name=name,
        base=given["base"] or newest_release(folder),
        held_out=given["held_out"],
        rounds=given["rounds"],
        epsilon=given["epsilon"],
        steps=given["steps"],
        batch_size=given["batch_size"],
        learning_rate=given["learning_rate"],
        clip_norm=given["clip_norm"],
        rank=given["rank"],
        targets=given["target"],
        options=dict(_option(text) for text in given["option"]),
    )
    found = plan_run(folder, wish)
    if given["as_json"]:
        console.say_json(found.to_json())
        return
    for line in found.lines():
        console.say(line)


@click.command(cls=Command)
@folder_argument
def run(folder: Path) -> None:
    """Lead the federation until stopped: SuperLink, cosigning, queued runs.

    Stop it with Ctrl-C or SIGTERM at any time; the next start goes on from there.
    """
    from tapestry_coordinator.superlink.service_process import serve

    console.start_logging()
    logging.getLogger("httpx").setLevel(logging.WARNING)
    stop = threading.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: stop.set())

    def tick() -> None:
        if stop.is_set():
            raise KeyboardInterrupt

    try:
        serve(folder, tick=tick)
    except KeyboardInterrupt:
        console.note("stopped")


@click.command(cls=Command)
@folder_argument
@click.argument(
    "files",
    cls=Argument,
    type=PATH,
    metavar="FILE...",
    nargs=-1,
    help="Signed entries: votes, proposals, of any member.",
)
@as_json
def submit(folder: Path, files: tuple[Path, ...], as_json: bool) -> None:
    """Take signed entries of members, also while the service runs.

    Each is checked against the log, and gets into it when that is cosigned next. A
    recovered log that names another coordinator takes the proposal and the votes on
    this one at once, and writes the ballot.
    """
    from tapestry_coordinator.inbox import Inbox, check_entries
    from tapestry_coordinator.recovered_folder import take
    from tapestry_governance.founding_files import read_entry

    entries = [read_entry(path) for path in files]
    if (taken := take(folder, entries)) is not None:
        console.say_json(taken.to_json()) if as_json else None
        for line in [] if as_json else taken.lines(folder):
            console.say(line)
        return
    check_entries(folder, entries)
    for entry in entries:
        Inbox(folder).put(entry)
    if as_json:
        console.say_json({"waiting": [str(path) for path in files]})
        return
    for path in files:
        console.say(f"{path}: in the log with the next cosignatures")


@click.command(cls=Command)
@folder_argument
@click.argument("name", cls=Argument, metavar="RUN", help="The run's name.")
@as_json
def end(folder: Path, name: str, as_json: bool) -> None:
    """End a run when its round has ended, release what it gave, and begin the next.

    The service does so, or its next start. Members that are away are not waited for.
    """
    from tapestry_coordinator.run_requests import ask_to_end

    ask_to_end(folder, name)
    _say_asked(folder, name, "end", as_json=as_json)


@click.command(cls=Command)
@folder_argument
@click.argument("name", cls=Argument, metavar="RUN", help="The run's name.")
@as_json
def retry(folder: Path, name: str, as_json: bool) -> None:
    """Try a run again that failed, or one that waits at once.

    It goes on where it was left, as long as the log has not gone on with another run.
    What a failed round cost its members stays spent.
    """
    from tapestry_coordinator.run_requests import ask_again
    from tapestry_coordinator.run_status import runs_opened

    ask_again(folder, name, opened=runs_opened(folder))
    _say_asked(folder, name, "retry", as_json=as_json)


def _say_asked(folder: Path, name: str, verb: str, *, as_json: bool) -> None:
    from tapestry_coordinator.superlink.outcome import is_worked_on

    serving = is_worked_on(folder)
    if as_json:
        console.say_json({"run": name, "asked": verb, "serving": serving})
        return
    when = "of the service that runs" if serving else "of the next start"
    console.say(f"{verb:<8}run {name} is asked {when}")


@click.command(cls=Command)
@read_folder
@click.option(
    "--output", "-o", type=PATH, metavar="DIR", required=True, help="The new bundle."
)
@as_json
def bundle(folder: Path, output: Path, as_json: bool) -> None:
    """Write what an auditor verifies: log, evidence, adapters, releases by digest."""
    from tapestry_coordinator.audit_bundle import collect_bundle

    collect_bundle(folder, output)
    if as_json:
        console.say_json({"bundle": str(output)})
        return
    console.say(f"bundle  {output}: check it with tapestry audit verify {output}")


def _option(text: str) -> tuple[str, int | str]:
    """Read an option of a workload.

    Raises:
        ConfigError: The text is not KEY=VALUE, or a number has too many digits.
    """
    from tapestry.errors import ConfigError

    key, equals, value = text.partition("=")
    if not key or not equals:
        raise ConfigError(
            f"--option {text!r} is not KEY=VALUE; for example sequence_length=96",
            code="usage",
        )
    if not value.isdecimal():
        return key, value
    if len(value) > _DIGITS:
        raise ConfigError(
            f"--option {key[:40]} has a number of {len(value)} digits; give at most"
            f" {_DIGITS}",
            code="usage",
        )
    return key, int(value)
