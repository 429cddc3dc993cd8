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
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial, singledispatchmethod
from pathlib import Path

from tapestry.errors import (
    PolicyError,
    ProtocolError,
    TapestryError,
    VerificationError,
)
from tapestry.evaluation.scorer import KnownScores
from tapestry.inputs.faults import unforeseen
from tapestry.model.replica import Replica
from tapestry.protocol.messages import (
    MAX_SUBMITTED,
    AdvertiseKeysRequest,
    ApplyResultRequest,
    Bulk,
    CheckChunkRequest,
    CosignReply,
    CosignRequest,
    HelloRequest,
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
from tapestry.protocol.round_manifest import RoundManifest
from tapestry.protocol.secagg_messages import (
    ConsentList,
    HeadList,
    KeyList,
    SurvivorList,
)
from tapestry.protocol.stages import RoundStage
from tapestry.schema import Strict
from tapestry.software_digest import software_digest
from tapestry.tlog.checkpoint import read_claim
from tapestry.vectors import Layout
from tapestry.workloads.base import Workload
from tapestry_governance.events.envelope import Author
from tapestry_governance.events.round_events import (
    ContributionRefused,
    RoundClosed,
    RoundDisputed,
)
from tapestry_governance.rules.federation_state import FederationState
from tapestry_node.adapters.adapter_requests import answer_request, may_have_trained
from tapestry_node.availability import exit_obstacle, is_refused, obstacles
from tapestry_node.budget.ledger import Ledger
from tapestry_node.budget.log_accounts import published_charges
from tapestry_node.data.declarations import require_declared, undeclared
from tapestry_node.data_ledger import open_ledger
from tapestry_node.node_state import NodeState
from tapestry_node.open_folder import OpenFolder, Progress
from tapestry_node.refusal import Objection, Refused, log_refusal, reason_of
from tapestry_node.restored_state import (
    Settlement,
    check_memory,
    cosign,
    is_enough,
    require_settled,
)
from tapestry_node.round.admission import Facts, check_offer, first_round
from tapestry_node.round.base_snapshots import BaseSnapshots
from tapestry_node.round.gate_check import GateCheck
from tapestry_node.round.result import ResultApplier
from tapestry_node.round.session import NodeContext, Notify, Session
from tapestry_node.round.session_files import FOLDER, SessionFiles, SessionRecord
from tapestry_node.round.session_marks import SessionMark, has_uploaded, round_of
from tapestry_node.round.spot_checks import SpotChecks
from tapestry_node.submission import entries_to_submit, sign_head
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
        directory: Path | OpenFolder,
        *,
        workload: Workload,
        replica: Replica | None = None,
        notify: Notify = lambda _: None,
        clock: Clock = _now,
        open_trainer: OpenTrainer = Trainer,
    ) -> None:
        """Open a node's folder.

        Args:
            directory: Holds ``node.toml``, ``trust-policy.txt``, ``keys/``, the data;
                or such a folder, opened already.
            workload: The given base, loaded; may be shared by nodes of one process.
            replica: The given base, if it was read already.
            notify: Told, on this machine only, how far the work is.
            clock: Returns the time.
            open_trainer: Reads the records; a test gives one that notes its updates.

        Raises:
            ConfigError: A setting, key or data file is not as it must be.
            VerificationError: Log mirror or state was tampered with, or is an older
                copy: the log knows of a charge or an upload that the state does not.
        """
        whole = OpenFolder.open(directory) if isinstance(directory, Path) else directory
        self._folder, directory, self.settings = whole, whole.directory, whole.settings
        self.directory, self.keys = directory, whole.keys
        self._store, self.mirror = whole.store, whole.mirror
        data, manifest = self.settings.data_in(directory)
        self.trainer = open_trainer(
            data,
            manifest=manifest,
            workload=workload,
            settings=self.settings,
            scratch=directory,
        )
        self._ledger = open_ledger(
            self._store,
            self.trainer,
            settings=self.settings,
            log=self._state,
            now=clock(),
        )
        if self.mirror.size:
            self._store.require(self.mirror.state.uploads_of(self.name))
        self._require_charges()
        self.spots = SpotChecks(
            store=self._store,
            wanted=self.settings.policy.chunks_to_check,
            folder=directory,
        )
        self._gate = GateCheck(workload, folder=directory, dispute=self._dispute_gate)
        self.base = ResultApplier(
            BaseSnapshots(
                directory=directory, given=replica or Replica.start(workload.given)
            ),
            mirror=self.mirror,
            store=self._store,
            spots=self.spots,
            gate=self._gate,
            workload=workload,
        )
        self.refused: Objection | None = None  # why, of the request answered last
        self._notify, self.clock = notify, clock
        self.context = self._make_context()
        self.session = self._take_up()
        kept = self.session.charge if self.session is not None else None
        for row in self._ledger.rows():  # of what died with another process
            if row.charge != kept:
                self._ledger.release(row.charge)

    @property
    def name(self) -> str:
        """The institution's name in the federation."""
        return self.settings.name

    @property
    def replica(self) -> Replica:
        """The base that this node holds."""
        return self.base.replica

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
        self.refused = None
        try:
            body = decode_body(message)
            if isinstance(body, HelloRequest):
                reply = self._identify(body.nonce, connection)
            else:
                reply = self._answer(body, message.attachments)
        except Exception as error:  # noqa: BLE001 - default deny, whatever it is
            self.refused = log_refusal(self.name, message.kind, error)
            reply = self._refuse(message, reason_of(error))
        self._store.record(reply)
        return reply

    def close(self) -> None:
        """Close the databases."""
        self._folder.close()

    def _make_context(self) -> NodeContext:
        settings = self.settings
        return NodeContext(
            name=settings.name,
            identity=self.keys["node"],
            store=self._store,
            files=SessionFiles(
                folder=self.directory / FOLDER,
                genesis=settings.joined,
                node=settings.name,
                seed=self.keys["node"].seed,
            ),
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
        progress = Progress(
            lacks=self.base.lacks(),
            asks=tuple(self.base.asks()),
            held_out=self._gate.held,
            rests=is_refused(self.require_available),
        )
        return self._folder.identify(nonce, connection, progress)

    @_answer.register
    def _cosign(self, request: CosignRequest, entries: Bulk) -> Message:
        """Mirror the log's new entries, check append-only and the rules, and cosign."""
        ring, steps = self._folder.ring, [each.encode() for each in request.cosigned]
        check_memory(self._store, ring, size=self.mirror.size, notes=steps)
        new, note = [bytes(each) for each in entries], request.checkpoint.encode()
        self.mirror.extend(request.start, new, note, cosigned=steps)
        self._leave_ended()
        self._follow_keys()
        require_settled(self._store)
        self.base.check_ends()
        self.base.check_releases()
        where, now = self.directory, self.clock()
        signed = cosign(self._store, self.mirror, ring, folder=where, now=now)
        lines = tuple(line.decode() for line in signed)
        submitted = self._submitted_entries()
        head = sign_head(self._store, self.keys["node"], read_claim(note), submitted)
        reply = CosignReply(lines=lines, head=head.decode())
        return encode_message(reply, submitted)

    def _submitted_entries(self) -> list[bytes]:
        """Declare the records, if nothing did; return what the log lacks."""
        for version in undeclared(self._store, self.mirror.state, name=self.name):
            declared = self.trainer.declaration(version, self._salt)
            self._store.post(self.context.sign_event(declared, now=self.clock()))
        sign = partial(self.context.sign_event, now=self.clock())
        found = entries_to_submit(self._store, self.mirror, name=self.name, sign=sign)
        return found[:MAX_SUBMITTED]

    @property
    def _salt(self) -> bytes:
        return self._store.secret("dataset-salt", secrets.token_bytes(32))

    def _require_data(self) -> None:
        """Require that the data here are declared, and that some may train."""
        holdings = self.trainer.holdings
        version, log = holdings.version, self.mirror.state
        require_declared(log, self.name, version=version, salt=self._salt)
        if not len(holdings.select(version.trains)):
            said = "no unit of the declared data is left to train on"
            raise Refused(Reason.MAINTENANCE, said, code="nothing-to-train")

    def _follow_keys(self) -> None:
        """Sign with the keys that the log expects from here on.

        A round that is open goes on with its keys; when one of them is compromised, the
        log takes nothing more by it, and the round is left.
        """
        before, ring = self.keys["node"].verify_key, self._folder.ring
        ring.follow(self.mirror)
        if (key := ring.keys["node"]).verify_key == before:
            return
        if self._state is not None and self._state.open_round is not None:
            self._leave_session()
        files = replace(self.context.files, seed=key.seed)
        self.context = replace(self.context, identity=key, files=files)

    def _accept(self, checkpoint: str) -> None:
        """Accept a checkpoint as the newest one; settle a state that was restored.

        Raises:
            Refused: The checkpoint is too old, or older than the last one; or the state
                was restored, and others have not cosigned it since then.
        """
        longest = self.settings.policy.max_checkpoint_age
        note, now = checkpoint.encode(), self.clock()
        try:
            opened = self.mirror.accept_checkpoint(note, now, max_age=longest)
        except PolicyError as error:
            reason = Reason.STALE_CHECKPOINT
            raise Refused(reason, str(error), code=error.code) from None
        self._follow_keys()
        own = self._folder.ring.witnesses_ever(self.mirror.state)
        trust = self.mirror.trust
        restored = self._store.restored
        if restored and is_enough(opened, restored, trust=trust, own=own):
            settlement = Settlement(
                context=self.context,
                publishers=tuple(may_have_trained(self)),
                now=now,
            )
            settlement.settle(restored, size=opened.checkpoint.size)
        require_settled(self._store)

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
        self.require_available()
        self._require_charges()
        self._store.require(self.mirror.state.uploads_of(self.name))
        self._require_data()
        self._leave_session()
        self.session = self._join(current.manifest)
        return encode_message(self.session.advertisement)

    def _join(
        self, manifest: RoundManifest, saved: SessionRecord | None = None
    ) -> Session:
        """Join a round, or go on with one, if it meets all rules of admission."""
        self.base.check_sums(manifest.run_id, until=manifest.round_number)
        self.base.check_followed(manifest.run_id)
        self.base.enter(manifest.run_id)
        self._gate.require(manifest)
        self.context.check_failed(manifest.run_id)
        with refusing(Reason.PLAN_UNSUPPORTED):
            layout = self.trainer.layout(manifest)
        policy = self.settings.policy
        named = self.mirror.state.policy.given_base(manifest.model_digest)
        facts = Facts(
            name=self.name,
            federation=self.settings.federation,
            software_digest=software_digest(),
            base_digest=self.replica.digest,
            origin=self.base.origin(manifest.run_id, named=policy.bases),
            parameters=self.replica.manifest.parameters,
            named_parameters=None if named is None else named.parameters,
            layout_digest=layout.digest,
            layout_length=layout.length,
        )
        check_offer(manifest, policy=policy, facts=facts)
        self.trainer.trainable.check_round(
            manifest, load=lambda: self.trainer.workload.load(self.replica.parameters)
        )
        return self._session(manifest, layout, saved)

    def _session(
        self, manifest: RoundManifest, layout: Layout, saved: SessionRecord | None
    ) -> Session:
        return Session(
            self.context,
            manifest,
            replica=self.replica,
            layout=layout,
            ledger=self._ledger,
            saved=saved,
        )

    def _take_up(self) -> Session | None:
        """Go on with the round that the process before this one was in.

        Guarantees:
            A session goes on at the step that the node's state names alone, in the
            round that the log has open. Of one that cannot, nothing stays.
        """
        files = self.context.files
        session = None
        try:
            if (mark := self._store.session()) is not None:
                session = self._go_on(mark)
        except Exception as error:  # noqa: BLE001 - whatever it is, the node starts
            code = error.code if isinstance(error, TapestryError) else "internal"
            said = error if isinstance(error, TapestryError) else unforeseen(error)
            _logger.warning(
                "%s is left out of the round that it was in: %s [%s]",
                *(self.name, said, code),
            )
        if session is None:
            files.keep_only(None)
            self._store.end_session()
        else:
            files.keep_only(session.stage)
        return session

    def _go_on(self, mark: SessionMark) -> Session:
        manifest = round_of(mark, self._state)
        saved = self.context.files.read(mark, manifest)
        if not has_uploaded(mark.stage):
            return self._join(manifest, saved)
        if mark.stage != RoundStage.UNMASK:
            self.base.enter(manifest.run_id)
            if self.replica.digest != manifest.model_digest:
                raise VerificationError(
                    f"the round starts from {manifest.model_digest}, here is"
                    f" {self.replica.digest}",
                    code="base-differs",
                )
        return self._session(manifest, self.trainer.layout(manifest), saved)

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
        """Keep the public data of the gate that the plan of a run names in the log."""
        plan = first_round(self.mirror, request.run_id)
        self._gate.keep(plan, request.files, [bytes(file) for file in files])
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
        ended = self.base.ended(request.run_id, request.round_number, within=size)
        if self.base.is_next(ended):
            session, done = self.session, None
            if session is not None and session.manifest == ended.manifest:
                done = session.done
            self.base.take(ended, request.result, chunks, done=done)
            self._leave_session()
        return self._receipt()

    @_answer.register
    def _check_chunk(self, request: CheckChunkRequest, chunks: Bulk) -> Message:
        """Recompute a chunk that this node asked for."""
        self.spots.check(request, chunks)
        return self._receipt()

    def _receipt(self) -> Message:
        """Say that a request was taken, and what is wanted next."""
        asks = tuple(self.base.asks())
        return encode_message(ReceiptReply(asks=asks, lacks=self.base.lacks()))

    @property
    def leaves(self) -> Refused | None:
        """The refusal of all new work once the institution has signed its exit."""
        return exit_obstacle(self.name, self._state, self._store.outbox())

    def require_available(self) -> None:
        """Require that the operator lets new work begin.

        Raises:
            Refused: The node is paused, outside of its hours or short of disk, or its
                institution leaves.
        """
        if (left := self.leaves) is not None:
            raise left
        for found in obstacles(self.directory, self.settings, self.clock()):
            raise found

    def _leave_session(self) -> None:
        """Forget a round, and give back what was reserved for it but not spent."""
        self.context.files.keep_only(None)  # its secrets first
        self._store.end_session()
        if self.session is not None:
            self.session.abandon()
        self.session = None

    def _leave_ended(self) -> None:
        """Forget a round that the log has ended, unless its result is checked yet."""
        session, state = self.session, self._state
        if session is None or session.done is not None or state is None:
            return
        current = state.open_round
        if current is None or current.manifest != session.manifest:
            self._leave_session()

    @_answer.register
    def _publish_adapter(self, request: PublishAdapterRequest, _: Bulk) -> Message:
        """Hand out an adapter of this institution, by its own decision only."""
        self._accept(request.checkpoint)
        return answer_request(self, request.name)

    def require_work(self) -> None:
        """Require that new work may begin, and that the ledger knows all of the log.

        Raises:
            Refused: The operator lets nothing new begin, or the institution leaves.
            VerificationError: The log holds a charge that the ledger does not.
        """
        self.require_available()
        self._require_charges()

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
