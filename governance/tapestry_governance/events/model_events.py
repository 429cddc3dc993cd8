"""Events about models: evaluations, releases of the base, adapters."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from tapestry.schema import Digest, Name, Plain, Printable
from tapestry_governance.events.event_body import (
    Base,
    Body,
    Language,
    Licence,
    RoundNumber,
    Scores,
)


class EvaluationRecorded(Body, type="evaluation.recorded", roles=("coordinator",)):
    """Scores of a base or adapter on public text, never on a node's records."""

    subject: Digest  # identity of a base, manifest of an adapter
    suite: Name
    suite_digest: Digest
    scores: Scores


class ReleasePublished(Body, type="release.published", roles=("coordinator",)):
    """The publication of a base model."""

    name: Base
    model_digest: Digest  # the identity of the model
    parameters_digest: Digest
    manifest_digest: Digest  # of all files of its folder
    run_id: Name
    round_number: RoundNumber
    previous: Base | None


class AdapterPublished(Body, type="adapter.published", roles=("community",)):
    """A community's adapter on a released base."""

    name: Name
    version: Annotated[int, Field(ge=1)]
    country: Annotated[Printable, Field(min_length=1, max_length=60)]
    language: Language
    licence: Licence
    base: Base
    base_digest: Digest  # the identity of that release
    manifest_digest: Digest
    epsilon: Plain | None  # as in its dp.accounted; null = nothing is promised
    target_delta: Plain | None  # likewise
    evaluation: Scores

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.epsilon is None) != (self.target_delta is None):
            raise ValueError("epsilon and delta make one promise, or none")
        return self
