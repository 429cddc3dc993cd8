"""Checks of a training that need no record: of its model, plan and record count.

These three decide whether a training can run at all and whether its privacy can be
accounted for. The coordinator makes the checks before it opens a round, and a node when
its operator checks it and again before it reserves a budget, so that neither pays for a
training that cannot run.

Guarantees:
    Nothing here reads a record, draws a number or changes the model.
"""

from tapestry.encoding import decode_decimal
from tapestry.errors import ConfigError
from tapestry.privacy import accounting, clipping
from tapestry.privacy.noise_shares import NoiseShare
from tapestry.protocol.round_manifest import (
    DpPlan,
    OuterPlan,
    PrivacyPlan,
    RoundManifest,
    TrainingPlan,
)
from tapestry.vectors import Layout
from tapestry.workloads.base import Workload

_MOST = 1e6  # of a learning rate; float32 has no room for more on any gradient


def check_model(workload: Workload, privacy: PrivacyPlan) -> None:
    """Refuse a model that cannot be trained under this kind of noise.

    Edge cases:
        Without noise no gradient of a single example is needed, and any model will do.

    Raises:
        ConfigError: A private training needs gradients that the model does not give
            (``Workload.check_private``).
    """
    if privacy.noise != "none":
        workload.check_private()


def check_plan(
    workload: Workload, training: TrainingPlan, privacy: PrivacyPlan
) -> Layout:
    """Compare a plan with the model and with itself; return its update's layout.

    Raises:
        ConfigError: The plan is another workload's; a target, the rank or an option is
            not the model's; a number is out of range; or the plan cannot have this
            noise.
    """
    if training.workload != workload.name:
        raise ConfigError(
            f"the plan is for workload {training.workload!r}, the model here is of"
            f" {workload.name!r}; name the same workload in all settings",
            code="workload-differs",
        )
    check_numbers(training, privacy)
    workload.check_plan(training)
    layout = workload.layout(training)
    if training.parameterization == "low_rank":
        _check_rank(workload, layout, rank=training.rank)
    if privacy.noise != "none":
        multiplier = decode_decimal(privacy.noise_multiplier)
        if privacy.noise == "local" and multiplier < accounting.MIN_NOISE:
            raise ConfigError(
                f"noise multiplier {privacy.noise_multiplier} gives no finite epsilon;"
                f" take {accounting.MIN_NOISE:g} or more",
                code="noise-too-small",
            )
        try:
            clipping.check_rounding(multiplier, length=layout.length)
        except ValueError as error:
            raise ConfigError(str(error), code="rounding-too-coarse") from None
    return layout


def check_numbers(training: TrainingPlan, privacy: PrivacyPlan) -> None:
    """Compare the numbers of a plan with their ranges.

    Raises:
        ConfigError: A number is out of range, or the plan cannot have this noise.
    """
    rate = decode_decimal(training.learning_rate)
    decay = decode_decimal(training.weight_decay)
    if not 0 < rate <= _MOST:
        raise ConfigError(
            f"learning rate {training.learning_rate} is not positive"
            if rate <= 0
            else f"learning rate {training.learning_rate} is above {_MOST:g}",
            code="setting-out-of-range",
        )
    if not 0 <= decay * rate < 1:
        raise ConfigError(
            f"weight decay {training.weight_decay} is out of range; times the learning"
            " rate it must be at least 0 and below 1",
            code="setting-out-of-range",
        )
    if privacy.noise != "none":
        _check_noise(privacy)
    if privacy.noise == "shared" and (
        training.steps != 1
        or training.optimizer != "sgd"
        or training.weight_decay != "0"
    ):
        raise ConfigError(
            "shared noise takes one private step of SGD a round, without weight decay;"
            f" the plan has {training.steps} of {training.optimizer} with"
            f" {training.weight_decay}",
            code="shared-noise-plan-invalid",
        )


def check_records(
    training: TrainingPlan, privacy: PrivacyPlan, *, records: int
) -> None:
    """Compare a plan with a declared number of records; the number alone is read.

    Raises:
        ConfigError: The batch expects more records than there are, or delta is not
            below one in the records.
    """
    accounting.sampling_rate(training.batch_size, records=records)
    if privacy.noise != "none":
        accounting.check_delta(decode_decimal(privacy.target_delta), records=records)


def check_outer(outer: OuterPlan) -> None:
    """Refuse an outer step after which every round would be rejected or in vain.

    Raises:
        ConfigError: A number is out of range.
    """
    for name, plain in (
        ("outer.learning_rate", outer.learning_rate),
        ("outer.max_norm", outer.max_norm),
    ):
        if not decode_decimal(plain) > 0:
            raise ConfigError(
                f"{name} {plain} is not positive; no round would count",
                code="setting-out-of-range",
            )
    if decode_decimal(outer.max_loss_increase) < 0:
        raise ConfigError(
            f"outer.max_loss_increase {outer.max_loss_increase} is below 0; a round"
            " would be rejected that changes nothing",
            code="setting-out-of-range",
        )
    if outer.optimizer == "nesterov" and not 0 <= decode_decimal(outer.momentum) < 1:
        raise ConfigError(
            f"outer.momentum {outer.momentum} is not in [0, 1)",
            code="setting-out-of-range",
        )


def round_steps(manifest: RoundManifest, *, records: int) -> accounting.Steps | None:
    """Return the privacy cost of a round to each record, known before it starts.

    Edge cases:
        None without noise: then there is no promise to account for.

    Raises:
        ConfigError: A number is out of range, or does not fit the number of records.
        ProtocolError: The noise is shared and cannot be (``noise_shares``).
    """
    steps = local_steps(manifest.training, manifest.privacy, records=records)
    share = NoiseShare.of(manifest)
    if steps is None or share is None:
        return steps
    return accounting.Steps(
        noise_multiplier=share.noise_multiplier,
        sampling_rate=steps.sampling_rate,
        steps=steps.steps,
        coordinates=manifest.length,
        bound=share.bound,
    )


def local_steps(
    training: TrainingPlan, privacy: PrivacyPlan, *, records: int
) -> accounting.Steps | None:
    """Return the privacy cost of a training if the node adds all noise by itself.

    Edge cases:
        None without noise: then there is no promise to account for.

    Raises:
        ConfigError: A number is out of range, or does not fit the number of records.
    """
    if privacy.noise == "none":
        return None
    check_numbers(training, privacy)
    check_records(training, privacy, records=records)
    return accounting.Steps(
        noise_multiplier=decode_decimal(privacy.noise_multiplier),
        sampling_rate=accounting.sampling_rate(training.batch_size, records=records),
        steps=training.steps,
    )


def _check_noise(privacy: DpPlan) -> None:
    clip_norm = decode_decimal(privacy.clip_norm)
    multiplier = decode_decimal(privacy.noise_multiplier)
    if not (clip_norm > 0 and multiplier > 0):
        raise ConfigError(
            f"clip norm {privacy.clip_norm} and noise multiplier"
            f" {privacy.noise_multiplier} must both be positive; without noise, say"
            " noise = 'none'",
            code="noise-not-positive",
        )


def _check_rank(workload: Workload, layout: Layout, *, rank: int) -> None:
    """Refuse a rank that costs noise and bytes and gives nothing more."""
    shapes = {name: p.shape for name, p in workload.module.named_parameters()}
    for name, _ in layout.tensors:
        room = min(shapes[name])
        if rank > room:
            raise ConfigError(
                f"rank {rank} is above the {room} that {name!r} has room for; set rank"
                f" to {room} or less",
                code="rank-too-high",
            )
