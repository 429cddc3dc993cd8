"""``tapestry governance rotate``: sign for a new key where the root key is."""

from datetime import UTC, datetime
from pathlib import Path

import click

from tapestry.cli import console
from tapestry.cli.commands import PATH, Argument, Command, as_json
from tapestry.cli.passphrases import new_passphrase, passphrase_file, unlock
from tapestry.keys import SigningKey


@click.command(cls=Command)
@click.argument(
    "draft",
    cls=Argument,
    type=PATH,
    metavar="DRAFT",
    help="What tapestry node rotate wrote, NAME-PURPOSE.rotation.",
)
@click.option(
    "--key", type=PATH, metavar="FILE", required=True, help="The root key, locked."
)
@click.option(
    "--output",
    "-o",
    type=PATH,
    metavar="FILE",
    help="Where the signed entry is written; default: NAME-PURPOSE.entry.",
)
@passphrase_file
@as_json
def rotate(
    draft: Path,
    key: Path,
    output: Path | None,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Sign that an institution has another key, on a machine without a network.

    What is signed is shown first. A new root key is made beside the old one, with .next
    at its end; give it the old one's name once the log has it in force.
    """
    from tapestry.encrypted_keys import load_public
    from tapestry.storage.durable_files import replace_file
    from tapestry_governance.founding_files import read_document
    from tapestry_governance.key_turn import (
        RotationDraft,
        require_root,
        sign_rotation,
    )

    asked = read_document(draft, RotationDraft)
    require_root(asked, load_public(key))
    new_root = None
    show = console.note if as_json else console.say
    show(f"member    {asked.name} of {asked.federation}")
    show(f"new key   {asked.purpose}, {asked.reason}")
    show(f"          {asked.key or 'a root key, made here'}")
    root = unlock(key, passphrase_file)
    if asked.purpose == "root":
        new_root = next_root_key(key, asked.name, passphrase_file)
    entry = sign_rotation(asked, root, new_root=new_root, now=datetime.now(UTC))
    place = output or Path(f"{asked.name}-{asked.purpose}.entry")
    replace_file(place, entry)
    if as_json:
        console.say_json({"entry": str(place)})
    else:
        console.say(f"written   {place}: tapestry node submit FOLDER {place}")


def next_root_key(root: Path, name: str, passphrase_file: Path | None) -> SigningKey:
    """Return the new root key beside the one in force; make it under a passphrase.

    Raises:
        ConfigError: Nobody can be asked for the passphrase, or it is short or wrong.
        ResourceError: The file cannot be written.
    """
    from tapestry_governance.key_turn import make_next_root, next_root

    place = next_root(root)
    if not place.exists():
        passphrase = new_passphrase(place, passphrase_file)
        make_next_root(root, name, passphrase=passphrase)
    return unlock(place, passphrase_file)
