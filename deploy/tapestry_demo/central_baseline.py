"""Central training on the pooled text: the reference for a federated run.

It takes as many example gradients as all nodes together, in the same parameterization
and from the same factors. Without privacy it takes the steps of the nodes one after the
other instead of side by side, at half the rate, since such steps add up. With privacy
it is DP-SGD with the epsilon that the institutions promise, and each step joins the
batches of all nodes, since every step has its noise. It is only possible where one
party may hold the text of all institutions; here it may, because the text is public.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tapestry.encoding import decode_decimal, encode_decimal
from tapestry.errors import ConfigError
from tapestry.model.low_rank import expand, round_seed
from tapestry.model.replica import Replica
from tapestry.privacy import accounting
from tapestry.protocol.round_manifest import (
    LocalNoise,
    NoNoise,
    PrivacyPlan,
    TrainingPlan,
)
from tapestry.tensor_types import widen
from tapestry.vectors import Parameters
from tapestry.workloads.base import Example, Workload
from tapestry_coordinator.settings import RunSettings
from tapestry_node.training import dp_sgd

Report = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A central run that does as much work as a federation."""

    settings: RunSettings  # of the federated run
    nodes: int  # how many institutions take part; multiplies the work
    epsilon: float | None  # the promise for each record; None trains without noise


def train_centrally(
    workload: Workload,
    units: Sequence[Example],
    *,
    reference: Reference,
    base: Replica,
    report: Report,
) -> Parameters:
    """Train on pooled units and return the parameters.

    The workload's own parameters are replaced. ``report`` is called after each round
    with the number done and the number of all.

    Returns:
        The parameters by name, in the shapes of the base's.

    Raises:
        ConfigError: An epsilon is given, but the federated run adds no noise and so
            has no clip norm.
    """
    settings = reference.settings
    plan = settings.training.plan(factor_seed="0" * 64)
    if reference.epsilon is None:
        rate = encode_decimal(decode_decimal(plan.learning_rate) / 2)
        changes = {"steps": plan.steps * reference.nodes, "learning_rate": rate}
    else:
        changes = {"batch_size": plan.batch_size * reference.nodes}
    plan = plan.model_copy(update=changes)
    privacy = _privacy(reference, plan, records=len(units))
    parameters = dict(base.parameters)
    for turn in range(1, settings.rounds + 1):
        seed = round_seed("central", turn, model_digest=base.digest)
        plan = plan.model_copy(update={"factor_seed": seed})
        workload.load(parameters)
        found = dp_sgd.update(
            workload,
            units,
            training=plan,
            privacy=privacy,
            records=len(units),
            runtime=dp_sgd.Runtime(),
        )
        change = expand(
            found.values,
            layout=workload.layout(plan),
            plan=plan,
            parameters=parameters,
        )
        parameters |= {n: widen(parameters[n]) + step for n, step in change.items()}
        report(turn, settings.rounds)
    return parameters


def _privacy(reference: Reference, plan: TrainingPlan, *, records: int) -> PrivacyPlan:
    settings, epsilon = reference.settings, reference.epsilon
    federated = settings.privacy
    if epsilon is None:
        return NoNoise(noise="none")
    if federated.noise == "none":
        raise ConfigError(
            "a baseline with noise needs the clip norm of a private run; leave the"
            " epsilon out",
            code="clip-norm-missing",
        )
    noise = accounting.calibrate(
        target_epsilon=epsilon,
        target_delta=decode_decimal(federated.target_delta),
        sampling_rate=accounting.sampling_rate(plan.batch_size, records=records),
        steps=plan.steps * settings.rounds,
    )
    return LocalNoise(
        noise="local",
        unit=federated.unit,
        adjacency=federated.adjacency,
        clip_norm=federated.clip_norm,
        noise_multiplier=encode_decimal(noise),
        target_delta=federated.target_delta,
    )
