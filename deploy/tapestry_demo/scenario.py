"""The demo's plan: the settings of its coordinator, its policy and its institutions.

Real federations write these settings by hand; here they are computed from the size
of the data and the bases, so that the demo fits a small machine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tapestry.encoding import encode_decimal
from tapestry.privacy import accounting
from tapestry.software_digest import software_digest
from tapestry_coordinator.settings import (
    DEADLINES,
    CoordinatorSettings,
    RunSettings,
)
from tapestry_demo import corpora
from tapestry_demo.local_federation import ADDRESS, Founding, Institution
from tapestry_governance.events.federation_events import (
    USUAL_VOTING,
    GivenBase,
    Policy,
)

FEDERATION = "demo"
RUN = "run-1"
DELTA = "0.00001"
LONGEST = 140  # bytes of a dialogue; of longer ones the end is left out
EPSILON_LIMIT = "8"


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoScale:
    """The size of a demo, from which all other settings follow."""

    base: str
    targets: tuple[str, ...]
    rank: int
    rounds: int
    release_every: int
    steps: int
    batch_size: int
    learning_rate: float
    clip_norm: float  # of a record's gradient
    epsilon: float  # of the rounds, together
    update_norm: float
    adapter_steps: int
    adapter_batch: int
    adapter_rate: float
    adapter_epsilon: float  # of the adapter, alone
    sequence_length: int


SCALES: Mapping[str, DemoScale] = {
    "smollm2": DemoScale(
        base="smollm2",
        targets=("q_proj", "v_proj"),
        rank=8,
        rounds=2,
        release_every=1,
        steps=2,
        batch_size=12,
        learning_rate=5.0,
        clip_norm=0.5,
        epsilon=6.0,
        update_norm=128.0,
        adapter_steps=2,
        adapter_batch=16,
        adapter_rate=2.5,
        adapter_epsilon=5.0,
        sequence_length=96,
    ),
    "tiny": DemoScale(
        base="tiny",
        targets=("q_proj", "v_proj"),
        rank=4,
        rounds=2,
        release_every=2,
        steps=2,
        batch_size=16,
        learning_rate=0.5,
        clip_norm=0.5,
        epsilon=5.0,
        update_norm=64.0,
        adapter_steps=2,
        adapter_batch=16,
        adapter_rate=0.1,
        adapter_epsilon=4.0,
        sequence_length=48,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoMember:
    """One institution of the demo."""

    name: str
    country: str
    data: Path
    records: int


def scale_of(base: str) -> DemoScale:
    """Pick the scale of a base; a local folder gets that of ``smollm2``."""
    known = SCALES.get(base)
    if known is not None:
        return known
    return replace(SCALES["smollm2"], base=base)


def founding(
    scale: DemoScale, members: Sequence[DemoMember], *, base: GivenBase
) -> Founding:
    """Return the agreement of all institutions."""
    noise = noise_multiplier(scale, members)
    return Founding(
        coordinator=CoordinatorSettings(
            federation=FEDERATION, origin="tapestry.example/demo", address=ADDRESS
        ),
        run=_run(scale, noise=noise),
        policy=Policy(
            version=1,
            min_cohort=3,
            max_colluding=1,
            noise=("local",),
            epsilon_cap=EPSILON_LIMIT,
            max_delta=DELTA,
            bases=(base,),
            software=(software_digest(),),
            adapter_licences=("Apache-2.0", "BSD-3-Clause"),
            max_attempt=1,
            max_accounts=16,
            max_checkpoint_age=86_400,
            voting=USUAL_VOTING,
            witnesses=(),
            outside_quorum=0,
            withdrawn_warns=(),
        ),
        institutions=[
            _institution(scale, member, base_digest=base.model) for member in members
        ],
    )


def noise_multiplier(scale: DemoScale, members: Sequence[DemoMember]) -> float:
    """Find the least noise that keeps the smallest institution's promise."""
    fewest = min(member.records for member in members)
    return accounting.calibrate(
        target_epsilon=scale.epsilon,
        target_delta=float(DELTA),
        sampling_rate=accounting.sampling_rate(scale.batch_size, records=fewest),
        steps=scale.rounds * scale.steps,
    )


def _run(scale: DemoScale, *, noise: float) -> RunSettings:
    settings = {
        "run_id": RUN,
        "rounds": scale.rounds,
        "release_every": scale.release_every,
        "base": scale.base,
        "adapters": True,
        "training": {
            "workload": "language",
            "parameterization": "low_rank",
            "rank": scale.rank,
            "targets": scale.targets,
            "steps": scale.steps,
            "batch_size": scale.batch_size,
            "optimizer": "sgd",
            "learning_rate": encode_decimal(scale.learning_rate),
            "weight_decay": "0",
            "options": {"sequence_length": scale.sequence_length},
        },
        "privacy": {
            "noise": "local",
            "unit": "record",
            "adjacency": "add-remove",
            "clip_norm": encode_decimal(scale.clip_norm),
            "noise_multiplier": encode_decimal(noise),
            "target_delta": DELTA,
        },
        "secagg": {
            "max_colluding": 1,
            "min_cohort": 3,
            "clip_norm": encode_decimal(scale.update_norm),
            "clip_value": "64",
            "scale_bits": 20,
        },
        "outer": {
            "optimizer": "mean",
            "learning_rate": "1",
            "max_norm": encode_decimal(scale.update_norm),
            "max_loss_increase": "0.05",
        },
        "deadlines": dict(DEADLINES),
    }
    return RunSettings.model_validate(settings)


def _institution(
    scale: DemoScale, member: DemoMember, *, base_digest: str
) -> Institution:
    settings = {
        "federation": FEDERATION,
        "country": member.country,
        "workload": "language",
        "base": scale.base,
        "data": "data",
        "policy": {
            "min_cohort": 3,
            "max_colluding": 1,
            "noise": ["local"],
            "epsilon_limit": EPSILON_LIMIT,
            "fallback_epsilon_limit": EPSILON_LIMIT,
            "spot_checks": 2,
            "target_delta": DELTA,
            "max_steps": 100,
            "bases": [base_digest],
            "parameterizations": ["low_rank"],
            "max_checkpoint_age": 86_400,
        },
        "adapter": {
            "publish": True,
            "licence": "Apache-2.0",
            "rank": scale.rank,
            "targets": list(scale.targets),
            "steps": scale.adapter_steps,
            "batch_size": scale.adapter_batch,
            "learning_rate": encode_decimal(scale.adapter_rate),
            "noise": "local",
            "epsilon": encode_decimal(scale.adapter_epsilon),
            "clip_norm": encode_decimal(scale.clip_norm),
            "options": {"sequence_length": scale.sequence_length},
        },
        "speed": {"threads": 1, "physical_batch": 16},
    }
    known = corpora.LANGUAGES.get(member.country)
    return Institution(
        name=member.name,
        languages=[known] if known else [],
        records=member.records,
        data=member.data,
        settings=settings,
    )
