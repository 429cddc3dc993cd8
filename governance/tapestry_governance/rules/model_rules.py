"""The rules of what a model costs and where it goes: accounting, releases, adapters."""

import dataclasses

from tapestry.encoding import decode_decimal
from tapestry.errors import RuleError
from tapestry_governance.events.model_events import AdapterPublished, ReleasePublished
from tapestry_governance.events.privacy_events import DpAccounted, PrivacyLoss
from tapestry_governance.rules.federation_state import FederationState
from tapestry_governance.rules.persistent_collections import (
    PersistentList,
    PersistentMap,
)
from tapestry_governance.rules.round_records import (
    AccountedSpending,
    AccountingTerms,
    NoiseTerms,
    ReleaseRecord,
    RoundKey,
)

_ROUNDING = 1e-12  # of a plain decimal, see encode_decimal


def dp_accounted(
    state: FederationState, body: DpAccounted, *, actor: str, index: int
) -> FederationState:
    """Charge a node for a round or an adapter, within the policy's cap.

    A round that failed may be accounted for after it ended: the noise was drawn and
    the budget spent whether or not a sum came of it.
    """
    promise = body.promise
    if promise is None:
        if "none" not in state.policy.noise:
            raise RuleError(
                "the policy does not allow training without noise",
                code="noise-not-allowed",
            )
    else:
        _check_spent(state, body, promise, actor=actor)
    record = AccountedSpending.of(body, index=index)
    pending_adapter_charges, accounted = state.pending_adapter_charges, state.accounted
    if body.adapter is not None:
        pending_adapter_charges = pending_adapter_charges.set(
            (actor, body.adapter), record
        )
    else:
        accounted = _account_round(state, body, actor)
    bare, epsilon = state.runs_without_noise, state.epsilon
    spender = (actor, body.run_id)
    if record.promise is None:
        bare = bare if spender in bare else bare.set(spender, index)
    else:
        epsilon = epsilon.set(spender, record.promise.epsilon_run)
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
        raise RuleError(
            "a release follows a closed round", code="release-without-round"
        )
    if (body.run_id, body.round_number) != (closed.run_id, closed.round_number):
        raise RuleError(
            f"release of round {body.round_number}, not of the last",
            code="release-of-old-round",
        )
    if body.parameters_digest != state.base:
        raise RuleError(
            f"released {body.parameters_digest}, the base is {state.base}",
            code="release-parameters-differ",
        )
    before = state.released.last
    latest = None if before is None else before.name
    if body.previous != latest:
        raise RuleError(
            f"release after {body.previous}, the latest is {latest}",
            code="release-predecessor-differs",
        )
    if latest is not None and _number(body.name) <= _number(latest):
        raise RuleError(
            f"{body.name} does not come after {latest}",
            code="release-name-not-next",
        )
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
        raise RuleError(
            f"{body.name} is a name for releases", code="adapter-name-reserved"
        )
    owner = state.publishers.get(body.name, actor)
    if owner != actor:
        raise RuleError(f"adapter {body.name} is {owner}'s", code="adapter-name-taken")
    older = state.adapters.get(body.name)
    if older is not None and body.version <= older.version:
        raise RuleError(
            f"{body.name} {body.version} after {older.version}",
            code="adapter-version-not-next",
        )
    release = state.releases.get(body.base)
    if release is None or release.parameters_digest != body.base_digest:
        raise RuleError(
            f"no release {body.base} with parameters {body.base_digest}",
            code="adapter-base-unpublished",
        )
    if body.licence not in state.policy.adapter_licences:
        raise RuleError(
            f"the policy does not allow licence {body.licence}",
            code="licence-not-allowed",
        )
    charge = state.pending_adapter_charges.get((actor, body.name))
    if charge is None:
        raise RuleError(
            f"{actor} accounted for no adapter {body.name}",
            code="adapter-not-accounted",
        )
    promise = charge.promise
    spent = (promise.epsilon_run, promise.target_delta) if promise else (None, None)
    if (body.epsilon, body.target_delta) != spent:
        raise RuleError(
            f"{body.name} claims epsilon {body.epsilon} at {body.target_delta},"
            f" accounted were {spent[0]} at {spent[1]}",
            code="adapter-epsilon-differs",
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


def _check_spent(
    state: FederationState, body: DpAccounted, promise: PrivacyLoss, *, actor: str
) -> None:
    policy = state.policy
    if (actor, body.run_id) in state.runs_without_noise:
        raise RuleError(
            f"{actor} trained without noise in run {body.run_id}, so no epsilon holds",
            code="runs-without-noise",
        )
    spent = decode_decimal(promise.epsilon_run)
    if not 0 <= spent <= decode_decimal(policy.epsilon_cap):
        raise RuleError(
            f"{actor} spent {promise.epsilon_run} in run {body.run_id}, the policy"
            f" allows {policy.epsilon_cap}",
            code="epsilon-above-cap",
        )
    before = state.epsilon.get((actor, body.run_id), "0")
    if spent < decode_decimal(before):
        raise RuleError(
            f"{actor}'s epsilon falls from {before} to {promise.epsilon_run}",
            code="epsilon-decreased",
        )
    if decode_decimal(promise.target_delta) > decode_decimal(policy.max_delta):
        raise RuleError(
            f"delta {promise.target_delta}, at most {policy.max_delta}",
            code="delta-too-large",
        )


def _account_round(
    state: FederationState, body: DpAccounted, actor: str
) -> PersistentMap[RoundKey, frozenset[str]]:
    if body.round_number is None or body.attempt is None:
        raise RuleError(
            "neither a round nor an adapter", code="account-subject-unknown"
        )
    key = (body.run_id, body.round_number, body.attempt)
    record = state.rounds.get(key)
    if record is None or actor not in record.terms.participants:
        raise RuleError(
            f"{actor} takes part in no round {key}", code="node-not-in-cohort"
        )
    before: frozenset[str] = state.accounted.get(key, frozenset())
    if actor in before:
        raise RuleError(
            f"{actor} accounted twice for round {key}", code="account-duplicated"
        )
    _check_plan(state, body, actor, terms=record.terms)
    return state.accounted.set(key, before | {actor})


def _check_plan(
    state: FederationState, body: DpAccounted, actor: str, *, terms: AccountingTerms
) -> None:
    """Compare what a node says it did with the plan of the round."""
    loss, planned = body.loss, terms.noise
    want = "none" if planned is None else planned.mechanism
    if loss.mechanism != want:
        raise RuleError(
            f"mechanism {loss.mechanism}, planned was {want}", code="mechanism-differs"
        )
    if body.steps != terms.steps:
        raise RuleError(
            f"{body.steps} steps, planned were {terms.steps}", code="steps-differ"
        )
    if planned is None or loss.mechanism == "none":
        return
    same = (loss.clip_norm, loss.target_delta) == (
        planned.clip_norm,
        planned.target_delta,
    )
    if not same or not _has_noise(loss, planned):
        raise RuleError(
            f"{actor}'s clip norm, delta or noise is not the plan's",
            code="privacy-terms-differ",
        )
    data = state.data.get(actor)
    if data is None:
        raise RuleError(
            f"{actor} declared no data, so its sampling rate is unknown",
            code="data-not-declared",
        )
    rate = min(1.0, terms.batch_size / data.records)
    if decode_decimal(loss.sampling_rate) < rate - _ROUNDING:
        raise RuleError(
            f"{actor}'s sampling rate {loss.sampling_rate} is below {rate}",
            code="sampling-rate-too-low",
        )


def _has_noise(loss: PrivacyLoss, planned: NoiseTerms) -> bool:
    """Whether there is as much noise as planned, in the node's own part and in all."""
    drift = abs(decode_decimal(loss.bound) - planned.bound)
    return (
        decode_decimal(loss.noise_multiplier) >= planned.noise_multiplier - _ROUNDING
        and decode_decimal(loss.own_multiplier) >= planned.own_multiplier - _ROUNDING
        and (loss.shares, loss.coordinates) == (planned.shares, planned.coordinates)
        and drift <= _ROUNDING * max(1.0, planned.bound)
    )


def _number(release: str) -> int:
    return int(release.removeprefix("base-"))
