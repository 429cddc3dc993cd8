"""Folders of nodes that are not running, and the commands that read them."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tapestry.model.replica import Replica
from tapestry.workloads.base import Workload
from tapestry.workloads.hardware import Machine
from tapestry.workloads.language import base_models
from tapestry_node import readiness
from tapestry_node.budget.ledger import Balance
from tapestry_node.directory import read_trust
from tapestry_node.node import Node
from tapestry_node.readiness import Standing
from tapestry_node.refusal import Objection
from tapestry_node.settings import NodeSettings
from tests.support.commands import Result, tapestry
from tests.support.federation import NAMES, Base, Federation
from tests.support.federation_fixtures import Found
from tests.support.settings_files import change_settings
from tests.support.superlink import SuperLink

NAME, OTHER = NAMES[:2]
TRANSPORT = {
    "superlink": "127.0.0.1:9092",
    "root_certificates": "authority.pem",
    "auth_key": "keys/transport",
    "poll_seconds": "0.1",
}


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, base: Base, found: Found) -> Found:
    """Found federations whose commands take the given base that is loaded already."""

    def open_base(_: str, *, cache: Path | None, machine: Machine) -> Workload:
        assert cache is None
        assert machine.device == "cpu"
        base.workload.load(base.replica.parameters)  # runs leave others in it
        return base.workload

    monkeypatch.setattr(base_models, "open_base", open_base)
    return found


@pytest.fixture
def idle(loaded: Found) -> Path:
    """The folder of a node that has not seen the log yet."""
    return closed(loaded())


@pytest.fixture
def used(loaded: Found) -> Path:
    """The folder of a node that took part in a round."""
    federation = loaded()
    federation.run()
    return closed(federation)


def closed(federation: Federation) -> Path:
    """Close a federation; returns a node's folder that could dial as well."""
    federation.close()
    folder = federation.directory / "nodes" / NAME
    authority = federation.coordinator / "tls" / "authority.pem"
    shutil.copy(authority, folder / "authority.pem")
    change(folder, {"transport": TRANSPORT})
    return folder


def change(folder: Path, settings: dict[str, Any]) -> None:
    """Replace some settings of a node."""
    change_settings(folder / "node.toml", NodeSettings, settings)


def fifo(path: Path) -> None:
    """Put a FIFO in the place of a file."""
    path.unlink()
    os.mkfifo(path, mode=0o600)


def run(verb: str, folder: Path, *more: str) -> Result:
    """Run a command of ``tapestry node`` on a folder."""
    return tapestry("node", verb, folder, *more)


def opened(folder: Path, base: Base) -> Node:
    """Open a node's folder with the given base in the model."""
    base.workload.load(base.replica.parameters)
    return Node(folder, workload=base.workload, replica=base.replica)


def objections(folder: Path, base: Base) -> list[Objection]:
    """List the objections of a node, each of one line."""
    node = opened(folder, base)
    found = objections_of(node)
    node.close()
    assert all("\n" not in each.detail for each in found)
    return found


def standing_of(node: Node) -> Standing:
    """Return what an open node knows about itself before an offer."""
    return Standing(
        folder=node.directory,
        settings=node.settings,
        keys={name: key.verify_key for name, key in node.keys.items()},
        trust=read_trust(node.directory),
        state=node.mirror.state if node.mirror.size else None,
        given_base=Replica.start(node.trainer.workload.given).digest,
        ledger=node.ledger,
        trainer=node.trainer,
        load=lambda: node.trainer.workload.load(node.replica.parameters),
    )


def objections_of(node: Node) -> list[Objection]:
    """List why an open node would refuse every offer."""
    return readiness.objections(standing_of(node))


def connect(folder: Path, link: SuperLink) -> int:
    """Let a node's folder dial a SuperLink that knows its key; return the node's id."""
    shutil.copy(link.authority, folder / "authority.pem")
    change(folder, {"transport": {"superlink": link.address}})
    return link.register(folder / TRANSPORT["auth_key"])


def balance_of(folder: Path, base: Base) -> Balance:
    """Return what a node has spent."""
    node = opened(folder, base)
    balance = node.ledger.balance()
    node.close()
    return balance
