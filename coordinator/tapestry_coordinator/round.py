"""One masked sum: TSA-1's coordinator half over a grid.

The state machines are ``tapestry.secagg.server``; here they meet deadlines. Each
stage asks those who are still in, keeps what holds, and goes on without the rest. A
stage that too few survive raises QuorumError: the round is aborted, and what was
uploaded stays masked for good. Nothing that a node sends ends more than its own part.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from tapestry.errors import (
    ProtocolError,
    ResourceError,
    TapestryError,
    VerificationError,
)
from tapestry.protocol.messages import (
    AdvertiseKeysRequest,
    BodyT,
    Kind,
    Message,
    Reason,
    encode_message,
    split_entries,
)
from tapestry.protocol.round_manifest import RoundManifest
from tapestry.protocol.secagg_messages import (
    Advertisement,
    Consent,
    HeadList,
    KeyList,
    Reveal,
    ShareMessage,
    Upload,
    UploadHead,
)
from tapestry.protocol.stages import RoundStage
from tapestry.secagg.client_states import Cohort
from tapestry.secagg.recovery import bad_dealers
from tapestry.secagg.server import AdvertiseKeysStage, Unmasked, UnmaskStage
from tapestry_coordinator.grid import Grid
from tapestry_coordinator.refusals import read_reply
from tapestry_coordinator.settings import Deadlines
from tapestry_governance.events.envelope import open_entry
from tapestry_governance.events.privacy_events import DpAccounted
from tapestry_governance.events.round_events import (
    ContributionCommitted,
    ContributionRefused,
)

_logger = logging.getLogger(__name__)
Notify = Callable[[dict[str, Any]], None]
_ReplyIn = TypeVar("_ReplyIn", contravariant=True)
_Reply = TypeVar("_Reply")
_Said = TypeVar("_Said", ContributionCommitted, ContributionRefused, DpAccounted)
# A node that is lost in one of these has its update in the sum all the same.
_AFTER_UPLOAD = (RoundStage.CHECK_CONSISTENCY, RoundStage.UNMASK)


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

    dropped: dict[str, RoundStage] = field(default_factory=dict)
    commitments: dict[str, int] = field(default_factory=dict)
    refused: dict[str, Reason] = field(default_factory=dict)  # as they signed
    stage: RoundStage = RoundStage.OPEN
    bad_dealers: tuple[str, ...] = ()  # whose shares gave no sum


def run(
    manifest: RoundManifest, table: RoundContext, *, outcome: RoundOutcome
) -> Unmasked:
    """Lead the cohort from the first stage of secure aggregation to the sum.

    Args:
        manifest: The round; it is in the cosigned log.
        table: Grid, deadlines and log.
        outcome: Filled while the round goes on, so that an abort can tell.

    Raises:
        QuorumError: Too few nodes were left at some stage.
        VerificationError: The masks do not come off.
    """
    lead = _StageRunner(manifest, table, outcome)
    offer = encode_message(AdvertiseKeysRequest(checkpoint=table.checkpoint.decode()))
    advertising = AdvertiseKeysStage(manifest)
    lead.ask(
        RoundStage.ADVERTISE_KEYS,
        dict.fromkeys(advertising.missing, offer),
        _Replies(advertising, _reader(Advertisement)),
    )
    sharing, keys = advertising.close()
    lead.ask(
        RoundStage.SHARE_KEYS,
        dict.fromkeys(sharing.missing, encode_message(keys)),
        _Replies(sharing, _reader(ShareMessage)),
    )
    collecting, sealed = sharing.close()
    lead.ask(
        RoundStage.COLLECT_MASKED_INPUTS,
        {name: encode_message(ciphertexts) for name, ciphertexts in sealed.items()},
        _Replies(collecting, lead.read_upload, lead.keep_upload),
    )
    checking, survivors = collecting.close()
    lead.ask(
        RoundStage.CHECK_CONSISTENCY,
        dict.fromkeys(checking.missing, encode_message(survivors)),
        _Replies(checking, _reader(Consent)),
    )
    unmasking, consents = checking.close()
    lead.ask(
        RoundStage.UNMASK,
        dict.fromkeys(unmasking.missing, encode_message(consents)),
        _Replies(unmasking, _reader(Reveal), lead.keep_reveal),
    )
    heads = next(iter(sealed.values())).heads
    return lead.unmask(unmasking, keys, heads)


class _Collector(Protocol[_ReplyIn]):
    """A stage of ``tapestry.secagg.server``, as this module uses it."""

    @property
    def missing(self) -> list[str]: ...

    def accept(self, sender: str, message: _ReplyIn) -> None: ...


def _keep_nothing(_name: str, _reply: object) -> None:
    return


@dataclass(frozen=True, slots=True)
class _Replies(Generic[_Reply]):
    """How the replies of one stage are read, checked and kept."""

    collector: _Collector[_Reply]
    read: Callable[[str, Message], _Reply]
    keep: Callable[[str, _Reply], None] = _keep_nothing  # what the collector accepted


def _reader(want: type[BodyT]) -> Callable[[str, Message], BodyT]:
    return lambda _, reply: read_reply(reply, want)


class _StageRunner:
    """Asks one stage after the other and keeps the attendance."""

    def __init__(
        self, manifest: RoundManifest, table: RoundContext, outcome: RoundOutcome
    ) -> None:
        self._manifest = manifest
        self._table = table
        self._outcome = outcome
        self._entries: dict[str, tuple[bytes, bytes]] = {}  # with uploads, by node
        self._reveals: list[Reveal] = []

    def ask(
        self,
        stage: RoundStage,
        requests: Mapping[str, Message],
        replies: _Replies[_Reply],
    ) -> None:
        """Send a stage's requests; keep valid replies, drop the senders of others."""
        self._outcome.stage = stage
        table, number = self._table, self._manifest.round_number
        event = {"stage": "round", "round": number, "round_stage": stage}
        table.notify(event)
        deadline = table.deadlines.of(stage)
        for name, reply in table.grid.exchange(requests, deadline=deadline):
            try:
                self._log_refusal(name, reply)
                body = replies.read(name, reply)
                replies.collector.accept(name, body)
                replies.keep(name, body)
            except ResourceError:
                raise
            except TapestryError as error:
                _logger.warning("%s is out of round %d: %s", name, number, error)
            else:
                table.notify({**event, "node": name, "done": 1, "total": 1})
        if stage not in _AFTER_UPLOAD:
            for name in requests:
                if name in replies.collector.missing:
                    self._outcome.dropped[name] = stage

    def unmask(
        self, revealing: UnmaskStage, keys: KeyList, heads: HeadList
    ) -> Unmasked:
        """Take off the masks, and say whose shares were bad."""
        number = self._manifest.round_number
        try:
            total = revealing.close()
        except VerificationError:
            cohort, reveals = Cohort.of(self._manifest), self._reveals
            named = bad_dealers(cohort, keys, heads=heads, reveals=reveals)
            self._outcome.bad_dealers = named
            raise
        for fault in total.faults:
            _logger.warning(
                "round %d: the share of %s that %s revealed is wrong: one of them lied",
                *(number, fault.dealer, fault.reporter),
            )
        return total

    def read_upload(self, name: str, reply: Message) -> Upload:
        """Take an upload whose entries the log will take and that commit to it."""
        head = read_reply(reply, UploadHead)
        accounted, committed, chunks = split_entries(reply.attachments)
        self._check_entries(accounted, committed, name=name, root=head.root)
        self._table.approve([accounted, committed])
        self._entries[name] = accounted, committed
        return Upload(head=head, chunks=chunks)

    def keep_upload(self, name: str, upload: Upload) -> None:
        """Log an upload that is in the sum, and keep it for who wants to see it."""
        accounted, committed = self._entries[name]
        self._table.register(accounted)
        self._outcome.commitments[name] = self._table.register(committed)
        self._table.keep(name, upload.chunks)

    def keep_reveal(self, _: str, reveal: Reveal) -> None:
        """Keep a reveal, to say later whose shares were bad."""
        self._reveals.append(reveal)

    def _log_refusal(self, name: str, reply: Message) -> None:
        """Log the entry that a refusal carries, if it carries one."""
        if reply.kind is not Kind.REFUSAL:
            return
        for entry in map(bytes, reply.attachments[:1]):
            said = self._read_entry(entry, ContributionRefused, name=name)
            self._table.register(entry)
            self._outcome.refused[name] = said.reason

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
            raise ProtocolError(
                f"{name} committed to another manifest of this round",
                code="commitment-differs",
            )
        if f"sha256:{body.masked_root}" != root:
            raise ProtocolError(
                f"{name} uploads what it did not commit to", code="upload-root-differs"
            )

    def _read_entry(self, entry: bytes, kind: type[_Said], *, name: str) -> _Said:
        """Read what an entry of one kind says, by this node about this round."""
        plan, event = self._manifest, open_entry(entry).event
        body = event.body
        if not isinstance(body, kind):
            raise ProtocolError(
                f"{name} sent {event.type}, want {kind.type}", code="event-type-differs"
            )
        said = (event.actor, body.run_id, body.round_number, body.attempt)
        if said != (name, plan.run_id, plan.round_number, plan.attempt):
            raise ProtocolError(
                f"{name} sent an entry about {said}", code="round-not-open"
            )
        return body
