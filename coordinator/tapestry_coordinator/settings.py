"""The settings of a coordinator: ``coordinator.toml``, and ``run.toml`` of a run."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from tapestry.metrics_page import check_port
from tapestry.protocol.round_manifest import (
    Options,
    OuterPlan,
    PostQuantum,
    PrivacyPlan,
    StageDeadlines,
    TrainingPlan,
)
from tapestry.schema import Name, Plain, Strict
from tapestry.settings import (
    Base,
    Count,
    LoopbackAddress,
    Settings,
    Targets,
    WorkloadName,
)


class SecaggSettings(Strict):
    """Thresholds and encoding of the masked sum."""

    max_colluding: Annotated[int, Field(ge=0, examples=[1])]
    min_cohort: Annotated[int, Field(ge=2, examples=[3])]
    clip_norm: Plain
    clip_value: Plain
    scale_bits: Annotated[int, Field(ge=0, le=30)]
    # "none" is for cohorts above 200, where nodes may allow it.
    post_quantum: PostQuantum = "mlkem768"


class _Training(Strict):
    """A training plan without the values that are drawn anew each round."""

    workload: WorkloadName
    steps: Count
    batch_size: Count
    optimizer: Literal["sgd", "adam"]
    learning_rate: Plain
    weight_decay: Plain
    options: Options

    def plan(self, *, factor_seed: str) -> TrainingPlan:
        """Return the plan of a round with this factor seed."""
        low_rank = {"rank": 0, "targets": (), **self.model_dump()}
        return TrainingPlan(factor_seed=factor_seed, **low_rank)


class FullTrainingSettings(_Training):
    """Training of all parameters."""

    parameterization: Literal["full"]


class LowRankTrainingSettings(_Training):
    """Training of B in a product BA beside each target; A is drawn anew each round."""

    parameterization: Literal["low_rank"]
    rank: Annotated[int, Field(ge=1, le=1024)]
    targets: Targets  # empty: chosen from the model, named in the log


TrainingSettings = Annotated[
    FullTrainingSettings | LowRankTrainingSettings,
    Field(discriminator="parameterization"),
]


class Deadlines(StageDeadlines):
    """The seconds that the coordinator waits for replies, by kind of request."""

    cosign: Count
    apply_result: Count
    publish_adapter: Count


DEADLINES = MappingProxyType(
    {
        "cosign": 60,
        "advertise_keys": 120,
        "share_keys": 60,
        "collect_masked_inputs": 1800,
        "check_consistency": 60,
        "unmask": 60,
        "apply_result": 300,
        "publish_adapter": 1800,
    }
)
"""The deadlines of a run that is planned by a program, in seconds."""


def _dialled(address: str) -> str:
    check_port(address.rpartition(":")[2])
    return address


Address = Annotated[
    str,
    Field(
        pattern=r"^([A-Za-z0-9.-]{1,249}|\[[0-9A-Fa-f:.]{2,45}\]):[0-9]{1,5}$",
        description="a host and a port",
        examples=["rivers.example:443"],
    ),
    AfterValidator(_dialled),
]


class Listen(Strict):
    """The SuperLink's own port; a proxy is in front of all but a loopback address."""

    superlink: Address = "127.0.0.1:8443"
    proxied: bool = False
    metrics: LoopbackAddress = ""  # empty: none


class CoordinatorSettings(Settings):
    """``coordinator.toml``: who leads which federation, and where it is reached.

    Nothing here changes what a round means.
    """

    federation: Name
    origin: Annotated[  # the name of the log's key
        str, Field(pattern="^[!-*,-~]{1,128}$", examples=["tapestry.example/demo"])
    ]
    # What institutions dial, as the charter says it.
    address: Address
    cosign_every: Count = 3600  # seconds, between runs
    listen: Listen = Listen()


class RunSettings(Settings):
    """``run.toml``: the plan of a run."""

    former_keys: ClassVar[Mapping[str, str]] = {
        "models": "take it out: base names a model of the cache, or a folder",
        "speed": "take it out: a coordinator trains nothing",
        "training.sequence_length": "move it into the table [training.options]",
        "federation": "it stands in coordinator.toml",
        "origin": "it stands in coordinator.toml",
    }

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
