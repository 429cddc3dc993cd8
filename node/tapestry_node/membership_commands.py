"""``tapestry node init`` and ``join``: an institution joins a federation."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

import click

from tapestry.cli import console
from tapestry.cli.commands import OWN_FOLDER, PATH, Argument, Command, as_json
from tapestry.cli.passphrases import new_passphrase, passphrase_file
from tapestry.errors import ConfigError
from tapestry_governance.cli.audit import read_trust
from tapestry_governance.cli.governance import (
    ask_fingerprint,
    charter_argument,
    fingerprint_option,
    open_charter_file,
)

if TYPE_CHECKING:
    from tapestry.workloads.base import Workload

new_folder = click.argument(
    "folder", cls=Argument, type=OWN_FOLDER, metavar="FOLDER", help="The node's folder."
)


class _NodeOptions(TypedDict):
    invite: Path
    data: Path
    manifest: Path | None
    base: str | None
    name: str | None
    country: str | None
    language: str | None
    licence: str | None
    root: Path | None
    passphrase_file: Path | None
    as_json: bool


@click.command(cls=Command)
@new_folder
@click.option(
    "--invite", type=PATH, metavar="FILE", required=True, help="The invitation."
)
@click.option(
    "--data", type=PATH, metavar="DIR", required=True, help="The folder of the records."
)
@click.option(
    "--manifest",
    type=PATH,
    metavar="FILE",
    help="The manifest of the records; default: in their folder.",
)
@click.option(
    "--base",
    metavar="BASE",
    help="The invitation's model, as this machine has it: a name or a folder.",
)
@click.option("--name", metavar="NAME", help="The institution; default: the folder's.")
@click.option("--country", metavar="TEXT", help="For cards; default: the name.")
@click.option("--language", metavar="CODE", help="Of the records, such as de.")
@click.option("--licence", metavar="SPDX", help="Of the records, such as CC0-1.0.")
@click.option(
    "--root",
    type=PATH,
    metavar="FILE",
    help="The public half of a root key that tapestry governance key made elsewhere.",
)
@passphrase_file
@as_json
def init(folder: Path, **given: Unpack[_NodeOptions]) -> None:
    """Make keys, settings and a request to join, from an invitation.

    The root key asks for a passphrase, unless it was made on another machine. What is
    there is kept. The request tells a number of records, rounded down, and no text.
    """
    from tapestry_governance.founding_files import Invitation, read_document
    from tapestry_governance.member_folder import has_keys, read_public_root
    from tapestry_node.applicant import Applicant, apply

    invitation = read_document(given["invite"], Invitation)
    base = _base(folder, given["base"], invitation.terms.base)
    name = given["name"] or folder.absolute().name
    root = None if given["root"] is None else read_public_root(given["root"], name)
    passphrase = None
    if root is None and not has_keys(folder):
        key = folder / "keys" / "root.key"
        passphrase = new_passphrase(key, given["passphrase_file"])
    applicant = Applicant(
        name=name,
        country=given["country"],
        data=given["data"],
        manifest=given["manifest"],
        base=base,
        language=given["language"],
        licence=given["licence"],
        root=root,
        passphrase=passphrase,
    )
    is_given = given["base"] is not None
    workload = _open(invitation.terms.workload, base, is_given=is_given)
    made = apply(folder, invitation, applicant, workload=workload).request
    path = folder / f"{name}.request"
    if given["as_json"]:
        console.say_json({"request": str(path), **made.model_dump(mode="json")})
        return
    root_key = "no root.key" if root else "root.key is locked: later, into a safe"
    console.say(f"keys      {folder / 'keys'}; {root_key}")
    console.say(f"settings  {folder / 'node.toml'}: your rules, to read and tighten")
    said = ", ".join([f"{made.records} records or more", *made.languages])
    console.say(f"request   {path}: send it to the coordinator; it says {said}")
    console.say(f"next      tapestry node check {folder}")


def _base(folder: Path, given: str | None, invited: str) -> str:
    """Return the base as node.toml names it: a folder by its full path."""
    from tapestry_node.settings import NodeSettings

    path = folder / "node.toml"
    if given is None:
        return NodeSettings.read(path).base if path.exists() else invited
    return str(Path(given).absolute()) if Path(given).is_dir() else given


def _open(workload: str, base: str, *, is_given: bool) -> "Workload":
    from tapestry.workloads.workload_registry import open_workload

    try:
        return open_workload(workload, base)
    except ConfigError as error:
        if error.code != "base-unknown" or is_given:
            raise
        raise ConfigError(
            f"{error}; the invitation names the model as the coordinator does: name"
            " your own copy with --base",
            code=error.code,
        ) from None


class _JoinOptions(TypedDict):
    fingerprint: str | None
    bundle: Path | None
    since: bytes | None
    as_json: bool


@click.command(cls=Command)
@new_folder
@charter_argument
@fingerprint_option
@click.option(
    "--bundle",
    type=PATH,
    metavar="DIR",
    help="A member's bundle of the log, if the coordinator was replaced since.",
)
@click.option(
    "--since",
    type=PATH,
    callback=read_trust,
    metavar="FILE",
    help="A checkpoint of the last year, which a member kept; it goes with --bundle.",
)
@as_json
def join(folder: Path, charter: Path, **given: Unpack[_JoinOptions]) -> None:
    """Trust the log of a charter, and mirror it.

    For a founder that accepted it with a root key kept elsewhere, and for a later
    member, whose node takes part once the members have admitted it. If the coordinator
    was replaced since the founding, its invitation is compared with what the members
    voted for, by the log in --bundle.
    """
    from tapestry_governance import member_folder
    from tapestry_governance.member_view import founded_log

    found, bundle, state = open_charter_file(charter), given["bundle"], None
    if bundle is not None:
        now = datetime.now(UTC)
        state = founded_log(bundle, found, since=given["since"], now=now)
    elif given["since"] is not None:
        raise ConfigError("--since goes with --bundle", code="usage")
    lead = None if state is None else state.lead
    own = member_folder.request_for(folder, found, lead=lead)
    if own.request.name in found.requests:
        member_folder.check_sent(found, own)
    member_folder.check_fingerprint(found, ask_fingerprint(given["fingerprint"]))
    member_folder.join(folder, found)
    if given["as_json"]:
        console.say_json({"name": own.request.name, "genesis": found.genesis})
        return
    console.say(f"joined  {folder}: genesis and trust-policy.txt are written")
    if state is not None:
        voted = ", as the members voted" if state.former_leads else ""
        console.say(f"        led by {state.lead.address}{voted}")
        differ = member_folder.policy_differences
        for line in differ(folder, state.policy, whose="the federation's"):
            console.say(f"        {line}")
    if own.request.name not in found.requests:
        console.say("        a member has to propose admit with your request now")
