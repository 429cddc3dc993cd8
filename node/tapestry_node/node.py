"""An institution's node: requests in, replies out, default deny.

``handle`` is all there is to talk to. It answers each request of the closed list in
``tapestry.protocol.messages`` and turns whatever goes wrong into a reason code;
the detail goes to the node's own log, without the text of an error that is not ours.
Every reply is receipted before it leaves.
"""

import logging
import secrets
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import singledispatchmethod
from pathlib import Path

from tapestry.errors import PolicyError, ProtocolError, TapestryError
from tapestry.evaluation.scorer import KnownScores
from tapestry.inputs.faults import TRACEBACK, unforeseen, wants_traceback
from tapestry.inputs.private_data import frames_of
from tapestry.model.replica import Replica
from tapestry.protocol.connection_proof import ConnectionClaim
from tapestry.protocol.messages import (
    MAX_SUBMITTED,
    AdvertiseKeysRequest,
    ApplyResultRequest,
    Bulk,
    CheckChunkRequest,
    CosignReply,
    CosignRequest,
    HelloRequest,
    Identity,
    Kind,
    Message,
    PublishAdapterRequest,
    Reason,
    ReceiptReply,
    Refusal,
    ShowHeldOutRequest,
    decode_body,
    encode_message,
)
from tapestry.protocol.secagg_messages import (
    PROTOCOL,
    ConsentList,
    HeadList,
    KeyList,
    SurvivorList,
)
from tapestry.schema import Strict
from tapestry.software_digest import software_digest
from tapestry.workloads.base import Workload
from tapestry_governance.events.envelope import Author, open_entry
from tapestry_governance.events.privacy_events import DataDeclared
from tapestry_governance.events.round_events import (
    ContributionRefused,
    RoundClosed,
    RoundDisputed,
)
from tapestry_governance.rules.federation_state import FederationState
from tapestry_governance.rules.replay import apply
from tapestry_node.adapters.publication import Publisher
from tapestry_node.budget.ledger import Ledger
from tapestry_node.budget.log_accounts import published_charges
from tapestry_node.directory import open_mirror, read_keys
from tapestry_node.node_state import DATABASE, NodeState
from tapestry_node.readiness import check_keys
from tapestry_node.refusal import Refused, reason_of
from tapestry_node.round.admission import Facts, check_offer, first_round
from tapestry_node.round.base_snapshots import BaseSnapshots
from tapestry_node.round.gate_check import GateCheck
from tapestry_node.round.result import ResultApplier
from tapestry_node.round.session import NodeContext, Notify, Session
from tapestry_node.round.spot_checks import SpotChecks
from tapestry_node.settings import NodeSettings
from tapestry_node.training.machine_checks import refusing
from tapestry_node.training.trainer import Trainer

_logger = logging.getLogger(__name__)
Clock = Callable[[], datetime]
OpenTrainer = Callable[..., Trainer]


def _now() -> datetime:
    return datetime.now(UTC)


class Node:
    """One institution's node, with its folder open."""

    def __init__(
        self,
        directory: Path,
        *,
        workload: Workload,
        replica: Replica | None = None,
        notify: Notify = lambda _: None,
        clock: Clock = _now,
        open_trainer: OpenTrainer = Trainer,
    ) -> None:
        """Open a node's folder.

        Args:
            directory: Holds ``node.toml``, ``trust-policy.txt``, ``keys/``, the data.
            workload: The given base, loaded; may be shared by nodes of one process.
            replica: The given base, if it was read already.
            notify: Told, on this machine only, how far the work is.
            clock: Returns the time.
            open_trainer: Reads the records; a test gives one that notes its updates.

        Raises:
            ConfigError: A setting, key or data file is not as it must be.
            VerificationError: The log mirror or the node's state was tampered with, or
                the log knows of a charge or an upload that the state does not: an
                older copy was restored.
        """
        self.settings = NodeSettings.read(directory / "node.toml")
        self.directory = directory
        self.keys = read_keys(directory)
        self._store = NodeState(directory / DATABASE, exclusive=True)
        self.mirror = open_mirror(directory, self.settings)
        if self.mirror.size:
            check_keys(self.mirror.state.members, keys=self.keys, name=self.name)
        data = directory / self.settings.data
        self.trainer = open_trainer(data, workload=workload, settings=self.settings)
        self._ledger = Ledger.open(self._store, self.trainer.terms)
        if self.mirror.size:
            self._store.require(self.mirror.state.uploads_of(self.name))
        self._require_charges()
        for row in self._ledger.rows():  # of a round that died with this process
            self._ledger.release(row.charge)
        self.spots = SpotChecks(
            store=self._store,
            wanted=self.settings.policy.chunks_to_check,
            folder=directory,
        )
        self._gate = GateCheck(workload, folder=directory, dispute=self._dispute_gate)
        self._base = ResultApplier(
            BaseSnapshots(
                directory=directory, given=replica or Replica.start(workload.given)
            ),
            mirror=self.mirror,
            store=self._store,
            spots=self.spots,
            gate=self._gate,
            workload=workload,
        )
        self.session: Session | None = None
        self._notify, self.clock = notify, clock
        self.context = self._make_context()

    @property
    def name(self) -> str:
        """The institution's name in the federation."""
        return self.settings.name

    @property
    def replica(self) -> Replica:
        """The base that this node holds."""
        return self._base.replica

    @property
    def ledger(self) -> Ledger:
        """The privacy ledger of its records."""
        return self._ledger

    @property
    def store(self) -> NodeState:
        """The durable state, with the receipts of what left."""
        return self._store

    def share_scores(self, known: KnownScores) -> None:
        """Use scores that other parties of this process computed."""
        self._gate.known = known

    @property
    def _state(self) -> FederationState | None:
        return self.mirror.state if self.mirror.size else None

    def handle(self, message: Message, connection: str = "") -> Message:
        """Answer a request; whatever goes wrong is a refusal.

        Args:
            message: The request.
            connection: The transport's name for the connection that it came by, to
                which the proof of this node's name is bound.

        Raises:
            ResourceError: Not even the receipt could be written; nothing leaves.
        """
        try:
            body = decode_body(message)
            if isinstance(body, HelloRequest):
                reply = self._identify(body.nonce, connection)
            else:
                reply = self._answer(body, message.attachments)
        except Exception as error:  # noqa: BLE001 - default deny, whatever it is
            self._note(message.kind, error)
            reply = self._refuse(message, reason_of(error))
        self._store.record(reply)
        return reply

    def _note(self, kind: Kind, error: Exception) -> None:
        """Write the cause of a refusal to the node's own log, with round and code.

        Guarantees:
            Only errors of ours are told in full. Another one may quote a record: of
            it only type and place are, and the lines of code where the operator asked
            for tracebacks.
        """
        if isinstance(error, TapestryError):
            said = "%s: refused %s: %s [%s]; the reply says %s"
            reason = reason_of(error).value
            _logger.warning(said, self.name, kind, error, error.code, reason)
            return
        _logger.error(
            "%s: refused %s: internal error: %s; %s=1 shows the traceback",
            *(self.name, kind, unforeseen(error), TRACEBACK),
        )
        if wants_traceback():
            _logger.error("%s", frames_of(error))

    def close(self) -> None:
        """Close the databases."""
        self.mirror.close()
        self._store.close()

    def _make_context(self) -> NodeContext:
        settings = self.settings
        return NodeContext(
            name=settings.name,
            identity=self.keys["node"],
            store=self._store,
            mirror=self.mirror,
            trainer=self.trainer,
            author=Author(
                federation=settings.federation, actor=settings.name, role="node"
            ),
            min_cohort=settings.policy.min_cohort,
            max_colluding=settings.policy.max_colluding,
            varying_survivors=settings.policy.varying_survivors,
            hybrid_up_to=settings.policy.hybrid_up_to,
            notify=self._notify,
        )

    @singledispatchmethod
    def _answer(self, request: Strict, _: Bulk) -> Message:
        """Answer a request by the type of its body; other bodies are no requests."""
        raise ProtocolError(
            f"{type(request).__name__} is no request", code="message-kind-unexpected"
        )

    @_answer.register
    def _continue(
        self, request: KeyList | HeadList | SurvivorList | ConsentList, bulk: Bulk
    ) -> Message:
        if self.session is None:
            said = "no round is under way here; the coordinator has to offer one"
            raise Refused(Reason.UNKNOWN_ROUND, said, code="round-not-joined")
        return self.session.answer(request, bulk, now=self.clock())

    def _identify(self, nonce: str, connection: str) -> Message:
        accepted = self.mirror.accepted
        claim = ConnectionClaim(
            genesis=self.settings.joined,
            node=self.name,
            connection=connection,
            nonce=nonce,
        )
        return encode_message(
            Identity(
                name=self.name,
                proof=claim.prove(self.keys["node"]),
                protocol=PROTOCOL,
                software=software_digest(),
                size=self.mirror.size,
                applied=self._base.applied_in_newest_run,
                checkpoint=accepted.note.decode() if accepted else None,
                asks=tuple(self._base.asks()),
                held_out=self._gate.held,
            )
        )

    @_answer.register
    def _cosign(self, request: CosignRequest, entries: Bulk) -> Message:
        """Mirror the log's new entries, check append-only and the rules, and cosign."""
        note = request.checkpoint.encode()
        self.mirror.extend(request.start, [bytes(entry) for entry in entries], note)
        self._base.check_ends()
        self._base.check_releases()
        line = self.mirror.cosign(self.keys["witness"], self.clock())
        return encode_message(
            CosignReply(line=line.decode()), self._submitted_entries()
        )

    def _submitted_entries(self) -> list[bytes]:
        """Entries of this node's own that the log lacks, and would take as it stands.

        Another one waits: it takes no place of those behind it, however long that is.
        """
        for entry in self._store.outbox():
            if self.mirror.holds(entry):
                self._store.clear(entry)
        posted = (open_entry(entry).event.body for entry in self._store.outbox())
        is_declared = self.name in self.mirror.state.data
        if not is_declared and not any(isinstance(b, DataDeclared) for b in posted):
            salt = self._store.secret("dataset-salt", secrets.token_bytes(32))
            declared = self.trainer.declaration(salt)
            self._store.post(self.context.sign_event(declared, now=self.clock()))
        taken: list[bytes] = []
        state = self.mirror.state
        for entry in self._store.outbox():
            with suppress(TapestryError):
                state = apply(state, entry, state.size)
                taken.append(entry)
        return taken[:MAX_SUBMITTED]

    def _accept(self, checkpoint: str) -> None:
        """Accept a checkpoint as the newest one.

        Raises:
            Refused: The checkpoint is too old, or older than the last one.
        """
        longest = self.settings.policy.max_checkpoint_age
        note, now = checkpoint.encode(), self.clock()
        try:
            self.mirror.accept_checkpoint(note, now, max_age=longest)
        except PolicyError as error:
            reason = Reason.STALE_CHECKPOINT
            raise Refused(reason, str(error), code=error.code) from None

    @_answer.register
    def _offer(self, request: AdvertiseKeysRequest, _: Bulk) -> Message:
        """Join the round that the log proves, if the guard and the ledger agree.

        Edge cases:
            An offer of the round that is under way here gets the same keys again, and
            the round stays at its stage.
        """
        self._accept(request.checkpoint)
        current = self.mirror.state.open_round
        if current is None:
            said = "the log has no open round"
            raise Refused(Reason.NOT_IN_LOG, said, code="round-not-open")
        if self.session is not None and self.session.manifest == current.manifest:
            return encode_message(self.session.advertisement)  # joined before
        declared = self.mirror.state.data.get(self.name)
        if declared is None or declared.records != self.trainer.count:
            said = f"the log lacks the declaration of {self.trainer.count} records"
            raise Refused(Reason.MAINTENANCE, said, code="data-not-declared")
        self._require_charges()
        self._store.require(self.mirror.state.uploads_of(self.name))
        self._leave_session()
        manifest = current.manifest
        self._base.check_sums(manifest.run_id, until=manifest.round_number)
        self._base.check_followed(manifest.run_id)
        self._base.enter(manifest.run_id)
        self._gate.require(manifest)
        self.context.check_failed(manifest.run_id)
        with refusing(Reason.PLAN_UNSUPPORTED):
            layout = self.trainer.layout(manifest)
        named = self.mirror.state.policy.given_base(manifest.model_digest)
        facts = Facts(
            name=self.name,
            federation=self.settings.federation,
            software_digest=software_digest(),
            base_digest=self.replica.digest,
            first_base=first_round(self.mirror, manifest.run_id).model_digest,
            parameters=self.replica.manifest.parameters,
            named_parameters=None if named is None else named.parameters,
            layout_digest=layout.digest,
            layout_length=layout.length,
        )
        check_offer(manifest, policy=self.settings.policy, facts=facts)
        self.trainer.trainable.check_round(manifest, load=self._load)
        self.session = Session(
            self.context,
            manifest,
            replica=self.replica,
            layout=layout,
            ledger=self._ledger,
        )
        return encode_message(self.session.advertisement)

    def _load(self) -> None:
        """Put the base that is held here into the model."""
        self.trainer.workload.load(self.replica.parameters)

    def _require_charges(self) -> None:
        """Compare the ledger with all that the log says this node spent.

        Each time with all of it: database and mirror can be put back together, and
        then only the log is left to tell.

        Raises:
            VerificationError: The log holds a charge that the ledger does not.
        """
        if self.mirror.size:
            self._ledger.require(published_charges(self.mirror.state, self.name))

    @_answer.register
    def _keep_held_out(self, request: ShowHeldOutRequest, files: Bulk) -> Message:
        """Keep the public data of the gate that the last run names in the log."""
        newest = self._state.newest if self._state else None
        if newest is None:
            said = "the log has no round"
            raise Refused(Reason.NOT_IN_LOG, said, code="round-not-open")
        self._gate.keep(newest, request.files, [bytes(file) for file in files])
        return self._receipt()

    def _dispute_gate(self, closed: RoundClosed) -> None:
        """Note a dispute for good, and post it to the log once."""
        disputed = RoundDisputed(
            run_id=closed.run_id,
            round_number=closed.round_number,
            attempt=closed.attempt,
            subject="gate",
            chunk=None,
        )
        entry = self.context.sign_event(disputed, now=self.clock())
        self._store.dispute_gate(closed.run_id, closed.round_number, entry=entry)

    @_answer.register
    def _result(self, request: ApplyResultRequest, chunks: Bulk) -> Message:
        """Take the step that the log says, from the published sum, and compare.

        Edge cases:
            The end of a round stands, so that an older checkpoint of a quorum proves
            it, too: without the result a node cosigns no release that came since.
        """
        size = self.mirror.verify_prefix(request.checkpoint.encode())
        if size == self.mirror.size:
            with suppress(Refused):  # it may be old, and proves the round all the same
                self._accept(request.checkpoint)
        ended = self._base.ended(request.round_number, within=size)
        if ended.index > self._base.taken:
            session = self.session
            ours = session is not None and session.manifest == ended.manifest
            done = session.done if session is not None and ours else None
            self._base.take(ended, request.result, chunks, done=done)
            self._leave_session()
        return self._receipt()

    @_answer.register
    def _check_chunk(self, request: CheckChunkRequest, chunks: Bulk) -> Message:
        """Recompute a chunk that this node asked for."""
        self.spots.check(request, chunks)
        return self._receipt()

    def _receipt(self) -> Message:
        """Say that a request was taken; also what is drawn and not seen yet."""
        return encode_message(ReceiptReply(asks=tuple(self._base.asks())))

    def _leave_session(self) -> None:
        """Forget a round, and give back what was reserved for it but not spent."""
        if self.session is not None:
            self.session.abandon()
        self.session = None

    @_answer.register
    def _publish_adapter(self, request: PublishAdapterRequest, _: Bulk) -> Message:
        """Grow this institution's adapter on a release, by its own decision only."""
        self._accept(request.checkpoint)
        self._require_charges()
        name = request.name
        release = self.mirror.state.releases.get(name)
        if release is None or release.model_digest != self.replica.release_digest:
            raise Refused(
                Reason.BASE_MISMATCH,
                f"{name} is not the base held here, {self.replica.release_digest}",
                code="base-differs",
            )
        self._base.check_sums(release.run_id, until=release.round_number)
        if not self.settings.adapter.publish:
            said = "adapter.publish is false in node.toml"
            raise Refused(Reason.LOCAL_POLICY, said, code="adapter-not-offered")
        publisher = Publisher(
            context=self.context,
            settings=self.settings,
            replica=self.replica,
            ledger=self._ledger,
            community=self.keys["community"],
            folder=self.directory,
        )
        return publisher.publish(release, now=self.clock())

    def _refuse(self, message: Message, reason: Reason) -> Message:
        """Reply with the reason and no more; a refused offer is signed for the log."""
        entries: list[bytes] = []
        current = self._state.open_round if self._state else None
        if message.kind is Kind.ADVERTISE_KEYS and current is not None:
            manifest = current.manifest
            refused = ContributionRefused(
                run_id=manifest.run_id,
                round_number=manifest.round_number,
                attempt=manifest.attempt,
                reason=reason,
            )
            entries.append(self.context.sign_event(refused, now=self.clock()))
        return encode_message(Refusal(reason=reason), entries)
