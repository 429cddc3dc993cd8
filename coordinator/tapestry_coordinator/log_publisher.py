"""Publication of the log: append entries, collect cosignatures, publish.

The coordinator orders entries and collects cosignatures; it decides nothing by that.
An entry must pass the same rules as at every other party (``replay``) before it is
appended, and an account what an audit demands of it (``privacy_accounts``), so an event
that would break the log is refused here.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from tapestry.encoding import digest
from tapestry.errors import ProtocolError, QuorumError, ResourceError, TapestryError
from tapestry.keys import SigningKey
from tapestry.protocol.messages import (
    CosignReply,
    CosignRequest,
    Message,
    encode_message,
)
from tapestry.tlog.trust_policy import TrustPolicy
from tapestry_coordinator.grid import Grid
from tapestry_coordinator.outside_witnesses import OutsideWitnesses
from tapestry_coordinator.refusals import read_reply
from tapestry_governance.audit.privacy_accounts import check_new
from tapestry_governance.events.envelope import Author, Seen, open_entry, sign_entry
from tapestry_governance.events.event_body import Body
from tapestry_governance.log.writer import Log
from tapestry_governance.rules.federation_state import FederationState
from tapestry_governance.rules.replay import apply_all

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

    ``state`` is the federation as of the last entry of ``log``.
    """

    def __init__(
        self,
        log: Log,
        *,
        trust: TrustPolicy,
        key: SigningKey,
        grid: Grid,
        deadline: float,
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
        self.log, self.state = log, state
        self._trust, self._key = trust, key
        self.grid, self._deadline = grid, deadline
        self._outside = OutsideWitnesses(log, trust)
        self._sizes: dict[str, int] = {}
        self._cosigned: dict[str, int] = {}  # the size that a node cosigned last
        self._refused: set[str] = set()  # petitions, by digest
        self._author = Author(
            federation=state.federation,
            actor=state.charter.coordinator.name,
            role="coordinator",
        )

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
            checkpoint = self._trust.open(note).checkpoint
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
        self.state = following
        return index

    def foresee(self, entries: Sequence[bytes]) -> ForeseenLog:
        """Return the log as ``add`` of these entries would make it; append nothing.

        Raises:
            RuleError, VerificationError, ProtocolError: ``add`` would refuse an entry.
        """
        added = tuple(entry for entry in entries if self.log.find(entry) is None)
        state = apply_all(self.state, added) or self.state
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
        following = apply_all(self.state, entries) or self.state
        check_new(self.state, following)
        return following

    def record_mirror_size(self, name: str, size: int, note: bytes | None) -> None:
        """Record how much of the log a node has, and check that this log has it too.

        Raises:
            InconsistentLog: The node holds a cosigned checkpoint that this log does
                not lead to: the log was restored from a backup, or forked.
        """
        if note is not None:
            self.log.check(self._trust.open(note).note)
        self._sizes[name] = min(size, self.log.size)

    def is_cosigned(self, nodes: Sequence[str]) -> bool:
        """Return whether these nodes cosigned the log as it is, and it is published."""
        size, note = self.log.size, self.log.latest()
        published = note and self._trust.open(note).checkpoint.size == size
        return bool(published) and all(self._cosigned.get(n) == size for n in nodes)

    def publish(self, nodes: Sequence[str], *, unhurried: bool = False) -> bytes:
        """Have the log cosigned as it is and publish it; returns the checkpoint.

        Witnesses that are no members are asked if the quorum cannot do without them, or
        if the publication is ``unhurried``: no round waits for it.

        Nodes may send entries with their cosignature (a declaration of their data);
        then the log grows and is cosigned once more. A node that sends entries without
        end does not delay the others: each pass takes a few of each node, and an entry
        that was refused is not checked again.

        Raises:
            QuorumError: Too few nodes or outside witnesses cosigned in time.
        """
        for _ in range(_PASSES):
            petitions = self._collect(nodes)
            self._ask_outside(unhurried=unhurried)
            note = self.log.publish(trust=self._trust)
            if not petitions:
                return note
            for name, entry in petitions:
                try:
                    self.add(entry)
                except ResourceError:
                    raise
                except TapestryError as error:
                    self._refused.add(digest(entry))
                    _logger.warning("dropping an entry of node %s: %s", name, error)
        self._collect(nodes)
        self._ask_outside(unhurried=unhurried)
        return self.log.publish(trust=self._trust)

    def _ask_outside(self, *, unhurried: bool) -> None:
        if unhurried or self._outside.are_needed:
            self._outside.ask()

    def _collect(self, nodes: Sequence[str]) -> list[tuple[str, bytes]]:
        """Collect cosignatures; returns the new entries that came with them."""
        note = self.log.sign_checkpoint()
        size = self.log.size
        requests: dict[str, Message] = {}
        for name in nodes:
            start = min(self._sizes.get(name, 0), size)
            request = CosignRequest(start=start, checkpoint=note.decode())
            requests[name] = encode_message(request, self.log.entries(start, size))
        found: list[tuple[str, bytes]] = []
        for name, reply in self.grid.exchange(requests, deadline=self._deadline):
            try:
                line = read_reply(reply, CosignReply).line.encode()
                self.log.add_cosignature(size, line, trust=self._trust)
            except ResourceError:
                raise
            except TapestryError as error:
                _logger.warning(
                    "going on without a cosignature of node %s at size %d: %s",
                    *(name, size, error),
                )
                continue
            self._sizes[name] = self._cosigned[name] = size
            found += [(name, entry) for entry in self._fresh(reply)]
        return found

    def _fresh(self, reply: Message) -> list[bytes]:
        """Return the first few entries that were neither logged nor refused."""
        fresh: dict[bytes, None] = {}
        for entry in map(bytes, reply.attachments):
            if len(fresh) == _PETITIONS:
                break
            if digest(entry) not in self._refused and self.log.find(entry) is None:
                fresh[entry] = None
        return list(fresh)


def event_of(entry: bytes) -> Body:
    """Return the body of an entry's event."""
    return open_entry(entry).event.body
