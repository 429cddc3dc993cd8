"""An institution trains, publishes and withdraws adapters whenever it wants to.

No run is under way, and the coordinator asks for nothing: what an operator does is by
commands, and the rest follows from what waits in the node's outbox.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tapestry.encoding import decode_decimal
from tapestry.privacy import accounting
from tapestry.workloads.base import Workload
from tapestry.workloads.language import base_models
from tapestry_governance.audit.verify import AuditVerdict
from tapestry_governance.events.model_events import AdapterPublished
from tapestry_governance.events.privacy_events import DpAccounted
from tapestry_governance.vote_count import Withdrawn
from tapestry_node.adapters import adapter_trainer
from tapestry_node.adapters.training_job import WaitingJobs
from tests.support.commands import Result, tapestry
from tests.support.deaths import dies
from tests.support.federation import Base, Federation, Killed

pytestmark = pytest.mark.slow

LAW, CARE = "fr-law", "fr-care"
SETTINGS = """
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
def federation(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Federation]:
    """One whose run has ended, with two releases that members approved."""

    def open_base(_: str, *, cache: Path | None) -> Workload:
        assert cache is None
        base.workload.load(base.replica.parameters)
        return base.workload

    monkeypatch.setattr(base_models, "open_base", open_base)
    found = Federation(
        tmp_path / "federation",
        base,
        coordinator={"rounds": 2, "release_every": 1},
        institution={"adapter": {"publish": False}, "policy": {"epsilon_limit": "40"}},
        policy={"epsilon_cap": "40"},
    )
    found.run()
    found.approve()
    folder = folder_of(found) / "adapters"
    folder.mkdir()
    for name, language, domain, epsilon in (
        (LAW, "fr", "law", "3"),
        (CARE, "br", "care", "2"),
    ):
        text = SETTINGS.format(language=language, domain=domain, epsilon=epsilon)
        (folder / f"{name}.toml").write_text(text)
    yield found
    found.close()


def folder_of(federation: Federation) -> Path:
    return federation.directory / "nodes" / "fr"


def adapter(federation: Federation, verb: str, *words: object) -> Result:
    done = tapestry("adapter", verb, *words, "--node", folder_of(federation))
    assert done.exit_code == 0, done.stderr
    return done


def states(federation: Federation) -> list[str]:
    """What ``adapter list`` says, a line for each."""
    return adapter(federation, "list").stdout.splitlines()


def spent(federation: Federation) -> list[DpAccounted]:
    said = [e.body for e in federation.logged() if e.actor == "fr"]
    return [b for b in said if isinstance(b, DpAccounted)]


def idle(federation: Federation) -> None:
    """Let the node look for jobs, as it does when no request waits."""
    WaitingJobs(federation.nodes["fr"])()


def exchange(federation: Federation) -> None:
    """Let the coordinator's service have the log cosigned, twice."""
    federation.cosign()
    federation.cosign()


def test_an_institution_has_two_adapters_on_two_releases_between_runs(
    federation: Federation,
) -> None:
    federation.kill("fr")  # the command trains where no node serves
    first = adapter(federation, "train", LAW, "--release", "base-1", "--yes")
    assert "release   base-1, entry" in first.stdout
    federation.start("fr")
    adapter(federation, "train", CARE, "--yes")  # the node takes it up
    assert [line for line in states(federation) if "fr-care on base-2: waiting" in line]
    idle(federation)
    assert all(": trained" in line for line in states(federation))
    assert federation.said(AdapterPublished) == []  # nothing left by that
    for name in (LAW, CARE):
        adapter(federation, "publish", name)
    assert all(": published" in line for line in states(federation))
    exchange(federation)
    law, care = federation.said(AdapterPublished)
    assert [(e.name, e.version, e.base, e.language) for e in (law, care)] == [
        (LAW, 1, "base-1", "fr"),
        (CARE, 1, "base-2", "br"),
    ]
    assert all(": accepted, in the log at" in line for line in states(federation))
    card = (federation.coordinator / "adapters" / CARE / "README.md").read_text()
    assert 'domain: "care"' in card
    assert "of the region Bretagne" in card
    adds_up(federation)
    adapter(federation, "withdraw", LAW, "1", "--reason", "superseded")
    exchange(federation)
    assert [line for line in states(federation) if "fr-law 1" in line][0].endswith(
        "superseded, the policy refuses it"
    )
    state = federation.nodes["fr"].mirror.state
    assert Withdrawn.of(state, LAW, law.manifest_digest) is not None
    assert Withdrawn.of(state, CARE, care.manifest_digest) is None
    federation.bundle()
    audit = federation.audit()
    assert audit.verdict is AuditVerdict.HOLDS, audit.steps[-1].detail
    federation.restart("fr")  # its ledger is that of the log


def adds_up(federation: Federation) -> None:
    """The last account's epsilon is all charges together, at the log's delta."""
    rows = federation.nodes["fr"].ledger.rows()
    assert [row.charge.key for row in rows if row.charge.purpose == "adapter"] == [
        ("adapter", LAW, 1),
        ("adapter", CARE, 1),
    ]
    last = spent(federation)[-1].loss
    assert last.mechanism != "none"
    whole = accounting.epsilon(
        (row.charge.steps for row in rows),
        target_delta=decode_decimal(last.target_delta),
    )
    assert whole <= decode_decimal(last.epsilon) <= whole + 2e-6


@pytest.mark.parametrize("running", [False, True], ids=["command", "node"])
def test_a_training_that_is_killed_goes_on_and_is_paid_for_once(
    federation: Federation, monkeypatch: pytest.MonkeyPatch, running: bool
) -> None:
    dies(monkeypatch, adapter_trainer, "write", after=False)
    if running:
        adapter(federation, "train", LAW, "--yes")
        with suppress(Killed):
            idle(federation)
            raise AssertionError("the node was not killed")
        federation.restart("fr")
        idle(federation)
    else:
        federation.kill("fr")
        folder = folder_of(federation)
        died = tapestry("adapter", "train", LAW, "--yes", "--node", folder)
        assert "internal error: Killed" in died.stderr
        again = adapter(federation, "train", LAW, "--yes")
        assert "goes on with what was asked for" in again.stderr
        federation.start("fr")
    (row,) = [
        row
        for row in federation.nodes["fr"].ledger.rows()
        if row.charge.purpose == "adapter"
    ]
    assert (row.charge.key, row.state) == (("adapter", LAW, 1), "spent")
    adapter(federation, "publish", LAW)
    exchange(federation)
    (published,) = federation.said(AdapterPublished)
    assert published.version == 1
    assert len([b for b in spent(federation) if b.adapter is not None]) == 1


def test_one_that_failed_is_paid_for_and_trained_again_only_when_asked(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, calls = adapter_trainer.train, iter([True])

    def train(*arguments: Any, **rest: Any) -> Any:
        if next(calls, False):
            raise ValueError("a private record")
        return honest(*arguments, **rest)

    monkeypatch.setattr(adapter_trainer, "train", train)
    adapter(federation, "train", LAW, "--yes")
    for _ in range(3):
        idle(federation)
    (line,) = [each for each in states(federation) if LAW in each]
    assert ": failed, internal error: ValueError" in line
    assert "a private record" not in line
    adapter(federation, "train", LAW, "--yes")
    idle(federation)
    keys = [r.charge.key for r in federation.nodes["fr"].ledger.rows()][-2:]
    assert keys == [("adapter", LAW, 1), ("adapter", LAW, 2)]
    adapter(federation, "publish", LAW)
    exchange(federation)
    (published,) = federation.said(AdapterPublished)
    assert published.version == 2
