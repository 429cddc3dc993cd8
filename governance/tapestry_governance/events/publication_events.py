"""Events about what members publish: evaluations, withdrawals, constitutions, limits.

Their bodies are fixed here, so that each log and each verifier spells them alike. This
release has a rule for ``adapter.withdrawn`` alone: the replay refuses the other types.
"""

from typing import Annotated, Self

from pydantic import Field, model_validator

from tapestry.schema import Digest, Name, Strict, check_ascending
from tapestry_governance.events.event_body import (
    Body,
    Code,
    Hash,
    Index,
    Label,
    Language,
    Scores,
)
from tapestry_governance.events.member_events import Version


class EvaluationTask(Strict):
    """A task of an evaluation plan and the digest of its data."""

    name: Label
    data: Digest


class EvaluationPlanned(
    Body, type="evaluation.planned", roles=("coordinator", "community")
):
    """An evaluation's plan, published before it runs: subject, arms, tasks, seeds."""

    subject: Digest  # identity of a base, manifest of an adapter
    plan: Digest  # of the whole plan, with metrics, thresholds and sample sizes
    tasks: Annotated[tuple[EvaluationTask, ...], Field(min_length=1, max_length=100)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_ascending(tuple(task.name for task in self.tasks))
        return self


class EvaluationReported(
    Body, type="evaluation.reported", roles=("coordinator", "community")
):
    """The report of an evaluation that was planned in the log before."""

    planned: Index
    report: Digest
    scores: Scores


class AdapterWithdrawn(Body, type="adapter.withdrawn", roles=("community",)):
    """The withdrawal of a version of an adapter by its owner."""

    name: Name
    version: Version
    manifest_digest: Digest
    reason: Code


class ConstitutionPublished(Body, type="constitution.published", roles=("root",)):
    """A community's constitution, by the root of its member."""

    version: Version
    language: Language
    text: Digest  # of the canonical JSON of the constitution
    previous: Digest | None


class LimitsCommitted(Body, type="limits.committed", roles=("node",)):
    """A plant's signed limits, by which a planner chooses its actions."""

    plant: Name
    version: Version
    limits: Digest  # salted
    model_digest: Digest
    calibration: Index | None  # the round whose residuals gave the margins


class CoursesCommitted(Body, type="courses.committed", roles=("node",)):
    """A commitment to certificates of chosen action sequences (courses)."""

    plant: Name
    limits: Index  # of the limits in force
    count: Annotated[int, Field(ge=1)]
    root: Hash  # RFC 6962, one leaf per certificate
