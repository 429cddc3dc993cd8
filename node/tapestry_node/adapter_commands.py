"""``tapestry adapter train``, ``publish``, ``withdraw`` and ``list``: an owner's verbs.

An adapter is trained at any time, on any release that members approved. They stand
beside ``adapter verify``, which needs no node.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

import click

from tapestry.cli import console
from tapestry.cli.commands import OWN_FOLDER, PATH, Argument, as_json
from tapestry.cli.exit_status import ExitStatus, status_of
from tapestry.cli.passphrases import ask, is_terminal
from tapestry.errors import ConfigError
from tapestry_governance.cli.adapter import app, list_bundle
from tapestry_governance.cli.audit import trust_file

if TYPE_CHECKING:
    from tapestry_node.adapters.adapter_file import NamedAdapter
    from tapestry_node.adapters.adapter_quote import Quote
    from tapestry_node.adapters.publication import AdapterJob
    from tapestry_node.settings import NodeSettings

__all__ = ["app"]

own_node = click.option(
    "--node",
    type=OWN_FOLDER,
    metavar="DIR",
    default=Path(),
    help="The node's folder; default: the current one.",
)
adapter_name = click.argument(
    "name", cls=Argument, metavar="NAME", help="The adapter's name in the log."
)


class _TrainOptions(TypedDict):
    release: str | None
    settings: Path | None
    plan: bool
    yes: bool
    as_json: bool


@app.command("train")
@adapter_name
@own_node
@click.option(
    "--release",
    metavar="NAME",
    help="An approved release, its run, or the index of its entry; default: the"
    " newest.",
)
@click.option(
    "--settings",
    type=PATH,
    metavar="FILE",
    help="Its settings; default: adapters/NAME.toml in the node's folder, else"
    " node.toml.",
)
@click.option("--plan", is_flag=True, help="Show what it would cost, and end.")
@click.option("--yes", is_flag=True, help="Train without asking.")
@as_json
def train(name: str, node: Path, **given: Unpack[_TrainOptions]) -> ExitStatus:
    """Train an adapter on an approved release, at any time, after a plan of its cost.

    It is paid for from the node's budget. If a node serves the folder, that trains it
    when no round is under way, otherwise this command does. Nothing leaves by it:
    tapestry adapter publish hands the adapter in.
    """
    from tapestry_node.adapters.adapter_file import NamedAdapter
    from tapestry_node.adapters.adapter_quote import quote
    from tapestry_node.settings import NodeSettings

    settings = NodeSettings.read(node / "node.toml")
    adapter = NamedAdapter.read(node, name, settings, file=given["settings"])
    if not given["plan"] and _goes_on(node, adapter, release=given["release"]):
        state = _train(node, name, settings)
        if given["as_json"]:
            console.say_json({"plan": None, "state": state})
        return ExitStatus.HOLDS
    found = quote(
        node,
        adapter,
        settings,
        release=given["release"],
        measure=not _is_served(node),
    )
    if not given["as_json"]:
        for line in found.lines():
            console.say(line)
    if given["plan"]:
        return _end_plan(found, as_json=given["as_json"])
    if found.fault is not None:
        raise found.fault
    _confirm(name, yes=given["yes"])
    _ask_for(node, adapter, release=found.release.release)
    state = _train(node, name, settings)
    if given["as_json"]:
        console.say_json({"plan": found.to_json(), "state": state})
    return ExitStatus.HOLDS


def _end_plan(found: "Quote", *, as_json: bool) -> ExitStatus:
    if as_json:
        console.say_json({"plan": found.to_json(), "state": "planned"})
    if found.fault is None:
        return ExitStatus.HOLDS
    console.note(f"refused   {found.fault} [{found.fault.code}]")
    return status_of(found.fault)


def _confirm(name: str, *, yes: bool) -> None:
    """Ask whether to train and pay.

    Raises:
        ConfigError: Nobody can be asked, or the answer is no.
    """
    if yes:
        return
    if not is_terminal():
        raise ConfigError(
            "a training is paid for, and nobody can be asked; give --yes, or --plan to"
            " see its cost alone",
            code="confirmation-missing",
        )
    if ask(f"train {name}, and pay for it? yes or no") != "yes":
        raise ConfigError(
            f"{name} is not trained, and nothing is paid for", code="training-declined"
        )


def _is_served(folder: Path) -> bool:
    from tapestry.storage.file_lock import is_locked
    from tapestry_node.node_state import DATABASE

    return is_locked((folder / DATABASE).with_suffix(".lock"))


def _ask_for(folder: Path, adapter: "NamedAdapter", *, release: str) -> None:
    from tapestry_node.adapters.training_job import TrainingJob

    now = datetime.now(UTC).isoformat(timespec="seconds")
    job = TrainingJob(release=release, file=adapter.file, asked=now)
    job.write(folder, adapter.name)


def _goes_on(folder: Path, adapter: "NamedAdapter", *, release: str | None) -> bool:
    """Return whether this training was asked for before, and is not done.

    Raises:
        ConfigError: Another training of this adapter was asked for.
    """
    from tapestry_node.adapters.training_job import TrainingJob, is_asked

    if not is_asked(folder, adapter.name):
        return False
    job = TrainingJob.read(folder, adapter.name)
    if job.failed is not None:
        return False
    if job.file != adapter.file or release not in (None, job.release):
        raise ConfigError(
            f"another training of {adapter.name}, on {job.release}, was asked for at"
            f" {job.asked}: let it end, or remove its .job file in {folder}/adapters",
            code="job-under-way",
        )
    console.note(f"{adapter.name}: goes on with what was asked for at {job.asked}")
    return True


def _train(folder: Path, name: str, settings: "NodeSettings") -> str:
    """Do the job unless a node serves the folder; says how it stands."""
    made = None if _is_served(folder) else _train_here(folder, name, settings)
    if made is None:
        console.note(f"{name}: the node trains it when no round is under way;")
        console.note("tapestry adapter list --node shows how far it is")
        return "waiting"
    version = made.title.version
    console.note(f"{name} {version} is trained and paid for: {made.folder}; next:")
    console.note(f"tapestry adapter publish {name}")
    return "trained"


def _train_here(
    folder: Path, name: str, settings: "NodeSettings"
) -> "AdapterJob | None":
    """Train in this process; None if a node has come to serve the folder meanwhile.

    Raises:
        TapestryError: The training failed; the job's file says why.
    """
    from tapestry.workloads.workload_registry import open_workload
    from tapestry_node.adapters.training_job import do_job
    from tapestry_node.model_loader import set_threads
    from tapestry_node.node import Node
    from tapestry_node.open_folder import OpenFolder

    try:
        opened = OpenFolder.open(folder)
    except ConfigError as error:
        if error.code != "folder-in-use":
            raise
        return None
    try:
        set_threads(settings.speed.threads)
        workload = open_workload(
            settings.workload, settings.base, machine=settings.speed.machine
        )
        return do_job(Node(opened, workload=workload), name)
    finally:
        opened.close()


@app.command("publish")
@adapter_name
@own_node
@as_json
def publish(name: str, node: Path, as_json: bool) -> None:
    """Hand in a trained adapter with the node's next cosignature, for all to use.

    The coordinator then asks the node for its files, checks them and logs the entry.
    What is published is public, and stays so.
    """
    from tapestry_node.adapters.own_adapters import hand_in

    version, is_new = hand_in(node, name)
    if as_json:
        console.say_json({"adapter": name, "version": version, "waiting": is_new})
    elif is_new:
        console.say(f"{name} {version}: handed in with the node's next cosignature,")
        console.say(
            "within about an hour (the coordinator's cosign_every) between runs"
        )
    else:
        console.say(f"{name} {version}: in the log already")


@app.command("withdraw")
@adapter_name
@click.argument(
    "version",
    cls=Argument,
    metavar="[VERSION]",
    default="",
    help="A version in the log; default: the newest.",
)
@own_node
@click.option(
    "--reason",
    metavar="CODE",
    required=True,
    help="A word, such as superseded. What is compromised or unlawful_data is refused"
    " under every policy.",
)
@as_json
def withdraw(name: str, version: str, node: Path, reason: str, as_json: bool) -> None:
    """Withdraw a version of an adapter of your own, without a vote.

    It is signed by the institution's community key and handed in with the node's next
    cosignature. Programs then warn or refuse, as the policy says of the reason.
    """
    from tapestry_node.adapters.own_adapters import withdraw as sign_withdrawal
    from tapestry_node.settings import NodeSettings

    settings = NodeSettings.read(node / "node.toml")
    found = sign_withdrawal(
        node,
        settings,
        name,
        version=_number(version),
        reason=reason,
        now=datetime.now(UTC),
    )
    if as_json:
        console.say_json({"adapter": name, "version": found, "reason": reason})
    else:
        console.say(f"{name} {found}: withdrawn, {reason}; handed in with the node's")
        console.say("next cosignature")


def _number(version: str) -> int | None:
    if not version:
        return None
    if not version.isdecimal() or not 0 < int(version) <= 1_000_000:
        raise ConfigError(
            f"{version!r} is no version; it is a number from 1 on", code="usage"
        )
    return int(version)


@app.command("list")
@click.argument(
    "bundle",
    cls=Argument,
    type=PATH,
    metavar="[BUNDLE]",
    default="",
    help="The bundle's folder; or give --node.",
)
@click.option(
    "--node",
    type=PATH,
    metavar="DIR",
    help="A node's folder, for the institution's own adapters: those planned, waiting,"
    " in training, trained, published.",
)
@trust_file
@as_json
def list_command(
    bundle: Path, node: Path | None, trust: bytes | None, as_json: bool
) -> ExitStatus:
    """List the published adapters of a verified log, or your own as they stand.

    Faulty folders in the bundle are named, and make the exit status theirs.
    """
    named = bundle != Path()
    if named == (node is not None):
        raise ConfigError("name a BUNDLE, or a node by --node", code="usage")
    if node is None:
        return list_bundle(bundle, trust=trust, as_json=as_json)
    from tapestry_node.adapters.own_adapters import list_adapters
    from tapestry_node.settings import NodeSettings

    rows = list_adapters(node, NodeSettings.read(node / "node.toml"))
    if as_json:
        console.say_json({"adapters": [row.to_json() for row in rows]})
    for row in () if as_json else rows:
        console.say(row)
    return ExitStatus.HOLDS
