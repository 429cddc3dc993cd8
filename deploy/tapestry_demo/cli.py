"""``tapestry demo``: four institutions on one machine, from nothing to a report."""

from pathlib import Path

import click

from tapestry.cli.commands import PATH, Command
from tapestry.environment import require_docstrings


@click.command(cls=Command)
@click.option(
    "--out",
    type=PATH,
    metavar="DIR",
    help="A folder that is empty or not there yet; default: demo, or the first of"
    " demo-2, demo-3 ... that is free.",
)
@click.option(
    "--engine",
    type=click.Choice(["inprocess", "flower"]),
    help="In this process, or over a real SuperLink; default: inprocess.",
)
@click.option(
    "--base",
    metavar="NAME",
    help="The base: smollm2, tiny, or a Hugging Face folder; default: smollm2.",
)
@click.option(
    "--threads",
    type=int,
    metavar="N",
    default=0,
    show_default=True,
    help="Threads of torch; 0 takes all cores.",
)
@click.option(
    "--references",
    is_flag=True,
    help="Train on all the text in one place as well, with and without noise, to"
    " compare; takes half as long again.",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Go on with the demo in --out; default: the last one that is unfinished.",
)
def app(
    out: Path | None,
    engine: str | None,
    base: str | None,
    threads: int,
    references: bool,
    resume: bool,
) -> None:
    """Four institutions, one base, an adapter each, and a log to check it by.

    Stop it with Ctrl-C at any time; --resume goes on from there.
    """
    require_docstrings()
    from tapestry_demo.demo_command import DemoOptions, start_or_resume

    options = DemoOptions(
        engine=engine, base=base, threads=threads, references=references
    )
    start_or_resume(out, options, resume=resume)
