"""``tapestry node status``, ``pause``, ``resume`` and ``leave``: a node's operator."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

import click

from tapestry.cli import console, live_status
from tapestry.cli.commands import OWN_FOLDER, PATH, Argument, Command, as_json
from tapestry.cli.exit_status import ExitStatus
from tapestry.cli.passphrases import (
    ask,
    is_terminal,
    passphrase_file,
    unlock,
)
from tapestry.errors import ConfigError, IncompleteError
from tapestry.storage.folder_owner import require_own_folder

if TYPE_CHECKING:
    from tapestry.keys import SigningKey, VerifyKey
    from tapestry_node.member_exit import Exit
    from tapestry_node.node_status import NodeStatus

node_folder = click.argument(
    "folder",
    cls=Argument,
    type=OWN_FOLDER,
    metavar="[FOLDER]",
    default=Path(),
    help="The node's folder, with node.toml; default: the current one.",
)
read_folder = click.argument(
    "folder",
    cls=Argument,
    type=PATH,
    metavar="[FOLDER]",
    default=Path(),
    help="The node's folder, with node.toml, which is only read; default: the current"
    " one.",
)


_Run = Callable[[Path, str | None, Path | None, Path | None], None]


def tells_its_end(command: _Run) -> _Run:
    """Let a command that serves a folder leave behind for status why it ended."""

    @wraps(command)
    def run(
        folder: Path,
        superlink: str | None,
        root_certificates: Path | None,
        auth_key: Path | None,
    ) -> None:
        from tapestry_node.status_file import telling_the_end

        with telling_the_end(folder):
            command(folder, superlink, root_certificates, auth_key)

    return run


@click.command(cls=Command)
@read_folder
@click.option("--watch", is_flag=True, help="Show each change until Ctrl-C.")
@click.option(
    "--ready", is_flag=True, help="Exit 0 if connected and serving, otherwise 3."
)
@as_json
def status(folder: Path, watch: bool, ready: bool, as_json: bool) -> ExitStatus:
    """Show what the node does, waits for and has left; it need not run.

    Nothing is written, dialled or waited for. --ready is for a probe.
    """
    if watch and ready:
        raise ConfigError(
            "--ready looks once and --watch again and again; give one of them",
            code="usage",
        )
    if watch:
        live_status.watch(lambda: _read(folder), as_json=as_json)
    found = _read(folder)
    if as_json:
        console.say_json(found.to_json())
    else:
        lines = list(found.lines())
        for line in lines[1:2] if ready else lines:
            console.say(line)
    return ExitStatus.INCOMPLETE if ready and not found.ready else ExitStatus.HOLDS


@click.command(cls=Command)
@node_folder
@as_json
def pause(folder: Path, as_json: bool) -> None:
    """Begin no further round or adapter, until resumed; the node may run or not.

    A round that is under way is finished. The node goes on cosigning the log and
    answering checks.
    """
    from tapestry_node import availability

    _require_node(folder)
    before = availability.pause(folder, now=datetime.now(UTC))
    if as_json:
        console.say_json({"paused": True, "before": before})
        return
    since = "from now on" if before is None else f"since {before}"
    console.say(f"paused {since}: no new round; tapestry node resume {folder} ends it")


@click.command(cls=Command)
@node_folder
@as_json
def resume(folder: Path, as_json: bool) -> None:
    """Join rounds again after a pause."""
    from tapestry_node import availability

    _require_node(folder)
    before = availability.resume(folder)
    if as_json:
        console.say_json({"paused": False, "before": before})
    elif before is None:
        console.say("not paused: nothing was changed")
    else:
        console.say(f"resumed: paused since {before} until now")


class _LeaveOptions(TypedDict):
    root_key: Path | None
    request: Path | None
    signed: Path | None
    confirm: str | None
    output: Path | None
    passphrase_file: Path | None
    as_json: bool


@click.command(cls=Command)
@read_folder  # with --request it is no node's, and nothing is written there
@click.option(
    "--root-key",
    type=PATH,
    metavar="FILE",
    help="The institution's root key; default: keys/root.key.",
)
@click.option(
    "--request",
    type=PATH,
    metavar="FILE",
    help="Sign alone, where the root key is: the request that node init wrote.",
)
@click.option(
    "--signed",
    type=PATH,
    metavar="FILE",
    help="Hand in what was signed elsewhere with --request.",
)
@click.option("--confirm", metavar="NAME", help="The institution, instead of asking.")
@click.option(
    "--output",
    "-o",
    type=PATH,
    metavar="FILE",
    help="With --request: where the signed exit is written; default: NAME.left.",
)
@passphrase_file
@as_json
def leave(folder: Path, **given: Unpack[_LeaveOptions]) -> None:
    """Leave the federation for good, by the institution's root key.

    It needs nobody's consent. The node joins no further round from now on, and hands
    the exit in with its next cosignature; the file keeps it if there is no coordinator.
    """
    if given["request"] is not None:
        place = _sign_alone(given)
        if given["as_json"]:
            console.say_json({"exit": str(place)})
        else:
            on = f"on the node's machine: tapestry node leave FOLDER --signed {place}"
            console.say(f"signed  {place}: {on}")
        return
    from tapestry_node.member_exit import Exit

    require_own_folder(folder)
    found = Exit(folder)
    if found.index is None:
        found.hand_in(found.signed_before() or _sign(found, given))
    if given["as_json"]:
        console.say_json({"exit": str(found.path), "index": found.index})
    elif found.index is not None:
        console.say(f"left    by entry {found.index} of the log")
    else:
        console.say(f"signed  {found.path}: keep it, and let the node run until it is")
        console.say("        in the log, with its next cosignature; it joins no round")
        console.say(f"next    what is yours: tapestry node export {folder} -o DIR")


def _sign_alone(given: _LeaveOptions) -> Path:
    """Sign an exit on a machine without the node's folder; returns where it lies."""
    from tapestry.keys import VerifyKey
    from tapestry.storage.durable_files import replace_file
    from tapestry_governance.founding_files import RequestFile, read_document
    from tapestry_node.member_exit import sign_exit

    if given["root_key"] is None or given["request"] is None:
        raise ConfigError(
            "--request signs where the root key is: name that with --root-key",
            code="usage",
        )
    asked = read_document(given["request"], RequestFile)
    public, name = VerifyKey.parse(asked.request.root), asked.request.name
    root = _root(given["root_key"], name, public=public, given=given)
    entry = sign_exit(
        name, asked.federation, root, public=public, seen=None, now=datetime.now(UTC)
    )
    place = given["output"] or Path(f"{name}.left")
    replace_file(place, entry, mode=0o600)
    return place


def _sign(found: "Exit", given: _LeaveOptions) -> bytes:
    """Return what was signed elsewhere; or sign, with the folder's key or another.

    Raises:
        IncompleteError: There is no such key here.
    """
    from tapestry_governance.founding_files import read_entry

    name = found.settings.name
    if given["signed"] is not None:
        _confirm(name, given["confirm"])
        return read_entry(given["signed"])
    path = given["root_key"] or found.folder / "keys" / "root.key"
    if given["root_key"] is None and not path.exists():
        raise IncompleteError(
            f"there is no {path}; name it with --root-key, or sign where it is:"
            f" tapestry node leave --root-key FILE --request {name}.request, and bring"
            " the result here with --signed",
            code="key-missing",
        )
    root = _root(path, name, public=found.public, given=given)
    return found.sign(root, now=datetime.now(UTC))


def _root(
    path: Path, name: str, *, public: "VerifyKey", given: _LeaveOptions
) -> "SigningKey":
    """Ask for the name, then unlock the root key."""
    from tapestry.encrypted_keys import load_public
    from tapestry_node.member_exit import require_root

    require_root(load_public(path), name, public=public)
    _confirm(name, given["confirm"])
    return unlock(path, given["passphrase_file"])


def _confirm(name: str, given: str | None) -> None:
    """Require that a person typed the institution's name.

    Raises:
        ConfigError: Another name was typed, or nobody can be asked.
    """
    if given is None:
        if not is_terminal():
            raise ConfigError(
                f"leaving is for good, and nobody can be asked; give --confirm {name}",
                code="confirmation-missing",
            )
        console.note(f"{name} leaves for good: no further round takes it in. What was")
        console.note("spent stays spent, and what was published stays published.")
        given = ask("type the name of the institution to sign this")
    if given != name:
        raise ConfigError(
            f"{given!r} is not {name!r}: nothing was signed", code="name-not-confirmed"
        )


def _require_node(folder: Path) -> None:
    if not (folder / "node.toml").is_file():
        raise ConfigError(
            f"{folder} has no node.toml; name the node's folder", code="file-missing"
        )


def _read(folder: Path) -> "NodeStatus":
    from tapestry_node.node_status import read_node_status

    return read_node_status(folder, now=datetime.now(UTC))
