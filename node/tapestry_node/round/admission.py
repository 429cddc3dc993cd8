"""Admission control: the rules by which a node joins an offered round or refuses.

Default deny. The node joins a round only when all of this holds:

1. The log proves the round: its own mirror of the log, under a checkpoint that a
   quorum cosigned lately, ends with ``round.opened`` holding exactly these bytes.
2. The round starts from the base that this node holds, by digest, and its run goes
   back to one that its policy names, through releases that this node has followed;
   none named, none allowed.
3. The software that runs here is one of those that the round names.
4. Cohort, threshold, noise, steps and parameterization are within its own policy,
   without noise the outer step is no smaller than ``_LEAST_RATE``, and
   the plan, outer step and gate too, is that of the run's first round (``RunPlan``).
5. The round can be trained here: model, plan, declared records and machine allow it,
   and the gradients of single examples are right (``machine_checks``, without any
   record).
6. Its privacy budget covers the round (``ledger.Ledger`` decides, before training).

Guarantees:
    Fails closed: an error on the way is a refusal. A reason leaves; the rule's code
    and the detail stay in the node's own log.
"""

from dataclasses import dataclass

from tapestry.encoding import decode_decimal
from tapestry.protocol.messages import Reason
from tapestry.protocol.round_manifest import RoundManifest, recommended_threshold
from tapestry_governance.events.round_events import RoundOpened
from tapestry_governance.log.mirror import LogMirror
from tapestry_node.refusal import Refused
from tapestry_node.settings import NodePolicy

# Without noise a base must really move before its nodes are summed again, since marks
# are by base (``survivor_marks``). A rate is a part of the mean update, and a twentieth
# changes what the next updates are; Adam's is the way of each coordinate itself.
_LEAST_RATE = {"mean": 0.05, "nesterov": 0.05, "adam": 0.0001}


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """The facts that the node knows by itself, never from the offer."""

    name: str
    federation: str
    software_digest: str
    base_digest: str
    origin: str  # the base that the run goes back to, by the log and by this node
    parameters: str  # of the base, by its digest
    named_parameters: str | None  # those that the federation's policy names with it
    layout_digest: str
    layout_length: int


def first_round(mirror: LogMirror, run_id: str) -> RoundManifest:
    """Return the plan that a run began with, whether or not that round was closed.

    Raises:
        Refused: The log has no round of the run.
    """
    index = mirror.state.runs.get(run_id)
    if index is None:
        said = f"the log has no round of {run_id!r}"
        raise Refused(Reason.NOT_IN_LOG, said, code="run-not-in-log")
    return mirror.body(index, RoundOpened).manifest


def check_offer(manifest: RoundManifest, *, policy: NodePolicy, facts: Facts) -> None:
    """Compare an offered round with the node's own policy and facts.

    Raises:
        Refused: The offer breaks a rule; the first one is named.
    """
    _check_identity(manifest, facts)
    _check_base(manifest, policy, facts)
    check_policy(manifest, policy)


def _require(
    holds: bool,  # noqa: FBT001 - an assertion reads best so
    detail: str,
    *,
    code: str,
    reason: Reason = Reason.LOCAL_POLICY,
) -> None:
    if not holds:
        raise Refused(reason, detail, code=code)


def _check_identity(manifest: RoundManifest, facts: Facts) -> None:
    _require(
        manifest.federation == facts.federation,
        f"federation {manifest.federation!r} is not {facts.federation!r}",
        code="federation-differs",
    )
    _require(
        any(p.name == facts.name for p in manifest.participants),
        f"{facts.name!r} is not in the cohort",
        code="node-not-in-cohort",
    )
    _require(
        facts.software_digest in manifest.software,
        f"the round names {', '.join(manifest.software)}, here runs"
        f" {facts.software_digest}; compare `tapestry audit software` on both sides",
        code="software-differs",
        reason=Reason.SOFTWARE_UNAPPROVED,
    )


def _check_base(manifest: RoundManifest, policy: NodePolicy, facts: Facts) -> None:
    _require(
        manifest.model_digest == facts.base_digest,
        f"round starts from {manifest.model_digest}, here is {facts.base_digest}; if"
        " it is a release whose rounds were not followed here, name its folder as base"
        " in node.toml",
        code="base-differs",
        reason=Reason.BASE_MISMATCH,
    )
    _require(
        facts.origin in policy.bases,
        f"the run goes back to {facts.origin}, not among policy.bases",
        code="base-not-allowed",
    )
    _require(
        facts.named_parameters in (None, facts.parameters),
        f"the federation's policy names {manifest.model_digest} with the parameters"
        f" {facts.named_parameters}, here they are {facts.parameters}",
        code="base-parameters-differ",
        reason=Reason.BASE_MISMATCH,
    )
    asked = manifest.layout_digest, manifest.length
    here = facts.layout_digest, facts.layout_length
    _require(
        asked == here,
        f"the layout of the update is {asked}, the one computed here is {here}",
        code="layout-differs",
        reason=Reason.BASE_MISMATCH,
    )


def check_policy(manifest: RoundManifest, policy: NodePolicy) -> None:
    """Compare cohort and work of a round with the node's own policy.

    Raises:
        Refused: The round breaks a rule; the first one is named.
    """
    _check_cohort(manifest, policy)
    _check_work(manifest, policy)


def _check_cohort(manifest: RoundManifest, policy: NodePolicy) -> None:
    n = len(manifest.participants)
    least = recommended_threshold(n, max_colluding=manifest.max_colluding)
    _require(
        min(n, manifest.min_cohort) >= policy.min_cohort,
        f"cohort of {n}, floor {manifest.min_cohort}; policy.min_cohort is "
        f"{policy.min_cohort}",
        code="cohort-too-small",
    )
    _require(
        manifest.max_colluding >= policy.max_colluding,
        f"tolerates {manifest.max_colluding} colluders, policy.max_colluding is "
        f"{policy.max_colluding}",
        code="max-colluding-too-small",
    )
    _require(
        manifest.post_quantum == "mlkem768" or n > policy.hybrid_up_to,
        f"a cohort of {n} without ML-KEM, policy.post_quantum is"
        f" {policy.post_quantum!r}",
        code="post-quantum-required",
    )
    _require(
        least <= manifest.threshold <= n,
        f"threshold {manifest.threshold} is outside {least}..{n}",
        code="threshold-out-of-range",
    )


def _check_work(manifest: RoundManifest, policy: NodePolicy) -> None:
    training, privacy = manifest.training, manifest.privacy
    _require(
        manifest.purpose == "train" and not manifest.statistics,
        f"purpose {manifest.purpose!r} with {len(manifest.statistics)} statistics; this"
        " node trains, and shows no statistics",
        code="purpose-not-supported",
        reason=Reason.PLAN_UNSUPPORTED,
    )
    _require(
        training.parameterization in policy.parameterizations,
        f"parameterization {training.parameterization!r} is not in"
        " policy.parameterizations",
        code="parameterization-not-allowed",
    )
    _require(
        training.steps <= policy.max_steps,
        f"{training.steps} steps, policy.max_steps is {policy.max_steps}",
        code="steps-above-limit",
    )
    _require(
        privacy.noise in policy.noise,
        f"noise {privacy.noise!r} is not in policy.noise",
        code="noise-not-allowed",
    )
    if privacy.noise == "none":
        rate, least = (
            manifest.outer.learning_rate,
            _LEAST_RATE[manifest.outer.optimizer],
        )
        _require(
            decode_decimal(rate) >= least,
            f"outer learning rate {rate} without noise is below {least}, and hardly"
            " moves the base from which updates are summed again; raise it",
            code="outer-rate-too-small",
        )
    else:
        _require(
            decode_decimal(privacy.target_delta) <= decode_decimal(policy.target_delta),
            f"delta {privacy.target_delta} is over policy.target_delta,"
            f" {policy.target_delta}",
            code="delta-too-large",
        )
