"""What the same text gives without federation: central training on the pooled text.

The reference that a federation is measured against. It takes as many example
gradients as all nodes together, in the same parameterization and from the same
factors, one step after the other instead of side by side; once without privacy and
once as DP-SGD with the epsilon that the institutions promise. Only possible where
one party may hold everybody's text: here, because the demo's text is public.
"""

from collections.abc import Callable, Mapping, Sequence

from tapestry.config import CoordinatorSettings
from tapestry.encoding import encode_fraction
from tapestry.low_rank import expand, round_seed
from tapestry.privacy import accounting
from tapestry.protocol import PrivacyPlan, TrainingPlan
from tapestry.replica import Replica
from tapestry.vector import FloatVector
from tapestry.workloads import Unit, Workload
from tapestry_node import training

Report = Callable[[int, int], None]


def train_centrally(
    workload: Workload,
    units: Sequence[Unit],
    *,
    base: Replica,
    settings: CoordinatorSettings,
    nodes: int,
    epsilon: float | None,
    report: Report,
) -> Mapping[str, FloatVector]:
    """Train on pooled units and return the parameters.

    Args:
        workload: Any loaded model of the base's kind; its parameters are replaced.
        units: Everybody's records, encoded.
        base: The given base.
        settings: The federated run; steps and batch sizes follow from it.
        nodes: How many institutions take part; multiplies the steps.
        epsilon: The promise to keep for each record; None trains without noise.
        report: Told after each piece of work, with the number of pieces.
    """
    plan = settings.training.plan(factor_seed="0" * 64)
    plan = plan.model_copy(update={"steps": plan.steps * nodes})
    privacy = _privacy(settings, plan, records=len(units), epsilon=epsilon)
    parameters = dict(base.parameters)
    for number in range(1, settings.rounds + 1):
        seed = round_seed("central", number, model_digest=base.digest)
        plan = plan.model_copy(update={"factor_seed": seed})
        workload.load(parameters)
        found = training.update(
            workload,
            units,
            training=plan,
            privacy=privacy,
            records=len(units),
            runtime=training.Runtime(),
        )
        change = expand(
            found.values,
            layout=workload.layout(plan),
            plan=plan,
            parameters=parameters,
        )
        parameters |= {name: parameters[name] + step for name, step in change.items()}
        report(number, settings.rounds)
    return parameters


def _privacy(
    settings: CoordinatorSettings,
    plan: TrainingPlan,
    *,
    records: int,
    epsilon: float | None,
) -> PrivacyPlan:
    if epsilon is None:
        return settings.privacy.model_copy(update={"noise": "none"})
    noise = accounting.calibrate(
        target_epsilon=epsilon,
        target_delta=float(settings.privacy.target_delta),
        sampling_rate=accounting.sampling_rate(plan.batch_size, records=records),
        steps=plan.steps * settings.rounds,
    )
    return settings.privacy.model_copy(
        update={"noise": "local", "noise_multiplier": encode_fraction(noise)}
    )
