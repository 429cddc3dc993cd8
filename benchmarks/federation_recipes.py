"""The training recipes of ``federation.py``, and the federation that they found."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tapestry.encoding import encode_decimal
from tapestry.privacy import accounting
from tapestry.protocol.round_manifest import (
    LocalNoise,
    NoNoise,
    PrivacyPlan,
    TrainingPlan,
)
from tapestry_coordinator.settings import (
    DEADLINES,
    CoordinatorSettings,
    RunSettings,
)
from tapestry_demo import scenario
from tapestry_demo.local_federation import ADDRESS, Founding, Institution
from tapestry_governance.events.federation_events import (
    USUAL_VOTING,
    GivenBase,
    Policy,
)

LANGUAGES = ("de", "fr", "es", "id")
LENGTH = 128
ROUNDS = 5
DELTA = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The training of a family of runs; steps and batch are of one node in a round."""

    parameterization: Literal["full", "low_rank"]
    targets: tuple[str, ...] = ()
    rank: int = 0
    optimizer: Literal["sgd", "adam"] = "adam"
    steps: int = 6
    batch_size: int = 2
    rate: float
    central_rate: float
    joined: bool = False  # centrally: fewer steps on larger batches
    outer: tuple[str, str, str] = ("mean", "1", "0")
    clip_value: str
    scale_bits: int
    clip_norm: float = 1.0
    epsilon: float | None = None

    @property
    def kind(self) -> Literal["none", "local"]:
        """The kind of noise in the plan."""
        return "local" if self.epsilon else "none"

    def plan(self) -> TrainingPlan:
        """Return the training of a node in a round; a central run has other numbers."""
        return TrainingPlan(
            workload="language",
            parameterization=self.parameterization,
            rank=self.rank,
            targets=self.targets,
            factor_seed="5" * 64,
            steps=self.steps,
            batch_size=self.batch_size,
            optimizer=self.optimizer,
            learning_rate=encode_decimal(self.rate),
            weight_decay="0",
            options={"sequence_length": LENGTH},
        )

    def noise(self, *, rate: float) -> float:
        """Return the least noise that keeps the promise over the whole run."""
        if self.epsilon is None:
            return 0.0
        return accounting.calibrate(
            target_epsilon=self.epsilon,
            target_delta=DELTA,
            sampling_rate=rate,
            steps=ROUNDS * self.steps,
        )

    def privacy(self, *, noise: float) -> PrivacyPlan:
        """Return the privacy plan: the promise, and the noise that keeps it."""
        if self.kind == "none":
            return NoNoise(noise="none")
        return LocalNoise(
            noise=self.kind,
            unit="record",
            adjacency="add-remove",
            clip_norm=encode_decimal(self.clip_norm),
            noise_multiplier=encode_decimal(noise),
            target_delta=encode_decimal(DELTA),
        )

    def founding(
        self, *, folders: Mapping[str, Path], fewest: int, base: GivenBase
    ) -> Founding:
        """Plan a federation: the records of each institution, and the common policy."""
        noise = self.noise(rate=self.batch_size / fewest)
        policy = Policy(
            version=1,
            min_cohort=3,
            max_colluding=1,
            noise=(self.kind,),
            epsilon_cap="8",
            max_delta=encode_decimal(DELTA),
            bases=(base,),
            software="any",
            adapter_licences=("GPL-2.0-or-later",),
            max_attempt=1,
            max_accounts=16,
            max_checkpoint_age=86_400,
            voting=USUAL_VOTING,
            witnesses=(),
            outside_quorum=0,
            withdrawn_warns=(),
        )
        return Founding(
            coordinator=CoordinatorSettings(
                federation=scenario.FEDERATION,
                origin="tapestry.example/benchmark",
                address=ADDRESS,
            ),
            run=_run(self, noise=noise),
            policy=policy,
            institutions=[
                Institution(
                    name=name, data=data, settings=_institution(self, name, base.model)
                )
                for name, data in folders.items()
            ],
        )


def _run(recipe: Recipe, *, noise: float) -> RunSettings:
    optimizer, rate, momentum = recipe.outer
    plan = recipe.plan().model_dump(exclude={"factor_seed"})
    settings = {
        "run_id": scenario.RUN,
        "rounds": ROUNDS,
        "release_every": ROUNDS,
        "base": "smollm2",
        "adapters": False,
        "training": plan,
        "privacy": recipe.privacy(noise=noise).model_dump(),
        "secagg": {
            "max_colluding": 1,
            "min_cohort": 3,
            "clip_norm": "1000",
            "clip_value": recipe.clip_value,
            "scale_bits": recipe.scale_bits,
        },
        "outer": {
            "optimizer": optimizer,
            "learning_rate": rate,
            **({"momentum": momentum} if optimizer == "nesterov" else {}),
            "max_norm": "1000",
            "max_loss_increase": "0.2",
        },
        "deadlines": dict.fromkeys(DEADLINES, 86_400),
    }
    return RunSettings.model_validate(settings)


def _institution(recipe: Recipe, name: str, base: str) -> dict[str, object]:
    return {
        "federation": scenario.FEDERATION,
        "country": name,
        "workload": "language",
        "base": "smollm2",
        "data": "data",
        "policy": {
            "min_cohort": 3,
            "max_colluding": 1,
            "noise": [recipe.kind],
            "epsilon_limit": "8",
            "fallback_epsilon_limit": "8",
            "spot_checks": 2,
            "target_delta": encode_decimal(DELTA),
            "max_steps": 100,
            "bases": [base],
            "parameterizations": [recipe.parameterization],
            "max_checkpoint_age": 86_400,
        },
        "adapter": {
            "publish": False,
            "licence": "GPL-2.0-or-later",
            "rank": 8,
            "targets": ["q_proj"],
            "steps": 1,
            "batch_size": 1,
            "learning_rate": "1",
            "noise": "none",
            "options": {"sequence_length": LENGTH},
        },
        "speed": {"threads": 1, "physical_batch": 16},
    }


RECIPES = {
    "low_rank": Recipe(
        parameterization="low_rank",
        targets=("q_proj", "v_proj", "o_proj"),
        rank=16,
        rate=0.006,
        central_rate=0.003,
        clip_value="0.9",
        scale_bits=29,
    ),
    "full": Recipe(
        parameterization="full",
        rate=1e-4,
        central_rate=1e-4,
        outer=("nesterov", "0.7", "0.9"),
        clip_value="0.25",
        scale_bits=30,
    ),
    "dp": Recipe(
        parameterization="low_rank",
        targets=("q_proj", "v_proj"),
        rank=8,
        optimizer="sgd",
        steps=2,
        batch_size=12,
        rate=2.0,
        central_rate=2.0,
        joined=True,
        clip_value="60",
        scale_bits=23,
        clip_norm=0.5,
        epsilon=8.0,
    ),
}
