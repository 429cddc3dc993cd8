"""``tapestry governance``: keys of a person, and what is decided with them."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

import click

from tapestry.cli import console
from tapestry.cli.commands import OWN_FOLDER, PATH, Argument, CommandGroup, as_json
from tapestry.cli.passphrases import (
    ask,
    is_terminal,
    new_passphrase,
    passphrase_file,
    unlock,
)
from tapestry.errors import ConfigError, IncompleteError
from tapestry_governance.cli.rotation import rotate
from tapestry_governance.cli.votes import export, list_command, propose, vote

if TYPE_CHECKING:
    from tapestry_governance.founding_files import OpenedCharter, RequestFile

charter_argument = click.argument(
    "charter",
    cls=Argument,
    type=PATH,
    metavar="CHARTER",
    help="The charter, as the coordinator sent it.",
)
fingerprint_option = click.option(
    "--fingerprint",
    metavar="TEXT",
    help="What the others read out; default: ask on the terminal.",
)


@click.group(cls=CommandGroup)
def app() -> None:
    """Decide as a member: accept a charter, propose, vote."""


for _command in (propose, vote, list_command, export, rotate):
    app.add_command(_command)


@app.command()
@click.argument(
    "file", cls=Argument, type=PATH, metavar="FILE", help="The new key, root.key."
)
@click.option("--name", metavar="NAME", required=True, help="The institution's name.")
@passphrase_file
@as_json
def key(file: Path, name: str, passphrase_file: Path | None, as_json: bool) -> None:
    """Make a root key under a passphrase, on a machine without a network.

    Beside it lies NAME.pub, which is no secret: carry it to the node's machine.
    """
    from tapestry.encrypted_keys import load_public, save_key
    from tapestry.storage.durable_files import replace_file
    from tapestry_governance.founding import generate_member_key

    _check_new(file, name)
    beside = file.with_suffix(".pub")
    if beside.exists() and not file.exists():
        raise _occupied(beside)
    if not file.exists():
        passphrase = new_passphrase(file, passphrase_file)
        save_key(generate_member_key(name, "root"), file, passphrase=passphrase)
    public = load_public(file)
    if public.name != f"{name}/root":
        raise ConfigError(
            f"{file} is there already and is {public.name}; a key is never overwritten",
            code="file-exists",
        )
    text = f"{public}\n".encode("ascii")
    if not beside.exists():
        replace_file(beside, text)
    elif not beside.is_file() or beside.read_bytes() != text:
        raise _occupied(beside)
    if as_json:
        console.say_json({"key": str(public), "public": str(beside)})
        return
    console.say(f"key     {file}: locked; keep it here, and a copy in a safe")
    console.say(f"public  {beside}: for tapestry node init --root {beside.name}")


@app.command()
@charter_argument
@as_json
def show(charter: Path, as_json: bool) -> None:
    """Show what a charter says: members, coordinator, address, policy."""
    found = open_charter_file(charter)
    if as_json:
        console.say_json(
            {
                "federation": found.federation,
                "charter": found.body.model_dump(mode="json"),
                "members": {
                    name: each.request.model_dump(mode="json")
                    for name, each in found.requests.items()
                },
            }
        )
        return
    for line in _in_words(found):
        console.say(line)


@app.command()
@charter_argument
@as_json
def fingerprint(charter: Path, as_json: bool) -> None:
    """Print a charter's fingerprint, to read it out to the other members.

    Each member types what two others read out. Who types what this prints on the own
    machine has compared nothing.
    """
    from tapestry_governance import founding

    found = founding.fingerprint(open_charter_file(charter).genesis)
    console.say_json({"fingerprint": found}) if as_json else console.say(found)


def _occupied(public: Path) -> ConfigError:
    return ConfigError(
        f"{public} is there already and is no public half of this key; nothing was"
        " changed: move it away, or choose another name",
        code="file-exists",
    )


def _check_new(file: Path, name: str) -> None:
    """Require a file and a name that a root key may have.

    Raises:
        ConfigError: The name has other characters, or the file ends in ``.pub``.
    """
    check_name(name)
    if file.suffix == ".pub":
        raise ConfigError(
            f"{file} ends as its public half will; choose another name, as root.key",
            code="usage",
        )
    if file.exists() and not file.stat().st_size:
        file.unlink()  # left by a crash: no key was ever in it


def check_name(name: str) -> None:
    """Require the name of an institution, as ``--name`` gives it.

    Raises:
        ConfigError: The name has other characters.
    """
    from pydantic import TypeAdapter, ValidationError

    from tapestry.schema import Name

    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError:
        raise ConfigError(
            f"--name {name!r} is no name; write up to 63 of a-z, 0-9, dots and hyphens",
            code="name-invalid",
        ) from None


class _AcceptOptions(TypedDict):
    node: Path | None
    key: Path | None
    request: Path | None
    fingerprint: str | None
    heard: tuple[str, ...]
    output: Path | None
    passphrase_file: Path | None
    as_json: bool


@app.command()
@charter_argument
@click.option(
    "--node",
    type=OWN_FOLDER,
    metavar="DIR",
    help="The node's folder, with the root key.",
)
@click.option(
    "--key",
    type=PATH,
    metavar="FILE",
    help="The root key, on a machine of its own; needs --request.",
)
@click.option(
    "--request",
    type=PATH,
    metavar="FILE",
    help="The request that node init wrote, to compare with the charter's.",
)
@fingerprint_option
@click.option(
    "--heard",
    multiple=True,
    metavar="NAME",
    help="A member that read the fingerprint out; two, or all where there are fewer.",
)
@click.option(
    "--output",
    "-o",
    type=PATH,
    metavar="FILE",
    help="Where the acceptance is written; default: NAME.acceptance beside the key.",
)
@passphrase_file
@as_json
def accept(charter: Path, **given: Unpack[_AcceptOptions]) -> None:
    """Accept a charter with an institution's root key.

    It shows the charter, compares it with the own request, and asks for the
    fingerprint that other members read out. With --node the node joins as well; with
    --key run tapestry node join before the acceptance is sent.
    """
    from tapestry.storage.durable_files import replace_file
    from tapestry_governance import founding, member_folder

    node, as_json = given["node"], given["as_json"]
    path = _root_key(node, given["key"], given["request"])
    found = open_charter_file(charter)
    own = _own_request(found, path, node or given["request"] or path)
    if not as_json:
        for line in _before_accepting(found, own.request.name, node):
            console.say(line)
    member_folder.check_fingerprint(found, ask_fingerprint(given["fingerprint"]))
    others = found.requests.keys() - {own.request.name}
    entry = founding.accept_charter(
        found.entry,
        own,
        root=unlock(path, given["passphrase_file"]),
        readers=set(given["heard"] or _ask_readers(others)),
        now=datetime.now(UTC),
    )
    beside = (node or path.parent) / f"{own.request.name}.acceptance"
    place = given["output"] or beside
    if node is not None:
        member_folder.join(node, found)
    replace_file(place, entry)
    if as_json:
        console.say_json({"acceptance": str(place), "genesis": found.genesis})
        return
    after = "" if node else "after tapestry node join on the node's machine, "
    console.say(f"acceptance  {place}: {after}send it to the coordinator")
    if node is not None:
        console.say(f"joined      {node}: genesis and trust-policy.txt are written")


def open_charter_file(path: Path) -> "OpenedCharter":
    """Read and check a charter."""
    from tapestry_governance import founding_files

    limit = founding_files.MAX_CHARTER_BYTES
    document = founding_files.read_document(
        path, founding_files.CharterFile, limit=limit
    )
    return founding_files.open_charter(document)


def ask_fingerprint(given: str | None) -> str:
    """Return the fingerprint that a person heard.

    Raises:
        ConfigError: It was not given and nobody can be asked.
    """
    if given is None and not is_terminal():
        raise ConfigError(
            "nobody can be asked for the fingerprint; give --fingerprint with what two"
            " other members read out",
            code="fingerprint-missing",
        )
    if given is not None:
        return given
    return ask("the fingerprint that the others read out")


def _root_key(node: Path | None, key: Path | None, request: Path | None) -> Path:
    """Return where the root key lies.

    Raises:
        ConfigError: The options are neither --node, nor --key and --request.
        IncompleteError: The node's folder has no root key.
    """
    if (node is None, key is None, request is None) not in {
        (False, True, True),
        (True, False, False),
    }:
        raise ConfigError(
            "name either --node, or --key with --request, the request that the node's"
            " machine sent",
            code="usage",
        )
    path = key or Path(node or "") / "keys" / "root.key"
    if key is None and not path.exists():
        raise IncompleteError(
            f"{node} has no keys/root.key; accept with --key on the machine that has"
            " it, then run tapestry node join here",
            code="key-missing",
        )
    return path


def _own_request(found: "OpenedCharter", path: Path, own: Path) -> "RequestFile":
    """Find the institution's own request: in a node's folder, or a file.

    Raises:
        ConfigError: The root key is another one.
        RuleError: The charter has another request, or other terms than were sent.
    """
    from tapestry.encrypted_keys import load_public
    from tapestry_governance import member_folder
    from tapestry_governance.founding_files import RequestFile, read_document

    if own.is_dir():
        sent = member_folder.own_request(own, found)
    else:
        sent = read_document(own, RequestFile)
        member_folder.check_sent(found, sent)
    if sent.request.root != str(load_public(path)):
        raise ConfigError(
            f"{path} is not the root key of {sent.request.name!r} in this charter",
            code="key-not-in-charter",
        )
    return sent


def _ask_readers(others: Iterable[str]) -> list[str]:
    if not is_terminal():
        raise ConfigError(
            "say who read the fingerprint out, with --heard for each of two members"
            " (of all others where there are fewer)",
            code="readers-missing",
        )
    said = ask(f"who read it out, of {', '.join(sorted(others))}")
    return said.replace(",", " ").split()


def _before_accepting(
    found: "OpenedCharter", name: str, node: Path | None
) -> Iterator[str]:
    """Tell what a charter says, and how it differs from the node's own rules."""
    from tapestry_governance.member_folder import draft_differences, policy_differences

    yield from _in_words(found)
    yield f"you are {name}; your keys are in it as in your request"
    if node is None:
        return
    policy = found.body.policy
    for what, differing in (
        ("node.toml", policy_differences(node, policy)),
        ("the invitation", draft_differences(node, name, policy)),
    ):
        yield f"policy differs from {what} in:{'' if differing else ' nothing'}"
        yield from (f"  {each}" for each in differing)


def _in_words(found: "OpenedCharter") -> Iterator[str]:
    from tapestry_governance.plain_words import policy_rows

    body = found.body
    yield f"federation   {found.federation}, log {body.origin}"
    yield f"coordinator  {body.coordinator.name} at {body.address}"
    yield f"authority    {body.authority}, of its certificate"
    for name, each in sorted(found.requests.items()):
        request = each.request
        languages = ", ".join(request.languages) or "no language"
        yield f"member       {name}: {request.records} records or more, {languages}"
    for term, value in policy_rows(body.policy).items():
        yield f"policy       {term} {value}"
