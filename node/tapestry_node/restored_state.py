"""The state of a node that was restored from a backup, and what it owes first.

Between backup and loss the node may have trained, paid, uploaded and cosigned, and
remembers none of it. So until it is *settled* it cosigns nothing, joins no round and
publishes nothing. It settles when it accepts a checkpoint that a quorum of the *other*
members cosigned after the restoration:

* Whatever it helped to agree on before is part of that log: two quorums without it
  share an honest member, which never signs two branches
  (``governance/decisions/0016-restore.md``). It cosigns again by a witness key that was
  made since, and never by the one whose memory is lost.
* Every round that it may have joined is in that log. Each one since the backup that
  names it counts as uploaded for, with its charge as spent and accounted for, and so
  does one version more of each adapter that the folder knows. What the log says that it
  spent, or disputed, it takes over as it was.

Guarantees:
    Settling is repeated after a crash, and counts nothing twice. What was charged may
    be over the limit; then nothing more is spent.

Not protected:
    The other process, if the node was copied and not lost: two of them share keys.
    Receipts of what left since the backup, an adapter that was first named after it,
    left and is not in the log, and disputes that the log never got. A whole
    folder that was put back without the command, if the coordinator shows no checkpoint
    with this node's line.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import isfinite
from pathlib import Path

from tapestry.encoding import decode_decimal
from tapestry.errors import ConfigError, InconsistentLog, ProtocolError
from tapestry.keys import SigningKey
from tapestry.privacy import accounting
from tapestry.protocol.messages import Reason
from tapestry.protocol.round_manifest import PrivacyPlan, RoundManifest
from tapestry.tlog import note
from tapestry.tlog.checkpoint import read_claim
from tapestry.tlog.freshness import MAX_AHEAD
from tapestry.tlog.trust_policy import CosignedCheckpoint, TrustPolicy
from tapestry_governance.events.envelope import open_entry
from tapestry_governance.events.privacy_events import DpAccounted
from tapestry_governance.events.round_events import (
    RoundClosed,
    RoundDisputed,
    RoundOpened,
)
from tapestry_governance.log.mirror import LogMirror
from tapestry_governance.rules.round_records import AccountedSpending
from tapestry_node.adapters.publication import Publisher
from tapestry_node.budget.ledger_entries import Charge
from tapestry_node.budget.log_accounts import key_of, loss_of, published_charge
from tapestry_node.data.declarations import require_newest
from tapestry_node.node_keys import KeyRing
from tapestry_node.node_state import NodeState
from tapestry_node.refusal import Refused
from tapestry_node.round.session import NodeContext
from tapestry_node.round.survivor_marks import UploadMark
from tapestry_node.state_entries import Restored, StateReplay


def require_settled(store: NodeState) -> None:
    """Refuse what a node may not do that has forgotten what it did before.

    Raises:
        Refused: The state was restored, and has not caught up with the log.
    """
    if store.restored is not None:
        raise Refused(
            Reason.MAINTENANCE,
            f"{store.path} was restored from a backup; it waits for a checkpoint that a"
            " quorum of the other members cosigned since then",
            code="restored-unsettled",
        )


def check_memory(
    store: NodeState, ring: KeyRing, *, size: int, notes: Iterable[bytes]
) -> None:
    """Note it if this node has cosigned more than it has stored.

    What is cosigned was stored before. So a checkpoint of more entries than ``size``,
    and than are noted as cosigned, with a line by a key of here, shows that the folder
    is an older copy that was put back without a word. Of an older mirror alone the
    notes say enough: see ``cosign``.

    Raises:
        ProtocolError, VerificationError: A note is malformed, or such a line is bad.
    """
    size = max(size, store.cosigned[0])
    known = [key for key in ring.witnesses if store.may_cosign(str(key))]
    own = {(key.name, key.id): key for key in known}
    for each in notes:
        found = note.parse(each)
        for line in found.signatures:
            key = own.get((line.name, line.key_id))
            if key is not None and read_claim(each).size > size:
                note.verify_signature(found.text, line, key)
                store.forget_witness()
                return


def cosigning_key(store: NodeState, ring: KeyRing, folder: Path) -> SigningKey:
    """Return the witness key that a node may sign with.

    Guarantees:
        After a restoration it is one that was made since: what an earlier one cosigned
        is not known here. It may cosign before the log has it in force; that counts
        for nothing, and brings the log what waits in the outbox.

    Raises:
        Refused: Such a key is yet to be made.
    """
    found = ring.keys["witness"], ring.coming.get("witness")
    for key in found:
        if key is not None and store.may_cosign(str(key.verify_key)):
            return key
    raise Refused(
        Reason.MAINTENANCE,
        f"{ring.keys['witness'].verify_key.keyid} may have cosigned what this restored"
        f" folder has forgotten: tapestry node rotate {folder} witness gives the"
        " institution another witness key",
        code="witness-not-rotated",
    )


def cosign(
    store: NodeState, mirror: LogMirror, ring: KeyRing, *, folder: Path, now: datetime
) -> list[bytes]:
    """Cosign all that is stored; returns signature lines.

    There is one more, by the old key, while a new one is in force and no checkpoint
    shows it: that needs a quorum of the old keys, and lacks none of them so.

    Guarantees:
        A line covers what was cosigned before, by the notes of ``node.db``, also
        where the mirror is an older copy or was deleted. They are on the disk first.

    Raises:
        Refused: A witness key is yet to be made; or the mirror is still shorter than
            what was cosigned.
        InconsistentLog: The mirror is of another log than what was cosigned.
    """
    key, past = cosigning_key(store, ring, folder), mirror.state.past
    size, root = store.cosigned
    if mirror.size < size:
        raise Refused(
            Reason.MAINTENANCE,
            f"{size} entries were cosigned here, and the mirror has {mirror.size}; it"
            " waits for the rest from the coordinator",
            code="mirror-behind-cosigned",
        )
    if size and past.root(size).hex() != root:
        raise InconsistentLog(
            f"fork: the first {size} entries are not those that were cosigned here;"
            " keep view.db as evidence, and tell the other members",
            code="log-forked",
        )
    store.keep_cosigned(mirror.size, past.root(mirror.size).hex())
    keys = {str(each.verify_key): each for each in (key, ring.held["witness"])}
    return [mirror.cosign(keys[each], now) for each in keys if store.may_cosign(each)]


def is_enough(
    opened: CosignedCheckpoint,
    restored: Restored,
    *,
    trust: TrustPolicy,
    own: Collection[str],
) -> bool:
    """Return whether others alone have cosigned a checkpoint since a restoration.

    ``own`` has the ids of this node's witness keys, also of those that it lost; they do
    not count. A line counts from 300 seconds after the restoration on, as clocks may
    differ by that.
    """
    since = restored.time.timestamp() + MAX_AHEAD
    return trust.is_quorum(
        {
            line.witness
            for line in opened.cosignatures
            if line.key.keyid not in own and line.time > since
        }
    )


_Priced = tuple[RoundManifest, Charge | None]


@dataclass(slots=True)
class _Found:
    """Rounds, accounts and disputes of this node in the log since the backup."""

    rounds: defaultdict[tuple[str, int], list[RoundManifest]] = field(
        default_factory=lambda: defaultdict(list)
    )  # all attempts, of which the node has uploaded for one at the most
    accounts: list[tuple[AccountedSpending, bytes]] = field(default_factory=list)
    disputes: list[RoundDisputed] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """The accounts of a node that has forgotten some of them."""

    context: NodeContext
    publishers: Sequence[Publisher]  # of the adapters that the folder names
    now: datetime

    def settle(self, restored: Restored, *, size: int) -> None:
        """Count all that may have been spent and uploaded as if it was.

        Args:
            restored: Since when the state may lack something.
            size: Of the accepted log.

        Raises:
            PolicyError: The log says that this node spent otherwise than here.
            VerificationError: The log has a version of the data that the state lacks.
        """
        store, context = self.context.store, self.context
        require_newest(context.mirror.state, store, name=context.name)
        found = self._read(restored.since, size)
        with store.writing() as replay:
            for said, entry in sorted(found.accounts, key=lambda each: each[0].number):
                _take_over(replay, said, entry)
        for attempts in found.rounds.values():
            if priced := list(self._priced(attempts)):
                self._assume(priced)
        last = self.context.mirror.state.released.last
        if last is not None:
            release = self.context.mirror.state.releases[last.name]
            for publisher in self.publishers:
                publisher.assume_next(release, now=self.now)
        with store.writing() as replay:
            for dispute in found.disputes:
                _note(replay, dispute)
            replay.append({"type": "settled", "size": size})

    def _read(self, since: int, size: int) -> _Found:
        """Read the entries since the backup that name this node, or are its own."""
        name, mirror = self.context.name, self.context.mirror
        found = _Found()
        replay = self.context.store.reading()
        for kind, run_id, number in replay.rows.keys() - replay.accounted.keys():
            if kind == "round":  # joined before the backup
                self._add(found, run_id, number, until=since)
        for index in range(since, size):
            (entry,) = mirror.entries(index, index + 1)
            event = open_entry(entry).event
            match event.body:
                case RoundOpened(manifest=manifest):
                    if any(each.name == name for each in manifest.participants):
                        key = manifest.run_id, manifest.round_number
                        found.rounds[key].append(manifest)
                case DpAccounted() as said if event.actor == name:
                    spending = AccountedSpending.of(said, index=index)
                    found.accounts.append((spending, entry))
                case RoundDisputed() as dispute if event.actor == name:
                    found.disputes.append(dispute)
        return found

    def _add(self, found: _Found, run_id: str, number: int, *, until: int) -> None:
        """Add the attempts of a round that was joined, up to an index of the log."""
        mirror = self.context.mirror
        for key, record in mirror.state.rounds.items():
            if key[:2] == (run_id, number) and record.opened < until:
                manifest = mirror.body(record.opened, RoundOpened).manifest
                found.rounds[run_id, number].append(manifest)

    def _priced(self, attempts: Iterable[RoundManifest]) -> Iterator[_Priced]:
        """Yield the attempts that the node can have joined, with their charges."""
        for manifest in attempts:
            try:
                charge = self.context.trainer.charge(manifest)
            except (ConfigError, ProtocolError):
                continue  # without a price it is not joined
            if _has_price(charge, manifest.privacy):
                yield manifest, charge

    def _assume(self, attempts: Sequence[_Priced]) -> None:
        """Count a round as uploaded for, in its dearest attempt, and account for it.

        Attempts differ in their nodes, and so in the noise of each one's share.
        """
        manifest, charge = max(attempts, key=_price)
        unit = self.context.trainer.manifest.unit

        def sign(number: int, spent: Sequence[Charge]) -> bytes:
            account = DpAccounted(
                number=number,
                run_id=manifest.run_id,
                round_number=manifest.round_number,
                attempt=manifest.attempt,
                adapter=None,
                version=None,
                steps=manifest.training.steps,
                loss=loss_of(charge, manifest.privacy, spent=spent, unit=unit),
            )
            return self.context.sign_event(account, now=self.now)

        names = self._names(manifest.model_digest)
        marks = [UploadMark.of(each, names=names) for each, _ in attempts]
        self.context.store.assume_upload(marks, charge=charge, sign=sign)

    def _names(self, base: str) -> set[str]:
        """Name a base as the log does: as it was in a run, and as it was released."""
        names: dict[str, set[str]] = defaultdict(set)
        mirror = self.context.mirror
        for ended in mirror.state.closed.newest_first():
            closed = mirror.body(ended.index, RoundClosed)
            names[closed.base_after].add(closed.release_digest)
            names[closed.release_digest].add(closed.base_after)
        return names[base]


def _has_price(charge: Charge | None, plan: PrivacyPlan) -> bool:
    """Return whether a charge is none, or of a finite epsilon; else no node joins."""
    if charge is None or plan.noise == "none":
        return charge is None
    delta = decode_decimal(plan.target_delta)
    return isfinite(accounting.epsilon([charge.fallback], target_delta=delta))


def _price(attempt: _Priced) -> tuple[float, float]:
    """Return the epsilons of an attempt alone; the fallback's is above the other."""
    manifest, charge = attempt
    if charge is None or manifest.privacy.noise == "none":
        return 0.0, 0.0
    delta = decode_decimal(manifest.privacy.target_delta)
    parts = charge.fallback, charge.steps
    fallback, shared = (accounting.epsilon([p], target_delta=delta) for p in parts)
    return fallback, shared


def _take_over(replay: StateReplay, said: AccountedSpending, entry: bytes) -> None:
    """Take an account over that this node signed after the backup."""
    key = key_of(said)
    if key in replay.accounted:
        return
    if (charge := published_charge(said)) is not None:
        replay.assume_instead(charge)
    replay.adopt(key, entry, number=said.number)


def _note(replay: StateReplay, dispute: RoundDisputed) -> None:
    """Note a dispute for good that is in the log already."""
    key = dispute.run_id, dispute.round_number
    named = {"run": key[0], "round": key[1]}
    if dispute.subject == "gate" and key not in replay.gates:
        replay.append({"type": "gate", **named})
    elif dispute.chunk is not None:
        if dispute.chunk not in replay.spots.get(key, {}):
            replay.append({"type": "draw", **named, "chunks": [dispute.chunk]})
        replay.append({"type": "disputed", **named, "chunk": dispute.chunk})
