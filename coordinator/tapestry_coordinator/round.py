"""One secure aggregation: the coordinator's side of TSA-1 over a grid.

The state machines are ``tapestry.secagg.server``; this module adds deadlines. Each
stage asks the nodes that are still taking part, keeps valid replies, and goes on
without the other nodes. If too few are left, QuorumError aborts the round, and its
uploads stay masked for good. A node's replies can end its own part only.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
    ShareHead,
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
# A node that is lost in one of these stages still has its update in the sum.
_AFTER_UPLOAD = (RoundStage.CHECK_CONSISTENCY, RoundStage.UNMASK)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundContext:
    """The grid of a round, and the functions that take its entries and uploads."""

    grid: Grid
    deadlines: Deadlines
    checkpoint: bytes
    approve: Callable[[Sequence[bytes]], None]  # check entries against the log's rules
    register: Callable[[bytes], int]  # append an entry of a node; returns its index
    keep: Callable[[str, Sequence[bytes | memoryview]], None]  # a node's upload
    ask_consent: Callable[[Sequence[str]], None]  # store a survivor list durably
    notify: Notify


@dataclass(slots=True, kw_only=True)
class RoundOutcome:
    """The progress of a round: its stage, lost participants and commitments."""

    dropped: dict[str, RoundStage] = field(default_factory=dict)
    commitments: dict[str, int] = field(default_factory=dict)  # log index, by node
    refused: dict[str, Reason] = field(default_factory=dict)  # as the nodes signed
    stage: RoundStage = RoundStage.OPEN
    survivors: tuple[str, ...] = ()  # of whom a sum may be revealed
    bad_dealers: tuple[str, ...] = ()  # nodes whose shares gave no sum


def run(
    manifest: RoundManifest, context: RoundContext, *, outcome: RoundOutcome
) -> Unmasked:
    """Run the stages of secure aggregation, from the offer to the sum.

    ``outcome`` is filled during the round, so that it also describes an abort.

    Raises:
        QuorumError: Too few nodes were left at some stage.
        VerificationError: The shares that nodes revealed do not give the masks.
    """
    lead = _StageRunner(manifest, context, outcome)
    offer = encode_message(AdvertiseKeysRequest(checkpoint=context.checkpoint.decode()))
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
        _Replies(sharing, _read_shares),
    )
    collecting, sealed = sharing.close()
    heads = next(iter(sealed.values())).heads
    shown = encode_message(heads)  # printed once, since all nodes get the same
    lead.ask(
        RoundStage.COLLECT_MASKED_INPUTS,
        {
            name: replace(shown, attachments=(each.messages,))
            for name, each in sealed.items()
        },
        _Replies(collecting, lead.read_upload, lead.keep_upload),
    )
    checking, survivors = collecting.close()
    outcome.survivors = survivors.names
    context.ask_consent(outcome.survivors)  # before a node can consent
    lead.ask(
        RoundStage.CHECK_CONSISTENCY,
        dict.fromkeys(checking.missing, encode_message(survivors)),
        _Replies(checking, _reader(Consent)),
    )
    unmasking, consents = checking.close()
    reveals: list[Reveal] = []
    lead.ask(
        RoundStage.UNMASK,
        dict.fromkeys(unmasking.missing, encode_message(consents)),
        _Replies(unmasking, _reader(Reveal), lambda _, reply: reveals.append(reply)),
    )
    return lead.unmask(unmasking, keys, heads=heads, reveals=reveals)


class _Collector(Protocol[_ReplyIn]):
    """A stage of ``tapestry.secagg.server``."""

    @property
    def missing(self) -> list[str]: ...

    def accept(self, sender: str, message: _ReplyIn) -> None: ...


@dataclass(frozen=True, slots=True)
class _Replies(Generic[_Reply]):
    """The functions that read, check and then keep the replies of one stage."""

    collector: _Collector[_Reply]
    read: Callable[[str, Message], _Reply]
    keep: Callable[[str, _Reply], None] = lambda _name, _reply: None


def _reader(want: type[BodyT]) -> Callable[[str, Message], BodyT]:
    return lambda _, reply: read_reply(reply, want)


def _read_shares(_: str, reply: Message) -> ShareMessage:
    head = read_reply(reply, ShareHead)
    return ShareMessage(head=head, messages=b"".join(reply.attachments))


class _StageRunner:
    """The requests of one round, and its replies that are more than a stage's own."""

    def __init__(
        self, manifest: RoundManifest, context: RoundContext, outcome: RoundOutcome
    ) -> None:
        self._manifest = manifest
        self._context = context
        self._outcome = outcome
        self._entries: dict[str, tuple[bytes, bytes]] = {}  # with uploads, by node

    def ask(
        self,
        stage: RoundStage,
        requests: Mapping[str, Message],
        replies: _Replies[_Reply],
    ) -> None:
        """Send a stage's requests; keep valid replies, drop the senders of others."""
        self._outcome.stage = stage
        context, number = self._context, self._manifest.round_number
        event = {"stage": "round", "round": number, "round_stage": stage}
        context.notify(event)
        deadline = context.deadlines.of(stage)
        for name, reply in context.grid.exchange(requests, deadline=deadline):
            try:
                self._log_refusal(name, reply)
                body = replies.read(name, reply)
                replies.collector.accept(name, body)
                replies.keep(name, body)
            except ResourceError:
                raise
            except TapestryError as error:
                _logger.warning(
                    "round %d goes on without node %s: %s", number, name, error
                )
            else:
                context.notify({**event, "node": name, "done": 1, "total": 1})
        if stage not in _AFTER_UPLOAD:
            lost = requests.keys() & set(replies.collector.missing)
            self._outcome.dropped |= dict.fromkeys(lost, stage)

    def unmask(
        self,
        revealing: UnmaskStage,
        keys: KeyList,
        *,
        heads: HeadList,
        reveals: Sequence[Reveal],
    ) -> Unmasked:
        """Remove the masks; if that fails, name the dealers of bad shares."""
        number = self._manifest.round_number
        try:
            total = revealing.close()
        except VerificationError:
            cohort = Cohort.of(self._manifest)
            self._outcome.bad_dealers = revealing.bad_contributors or bad_dealers(
                cohort, keys, heads=heads, reveals=reveals
            )
            raise
        for fault in total.faults:
            _logger.warning(
                "round %d has its sum, but node %s dealt or node %s revealed a wrong"
                " share",
                *(number, fault.dealer, fault.reporter),
            )
        return total

    def read_upload(self, name: str, reply: Message) -> Upload:
        """Take an upload with its two entries, which the log's rules must accept.

        They must be of this round and this upload: a sum of other uploads than the log
        names could not be disputed, and one with a node that accounted for nothing
        could not be closed.
        """
        head = read_reply(reply, UploadHead)
        accounted, committed, chunks = split_entries(reply.attachments)
        self._read_entry(accounted, DpAccounted, name=name)
        body = self._read_entry(committed, ContributionCommitted, name=name)
        if body.context != self._manifest.context.hex():
            raise ProtocolError(
                f"its commitment is to context {body.context}, this round has"
                f" {self._manifest.context.hex()}",
                code="commitment-differs",
            )
        if f"sha256:{body.masked_root}" != head.root:
            raise ProtocolError(
                f"its upload has root {head.root}, its commitment"
                f" sha256:{body.masked_root}",
                code="upload-root-differs",
            )
        self._context.approve([accounted, committed])
        self._entries[name] = accounted, committed
        return Upload(head=head, chunks=chunks)

    def keep_upload(self, name: str, upload: Upload) -> None:
        """Log an upload that is in the sum, and keep its chunks for spot checks."""
        accounted, committed = self._entries[name]
        self._context.register(accounted)
        self._outcome.commitments[name] = self._context.register(committed)
        self._context.keep(name, upload.chunks)

    def _log_refusal(self, name: str, reply: Message) -> None:
        """Log the entry that a refusal carries, if it carries one."""
        if reply.kind is not Kind.REFUSAL:
            return
        for entry in map(bytes, reply.attachments[:1]):
            said = self._read_entry(entry, ContributionRefused, name=name)
            self._context.register(entry)
            self._outcome.refused[name] = said.reason

    def _read_entry(self, entry: bytes, kind: type[_Said], *, name: str) -> _Said:
        """Read an entry's body of one type, by this node about this round."""
        plan, event = self._manifest, open_entry(entry).event
        body = event.body
        if not isinstance(body, kind):
            raise ProtocolError(
                f"its entry is {event.type}, want {kind.type}",
                code="event-type-differs",
            )
        said = (event.actor, body.run_id, body.round_number, body.attempt)
        here = (name, plan.run_id, plan.round_number, plan.attempt)
        if said != here:
            raise ProtocolError(
                f"its entry is of actor, run, round and attempt {said}, want {here}",
                code="round-not-open",
            )
        return body
