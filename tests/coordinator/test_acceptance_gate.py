"""The acceptance gate: the steps that it takes and rejects, and its reasons."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tapestry.errors import ConfigError
from tapestry.evaluation.held_out import HeldOut, scores_of
from tapestry.evaluation.scorer import Scorer
from tapestry.protocol.round_manifest import RoundManifest
from tapestry.secagg.client_states import Cohort
from tapestry.secagg.server import Unmasked
from tapestry.tensor_types import narrow
from tapestry.vectors import Layout
from tapestry.workloads.language.bits_per_byte import BitsPerByte
from tapestry.workloads.ratio_score import RatioScore
from tapestry_coordinator.acceptance_gate import AcceptanceGate, logged_evaluations
from tapestry_coordinator.journal import Journal
from tests.support.gate_models import HELD_OUT, ScoredModel
from tests.support.log_world import NAMES, World, renamed
from tests.support.plans import outer_plan
from tests.support.refusals import refused
from tests.support.replicas import replica_of

LAYOUT = Layout(tensors=(("w", (8,)),))


@pytest.fixture
def model() -> ScoredModel:
    return ScoredModel(LAYOUT)


@pytest.fixture
def gate(model: ScoredModel, tmp_path: Path) -> Iterator[AcceptanceGate]:
    journal = Journal(tmp_path)
    workload: Any = model
    yield AcceptanceGate(
        scorer=Scorer(
            workload=workload, evaluation=model.evaluation(None), held_out=HELD_OUT
        ),
        journal=journal,
    )
    journal.close()


START = replica_of({"w": np.zeros(8, dtype=np.float32)})


def _manifest(**outer: str) -> RoundManifest:
    return renamed(
        World().found().manifest(),
        model_digest=START.digest,
        layout_digest=LAYOUT.digest,
        length=8,
        clip_norm="4",
        clip_value="4",
        scale_bits=10,
        outer=outer_plan(**{"max_norm": "2", "max_loss_increase": "0.5", **outer}),
    )


def _sum(manifest: RoundManifest, mean: float, *, whole: bool = False) -> Unmasked:
    """A sum of four whose mean has one value in the first coordinate, or in all."""
    values = np.zeros(8, dtype=np.int32)
    values[: None if whole else 1] = round(mean * 4 * 2**10)
    transcript: Any = SimpleNamespace(uploads=NAMES)
    return Unmasked(
        cohort=Cohort.of(manifest),
        values=values.view(np.uint32),
        transcript=transcript,
        sum_root="",
        faults=(),
    )


def test_a_step_that_lowers_the_score_is_taken(gate: AcceptanceGate) -> None:
    manifest = _manifest()
    verdict = gate.judge(manifest, _sum(manifest, -0.5), replica=START)
    assert verdict.reason is None
    assert verdict.norm == pytest.approx(0.5)
    assert verdict.scores == {"fr": 2.5, "id": 2.5}
    assert verdict.replica.parameters["w"][0] == -0.5


def test_a_step_may_cost_a_little_and_no_more(gate: AcceptanceGate) -> None:
    manifest = _manifest()
    taken = gate.judge(manifest, _sum(manifest, 0.5), replica=START)
    assert taken.reason is None
    stopped = gate.judge(manifest, _sum(manifest, 0.51), replica=START)
    assert stopped.reason == "held_out_worse"
    assert stopped.replica is START
    assert stopped.scores["fr"] == pytest.approx(3.51, abs=0.01)


def test_a_step_with_too_large_a_norm_is_rejected_without_scores(
    gate: AcceptanceGate, model: ScoredModel
) -> None:
    manifest = _manifest()
    verdict = gate.judge(manifest, _sum(manifest, 1.0, whole=True), replica=START)
    assert verdict.reason == "norm_too_large"
    assert verdict.norm == pytest.approx(8**0.5)
    assert verdict.replica is START
    assert model.count == 2


def test_a_sum_that_honest_nodes_cannot_give_is_named(gate: AcceptanceGate) -> None:
    manifest = _manifest(max_norm="1000000000")
    verdict = gate.judge(manifest, _sum(manifest, 4.1), replica=START)
    assert verdict.reason == "sum_out_of_range"
    assert verdict.replica is START
    assert verdict.scores == {"fr": 3.0, "id": 3.0}


@pytest.mark.parametrize("bits", [math.nan, math.inf, 1e300], ids=str)
def test_a_step_after_which_scores_are_not_finite_is_rejected(
    gate: AcceptanceGate, model: ScoredModel, bits: float
) -> None:
    """NaN is no improvement, and has no place in the log."""
    manifest = _manifest()
    _break(model, bits, when=lambda: bool(model.value))
    verdict = gate.judge(manifest, _sum(manifest, -0.5), replica=START)
    assert verdict.reason == "held_out_worse"
    assert verdict.scores == {}
    assert verdict.replica is START
    assert len(gate.journal.facts()) == 1


def test_a_base_without_finite_scores_takes_no_step(
    gate: AcceptanceGate, model: ScoredModel
) -> None:
    manifest = _manifest()
    _break(model, math.nan, when=lambda: not model.value)
    verdict = gate.judge(manifest, _sum(manifest, -0.5), replica=START)
    assert verdict.reason == "held_out_worse"
    _break(model, math.nan, when=lambda: True)
    verdict = gate.judge(manifest, _sum(manifest, 4.1), replica=START)
    assert (verdict.reason, verdict.scores) == ("sum_out_of_range", {})


def _break(model: ScoredModel, bits: float, *, when: Callable[[], bool]) -> None:
    honest = ScoredModel.evaluate

    def broken(texts: list[str], **settings: Any) -> RatioScore:
        found = honest(model, texts, **settings)
        if not when():
            return found
        return RatioScore(amounts=(bits,), sizes=(1,))

    vars(model)["evaluate"] = broken


def test_a_base_is_evaluated_once_over_restarts(
    gate: AcceptanceGate, model: ScoredModel
) -> None:
    first = gate.scores(START)
    assert gate.scores(START) == first
    assert model.count == 2
    known = _logged(gate, START.digest)
    assert known is not None
    assert {name: e.to_json()["sizes"] for name, e in known.items()} == {
        "fr": [1, 1],
        "id": [1],
    }
    assert scores_of(known) == first
    assert _logged(gate, "sha256:" + "0" * 64) is None


def _logged(gate: AcceptanceGate, model_digest: str) -> dict[str, RatioScore] | None:
    return logged_evaluations(
        gate.journal,
        model_digest,
        evaluation=gate.scorer.evaluation,
        held_out=gate.scorer.held_out,
    )


def test_other_data_or_settings_are_evaluated_anew(
    gate: AcceptanceGate, model: ScoredModel
) -> None:
    gate.scores(START)
    workload: Any = model
    other = HeldOut(sets=HELD_OUT.sets, digest="sha256:" + "2" * 64)
    shorter = BitsPerByte(model=workload, sequence_length=8)
    anew = replace(gate, scorer=replace(gate.scorer, held_out=other))
    for changed in (
        anew,
        replace(gate, scorer=replace(gate.scorer, evaluation=shorter)),
    ):
        assert _logged(changed, START.digest) is None
    anew.scores(START)
    assert model.count == 4


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_base_without_a_score_opens_no_round(
    gate: AcceptanceGate, tmp_path: Path, value: float
) -> None:
    (tmp_path / "none").mkdir()
    gate.check(START, folder=tmp_path / "none")
    broken = replica_of({"w": np.full(8, value, dtype=np.float32)})
    with refused(ConfigError, "base-score-not-finite", match=r"none/fr\.jsonl"):
        gate.check(broken, folder=tmp_path / "none")


def test_what_is_scored_is_the_model_that_a_release_would_hold(
    gate: AcceptanceGate, model: ScoredModel
) -> None:
    """In bfloat16 1.001 is 1, and 1.004 is 1.0078125."""
    start = replica_of({"w": narrow(np.ones(8, np.float32), "BF16")})
    manifest = renamed(_manifest(), model_digest=start.digest)
    for mean, held in ((1 / 1024, 1.0), (4 / 1024 + 1 / 4096, 1.0078125)):
        taken = gate.judge(manifest, _sum(manifest, mean), replica=start)
        assert taken.replica.parameters["w"][0] == pytest.approx(1 + mean)
        assert model.value == held
        assert taken.scores == {"fr": 3 + held, "id": 3 + held}
