"""The rules of accounts: what a node spent, whenever the log gets to know of it.

An account may come late: its message was lost, or a coordinator kept it back. Nothing
here depends on the order of the log. An account is compared with those before and after
it by its own number, with the policy and the declaration of data as they were when its
round was opened (with the member's first declaration, if that came later), or, of an
adapter, with the newest declaration and any policy so far.
"""

import dataclasses
from collections.abc import Iterable
from typing import cast

from tapestry.encoding import decode_decimal
from tapestry.errors import RuleError
from tapestry_governance.events.federation_events import Policy
from tapestry_governance.events.privacy_events import (
    DataDeclared,
    DpAccounted,
    PrivacyLoss,
)
from tapestry_governance.rules.federation_state import FederationState
from tapestry_governance.rules.persistent_collections import PersistentList
from tapestry_governance.rules.round_records import (
    AccountedLoss,
    AccountedSpending,
    NoiseTerms,
    RoundKey,
    RoundRecord,
)

_ROUNDING = 1e-12  # of a plain decimal, see encode_decimal
_NONE: PersistentList[AccountedSpending] = PersistentList()


def dp_accounted(
    state: FederationState, body: DpAccounted, *, actor: str, index: int
) -> FederationState:
    """Charge a node for a round or an adapter, within the policy's cap.

    A round that failed may be accounted for after it ended: the noise was drawn and
    the budget spent whether or not a sum came of it.

    Raises:
        RuleError: The account breaks a rule; the code names it.
    """
    account = AccountedSpending.of(body, index=index)
    if body.adapter is None:
        following = _account_round(state, body, actor)
    else:
        following = _account_adapter(state, account, actor)
    _check_number(state, account, actor)
    newest, bare = state.newest_account.get(actor), state.without_noise.get(actor)
    if newest is None or newest.number < account.number:
        newest = account
    if account.promise is None and (bare is None or account.number < bare.number):
        bare = account
    without = state.without_noise
    return following.but(
        newest_account=state.newest_account.set(actor, newest),
        without_noise=without if bare is None else without.set(actor, bare),
        spending=state.spending.set(
            actor, state.spending.get(actor, _NONE).append(account)
        ),
    )


def check_limits(
    loss: AccountedLoss | PrivacyLoss | None, policies: Iterable[Policy], *, actor: str
) -> None:
    """Demand that one of some policies allows a loss; None is one without noise.

    Raises:
        RuleError: Its noise, delta or epsilon is not allowed.
    """
    allowed = tuple(policies)
    if loss is None:
        if not any("none" in policy.noise for policy in allowed):
            message = f"{actor} trained without noise, which the policy does not allow"
            raise RuleError(message, code="noise-not-allowed")
        return
    delta = max((policy.max_delta for policy in allowed), key=decode_decimal)
    if decode_decimal(loss.target_delta) > decode_decimal(delta):
        message = f"delta {loss.target_delta}, at most {delta}"
        raise RuleError(message, code="delta-above-policy")
    cap = max((policy.epsilon_cap for policy in allowed), key=decode_decimal)
    for each in loss.blocks:
        if decode_decimal(each.epsilon) > decode_decimal(cap):
            raise RuleError(
                f"{actor} spent {each.epsilon} on block {each.block}, the policy allows"
                f" {cap}",
                code="epsilon-above-cap",
            )


def check_bare(state: FederationState, account: AccountedSpending, actor: str) -> None:
    """Refuse an epsilon for records that were trained on without noise before.

    Raises:
        RuleError: By its number the account comes after such a training.
    """
    bare = state.without_noise.get(actor)
    if account.promise and bare is not None and bare.number < account.number:
        raise RuleError(
            f"{actor} trained without noise, by entry {bare.index}, so no epsilon holds"
            " for its records",
            code="training-without-noise",
        )


def count_adapter(state: FederationState, actor: str) -> int:
    """Count one more account of an adapter among those since the newest release.

    Raises:
        RuleError: The policy allows no more of them until the next release.
    """
    since, count = state.adapter_accounts.get(actor, (0, 0))
    count = count + 1 if since == len(state.released) else 1
    if count > state.policy.max_accounts:
        raise RuleError(
            f"{actor} accounts for adapter {count} since the newest release, the"
            f" policy allows {state.policy.max_accounts}",
            code="accounts-too-many",
        )
    return count


def _account_round(
    state: FederationState, body: DpAccounted, actor: str
) -> FederationState:
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
    check_limits(body.promise, (record.policy,), actor=actor)
    # A member that had declared nothing at the opening may still do so and take part.
    declared = record.data.get(actor) or state.first_data.get(actor)
    if body.promise is not None:
        _check_data(state, body.promise, actor, declared=declared)
    _check_plan(body, record, declared, actor)
    accounted = state.accounted.set(key, before | {actor})
    return state.but(accounted=accounted)


def _account_adapter(
    state: FederationState, account: AccountedSpending, actor: str
) -> FederationState:
    """Take the only account of a version, and count it among those of a release."""
    if state.released_by_run.get(account.run_id) is None:
        message = (
            f"{actor}'s adapter {account.adapter}: no release of run {account.run_id}"
        )
        raise RuleError(message, code="adapter-run-unreleased")
    key = actor, account.adapter or "", account.version or 0
    if (known := state.adapter_spending.get(key)) is not None:
        message = f"{key[1]} {key[2]} is accounted for already, by entry {known.index}"
        raise RuleError(message, code="account-duplicated")
    check_limits(account.promise, state.policies, actor=actor)
    if account.promise is not None:
        declared = state.data.get(actor)
        _check_data(state, account.promise, actor, declared=declared)
    count = len(state.released), count_adapter(state, actor)
    return dataclasses.replace(
        state,
        adapter_spending=state.adapter_spending.set(key, account),
        adapter_accounts=state.adapter_accounts.set(actor, count),
    )


def _check_number(
    state: FederationState, account: AccountedSpending, actor: str
) -> None:
    """Compare an account with its neighbours in the order of the node's spending."""
    check_bare(state, account, actor)
    below, above = state.newest_account.get(actor), None
    if below is not None and below.number >= account.number:
        below = None  # it comes late
        for each in state.spending[actor].newest_first():
            if each.number == account.number:
                raise RuleError(
                    f"{actor}'s account {account.number} is in the log already, at"
                    f" {each.index}",
                    code="account-number-taken",
                )
            if each.number < account.number:
                below = each if below is None or each.number > below.number else below
            else:
                above = each if above is None or each.number < above.number else above
    for one, other in ((below, account), (account, above)):
        _check_falls(one, other, actor)


def _check_falls(
    one: AccountedSpending | None, other: AccountedSpending | None, actor: str
) -> None:
    """Refuse an epsilon that is less after one account than after an earlier one."""
    if one is None or other is None or not one.promise or not other.promise:
        return
    # At a larger delta the same spending is a smaller epsilon.
    deltas = one.promise.target_delta, other.promise.target_delta
    if decode_decimal(deltas[1]) > decode_decimal(deltas[0]):
        return
    before = {each.block: each.epsilon for each in one.promise.blocks}
    for each in other.promise.blocks:
        was = before.get(each.block, "0")
        if decode_decimal(each.epsilon) < decode_decimal(was):
            raise RuleError(
                f"{actor}'s epsilon of block {each.block} falls from {was} to"
                f" {each.epsilon}, by account {other.number} after {one.number}",
                code="epsilon-decreased",
            )


def _check_data(
    state: FederationState,
    loss: AccountedLoss | PrivacyLoss,
    actor: str,
    *,
    declared: DataDeclared | None,
) -> None:
    """Demand the declared unit, and blocks that are declared by now.

    A block that an account leaves out was not trained on, by the institution's word:
    its budget was spent.
    """
    if declared is None:
        message = f"{actor} declared no data, so its sampling rate is unknown"
        raise RuleError(message, code="data-not-declared")
    blocks, most = [each.block for each in loss.blocks], state.data[actor].block
    if blocks[-1] > most:  # they are in order
        message = f"{actor} accounts for blocks {blocks}, declared 1 to {most}"
        raise RuleError(message, code="blocks-differ")
    if loss.unit != declared.unit:
        message = f"{actor} accounts for each {loss.unit}, declared {declared.unit}"
        raise RuleError(message, code="unit-differs")
    if loss.segments:
        message = f"{actor} names {len(loss.segments)} segments, plans have none"
        raise RuleError(message, code="segments-differ")


def _check_plan(
    body: DpAccounted, record: RoundRecord, declared: DataDeclared | None, actor: str
) -> None:
    """Compare a node's account with the plan of the round."""
    loss, planned = body.loss, record.terms.noise
    want = "none" if planned is None else planned.mechanism
    if loss.mechanism != want:
        message = f"mechanism {loss.mechanism}, planned was {want}"
        raise RuleError(message, code="mechanism-differs")
    if body.steps != record.terms.steps:
        message = f"{body.steps} steps, planned were {record.terms.steps}"
        raise RuleError(message, code="steps-differ")
    if planned is None or loss.mechanism == "none" or declared is None:
        return
    _check_noise(loss, planned, actor)
    rate = min(1.0, record.terms.batch_size / declared.records)
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
