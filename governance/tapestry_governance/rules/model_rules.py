"""The rules of what a model costs and where it goes: accounting, releases, adapters."""

import dataclasses

from tapestry.encoding import decode_fraction
from tapestry.errors import RuleError
from tapestry_governance.events.model_events import AdapterPublished, ReleasePublished
from tapestry_governance.events.privacy_events import DpAccounted
from tapestry_governance.rules.federation_state import FederationState
from tapestry_governance.rules.persistent_collections import (
    PersistentList,
    PersistentMap,
)
from tapestry_governance.rules.round_records import (
    AccountedSpending,
    AccountingTerms,
    ReleaseRecord,
    RoundKey,
)

_ROUNDING = 1e-12  # of a plain decimal, see encode_fraction


def dp_accounted(
    state: FederationState, body: DpAccounted, *, actor: str, index: int
) -> FederationState:
    """Charge a node for a round or an adapter, within the policy's cap.

    A round that failed may be accounted for after it ended: the noise was drawn and
    the budget spent whether or not a sum came of it.
    """
    if body.mechanism == "none":
        if "none" not in state.policy.noise:
            raise RuleError("the policy does not allow training without noise")
    else:
        _check_spent(state, body, actor)
    record = AccountedSpending.of(body, index=index)
    pending_adapter_charges, accounted = state.pending_adapter_charges, state.accounted
    if body.adapter is not None:
        pending_adapter_charges = pending_adapter_charges.set(
            (actor, body.adapter), record
        )
    else:
        accounted = _account_round(state, body, actor)
    bare, epsilon, spender = (
        state.runs_without_noise,
        state.epsilon,
        (actor, body.run_id),
    )
    if record.epsilon_run is None:
        bare = bare if spender in bare else bare.set(spender, index)
    else:
        epsilon = epsilon.set(spender, record.epsilon_run)
    spending = state.spending.get(actor, PersistentList())
    return dataclasses.replace(
        state,
        pending_adapter_charges=pending_adapter_charges,
        accounted=accounted,
        runs_without_noise=bare,
        epsilon=epsilon,
        spending=state.spending.set(actor, spending.append(record)),
    )


def release_published(
    state: FederationState, body: ReleasePublished, index: int
) -> FederationState:
    """Publish the current base under the next name."""
    closed = state.last_closed
    if state.open_round is not None or closed is None:
        raise RuleError("a release follows a closed round")
    if (body.run_id, body.round_number) != (closed.run_id, closed.round_number):
        raise RuleError(f"release of round {body.round_number}, not of the last")
    if body.parameters_digest != state.base:
        raise RuleError(f"released {body.parameters_digest}, the base is {state.base}")
    before = state.released.last
    latest = None if before is None else before.name
    if body.previous != latest:
        raise RuleError(f"release after {body.previous}, the latest is {latest}")
    if latest is not None and _number(body.name) <= _number(latest):
        raise RuleError(f"{body.name} does not come after {latest}")
    record = ReleaseRecord(
        name=body.name,
        run_id=body.run_id,
        round_number=body.round_number,
        index=index,
    )
    of_run = state.released_by_run.get(body.run_id, PersistentList())
    return dataclasses.replace(
        state,
        releases=state.releases.set(body.name, body),
        released=state.released.append(record),
        released_by_run=state.released_by_run.set(body.run_id, of_run.append(record)),
        published=state.published.set(body.name, index),
    )


def adapter_published(
    state: FederationState, body: AdapterPublished, *, actor: str, index: int
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
    if (body.epsilon, body.target_delta) != (charge.epsilon_run, charge.target_delta):
        raise RuleError(
            f"{body.name} claims epsilon {body.epsilon} at {body.target_delta},"
            f" accounted were {charge.epsilon_run} at {charge.target_delta}"
        )
    return dataclasses.replace(
        state,
        pending_adapter_charges=state.pending_adapter_charges.without(
            (actor, body.name)
        ),
        adapters=state.adapters.set(body.name, body),
        publishers=state.publishers.set(body.name, actor),
        published=state.published.set(body.name, index),
    )


def _check_spent(state: FederationState, body: DpAccounted, actor: str) -> None:
    policy = state.policy
    if body.epsilon_run is None:
        raise RuleError("noise was added, but no epsilon is promised")
    if (actor, body.run_id) in state.runs_without_noise:
        raise RuleError(
            f"{actor} trained without noise in run {body.run_id}, so no epsilon holds"
        )
    spent = decode_fraction(body.epsilon_run)
    if not 0 <= spent <= decode_fraction(policy.epsilon_cap):
        raise RuleError(
            f"{actor} spent {body.epsilon_run} in run {body.run_id}, the policy"
            f" allows {policy.epsilon_cap}"
        )
    before = state.epsilon.get((actor, body.run_id), "0")
    if spent < decode_fraction(before):
        raise RuleError(f"{actor}'s epsilon falls from {before} to {body.epsilon_run}")
    if decode_fraction(body.target_delta) > decode_fraction(policy.max_delta):
        raise RuleError(f"delta {body.target_delta}, at most {policy.max_delta}")


def _account_round(
    state: FederationState, body: DpAccounted, actor: str
) -> PersistentMap[RoundKey, frozenset[str]]:
    if body.round_number is None or body.attempt is None:
        raise RuleError("neither a round nor an adapter")
    key = (body.run_id, body.round_number, body.attempt)
    record = state.rounds.get(key)
    if record is None or actor not in record.terms.participants:
        raise RuleError(f"{actor} takes part in no round {key}")
    before: frozenset[str] = state.accounted.get(key, frozenset())
    if actor in before:
        raise RuleError(f"{actor} accounted twice for round {key}")
    _check_plan(state, body, actor, terms=record.terms)
    return state.accounted.set(key, before | {actor})


def _check_plan(
    state: FederationState, body: DpAccounted, actor: str, *, terms: AccountingTerms
) -> None:
    """Compare what a node says it did with the plan of the round."""
    if body.mechanism != terms.mechanism:
        raise RuleError(f"mechanism {body.mechanism}, planned was {terms.mechanism}")
    if body.steps != terms.steps:
        raise RuleError(f"{body.steps} steps, planned were {terms.steps}")
    if body.mechanism == "none":
        return
    same = (body.clip_norm, body.target_delta) == (terms.clip_norm, terms.target_delta)
    if not same or not _has_noise(body, terms):
        raise RuleError(f"{actor}'s clip norm, delta or noise is not the plan's")
    data = state.data.get(actor)
    if data is None:
        raise RuleError(f"{actor} declared no data, so its sampling rate is unknown")
    rate = min(1.0, terms.batch_size / data.records)
    if decode_fraction(body.sampling_rate) < rate - _ROUNDING:
        raise RuleError(f"{actor}'s sampling rate {body.sampling_rate} is below {rate}")


def _has_noise(body: DpAccounted, terms: AccountingTerms) -> bool:
    """Whether there is as much noise as planned, in the node's own part and in all."""
    drift = abs(decode_fraction(body.bound) - terms.bound)
    return (
        decode_fraction(body.noise_multiplier) >= terms.noise_multiplier - _ROUNDING
        and decode_fraction(body.own_multiplier) >= terms.own_multiplier - _ROUNDING
        and (body.shares, body.coordinates) == (terms.shares, terms.coordinates)
        and drift <= _ROUNDING * max(1.0, terms.bound)
    )


def _number(release: str) -> int:
    return int(release.removeprefix("base-"))
