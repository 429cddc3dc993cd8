"""What a node says it spent is what it spent, at the delta that it names."""

import pytest

from tapestry.encoding import decode_decimal
from tapestry.errors import ConfigError, PolicyError
from tapestry_coordinator import round_plan, run
from tapestry_governance.audit.verify import AuditVerdict
from tapestry_governance.events.privacy_events import DpAccounted
from tapestry_governance.events.round_events import RoundOpened
from tests.scenarios.conftest import Found
from tests.support.refusals import refused

SMALLER = "0.000001"


def test_a_plan_with_a_smaller_delta_than_the_nodes_is_accounted_for_at_it(
    found: Found,
) -> None:
    federation = found(
        coordinator={"privacy": {"target_delta": SMALLER}, "release_every": 1}
    )
    federation.run()
    federation.bundle()
    audit = federation.audit()
    assert audit.verdict is AuditVerdict.HOLDS
    assert {each.target_delta for each in audit.accounts} == {SMALLER}
    for each in audit.accounts:
        assert each.reported is not None
        assert decode_decimal(each.reported) == pytest.approx(each.recomputed, abs=1e-5)
        ledger = federation.nodes[each.node].ledger.balance()
        assert (
            ledger.spent < decode_decimal(each.reported) * 0.95
        )  # at the node's own delta


def test_a_round_over_the_federations_cap_is_refused_before_any_training(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = found(policy={"epsilon_cap": "0.5"})
    with refused(
        ConfigError, "members-too-few", match=r"the federation allows 0\.5 a run"
    ):
        federation.run()
    assert federation.said(RoundOpened) == []
    monkeypatch.setattr(run, "check_run", lambda *_, **__: None)
    monkeypatch.setattr(round_plan, "_check_member", lambda *_, **__: None)
    with refused(PolicyError, "plan-refused"):  # a coordinator that does not look
        federation.run()
    assert set(federation.refusals().values()) == {"budget_exhausted"}
    assert not federation.updates
    assert all(not node.ledger.rows() for node in federation.nodes.values())


@pytest.mark.slow
def test_an_adapter_over_the_federations_cap_is_refused_before_it_is_trained(
    found: Found,
) -> None:
    federation = found(
        coordinator={"adapters": True, "release_every": 1}, policy={"epsilon_cap": "3"}
    )
    federation.run()
    assert [closed.outcome for closed in federation.closed()] == ["applied"]
    assert all(a.adapter is None for a in federation.said(DpAccounted))
    for node in federation.nodes.values():
        assert {row.charge.purpose for row in node.ledger.rows()} == {"round"}
