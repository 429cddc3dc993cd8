"""``tapestry node submit``: hand in what was signed elsewhere."""

from pathlib import Path

import click

from tapestry.cli import console
from tapestry.cli.commands import PATH, Argument, Command, as_json
from tapestry_node.operator_commands import node_folder


@click.command(cls=Command)
@node_folder
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
    """Hand in signed entries, of any member, with the node's next cosignature.

    Each is checked against the node's copy of the log first. Between runs a
    cosignature may be an hour away, or what the coordinator sets as cosign_every.
    """
    from tapestry_governance.founding_files import read_entry
    from tapestry_node import submission

    entries = [read_entry(path) for path in files]
    new = submission.submit(folder, entries)
    if as_json:
        found = zip(files, new, strict=True)
        console.say_json({"waiting": {str(path): is_new for path, is_new in found}})
        return
    for path, is_new in zip(files, new, strict=True):
        next_one = "handed in with the next cosignature, within about an hour (the"
        next_one += " coordinator's cosign_every) between runs"
        console.say(f"{path}: {next_one if is_new else 'in the log already'}")
