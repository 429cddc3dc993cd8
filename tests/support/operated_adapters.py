"""A federation between runs, and an institution that has adapters by its own word.

``fr`` publishes none at the end of a run. It has settings of two in ``adapters/``, for
law and for care, and two approved releases to train them on.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tapestry.workloads.base import Workload
from tapestry.workloads.hardware import Machine
from tapestry.workloads.language import base_models
from tapestry_governance.events.privacy_events import DpAccounted
from tapestry_node.adapters.training_job import WaitingJobs
from tests.support.commands import Result, tapestry
from tests.support.federation import Base, Federation

OWNER, LAW, CARE = "fr", "fr-law", "fr-care"
_SETTINGS = """
language = "{language}"
domain = "{domain}"
region = "Bretagne"

[adapter]
noise = "local"
epsilon = {epsilon}
clip_norm = 0.5
licence = "CC0-1.0"
rank = 2
targets = ["q_proj"]
steps = 2
batch_size = 6
learning_rate = 0.1

[adapter.options]
sequence_length = 16
"""


@pytest.fixture
def settled(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Federation]:
    """A federation whose run has ended, with two releases that members approved."""
    found = ended(base, tmp_path, monkeypatch)
    found.approve()
    yield found
    found.close()


def ended(
    base: Base, place: Path, monkeypatch: pytest.MonkeyPatch, **policy: Any
) -> Federation:
    """A federation whose run has ended, with two candidates."""

    def open_base(_: str, *, cache: Path | None, machine: Machine) -> Workload:
        assert machine.device == "cpu"
        assert cache is None
        base.workload.load(base.replica.parameters)
        return base.workload

    monkeypatch.setattr(base_models, "open_base", open_base)
    found = Federation(
        place / "federation",
        base,
        coordinator={"rounds": 2, "release_every": 1},
        institution={"adapter": {"publish": False}, "policy": {"epsilon_limit": "40"}},
        policy={"epsilon_cap": "40", **policy},
    )
    found.run()
    folder = folder_of(found) / "adapters"
    folder.mkdir()
    write_settings(folder, LAW, language="fr", domain="law", epsilon="3")
    write_settings(folder, CARE, language="br", domain="care", epsilon="2")
    return found


def write_settings(folder: Path, name: str, **values: str) -> Path:
    """Write the settings of an adapter."""
    path = folder / f"{name}.toml"
    path.write_text(_SETTINGS.format(**values))
    return path


def folder_of(federation: Federation) -> Path:
    """The folder of the institution's node."""
    return federation.directory / "nodes" / OWNER


def ask(federation: Federation, verb: str, *words: object) -> Result:
    """Run a command of ``tapestry adapter`` on that folder."""
    return tapestry("adapter", verb, *words, "--node", folder_of(federation))


def adapter(federation: Federation, verb: str, *words: object) -> Result:
    """The same, which succeeds."""
    done = ask(federation, verb, *words)
    assert done.exit_code == 0, done.stderr
    return done


def states(federation: Federation) -> list[str]:
    """What ``adapter list`` says, a line for each."""
    return adapter(federation, "list").stdout.splitlines()


def idle(federation: Federation) -> None:
    """Let the node look for jobs, as it does when no request waits."""
    WaitingJobs(federation.nodes[OWNER])()


def trained(federation: Federation, name: str, *words: object) -> None:
    """Train an adapter by the node that runs."""
    adapter(federation, "train", name, "--yes", *words)
    idle(federation)


def exchange(federation: Federation) -> None:
    """Let the coordinator's service have the log cosigned, twice."""
    federation.cosign()
    federation.cosign()


def adapter_accounts(federation: Federation) -> list[DpAccounted]:
    """The accounts of the institution's adapters in the log."""
    said = [e.body for e in federation.logged() if e.actor == OWNER]
    return [b for b in said if isinstance(b, DpAccounted) and b.adapter is not None]


def adapter_charges(federation: Federation) -> list[tuple[str, int, str]]:
    """Name, version and state of each charge for an adapter in the ledger."""
    rows = federation.nodes[OWNER].ledger.rows()
    return [
        (row.charge.run, row.charge.number, row.state)
        for row in rows
        if row.charge.purpose == "adapter"
    ]
