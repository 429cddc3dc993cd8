"""``tapestry coordinator init``, ``charter`` and ``open``: a federation is founded."""

from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

import click

from tapestry.cli import console
from tapestry.cli.commands import OWN_FOLDER, PATH, Argument, Command, as_json
from tapestry.cli.passphrases import known_passphrase, new_passphrase, passphrase_file

if TYPE_CHECKING:
    from tapestry_coordinator.settings import CoordinatorSettings

WORKLOAD = "language"

folder_argument = click.argument(
    "folder",
    cls=Argument,
    type=OWN_FOLDER,
    metavar="FOLDER",
    help="The coordinator's folder.",
)
read_folder = click.argument(
    "folder",
    cls=Argument,
    type=PATH,
    metavar="FOLDER",
    help="The coordinator's folder, which is only read.",
)


class _CoordinatorOptions(TypedDict):
    federation: str
    address: str
    base: str
    origin: str | None
    passphrase_file: Path | None
    as_json: bool


@click.command(cls=Command)
@folder_argument
@click.option("--federation", metavar="NAME", required=True, help="Its name.")
@click.option(
    "--address",
    metavar="HOST:PORT",
    required=True,
    help="What institutions dial: this machine's, or that of a proxy in front.",
)
@click.option(
    "--base",
    metavar="BASE",
    required=True,
    help="The given model: a name of the cache, or a folder.",
)
@click.option(
    "--origin", metavar="ORIGIN", help="The log's name; default: the host with /log."
)
@passphrase_file
@as_json
def init(folder: Path, **given: Unpack[_CoordinatorOptions]) -> None:
    """Make keys, settings, a draft policy, and an invitation to hand out.

    What is there is kept; run it again after policy.toml was edited, and the invitation
    has the new draft. The authority's key asks for a passphrase.
    """
    from tapestry.workloads.workload_registry import open_workload
    from tapestry_coordinator import coordinator_folder
    from tapestry_governance.events.federation_events import GivenBase

    settings = _settings(given["federation"], given["address"], given["origin"])
    key = folder / "keys" / "authority.key"
    if coordinator_folder.is_certified(folder):
        passphrase = None
    elif key.exists():
        passphrase = known_passphrase(key, given["passphrase_file"])
    else:
        passphrase = new_passphrase(key, given["passphrase_file"])
    base = open_workload(WORKLOAD, given["base"]).given.manifest
    invitation = coordinator_folder.init(
        folder,
        settings,
        workload=WORKLOAD,
        base=given["base"],
        policy=coordinator_folder.draft_policy(
            GivenBase(model=base.digest, parameters=base.parameters)
        ),
        passphrase=passphrase,
    )
    if given["as_json"]:
        files = {
            "policy": str(folder / coordinator_folder.POLICY),
            "invitation": str(invitation),
        }
        console.say_json({"base": base.digest, **files})
        return
    console.say(f"keys        {folder / 'keys'}; authority.key is locked")
    console.say(
        f"policy      {folder / coordinator_folder.POLICY}: edit it until the charter"
    )
    console.say(f"invitation  {invitation}: give it to each institution, which runs")
    console.say(
        f"  tapestry node init NAME --invite {invitation.name} --data FOLDER"
        " --language CODE --licence LICENCE"
    )


@click.command(cls=Command)
@folder_argument
@click.argument(
    "requests",
    cls=Argument,
    type=PATH,
    metavar="REQUEST...",
    help="The institutions' requests.",
    nargs=-1,
)
@as_json
def charter(folder: Path, requests: tuple[Path, ...], as_json: bool) -> None:
    """Write the charter of the institutions that sent requests.

    It replaces one of other requests or terms, and acceptances of that one no longer
    count.
    """
    from tapestry_coordinator import coordinator_folder
    from tapestry_coordinator.settings import CoordinatorSettings

    written = coordinator_folder.write_charter(folder, requests)
    found = written.charter
    settings = CoordinatorSettings.read(folder / "coordinator.toml")
    path = coordinator_folder.charter_path(folder, settings)
    if as_json:
        members = sorted(found.requests)
        said = {"charter": str(path), "members": members}
        console.say_json({**said, "replaced": written.replaced})
        return
    if written.replaced:
        console.say(
            "replaced    another charter, or a damaged one: its acceptances no longer"
            " count, each member accepts anew"
        )
    console.say(f"charter     {path}: {', '.join(sorted(found.requests))}")
    console.say("send it to each of them, which runs")
    console.say(f"  tapestry governance accept {path.name} --node NAME")
    console.say("They compare its fingerprint with one another, by telephone.")


@click.command("open", cls=Command)
@folder_argument
@click.argument(
    "acceptances",
    cls=Argument,
    type=PATH,
    metavar="ACCEPTANCE...",
    help="The founders' acceptances.",
    nargs=-1,
)
@as_json
def open_command(folder: Path, acceptances: tuple[Path, ...], as_json: bool) -> None:
    """Begin the log, when all founders have accepted the charter."""
    from tapestry_coordinator import coordinator_folder

    found = coordinator_folder.open_log(folder, acceptances)
    if as_json:
        members = sorted(found.requests)
        console.say_json({"genesis": found.genesis, "members": members})
        return
    console.say(
        f"log         {folder / 'log'}: charter and {len(found.requests)} acceptances"
    )
    console.say(f"genesis     {found.genesis}")


@click.command(cls=Command)
@folder_argument
@click.argument(
    "request",
    cls=Argument,
    type=PATH,
    metavar="REQUEST",
    help="The request of an institution that members admitted.",
)
@as_json
def enroll(folder: Path, request: Path, as_json: bool) -> None:
    """Let the node of an admitted member connect, also while the service runs.

    Founders are enrolled when the log is opened.
    """
    from tapestry_coordinator import coordinator_folder

    name = coordinator_folder.enroll(folder, request)
    if as_json:
        console.say_json({"enrolled": name})
        return
    console.say(f"enrolled    {name}: its node may connect")


@click.command(cls=Command)
@folder_argument
@passphrase_file
@as_json
def renew(folder: Path, passphrase_file: Path | None, as_json: bool) -> None:
    """Issue a new certificate for the SuperLink; institutions need no new file.

    The service takes it at its next start.
    """
    from tapestry_coordinator import coordinator_folder

    key = folder / "keys" / "authority.key"
    coordinator_folder.renew(folder, passphrase=known_passphrase(key, passphrase_file))
    certificate = folder / "tls" / "superlink.pem"
    if as_json:
        console.say_json({"certificate": str(certificate)})
        return
    console.say(f"certificate  {certificate}: new; start again")


def _settings(
    federation: str, address: str, origin: str | None
) -> "CoordinatorSettings":
    """Return coordinator.toml as the options say it.

    Raises:
        ConfigError: An option breaks a rule.
    """
    from tapestry.environment import is_loopback
    from tapestry.inputs.setting_faults import validated
    from tapestry_coordinator.settings import CoordinatorSettings

    host, _, port = address.rpartition(":")
    here = is_loopback(host.strip("[]"))
    said: dict[str, object] = {
        "federation": federation,
        "address": address,
        "origin": origin or f"{host.strip('[]')}/log",
    }
    if here:
        said["listen"] = {"superlink": f"127.0.0.1:{port}"}
    return validated(CoordinatorSettings, said, what="an option is wrong")
