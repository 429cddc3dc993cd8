"""Events about what members publish: evaluations, withdrawals, constitutions, limits.

Their bodies are fixed here, so that each log and each verifier spells them alike. The
rules for them are not part of this release: the replay refuses these types.
"""

from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from tapestry.schema import Digest, Name, Strict
from tapestry_governance.events.event_body import (
    Body,
    Code,
    Hash,
    Index,
    Label,
    Language,
    Role,
    Scores,
)
from tapestry_governance.events.member_events import Version


class EvaluationTask(Strict):
    """A task of an evaluation plan and the digest of its data."""

    name: Label
    data: Digest


class EvaluationPlanned(Body):
    """An evaluation's plan, published before it runs: subject, arms, tasks, seeds."""

    type: ClassVar[str] = "evaluation.planned"
    roles: ClassVar[tuple[Role, ...]] = ("coordinator", "community")
    subject: Digest  # identity of a base, manifest of an adapter
    plan: Digest  # of the whole plan, with metrics, thresholds and sample sizes
    tasks: Annotated[tuple[EvaluationTask, ...], Field(min_length=1, max_length=100)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [task.name for task in self.tasks]
        if names != sorted(set(names)):
            raise ValueError("tasks must be distinct and in order of name")
        return self


class EvaluationReported(Body):
    """The report of an evaluation that was planned in the log before."""

    type: ClassVar[str] = "evaluation.reported"
    roles: ClassVar[tuple[Role, ...]] = ("coordinator", "community")
    planned: Index
    report: Digest
    scores: Scores


class AdapterWithdrawn(Body):
    """The withdrawal of a version of an adapter by its owner."""

    type: ClassVar[str] = "adapter.withdrawn"
    roles: ClassVar[tuple[Role, ...]] = ("community",)
    name: Name
    version: Version
    manifest_digest: Digest
    reason: Code


class ConstitutionPublished(Body):
    """A community's constitution, by the root of its member."""

    type: ClassVar[str] = "constitution.published"
    roles: ClassVar[tuple[Role, ...]] = ("root",)
    version: Version
    language: Language
    text: Digest  # of the canonical JSON of the constitution
    previous: Digest | None


class LimitsCommitted(Body):
    """A plant's signed limits, by which a planner chooses its actions."""

    type: ClassVar[str] = "limits.committed"
    roles: ClassVar[tuple[Role, ...]] = ("node",)
    plant: Name
    version: Version
    limits: Digest  # salted
    model_digest: Digest
    calibration: Index | None  # the round whose residuals gave the margins


class CoursesCommitted(Body):
    """A commitment to certificates of chosen action sequences (courses)."""

    type: ClassVar[str] = "courses.committed"
    roles: ClassVar[tuple[Role, ...]] = ("node",)
    plant: Name
    limits: Index  # of the limits in force
    count: Annotated[int, Field(ge=1)]
    root: Hash  # RFC 6962, one leaf per certificate
