"""Copies of the log that members hold, from which a lost coordinator's log comes back.

A copy is a node's mirror (``view.db``) or an audit bundle. Who sends one may have
changed it, so it is checked as a new member would check it.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tapestry.errors import IncompleteError, InconsistentLog
from tapestry.tlog import tiles
from tapestry.tlog.checkpoint import Checkpoint, read_claim
from tapestry.tlog.trust_policy import TrustPolicy
from tapestry_governance.audit.bundle import open_bundle
from tapestry_governance.audit.privacy_accounts import check_new
from tapestry_governance.log.mirror import LogMirror
from tapestry_governance.log.turns import Turns
from tapestry_governance.rules.federation_state import FederationState
from tapestry_governance.rules.replay import apply_all


@dataclass(frozen=True, slots=True, kw_only=True)
class LogCopy:
    """A copy of the log that was verified.

    Guarantees:
        All rules were applied to all entries. The log signed them under the key that
        they name, and quorums from that of the trust policy on have cosigned the
        checkpoints, each after the one before.

    Not protected:
        Entries beyond the newest of the checkpoints, which the log alone has signed. A
        copy that is old, whole in itself, and the only one that is given.
    """

    place: Path
    entries: Sequence[bytes]
    state: FederationState
    notes: tuple[bytes, ...]  # the turns and the newest checkpoint, the oldest first

    @property
    def cosigned(self) -> int:
        """The number of entries that a quorum has cosigned."""
        return read_claim(self.notes[-1]).size


def read_copy(place: Path, trust: TrustPolicy) -> LogCopy:
    """Read and verify a copy: a bundle's folder, or the file of a mirror.

    ``trust`` is the policy of the founding, from outside the copy.

    Raises:
        IncompleteError: A file of the bundle is missing, or nothing in the copy was
            cosigned.
        QuorumError: Too few witnesses cosigned a checkpoint.
        RuleError: An entry breaks a rule.
        InconsistentLog: A checkpoint is of other entries.
        VerificationError: A file was changed, or a signature does not hold; or it is
            no mirror, with other tables than a mirror's.
        ResourceError: A file cannot be read.
    """
    if place.is_dir():
        return _of_bundle(place, trust)
    mirror = LogMirror.open(place, trust=trust, genesis=None, readonly="still")
    try:
        accepted, signed = mirror.accepted, mirror.signed
        if accepted is None or signed is None:
            raise _without_checkpoint(place)
        notes = (*mirror.turns(), accepted.note)
        state, entries = mirror.state, mirror.entries(0, mirror.size)
    finally:
        mirror.close()
    copy = LogCopy(place=place, entries=entries, state=state, notes=notes)
    return _verified(copy, signed, trust=trust)


def newest_of(copies: Sequence[LogCopy]) -> LogCopy:
    """Return the longest of some copies, with the newest checkpoint of all of them.

    Raises:
        InconsistentLog: Two of them are copies of different logs.
    """
    longest = max(copies, key=lambda each: len(each.entries))
    for each in copies:
        if list(each.entries) != list(longest.entries[: len(each.entries)]):
            raise InconsistentLog(
                f"fork: {each.place} and {longest.place} are copies of two logs, both"
                " signed; keep them, and show them to the members",
                code="log-forked",
            )
    newest = max(copies, key=lambda each: each.cosigned)
    return dataclasses.replace(longest, notes=newest.notes)


def check_reaches(copy: LogCopy, note: bytes, *, trust: TrustPolicy) -> None:
    """Require that a copy leads to a checkpoint that was kept elsewhere.

    Raises:
        IncompleteError: The copy is shorter.
        InconsistentLog: The checkpoint is of another log.
        VerificationError: The log has not signed it.
        ProtocolError: The bytes are no checkpoint.
    """
    size = read_claim(note).size
    if size > len(copy.entries):
        raise IncompleteError(
            f"a checkpoint of {size} entries is known, {copy.place} has"
            f" {len(copy.entries)}; a log that goes on from there would be a fork: take"
            " the mirror of a member that cosigned the newest checkpoint",
            code="mirror-behind",
        )
    opened = Turns(trust).in_force(copy.state, size).open_pending(note)
    _require_prefix(copy, opened.checkpoint)


def _of_bundle(folder: Path, trust: TrustPolicy) -> LogCopy:
    bundle = open_bundle(folder)
    newest = bundle.checkpoint
    entries = list(tiles.verify(folder, read_claim(newest)))
    state = apply_all(None, entries)
    if state is None:
        raise _without_checkpoint(folder)
    notes = (*bundle.turns.values(), newest)
    copy = LogCopy(place=folder, entries=entries, state=state, notes=notes)
    return _verified(copy, newest, trust=trust)


def _verified(copy: LogCopy, signed: bytes, *, trust: TrustPolicy) -> LogCopy:
    """Step from the policy of the founding to the newest checkpoint of a copy.

    ``signed`` is what the log signed over all entries.
    """
    turns, since, kept = Turns(trust), 0, list[bytes]()
    for note in copy.notes:
        size = read_claim(note).size
        if size > since:
            _require_prefix(copy, read_claim(note))
            turns.to_accept(copy.state, size, since=since).open(note)
            kept.append(note)
            since = size
    if not kept:
        raise _without_checkpoint(copy.place)
    whole = turns.in_force(copy.state, copy.state.size).open_pending(signed).checkpoint
    if whole.size != copy.state.size:
        raise InconsistentLog(
            f"the log signed {whole.size} entries, {copy.place} has"
            f" {copy.state.size}; take the mirror of another member",
            code="mirror-damaged",
        )
    _require_prefix(copy, whole)
    check_new(None, copy.state)
    return dataclasses.replace(copy, notes=tuple(kept))


def _require_prefix(copy: LogCopy, checkpoint: Checkpoint) -> None:
    size, past = checkpoint.size, copy.state.past
    if size > past.size or past.root(size) != checkpoint.root:
        raise InconsistentLog(
            f"{copy.place} does not lead to a checkpoint of {size} entries: it was"
            " changed, or is of another log; take the mirror of another member",
            code="log-forked",
        )


def _without_checkpoint(place: Path) -> IncompleteError:
    return IncompleteError(
        f"{place} has no checkpoint that a quorum has cosigned; take the mirror of"
        " another member",
        code="checkpoint-missing",
    )
