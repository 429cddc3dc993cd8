"""Training of an institution's own adapter on its records and a release.

The adapter is a low-rank update that stays apart: the same DP-SGD as a round's
(``dp_sgd``), B over a public A, only that the result is not masked and summed but
published in the workload's own form. The institution decides on it alone and pays for
it from the same budget::

    plan    the training and its price              -> ledger.reserve
    train   update, on the institution's records    -> ledger.spend, log
    write   folder, card, manifest; checked as the registry checks it

Guarantees:
    What ``train`` returns costs ``plan.steps`` and no more; everything after it is
    computed from that and from public data, so it costs nothing.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tapestry.artifacts import manifest
from tapestry.encoding import decode_decimal, encode_decimal
from tapestry.errors import ConfigError, ResourceError
from tapestry.privacy import accounting
from tapestry.protocol.round_manifest import (
    LocalNoise,
    NoNoise,
    PrivacyPlan,
    TrainingPlan,
)
from tapestry.vectors import FloatVector
from tapestry.workloads import plan_checks
from tapestry.workloads.adapter_format import (
    AdapterFacts,
    AdapterFormat,
    AdapterPromise,
    BaseName,
)
from tapestry.workloads.base import Example, Workload
from tapestry.workloads.data_manifest import Record
from tapestry_governance.events.privacy_events import PrivacyLoss
from tapestry_governance.registry import CheckedAdapter, check_folder
from tapestry_node.settings import AdapterTraining

if TYPE_CHECKING:
    from tapestry_node.training import dp_sgd  # loads torch


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterPlan:
    """The training of an adapter, and its price for each record."""

    training: TrainingPlan
    privacy: PrivacyPlan
    records: int
    steps: accounting.Steps | None  # None: without noise, nothing is promised

    def promise(self, loss: PrivacyLoss, ancestry: str | None) -> AdapterPromise:
        """State the promise with the epsilons that the log accounts for."""
        return AdapterPromise(
            unit=loss.unit,
            epsilon=loss.epsilon,
            ancestry_epsilon=ancestry,
            fallback=loss.epsilon_fallback,
            target_delta=loss.target_delta,
            clip_norm=loss.clip_norm,
            noise_multiplier=loss.noise_multiplier,
            sampling_rate=loss.sampling_rate,
            steps=self.training.steps,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Title:
    """The name, version and base of an adapter, fixed before it is trained."""

    name: str
    version: int
    base: BaseName


def plan(
    title: Title,
    settings: AdapterTraining,
    *,
    workload: str,
    records: int,
    target_delta: str,
) -> AdapterPlan:
    """Fix the training and find the least noise that keeps the promised epsilon.

    Settings without noise promise nothing; the caller's policy has to allow that.

    Raises:
        ConfigError: A setting is out of range, or more is asked than the records give.
    """
    # Public facts alone choose A, so that no record can influence it.
    label = f"tapestry-adapter/1\n{title.name}\n{title.version}\n{title.base.digest}\n"
    chosen = TrainingPlan(
        workload=workload,
        parameterization="low_rank",
        rank=settings.rank,
        targets=settings.targets,
        factor_seed=hashlib.sha256(label.encode()).hexdigest(),
        options=settings.options,
        steps=settings.steps,
        batch_size=settings.batch_size,
        optimizer="sgd",
        learning_rate=settings.learning_rate,
        weight_decay="0",
    )
    privacy = _plan_noise(settings, records=records, target_delta=target_delta)
    steps = plan_checks.local_steps(chosen, privacy, records=records)
    return AdapterPlan(training=chosen, privacy=privacy, records=records, steps=steps)


def _plan_noise(
    settings: AdapterTraining, *, records: int, target_delta: str
) -> PrivacyPlan:
    rate = accounting.sampling_rate(settings.batch_size, records=records)
    if settings.noise == "none":
        return NoNoise(noise="none")
    noise = accounting.calibrate(
        target_epsilon=decode_decimal(settings.epsilon),
        target_delta=decode_decimal(target_delta),
        sampling_rate=rate,
        steps=settings.steps,
    )
    return LocalNoise(
        noise="local",
        unit="record",
        adjacency="add-remove",
        clip_norm=settings.clip_norm,
        noise_multiplier=encode_decimal(noise),
        target_delta=target_delta,
    )


def train(
    workload: Workload,
    units: Sequence[Example],
    *,
    plan: AdapterPlan,
    runtime: "dp_sgd.Runtime",
) -> FloatVector:
    """Train B on the institution's records; the model is left as it was.

    The result is as private as the plan says, and public once it is accounted for.

    Raises:
        ConfigError: A setting is out of range, or ``dp_sgd.fit`` refuses the model.
        ResourceError: The weights did not change, or the training diverged.
    """
    from tapestry_node.training import dp_sgd

    done = dp_sgd.update(
        workload,
        units,
        training=plan.training,
        privacy=plan.privacy,
        records=plan.records,
        runtime=runtime,
    )
    if not np.isfinite(done.values).all():
        raise ResourceError(
            f"the adapter diverged at learning rate {plan.training.learning_rate};"
            " lower adapter.learning_rate",
            code="training-diverged",
        )
    return done.values


def write(
    folder: Path,
    update: FloatVector,
    *,
    workload: Workload,
    plan: AdapterPlan,
    facts: AdapterFacts,
    public: Sequence[Record],
) -> tuple[CheckedAdapter, dict[str, str]]:
    """Write the adapter's folder with its manifest, and check it.

    Returns:
        What the registry reads of it, and its scores on the public data.

    Raises:
        ConfigError: The folder holds something already, or the workload has no
            adapters.
        ResourceError: The folder cannot be written.
        VerificationError: The registry would refuse the folder.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(
            f"{folder} is not empty; an adapter is never overwritten",
            code="folder-not-empty",
        )
    scores = adapters_of(workload).write(
        folder, update, plan=plan.training, facts=facts, public=public
    )
    manifest.write(folder)
    return check_folder(folder), scores


def adapters_of(workload: Workload) -> AdapterFormat:
    """Return how a workload publishes adapters.

    Raises:
        ConfigError: The workload publishes no adapters.
    """
    if workload.adapters is None:
        raise ConfigError(
            f"workload {workload.name!r} publishes no adapters; set adapter.publish ="
            " false",
            code="adapters-not-supported",
        )
    return workload.adapters
