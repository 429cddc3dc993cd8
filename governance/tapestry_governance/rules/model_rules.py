"""The rules of releases and adapters.

Each function returns the next state, or raises RuleError with the code of the rule.
"""

import dataclasses

from tapestry.errors import RuleError
from tapestry_governance.events.member_events import Withdrawal
from tapestry_governance.events.model_events import AdapterPublished, ReleasePublished
from tapestry_governance.events.publication_events import AdapterWithdrawn
from tapestry_governance.rules.account_rules import check_bare, check_limits
from tapestry_governance.rules.ballots import Ballot
from tapestry_governance.rules.federation_state import FederationState
from tapestry_governance.rules.persistent_collections import PersistentList
from tapestry_governance.rules.proposal_rules import check_withdrawal, withdraw
from tapestry_governance.rules.round_records import AccountedSpending, ReleaseRecord


def release_published(
    state: FederationState, body: ReleasePublished, index: int, *, entry: str
) -> FederationState:
    """Publish the current base under the next name: a candidate until it is approved.

    ``entry`` is the digest of the entry, which votes on it name.
    """
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
    candidate = Ballot(
        index=index,
        entry=entry,
        kind="release",
        proposal=None,
        by=state.lead.coordinator.name,
        voters="",
        release=body.name,
    )
    state = dataclasses.replace(state, ballots=state.ballots.set(index, candidate))
    return _publish(state, body, record)


def _publish(
    state: FederationState, body: ReleasePublished, record: ReleaseRecord
) -> FederationState:
    same = state.trained.get(body.parameters_digest, frozenset())
    of_run = state.released_by_run.get(body.run_id, PersistentList())
    return dataclasses.replace(
        state,
        releases=state.releases.set(body.name, body),
        released=state.released.append(record),
        released_by_run=state.released_by_run.set(body.run_id, of_run.append(record)),
        published=state.published.set(body.name, record.index),
        trained=state.trained.set(body.parameters_digest, same | record.ancestry),
    )


def adapter_published(
    state: FederationState, body: AdapterPublished, *, actor: str, index: int
) -> FederationState:
    """Publish an adapter that was accounted for, on a base that was released."""
    check_title(state, body.name, body.version, actor=actor)
    release = state.releases.get(body.base)
    if release is None or release.model_digest != body.base_digest:
        message = f"no release {body.base} that is model {body.base_digest}"
        raise RuleError(message, code="adapter-base-unpublished")
    if state.is_withdrawn(body.base, release.manifest_digest):
        message = f"{body.base} is withdrawn; train on another release"
        raise RuleError(message, code="release-withdrawn")
    if body.licence not in state.policy.adapter_licences:
        message = f"the policy does not allow licence {body.licence}"
        raise RuleError(message, code="licence-not-allowed")
    account = state.adapter_spending.get((actor, body.name, body.version))
    if account is None:
        message = f"{actor} accounted for no adapter {body.name} {body.version}"
        raise RuleError(message, code="adapter-not-accounted")
    _check_charge(body, account, run=release.run_id)
    # What was spent is in the log whatever was allowed; what is published is allowed.
    check_limits(account.promise, (state.policy,), actor=actor)
    check_bare(state, account, actor)
    return dataclasses.replace(
        state,
        adapters=state.adapters.set(body.name, body),
        adapter_files=state.adapter_files.set(
            (body.name, body.manifest_digest), body.version
        ),
        publishers=state.publishers.set(body.name, actor),
        published=state.published.set(body.name, index),
        paid_by=state.paid_by.set(body.name, account.index),
    )


def adapter_withdrawn(
    state: FederationState, body: AdapterWithdrawn, *, actor: str, index: int
) -> FederationState:
    """Withdraw a version of an adapter by its owner, at once and without a vote.

    It stands beside what members withdraw by vote: of all withdrawals of the same
    files the gravest counts.
    """
    owner = state.publishers.get(body.name)
    files = body.name, body.manifest_digest
    if owner is None or state.adapter_files.get(files) != body.version:
        message = f"no {body.name} {body.version} of this manifest is published"
        raise RuleError(message, code="withdrawal-subject-unknown")
    if actor != owner:
        message = f"adapter {body.name} is {owner}'s"
        raise RuleError(message, code="adapter-name-taken")
    said = Withdrawal(
        kind="withdraw",
        subject=body.manifest_digest,
        name=body.name,
        reason=body.reason,
    )
    check_withdrawal(state, said)
    by_owner = state.withdrawn_by_owner.set((*files, body.reason), index)
    state = dataclasses.replace(state, withdrawn_by_owner=by_owner)
    return withdraw(state, said)


def check_title(state: FederationState, name: str, version: int, *, actor: str) -> None:
    """Demand that a member may publish under a name; ask before anything is trained.

    A member's own name, and each that begins with it and a hyphen, is that member's: a
    reader takes an adapter ``fr`` or ``fr-culture`` for one of ``fr``. Where the names
    of two members fit, the longer one counts.

    Raises:
        RuleError: The name is another's, or the version is not a later one.
    """
    if name.startswith("base-"):
        message = f"{name} is a name for releases"
        raise RuleError(message, code="adapter-name-reserved")
    named = [each for each in state.members if f"{name}-".startswith(f"{each}-")]
    if named and max(named, key=len) != actor:
        message = f"{name} is a name for adapters of {max(named, key=len)}"
        raise RuleError(message, code="adapter-name-reserved")
    owner = state.publishers.get(name, actor)
    if owner != actor:
        raise RuleError(f"adapter {name} is {owner}'s", code="adapter-name-taken")
    older = state.adapters.get(name)
    if older is not None and version <= older.version:
        message = f"{name} {version} after {older.version}"
        raise RuleError(message, code="adapter-version-not-next")


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


def _number(release: str) -> int:
    return int(release.removeprefix("base-"))
