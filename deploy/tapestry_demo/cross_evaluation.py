"""The cross matrix: every model on every country's held-out text."""

from dataclasses import replace
from pathlib import Path

from tapestry.evaluation.held_out import (
    HeldOut,
    evaluate_all,
    read_held_out,
    scores_of,
)
from tapestry.model.replica import Replica
from tapestry.vectors import Parameters
from tapestry.workloads.base import Evaluation
from tapestry.workloads.language.dialogue import Text
from tapestry.workloads.language.model import LanguageModel
from tapestry.workloads.language.options import LanguageOptions
from tapestry.workloads.language.published_adapter import read_adapter
from tapestry.workloads.language.workload import LanguageWorkload
from tapestry.workloads.ratio_score import RatioScore
from tapestry_coordinator.acceptance_gate import logged_evaluations
from tapestry_coordinator.journal import Journal
from tapestry_coordinator.run_folders import HELD_OUT
from tapestry_demo import corpora, scenario
from tapestry_demo.central_baseline import Reference, train_centrally
from tapestry_demo.demo_run import DemoRun
from tapestry_demo.held_out_answers import HeldOutPrompt, ask, choose_samples
from tapestry_governance.registry import read_base

Matrix = dict[str, dict[str, RatioScore]]  # by model, by country
Figures = dict[str, dict[str, float]]


def scores(matrix: Matrix) -> Figures:
    """Bits per byte of every model on every country's text."""
    return {model: scores_of(row) for model, row in matrix.items()}


def errors(matrix: Matrix) -> Figures:
    """Return standard errors of the differences from the given base, over the texts."""
    found: Figures = {}
    for model, row in matrix.items():
        for country, each in row.items():
            error = each.difference_error(matrix["given"][country])
            if model != "given" and error is not None:
                found.setdefault(model, {})[country] = error
    return found


def fill(
    demo: DemoRun, *, workload: LanguageWorkload, given: Replica
) -> tuple[Matrix, list[HeldOutPrompt]]:
    """Evaluate every base and adapter, and the central references if they are wanted.

    Returns:
        The evaluations, and the answers of given base, last release and adapters to
        questions of the held-out dialogues.
    """
    options = LanguageOptions(sequence_length=demo.scale.sequence_length)
    evaluation = workload.evaluation(options.to_options())
    held_out = read_held_out(demo.run_folder / HELD_OUT, evaluation)
    matrix = _logged(demo, given, evaluation=evaluation, held_out=held_out)
    samples = choose_samples(held_out.sets)

    quick = replace(evaluation, coarse=True)  # 0.01 % apart, in the time of a demo

    def row() -> dict[str, RatioScore]:
        return evaluate_all(quick, held_out.sets)

    with demo.stage("evaluate"):
        demo.progress({"stage": "evaluate", "text": "answers of the given base"})
        workload.load(given.parameters)
        ask(workload, samples, name="given")
        last = max((demo.out / "releases").glob("base-*"), key=_number)
        demo.progress({"stage": "evaluate", "text": f"answers of {last.name}"})
        workload.load(LanguageModel.open(last).given.tensors)
        ask(workload, samples, name=last.name)
        for folder in sorted((demo.out / "adapters").glob("*")):
            demo.progress({"stage": "evaluate", "text": f"adapter {folder.name}"})
            own = [sample for sample in samples if sample.country == folder.name]
            with workload.adapted(read_adapter(folder)):
                matrix[f"adapter-{folder.name}"] = row()
                ask(workload, own, name="adapter")
    if demo.record.references:
        for name, epsilon in (("central", None), ("central-dp", demo.scale.epsilon)):
            with demo.stage(name):
                workload.load(_central(demo, workload, given=given, epsilon=epsilon))
                matrix[name] = row()
    return matrix, samples


def _logged(
    demo: DemoRun, given: Replica, *, evaluation: Evaluation, held_out: HeldOut
) -> Matrix:
    """Read the scores of the bases, which the coordinator evaluated on the way."""
    names = {"given": given.digest}
    for folder in sorted((demo.out / "releases").glob("base-*"), key=_number):
        names[folder.name] = read_base(folder).digest
    journal = Journal(demo.run_folder)
    rows = {
        name: logged_evaluations(journal, key, evaluation=evaluation, held_out=held_out)
        for name, key in names.items()
    }
    journal.close()
    return {name: row for name, row in rows.items() if row is not None}


def _central(
    demo: DemoRun,
    workload: LanguageWorkload,
    *,
    given: Replica,
    epsilon: float | None,
) -> Parameters:
    texts: list[Text] = [
        dialogue
        for country in corpora.COUNTRIES
        for rows in corpora.load(country, longest=scenario.LONGEST).private.values()
        for dialogue in rows
    ]
    units = workload.encode(texts, sequence_length=demo.scale.sequence_length)
    label = "with privacy" if epsilon else "without privacy"

    def report(done: int, total: int) -> None:
        demo.progress({"stage": "central", "text": label, "done": done, "total": total})

    report(0, demo.scale.rounds)
    return train_centrally(
        workload,
        units,
        reference=Reference(
            settings=demo.settings, nodes=len(demo.members), epsilon=epsilon
        ),
        base=given,
        report=report,
    )


def _number(path: Path) -> int:
    return int(path.name.rsplit("-", 1)[1])
