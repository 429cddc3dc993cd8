"""The ledger: durable before anything leaves, never less, never restored."""

import contextlib
import multiprocessing
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapestry.errors import (
    BudgetExhausted,
    ConfigError,
    PolicyError,
    ResourceError,
    VerificationError,
)
from tapestry.privacy import accounting
from tapestry_node.budget.ledger import Charge, Ledger, PrivacyPromise
from tapestry_node.node_state import NodeState
from tests.support.refusals import refused
from tests.support.unsigned_accounts import unsigned

TERMS = PrivacyPromise(
    records=1000,
    epsilon=4.0,
    fallback_epsilon=40.0,
    delta=1e-5,
)

STEPS = accounting.Steps(noise_multiplier=1.0, sampling_rate=0.05, steps=10)


def charge(number: int, *, run: str = "run-1", steps: int = 10) -> Charge:
    return Charge(
        purpose="round",
        run=run,
        number=number,
        steps=replace(STEPS, steps=steps),
        own_multiplier=STEPS.noise_multiplier,
    )


def shared(number: int, *, own: float = 0.5) -> Charge:
    """A round of one step with noise 1, of which ``own`` is the node's."""
    steps = replace(STEPS, steps=1, coordinates=1000, bound=2.0**20)
    return replace(charge(number), steps=steps, own_multiplier=own)


def open_ledger(path: Path, terms: PrivacyPromise, **settings: Any) -> Ledger:
    """Open a ledger in a node's database of its own."""
    return Ledger.open(NodeState(path, **settings), terms)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "node.db"


def test_a_spent_charge_is_there_after_reopening(path: Path) -> None:
    ledger = open_ledger(path, TERMS)
    ledger.reserve(charge(1))
    ledger.spend(charge(1), unsigned)
    (row,) = open_ledger(path, TERMS).rows()
    assert (row.charge, row.state) == (charge(1), "spent")


def test_the_balance_is_the_accountants_figure_per_run_and_in_all(path: Path) -> None:
    ledger = open_ledger(path, TERMS)
    for c in (charge(1), charge(2), charge(1, run="run-2")):
        ledger.reserve(c)
    ledger.spend(charge(1), unsigned)
    ledger.spend(charge(1, run="run-2"), unsigned)
    balance = ledger.balance()
    assert balance.spent == accounting.epsilon([STEPS] * 2, target_delta=1e-5)
    assert balance.committed == accounting.epsilon([STEPS] * 3, target_delta=1e-5)
    alone = accounting.epsilon([STEPS], target_delta=1e-5)
    assert balance.by_run == {"run-1": alone, "run-2": alone}
    assert (balance.unit, balance.adjacency) == ("record", "add-remove")


def test_the_round_that_would_pass_the_limit_is_refused_and_told_what_is_left(
    path: Path,
) -> None:
    ledger = open_ledger(path, TERMS)
    fit = ledger.rounds_left(charge(1))
    for number in range(1, fit + 1):
        assert ledger.rounds_left(charge(1)) == fit + 1 - number
        ledger.reserve(charge(number))
        ledger.spend(charge(number), unsigned)
    assert 1 < fit < 20
    with refused(
        BudgetExhausted, "budget-exhausted", match=r"over the limit of 4; 3\.\d+ .*0 of"
    ):
        ledger.reserve(charge(fit + 1))
    assert ledger.balance().spent <= 4.0


@pytest.mark.slow
def test_shared_noise_costs_less_than_its_fallback_and_both_have_limits(
    path: Path,
) -> None:
    ledger = open_ledger(path, replace(TERMS, epsilon=2.0, fallback_epsilon=6.0))
    fit = ledger.rounds_left(shared(1))
    assert 0 < fit < ledger.rounds_left(shared(1, own=1.0))
    for number in range(1, fit + 1):
        ledger.reserve(shared(number))
        ledger.spend(shared(number), unsigned)
    balance = ledger.balance()
    assert 2 * balance.spent < balance.fallback <= 6.0
    with refused(BudgetExhausted, "budget-exhausted", match="fallback epsilon to 6"):
        ledger.reserve(shared(fit + 1))


def test_all_runs_over_the_federations_cap_are_refused_before_it_is_reserved(
    path: Path,
) -> None:
    ledger = open_ledger(path, TERMS)
    one = accounting.epsilon([STEPS], target_delta=1e-6)
    ledger.check_cap(charge(1), target_delta=1e-6, cap=one)
    with refused(BudgetExhausted, "epsilon-above-cap", match="the federation's cap"):
        ledger.check_cap(charge(1), target_delta=1e-6, cap=0.99 * one)
    ledger.reserve(charge(1))
    with refused(BudgetExhausted, "epsilon-above-cap", match="the federation's cap"):
        ledger.check_cap(charge(2), target_delta=1e-6, cap=one)
    with refused(BudgetExhausted, "epsilon-above-cap", match="the federation's cap"):
        ledger.check_cap(charge(1, run="run-2"), target_delta=1e-6, cap=one)


def test_a_reservation_counts_until_it_is_released(path: Path) -> None:
    ledger = open_ledger(path, TERMS)
    ledger.reserve(charge(1, steps=120))
    with refused(BudgetExhausted, "budget-exhausted"):
        ledger.reserve(charge(2, steps=120))
    ledger.release(charge(1, steps=120))
    ledger.reserve(charge(2, steps=120))


def test_what_is_spent_is_never_released(path: Path) -> None:
    ledger = open_ledger(path, TERMS)
    ledger.reserve(charge(1))
    ledger.spend(charge(1), unsigned)
    before = ledger.balance().spent
    ledger.release(charge(1))
    assert ledger.balance().spent == before > 0


def test_the_same_charge_twice_counts_once(path: Path) -> None:
    ledger = open_ledger(path, TERMS)
    for _ in range(2):
        ledger.reserve(charge(1))
        ledger.spend(charge(1), unsigned)
    assert len(ledger.rows()) == 1


def test_the_same_name_with_other_steps_is_refused(path: Path) -> None:
    ledger = open_ledger(path, TERMS)
    ledger.reserve(charge(1))
    with refused(PolicyError, "charge-differs"):
        ledger.spend(charge(1, steps=11), unsigned)


def test_nothing_is_spent_that_was_not_reserved(path: Path) -> None:
    with refused(PolicyError, "charge-not-reserved"):
        open_ledger(path, TERMS).spend(charge(1), unsigned)


def test_a_charge_in_the_log_that_the_ledger_lacks_is_refused(path: Path) -> None:
    ledger = open_ledger(path, TERMS)
    ledger.reserve(charge(1))
    ledger.spend(charge(1), unsigned)
    ledger.require([charge(1)])
    with refused(VerificationError, "ledger-restored", match="the log says"):
        ledger.require([charge(1), charge(2)])


def _die_after_spending(path: Path, number: int) -> None:
    import signal

    ledger = open_ledger(path, TERMS)
    ledger.reserve(charge(number))
    ledger.spend(charge(number), unsigned)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_node_killed_after_spending_has_spent(path: Path) -> None:
    context = multiprocessing.get_context("fork")
    spent = 0.0
    for number in (1, 2):
        child = context.Process(target=_die_after_spending, args=(path, number))
        child.start()
        child.join()
        now = open_ledger(path, TERMS).balance().spent
        assert now > spent
        spent = now


@pytest.mark.parametrize(
    ("changes", "code", "match"),
    [
        ({"unit": "person"}, "ledger-setting-differs", "unit is person"),
        ({"delta": 1e-6}, "ledger-setting-differs", "delta is"),
    ],
)
def test_other_terms_than_the_ledgers_are_refused(
    path: Path, changes: dict[str, Any], code: str, match: str
) -> None:
    open_ledger(path, TERMS)
    with refused(ConfigError, code, match=match):
        open_ledger(path, replace(TERMS, **changes))


def test_a_lower_limit_holds_at_once(path: Path) -> None:
    open_ledger(path, TERMS).reserve(charge(1))
    with refused(BudgetExhausted, "budget-exhausted", match="limit of 1;"):
        open_ledger(path, replace(TERMS, epsilon=1.0)).reserve(charge(2))


@pytest.mark.parametrize(
    ("changes", "code", "match"),
    [
        ({"epsilon": 0.0}, "epsilon-out-of-range", "epsilon 0"),
        ({"epsilon": float("nan")}, "epsilon-out-of-range", "epsilon nan"),
        ({"epsilon": float("inf")}, "epsilon-out-of-range", "epsilon inf"),
        ({"delta": 0.0}, "delta-out-of-range", "delta 0"),
        ({"delta": 1.0}, "delta-out-of-range", "delta 1"),
        ({"delta": 0.001}, "delta-too-large", "not below 1/1000"),
        ({"records": 0}, "records-missing", "0 records"),
        ({"unit": "token"}, "unit-unsupported", "token"),
        ({"adjacency": "replace-one"}, "unit-unsupported", "replace-one"),
    ],
)
def test_terms_that_promise_nothing_are_refused(
    changes: dict[str, Any], code: str, match: str
) -> None:
    with refused(ConfigError, code, match=match):
        replace(TERMS, **changes)


def test_a_file_that_is_no_database_is_a_resource_error(path: Path) -> None:
    path.write_bytes(b"not a database" * 1000)
    with refused(ResourceError, "database-damaged", match=r"node\.db"):
        open_ledger(path, TERMS)


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(st.sampled_from(["reserve", "spend", "release"]), st.integers(1, 4)),
        max_size=12,
    )
)
def test_spent_epsilon_never_falls_and_never_passes_the_limit(
    tmp_path_factory: pytest.TempPathFactory, moves: list[tuple[str, int]]
) -> None:
    path = tmp_path_factory.mktemp("ledger") / "node.db"
    spent = 0.0
    for move, number in moves:
        ledger = open_ledger(path, TERMS)
        with contextlib.suppress(PolicyError):
            if move == "spend":
                ledger.spend(charge(number, steps=8), unsigned)
            else:
                getattr(ledger, move)(charge(number, steps=8))
        balance = ledger.balance()
        assert spent <= balance.spent <= balance.committed <= balance.limit
        spent = balance.spent


def test_looking_at_a_ledger_that_was_never_started_changes_nothing(path: Path) -> None:
    NodeState(path).close()
    before = path.read_bytes()
    state = NodeState(path, readonly=True)
    with refused(ConfigError, "ledger-missing", match="the node never ran"):
        Ledger.look(state, epsilon=1.0, fallback_epsilon=10.0)
    state.close()
    assert path.read_bytes() == before


def on(number: int, *blocks: int, steps: int = 10) -> Charge:
    return replace(charge(number, steps=steps), blocks=blocks)


def spend(ledger: Ledger, charge: Charge) -> None:
    ledger.reserve(charge)
    ledger.spend(charge, unsigned)


def test_each_block_pays_for_what_was_trained_on_it_and_no_more(path: Path) -> None:
    ledger = open_ledger(path, replace(TERMS, unit="person"))
    for paid in (on(1, 1), on(2, 1, 2), on(3, 2, 3), on(4, 2, 3)):
        spend(ledger, paid)
    one, two, three = (
        accounting.epsilon([STEPS] * times, target_delta=1e-5) for times in (1, 2, 3)
    )
    balance = ledger.balance()
    assert [(b.block, b.spent) for b in balance.blocks] == [
        (1, two),
        (2, three),
        (3, two),
    ]
    assert balance.spent == balance.committed == three > one
    rows = ledger.to_json()["blocks"]
    assert [(row["block"], row["spent"]) for row in rows] == [
        (1, two),
        (2, three),
        (3, two),
    ]


def test_a_block_that_cannot_pay_is_left_out_and_the_others_go_on(path: Path) -> None:
    ledger = open_ledger(path, TERMS)
    most = ledger.rounds_left(on(1, 1))
    for number in range(1, most + 1):
        spend(ledger, on(number, 1))
    wish = on(most + 1, 1, 2)
    with refused(BudgetExhausted, "budget-exhausted", match="limit of 4; .* 0 of this"):
        ledger.reserve(wish)
    fitted = ledger.fit(wish)
    assert fitted.blocks == (2,)
    spend(ledger, fitted)
    assert ledger.fit(wish) == fitted  # what was paid for stays as it was
    assert ledger.known(wish) == fitted
    assert ledger.rounds_left(wish) == most - 1
    assert ledger.paying(wish, (1, 2, 3)) == (2, 3)
    with refused(BudgetExhausted, "budget-exhausted"):
        ledger.fit(on(most + 2, 1))


def test_the_federations_cap_leaves_blocks_out_as_well(path: Path) -> None:
    ledger = open_ledger(path, TERMS)
    spend(ledger, on(1, 1))
    cap = accounting.epsilon([STEPS], target_delta=1e-5)
    assert ledger.check_cap(on(2, 1, 2), target_delta=1e-5, cap=cap).blocks == (2,)
    with refused(BudgetExhausted, "epsilon-above-cap", match="the federation's cap"):
        ledger.check_cap(on(2, 1), target_delta=1e-5, cap=cap)


def test_a_charge_is_not_spent_on_other_blocks_than_were_reserved(path: Path) -> None:
    ledger = open_ledger(path, TERMS)
    ledger.reserve(on(1, 2))
    for blocks in ((1, 2), (1,)):
        with refused(PolicyError, "charge-differs"):
            ledger.spend(on(1, *blocks), unsigned)
    published = [on(1, 1, 2)]
    ledger.spend(on(1, 2), unsigned)
    with refused(VerificationError, "ledger-restored"):
        ledger.require(published)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.sets(st.integers(1, 4), min_size=1), st.integers(1, 30)),
        max_size=12,
    )
)
def test_no_block_ever_passes_the_limit(wishes: list[tuple[set[int], int]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        ledger = open_ledger(Path(folder) / "node.db", TERMS)
        for number, (blocks, steps) in enumerate(wishes, 1):
            with contextlib.suppress(BudgetExhausted):
                fitted = ledger.fit(on(number, *sorted(blocks), steps=steps))
                assert set(fitted.blocks) <= blocks
                spend(ledger, fitted)
        charges = [row.charge for row in ledger.rows()]
        for block in range(1, 5):
            mine = [each.steps for each in charges if block in each.blocks]
            assert accounting.epsilon(mine, target_delta=1e-5) <= TERMS.epsilon


def test_another_column_of_keys_is_refused_with_what_to_do(path: Path) -> None:
    persons = replace(TERMS, unit="person", key="patient")
    open_ledger(path, persons)
    with refused(ConfigError, "ledger-setting-differs", match="under the old name"):
        open_ledger(path, replace(persons, key="pseudonym"))
