"""An institution trains, publishes and withdraws adapters whenever it wants to.

No run is under way, and the coordinator asks for nothing: what an operator does is by
commands, and the rest follows from what waits in the node's outbox.
"""

from contextlib import suppress
from typing import Any

import pytest

from tapestry.encoding import decode_decimal
from tapestry.privacy import accounting
from tapestry_governance.audit.verify import AuditVerdict
from tapestry_governance.events.model_events import AdapterPublished
from tapestry_governance.events.privacy_events import DpAccounted
from tapestry_governance.vote_count import Withdrawn
from tapestry_node.adapters import adapter_trainer
from tests.support.commands import tapestry
from tests.support.deaths import dies
from tests.support.federation import Federation, Killed
from tests.support.operated_adapters import (
    CARE,
    LAW,
    adapter,
    adapter_accounts,
    adapter_charges,
    exchange,
    folder_of,
    idle,
    states,
)

pytestmark = pytest.mark.slow


def test_an_institution_has_two_adapters_on_two_releases_between_runs(
    settled: Federation,
) -> None:
    federation = settled
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
    assert next(line for line in states(federation) if "fr-law 1" in line).endswith(
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
    assert adapter_charges(federation) == [(LAW, 1, "spent"), (CARE, 1, "spent")]
    said = [e.body for e in federation.logged() if e.actor == "fr"]
    last = [body for body in said if isinstance(body, DpAccounted)][-1].loss
    assert last.mechanism != "none"
    whole = accounting.epsilon(
        (row.charge.steps for row in rows),
        target_delta=decode_decimal(last.target_delta),
    )
    assert whole <= decode_decimal(last.epsilon) <= whole + 2e-6


@pytest.mark.parametrize("running", [False, True], ids=["command", "node"])
def test_a_training_that_is_killed_goes_on_and_is_paid_for_once(
    settled: Federation, monkeypatch: pytest.MonkeyPatch, running: bool
) -> None:
    federation = settled
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
    assert adapter_charges(federation) == [(LAW, 1, "spent")]
    adapter(federation, "publish", LAW)
    exchange(federation)
    (published,) = federation.said(AdapterPublished)
    assert published.version == 1
    assert len(adapter_accounts(federation)) == 1


def test_one_that_failed_is_paid_for_and_trained_again_only_when_asked(
    settled: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = settled
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
    assert adapter_charges(federation) == [(LAW, 1, "spent"), (LAW, 2, "spent")]
    adapter(federation, "publish", LAW)
    exchange(federation)
    (published,) = federation.said(AdapterPublished)
    assert published.version == 2
