"""One masked sum: TSA-1's coordinator half over a grid.

The state machines are ``tapestry.secagg.server``; here they meet deadlines. Each
stage asks those who are still in, keeps what holds, and goes on without the rest. A
stage that too few survive raises QuorumError: the round is aborted, and what was
uploaded stays masked for good. Nothing that a node sends ends more than its own part.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tapestry.encoding import canonical_json
from tapestry.errors import (
    ProtocolError,
    ResourceError,
    TapestryError,
    VerificationError,
)
from tapestry.protocol.wire_messages import Kind, Message, Reason, RoundManifest
from tapestry.secagg.bad_dealers import bad_dealers
from tapestry.secagg.client_states import Cohort
from tapestry.secagg.messages import (
    Advertisement,
    Consent,
    HeadList,
    KeyList,
    Reveal,
    ShareMessage,
    Upload,
    UploadHead,
)
from tapestry.secagg.server import Advertising, Revealing, Unmasked
from tapestry.settings import Deadlines
from tapestry_coordinator.grid import Grid
from tapestry_coordinator.refusals import words_of
from tapestry_governance.events.envelope import open_entry
from tapestry_governance.events.types import (
    ContributionCommitted,
    ContributionRefused,
    DpAccounted,
)

_logger = logging.getLogger(__name__)
Notify = Callable[[dict[str, Any]], None]
_Said = TypeVar("_Said", ContributionCommitted, ContributionRefused, DpAccounted)
_ENTRIES = 2  # of the node's own in front of the chunks: dp.accounted, committed


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundContext:
    """Whom a round talks to, and what it does with entries that nodes hand in."""

    grid: Grid
    deadlines: Deadlines
    checkpoint: bytes
    approve: Callable[[Sequence[bytes]], None]  # would the log's rules take these?
    register: Callable[[bytes], int]  # append an entry of a node; RuleError if not
    keep: Callable[[str, Sequence[bytes | memoryview]], None]  # a node's upload
    notify: Notify


@dataclass(slots=True, kw_only=True)
class RoundOutcome:
    """Where participants were lost, and who committed to what."""

    dropped: dict[str, str] = field(default_factory=dict)
    commitments: dict[str, int] = field(default_factory=dict)
    refused: dict[str, Reason] = field(default_factory=dict)  # as they signed
    phase: str = "offer"
    bad_dealers: tuple[str, ...] = ()  # whose shares gave no sum


def run(
    manifest: RoundManifest, table: RoundContext, *, outcome: RoundOutcome
) -> Unmasked:
    """Lead the cohort from the offer to the sum.

    Args:
        manifest: The round; it is in the cosigned log.
        table: Grid, deadlines and log.
        outcome: Filled while the round goes on, so that an abort can tell.

    Raises:
        QuorumError: Too few nodes were left at some stage.
        VerificationError: The masks do not come off.
    """
    lead = _StageRunner(manifest, table, outcome)
    offer = Message(kind=Kind.OFFER, body=_checkpoint(table.checkpoint))
    names = [p.name for p in manifest.participants]
    advertising = Advertising(manifest)
    lead.ask("offer", dict.fromkeys(names, offer), advertising, _read_advertisement)
    sharing, keys = advertising.close()
    request = Message(kind=Kind.KEYS, body=keys.encode())
    lead.ask("keys", dict.fromkeys(sharing.missing, request), sharing, _read_shares)
    collecting, sealed = sharing.close()
    requests = {
        name: Message(kind=Kind.CIPHERTEXTS, body=message.encode())
        for name, message in sealed.items()
    }
    lead.ask("upload", requests, collecting, lead.read_upload)
    agreeing, survivors = collecting.close()
    request = Message(kind=Kind.SURVIVORS, body=survivors.encode())
    lead.ask("agree", dict.fromkeys(agreeing.missing, request), agreeing, _read_consent)
    revealing, consents = agreeing.close()
    request = Message(kind=Kind.CONSENTS, body=consents.encode())
    lead.ask(
        "reveal", dict.fromkeys(revealing.missing, request), revealing, _read_reveal
    )
    outcome.phase = "sum"
    heads = next(iter(sealed.values())).heads
    return lead.unmask(revealing, keys, heads)


class _StageRunner:
    """Asks one stage after the other and keeps the attendance."""

    def __init__(
        self, manifest: RoundManifest, table: RoundContext, outcome: RoundOutcome
    ) -> None:
        self._manifest = manifest
        self._table = table
        self._attendance = outcome
        self._reveals: list[Reveal] = []

    def ask(
        self,
        phase: str,
        requests: Mapping[str, Message],
        collector: Any,
        read: Callable[[Message, str], Any],
    ) -> None:
        """Send a stage's requests; keep valid replies, drop the senders of others."""
        self._attendance.phase = phase
        table, number = self._table, self._manifest.round_number
        table.notify({"stage": "round", "round": number, "phase": phase})
        waited = int(getattr(table.deadlines, phase))
        for name, reply in table.grid.exchange(requests, deadline=waited):
            try:
                self._accept(name, reply, collector, read)
            except ResourceError:
                raise
            except TapestryError as error:
                _logger.warning("%s is out of round %d: %s", name, number, error)
            else:
                event = {"stage": "round", "round": number, "phase": phase}
                table.notify({**event, "node": name, "done": 1, "total": 1})
        if phase not in ("agree", "reveal"):  # later their update is in the sum
            for name in requests:
                if name in collector.missing:
                    self._attendance.dropped[name] = phase

    def _accept(
        self,
        name: str,
        reply: Message,
        collector: Any,
        read: Callable[[Message, str], Any],
    ) -> None:
        message = self._take(reply, name, read)
        collector.accept(name, message)
        if isinstance(message, Upload):
            self._keep(name, reply, message)
        if isinstance(message, Reveal):
            self._reveals.append(message)

    def unmask(self, revealing: Revealing, keys: KeyList, heads: HeadList) -> Unmasked:
        """Take off the masks, and say whose shares were bad."""
        number = self._manifest.round_number
        try:
            total = revealing.close()
        except VerificationError:
            cohort, reveals = Cohort.of(self._manifest), self._reveals
            named = bad_dealers(cohort, keys, heads=heads, reveals=reveals)
            self._attendance.bad_dealers = named
            raise
        for fault in total.faults:
            _logger.warning(
                "round %d: the share of %s that %s revealed is wrong: one of them lied",
                *(number, fault.dealer, fault.reporter),
            )
        return total

    def read_upload(self, reply: Message, name: str) -> Upload:
        """Take an upload whose entries the log will take and that commit to it."""
        if reply.kind is not Kind.UPLOAD or len(reply.attachments) < _ENTRIES:
            raise ProtocolError(f"{name} sent {reply.kind}, want an upload")
        head = UploadHead.decode(reply.body)
        entries = [bytes(item) for item in reply.attachments[:_ENTRIES]]
        self._check_entries(*entries, name=name, root=head.root)
        self._table.approve(entries)
        return Upload(head=head, chunks=reply.attachments[_ENTRIES:])

    def _keep(self, name: str, reply: Message, upload: Upload) -> None:
        """Log an upload that is in the sum, and keep it for who wants to see it."""
        accounted, committed = reply.attachments[:_ENTRIES]
        self._table.register(bytes(accounted))
        index = self._table.register(bytes(committed))
        self._attendance.commitments[name] = index
        self._table.keep(name, upload.chunks)

    def _take(
        self, reply: Message, name: str, read: Callable[[Message, str], Any]
    ) -> Any:
        if reply.kind is Kind.REFUSAL:
            for entry in map(bytes, reply.attachments[:1]):
                said = self._read_entry(entry, ContributionRefused, name=name)
                self._table.register(entry)
                self._attendance.refused[name] = said.reason
            raise ProtocolError(words_of(reply))
        return read(reply, name)

    def _check_entries(
        self, accounted: bytes, committed: bytes, *, name: str, root: str
    ) -> None:
        """See that both are the node's own, about this round and this upload.

        What the log names must be what is summed, or nobody could dispute it; and a
        sum of somebody who accounted for nothing could not be closed.
        """
        self._read_entry(accounted, DpAccounted, name=name)
        body = self._read_entry(committed, ContributionCommitted, name=name)
        if body.context != self._manifest.context.hex():
            raise ProtocolError(f"{name} committed to another manifest of this round")
        if f"sha256:{body.masked_root}" != root:
            raise ProtocolError(f"{name} uploads what it did not commit to")

    def _read_entry(self, entry: bytes, kind: type[_Said], *, name: str) -> _Said:
        """Read what an entry of one kind says, by this node about this round."""
        plan, event = self._manifest, open_entry(entry).event
        body = event.body
        if not isinstance(body, kind):
            raise ProtocolError(f"{name} sent {event.type}, want {kind.type}")
        said = (event.actor, body.run_id, body.round_number, body.attempt)
        if said != (name, plan.run_id, plan.round_number, plan.attempt):
            raise ProtocolError(f"{name} sent an entry about {said}")
        return body


def _checkpoint(note: bytes) -> bytes:
    return canonical_json({"checkpoint": note.decode()})


def _expect(reply: Message, kind: Kind) -> bytes:
    if reply.kind is not kind:
        raise ProtocolError(f"{reply.kind} instead of {kind}")
    return reply.body


def _read_advertisement(reply: Message, _: str) -> Advertisement:
    return Advertisement.decode(_expect(reply, Kind.ADVERTISEMENT))


def _read_shares(reply: Message, _: str) -> ShareMessage:
    return ShareMessage.decode(_expect(reply, Kind.SHARES))


def _read_consent(reply: Message, _: str) -> Consent:
    return Consent.decode(_expect(reply, Kind.CONSENT))


def _read_reveal(reply: Message, _: str) -> Reveal:
    return Reveal.decode(_expect(reply, Kind.REVEAL))
