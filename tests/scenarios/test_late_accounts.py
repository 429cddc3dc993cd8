"""An account that comes late is taken, whatever its node spent and logged since."""

from collections.abc import Callable
from typing import Any

import pytest

from tapestry.protocol.messages import MAX_SUBMITTED, Kind, Message
from tapestry_coordinator.settings import RunSettings
from tapestry_governance.audit.verify import AuditVerdict
from tapestry_governance.events.model_events import AdapterPublished
from tapestry_governance.events.privacy_events import DpAccounted
from tapestry_governance.events.round_events import RoundDisputed
from tapestry_node.adapters import adapter_trainer, publication
from tapestry_node.budget.ledger import Ledger
from tests.scenarios.conftest import Found
from tests.support.deaths import node_dies
from tests.support.federation import NAMES, Deliver, Federation, unanswered
from tests.support.settings_files import change_settings

ALONE = {name: {"adapter": {"publish": name == "sw"}} for name in NAMES}

pytestmark = pytest.mark.slow


def accounts(federation: Federation, name: str) -> list[tuple[int, int | None]]:
    """Number and round of each account of a node, in the order of the log."""
    said = [e.body for e in federation.logged() if e.actor == name]
    return [(b.number, b.round_number) for b in said if isinstance(b, DpAccounted)]


def whole(federation: Federation, name: str, count: int) -> None:
    """The log has every account of a node, and no one's is understated."""
    assert sorted(number for number, _ in accounts(federation, name)) == list(
        range(1, count + 1)
    )
    assert federation.nodes[name].store.outbox() == []
    federation.bundle()
    audit = federation.audit()
    assert audit.verdict is AuditVerdict.HOLDS, audit.steps[-1].detail
    (mine,) = (each for each in audit.accounts if each.node == name)
    assert (mine.unlogged, mine.is_above) == (0, False)


@pytest.mark.parametrize("loses", [(1,), (1, 2), (2,)], ids=str)
def test_accounts_whose_messages_were_lost_follow_after_later_ones(
    found: Found, loses: tuple[int, ...]
) -> None:
    federation = found(coordinator={"rounds": 3})
    lost: list[int] = []

    def drop(_name: str, request: Message, deliver: Deliver) -> None:
        deliver(request)

    def trained(_name: str, request: Message, deliver: Deliver) -> Message | None:
        """The upload is lost, and every cosignature until the next one."""
        reply = deliver(request)
        lost.append(len(lost) + 1)
        federation.wire.faults["sw", Kind.COSIGN] = []
        if lost[-1] not in loses:
            return reply
        federation.wire.on("sw", Kind.COSIGN, drop, times=99)
        return None

    federation.wire.on("sw", Kind.COLLECT_MASKED_INPUTS, trained, times=3)
    federation.run()
    assert len(federation.closed()) == 3
    order = [number for _, number in accounts(federation, "sw")]
    assert order != sorted(order, key=lambda each: each or 0)
    whole(federation, "sw", 3)


def another_run(federation: Federation) -> None:
    """Begin a run from the given base, which every node opens again."""
    federation.begin_another_run("second")
    for name in NAMES:
        federation.restart(name)


BETWEEN: dict[str, Callable[[Federation], Any]] = {
    "round": lambda federation: change_settings(
        federation.run_folder / "run.toml", RunSettings, {"rounds": 2}
    ),
    "run": another_run,
}
DEATHS = {
    "after it paid": (Ledger, "spend", True),
    "before it wrote": (adapter_trainer, "write", False),
    "before it answered": (publication, "publication_in", False),
}


@pytest.mark.slow
@pytest.mark.parametrize("between", BETWEEN)
@pytest.mark.parametrize("death", DEATHS)
def test_an_adapter_that_was_paid_for_is_accounted_after_a_round_or_a_run(
    found: Found, monkeypatch: pytest.MonkeyPatch, death: str, between: str
) -> None:
    federation = found(
        coordinator={"adapters": True},
        policy={"bases": "any"},
        institutions=ALONE,
    )

    owner, called, after = DEATHS[death]
    node_dies(federation, monkeypatch, "sw", (owner, called, 1), after=after)
    federation.run()
    assert federation.said(AdapterPublished) == []
    BETWEEN[between](federation)
    federation.run()
    (published,) = federation.said(AdapterPublished)
    is_written = death == "before it answered"  # then it is given again, as it is
    assert published.version == (1 if is_written else 2)
    paid = [number for number, at in accounts(federation, "sw") if at is None]
    assert paid == ([2] if is_written else [2, 4])
    whole(federation, "sw", 3 if is_written else 4)


def test_entries_that_the_log_refuses_take_no_place_of_an_account(found: Found) -> None:
    federation = found(coordinator={"rounds": 2})
    node = federation.nodes["id"]
    for number in range(1, MAX_SUBMITTED + 9):
        nothing = RoundDisputed(
            run_id="never", round_number=number, attempt=1, subject="gate", chunk=None
        )
        node.store.post(node.context.sign_event(nothing, now=node.clock()))
    federation.wire.on("id", Kind.COLLECT_MASKED_INPUTS, unanswered)
    federation.run()
    assert [number for number, _ in accounts(federation, "id")] == [1, 2]
    assert len(node.store.outbox()) == MAX_SUBMITTED + 8
