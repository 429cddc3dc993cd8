"""The cross matrix: every model on every country's held-out text."""

from typing import TYPE_CHECKING

from tapestry.cli import corpora, plans
from tapestry.cli.reference import Reference, train_centrally
from tapestry.config import number
from tapestry.encoding import decode_json
from tapestry.replica import Replica
from tapestry.vector import Parameters
from tapestry.workloads.language import LanguageModel
from tapestry_coordinator.evaluating import bits_per_byte, read_held_out
from tapestry_coordinator.journal import Journal
from tapestry_governance.registry import read_base

if TYPE_CHECKING:
    from tapestry.cli.demo import Story

Scores = dict[str, dict[str, float]]


def score_all(story: "Story", *, workload: LanguageModel, given: Replica) -> Scores:
    """Score the given base, each release, each adapter, and the central references."""
    scores = _logged(story, given)
    texts = read_held_out(story.out / "coordinator" / "held-out")
    length = story.scale.sequence_length

    def score() -> dict[str, float]:
        return bits_per_byte(workload, texts, sequence_length=length)

    with story.stage("evaluate"):
        last = max((story.out / "releases").glob("base-*"), key=_number)
        workload.load(LanguageModel.open(last).parameters())
        for folder in sorted((story.out / "adapters").glob("*")):
            story.progress({"stage": "evaluate", "text": f"adapter {folder.name}"})
            with workload.adapted(folder):
                scores[f"adapter-{folder.name}"] = score()
    for name, epsilon in (("central", None), ("central-dp", story.scale.epsilon)):
        with story.stage(name):
            workload.load(_central(story, workload, given=given, epsilon=epsilon))
            scores[name] = score()
    return scores


def _logged(story: "Story", given: Replica) -> Scores:
    """Scores that the coordinator computed on the way, for bases."""
    journal = Journal(story.out / "coordinator")
    facts = journal.facts()
    journal.close()
    names = {"given": given.digest}
    for folder in sorted((story.out / "releases").glob("base-*"), key=_number):
        names[folder.name] = read_base(folder).digest
    return {
        name: _decode(facts[f"scores {digest}"])
        for name, digest in names.items()
        if f"scores {digest}" in facts
    }


def _decode(text: str) -> dict[str, float]:
    return {key: number(value) for key, value in decode_json(text.encode()).items()}


def _central(
    story: "Story",
    workload: LanguageModel,
    *,
    given: Replica,
    epsilon: float | None,
) -> Parameters:
    texts = [
        text
        for country in corpora.COUNTRIES
        for rows in corpora.load(country, longest=plans.LONGEST).private.values()
        for text in rows
    ]
    units = workload.encode(texts, sequence_length=story.scale.sequence_length)
    label = "with privacy" if epsilon else "without privacy"

    def report(done: int, total: int) -> None:
        story.progress(
            {"stage": "central", "text": label, "done": done, "total": total}
        )

    report(0, story.scale.rounds)
    return train_centrally(
        workload,
        units,
        reference=Reference(
            settings=story.settings, nodes=len(story.members), epsilon=epsilon
        ),
        base=given,
        report=report,
    )


def _number(path: "object") -> int:
    return int(str(path).rsplit("-", 1)[1])
