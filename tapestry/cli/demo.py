"""``tapestry demo``: four institutions on one machine, from nothing to a report."""

from pathlib import Path

import click

from tapestry.cli.commands import PATH, Command


@click.command(cls=Command)
@click.option(
    "--out",
    type=PATH,
    metavar="DIR",
    default=Path("demo"),
    show_default=True,
    help="A folder that does not exist yet.",
)
@click.option(
    "--engine",
    type=click.Choice(["inprocess", "flower"]),
    default="inprocess",
    show_default=True,
    help="In this process, or over a real SuperLink.",
)
@click.option(
    "--base",
    metavar="NAME",
    default="smollm2",
    show_default=True,
    help="The base: smollm2, tiny, or a Hugging Face folder.",
)
@click.option(
    "--threads",
    type=int,
    metavar="N",
    default=0,
    show_default=True,
    help="Threads of torch; 0 takes all cores.",
)
def app(out: Path, engine: str, base: str, threads: int) -> None:
    """Four institutions, one base, an adapter each, and a log to check it by."""
    from tapestry.cli.story import show

    show(out, engine=engine, base=base, threads=threads)
