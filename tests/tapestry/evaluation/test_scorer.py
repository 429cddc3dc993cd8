"""Each base is scored once on each data, and named inputs differ when these do."""

from dataclasses import replace
from typing import Any

import numpy as np

from tapestry.evaluation.scorer import KnownScores, Scorer, gate_inputs
from tapestry.model.replica import Replica
from tapestry.vectors import Layout
from tapestry.workloads.language.bits_per_byte import BitsPerByte
from tests.support.gate_models import HELD_OUT, ScoredModel
from tests.support.replicas import replica_of

LAYOUT = Layout(tensors=(("w", (8,)),))


def scorer(model: Any, known: KnownScores) -> Scorer:
    return Scorer(
        workload=model,
        evaluation=model.evaluation(None),
        held_out=HELD_OUT,
        known=known,
    )


def replica(value: float) -> Replica:
    return replica_of({"w": np.full(8, value, dtype=np.float32)})


def test_a_base_is_scored_once_by_all_who_share_what_is_known() -> None:
    known: KnownScores = {}
    first, second = ScoredModel(LAYOUT), ScoredModel(LAYOUT)
    found = scorer(first, known).scores(replica(0.5))
    assert found["fr"].score == 3.5
    assert scorer(second, known).scores(replica(0.5)) == found
    assert (first.count, second.count) == (2, 0)
    assert scorer(second, known).scores(replica(0.25))["id"].score == 3.25


def test_other_data_measures_and_settings_are_other_inputs() -> None:
    model: Any = ScoredModel(LAYOUT)
    evaluation = model.evaluation(None)
    named = gate_inputs(evaluation, HELD_OUT)
    others = {
        gate_inputs(evaluation, replace(HELD_OUT, digest="sha256:" + "1" * 64)),
        gate_inputs(BitsPerByte(model=model, sequence_length=8), HELD_OUT),
        gate_inputs(replace(evaluation, name="nats"), HELD_OUT),
    }
    assert len(others | {named}) == 4
