"""``tapestry coordinator backup``, ``restore`` and ``recover``: a folder comes back."""

from pathlib import Path
from typing import TypedDict, Unpack

import click

from tapestry.cli import console
from tapestry.cli.commands import PATH, Argument, Command, as_json
from tapestry_coordinator.founding_commands import folder_argument, read_folder
from tapestry_governance.cli.audit import read_trust


@click.command(cls=Command)
@read_folder
@click.option(
    "--output", "-o", type=PATH, metavar="DIR", required=True, help="A new folder."
)
@as_json
def backup(folder: Path, output: Path, as_json: bool) -> None:
    """Copy log, journals, runs and publications, also while the coordinator works.

    Keys are not copied, tls/superlink.key included. Back them up once, apart from these
    backups.
    """
    from tapestry_coordinator.coordinator_backup import back_up

    made = back_up(folder, output)
    if as_json:
        console.say_json({"backup": str(output), "files": len(made.files)})
        return
    console.say(f"backup  {output}: {len(made.files)} files, without keys")


@click.command(cls=Command)
@click.argument("backup", cls=Argument, type=PATH, metavar="DIR", help="The backup.")
@folder_argument
@as_json
def restore(backup: Path, folder: Path, as_json: bool) -> None:
    """Make a coordinator's folder from a backup; then put keys/ back.

    Nothing is appended to the restored log before every member has told how much of it
    it mirrors. If one has more, the log is too old, and the coordinator stops.
    """
    from tapestry_coordinator.coordinator_backup import restore as restore_folder

    found = restore_folder(backup, folder)
    if as_json:
        console.say_json({"folder": str(folder), "of": found.time})
        return
    console.say(f"restored  {folder}: {found.name} as of {found.time}")
    console.say(f"next      put keys/ back into {folder}, then")
    console.say(f"          tapestry coordinator renew {folder}: a certificate's key")
    console.say(f"          tapestry coordinator run {folder}")


class _RecoverOptions(TypedDict):
    copies: tuple[Path, ...]
    trust: bytes
    checkpoints: tuple[Path, ...]
    as_json: bool


@click.command(cls=Command)
@folder_argument
@click.option(
    "--from",
    "copies",
    type=PATH,
    metavar="COPY",
    multiple=True,
    required=True,
    help="A member's view.db, or a bundle. Give several: the longest counts.",
)
@click.option(
    "--trust",
    type=PATH,
    callback=read_trust,
    metavar="FILE",
    required=True,
    help="The trust policy of the founding, which any member holds.",
)
@click.option(
    "--checkpoint",
    "checkpoints",
    type=PATH,
    metavar="FILE",
    multiple=True,
    help="A checkpoint that was kept; copies that are behind it are refused.",
)
@as_json
def recover(folder: Path, **given: Unpack[_RecoverOptions]) -> None:
    """Give a new coordinator's folder the log, from members' mirrors.

    First make the folder by tapestry coordinator init, with the --federation and
    --origin of the one that is lost. Each copy is verified from the founding on; a
    member that has more than the longest can never cosign again, so ask all. Nothing
    that is there is overwritten.

    Members then vote on the new keys: tapestry coordinator submit takes the proposal,
    writes the ballot, and takes the votes. With the old keys in keys/ there is no vote.
    A round that was open is aborted.
    """
    from tapestry_coordinator.recovered_folder import recover as recover_folder
    from tapestry_governance.audit.bundle import read_small

    seen = [read_small(path) for path in given["checkpoints"]]
    found = recover_folder(folder, given["copies"], trust=given["trust"], seen=seen)
    if given["as_json"]:
        console.say_json(found.to_json())
        return
    for line in found.lines(folder):
        console.say(line)
