"""``tapestry node rotate``: another key for an institution."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack, cast

import click

from tapestry.cli import console
from tapestry.cli.commands import PATH, Argument, Command, as_json
from tapestry.cli.passphrases import passphrase_file, unlock
from tapestry.errors import ConfigError
from tapestry_governance.cli.rotation import next_root_key
from tapestry_node.membership_commands import new_folder

if TYPE_CHECKING:
    from tapestry.storage.file_lock import FileLock
    from tapestry_governance.key_turn import Purpose, Reason, RotationDraft
    from tapestry_node.key_rotation import Rotation


class _RotateOptions(TypedDict):
    compromised: bool
    root_key: Path | None
    output: Path | None
    passphrase_file: Path | None
    as_json: bool


@click.command(cls=Command)
@new_folder
@click.argument(
    "purpose",
    cls=Argument,
    metavar="PURPOSE",
    help="One of node, witness, community, transport, root.",
)
@click.option(
    "--compromised",
    is_flag=True,
    help="Others may know the key: the log takes nothing more by it, also in a round,"
    " and no node connects by it.",
)
@click.option(
    "--root-key",
    type=PATH,
    metavar="FILE",
    help="The institution's root key; default: keys/root.key.",
)
@click.option(
    "--output",
    "-o",
    type=PATH,
    metavar="FILE",
    help="Write the signed entry, or the draft, here; it is not handed in.",
)
@passphrase_file
@as_json
def rotate(folder: Path, purpose: str, **given: Unpack[_RotateOptions]) -> None:
    """Give the institution another key for a purpose, by its root key.

    The new key waits beside the old one, and takes its place when the log has it in
    force: between rounds, with the first entry after the one that names it was
    cosigned, at the latest that of the next run. The node may run. Without the root
    key a draft is written, for tapestry governance rotate where that key is.
    """
    from tapestry_governance.key_turn import PURPOSES
    from tapestry_node.key_rotation import Rotation
    from tapestry_node.settings import NodeSettings

    NodeSettings.read(folder / "node.toml")  # or it is another folder
    if purpose not in PURPOSES:
        raise ConfigError(
            f"{purpose!r} is no purpose of a key; say one of {', '.join(PURPOSES)}",
            code="usage",
        )
    root = given["root_key"] or folder / "keys" / "root.key"
    reason: Reason = "compromised" if given["compromised"] else "routine"
    with _alone(folder):
        found = Rotation(folder, cast("Purpose", purpose), reason, root=root)
        where = _go_on(found, root, given)
        request = found.write_request() if purpose == "transport" else None
    if given["as_json"]:
        said = {"purpose": purpose, "key": found.public, "standing": where}
        console.say_json({**said, "request": request and str(request)})
        return
    console.say(f"new key   {found.path}: waits beside the one in force")
    console.say(f"standing  {where}")
    if request is not None:
        console.say(
            f"request   {request}: once it is in force, for tapestry coordinator"
        )
        console.say("          enroll; the node takes the key up when it connects next")


def _alone(folder: Path) -> "FileLock":
    """Keep another call out: of two that make one key, one would be lost."""
    from tapestry.storage.file_lock import lock_file

    try:
        return lock_file(folder / "rotate.lock")
    except BlockingIOError:
        raise ConfigError(
            f"another process gives {folder} a new key; call again when it has ended",
            code="folder-in-use",
        ) from None


def _go_on(found: "Rotation", root: Path, given: _RotateOptions) -> str:
    """Sign, or write what is to be signed, unless that was done; say where it is."""
    from tapestry.storage.durable_files import replace_file

    where, output = found.under_way, given["output"]
    if where is not None and output is None:
        return where
    if where is not None and output is not None and found.posted is not None:
        replace_file(output, found.posted)
        return f"{where}; a copy is {output}"
    is_here = given["root_key"] is not None or root.exists()
    return (_sign if is_here else _write_draft)(found, found.draft(), root, given)


def _sign(
    found: "Rotation", draft: "RotationDraft", root: Path, given: _RotateOptions
) -> str:
    """Sign with the root key, and hand in or write what was signed."""
    from tapestry.encrypted_keys import load_public
    from tapestry.storage.durable_files import replace_file
    from tapestry_governance.key_turn import require_root, sign_rotation
    from tapestry_node.submission import submit

    require_root(draft, load_public(root))
    key, new_root = unlock(root, given["passphrase_file"]), None
    if draft.purpose == "root":
        new_root = next_root_key(root, draft.name, given["passphrase_file"])
    entry = sign_rotation(draft, key, new_root=new_root, now=datetime.now(UTC))
    if given["output"] is not None:
        replace_file(given["output"], entry)
        return f"signed as {given['output']}: tapestry node submit FOLDER FILE"
    submit(found.folder, [entry])
    return "in the outbox, for the node's next cosignature"


def _write_draft(
    found: "Rotation", draft: "RotationDraft", root: Path, given: _RotateOptions
) -> str:
    """Write what the root key signs on its own machine."""
    from tapestry.storage.durable_files import replace_file

    place = given["output"] or found.folder / f"{found.name}-{found.purpose}.rotation"
    replace_file(place, draft.encode())
    return (
        f"there is no {root}; where it is: tapestry governance rotate {place} --key"
        " FILE, then tapestry node submit FOLDER FILE"
    )
