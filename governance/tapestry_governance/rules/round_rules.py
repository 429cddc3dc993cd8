"""The rules of a round: opened, committed to or refused, closed or aborted.

Each function returns the next state, or raises RuleError with the code of the rule.
"""

import dataclasses

from tapestry.encoding import decode_decimal
from tapestry.errors import ProtocolError, RuleError
from tapestry.protocol.round_manifest import RoundManifest, recommended_threshold
from tapestry_governance.events import round_events
from tapestry_governance.rules.federation_state import (
    FederationState,
    OpenRound,
    round_key,
)
from tapestry_governance.rules.persistent_collections import (
    PersistentList,
    PersistentMap,
)
from tapestry_governance.rules.round_records import (
    AccountingTerms,
    ClosedRound,
    RoundRecord,
)

_NONE: PersistentList[ClosedRound] = PersistentList()


def round_opened(
    state: FederationState, body: round_events.RoundOpened, index: int
) -> FederationState:
    """Open a round whose plan is allowed by the policy in force."""
    manifest = body.manifest
    if state.open_round is not None:
        message = f"round {state.open_round.key} is still open"
        raise RuleError(message, code="round-still-open")
    if state.paused is not None:
        message = f"the federation is paused since entry {state.paused}"
        raise RuleError(message, code="federation-paused")
    _check_turn(state, manifest)
    _check_base(state, manifest)
    _check_software(state, manifest)
    _check_cohort(state, manifest)
    _check_privacy(state, manifest)
    if manifest.run_id not in state.runs:
        state = _begin(state, manifest)
    key, terms = round_key(manifest), _terms(state, manifest)
    runs = state.runs
    return dataclasses.replace(
        state,
        open_round=OpenRound(
            index=index,
            manifest=manifest,
            context=manifest.context.hex(),
            terms=terms,
            log=state.lead.log,
        ),
        last=key,
        newest=manifest,
        runs=runs if key[0] in runs else runs.set(key[0], index),
        rounds=state.rounds.set(
            key,
            RoundRecord(
                opened=index, terms=terms, policy=state.policy, data=state.data
            ),
        ),
    )


def contribution_committed(
    state: FederationState,
    body: round_events.ContributionCommitted,
    *,
    actor: str,
    index: int,
) -> FederationState:
    """Record a participant's commitment, one per attempt, to what is accounted for.

    From here on a sum with the upload in it may be known, however the round ends.
    """
    current = _open(state, body)
    if actor not in current.terms.participants:
        message = f"{actor} does not take part in round {current.key}"
        raise RuleError(message, code="node-not-in-cohort")
    if body.context != current.context:
        message = f"{actor} committed to another manifest of round {current.key}"
        raise RuleError(message, code="commitment-differs")
    if actor in current.commitments:
        message = f"{actor} committed twice to round {current.key}"
        raise RuleError(message, code="commitment-duplicated")
    if actor in current.refused:
        raise RuleError(f"{actor} refused round {current.key}", code="attempt-refused")
    if actor not in state.accounted.get(current.key, ()):
        message = f"{actor} committed to an upload and accounted for no privacy loss"
        raise RuleError(message, code="account-missing")
    commitments = current.commitments.set(actor, index)
    following = dataclasses.replace(current, commitments=commitments)
    runs = state.uploads.get(actor, PersistentMap())
    highest = max(body.round_number, runs.get(body.run_id, 0))
    return state.but(
        open_round=following,
        uploads=state.uploads.set(actor, runs.set(body.run_id, highest)),
    )


def contribution_refused(
    state: FederationState, body: round_events.ContributionRefused, *, actor: str
) -> FederationState:
    """Record a refusal, of an attempt in the log and once, also after its end."""
    key, current = round_key(body), state.open_round
    record: RoundRecord | None = state.rounds.get(key)
    if record is None or actor not in record.terms.participants:
        message = f"{actor} takes part in no round {key}"
        raise RuleError(message, code="node-not-in-cohort")
    before: frozenset[str] = state.refused.get(key, frozenset())
    if actor in before:
        message = f"{actor} refused round {key} before"
        raise RuleError(message, code="refusal-duplicated")
    state = dataclasses.replace(state, refused=state.refused.set(key, before | {actor}))
    if current is None or key != current.key:
        return state
    if actor in current.commitments:
        message = f"{actor} committed to round {current.key}"
        raise RuleError(message, code="attempt-committed")
    following = dataclasses.replace(current, refused=current.refused | {actor})
    return dataclasses.replace(state, open_round=following)


def round_closed(
    state: FederationState, body: round_events.RoundClosed, index: int
) -> FederationState:
    """Close a round: all in the sum committed, and each base follows the last."""
    current = _open(state, body)
    _check_outcome(current, body)
    for name, committed in zip(body.included, body.commitments, strict=True):
        if current.commitments.get(name) != committed:
            message = f"entry {committed} is not {name}'s commitment to this round"
            raise RuleError(message, code="commitment-unknown")
    before = current.manifest.model_digest
    if body.base_before != before:
        message = f"closed from base {body.base_before}, opened from {before}"
        raise RuleError(message, code="base-before-differs")
    if body.outcome == "rejected":
        _check_unmoved(state, body)
    closed = _ended(body, opened=current.index, index=index)
    same = state.closed_by_number.get(body.round_number, PersistentList())
    ancestry = state.ancestry
    if body.outcome == "applied":
        runs: frozenset[str] = ancestry.get(before, frozenset())
        runs = runs if body.run_id in runs else runs | {body.run_id}
        # Two ways to one base: whoever spent on either is counted.
        for model in {body.base_after, body.release_digest}:  # the latter is rounded
            known = ancestry.get(model, frozenset())
            ancestry = ancestry.set(model, runs | known)
    return dataclasses.replace(
        state,
        open_round=None,
        base=body.base_after,
        last_closed=body,
        ancestry=ancestry,
        closed=state.closed.append(closed),
        closed_by_number=state.closed_by_number.set(
            body.round_number, same.append(closed)
        ),
    )


def round_aborted(
    state: FederationState, body: round_events.RoundAborted, index: int
) -> FederationState:
    """End an attempt without a sum."""
    current = _open(state, body)
    if body.reason == round_events.COORDINATOR_LOST and not state.has_other_lead:
        message = f"the coordinator that opened round {current.key} still leads the log"
        raise RuleError(message, code="coordinator-not-replaced")
    for name in body.survivors:
        if name not in current.commitments:
            message = f"{name} is a survivor and committed to no upload"
            raise RuleError(message, code="commitment-unknown")
    aborted = state.aborted
    if body.survivors or body.is_unknown:
        aborted = aborted.append(_ended(body, opened=current.index, index=index))
    return dataclasses.replace(state, open_round=None, aborted=aborted)


def _ended(body: round_events.InRound, *, opened: int, index: int) -> ClosedRound:
    return ClosedRound(
        run_id=body.run_id,
        round_number=body.round_number,
        attempt=body.attempt,
        opened=opened,
        index=index,
    )


def round_disputed(
    state: FederationState, body: round_events.RoundDisputed, *, actor: str
) -> FederationState:
    """Note a member's dispute of a round that was closed, once for each subject."""
    key = round_key(body)
    same: PersistentList[ClosedRound] = state.closed_by_number.get(key[1], _NONE)
    if not any((c.run_id, c.attempt) == (key[0], key[2]) for c in same):
        message = f"round {key} was not closed"
        raise RuleError(message, code="dispute-without-round")
    has_part = actor in state.rounds[key].terms.participants
    if actor not in state.active and not has_part:  # it owes no word about this one
        message = f"{actor} left, and took no part in round {key}"
        raise RuleError(message, code="node-not-in-cohort")
    known = state.disputes.get(key, frozenset())
    if (actor, body.subject) in known:
        message = f"{actor} disputed the {body.subject} of round {key} before"
        raise RuleError(message, code="dispute-duplicated")
    found = known | {(actor, body.subject)}
    return dataclasses.replace(state, disputes=state.disputes.set(key, found))


def _check_turn(state: FederationState, manifest: RoundManifest) -> None:
    run, number, attempt = round_key(manifest)
    if manifest.federation != state.federation:
        message = f"round of {manifest.federation} in the log of {state.federation}"
        raise RuleError(message, code="federation-differs")
    if attempt > state.policy.max_attempt:
        message = f"attempt {attempt} is over {state.policy.max_attempt}"
        raise RuleError(message, code="attempt-above-limit")
    if run not in state.runs:
        if (number, attempt) != (1, 1):
            message = f"run {run} starts with round {number}.{attempt}, not 1.1"
            raise RuleError(message, code="first-round-missing")
    elif (run, number, attempt) not in state.next_rounds:
        message = f"round {(run, number, attempt)}, not {state.next_rounds}"
        raise RuleError(message, code="round-not-next")


def _begin(state: FederationState, manifest: RoundManifest) -> FederationState:
    """Tell where the base of a new run comes from, as far as the log knows.

    Its history is that of its identity and, where the policy names its parameters, of
    the releases with the same ones. The log does not know that of a base of neither.
    """
    base = manifest.model_digest
    named = state.policy.given_base(base)
    runs: frozenset[str] = state.ancestry.get(base, frozenset())
    if named is not None:
        runs = runs | state.trained.get(named.parameters, frozenset())
    if runs:
        return dataclasses.replace(state, ancestry=state.ancestry.set(base, runs))
    if named is None:
        unknown = state.unknown_bases.set(manifest.run_id, base)
        return dataclasses.replace(state, unknown_bases=unknown)
    return state


def _check_base(state: FederationState, manifest: RoundManifest) -> None:
    """Demand the current base; of a new run an approved release, or one by policy.

    A new run starts from what a release holds, not from the wider tensors that a run
    has in its course.
    """
    base = manifest.model_digest
    if manifest.run_id not in state.runs:
        released = {state.releases[name].model_digest for name in state.standing}
        is_named = state.policy.bases == "any" or state.policy.given_base(base)
        if base not in released and not is_named:
            message = f"{base} is neither a base of the policy nor an approved release"
            raise RuleError(message, code="base-not-allowed")
        return
    expected = state.base
    if not state.was_closed and state.newest is not None:
        expected = state.newest.model_digest
    if base != expected:
        message = f"base {base} is not the one to go on from, {expected}"
        raise RuleError(message, code="base-not-current")


def _check_software(state: FederationState, manifest: RoundManifest) -> None:
    """Demand that every software which the round names is one that the policy names."""
    allowed = state.policy.software
    if allowed != "any" and not set(manifest.software) <= set(allowed):
        named = sorted(set(manifest.software) - set(allowed))
        message = f"the policy names no software {', '.join(named)}"
        raise RuleError(message, code="software-not-allowed")


def _check_cohort(state: FederationState, manifest: RoundManifest) -> None:
    policy, count = state.policy, len(manifest.participants)
    if manifest.policy_digest != state.policy_digest:
        named, current = manifest.policy_digest, state.policy_digest
        message = f"policy {named} is not in force, {current} is"
        raise RuleError(message, code="policy-differs")
    if manifest.roster_digest != state.roster.digest:
        raise RuleError(
            f"roster {manifest.roster_digest}, the members' is {state.roster.digest}",
            code="roster-differs",
        )
    _check_participants(state, manifest)
    if manifest.min_cohort < policy.min_cohort or count < manifest.min_cohort:
        raise RuleError(
            f"{count} participants, at least {manifest.min_cohort};"
            f" the policy wants {policy.min_cohort}",
            code="cohort-too-small",
        )
    colluding = manifest.max_colluding
    if colluding < policy.max_colluding:
        message = f"tolerates {colluding} colluding, not {policy.max_colluding}"
        raise RuleError(message, code="max-colluding-too-small")
    least = recommended_threshold(count, max_colluding=colluding)
    if not least <= manifest.threshold <= count:
        message = f"threshold {manifest.threshold}, not {least} to {count}"
        raise RuleError(message, code="threshold-out-of-range")


def _check_participants(state: FederationState, manifest: RoundManifest) -> None:
    members = state.members
    for participant in manifest.participants:
        if participant.name in state.left:
            entry = state.left[participant.name]
            message = f"{participant.name} left the federation by entry {entry}"
            raise RuleError(message, code="participant-left")
        member = members.get(participant.name)
        if member is None or member.node != participant.key:
            message = f"{participant.name} is no member with this node key"
            raise RuleError(message, code="participant-not-in-roster")


def _check_privacy(state: FederationState, manifest: RoundManifest) -> None:
    plan, policy = manifest.privacy, state.policy
    if plan.noise not in policy.noise:
        message = f"the policy does not allow noise {plan.noise!r}"
        raise RuleError(message, code="noise-not-allowed")
    if plan.noise == "none":
        return
    if not 0 < decode_decimal(plan.target_delta) <= decode_decimal(policy.max_delta):
        message = f"delta {plan.target_delta}, at most {policy.max_delta}"
        raise RuleError(message, code="delta-above-policy")
    if min(map(decode_decimal, (plan.noise_multiplier, plan.clip_norm))) <= 0:
        raise RuleError(
            f"clip norm {plan.clip_norm} and noise multiplier {plan.noise_multiplier}"
            " must be positive",
            code="noise-not-positive",
        )


def _terms(state: FederationState, manifest: RoundManifest) -> AccountingTerms:
    """Read what accounts must state; rounds of equal plans share one object."""
    try:
        terms = AccountingTerms.of(manifest)
    except ProtocolError as error:
        raise RuleError(str(error), code=error.code) from None
    before = state.rounds.get(state.last)
    return before.terms if before is not None and before.terms == terms else terms


def _check_outcome(current: OpenRound, body: round_events.RoundClosed) -> None:
    manifest = current.manifest
    named = sorted([*body.included, *(entry.name for entry in body.dropped)])
    participants = [participant.name for participant in manifest.participants]
    if named != participants:
        raise RuleError(
            f"included and dropped are not the {len(participants)} participants:"
            f" {sorted(set(named) ^ set(participants))}",
            code="participants-differ",
        )
    least = max(manifest.min_cohort, manifest.threshold)
    if len(body.included) < least:
        message = f"a sum of {len(body.included)}, at least {least}"
        raise RuleError(message, code="sum-too-small")


def _check_unmoved(state: FederationState, body: round_events.RoundClosed) -> None:
    """Demand that a rejected round leaves the base, and what a release would hold."""
    last = state.last_closed
    goes_on = last is not None and last.run_id == body.run_id
    released = last.release_digest if last and goes_on else body.base_before
    for found, before in (
        (body.base_after, body.base_before),
        (body.release_digest, released),
    ):
        if found != before:
            message = f"a rejected round leaves base {before}, not {found}"
            raise RuleError(message, code="rejected-round-moved-base")


def _open(state: FederationState, body: round_events.InRound) -> OpenRound:
    current = state.open_round
    if current is None or round_key(body) != current.key:
        what = current.key if current else "none"
        message = f"about round {round_key(body)}, open is {what}"
        raise RuleError(message, code="round-not-open")
    return current
