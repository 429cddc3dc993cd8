"""The part of an audit that follows the witnesses, and dates what it trusts.

An audit begins with the trust policy of the founding, or with that of a later turn
(``--trust``), and steps over the turns of the bundle to the newest checkpoint.

Guarantees:
    Each checkpoint that counts has a quorum of the policy that the auditor named, or of
    one that such a checkpoint led to. Each file of ``turns/`` is a turn of this log,
    under its size, and was verified. The age of the trust is counted from entries of
    the log, whose ids say when they were made, and not from cosignatures, which old
    keys could date anew.

Not protected:
    The time of entry 0 is its author's claim: compare the genesis.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from tapestry.errors import IncompleteError, InconsistentLog, VerificationError
from tapestry.tlog.checkpoint import Checkpoint, read_claim
from tapestry.tlog.freshness import Times, tolerated
from tapestry.tlog.tiles import StoredEntries
from tapestry.tlog.trust_policy import CosignedCheckpoint, TrustPolicy
from tapestry_governance.events.envelope import open_entry
from tapestry_governance.log.turns import Turns
from tapestry_governance.rules.federation_state import FederationState

Found = tuple[str, dict[str, int]]
_DAY = 24 * 3600  # seconds
_LONGEST = 365  # days that an audit may bridge by old keys alone


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowedLog:
    """A log whose entries hold, and what an auditor trusts of it."""

    state: FederationState
    entries: StoredEntries
    trust: TrustPolicy  # that of the founding, as the bundle has it
    given: TrustPolicy  # the same, or that of a later turn
    since: bytes | None  # a checkpoint that the auditor kept


def dated(opened: CosignedCheckpoint, trust: TrustPolicy) -> Found:
    """Say who cosigned a checkpoint, and between which times."""
    checkpoint, count = opened.checkpoint, len(opened.cosignatures)
    detail = (
        f"{checkpoint.origin}, {checkpoint.size} entries: signed by the log, cosigned"
        f" by {count} witnesses, a quorum"
    )
    if not count:
        return f"{detail}; without a cosignature it has no date", {"cosignatures": 0}
    times, wrong = Times.of(opened, trust), tolerated(trust)
    detail += f"; known by {_utc(times.known_by)}, seen at {_utc(times.seen_at)},"
    detail += (
        f" whatever {wrong} of the clocks say" if wrong else " and one clock can say so"
    )
    return detail, {
        "cosignatures": count,
        "known_by": times.known_by,
        "seen_at": times.seen_at,
        "clocks_tolerated": wrong,
    }


def step_over_turns(
    log: FollowedLog, notes: Mapping[int, bytes], checkpoint: bytes
) -> tuple[CosignedCheckpoint, Found]:
    """Step from the policy that is trusted to the newest checkpoint, and return it.

    ``notes`` are the bundle's turns by the size in their name, the oldest first.

    Raises:
        ProtocolError: A file is no checkpoint.
        QuorumError: Too few of the old or of the new witnesses cosigned one.
        VerificationError: A line does not hold or has no place, a file has another
            size than its name, or is no turn; or the policy given is none of the log's.
        InconsistentLog: A turn is of another log.
    """
    turns, pinned, state = Turns(log.trust), _pinned(log), log.state
    _check_names(log, notes)
    before, since, steps = 0, 0, 0
    for note in (*notes.values(), checkpoint):
        size = read_claim(note).size
        if is_last := size == since:  # the newest checkpoint is the last turn's
            since = before
        step = turns.to_accept(state, size, since=since).open_published(note)
        _check_prefix(log, step.checkpoint)
        if size >= pinned:  # by the witnesses that the auditor named, or their heirs
            begun = max(since, pinned)
            turns.to_accept(state, size, since=begun).open(note)
            is_turn = turns.in_force(state, begun) != turns.in_force(state, size)
            steps += is_turn and not is_last
        before, since = since, size
    opened = turns.in_force(state, since).open(checkpoint)
    detail, counts = dated(opened, turns.in_force(state, since))
    return opened, (f"{detail}; over {steps} turns", counts | {"turns": steps})


def check_age(log: FollowedLog, opened: CosignedCheckpoint) -> Found:
    """Refuse to trust keys that are over a year older than the newest checkpoint.

    Raises:
        IncompleteError: They are, and no newer checkpoint was given that a quorum has
            cosigned.
    """
    trust = Turns(log.trust).in_force(log.state, opened.checkpoint.size)
    if not opened.cosignatures:
        return "without a cosignature the log has no date", {}
    newest = Times.of(opened, trust).seen_at
    begun, what = _time_of(log, max(0, _pinned(log) - 1)), "trust policy"
    if log.since is not None and (kept := _cosigned_at(log, log.since)) > begun:
        begun, what = kept, "checkpoint given with --since"
    age = max(0, newest - begun) // _DAY
    if age > _LONGEST:
        raise IncompleteError(
            f"the {what} that this audit starts from is {age} days older than the log's"
            " newest checkpoint, and who has the keys of then could sign another"
            " history; give --since a cosigned checkpoint of the last year that you or"
            " another auditor kept, or --trust the policy of a later turn",
            code="trust-too-old",
        )
    return f"the {what} is {age} days older than the log", {"trust_days": age}


def _check_names(log: FollowedLog, notes: Mapping[int, bytes]) -> None:
    for size, note in notes.items():
        if read_claim(note).size != size:
            message = f"turns/{size} is a checkpoint of another size"
            raise VerificationError(message, code="turn-misplaced")
    if extra := notes.keys() - set(Turns(log.trust).sizes(log.state, notes)):
        message = f"at turns/{min(extra)} no other witnesses came into force"
        raise VerificationError(message, code="turn-misplaced")


def _pinned(log: FollowedLog) -> int:
    """Return the size from which on the policy given is the one in force."""
    if log.given == log.trust:
        return 0
    for each in log.state.trusted[1:]:
        if each.policy == log.given:
            return each.size
    raise VerificationError(
        "the trust policy given is none that the log had at any time; compare it with"
        " the one that its members name",
        code="trust-policy-differs",
    )


def _check_prefix(log: FollowedLog, checkpoint: Checkpoint) -> None:
    size = checkpoint.size
    if size > log.state.size or log.state.past.root(size) != checkpoint.root:
        message = f"fork: turns/{size} is of another log"
        raise InconsistentLog(message, code="log-forked")


def _time_of(log: FollowedLog, index: int) -> int:
    """Return when an entry was made, by its id, in POSIX seconds (RFC 9562, 5.7)."""
    event = open_entry(log.entries[index]).event
    return int(event.id.replace("-", "")[:12], 16) // 1000


def _cosigned_at(log: FollowedLog, note: bytes) -> int:
    """Return by when a quorum had cosigned a checkpoint that was kept, or 0."""
    trust = Turns(log.trust).in_force(log.state, read_claim(note).size)
    opened = trust.open_pending(note)
    if not trust.is_quorum({line.witness for line in opened.cosignatures}):
        return 0
    return Times.of(opened, trust).known_by


def _utc(time: int) -> str:
    return f"{datetime.fromtimestamp(time, UTC):%Y-%m-%d %H:%M:%S} UTC"
