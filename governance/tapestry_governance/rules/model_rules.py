"""The rules of what a model costs and where it goes: accounting, releases, adapters."""

import dataclasses

from tapestry.encoding import decode_decimal
from tapestry.errors import RuleError
from tapestry.privacy.noise_shares import NoiseShare
from tapestry.protocol.round_manifest import DpPlan, RoundManifest
from tapestry_governance.events.types import (
    AdapterPublished,
    DpAccounted,
    PrivacyLoss,
    ReleasePublished,
)
from tapestry_governance.rules.federation_state import FederationState

_MECHANISMS = {
    "none": "none",
    "local": "poisson-subsampled-gaussian",
    "shared": "poisson-subsampled-skellam",
}
_ROUNDING = 1e-12  # of a plain decimal, see encode_decimal


def dp_accounted(
    state: FederationState, body: DpAccounted, *, actor: str
) -> FederationState:
    """Charge a node for a round or an adapter, within the policy's cap.

    A round that failed may be accounted for after it ended: the noise was drawn and
    the budget spent whether or not a sum came of it.
    """
    promise = body.promise
    if promise is None:
        if "none" not in state.policy.noise:
            raise RuleError("the policy does not allow training without noise")
    else:
        _check_spent(state, body, promise, actor=actor)
    if body.adapter is not None:
        pending_adapter_charges = {
            **state.pending_adapter_charges,
            (actor, body.adapter): body,
        }
        following = dataclasses.replace(
            state, pending_adapter_charges=pending_adapter_charges
        )
    else:
        following = _account_round(state, body, actor)
    if promise is None:
        bare = state.runs_without_noise | {(actor, body.run_id)}
        return dataclasses.replace(following, runs_without_noise=bare)
    epsilon = {**state.epsilon, (actor, body.run_id): promise.epsilon_run}
    return dataclasses.replace(following, epsilon=epsilon)


def release_published(
    state: FederationState, body: ReleasePublished
) -> FederationState:
    """Publish the current base under the next name."""
    closed = state.last_closed
    if state.open_round is not None or closed is None:
        raise RuleError("a release follows a closed round")
    if (body.run_id, body.round_number) != (closed.run_id, closed.round_number):
        raise RuleError(f"release of round {body.round_number}, not of the last")
    if body.parameters_digest != state.base:
        raise RuleError(f"released {body.parameters_digest}, the base is {state.base}")
    latest = max(state.releases, key=_number, default=None)
    if body.previous != latest:
        raise RuleError(f"release after {body.previous}, the latest is {latest}")
    if latest is not None and _number(body.name) <= _number(latest):
        raise RuleError(f"{body.name} does not come after {latest}")
    releases = {**state.releases, body.name: body}
    return dataclasses.replace(state, releases=releases)


def adapter_published(
    state: FederationState, body: AdapterPublished, *, actor: str
) -> FederationState:
    """Publish an adapter that is paid for, on a base that was released."""
    if body.name.startswith("base-"):
        raise RuleError(f"{body.name} is a name for releases")
    owner = state.publishers.get(body.name, actor)
    if owner != actor:
        raise RuleError(f"adapter {body.name} is {owner}'s")
    older = state.adapters.get(body.name)
    if older is not None and body.version <= older.version:
        raise RuleError(f"{body.name} {body.version} after {older.version}")
    release = state.releases.get(body.base)
    if release is None or release.parameters_digest != body.base_digest:
        raise RuleError(f"no release {body.base} with parameters {body.base_digest}")
    if body.licence not in state.policy.adapter_licences:
        raise RuleError(f"the policy does not allow licence {body.licence}")
    charge = state.pending_adapter_charges.get((actor, body.name))
    if charge is None:
        raise RuleError(f"{actor} accounted for no adapter {body.name}")
    promise = charge.promise
    spent = (promise.epsilon_run, promise.target_delta) if promise else (None, None)
    if (body.epsilon, body.target_delta) != spent:
        raise RuleError(
            f"{body.name} claims epsilon {body.epsilon} at {body.target_delta},"
            f" accounted were {spent[0]} at {spent[1]}"
        )
    left = {
        k: v
        for k, v in state.pending_adapter_charges.items()
        if k != (actor, body.name)
    }
    return dataclasses.replace(
        state,
        pending_adapter_charges=left,
        adapters={**state.adapters, body.name: body},
        publishers={**state.publishers, body.name: actor},
    )


def _check_spent(
    state: FederationState, body: DpAccounted, promise: PrivacyLoss, *, actor: str
) -> None:
    policy = state.policy
    if (actor, body.run_id) in state.runs_without_noise:
        raise RuleError(
            f"{actor} trained without noise in run {body.run_id}, so no epsilon holds"
        )
    spent = decode_decimal(promise.epsilon_run)
    if not 0 <= spent <= decode_decimal(policy.epsilon_cap):
        raise RuleError(
            f"{actor} spent {promise.epsilon_run} in run {body.run_id}, the policy"
            f" allows {policy.epsilon_cap}"
        )
    before = state.epsilon.get((actor, body.run_id), "0")
    if spent < decode_decimal(before):
        raise RuleError(
            f"{actor}'s epsilon falls from {before} to {promise.epsilon_run}"
        )
    if decode_decimal(promise.target_delta) > decode_decimal(policy.max_delta):
        raise RuleError(f"delta {promise.target_delta}, at most {policy.max_delta}")


def _account_round(
    state: FederationState, body: DpAccounted, actor: str
) -> FederationState:
    if body.round_number is None or body.attempt is None:
        raise RuleError("neither a round nor an adapter")
    key = (body.run_id, body.round_number, body.attempt)
    manifest = state.rounds.get(key)
    if manifest is None or all(actor != p.name for p in manifest.participants):
        raise RuleError(f"{actor} takes part in no round {key}")
    before = state.accounted.get(key, frozenset())
    if actor in before:
        raise RuleError(f"{actor} accounted twice for round {key}")
    _check_plan(state, body, actor)
    accounted = {**state.accounted, key: before | {actor}}
    return dataclasses.replace(state, accounted=accounted)


def _check_plan(state: FederationState, body: DpAccounted, actor: str) -> None:
    """Hold what a node says it did against the plan of the round."""
    manifest = state.rounds[body.run_id, body.round_number or 0, body.attempt or 0]
    plan = manifest.privacy
    want = _MECHANISMS[plan.noise]
    if body.loss.mechanism != want:
        raise RuleError(f"mechanism {body.loss.mechanism}, planned was {want}")
    if body.steps != manifest.training.steps:
        raise RuleError(f"{body.steps} steps, planned were {manifest.training.steps}")
    loss = body.loss
    if plan.noise == "none" or loss.mechanism == "none":
        return
    same = (loss.clip_norm, loss.target_delta) == (plan.clip_norm, plan.target_delta)
    if not same or not _has_noise(loss, manifest, plan):
        raise RuleError(f"{actor}'s clip norm, delta or noise is not the plan's")
    data = state.data.get(actor)
    if data is None:
        raise RuleError(f"{actor} declared no data, so its sampling rate is unknown")
    rate = min(1.0, manifest.training.batch_size / data.records)
    if decode_decimal(loss.sampling_rate) < rate - _ROUNDING:
        raise RuleError(f"{actor}'s sampling rate {loss.sampling_rate} is below {rate}")


def _has_noise(loss: PrivacyLoss, manifest: RoundManifest, plan: DpPlan) -> bool:
    """Whether there is as much noise as planned, in the node's own part and in all."""
    share = NoiseShare.of(manifest)
    whole = decode_decimal(plan.noise_multiplier)
    want = (whole, whole, 1, 0, 0.0)
    if share is not None:
        numbers = (share.noise_multiplier, share.own_multiplier, share.shares)
        want = (*numbers, manifest.length, share.bound)
    return (
        decode_decimal(loss.noise_multiplier) >= want[0] - _ROUNDING
        and decode_decimal(loss.own_multiplier) >= want[1] - _ROUNDING
        and (loss.shares, loss.coordinates) == want[2:4]
        and abs(decode_decimal(loss.bound) - want[4]) <= _ROUNDING * max(1.0, want[4])
    )


def _number(release: str) -> int:
    return int(release.removeprefix("base-"))
