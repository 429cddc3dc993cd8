"""Epsilon is composed again from the accounts; a report below it breaks a rule."""

import math
from collections.abc import Sequence
from typing import Any

import pytest

from tapestry.encoding import decode_decimal
from tapestry.errors import ConfigError, RuleError
from tapestry.privacy.accounting import Composition, epsilon
from tapestry_governance.audit.privacy_accounts import (
    Account,
    check,
    check_new,
    recompute,
    steps_of,
)
from tapestry_governance.events.privacy_events import DpAccounted
from tapestry_governance.rules.round_records import AccountedSpending
from tests.support.log_world import NEXT, World, changed, with_loss, without_noise
from tests.support.refusals import refused

Spendings = dict[str, list[AccountedSpending]]


@pytest.fixture(scope="module")
def account() -> DpAccounted:
    world = World().found()
    return world.account(world.manifest())


@pytest.fixture(scope="module")
def adapter() -> DpAccounted:
    return World().found().adapter_account()


def shared(account: DpAccounted) -> DpAccounted:
    """Let an account count on the noise of four nodes."""
    return with_loss(
        account,
        mechanism="poisson-subsampled-skellam",
        trust_model="shared",
        own_multiplier="0.5",
        shares=4,
        coordinates=1000,
        bound="1000000",
    )


def spending(*bodies: DpAccounted) -> Spendings:
    rows = []
    for at, body in enumerate(bodies):  # in the order of their numbers, unless they say
        number = at + 1 if body.number == NEXT else body.number
        numbered = body.model_copy(update={"number": number})
        rows.append(AccountedSpending.of(numbered, index=at))
    return {"fr": rows}


def composed(bodies: Sequence[DpAccounted], target_delta: str) -> float:
    (rows,) = spending(*bodies).values()
    steps = [steps_of(row.steps, row.promise) for row in rows if row.promise]
    return epsilon(steps, target_delta=decode_decimal(target_delta))


def test_a_node_is_composed_at_the_smallest_delta_of_its_accounts(
    account: DpAccounted,
) -> None:
    smaller = with_loss(account, target_delta="0.000001")
    (found,) = recompute(spending(account, smaller))
    assert (found.node, found.block) == ("fr", 1)
    assert (found.rounds, found.adapters, found.steps) == (2, 0, 40)
    assert found.target_delta == "0.000001"
    assert smaller.promise is not None
    assert found.reported == smaller.promise.epsilon
    assert found.recomputed == composed([account, smaller], "0.000001")
    assert found.fallback_recomputed is None


def test_runs_and_adapters_are_composed_together_whatever_their_names(
    account: DpAccounted, adapter: DpAccounted
) -> None:
    other = account.model_copy(update={"run_id": "another", "round_number": 1})
    bodies = [account, other, adapter, account.model_copy(update={"round_number": 2})]
    (found,) = recompute(spending(*bodies))
    assert (found.rounds, found.adapters, found.steps) == (3, 1, 80)
    assert found.recomputed == pytest.approx(composed(bodies, "0.00001"))


def test_a_report_of_one_run_alone_is_understated(account: DpAccounted) -> None:
    """Two runs in turn, each account with the epsilon of its own run."""
    alone = [composed([account] * count, "0.00001") for count in (1, 2)]
    bodies = [
        with_loss(
            account.model_copy(update={"run_id": run, "round_number": number}),
            epsilon=f"{alone[number - 1]:.6f}",
        )
        for number in (1, 2)
        for run in ("one", "two")
    ]
    with refused(RuleError, "epsilon-understated", match="entry 1, "):
        check(spending(*bodies))
    everything = [
        with_loss(body, epsilon=f"{composed(bodies[: at + 1], '0.00001') + 1e-5:.6f}")
        for at, body in enumerate(bodies)
    ]
    check(spending(*everything))


def test_adapters_of_many_names_are_composed_together(adapter: DpAccounted) -> None:
    one = composed([adapter], "0.00001") + 1e-5
    bodies = [
        with_loss(
            adapter.model_copy(update={"adapter": f"fr-{at}"}), epsilon=f"{one:.6f}"
        )
        for at in range(6)
    ]
    check(spending(*bodies[:1]))
    with refused(RuleError, "epsilon-understated", match="entry 5, "):
        check(spending(*bodies))


@pytest.mark.parametrize("low", range(5))
def test_a_report_that_is_too_low_is_found_wherever_it_is(
    account: DpAccounted, low: int
) -> None:
    bodies = [
        with_loss(account, noise_multiplier=f"{2 + at}", own_multiplier=f"{2 + at}")
        for at in range(5)
    ]
    costs = [composed(bodies[: at + 1], "0.00001") for at in range(5)]
    said = [
        with_loss(body, epsilon=f"{costs[at] * (0.999 if at == low else 1):.6f}1")
        for at, body in enumerate(bodies)
    ]
    with refused(RuleError, "epsilon-understated", match=f"entry {low}, "):
        check(spending(*said))


def test_reports_that_rise_cost_one_composition_each(
    account: DpAccounted, monkeypatch: pytest.MonkeyPatch
) -> None:
    bodies = [
        with_loss(account, noise_multiplier=noise, own_multiplier=noise, epsilon=said)
        for noise, said in (("2", "5"), ("3", "5"), ("4", "5"), ("5", "6"), ("6", "7"))
    ]
    asked: list[float] = []
    plain = Composition.epsilon

    def counted(self: Composition, *, target_delta: float) -> float:
        asked.append(target_delta)
        return plain(self, target_delta=target_delta)

    monkeypatch.setattr(Composition, "epsilon", counted)
    found = check(spending(*bodies))
    assert len(asked) == 3 + 1  # three different reports, and the account
    assert found == recompute(spending(*bodies))


def test_the_fallback_is_composed_over_all_runs(account: DpAccounted) -> None:
    honest = shared(account)
    other = honest.model_copy(update={"run_id": "another"})
    (probe,) = recompute(spending(honest))
    (both,) = recompute(spending(honest, other))
    assert probe.fallback_recomputed is not None
    assert both.fallback_recomputed is not None
    assert both.fallback_recomputed > 1.2 * probe.fallback_recomputed
    alone = f"{probe.fallback_recomputed + 1e-4:.6f}"
    first, second = (
        with_loss(each, epsilon="8", epsilon_fallback=alone) for each in (honest, other)
    )
    check(spending(first))
    with refused(RuleError, "epsilon-understated", match="entry 1, "):
        check(spending(first, second))


def test_without_noise_nothing_is_recomputed(account: DpAccounted) -> None:
    (found,) = recompute(spending(account, without_noise(account)))
    assert (found.rounds, found.reported, found.recomputed) == (2, None, None)
    assert found.target_delta is None
    assert not found.is_understated


@pytest.mark.parametrize(("share", "is_understated"), [(1.0, False), (0.999, True)])
def test_a_report_below_the_cost_of_its_parameters_is_refused(
    account: DpAccounted, share: float, is_understated: bool
) -> None:
    (probe,) = recompute(spending(account))
    assert probe.recomputed is not None
    said = spending(with_loss(account, epsilon=f"{probe.recomputed * share:.6f}1"))
    found = recompute(said)
    assert [each.is_understated for each in found] == [is_understated]
    if is_understated:
        with refused(RuleError, "epsilon-understated", match="fr .* block 1 in entry"):
            check(said)
    else:
        check(said)


def test_a_report_on_an_adapters_card_is_checked_where_it_stands(
    adapter: DpAccounted,
) -> None:
    low = with_loss(adapter, epsilon="1.5")
    said = spending(low, adapter.model_copy(update={"adapter": "fr-other"}))
    found = recompute(said)
    assert [each.is_understated for each in found] == [False]
    with refused(RuleError, "epsilon-understated", match=r"epsilon 1\.5 "):
        check(said)


@pytest.mark.parametrize(
    "change",
    [
        {"own_multiplier": "0.001", "noise_multiplier": "0.001"},
        {"own_multiplier": "0.000000000001", "noise_multiplier": "0.000000000001"},
        {"steps": 1_000_000},
    ],
)
def test_an_account_that_cannot_be_composed_breaks_a_rule(
    account: DpAccounted, change: dict[str, Any]
) -> None:
    if "steps" in change:
        body = account.model_copy(update=change)
    else:
        body = with_loss(account, **change)
    said = spending(body)
    (found,) = recompute(said)
    assert found.recomputed == math.inf
    with refused(RuleError, "epsilon-understated", match="cost inf"):
        check(said)


def test_integer_noise_of_a_few_grid_steps_has_no_cost(account: DpAccounted) -> None:
    coarse = with_loss(shared(account), bound="10", epsilon_fallback="9")
    (found,) = recompute(spending(coarse))
    assert (found.recomputed, found.fallback_recomputed) == (math.inf, math.inf)
    assert found.is_understated
    (row,) = spending(coarse)["fr"]
    assert row.promise is not None
    with refused(ConfigError, "noise-too-small"):
        steps_of(row.steps, row.promise)


@pytest.mark.parametrize("own", ["0.19", "0.05", "0.000000001"])
def test_a_fallback_that_is_infinite_is_not_one_that_does_not_apply(
    account: DpAccounted, own: str
) -> None:
    lie = with_loss(account, own_multiplier=own, shares=400)  # its trust model is local
    (found,) = recompute(spending(lie))
    assert (found.fallback_reported, found.fallback_recomputed) == (None, math.inf)
    with refused(RuleError, "epsilon-understated"):
        check(spending(lie))


def test_an_understated_fallback_breaks_a_rule(account: DpAccounted) -> None:
    honest = shared(account)
    (probe,) = recompute(spending(honest))
    assert probe.fallback_recomputed is not None
    assert probe.recomputed is not None
    assert probe.fallback_recomputed > 2 * probe.recomputed
    for share, understated in ((1.001, False), (0.99, True)):
        fallback = f"{probe.fallback_recomputed * share:.6f}1"
        (found,) = recompute(spending(with_loss(honest, epsilon_fallback=fallback)))
        assert found.is_understated is understated
    (silent,) = recompute(spending(honest))
    assert silent.is_understated


def test_accounts_as_they_come_cost_what_they_cost_at_once(
    adapter: DpAccounted,
) -> None:
    bodies = [adapter.model_copy(update={"version": v}) for v in (1, 2, 3)]
    bodies[1] = with_loss(bodies[1], noise_multiplier="1.5", own_multiplier="1.5")
    whole: list[Account] = []
    running = Composition()
    for end, row in enumerate(spending(*bodies)["fr"], start=1):
        whole += recompute(spending(*bodies[:end]))
        assert row.promise is not None
        running.add(steps_of(row.steps, row.promise))
        delta = decode_decimal(row.promise.target_delta)
        cost = running.epsilon(target_delta=delta)
        assert whole[-1].recomputed == pytest.approx(cost, rel=1e-5)


def test_new_accounts_are_held_to_what_an_audit_demands(adapter: DpAccounted) -> None:
    """A late one counts in those that follow it; an older one is not checked again."""
    world = World().grow()  # of fr: 2 and 2.5 for two rounds, 2.9 for its adapter
    before = world.folded
    check_new(None, before)
    check_new(before, before)
    low = with_loss(adapter, epsilon="3")  # three trainings and a round cost 3.2
    fifth = changed(low, adapter="fr-five", number=5)
    world.add(fifth, "fr", "node")
    after = world.folded
    with refused(RuleError, "epsilon-understated", match="reports epsilon 3 "):
        check_new(before, after)
    check_new(after, after)
    honest = changed(with_loss(adapter, epsilon="3.21"), adapter="fr-five", number=5)
    world = World().grow()
    world.add(honest, "fr", "node")
    check_new(before, world.folded)
    between = world.folded
    fourth = changed(with_loss(adapter, epsilon="3.21"), adapter="fr-four", number=4)
    world.add(fourth, "fr", "node")
    with refused(RuleError, "epsilon-understated", match="in entry 3[0-9], "):
        check_new(between, world.folded)  # now the fifth tells too little


def test_accounts_are_composed_in_the_order_of_their_numbers(
    account: DpAccounted,
) -> None:
    """The log may have them in any order, and lack some; a report counts those too."""
    costs = [composed([account] * count, "0.00001") for count in range(1, 6)]
    said = [
        with_loss(account, epsilon=f"{cost + 1e-5:.6f}").model_copy(
            update={"number": at}
        )
        for at, cost in enumerate(costs, start=1)
    ]
    for order in ([4, 0, 2, 1, 3], [4, 3], [2], [3, 0]):
        (found,) = check(spending(*(said[at] for at in order)))
        assert found.unlogged == max(order) + 1 - len(order)
        assert found.reported == f"{costs[max(order)] + 1e-5:.6f}"
        assert found.epsilon == pytest.approx(costs[max(order)], abs=2e-5)
        assert found.is_above is (found.unlogged > 0)
    low = with_loss(said[4], epsilon=f"{costs[3]:.6f}")
    with refused(RuleError, "epsilon-understated", match="entry 0, "):
        check(spending(low, *said[:4]))


def test_a_whole_is_composed_at_the_smallest_delta() -> None:
    """An account at a larger one does not make all that was spent look small."""
    world = World().grow()
    (before,) = recompute({"de": world.folded.spending_of("de")})
    account = world.account(world.manifest(2), epsilon="2.5")
    cheap = with_loss(account, target_delta="0.001")
    last = cheap.model_copy(update={"number": 3})
    spent = [*world.folded.spending_of("de"), *spending(last)["fr"]]
    (found,) = recompute({"de": spent})
    assert found.target_delta == before.target_delta == "0.00001"
    assert before.recomputed is not None
    assert found.recomputed is not None
    assert found.recomputed > before.recomputed
    assert found.reported is None  # the last report is at another delta
    assert not found.is_understated
