"""The manifest of the next round, from settings and the federation's state."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from pydantic import ValidationError

from tapestry.encoding import decode_decimal
from tapestry.errors import ConfigError, ProtocolError, QuorumError
from tapestry.model.low_rank import round_seed
from tapestry.privacy import accounting
from tapestry.protocol.round_manifest import (
    GateInputs,
    Participant,
    RoundManifest,
    StageDeadlines,
    TrainingPlan,
    recommended_threshold,
)
from tapestry.protocol.stages import SECAGG_STAGES
from tapestry.schema import first_fault
from tapestry.secagg.quantization import Encoding
from tapestry.software_digest import software_digest
from tapestry.workloads import plan_checks
from tapestry.workloads.base import Workload
from tapestry_coordinator.settings import RunSettings
from tapestry_governance.rules.federation_state import FederationState


@dataclass(frozen=True, slots=True, kw_only=True)
class StartingPoint:
    """The base that a round starts from, and what its step is scored on."""

    model_digest: str
    workload: Workload  # the source of the update's layout
    gate: GateInputs


def plan_round(
    settings: RunSettings,
    state: FederationState,
    *,
    present: Sequence[str],
    round_number: int,
    start: StartingPoint,
) -> RoundManifest:
    """Return the manifest of a round.

    Nodes in ``present`` that are no members, or have left, are left out.

    Guarantees:
        A round that model, plan, settings or declared numbers of records make
        impossible is refused here, before it is logged. The plan names its targets.

    Raises:
        QuorumError: Fewer members are online than a round takes.
        ConfigError: No round of these settings is possible; waiting does not help.
    """
    members = state.active
    names = sorted(name for name in present if name in members)
    least = _floor(settings, len(names))
    if least > len(names):
        raise QuorumError(
            f"{len(names)} members are online, do not rest and have the software of"
            f" this round, it takes {least}; start more nodes, or install the same"
            " release",
            code="nodes-too-few",
        )
    manifest = _make_manifest(
        settings,
        state,
        names=names,
        round_number=round_number,
        start=start,
    )
    unable = _unable(manifest, state, names=members)
    if len(members) - len(unable) < _floor(settings, len(members)):
        raise ConfigError(
            _unable_words(unable, of=len(members), least=least), code="members-too-few"
        )
    here = {name: why for name, why in unable.items() if name in names}
    if len(names) - len(here) < least:
        raise QuorumError(
            _unable_words(here, of=len(names), least=least), code="nodes-too-few"
        )
    return manifest


def check_run(
    settings: RunSettings,
    state: FederationState,
    *,
    start: StartingPoint,
) -> RoundManifest:
    """Plan a first round with all members: if that fails, every round would.

    Raises:
        ConfigError: Model, plan, least cohort or the records that members declared
            allow no round.
    """
    count = len(state.active)
    least = _floor(settings, count)
    if least > count:
        raise ConfigError(
            f"a round takes {least} nodes (min_cohort {settings.secagg.min_cohort},"
            f" max_colluding {settings.secagg.max_colluding}), the federation has"
            f" {count} members; let members vote on more of them (tapestry governance"
            " propose admit) or on a policy with less (propose policy)",
            code="members-too-few",
        )
    return plan_round(
        settings,
        state,
        present=list(state.active),
        round_number=1,
        start=start,
    )


def _floor(settings: RunSettings, count: int) -> int:
    """Return the fewest of ``count`` nodes that a round may be planned with."""
    colluding = settings.secagg.max_colluding
    threshold = recommended_threshold(count, max_colluding=colluding)
    return max(settings.secagg.min_cohort, threshold, 2)


def _plan_training(
    settings: RunSettings, workload: Workload, *, seed: str
) -> TrainingPlan:
    """Return the training plan, with targets chosen if the settings name none."""
    training = settings.training
    if training.parameterization == "low_rank" and not training.targets:
        chosen = workload.choose_targets()
        training = training.model_copy(update={"targets": chosen})
    return training.plan(factor_seed=seed)


def software_of(state: FederationState) -> tuple[str, ...]:
    """Return what the policy lists, or what runs here if it allows any."""
    allowed = state.policy.software
    return (software_digest(),) if allowed == "any" else allowed


def _make_manifest(
    settings: RunSettings,
    state: FederationState,
    *,
    names: Sequence[str],
    round_number: int,
    start: StartingPoint,
) -> RoundManifest:
    """Fill in a manifest that the protocol, the model and the noise allow.

    Raises:
        ConfigError: The protocol, the model or the noise forbids such a round.
    """
    workload, model_digest = start.workload, start.model_digest
    seed = round_seed(settings.run_id, round_number, model_digest=model_digest)
    training, secagg = _plan_training(settings, workload, seed=seed), settings.secagg
    plan_checks.check_model(workload, settings.privacy)
    plan_checks.check_outer(settings.outer)
    layout = plan_checks.check_plan(workload, training, settings.privacy)
    threshold = recommended_threshold(len(names), max_colluding=secagg.max_colluding)
    with _explaining():
        manifest = RoundManifest(
            protocol="tapestry-secagg/2",
            federation=state.federation,
            run_id=settings.run_id,
            purpose="train",
            round_number=round_number,
            attempt=1,
            model_digest=model_digest,
            layout_digest=layout.digest,
            software=software_of(state),
            policy_digest=state.policy.digest,
            roster_digest=state.roster.digest,
            participants=tuple(
                Participant(name=name, key=state.members[name].node) for name in names
            ),
            max_colluding=secagg.max_colluding,
            threshold=threshold,
            min_cohort=secagg.min_cohort,
            ring_bits=32,
            length=layout.length,
            clip_norm=secagg.clip_norm,
            clip_value=secagg.clip_value,
            scale_bits=secagg.scale_bits,
            statistics=(),
            training=training,
            privacy=settings.privacy,
            outer=settings.outer,
            gate=start.gate,
            deadlines=StageDeadlines(
                **{stage: settings.deadlines.of(stage) for stage in SECAGG_STAGES}
            ),
            post_quantum=secagg.post_quantum,
        )
        Encoding.of(manifest)
    return manifest


@contextmanager
def _explaining() -> Iterator[None]:
    """Turn what makes no valid round into a fault of the settings."""
    try:
        yield
    except ValidationError as error:
        fault = first_fault(error, whole="the plan")
        raise ConfigError(
            f"run.toml gives no valid round: {fault}", code="setting-invalid"
        ) from None
    except ProtocolError as error:
        raise ConfigError(
            f"run.toml gives no valid round: {error}", code=error.code
        ) from None


def _unable(
    manifest: RoundManifest, state: FederationState, *, names: Iterable[str]
) -> dict[str, str]:
    """Find the members whose declared number of records is too small, and why."""
    found = {}
    cap = decode_decimal(state.policy.epsilon_cap)
    for name in sorted(names):
        declared = state.data.get(name)
        if declared is None:
            continue  # it will declare them before it joins
        try:
            _check_member(manifest, records=declared.records, cap=cap)
        except ConfigError as error:
            found[name] = str(error)
    return found


def _check_member(manifest: RoundManifest, *, records: int, cap: float) -> None:
    plan_checks.check_records(manifest.training, manifest.privacy, records=records)
    steps = plan_checks.round_steps(manifest, records=records)
    privacy = manifest.privacy
    if steps is None or privacy.noise == "none":
        return
    delta = decode_decimal(privacy.target_delta)
    once = accounting.epsilon([steps], target_delta=delta)
    if not once <= cap:
        raise ConfigError(
            f"one round costs epsilon {once:.3g} with {records} records, the federation"
            f" allows {cap:g} a run; take more noise, fewer steps or a smaller batch",
            code="epsilon-above-cap",
        )


def _unable_words(unable: Mapping[str, str], *, of: int, least: int) -> str:
    said = "; ".join(f"{name}: {why}" for name, why in unable.items())
    return (
        f"{len(unable)} of {of} members cannot take part, a round takes {least}: {said}"
    )
