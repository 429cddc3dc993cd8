"""Frozen settings per role, read once from one TOML file.

Unknown keys are errors. Nothing that affects privacy or trust has a default.
Settings that change a guarantee (``policy``, ``training``, ``privacy``, ``secagg``)
and settings that change only speed (``speed``) sit in different tables.
"""

import json
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, ValidationError

from tapestry.encoding import decode_fraction
from tapestry.errors import ConfigError, ResourceError
from tapestry.inputs.faults import Faults, InputFault, show
from tapestry.inputs.setting_faults import explain
from tapestry.inputs.text_reader import read_toml
from tapestry.protocol.messages import MAX_ASKS
from tapestry.protocol.round_manifest import (
    Options,
    OuterPlan,
    PrivacyPlan,
    StageDeadlines,
    TrainingPlan,
)
from tapestry.schema import Digest, Name, Noise, Plain, Strict

MAX_EPSILON = 1000  # of a limit or a target; more promises nothing


def _epsilon(plain: str) -> str:
    if not 0 < decode_fraction(plain) <= MAX_EPSILON:
        raise ValueError(f"epsilon {plain} is not in (0, {MAX_EPSILON}]")
    return plain


def _delta(plain: str) -> str:
    if not 0 < decode_fraction(plain) < 1:
        raise ValueError(f"delta {plain} is not between 0 and 1")
    return plain


Count = Annotated[int, Field(ge=1)]
Epsilon = Annotated[Plain, AfterValidator(_epsilon), Field(examples=["8"])]
Delta = Annotated[Plain, AfterValidator(_delta), Field(examples=["0.00001"])]
Base = Annotated[str, Field(examples=["smollm2"])]
WorkloadName = Annotated[Name, Field(examples=["language"])]
WorkloadOptions = Annotated[Options, Field(examples=[{"sequence_length": 128}])]
Folder = Annotated[str, Field(examples=["data"])]
Targets = tuple[Annotated[str, Field(examples=["q_proj"])], ...]


class Settings(Strict):
    """A settings file."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a TOML file.

        Raises:
            ConfigError: No such file, one that ``tapestry.inputs.text_reader`` refuses,
                or settings that break a rule; all of them are named, up to ten.
        """
        try:
            raw = read_toml(path)
        except FileNotFoundError as error:
            raise ConfigError(f"cannot read {show(path)}: {error.strerror}") from None
        try:
            return cls.model_validate_json(json.dumps(raw, default=str))  # dates
        except ValidationError as error:
            faults = Faults()
            for line in explain(error, cls):
                faults.add(InputFault(path, line))
            faults.check(path)
            raise  # unreachable: an error has a line


class AdapterSettings(Strict):
    """The institution's own LoRA adapter; its decision, its budget."""

    publish: bool
    licence: Annotated[  # of the adapter, an SPDX name
        str, Field(max_length=80, examples=["Apache-2.0"])
    ]
    rank: Annotated[int, Field(ge=1, le=256)]
    targets: Targets  # empty: chosen from the model
    steps: Count
    batch_size: Count
    learning_rate: Plain
    epsilon: Plain  # what it may add, at the node's delta; "0" trains without DP
    clip_norm: Plain
    options: WorkloadOptions


class NodePolicy(Strict):
    """What this institution allows; every rule refuses unless it is met."""

    min_cohort: Annotated[int, Field(ge=2, examples=[3])]
    # At least so many must be tolerated.
    max_colluding: Annotated[int, Field(ge=0, examples=[1])]
    noise: tuple[Annotated[Noise, Field(examples=["local"])], ...]
    epsilon_limit: Epsilon
    # Under shared noise: what is left of the promise if everybody else colludes.
    fallback_epsilon_limit: Epsilon
    target_delta: Delta
    max_steps: Count  # local steps a round may ask for
    bases: tuple[Digest, ...]  # parameter digests of given bases it will start from
    parameterizations: tuple[Literal["full", "low_rank"], ...]
    max_checkpoint_age: Count  # seconds
    # Chunks of each sum to see recomputed before a release of it is cosigned; each
    # costs a MiB per survivor. 0 leaves it to the others.
    spot_checks: Annotated[int, Field(ge=0, le=MAX_ASKS, examples=[2])]


class Transport(Strict):
    """Where the SuperLink is and how the node proves itself to it."""

    superlink: Annotated[str, Field(examples=["superlink.example:9092"])]
    root_certificates: Annotated[str, Field(examples=["authority.pem"])]
    auth_key: Annotated[str, Field(examples=["keys/transport"])]
    poll_seconds: Annotated[float, Field(gt=0, le=60, examples=[0.1])]


class Speed(Strict):
    """Nothing here changes a result's meaning."""

    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    physical_batch: Annotated[int, Field(ge=1, le=4096)] = 8


class NodeSettings(Settings):
    """``node.toml``: an institution's node. Paths are relative to its folder."""

    name: Name
    federation: Name
    country: Annotated[str, Field(max_length=60, examples=["italy"])]
    workload: WorkloadName
    base: Base
    data: Folder
    models: Folder
    genesis: Digest
    policy: NodePolicy
    adapter: AdapterSettings
    transport: Transport | None = None
    speed: Speed = Speed()


class SecaggSettings(Strict):
    """Thresholds and encoding of the masked sum."""

    max_colluding: Annotated[int, Field(ge=0, examples=[1])]
    min_cohort: Annotated[int, Field(ge=2, examples=[3])]
    clip_norm: Plain
    clip_value: Plain
    scale_bits: Annotated[int, Field(ge=0, le=30)]


class TrainingSettings(Strict):
    """A training plan but for what is drawn anew each round."""

    workload: WorkloadName
    parameterization: Literal["full", "low_rank"]
    rank: Annotated[int, Field(ge=0, le=1024)]
    targets: Targets  # low_rank; empty: chosen from the model, named in the log
    steps: Count
    batch_size: Count
    optimizer: Literal["sgd", "adam"]
    learning_rate: Plain
    weight_decay: Plain
    options: WorkloadOptions

    def plan(self, *, factor_seed: str) -> TrainingPlan:
        """Fix the round's factor seed."""
        return TrainingPlan(factor_seed=factor_seed, **self.model_dump())


class Deadlines(StageDeadlines):
    """Seconds the coordinator waits for replies, by kind of request."""

    cosign: Count
    apply_result: Count
    publish_adapter: Count


class CoordinatorSettings(Settings):
    """``coordinator.toml``: the plan of a run. Paths are relative to its folder."""

    federation: Name
    origin: Annotated[str, Field(examples=["tapestry.example/demo"])]
    run_id: Name
    rounds: Count
    release_every: Count
    base: Base
    models: Folder
    adapters: bool
    training: TrainingSettings
    privacy: PrivacyPlan
    secagg: SecaggSettings
    outer: OuterPlan
    deadlines: Deadlines
    speed: Speed = Speed()


def number(plain: str) -> float:
    """Read a plain decimal setting."""
    return decode_fraction(plain)


def write_new(path: Path, text: str) -> None:
    """Write a settings file that must not exist yet.

    Raises:
        ConfigError: It exists.
        ResourceError: It cannot be written.
    """
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(f"{path} exists; choose another folder") from None
    except OSError as error:
        raise ResourceError(f"cannot write {path}: {error.strerror}") from error
