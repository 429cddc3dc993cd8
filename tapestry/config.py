"""Frozen settings per role, read once from one TOML file.

Unknown keys are errors. Nothing that affects privacy or trust has a default.
Settings that change a guarantee (``policy``, ``training``, ``privacy``, ``secagg``)
and settings that change only speed (``speed``) sit in different tables.
"""

import json
import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, ValidationError

from tapestry.encoding import decode_fraction
from tapestry.errors import ConfigError, ResourceError
from tapestry.protocol import (
    MAX_ASKS,
    Digest,
    Name,
    Noise,
    OuterPlan,
    Plain,
    PrivacyPlan,
    Strict,
    TrainingPlan,
)

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
Epsilon = Annotated[Plain, AfterValidator(_epsilon)]
Delta = Annotated[Plain, AfterValidator(_delta)]


class Settings(Strict):
    """A settings file."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a TOML file.

        Raises:
            ConfigError: No such file, not TOML, or a setting that breaks a rule.
        """
        try:
            raw = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, TypeError) as error:
            raise ConfigError(f"{path} is not TOML: {error}") from None
        try:
            return cls.model_validate_json(json.dumps(raw, default=str))  # dates
        except ValidationError as error:
            raise ConfigError(f"{path}: {_first(error)}") from None


class AdapterSettings(Strict):
    """The institution's own LoRA adapter; its decision, its budget."""

    publish: bool
    licence: Annotated[str, Field(max_length=80)]  # of the adapter, an SPDX name
    rank: Annotated[int, Field(ge=1, le=256)]
    targets: tuple[str, ...]  # empty: chosen from the model
    sequence_length: Annotated[int, Field(ge=8, le=8192)]
    steps: Count
    batch_size: Count
    learning_rate: Plain
    epsilon: Plain  # what it may add, at the node's delta; "0" trains without DP
    clip_norm: Plain


class NodePolicy(Strict):
    """What this institution allows; every rule refuses unless it is met."""

    min_cohort: Annotated[int, Field(ge=2)]
    max_colluding: Annotated[int, Field(ge=0)]  # at least so many must be tolerated
    noise: tuple[Noise, ...]
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
    spot_checks: Annotated[int, Field(ge=0, le=MAX_ASKS)]


class Transport(Strict):
    """Where the SuperLink is and how the node proves itself to it."""

    superlink: str
    root_certificates: str
    auth_key: str
    poll_seconds: Annotated[float, Field(gt=0, le=60)]


class Speed(Strict):
    """Nothing here changes a result's meaning."""

    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    physical_batch: Annotated[int, Field(ge=1, le=4096)] = 8


class NodeSettings(Settings):
    """``node.toml``: an institution's node. Paths are relative to its folder."""

    name: Name
    federation: Name
    country: Annotated[str, Field(max_length=60)]
    base: str
    data: str
    models: str
    genesis: Digest
    policy: NodePolicy
    adapter: AdapterSettings
    transport: Transport | None = None
    speed: Speed = Speed()


class SecaggSettings(Strict):
    """Thresholds and encoding of the masked sum."""

    max_colluding: Annotated[int, Field(ge=0)]
    min_cohort: Annotated[int, Field(ge=2)]
    clip_norm: Plain
    clip_value: Plain
    scale_bits: Annotated[int, Field(ge=0, le=30)]


class TrainingSettings(Strict):
    """A training plan but for what is drawn anew each round."""

    parameterization: Literal["full", "low_rank"]
    rank: Annotated[int, Field(ge=0, le=1024)]
    targets: tuple[str, ...]  # low_rank; empty: chosen from the model, named in the log
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


class Deadlines(Strict):
    """Seconds the coordinator waits per stage."""

    cosign: Count
    offer: Count
    keys: Count
    upload: Count
    agree: Count
    reveal: Count
    result: Count
    adapter: Count


class CoordinatorSettings(Settings):
    """``coordinator.toml``: the plan of a run. Paths are relative to its folder."""

    federation: Name
    origin: str
    run_id: Name
    rounds: Count
    release_every: Count
    base: str
    models: str
    adapters: bool
    training: TrainingSettings
    privacy: PrivacyPlan
    secagg: SecaggSettings
    outer: OuterPlan
    deadlines: Deadlines
    speed: Speed = Speed()


def _first(error: ValidationError) -> str:
    """Name a key and its rule; a misspelled key comes before the one it was to be."""
    found = error.errors(include_url=False)
    found.sort(key=lambda each: each["type"] != "extra_forbidden")
    where = ".".join(str(part) for part in found[0]["loc"])
    if found[0]["type"] == "extra_forbidden":
        return f"{where}: no such key; mind the spelling"
    return f"{where}: {found[0]['msg'].removeprefix('Value error, ')}"


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
