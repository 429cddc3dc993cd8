"""A member keeps the gate's data, scores the step again, and disputes for good."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from tapestry.errors import ProtocolError, VerificationError
from tapestry.evaluation.acceptance import WORSE
from tapestry.model.replica import Measured, Replica
from tapestry.protocol.round_manifest import RoundManifest
from tapestry.vectors import Layout
from tapestry_governance.events.round_events import RoundClosed
from tapestry_node.refusal import Refused
from tapestry_node.round import gate_check as module
from tapestry_node.round.gate_check import GateCheck, Step
from tests.support.gate_models import (
    FILES,
    HELD_OUT,
    ScoredModel,
    gate_check,
    inputs,
    metrics,
    naming,
)
from tests.support.log_world import World, changed, renamed
from tests.support.plans import outer_plan
from tests.support.refusals import refused
from tests.support.replicas import replica_of

Fault = Literal["sum_out_of_range", "norm_too_large"]
LAYOUT = Layout(tensors=(("w", (8,)),))


def replica(value: float) -> Replica:
    return replica_of({"w": np.full(8, value, dtype=np.float32)})


def step(value: float, *, fault: Fault | None = None) -> Step:
    measured = Measured(norm=1.0, fault=fault)
    after = replica(0.0) if fault else replica(value)
    return Step(before=replica(0.0), after=after, measured=measured)


@pytest.fixture
def disputed() -> list[RoundClosed]:
    return []


@pytest.fixture
def gate(tmp_path: Path, disputed: list[RoundClosed]) -> GateCheck:
    return gate_check(tmp_path, LAYOUT, disputed.append)


def plan(**changes: object) -> RoundManifest:
    manifest = World().found().manifest()
    named = {"gate": inputs(), "outer": outer_plan(max_loss_increase="0.5")}
    return renamed(manifest, **{**named, **changes})


def closed(
    outcome: str, reason: str | None, value: float, **changes: object
) -> RoundClosed:
    world = World().found()
    world.run_round()
    body = world.folded.last_closed
    assert body is not None
    changes = {"metrics": metrics(value), **changes}
    found = changed(body, outcome=outcome, reason=reason, **changes)
    assert isinstance(found, RoundClosed)
    return found


def test_an_outcome_that_is_the_gates_stands(
    gate: GateCheck, disputed: list[RoundClosed]
) -> None:
    gate.check(plan(), closed("applied", None, 0.25), step(0.25))
    gate.check(plan(), closed("rejected", WORSE, 0.75), step(0.75))
    too_large = step(0.0, fault="norm_too_large")
    gate.check(plan(), closed("rejected", "norm_too_large", 0.0), too_large)
    assert disputed == []


@pytest.mark.parametrize(
    ("outcome", "reason", "value", "fault"),
    [
        ("rejected", WORSE, 0.25, None),  # a good step, to repeat the round without one
        ("applied", None, 0.75, None),
        ("rejected", "norm_too_large", 0.25, None),
        ("rejected", WORSE, 0.0, "norm_too_large"),
        ("applied", None, 0.0, "sum_out_of_range"),
    ],
)
def test_another_outcome_is_disputed_before_it_is_reported(
    gate: GateCheck,
    disputed: list[RoundClosed],
    outcome: str,
    reason: str | None,
    value: float,
    fault: Fault | None,
) -> None:
    said = closed(outcome, reason, value)
    with pytest.raises(VerificationError) as caught:
        gate.check(plan(), said, step(value, fault=fault))
    assert caught.value.code in {"gate-outcome-differs", "gate-reason-unfounded"}
    assert disputed == [said]


def test_scores_of_another_step_are_disputed(
    gate: GateCheck, disputed: list[RoundClosed]
) -> None:
    with refused(VerificationError, "gate-scores-differ"):
        gate.check(plan(), closed("applied", None, 0.1), step(0.25))
    assert len(disputed) == 1


def test_another_norm_than_that_of_the_sum_is_disputed(
    gate: GateCheck, disputed: list[RoundClosed]
) -> None:
    for norm in ({"mean_norm": "1.0000001"}, {}):
        scores = {k: v for k, v in metrics(0.25).items() if k != "mean_norm"}
        said = closed("applied", None, 0.25, metrics={**scores, **norm})
        with refused(VerificationError, "gate-norm-differs"):
            gate.check(plan(), said, step(0.25))
    assert len(disputed) == 2


def test_without_the_data_of_the_round_nothing_is_decided(
    gate: GateCheck, disputed: list[RoundClosed], tmp_path: Path
) -> None:
    said, other = closed("applied", None, 0.25), inputs().model_copy()
    other = other.model_copy(update={"held_out": "sha256:" + "0" * 64})
    with refused(Refused, "held-out-missing"):
        gate.check(plan(gate=other), said, step(0.25))
    (tmp_path / module.FOLDER / "fr.jsonl").write_text('{"text":"other"}\n')
    with refused(Refused, "held-out-missing"):
        gate.check(plan(), said, step(0.25))
    assert disputed == []


def test_a_round_that_scores_in_another_way_is_refused(gate: GateCheck) -> None:
    other = inputs().model_copy(update={"evaluation": "sha256:" + "0" * 64})
    with refused(Refused, "evaluation-differs"):
        gate.check(plan(gate=other), closed("applied", None, 0.25), step(0.25))


def test_the_data_are_those_that_the_round_names(
    gate: GateCheck, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, files = list(FILES), list(FILES.values())
    assert gate.held == HELD_OUT.digest
    for bad_names, bad_files in (
        (names, [b"", files[1]]),
        (["fr.jsonl", "xx.jsonl"], files),
        (["a/fr.jsonl", "id.jsonl"], files),
        (["fr.txt", "id.jsonl"], files),  # nothing would read it
        ([".fr.jsonl", "id.jsonl"], files),
        (["Fr.jsonl", "id.jsonl"], files),
        (["fr.jsonl", "fr.txt"], files),
    ):
        with refused(ProtocolError, "held-out-differs"):
            gate.keep(plan(), bad_names, bad_files)
    with refused(ProtocolError, "held-out-invalid"):
        gate.keep(plan(), names[:1], files)
    monkeypatch.setattr(module, "MAX_HELD_OUT_BYTES", sum(map(len, files)) - 1)
    with refused(ProtocolError, "held-out-invalid"):
        gate.keep(plan(), names, files)
    assert gate.held == HELD_OUT.digest


def test_a_round_is_joined_only_with_its_data_and_its_way_of_scoring(
    gate: GateCheck,
) -> None:
    gate.require(plan())
    for name, code in (
        ("held_out", "held-out-missing"),
        ("evaluation", "evaluation-differs"),
    ):
        other = inputs().model_copy(update={name: "sha256:" + "0" * 64})
        with refused(Refused, code):
            gate.require(plan(gate=other))


def test_a_round_whose_data_cannot_be_scored_is_not_joined(tmp_path: Path) -> None:
    workload: Any = ScoredModel(LAYOUT, unfit=("b",))
    gate = GateCheck(workload, folder=tmp_path, dispute=print)
    gate.keep(naming(inputs()), list(FILES), list(FILES.values()))
    with refused(Refused, "held-out-not-scorable", match="fr.jsonl"):
        gate.require(plan())
    workload.unfit = ()
    gate.require(plan())


def test_a_node_without_data_has_none(tmp_path: Path) -> None:
    assert gate_check(tmp_path / "a", LAYOUT, print).held == HELD_OUT.digest
    bare = GateCheck(None, folder=tmp_path / "b", dispute=print)  # type: ignore[arg-type]
    assert bare.held is None
