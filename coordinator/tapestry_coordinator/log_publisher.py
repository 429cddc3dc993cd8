"""The log and its witnesses: append, have it cosigned, publish.

The coordinator orders entries and collects cosignatures; it decides nothing by
that. Before an entry goes in it is held against the same rules as everywhere
(``replay``), so an event that would break the log for everybody is refused here.
"""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime

from tapestry.encoding import digest
from tapestry.errors import (
    ProtocolError,
    QuorumError,
    ResourceError,
    TapestryError,
)
from tapestry.keys import SigningKey
from tapestry.protocol.messages import (
    CosignReply,
    CosignRequest,
    Message,
    encode_message,
)
from tapestry.tlog.trust_policy import TrustPolicy
from tapestry_coordinator.grid import Grid
from tapestry_coordinator.refusals import read_reply
from tapestry_governance.events.envelope import Author, Seen, open_entry, sign_entry
from tapestry_governance.events.event_body import Body
from tapestry_governance.log.writer import Log
from tapestry_governance.rules.federation_state import FederationState
from tapestry_governance.rules.replay import apply_all

_logger = logging.getLogger(__name__)
_PASSES = 3  # how often nodes may make the log grow while it is cosigned
_PETITIONS = 4  # new entries that a node may hand in at once


class LogPublisher:
    """The coordinator's hand on the log."""

    def __init__(
        self,
        log: Log,
        *,
        trust: TrustPolicy,
        key: SigningKey,
        grid: Grid,
        deadline: float,
    ) -> None:
        """Take an open log and fold it.

        Raises:
            RuleError: The log breaks its own rules.
            ProtocolError: The log is empty; found the federation first.
        """
        state = apply_all(None, log.stream())
        if state is None:
            raise ProtocolError(
                "the log is empty: no charter was adopted", code="charter-missing"
            )
        self._log, self._trust, self._key = log, trust, key
        self._grid, self._deadline = grid, deadline
        self._state = state
        self._sizes: dict[str, int] = {}
        self._refused: set[str] = set()  # petitions, by digest
        self._author = Author(
            federation=state.federation,
            actor=state.charter.coordinator.name,
            role="coordinator",
        )

    @property
    def state(self) -> FederationState:
        """The federation as of the last entry."""
        return self._state

    @property
    def log(self) -> Log:
        """The log."""
        return self._log

    @property
    def checkpoint(self) -> bytes:
        """The newest cosigned checkpoint.

        Raises:
            QuorumError: None was published yet.
        """
        note = self._log.latest()
        if note is None:
            raise QuorumError(
                "the log has no cosigned checkpoint yet", code="checkpoint-missing"
            )
        return note

    def append_event(self, body: Body, *, refs: Sequence[int] = ()) -> int:
        """Append an event of the coordinator's own; returns its index."""
        event = self._author.event(
            body, now=datetime.now(UTC), seen=self._seen(), refs=refs
        )
        return self.add(sign_entry(event, self._key))

    def add(self, entry: bytes) -> int:
        """Append somebody's entry if the rules allow it; returns its index.

        Edge cases:
            An entry that is there already keeps its index.

        Raises:
            RuleError: It breaks a rule; VerificationError, ProtocolError: its
                signature or form does not hold. Nothing was appended.
        """
        known = self._log.find(entry)
        if known is not None:
            return known
        following = apply_all(self._state, [entry])
        index = self._log.append([entry]).start
        if following is not None:
            self._state = following
        return index

    def approve(self, entries: Sequence[bytes]) -> None:
        """See that the rules would allow some entries now; nothing is appended.

        Raises:
            RuleError, VerificationError, ProtocolError: As ``add``.
        """
        apply_all(self._state, entries)

    def record_mirror_size(self, name: str, size: int, note: bytes | None) -> None:
        """Remember how much of the log a node has, and see that we have it, too.

        Raises:
            InconsistentLog: The node holds a cosigned checkpoint that this log does
                not lead to: the log was restored from a backup, or forked.
        """
        if note is not None:
            self._log.check(self._trust.open(note).note)
        self._sizes[name] = min(size, self._log.size)

    def publish(self, nodes: Sequence[str]) -> bytes:
        """Have the log cosigned as it is and publish it; returns the checkpoint.

        Nodes may hand in entries of their own with their cosignature (a declaration
        of their data); then the log has grown and is cosigned once more. A node that
        never stops handing in entries does not hold up the others: each pass takes a
        few of each node, and one that was refused is not looked at again.

        Raises:
            QuorumError: Too few nodes cosigned in time.
        """
        for _ in range(_PASSES):
            petitions = self._collect(nodes)
            note = self._log.publish(trust=self._trust)
            if not petitions:
                return note
            for name, entry in petitions:
                self._try_add(name, entry)
        self._collect(nodes)
        return self._log.publish(trust=self._trust)

    def _collect(self, nodes: Sequence[str]) -> list[tuple[str, bytes]]:
        """Ask for cosignatures; returns what nodes hand in, and who does."""
        note = self._log.sign_checkpoint()
        size = self._log.size
        requests = {name: self._update(name, note) for name in nodes}
        found: list[tuple[str, bytes]] = []
        for name, reply in self._grid.exchange(requests, deadline=self._deadline):
            try:
                line = read_reply(reply, CosignReply).line.encode()
                self._log.add_cosignature(size, line, trust=self._trust)
            except ResourceError:
                raise
            except TapestryError as error:
                _logger.warning("%s does not cosign: %s", name, error)
                continue
            self._sizes[name] = size
            found += [(name, entry) for entry in self._fresh(reply)]
        return found

    def _fresh(self, reply: Message) -> list[bytes]:
        """Pick what was neither logged nor refused, as much as one may hand in."""
        fresh: dict[bytes, None] = {}
        for entry in map(bytes, reply.attachments):
            if len(fresh) == _PETITIONS:
                break
            if digest(entry) not in self._refused and self._log.find(entry) is None:
                fresh[entry] = None
        return list(fresh)

    def _update(self, name: str, note: bytes) -> Message:
        start = min(self._sizes.get(name, 0), self._log.size)
        request = CosignRequest(start=start, checkpoint=note.decode())
        return encode_message(request, self._log.entries(start, self._log.size))

    def _try_add(self, name: str, entry: bytes) -> None:
        try:
            self.add(entry)
        except ResourceError:
            raise
        except TapestryError as error:
            self._refused.add(digest(entry))
            _logger.warning("an entry that %s handed in is refused: %s", name, error)

    def _seen(self) -> Seen | None:
        note = self._log.latest()
        if note is None:
            return None
        checkpoint = self._trust.open(note).checkpoint
        return Seen(size=checkpoint.size, root=checkpoint.root.hex())


def event_of(entry: bytes) -> Body:
    """Read what an entry of the log says."""
    return open_entry(entry).event.body
