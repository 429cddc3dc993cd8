"""The rules of accounts, releases and adapters.

Each function returns the next state, or raises RuleError with the code of the rule.
"""

import dataclasses
from typing import cast

from tapestry.encoding import decode_decimal
from tapestry.errors import RuleError
from tapestry_governance.events.model_events import AdapterPublished, ReleasePublished
from tapestry_governance.events.privacy_events import (
    BlockEpsilon,
    DpAccounted,
    PrivacyLoss,
)
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
            message = f"{actor} trained without noise, which the policy does not allow"
            raise RuleError(message, code="noise-not-allowed")
    else:
        _check_spent(state, promise, actor=actor)
    record = AccountedSpending.of(body, index=index)
    charges, accounted = state.pending_adapter_charges, state.accounted
    numbers = state.adapter_accounts
    if body.adapter is not None:
        charges = charges.set((actor, body.adapter), record)
        numbers = _count_adapter(state, body, actor)
    else:
        accounted = _account_round(state, body, actor)
    bare, epsilon = state.without_noise, state.epsilon
    if promise is None:
        bare = bare if actor in bare else bare.set(actor, index)
    for each in promise.blocks if promise else ():
        said = (each.epsilon, promise.target_delta) if promise else ("0", "0")
        epsilon = epsilon.set((actor, each.block), said)
    spending = state.spending.get(actor, PersistentList())
    return dataclasses.replace(
        state,
        pending_adapter_charges=charges,
        accounted=accounted,
        without_noise=bare,
        adapter_accounts=numbers,
        epsilon=epsilon,
        spending=state.spending.set(actor, spending.append(record)),
    )


def release_published(
    state: FederationState, body: ReleasePublished, index: int
) -> FederationState:
    """Publish the current base under the next name."""
    closed = state.last_closed
    if state.open_round is not None or closed is None:
        message = "a release follows a closed round"
        raise RuleError(message, code="release-without-round")
    named, last = (body.run_id, body.round_number), (closed.run_id, closed.round_number)
    if named != last:
        message = f"release of round {named}, last closed was {last}"
        raise RuleError(message, code="release-of-old-round")
    if body.model_digest != closed.release_digest:
        message = (
            f"released {body.model_digest}, the round gave {closed.release_digest}"
        )
        raise RuleError(message, code="release-model-differs")
    if (known := state.release_of(*last)) is not None:
        message = f"round {last} was released already, as {known.name}"
        raise RuleError(message, code="release-duplicated")
    before = state.released.last
    latest = None if before is None else before.name
    if body.previous != latest:
        message = f"release after {body.previous}, the latest is {latest}"
        raise RuleError(message, code="release-predecessor-differs")
    if latest is not None and _number(body.name) <= _number(latest):
        message = f"{body.name} does not come after {latest}"
        raise RuleError(message, code="release-name-not-next")
    record = ReleaseRecord(
        name=body.name,
        run_id=body.run_id,
        round_number=body.round_number,
        index=index,
        ancestry=state.ancestry.get(body.model_digest, frozenset()) | {body.run_id},
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
    """Publish an adapter that was accounted for, on a base that was released."""
    if body.name.startswith("base-"):
        message = f"{body.name} is a name for releases"
        raise RuleError(message, code="adapter-name-reserved")
    owner = state.publishers.get(body.name, actor)
    if owner != actor:
        raise RuleError(f"adapter {body.name} is {owner}'s", code="adapter-name-taken")
    older = state.adapters.get(body.name)
    if older is not None and body.version <= older.version:
        message = f"{body.name} {body.version} after {older.version}"
        raise RuleError(message, code="adapter-version-not-next")
    release = state.releases.get(body.base)
    if release is None or release.model_digest != body.base_digest:
        message = f"no release {body.base} that is model {body.base_digest}"
        raise RuleError(message, code="adapter-base-unpublished")
    if body.licence not in state.policy.adapter_licences:
        message = f"the policy does not allow licence {body.licence}"
        raise RuleError(message, code="licence-not-allowed")
    charges, account = state.pending_adapter_charges, (actor, body.name)
    if account not in charges:
        message = f"{actor} accounted for no adapter {body.name}"
        raise RuleError(message, code="adapter-not-accounted")
    _check_charge(body, charges[account], run=release.run_id)
    return dataclasses.replace(
        state,
        pending_adapter_charges=charges.without(account),
        adapters=state.adapters.set(body.name, body),
        publishers=state.publishers.set(body.name, actor),
        published=state.published.set(body.name, index),
    )


def _check_charge(
    body: AdapterPublished, charge: AccountedSpending, *, run: str
) -> None:
    promise = charge.promise
    if charge.run_id != run:
        message = f"accounted for in run {charge.run_id}, {body.base} is of {run}"
        raise RuleError(message, code="adapter-run-differs")
    spent = (promise.epsilon, promise.target_delta) if promise else (None, None)
    if (body.epsilon, body.target_delta) != spent:
        raise RuleError(
            f"{body.name} claims epsilon {body.epsilon} at {body.target_delta},"
            f" accounted were {spent[0]} at {spent[1]}",
            code="adapter-epsilon-differs",
        )


def _check_spent(state: FederationState, promise: PrivacyLoss, *, actor: str) -> None:
    policy = state.policy
    if actor in state.without_noise:
        raise RuleError(
            f"{actor} trained without noise, by entry {state.without_noise[actor]}, so"
            " no epsilon holds for its records",
            code="training-without-noise",
        )
    data = state.data.get(actor)
    if data is None:
        message = f"{actor} declared no data, so its sampling rate is unknown"
        raise RuleError(message, code="data-not-declared")
    blocks = [each.block for each in promise.blocks]
    if blocks != list(range(1, data.block + 1)):
        message = f"{actor} accounts for blocks {blocks}, declared 1 to {data.block}"
        raise RuleError(message, code="blocks-differ")
    if promise.segments:
        message = f"{actor} names {len(promise.segments)} segments, plans have none"
        raise RuleError(message, code="segments-differ")
    if decode_decimal(promise.target_delta) > decode_decimal(policy.max_delta):
        message = f"delta {promise.target_delta}, at most {policy.max_delta}"
        raise RuleError(message, code="delta-above-policy")
    for each in promise.blocks:
        _check_block(state, each, promise.target_delta, actor=actor)


def _check_block(
    state: FederationState, said: BlockEpsilon, target_delta: str, *, actor: str
) -> None:
    cap, spent = state.policy.epsilon_cap, decode_decimal(said.epsilon)
    if not 0 <= spent <= decode_decimal(cap):
        raise RuleError(
            f"{actor} spent {said.epsilon} on block {said.block}, the policy allows"
            f" {cap}",
            code="epsilon-above-cap",
        )
    before, delta = state.epsilon.get((actor, said.block), ("0", "1"))
    # At a larger delta the same spending is a smaller epsilon.
    if decode_decimal(target_delta) > decode_decimal(delta):
        return
    if spent < decode_decimal(before):
        message = f"{actor}'s epsilon falls from {before} to {said.epsilon}"
        raise RuleError(message, code="epsilon-decreased")


def _count_adapter(
    state: FederationState, body: DpAccounted, actor: str
) -> PersistentMap[str, tuple[int, int]]:
    """Count the account of an adapter on a release, among those since the newest."""
    if body.run_id not in state.released_by_run:
        message = f"{actor}'s adapter {body.adapter}: no release of run {body.run_id}"
        raise RuleError(message, code="adapter-run-unreleased")
    releases, most = len(state.released), state.policy.max_accounts
    since, number = state.adapter_accounts.get(actor, (releases, 0))
    number = number + 1 if since == releases else 1
    if number > most:
        raise RuleError(
            f"{actor} accounts for adapter {number} since the newest release, the"
            f" policy allows {most}",
            code="accounts-too-many",
        )
    return state.adapter_accounts.set(actor, (releases, number))


def _account_round(
    state: FederationState, body: DpAccounted, actor: str
) -> PersistentMap[RoundKey, frozenset[str]]:
    # A body names an adapter or a round with its attempt; no round has the key None.
    key = cast("RoundKey", (body.run_id, body.round_number, body.attempt))
    record = state.rounds.get(key)
    if record is None or actor not in record.terms.participants:
        message = f"{actor} takes part in no round {key}"
        raise RuleError(message, code="node-not-in-cohort")
    before: frozenset[str] = state.accounted.get(key, frozenset())
    if actor in before:
        message = f"{actor} accounted twice for round {key}"
        raise RuleError(message, code="account-duplicated")
    _check_plan(state, body, actor, terms=record.terms)
    return state.accounted.set(key, before | {actor})


def _check_plan(
    state: FederationState, body: DpAccounted, actor: str, *, terms: AccountingTerms
) -> None:
    """Compare a node's account with the plan of the round."""
    loss, planned = body.loss, terms.noise
    want = "none" if planned is None else planned.mechanism
    if loss.mechanism != want:
        message = f"mechanism {loss.mechanism}, planned was {want}"
        raise RuleError(message, code="mechanism-differs")
    if body.steps != terms.steps:
        message = f"{body.steps} steps, planned were {terms.steps}"
        raise RuleError(message, code="steps-differ")
    if planned is None or loss.mechanism == "none":
        return
    _check_noise(loss, planned, actor)
    rate = min(1.0, terms.batch_size / state.data[actor].records)
    if decode_decimal(loss.sampling_rate) < rate - _ROUNDING:
        message = f"{actor}'s sampling rate {loss.sampling_rate} is below {rate}"
        raise RuleError(message, code="sampling-rate-too-low")


def _check_noise(loss: PrivacyLoss, planned: NoiseTerms, actor: str) -> None:
    """Demand the plan's clip norm, delta and grid, and no less than its noise."""
    drift = abs(decode_decimal(loss.bound) - planned.bound)
    differing = [
        f"{name} {getattr(loss, name)}, planned was {getattr(planned, name)}"
        for name in ("clip_norm", "target_delta", "shares", "coordinates", "bound")
        if getattr(loss, name) != getattr(planned, name)
        and (name != "bound" or drift > _ROUNDING * max(1.0, planned.bound))
    ]
    if differing:
        raise RuleError(f"{actor}'s {differing[0]}", code="privacy-terms-differ")
    for name in ("noise_multiplier", "own_multiplier"):
        if decode_decimal(getattr(loss, name)) < getattr(planned, name) - _ROUNDING:
            raise RuleError(
                f"{actor}'s {name} {getattr(loss, name)} is below"
                f" {getattr(planned, name)}",
                code="noise-too-low",
            )


def _number(release: str) -> int:
    return int(release.removeprefix("base-"))
