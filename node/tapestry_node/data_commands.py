"""``tapestry node data``: what an institution does with its records over the years."""

from pathlib import Path

import click

from tapestry.cli import console
from tapestry.cli.commands import PATH, Command, CommandGroup, as_json
from tapestry_node.operator_commands import node_folder


@click.group(cls=CommandGroup)
def data() -> None:
    """An institution's records: withdraw persons from them."""


@data.command(cls=Command)
@node_folder
@click.option(
    "--keys",
    "listed",
    type=PATH,
    metavar="FILE",
    required=True,
    help="The keys (ids) of the persons, one in a line; - for standard input.",
)
@click.option(
    "--plan", is_flag=True, help="Show what rests on them, and withdraw nobody."
)
@as_json
def withdraw(folder: Path, listed: Path, plan: bool, as_json: bool) -> None:
    """Train on some persons no more, from now on, also while the node runs.

    The log gets their number with the next version of the data, rounded down. Shown is
    what was trained on their blocks, and what it costs to make it again without them.
    Take their rows out of the folder as well.
    """
    from tapestry_node.data import withdrawal

    done = withdrawal.run(folder, listed, only_plan=plan)
    if as_json:
        console.say_json(done.to_json())
        return
    if not plan:
        console.say(f"withdrawn  {done.withdrawn} of {done.listed}; they train no more")
    for label, text in done.plan.lines():
        console.say(f"{label:<9}  {text}")
