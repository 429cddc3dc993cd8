"""The command ``tapestry node``: run a node, check it, read its budget and receipts."""

import logging
import signal
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from tapestry.cli import console
from tapestry.cli.commands import PATH, CommandGroup, as_json
from tapestry.cli.exit_status import ExitStatus
from tapestry.encoding import decode_decimal
from tapestry.environment import direct
from tapestry.errors import ConfigError, IncompleteError
from tapestry_node.backup_commands import backup, bundle, export, restore
from tapestry_node.data_commands import data
from tapestry_node.membership_commands import init, join
from tapestry_node.operator_commands import (
    leave,
    node_folder,
    pause,
    read_folder,
    resume,
    status,
    tells_its_end,
)
from tapestry_node.rotation_commands import rotate
from tapestry_node.submission_commands import submit

if TYPE_CHECKING:
    from tapestry.workloads.base import Workload
    from tapestry_node.budget.ledger import Ledger
    from tapestry_node.node_state import NodeState
    from tapestry_node.settings import NodePolicy, NodeSettings, Transport


@click.group(cls=CommandGroup)
def app() -> None:
    """An institution's node."""


app.add_command(init)
app.add_command(join)
app.add_command(backup)
app.add_command(restore)
app.add_command(bundle)
app.add_command(export)
app.add_command(status)
app.add_command(pause)
app.add_command(resume)
app.add_command(leave)
app.add_command(submit)
app.add_command(rotate)
app.add_command(data)


@app.command()
@node_folder
@click.option(
    "--superlink",
    metavar="HOST:PORT",
    help="Where the SuperLink listens; default: as node.toml says.",
)
@click.option(
    "--root-certificates",
    type=PATH,
    metavar="FILE",
    help="The certificate (PEM) of the SuperLink's authority.",
)
@click.option(
    "--auth-key",
    type=PATH,
    metavar="FILE",
    help="The node's private key towards the SuperLink.",
)
@tells_its_end
def run(
    folder: Path,
    superlink: str | None,
    root_certificates: Path | None,
    auth_key: Path | None,
) -> None:
    """Serve rounds until stopped; stop it with Ctrl-C at any time.

    The node dials out, and acts only on what its own policy allows and the log
    proves. Its log goes to standard error; what left is in `tapestry node egress`. If
    base or records are at fault, it tells the coordinator a code, and ends after ten
    minutes.
    """
    from tapestry.workloads.deferred_workload import loading

    with loading():
        from tapestry.installed_files import require_installed_files
        from tapestry.software_digest import software_manifest
        from tapestry.workloads.workload_registry import defer_workload
        from tapestry_node.adapters.training_job import WaitingJobs
        from tapestry_node.flower import LineUse, Pace, serve
        from tapestry_node.model_loader import ModelLoader, set_threads
        from tapestry_node.node import Node
        from tapestry_node.node_metrics import monitored
        from tapestry_node.refusing_node import opening
        from tapestry_node.settings import NodeSettings
        from tapestry_node.status_file import StatusFile

    console.start_logging()
    logging.getLogger("httpx").setLevel(logging.WARNING)
    require_installed_files(software_manifest().packages)
    settings = NodeSettings.read(folder / "node.toml")
    where = _transport(settings, folder, superlink, root_certificates, auth_key)
    told, stop = StatusFile(folder, superlink=where.superlink), threading.Event()
    with opening(folder, where=where, told=told) as opened:
        speed = settings.speed
        prepare = partial(set_threads, speed.threads)
        workload = defer_workload(
            settings.workload, settings.base, prepare=prepare, machine=speed.machine
        )
        node = Node(opened, workload=cast("Workload", workload), notify=told.progress)
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: stop.set())
    console.note(f"{node.name}: dialling {where.superlink}")
    with (
        direct(where.superlink),
        monitored(node, settings.monitor.metrics) as handle,
        ModelLoader(workload, stop=stop) as model,
    ):
        serve(
            told.watching(node, model.watching(handle)),
            superlink=where.superlink,
            root_certificates=Path(where.root_certificates),
            auth_key=Path(where.auth_key),
            use=LineUse(
                poll_seconds=decode_decimal(where.poll_seconds),
                pace=Pace.of_mbit(settings.limits.upload_mbit),
                tell=told.connection,
                idle=WaitingJobs(node, during=partial(told.training, node)),
            ),
            stop=stop,
        )
    node.close()


@app.command()
@read_folder
@as_json
def check(folder: Path, as_json: bool) -> ExitStatus:
    """Check all that a node needs before it joins; nothing is written.

    It reads settings, keys, log, data and base, dials the SuperLink, and prices the
    known trainings in epsilon. Each line comes as soon as it is known, each fault ends
    with the code of its rule, and the check goes on after it.
    """
    from tapestry_node.check_report import CheckReport
    from tapestry_node.settings import NodeSettings

    settings = NodeSettings.read(folder / "node.toml")
    report = CheckReport(folder, settings, now=datetime.now(UTC))
    for line in report.lines():
        if not as_json:
            console.say(line)
            console.finish()
    if as_json:
        console.say_json(report.as_json())
    return report.findings.status


@app.command()
@read_folder
@as_json
def budget(folder: Path, as_json: bool) -> None:
    """Show what the ledger says was spent and what is left, whatever the data are."""
    from tapestry_node.settings import NodeSettings

    policy = NodeSettings.read(folder / "node.toml").policy
    state = _state(folder)
    ledger = _ledger(state, policy)
    if as_json:
        console.say_json(ledger.to_json())
        state.close()
        return
    balance, rows = ledger.balance(), ledger.rows()
    for row in rows:
        steps = row.charge.steps
        console.say(
            f"{row.charge.title:<24}{row.state:<10}{steps.steps} steps, noise"
            f" multiplier {steps.noise_multiplier:g}, rate {steps.sampling_rate:.4f}"
        )
    console.say(
        f"epsilon {balance.spent:.4f} of {balance.limit:g} is spent at delta"
        f" {balance.delta:g}; unit {balance.unit}, adjacency {balance.adjacency}"
    )
    for block in balance.blocks if len(balance.blocks) > 1 else ():
        console.say(f"  block {block.block:<8}epsilon {block.spent:.4f} is spent")
    if balance.fallback > balance.spent:
        console.say(
            f"epsilon {balance.fallback:.4f} of {balance.fallback_limit:g} is spent if"
            " all other nodes take their noise out"
        )
    rounds = [row.charge for row in rows if row.charge.purpose == "round"]
    if rounds:  # an adapter is trained once
        console.say(
            f"{ledger.rounds_left(rounds[-1])} more like {rounds[-1].title} fit"
        )
    state.close()


@app.command()
@read_folder
@as_json
def egress(folder: Path, as_json: bool) -> None:
    """Show every message that left, with its size and digest."""
    state = _state(folder)
    total = 0
    for receipt in state.receipts():
        total += receipt.bytes
        if as_json:
            console.say_json(asdict(receipt), indent=None)
        else:
            console.say(
                f"{receipt.time}  {receipt.kind:<14}{receipt.bytes:>12}"
                f"  {receipt.content}"
            )
    if not as_json:
        console.say(f"{total} bytes left this node")
    state.close()


def _transport(
    settings: "NodeSettings",
    folder: Path,
    superlink: str | None,
    root_certificates: Path | None,
    auth_key: Path | None,
) -> "Transport":
    """Take what the command line names, and the rest from node.toml.

    Raises:
        ConfigError: Neither names address, certificate and key of the SuperLink.
    """
    from pydantic import ValidationError

    from tapestry.inputs.setting_faults import explain
    from tapestry_node.settings import Transport

    known = settings.transport
    if known is not None:
        superlink = superlink or known.superlink
        root_certificates = root_certificates or folder / known.root_certificates
        auth_key = auth_key or folder / known.auth_key
    if superlink is None or root_certificates is None or auth_key is None:
        raise ConfigError(
            f"{folder / 'node.toml'} has no [transport]; add it, or give --superlink,"
            " --root-certificates and --auth-key",
            code="transport-missing",
        )
    try:
        return Transport(
            superlink=superlink,
            root_certificates=str(root_certificates),
            auth_key=str(auth_key),
            poll_seconds=known.poll_seconds if known else "0.1",
        )
    except ValidationError as error:
        said = "; ".join(explain(error, Transport))
        raise ConfigError(
            f"an option is wrong: {said}", code="setting-invalid"
        ) from None


def _state(folder: Path) -> "NodeState":
    """Open the node's state to read, and compare it with the log if there is a mirror.

    Raises:
        IncompleteError: The node never ran: its folder has no ``node.db``.
        VerificationError: The state is older than the log's entries of this node.
    """
    from tapestry_node.directory import open_mirror
    from tapestry_node.node_state import DATABASE, NodeState
    from tapestry_node.settings import NodeSettings

    path, mirrored = folder / DATABASE, (folder / "view.db").exists()
    with suppress(OSError):  # what cannot be looked at, cannot be read either
        if not path.exists() or (path.is_file() and path.stat().st_size == 0):
            why = "it was deleted; put it back" if mirrored else "the node never ran"
            raise IncompleteError(
                f"{folder} has no {DATABASE}; {why}", code="state-missing"
            )
    committed: Mapping[str, int] = {}
    if mirrored:
        settings = NodeSettings.read(folder / "node.toml")
        mirror = open_mirror(folder, settings, readonly=True)
        committed = mirror.state.uploads_of(settings.name) if mirror.size else {}
        mirror.close()
    state = NodeState(path, readonly=True)
    state.require(committed)
    return state


def _ledger(state: "NodeState", policy: "NodePolicy") -> "Ledger":
    from tapestry_node.budget.ledger import Ledger

    return Ledger.look(
        state,
        epsilon=decode_decimal(policy.epsilon_limit),
        fallback_epsilon=decode_decimal(policy.fallback_epsilon_limit),
    )
