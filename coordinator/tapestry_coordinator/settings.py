"""The settings of a coordinator: ``coordinator.toml``, the plan of a run."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from tapestry.protocol.round_manifest import (
    OuterPlan,
    PrivacyPlan,
    StageDeadlines,
    TrainingPlan,
)
from tapestry.schema import Name, Plain, Strict
from tapestry.settings import Base, Count, Settings, Targets


class SecaggSettings(Strict):
    """Thresholds and encoding of the masked sum."""

    max_colluding: Annotated[int, Field(ge=0, examples=[1])]
    min_cohort: Annotated[int, Field(ge=2, examples=[3])]
    clip_norm: Plain
    clip_value: Plain
    scale_bits: Annotated[int, Field(ge=0, le=30)]


class TrainingSettings(Strict):
    """A training plan but for what is drawn anew each round."""

    parameterization: Literal["full", "low_rank"]
    rank: Annotated[int, Field(ge=0, le=1024)]
    targets: Targets  # low_rank; empty: chosen from the model, named in the log
    sequence_length: Annotated[int, Field(ge=8, le=8192)]
    steps: Count
    batch_size: Count
    optimizer: Literal["sgd", "adam"]
    learning_rate: Plain
    weight_decay: Plain

    def plan(self, *, factor_seed: str) -> TrainingPlan:
        """Fix the round's factor seed."""
        return TrainingPlan(
            workload="language",
            factor_seed=factor_seed,
            **self.model_dump(),
        )


class Deadlines(StageDeadlines):
    """Seconds the coordinator waits for replies, by kind of request."""

    cosign: Count
    apply_result: Count
    publish_adapter: Count


class CoordinatorSettings(Settings):
    """``coordinator.toml``: the plan of a run."""

    former_keys: ClassVar[Mapping[str, str]] = {
        "models": "take it out: base names a model of the cache, or a folder",
        "speed": "take it out: a coordinator trains nothing",
    }

    federation: Name
    origin: Annotated[str, Field(examples=["tapestry.example/demo"])]
    run_id: Name
    rounds: Count
    release_every: Count
    base: Base
    adapters: bool
    training: TrainingSettings
    privacy: PrivacyPlan
    secagg: SecaggSettings
    outer: OuterPlan
    deadlines: Deadlines
