"""``tapestry node backup``, ``restore``, ``bundle``, ``export``: copies of a folder."""

from pathlib import Path

import click

from tapestry.cli import console
from tapestry.cli.commands import OWN_FOLDER, PATH, Argument, Command, as_json
from tapestry.cli.exit_status import ExitStatus
from tapestry_node.operator_commands import read_folder

_output = click.option(
    "--output", "-o", type=PATH, metavar="DIR", required=True, help="A new folder."
)


@click.command(cls=Command)
@read_folder
@_output
@as_json
def backup(folder: Path, output: Path, as_json: bool) -> None:
    """Copy the node's state, mirror, settings and public files, also while it runs.

    Keys and records are not copied. Back up keys/ once, apart from these backups; the
    records are yours to back up.
    """
    from tapestry_node.node_backup import back_up

    made = back_up(folder, output)
    if as_json:
        console.say_json({"backup": str(output), "files": len(made.files)})
        return
    console.say(f"backup  {output}: {len(made.files)} files, without keys and records")


@click.command(cls=Command)
@click.argument("backup", cls=Argument, type=PATH, metavar="DIR", help="The backup.")
@click.argument(
    "folder", cls=Argument, type=OWN_FOLDER, metavar="FOLDER", help="A new folder."
)
@as_json
def restore(backup: Path, folder: Path, as_json: bool) -> None:
    """Make a node's folder from a backup; then put keys/ and the records back.

    The restored node joins no round and cosigns nothing until a quorum of the other
    members has cosigned the log anew. All rounds since the backup that name it, and
    one adapter, then count as spent.
    """
    from tapestry_node.node_backup import restore as restore_folder

    found = restore_folder(backup, folder)
    if as_json:
        console.say_json({"folder": str(folder), "of": found.time})
        return
    console.say(f"restored  {folder}: {found.name} as of {found.time}")
    console.say(f"next      put keys/ and the records back into {folder}")
    console.say(f"          in five minutes: tapestry node run {folder}")


@click.command(cls=Command)
@read_folder
@_output
@as_json
def bundle(folder: Path, output: Path, as_json: bool) -> None:
    """Write what an auditor verifies, from the node's own mirror of the log."""
    from tapestry_node.mirror_bundle import collect_bundle

    collect_bundle(folder, output)
    if as_json:
        console.say_json({"bundle": str(output)})
        return
    console.say(f"bundle  {output}: check it with tapestry audit verify {output}")


@click.command(cls=Command)
@read_folder
@_output
@as_json
def export(folder: Path, output: Path, as_json: bool) -> ExitStatus:
    """Write all that the institution owns, to be used without the federation.

    Releases, its adapters, the bundle, ledger, receipts, public keys and the data's
    manifest; no private key and no record. It needs no coordinator and no network, and
    the node may run. Status 3 says that something is missing; all else is there.
    """
    from tapestry_node.member_export import export as export_folder

    made = export_folder(folder, output)
    lacks = [
        {"name": name, "code": error.code, "detail": str(error)}
        for name, error in made.lacks.items()
    ]
    if as_json:
        found = {"releases": made.releases, "adapters": made.adapters, "lacks": lacks}
        console.say_json({"export": str(output), **found})
    else:
        models = ", ".join([*made.releases, *made.adapters]) or "no release or adapter"
        console.say(f"export  {output}: {models}; bundle, ledger, receipts, keys")
        for each in lacks:
            console.say("lacks   {name}: {detail} [{code}]".format(**each))
        console.say(f"check   tapestry audit verify {output / 'bundle'}")
    return ExitStatus.INCOMPLETE if lacks else ExitStatus.HOLDS
