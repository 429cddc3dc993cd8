"""The manifest of the next round, from settings and the federation's state."""

from collections.abc import Sequence

from tapestry.config import CoordinatorSettings
from tapestry.errors import QuorumError
from tapestry.low_rank import round_seed
from tapestry.protocol import Participant, RoundManifest, recommended_threshold
from tapestry.software import software_digest
from tapestry.workloads import Workload
from tapestry_governance.events import roster_digest
from tapestry_governance.state import FederationState


def plan_round(
    settings: CoordinatorSettings,
    state: FederationState,
    *,
    present: Sequence[str],
    round_number: int,
    model_digest: str,
    workload: Workload,
) -> RoundManifest:
    """Write down everything that a round is.

    Args:
        settings: The run.
        state: The federation; its members and policy.
        present: Nodes that are here; strangers among them are left out.
        round_number: The round's number, from 1.
        model_digest: The base that it starts from.
        workload: Says how the update is laid out.

    Raises:
        QuorumError: Fewer members are here than a round takes.
    """
    seed = round_seed(settings.run_id, round_number, model_digest=model_digest)
    training = settings.training.plan(factor_seed=seed)
    layout = workload.layout(training)
    secagg, members = settings.secagg, state.members
    names = sorted(name for name in present if name in members)
    threshold = recommended_threshold(len(names), max_colluding=secagg.max_colluding)
    least = max(secagg.min_cohort, threshold, 2)
    if len(names) < least:
        raise QuorumError(f"{len(names)} members are here, a round takes {least}")
    return RoundManifest(
        protocol="tapestry-secagg/1",
        federation=settings.federation,
        run_id=settings.run_id,
        round_number=round_number,
        attempt=1,
        model_digest=model_digest,
        layout_digest=layout.digest,
        software_digest=software_digest(),
        policy_digest=state.policy.digest,
        roster_digest=roster_digest(state.charter.members),
        participants=tuple(
            Participant(name=name, key=members[name].node) for name in names
        ),
        max_colluding=secagg.max_colluding,
        threshold=threshold,
        min_cohort=secagg.min_cohort,
        ring_bits=32,
        length=layout.length,
        clip_norm=secagg.clip_norm,
        clip_value=secagg.clip_value,
        scale_bits=secagg.scale_bits,
        weighting="uniform",
        training=training,
        privacy=settings.privacy,
        outer=settings.outer,
        deadlines=settings.deadlines.model_dump(),
        post_quantum=None,
    )
