"""Publication of the log: append entries, collect cosignatures, publish.

The coordinator orders entries and collects cosignatures; it decides nothing by that.
An entry must pass the same rules as at every other party (``replay``) before it is
appended, and an account what an audit demands of it (``privacy_accounts``), so an event
that would break the log is refused here.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tapestry.encoding import digest
from tapestry.errors import (
    ProtocolError,
    QuorumError,
    ResourceError,
    TapestryError,
    VerificationError,
)
from tapestry.keys import SigningKey, VerifyKey
from tapestry.protocol.messages import (
    CosignReply,
    CosignRequest,
    Message,
    encode_message,
)
from tapestry.tlog.checkpoint import Checkpoint, read_claim
from tapestry.tlog.trust_policy import TrustPolicy
from tapestry.tlog.turn import Trust, Turn
from tapestry_coordinator.grid import Grid
from tapestry_coordinator.inbox import Inbox
from tapestry_coordinator.outside_witnesses import OutsideWitnesses
from tapestry_coordinator.refusals import read_reply
from tapestry_governance.audit.privacy_accounts import check_new
from tapestry_governance.events.envelope import Author, Seen, open_entry, sign_entry
from tapestry_governance.events.event_body import Body
from tapestry_governance.events.model_events import AdapterPublished
from tapestry_governance.log.outbox_heads import open_head, read_heads
from tapestry_governance.log.turns import MAX_NOTES, Turns
from tapestry_governance.log.writer import Log
from tapestry_governance.rules.federation_state import FederationState
from tapestry_governance.rules.replay import apply_all
from tapestry_governance.rules.settlement import settle

_logger = logging.getLogger(__name__)
_PASSES = 3  # rounds of cosigning in which nodes may add entries
_PETITIONS = 4  # new entries that a node may add in one pass


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeseenLog:
    """The log as it will be when it has taken some more entries."""

    state: FederationState
    log: Log
    added: tuple[bytes, ...]

    def __getitem__(self, index: int, /) -> bytes:
        """Return the entry at an index."""
        if index >= self.log.size:
            return self.added[index - self.log.size]
        return self.log.entries(index, index + 1)[0]


class LogPublisher:
    """The coordinator's access to the log, and the federation's state after it.

    ``logged`` is the federation as of the last entry of ``log``; ``state`` is the same
    with what the newest checkpoint shows to be decided, as the next entry finds it.
    ``notice`` is told that after each checkpoint. ``fetch`` is given the entry of an
    adapter that a member hands in; it gets the files, has both logged, and says whether
    it did.
    """

    def __init__(
        self,
        log: Log,
        *,
        trust: TrustPolicy,
        key: SigningKey,
        grid: Grid,
        deadline: float,
        inbox: Inbox | None = None,
    ) -> None:
        """Take an open log and replay it.

        Raises:
            RuleError: An entry breaks a rule of the log.
            ProtocolError: The log is empty; found the federation first.
        """
        state = apply_all(None, log.stream())
        if state is None:
            raise ProtocolError(
                "the log is empty: no charter was adopted; found the federation first",
                code="charter-missing",
            )
        self.log, self.logged = log, state
        self._turns, self._key = Turns(trust), key
        self.grid, self._deadline, self._inbox = grid, deadline, inbox
        self._outside = OutsideWitnesses(log, trust)
        self._sizes: dict[str, int] = {}
        self._accepted: dict[str, int] = {}  # of the checkpoint that a node acts on
        self._cosigned: dict[str, int] = {}  # the size that a node cosigned last
        self._refused: set[str] = set()  # petitions, by digest
        self._heads = _published_heads(log.public)  # of outboxes, by member
        self._fresh_heads: dict[str, bytes] = {}  # of the last collection
        self._author = Author(
            federation=state.federation,
            actor=state.lead.coordinator.name,
            role="coordinator",
        )
        for size in self._turned():
            log.publish_turn(size)  # what a crash left out
        self.notice: Callable[[FederationState], None] = lambda _: None
        self.fetch: Callable[[str, bytes], bool] = lambda _, __: False

    @property
    def in_force(self) -> TrustPolicy:
        """The trust policy by which the published checkpoint counts."""
        return self._turns.in_force(self.logged, self.published)

    @property
    def state(self) -> FederationState:
        """The federation as the coordinator's next entry will find it."""
        return settle(self.logged, seen=max(self.published, self.logged.shown))

    @property
    def node_keys(self) -> Mapping[str, VerifyKey]:
        """The node keys of members, and of those whose lines the next turn may need.

        Who was removed or left is asked until the turn is published: it is a witness of
        the old set.
        """
        return self._keys_since(self.published)

    @property
    def all_node_keys(self) -> Mapping[str, VerifyKey]:
        """The newest node key of each that is or was a member."""
        return self._keys_since(0)

    def _keys_since(self, size: int) -> Mapping[str, VerifyKey]:
        keys = {**self.logged.roster.node_keys, **self.state.roster.node_keys}
        for (name, purpose), former in self.logged.former_keys.items():
            if purpose == "node" and former[-1].until >= size:
                keys.setdefault(name, former[-1].key)
        return keys

    @property
    def published(self) -> int:
        """The size of the newest checkpoint that a quorum cosigned, or 0."""
        note = self.log.latest()
        return 0 if note is None else read_claim(note).size

    @property
    def checkpoint(self) -> bytes:
        """The newest cosigned checkpoint.

        Raises:
            QuorumError: No checkpoint was published yet.
        """
        note = self.log.latest()
        if note is None:
            raise QuorumError(
                "the log has no cosigned checkpoint yet; publish it first",
                code="checkpoint-missing",
            )
        return note

    def append_event(self, body: Body, *, refs: Sequence[int] = ()) -> int:
        """Sign and append an event of the coordinator; returns its index."""
        seen = None
        if (note := self.log.latest()) is not None:
            checkpoint = self._in_force(note).open(note).checkpoint
            seen = Seen(size=checkpoint.size, root=checkpoint.root.hex())
        event = self._author.event(body, now=datetime.now(UTC), seen=seen, refs=refs)
        index = self.add(sign_entry(event, self._key))
        self._refused.clear()  # what was refused before may be allowed from here on
        return index

    def add(self, entry: bytes) -> int:
        """Append an entry of any party if the rules allow it; returns its index.

        Edge cases:
            An entry that is in the log already keeps its index. After an error nothing
            was appended.

        Raises:
            RuleError: The entry breaks a rule of the log.
            VerificationError: A signature of the entry does not hold.
            ProtocolError: The bytes are no canonical entry.
        """
        known = self.log.find(entry)
        if known is not None:
            return known
        following = self._after([entry])
        index = self.log.append([entry]).start
        self.logged = following
        return index

    def foresee(self, entries: Sequence[bytes]) -> ForeseenLog:
        """Return the log as ``add`` of these entries would make it; append nothing.

        Raises:
            RuleError, VerificationError, ProtocolError: ``add`` would refuse an entry.
        """
        added = tuple(entry for entry in entries if self.log.find(entry) is None)
        state = apply_all(self.logged, added) or self.logged
        return ForeseenLog(state=state, log=self.log, added=added)

    def approve(self, entries: Sequence[bytes]) -> None:
        """Check entries against the rules as ``add`` does, but append nothing.

        One that the log has already is right, as it is for ``add``.

        Raises:
            RuleError, VerificationError, ProtocolError: ``add`` would refuse an entry.
        """
        self._after([entry for entry in entries if self.log.find(entry) is None])

    def _after(self, entries: Sequence[bytes]) -> FederationState:
        """Return the state after more entries, each as the rules and an audit want it.

        Raises:
            RuleError, VerificationError, ProtocolError: One of them is not.
        """
        following = apply_all(self.logged, entries) or self.logged
        check_new(self.logged, following)
        return following

    def record_mirror_size(self, name: str, size: int, note: bytes | None) -> None:
        """Record how much of the log a node has, and check that this log has it too.

        Raises:
            InconsistentLog: The node holds a cosigned checkpoint that this log does
                not lead to: the log was restored from a backup, or forked.
        """
        if note is not None:
            opened = self._in_force(note).open(note)
            self.log.check(opened.note)
            self._accepted[name] = opened.checkpoint.size
        self._sizes[name] = min(size, self.log.size)

    def is_cosigned(self, nodes: Sequence[str]) -> bool:
        """Return whether these nodes cosigned the log as it is, and it is published."""
        size, note = self.log.size, self.log.latest()
        published = note and read_claim(note).size == size
        return bool(published) and all(self._cosigned.get(n) == size for n in nodes)

    def publish(self, nodes: Sequence[str], *, unhurried: bool = False) -> bytes:
        """Have the log cosigned as it is and publish it; returns the checkpoint.

        What lies in the inbox goes first. Witnesses that are no members are asked if
        the quorum cannot do without them, or if the publication is ``unhurried``: no
        round waits for it. Nodes may send entries with their cosignature (a declaration
        of their data); then the log grows and is cosigned once more. A node that sends
        entries without end does not delay the others: each pass takes a few of each
        node, and an entry that was refused is not checked again.

        Raises:
            QuorumError: Too few nodes or outside witnesses cosigned in time.
        """
        if self._inbox is not None:
            self._inbox.empty(self.add)
        for _ in range(_PASSES):
            petitions = self._collect(nodes)
            note = self._publish(unhurried=unhurried)
            handled = [self._take(name, entry) for name, entry in petitions]
            if not any(handled):
                return note
        self._collect(nodes)
        return self._publish(unhurried=unhurried)

    def _take(self, name: str, entry: bytes) -> bool:
        """Log an entry that a node handed in, or drop it; False: it waits.

        Guarantees:
            That of an adapter is logged when its files are here, and waits until then.
        """
        try:
            if _is_adapter(entry):
                return self.fetch(name, entry)
            self.add(entry)
        except ResourceError:
            raise
        except TapestryError as error:
            self._refused.add(digest(entry))
            _logger.warning("dropping an entry of node %s: %s", name, error)
        return True

    def _publish(self, *, unhurried: bool) -> bytes:
        trust = self._trust
        if self._outside.trust != trust:
            self._outside = OutsideWitnesses(self.log, trust)
        if unhurried or self._outside.are_needed:
            self._outside.ask()
        note = self.log.publish(trust=trust)
        if isinstance(trust, Turn):
            self.log.publish_turn(self.log.size)
        known = self.node_keys
        heads = {**self._heads, **self._fresh_heads}
        self._heads = {name: heads[name] for name in heads if name in known}
        self.log.publish_heads(self._heads)
        self.notice(self.state)
        return note

    def _collect(self, nodes: Sequence[str]) -> list[tuple[str, bytes]]:
        """Collect cosignatures; returns the new entries that came with them."""
        note = self.log.sign_checkpoint()
        size = self.log.size
        requests: dict[str, Message] = {}
        for name in nodes:
            start = min(self._sizes.get(name, 0), size)
            request = CosignRequest(
                start=start, checkpoint=note.decode(), cosigned=self._steps_of(name)
            )
            requests[name] = encode_message(request, self.log.entries(start, size))
        found: list[tuple[str, bytes]] = []
        self._fresh_heads = {}
        for name, reply in self.grid.exchange(requests, deadline=self._deadline):
            try:
                said = read_reply(reply, CosignReply)
                head = said.head.encode()
                self._check_head(name, head, read_claim(note))
                for line in said.lines:
                    self._keep_line(size, line.encode())
            except ResourceError:
                raise
            except TapestryError as error:
                _logger.warning(
                    "going on without a cosignature of node %s at size %d: %s",
                    *(name, size, error),
                )
                continue
            self._sizes[name] = self._cosigned[name] = size
            self._fresh_heads[name] = head
            found += [(name, entry) for entry in self._fresh(reply)]
        return found

    @property
    def _trust(self) -> Trust:
        """The quorum that a checkpoint needs now, after the published one."""
        size = self.log.size  # at which it may be published already
        since = self.log.store.published_before(size)
        return self._turns.to_accept(self.logged, size, since=since)

    def _in_force(self, note: bytes) -> TrustPolicy:
        return self._turns.in_force(self.logged, read_claim(note).size)

    def _turned(self) -> list[int]:
        """Return the sizes at which other witnesses came into force."""
        return self._turns.sizes(self.logged, self.log.store.published_sizes())

    def _steps_of(self, name: str) -> tuple[str, ...]:
        """Return the turns that a node has not passed, and the published checkpoint."""
        since = self._accepted.get(name, 0)
        missing = [size for size in self._turned() if size > since]
        if self.published > since and self.published not in missing:
            missing.append(self.published)
        del missing[MAX_NOTES:]  # the rest comes with the next request
        notes = (self.log.store.publication(size) or b"" for size in missing)
        return tuple(each.decode() for each in notes)

    def _check_head(self, name: str, head: bytes, checkpoint: Checkpoint) -> None:
        """Require the head of a node's outbox with its cosignature.

        Monitors blame the coordinator for a head that it does not publish.

        Raises:
            ProtocolError: It is no head.
            VerificationError: The node has not signed it, or with another checkpoint.
        """
        rosters = self.logged.roster, self.state.roster  # a change may be on its way
        keys = {r.node_keys[name] for r in rosters if name in r.node_keys}
        opened = open_head(head, keys or {self.all_node_keys[name]})
        if opened.checkpoint != checkpoint:
            raise VerificationError(
                f"the head of its outbox is of {opened.checkpoint.size} entries, the"
                f" checkpoint of {checkpoint.size}, or of another log",
                code="outbox-head-differs",
            )

    def _keep_line(self, size: int, line: bytes) -> None:
        """Keep a cosignature, if it is a witness's.

        A member that is about to be admitted cosigns, and one that was restored, by a
        new key; neither counts yet, and what they hand in is taken.

        Raises:
            VerificationError: It does not hold, or is not over this checkpoint.
        """
        try:
            self.log.add_cosignature(size, line, trust=self._trust)
        except VerificationError as error:
            if error.code != "witness-unknown":
                raise

    def _fresh(self, reply: Message) -> list[bytes]:
        """Return the first few entries that were neither logged nor refused."""
        fresh: dict[bytes, None] = {}
        for entry in map(bytes, reply.attachments):
            if len(fresh) == _PETITIONS:
                break
            if digest(entry) not in self._refused and self.log.find(entry) is None:
                fresh[entry] = None
        return list(fresh)


def _published_heads(public: Path) -> dict[str, bytes]:
    """Read the heads that were published last; members sign others soon."""
    try:
        return read_heads(public)
    except TapestryError as error:
        _logger.warning("beginning without heads of outboxes: %s", error)
        return {}


def _is_adapter(entry: bytes) -> bool:
    try:
        return isinstance(event_of(entry), AdapterPublished)
    except TapestryError:  # ``add`` says why
        return False


def event_of(entry: bytes) -> Body:
    """Return the body of an entry's event."""
    return open_entry(entry).event.body
