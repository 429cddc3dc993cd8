"""A turn: the checkpoint at which one set of witnesses hands over to the next.

Whom a verifier trusts is a file at first. When the log's own entries change its
witnesses, a checkpoint after that counts by both sets::

    founding policy ──▶ turn at 214 ──▶ turn at 980 ──▶ newest checkpoint
       A of 4            A and B           B and C          C

so that nobody who left can sign another history alone, and whoever was away steps
from turn to turn. This is the rule by which TUF replaces its root keys (The Update
Framework, 5.3), on cosigned checkpoints.
"""

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass

from tapestry.errors import VerificationError
from tapestry.tlog import note
from tapestry.tlog.checkpoint import Checkpoint
from tapestry.tlog.trust_policy import (
    Cosignature,
    CosignedCheckpoint,
    LogKey,
    TrustPolicy,
    Witness,
    check_spelling,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """Two trust policies that must both be met; it opens notes as one of them does.

    Guarantees:
        The log that signs is the new policy's: the old one says who must have
        cosigned, since a log that was replaced signs no more.
    """

    before: TrustPolicy
    now: TrustPolicy

    @property
    def logs(self) -> tuple[LogKey, ...]:
        """The logs of the new policy."""
        return self.now.logs

    @property
    def witnesses(self) -> tuple[Witness, ...]:
        """The witnesses of the new policy, then those that only the old one has."""
        keys = {witness.key for witness in self.now.witnesses}
        former = (each for each in self.before.witnesses if each.key not in keys)
        return (*self.now.witnesses, *former)

    def open(self, data: bytes) -> CosignedCheckpoint:
        """Open a checkpoint that both quorums cosigned.

        Raises:
            ProtocolError: The bytes are not a checkpoint.
            VerificationError: The log has not signed, or a known key's line is bad.
            QuorumError: Too few of the old or of the new witnesses have cosigned.
        """
        self._former.open(data)
        return self.now.open(data)

    def open_published(self, data: bytes) -> CosignedCheckpoint:
        """Open a checkpoint as ``Log.publish`` writes it: with lines of both sets.

        Raises:
            ProtocolError: The bytes are not a checkpoint.
            VerificationError: The log has not signed, a known key's line is bad, or a
                line is of none of these or not in its place.
            QuorumError: Too few of the old or of the new witnesses have cosigned.
        """
        opened = self.open(data)
        keys = [witness.key for witness in self.witnesses]
        check_spelling(opened.checkpoint, data, logs=self.logs, witnesses=keys)
        return opened

    def open_pending(self, data: bytes) -> CosignedCheckpoint:
        """Open a checkpoint that the new log signed, cosigned or not.

        Raises:
            ProtocolError: The bytes are not a checkpoint.
            VerificationError: The log has not signed, or a known key's line is bad.
        """
        return self.now.open_pending(data)

    def open_cosignature(self, checkpoint: Checkpoint, line: bytes) -> Cosignature:
        """Check one cosignature line, by a witness of either set.

        Raises:
            ProtocolError: The bytes are not a signature line.
            VerificationError: It is of no witness of either set, or is bad.
        """
        try:
            return self.now.open_cosignature(checkpoint, line)
        except VerificationError as error:
            if error.code != "witness-unknown":
                raise
        return self.before.open_cosignature(checkpoint, line)

    def is_quorum_of(self, keyids: Collection[str]) -> bool:
        """Return whether the witnesses with these keys are a quorum of both sets."""
        return self.now.is_quorum_of(keyids) and self.before.is_quorum_of(keyids)

    @property
    def _former(self) -> TrustPolicy:
        return dataclasses.replace(self.before, logs=self.now.logs)


Trust = TrustPolicy | Turn


def spelled_for(trust: TrustPolicy, data: bytes) -> bytes:
    """Leave out the lines of a note that are of no log and no witness of a policy.

    At a turn a checkpoint has lines of two sets; a proof under one of them has its own.

    Raises:
        ProtocolError: The bytes are no note.
    """
    found = note.parse(data)
    keys = [*(log.key for log in trust.logs), *(w.key for w in trust.witnesses)]
    order = {(key.name, key.id): place for place, key in enumerate(keys)}
    kept = [s for s in found.signatures if (s.name, s.key_id) in order]
    kept.sort(key=lambda s: order[s.name, s.key_id])
    return note.Note(text=found.text, signatures=tuple(kept)).encode()


def turn_to(now: TrustPolicy, *, before: TrustPolicy) -> Trust:
    """Return what a checkpoint must meet under a policy that follows another."""
    return now if now == before else Turn(before=before, now=now)
