"""One round on one node: what it reserves, what it answers, and what is on its disk."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tapestry.errors import BudgetExhausted, ProtocolError, ResourceError
from tapestry.protocol.messages import Kind
from tapestry.protocol.round_manifest import RoundManifest
from tapestry.protocol.secagg_messages import ConsentList, KeyList
from tapestry_governance.events.envelope import open_entry
from tapestry_governance.events.privacy_events import DpAccounted
from tapestry_node.budget.ledger import Ledger
from tapestry_node.node import Node
from tapestry_node.node_state import NodeState
from tapestry_node.refusal import Refused
from tapestry_node.round.session import Session
from tapestry_node.round.survivor_marks import UploadMark
from tests.support.federation import NAMES, Federation
from tests.support.federation_fixtures import Found
from tests.support.log_world import renamed
from tests.support.refusals import refused
from tests.support.unsigned_accounts import unsigned

NAME = NAMES[0]  # is asked first, so that the others have not answered yet
NOW = datetime(2026, 11, 29, tzinfo=UTC)

Stopped = Callable[[Kind], Federation]


@pytest.fixture
def stopped(found: Found) -> Stopped:
    """Run a federation up to the first request of a kind."""

    def run(kind: Kind) -> Federation:
        federation = found()
        federation.run_until_killed(lambda _, message: message.kind is kind)
        return federation

    return run


def session_of(federation: Federation) -> Session:
    session = federation.nodes[NAME].session
    assert session is not None
    return session


def join(node: Node, manifest: RoundManifest, *, ledger: Ledger | None = None) -> Any:
    """Join a round as the node does, past the rules of admission."""
    return Session(
        node.context,
        manifest,
        replica=node.replica,
        layout=node.trainer.layout(manifest),
        ledger=ledger or node.ledger,
    )


def states(node: Node) -> list[str]:
    return [row.state for row in node.ledger.rows()]


def test_a_session_reserves_and_gives_back_while_nothing_left(stopped: Stopped) -> None:
    federation = stopped(Kind.SHARE_KEYS)
    node, session = federation.nodes[NAME], session_of(federation)
    assert states(node) == ["reserved"]
    assert session.done is None
    session.abandon()
    assert states(node) == []


@pytest.mark.parametrize(
    ("kind", "request_", "state"),
    [
        (Kind.SHARE_KEYS, ConsentList(consents=()), "KeysAdvertised"),
        (Kind.COLLECT_MASKED_INPUTS, KeyList(advertisements=()), "KeysShared"),
        (Kind.CHECK_CONSISTENCY, KeyList(advertisements=()), "InputMasked"),
        (Kind.UNMASK, KeyList(advertisements=()), "ConsistencyChecked"),
        (Kind.APPLY_RESULT, ConsentList(consents=()), "SharesRevealed"),
    ],
)
def test_a_request_of_another_step_is_refused_and_the_step_stays(
    stopped: Stopped, kind: Kind, request_: Any, state: str
) -> None:
    session = session_of(stopped(kind))
    for _ in range(2):
        said = f"^round 1 is at {state} here; it takes no {type(request_).__name__}$"
        with refused(ProtocolError, "step-out-of-order", match=said):
            session.answer(request_, now=NOW)


def test_an_upload_leaves_after_budget_mark_and_account_are_on_the_disk(
    stopped: Stopped,
) -> None:
    federation = stopped(Kind.CHECK_CONSISTENCY)
    node, session = federation.nodes[NAME], session_of(federation)
    assert states(node) == ["spent"]
    assert node.store.highest("run") == 1
    (exchange,) = [
        each
        for each in federation.wire.replies(Kind.COLLECT_MASKED_INPUTS)
        if each.node == NAME and each.reply is not None
    ]
    assert exchange.reply is not None
    account = bytes(exchange.reply.attachments[0])
    assert account in node.store.outbox()
    body = open_entry(account).event.body
    assert isinstance(body, DpAccounted)
    assert (body.run_id, body.round_number, body.steps) == ("run", 1, 1)
    session.abandon()  # what is spent stays spent
    assert states(node) == ["spent"]


def test_the_last_state_is_kept_to_check_the_result_with(stopped: Stopped) -> None:
    federation = stopped(Kind.APPLY_RESULT)
    done = session_of(federation).done
    assert done is not None
    assert done.survivors.names == NAMES


def test_a_training_that_fails_is_paid_for_and_ends_the_run(
    found: Found,
) -> None:
    federation = found()

    def fail(_: Any) -> Any:
        raise ResourceError("the disk is full; make room", code="disk-full")

    federation.poison[NAME] = fail
    federation.run()
    node = federation.nodes[NAME]
    assert states(node) == ["spent"]
    assert node.store.highest("run") == 1  # paid for, so never trained again
    assert NAME not in {name for name, _ in federation.committed()}
    said = "^training_failed: a training of 'run'.*restart the node"
    with refused(Refused, "training-failed", match=said):
        node.context.check_failed("run")
    node.context.check_failed("another")
    federation.restart(NAME).context.check_failed("run")


def test_a_round_with_a_chosen_factor_seed_is_refused(stopped: Stopped) -> None:
    federation = stopped(Kind.SHARE_KEYS)
    node, manifest = federation.nodes[NAME], session_of(federation).manifest
    training = manifest.training.model_copy(update={"factor_seed": "5" * 64})
    said = f"factor seed {'5' * 64}, but {manifest.training.factor_seed} follows"
    with refused(Refused, "factor-seed-differs", match=said):
        join(node, renamed(manifest, training=training))


def test_a_plan_that_differs_from_the_runs_first_round_is_refused(
    stopped: Stopped,
) -> None:
    federation = stopped(Kind.SHARE_KEYS)
    node, manifest = federation.nodes[NAME], session_of(federation).manifest
    with refused(ProtocolError, "run-plan-differs"):
        join(node, renamed(manifest, clip_norm="3"))


def test_a_round_that_was_uploaded_for_is_not_joined_again(stopped: Stopped) -> None:
    federation = stopped(Kind.SHARE_KEYS)
    node, manifest = federation.nodes[NAME], session_of(federation).manifest
    session_of(federation).abandon()
    manifest_mark = replace(UploadMark.of(manifest), noise="none")
    node.store.take_upload(manifest_mark, charge=None, sign=unsigned)
    with refused(ProtocolError, "round-already-uploaded"):
        join(node, manifest)
    assert states(node) == []  # and nothing was reserved


def test_a_round_that_the_ledger_does_not_cover_is_not_joined(
    stopped: Stopped, tmp_path: Path
) -> None:
    federation = stopped(Kind.SHARE_KEYS)
    node, manifest = federation.nodes[NAME], session_of(federation).manifest
    terms = replace(node.trainer.terms, epsilon=0.1)
    ledger = Ledger.open(NodeState(tmp_path / "other.db"), terms)
    with refused(BudgetExhausted, "budget-exhausted", match="round 1 of 'run'"):
        join(node, manifest, ledger=ledger)
    assert ledger.rows() == []
