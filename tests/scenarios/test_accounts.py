"""What a node says it spent is what it spent, at the delta that it names."""

from dataclasses import replace
from typing import Any

import pytest

from tapestry.encoding import decode_decimal
from tapestry.errors import ConfigError, PolicyError, RuleError
from tapestry_coordinator import round_plan, run
from tapestry_governance.audit import privacy_accounts
from tapestry_governance.audit.verify import AuditVerdict
from tapestry_governance.events.privacy_events import DpAccounted
from tapestry_governance.events.round_events import RoundOpened
from tapestry_governance.rules.round_records import AccountedSpending
from tests.scenarios.conftest import Found
from tests.support.log_world import World, with_loss
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


def test_a_round_over_the_federations_cap_is_refused_before_anybody_trains(
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


@pytest.mark.parametrize(
    "change",
    [
        {"own_multiplier": "0.001", "noise_multiplier": "0.001"},
        {"own_multiplier": "0.000000000001", "noise_multiplier": "0.000000000001"},
        {"steps": 1_000_000},
    ],
)
def test_an_account_that_nobody_can_compose_breaks_a_rule(
    change: dict[str, Any],
) -> None:
    world = World().found()
    body = world.account(world.manifest())
    if "steps" in change:
        body = body.model_copy(update=change)
    else:
        body = with_loss(body, **change)
    said = _spending(body)
    (found,) = privacy_accounts.recompute(said)
    assert found.recomputed is None
    with refused(RuleError, "rule"):
        privacy_accounts.check(said, [found])


def test_an_understated_fallback_breaks_a_rule() -> None:
    world = World().found()
    honest = with_loss(
        world.account(world.manifest()),
        mechanism="poisson-subsampled-skellam",
        trust_model="shared",
        own_multiplier="0.5",
        shares=4,
        coordinates=1000,
        bound="1000000",
    )
    (probe,) = privacy_accounts.recompute(_spending(honest))
    assert probe.fallback_recomputed is not None
    assert probe.recomputed is not None
    assert probe.fallback_recomputed > 2 * probe.recomputed
    for share, understated in ((1.001, False), (0.99, True)):
        fallback = f"{probe.fallback_recomputed * share:.6f}1"
        said = with_loss(honest, epsilon_fallback=fallback)
        (found,) = privacy_accounts.recompute(_spending(said))
        assert found.is_understated is understated
    (silent,) = privacy_accounts.recompute(_spending(honest))
    assert silent.is_understated
    assert not replace(silent, run_id=None).is_understated


def _spending(body: DpAccounted) -> dict[str, list[AccountedSpending]]:
    return {"fr": [AccountedSpending.of(body, index=0)]}
