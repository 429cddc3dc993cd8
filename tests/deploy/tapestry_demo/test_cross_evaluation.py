"""The cross matrix: every model on every country's text, and how sure it is."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tapestry.artifacts.model_writer import write_model
from tapestry.cli.progress import ProgressEvent
from tapestry.evaluation.held_out import read_held_out
from tapestry.evaluation.scorer import Scorer
from tapestry.model.replica import Replica
from tapestry.vectors import parameters_digest
from tapestry.workloads.adapter_format import BaseName
from tapestry.workloads.language.peft_folder import write_peft
from tapestry.workloads.language.workload import LanguageWorkload
from tapestry.workloads.ratio_score import RatioScore
from tapestry_coordinator.acceptance_gate import AcceptanceGate
from tapestry_coordinator.journal import Journal
from tapestry_coordinator.run_folders import run_folder
from tapestry_demo.cross_evaluation import errors, fill, scores
from tapestry_demo.demo_run import DemoRun
from tests.support.demo_folders import demo_founding, demo_members, demo_run
from tests.support.federation import Base
from tests.support.plans import training_plan

PLAN = training_plan(
    parameterization="low_rank", rank=2, targets=("q_proj",), factor_seed="ab" * 32
)


def _evaluation(*bits: float) -> RatioScore:
    return RatioScore(amounts=bits, sizes=tuple(8 for _ in bits))


MATRIX = {
    "given": {"italy": _evaluation(16.0, 24.0), "spain": _evaluation(8.0)},
    "base-1": {"italy": _evaluation(8.0, 24.0), "spain": _evaluation(4.0)},
}


def test_a_score_is_the_bits_of_all_texts_over_their_bytes() -> None:
    assert scores(MATRIX) == {
        "given": {"italy": 2.5, "spain": 1.0},
        "base-1": {"italy": 2.0, "spain": 0.5},
    }


def test_an_error_is_that_of_the_difference_from_the_given_base() -> None:
    found = errors(MATRIX)
    given = MATRIX["given"]["italy"]
    assert found == {
        "base-1": {"italy": MATRIX["base-1"]["italy"].difference_error(given)}
    }
    assert found["base-1"]["italy"] > 0  # of one text, as in Spain, nothing is known


def language(base: Base) -> LanguageWorkload:
    """The model of the given base."""
    assert isinstance(base.workload, LanguageWorkload)
    return base.workload


@pytest.fixture
def demo(base: Base, tmp_path: Path) -> DemoRun:
    """A demo after its rounds: two releases, one adapter, and what the gate found."""
    events: list[ProgressEvent] = []
    found = demo_run(tmp_path, events=events)
    held_out = found.run_folder / "held-out"
    held_out.mkdir(parents=True)
    for name, word in (("italy", "ciao"), ("spain", "hola")):
        rows = [
            f'{{"messages": [{{"role": "user", "content": "{word} {n}"}}, '
            f'{{"role": "assistant", "content": "{word * n}"}}]}}'
            for n in range(1, 5)
        ]
        (held_out / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    journal = Journal(found.run_folder)
    evaluation = base.workload.evaluation(
        {"sequence_length": found.scale.sequence_length}
    )
    gate = AcceptanceGate(
        scorer=Scorer(
            workload=base.workload,
            evaluation=evaluation,
            held_out=read_held_out(held_out, evaluation),
        ),
        journal=journal,
    )
    gate.scores(base.replica)
    for number in (9, 10):
        scale = np.float32(1 + number / 100)
        changed = {n: v * scale for n, v in base.replica.parameters.items()}
        content = replace(base.workload.given, tensors=changed, hashes=None)
        write_model(tmp_path / "releases" / f"base-{number}", content, card=None)
        gate.scores(Replica.start(content))
    journal.close()
    update = np.full(base.workload.layout(PLAN).length, 0.5, np.float32)
    write_peft(
        tmp_path / "adapters" / "italy",
        update,
        model=language(base),
        plan=PLAN,
        base=BaseName(name="base-10", digest="sha256:" + "1" * 64),
    )
    return found


def test_every_base_and_adapter_is_tried_on_every_countrys_text(
    base: Base, demo: DemoRun
) -> None:
    before = parameters_digest(base.replica.parameters)
    matrix, samples = fill(demo, workload=language(base), given=base.replica)
    base.workload.load(base.replica.parameters)
    assert list(matrix) == ["given", "base-9", "base-10", "adapter-italy"]
    assert all(set(row) == {"italy", "spain"} for row in matrix.values())
    values = {model: row["italy"].score for model, row in matrix.items()}
    assert len(set(values.values())) == 4
    assert parameters_digest(base.replica.parameters) == before
    asked = {sample.country: set(sample.answers) for sample in samples}
    assert asked == {
        "italy": {"given", "base-10", "adapter"},
        "spain": {"given", "base-10"},
    }
    assert demo.seconds["evaluate"] > 0


def test_what_the_gate_never_tried_has_no_row(base: Base, demo: DemoRun) -> None:
    (demo.run_folder / "journal.db").unlink()
    matrix, _ = fill(demo, workload=language(base), given=base.replica)
    base.workload.load(base.replica.parameters)
    assert list(matrix) == ["adapter-italy"]


@pytest.mark.slow
def test_references_are_trained_and_tried_where_they_are_wanted(
    base: Base, demo: DemoRun, tmp_path: Path
) -> None:
    pytest.importorskip("chatterbot_corpus")
    from tapestry_demo.local_federation import found

    demo.record.references = True
    demo.members = demo_members(tmp_path / "members")
    found(tmp_path / "federation", demo_founding(demo.members))
    coordinator = tmp_path / "federation" / "coordinator"
    plan = run_folder(coordinator, demo.run_folder.name) / "run.toml"
    plan.rename(demo.run_folder / "run.toml")
    matrix, _ = fill(demo, workload=language(base), given=base.replica)
    base.workload.load(base.replica.parameters)
    assert list(matrix)[-2:] == ["central", "central-dp"]
    assert demo.seconds["central"] > 0
    central, private = (
        matrix[name]["italy"].score for name in ("central", "central-dp")
    )
    assert central < matrix["given"]["italy"].score
    assert central != private
