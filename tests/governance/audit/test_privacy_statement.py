from dataclasses import replace
from typing import Any

import pytest

from tapestry.errors import IncompleteError
from tapestry.protocol.stages import RoundStage
from tapestry_governance.audit.privacy_accounts import check
from tapestry_governance.audit.privacy_statement import (
    DEFINITION,
    NOT_COVERED,
    state_privacy,
    to_markdown,
)
from tapestry_governance.events.federation_events import GivenBase
from tapestry_governance.events.privacy_events import DpAccounted
from tapestry_governance.events.round_events import RoundAborted, RoundOpened
from tapestry_governance.rules.federation_state import FederationState
from tests.support.log_world import (
    NAMES,
    World,
    changed,
    fake_digest,
    given_base,
    renamed,
    with_loss,
    without_noise,
)
from tests.support.refusals import refused


@pytest.fixture(scope="module")
def state() -> FederationState:
    world = World().grow()
    world.run_round(3)
    return world.folded


def rows(state: FederationState, name: str) -> dict[str, Any]:
    promises = state_privacy(state, name).to_json()["promises"]
    return {promise["account"]["node"]: promise for promise in promises}


def test_a_release_states_what_every_node_spent_until_then(
    state: FederationState,
) -> None:
    found = rows(state, "base-2")
    assert sorted(found) == ["de", "es", "fr", "id"]
    assert {node: row["account"]["rounds"] for node, row in found.items()} == {
        "de": 2, "es": 2, "fr": 2, "id": 1,
    }  # fmt: skip
    assert found["fr"]["total"]["reported"] == "2.9"
    assert found["fr"]["total"]["rounds"] == 3
    assert 2.4 < found["fr"]["account"]["recomputed"] < 2.5
    assert found["fr"]["parts"] == (
        {
            "times": 2,
            "what": "rounds",
            "mechanism": "poisson-subsampled-gaussian",
            "clip_norm": "1",
            "noise_multiplier": "1",
            "own_multiplier": "1",
            "shares": 1,
            "sampling_rate": "0.05",
            "steps": 20,
        },
    )


def test_an_adapter_states_what_its_publisher_spent(state: FederationState) -> None:
    statement = state_privacy(state, "fr-culture")
    assert (statement.kind, statement.base) == ("adapter", "base-2")
    assert [promise.account.node for promise in statement.promises] == ["fr"]
    assert statement.promises[0].account.adapters == 1


def chain(world: World, run: str, base: str, *, epsilon: str = "7") -> str:
    """Add a run of one round from a base; returns the model that a release holds."""
    manifest = renamed(world.manifest(), run_id=run, model_digest=base)
    world.add(RoundOpened(manifest=manifest))
    commitments = {}
    for name in NAMES:
        commitments[name] = world.commit(name, manifest, epsilon=epsilon)
    wide, after = fake_digest(f"base of {run}"), fake_digest(f"release of {run}")
    closing = world.closing(manifest, commitments)
    world.add(changed(closing, base_after=wide, release_digest=after))
    return after


def release(world: World, name: str, run: str, base: str) -> None:
    last = world.folded.released.last
    body = changed(
        world.release(1), name=name, run_id=run, model_digest=base,
        previous=last.name if last else None,
    )  # fmt: skip
    world.add(body)
    world.approve(name)


def test_a_release_of_chained_runs_states_the_rounds_of_all_of_them() -> None:
    world, base = World().found(), fake_digest("given")
    for number in range(1, 6):
        base = chain(world, f"run-{number}", base)
        release(world, f"base-{number}", f"run-{number}", base)
    statement = state_privacy(world.folded, "base-5")
    assert statement.runs == tuple(f"run-{number}" for number in range(1, 6))
    for promise in statement.promises:
        assert promise.account.rounds == 5
        assert promise.account.recomputed == pytest.approx(3.498, abs=0.01)
        assert promise.account == replace(promise.total, reported="7")


def test_a_run_from_the_given_base_has_no_other_runs_in_its_ancestry() -> None:
    world, given = World().found(), fake_digest("given")
    chain(world, "run-1", given)
    base = chain(world, "run-2", given)
    release(world, "base-1", "run-2", base)
    statement = state_privacy(world.folded, "base-1")
    assert statement.runs == ("run-2",)
    (first, *_) = statement.promises
    assert (first.account.rounds, first.total.rounds) == (1, 2)
    assert first.account.recomputed == pytest.approx(1.9847, abs=1e-3)
    assert first.total.recomputed == pytest.approx(2.468, abs=1e-3)


def test_an_aborted_attempt_counts_in_the_release_of_its_run() -> None:
    world = World().found()
    manifest = world.manifest()
    world.add(RoundOpened(manifest=manifest))
    world.add(world.account(manifest), "fr", "node")
    world.add(
        RoundAborted(
            run_id="run", round_number=1, attempt=1,
            stage=RoundStage.COLLECT_MASKED_INPUTS, reason="too_few", survivors=(),
        )
    )  # fmt: skip
    again = world.manifest(attempt=2)
    world.add(RoundOpened(manifest=again))
    commitments = {}
    for name in NAMES:
        commitments[name] = world.commit(name, again, epsilon="2.5")
    world.add(world.closing(again, commitments))
    world.add(world.release(1))
    assert rows(world.folded, "base-1")["fr"]["account"]["rounds"] == 2
    assert rows(world.folded, "base-1")["de"]["account"]["rounds"] == 1


def test_an_adapter_states_its_training_and_the_rounds_of_its_base() -> None:
    world, base = World().found(), fake_digest("given")
    for number in (1, 2):
        base = chain(world, f"run-{number}", base)
        release(world, f"base-{number}", f"run-{number}", base)
    for name in ("fr-culture", "fr-other"):
        account = changed(world.adapter_account(name), run_id="run-2")
        assert isinstance(account, DpAccounted)
        world.add(with_loss(account, epsilon="7"), "fr", "node")
    adapter = changed(world.adapter(2), base_digest=base, epsilon="7")
    world.add(adapter, "fr", "community")
    statement = state_privacy(world.folded, "fr-culture")
    (promise,) = statement.promises
    assert (promise.account.rounds, promise.account.adapters) == (2, 1)
    assert promise.account.recomputed == pytest.approx(2.85, abs=0.05)
    assert (promise.total.rounds, promise.total.adapters) == (2, 2)
    page = to_markdown(statement)
    assert "from the rounds of `run-1`, `run-2`" in page
    assert "in the whole log | 7.0000 at delta 0.00001 (reported 7, composed 3." in page


def test_one_training_without_noise_leaves_no_promise() -> None:
    world = World(rules={"noise": ("local", "none")}).found()
    base = chain(world, "run-1", fake_digest("given"))
    release(world, "base-1", "run-1", base)
    bare = changed(without_noise(world.adapter_account()), run_id="run-1")
    world.add(bare, "fr", "node")
    adapter = changed(
        world.adapter(1), base_digest=base, epsilon=None, target_delta=None
    )
    world.add(adapter, "fr", "community")
    found = rows(world.folded, "fr-culture")["fr"]
    assert found["account"]["recomputed"] is None
    assert "| epsilon | none: a part was trained without noise |" in to_markdown(
        state_privacy(world.folded, "fr-culture")
    )
    earlier = rows(world.folded, "base-1")["fr"]
    assert earlier["account"]["recomputed"] is not None
    assert earlier["total"]["recomputed"] is None


def test_the_page_names_every_item_of_the_claim(state: FederationState) -> None:
    page = to_markdown(state_privacy(state, "base-2"))
    for item in (
        "unit of privacy | record", "adjacency | add-remove", "trust model | local",
        "delta | 0.00001", "epsilon | 2.4681",
        "2.9000 at delta 0.00001 (reported 2.9, composed 2.8",
        "dp-accounting/pld 0.6.0",
        "sampling rate 0.05", "clip norm 1", "noise multiplier 1", "2 times 20 steps",
        DEFINITION, *NOT_COVERED,
    ):  # fmt: skip
        assert item in page


def test_the_page_defines_epsilon_and_delta_only_where_they_hold(
    state: FederationState,
) -> None:
    assert "at most e to the power of epsilon times its probability" in DEFINITION
    assert "plus delta" in DEFINITION
    statement = state_privacy(state, "base-2")
    without = tuple(
        replace(promise, account=replace(promise.account, recomputed=None))
        for promise in statement.promises
    )
    assert DEFINITION not in to_markdown(replace(statement, promises=without))


def test_what_was_never_published_has_no_statement(state: FederationState) -> None:
    code, there = "name-not-published", "'base-9'.* base-2, fr-culture"
    with refused(IncompleteError, code, match=there):
        state_privacy(state, "base-9")
    with refused(IncompleteError, code, match="'base-1'.* nothing yet"):
        state_privacy(World().found().folded, "base-1")


def test_a_line_and_a_row_give_both_epsilons_or_none() -> None:
    world = World(rules={"noise": ("local", "none")}).found()
    base = chain(world, "run-1", fake_digest("given"))
    release(world, "base-1", "run-1", base)
    bare = changed(without_noise(world.adapter_account()), run_id="run-1")
    world.add(bare, "fr", "node")
    found = {
        promise.account.node: promise
        for promise in state_privacy(world.folded, "base-1").promises
    }
    said = "epsilon 1.9847 at delta 0.00001"
    whole = "epsilon 7.0000 at delta 0.00001"  # as it reported, which is more
    assert found["de"].to_line() == f"de: {said}; in the whole log {whole}"
    assert found["fr"].to_line() == f"fr: {said}; in the whole log no promise"
    row = found["fr"].to_row()
    assert row["epsilon"] == pytest.approx(1.9847, abs=1e-3)
    assert (row["total_epsilon"], row["total_target_delta"]) == (None, None)
    account = replace(found["de"].account, block=2, fallback_recomputed=4.5)
    shared = replace(found["de"], account=account)
    assert shared.to_line().startswith(
        f"de, block 2: {said} (4.5000 if all others collude); in the whole log"
    )
    assert shared.to_row()["epsilon_fallback"] == 4.5


def withheld(world: World) -> list[bytes]:
    """Two rounds, the first aborted with its sum open; its accounts are kept back."""
    manifest = world.manifest()
    world.add(RoundOpened(manifest=manifest))
    kept = []
    for name in NAMES:
        account = changed(world.account(manifest, epsilon="2.1"), number=1)
        kept.append(world.entry(account, name, "node"))
    world.add(
        RoundAborted(
            run_id="run", round_number=1, attempt=1, stage=RoundStage.UNMASK,
            reason="quorum", survivors=(),
        )
    )  # fmt: skip
    again = renamed(world.manifest(2), model_digest=world.base(0))
    world.add(RoundOpened(manifest=again))
    commitments = {}
    for name in NAMES:
        second = changed(world.account(again, epsilon="2.6"), number=2)
        world.add(second, name, "node")
        commitments[name] = world.add(world.commitment(name, again), name, "node")
    world.add(world.closing(again, commitments))
    world.add(world.release(2))
    return kept


def test_an_account_that_is_kept_back_shows_and_is_counted() -> None:
    world = World().found()
    kept = withheld(world)
    check(world.folded.spending)  # what is there is not understated
    row = rows(world.folded, "base-2")["es"]
    assert row["account"]["recomputed"] == pytest.approx(1.9847, abs=1e-3)
    assert (row["epsilon"], row["total"]["unlogged"]) == (2.6, 1)
    (first, *_) = statement = state_privacy(world.folded, "base-2").promises
    assert first.to_line() == (
        "de: epsilon 2.6000 at delta 0.00001; in the whole log epsilon 2.6000 at delta"
        " 0.00001; the log lacks 1 of its accounts, its report counts them"
    )
    page = to_markdown(state_privacy(world.folded, "base-2"))
    assert page.count("the log lacks 1 of its accounts") == len(statement)
    for entry in kept:  # and it is never too late
        world.append(entry)
    check(world.folded.spending)
    row = rows(world.folded, "base-2")["es"]
    assert row["account"]["recomputed"] == pytest.approx(2.4681, abs=1e-3)
    assert (row["account"]["rounds"], row["total"]["unlogged"]) == (2, 0)
    assert row["epsilon"] == row["account"]["recomputed"]


def test_what_a_release_states_does_not_depend_on_when_it_was_logged() -> None:
    """A round that was opened before it counts, one that was opened after does not."""
    early, late = World().found(), World().found()
    for world in (early, late):
        manifest = world.manifest()
        world.add(RoundOpened(manifest=manifest))
        commitments = {name: world.commit(name, manifest) for name in NAMES[:3]}
        lost = world.entry(world.account(manifest), "id", "node")
        if world is early:
            world.append(lost)
        world.add(world.closing(manifest, commitments))
        world.add(world.release(1))
        if world is late:
            world.run_round(2, names=NAMES[:3])
            world.append(lost)
    one, other = (rows(world.folded, "base-1") for world in (early, late))
    assert {n: r["account"] for n, r in one.items()} == {
        n: r["account"] for n, r in other.items()
    }
    assert sorted(other) == list(NAMES)


def adopt(world: World, *bases: GivenBase) -> None:
    """Let all members name further bases in the next policy."""
    world.change_policy(bases=(given_base("given"), *bases))


def test_a_base_of_the_same_parameters_has_the_same_history() -> None:
    """Another licence makes another identity; the numbers are those of the release."""
    world = World().found()
    base = chain(world, "run-0", fake_digest("given"))
    release(world, "base-0", "run-0", base)
    base = chain(world, "run-1", base)
    release(world, "base-1", "run-1", base)  # its parameters: "values"
    adopt(
        world,
        given_base("base-1 relicensed", parameters="values"),
        given_base("another", parameters="other values"),
    )
    again = chain(world, "run-2", fake_digest("base-1 relicensed"))
    release(world, "base-2", "run-2", again)
    statement = state_privacy(world.folded, "base-2")
    assert (statement.runs, statement.unknown) == (("run-0", "run-1", "run-2"), ())
    assert {promise.account.rounds for promise in statement.promises} == {3}
    fresh = chain(world, "run-3", fake_digest("another"))
    release(world, "base-3", "run-3", fresh)
    statement = state_privacy(world.folded, "base-3")
    assert (statement.runs, statement.unknown) == (("run-3",), ())
    assert statement.warning == ""


def test_a_base_of_no_known_history_is_said_to_have_none_here() -> None:
    world = World(rules={"bases": "any"}).found()
    base = chain(world, "run-1", fake_digest("base-7 of elsewhere"))
    release(world, "base-1", "run-1", base)
    after = chain(world, "run-2", base)
    release(world, "base-2", "run-2", after)
    for name in ("base-1", "base-2"):
        statement = state_privacy(world.folded, name)
        assert statement.unknown == ("run-1",)
        assert "base that `run-1` began with is not in this log" in to_markdown(
            statement
        )
