"""One round on one node: TSA-1's messages, with training between 4 and 5.

After each step state and reply are on the disk before the reply leaves, sealed, in one
transaction with the marks of the step (``session_files``). A node that is started again
goes on with the round, and answers the request that it answered last with the same
bytes; it takes no step twice.
"""

import secrets
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from tapestry.encoding import digest_all
from tapestry.errors import ConfigError, ProtocolError
from tapestry.inputs.private_data import hides_records
from tapestry.keys import SigningKey
from tapestry.model.low_rank import round_seed
from tapestry.model.replica import Replica
from tapestry.protocol.messages import Bulk, Kind, Message, Reason, encode_message
from tapestry.protocol.round_manifest import RoundManifest
from tapestry.protocol.secagg_messages import (
    Ciphertexts,
    ConsentList,
    HeadList,
    KeyList,
    SurvivorList,
)
from tapestry.protocol.stages import RoundStage
from tapestry.secagg import client
from tapestry.secagg.client_states import (
    ConsistencyChecked,
    InputMasked,
    KeysAdvertised,
    KeysShared,
    SharesRevealed,
)
from tapestry.secagg.requirements import Requirements, RunPlan, check_manifest
from tapestry.secagg.saved_states import (
    ClientState,
    restore_state,
    save_state,
    stage_of,
)
from tapestry.vectors import FloatVector, IntegerVector, Layout
from tapestry_governance.events.envelope import Author, sign_entry
from tapestry_governance.events.event_body import Body
from tapestry_governance.events.privacy_events import DpAccounted
from tapestry_governance.events.round_events import (
    ContributionCommitted,
    RoundAborted,
    RoundClosed,
    RoundOpened,
)
from tapestry_governance.log.mirror import LogMirror
from tapestry_node.budget.ledger import Charge, Ledger
from tapestry_node.budget.log_accounts import check_cap, loss_of
from tapestry_node.node_state import NodeState
from tapestry_node.refusal import Refused
from tapestry_node.round.admission import first_round
from tapestry_node.round.contribution import prepare
from tapestry_node.round.session_files import (
    SavedReply,
    SessionFiles,
    SessionRecord,
    message_of,
)
from tapestry_node.round.session_marks import SessionMark, has_uploaded
from tapestry_node.round.survivor_marks import ConsentMark, UploadMark
from tapestry_node.training.trainer import Trainer

StageRequest = KeyList | HeadList | SurvivorList | ConsentList
Notify = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeContext:
    """The parts of a node that sessions and publications work with."""

    name: str
    identity: SigningKey
    store: NodeState
    files: SessionFiles
    mirror: LogMirror
    trainer: Trainer
    author: Author
    min_cohort: int
    max_colluding: int
    varying_survivors: tuple[str, ...]  # exceptions, by digest
    hybrid_up_to: int
    notify: Notify
    failed: set[str] = field(default_factory=set)  # runs in which a training failed

    def check_failed(self, run_id: str) -> None:
        """Refuse further training of a run in which one failed here.

        A publication counts as part of its training. A failure may depend on the
        records; its refusal shows it, and was paid for.

        Raises:
            Refused: A training failed, of a round or of an adapter.
        """
        if run_id in self.failed:
            raise Refused(
                Reason.TRAINING_FAILED,
                f"a training of {run_id!r}, or what was made of it, failed here; see"
                " above why, and restart the node to try again",
                code="training-failed",
            )

    def sign_event(self, body: Body, *, now: datetime) -> bytes:
        """Sign an event as this node."""
        event = self.author.event(body, now=now, seen=self.mirror.seen)
        return sign_entry(event, self.identity)


@dataclass(frozen=True, slots=True)
class _UploadMarks:
    """The marks of a node, each taken together with the charge of the round."""

    context: NodeContext
    manifest: RoundManifest
    names: tuple[str, ...]  # of the base's parameters
    charge: Charge | None
    now: datetime

    @property
    def account(self) -> bytes:
        """The signed account of the round; it is there once the upload is taken."""
        key = "round", self.manifest.run_id, self.manifest.round_number
        return self.context.store.accounts()[key]

    def highest(self, run_id: str) -> int:
        """Return the last round of a run that was uploaded or paid for."""
        return self.context.store.highest(run_id)

    def raise_to(self, run_id: str, round_number: int) -> None:
        """Spend the charge, take the upload of the round and account for it."""
        mark = UploadMark.of(self.manifest, names=self.names)
        if (mark.run, mark.round_number) != (run_id, round_number):
            raise ValueError(
                f"a mark of {run_id} {round_number} on the state of {mark}"
            )
        named = self.context.varying_survivors
        self.context.store.take_upload(
            mark, charge=self.charge, sign=self._sign, named=named
        )

    def _sign(self, number: int, spent: Sequence[Charge]) -> bytes:
        manifest, unit = self.manifest, self.context.trainer.manifest.unit
        account = DpAccounted(
            number=number,
            run_id=manifest.run_id,
            round_number=manifest.round_number,
            attempt=manifest.attempt,
            adapter=None,
            version=None,
            steps=manifest.training.steps,
            loss=loss_of(self.charge, manifest.privacy, spent=spent, unit=unit),
        )
        return self.context.sign_event(account, now=self.now)


class Session:
    """A round that this node has joined."""

    def __init__(
        self,
        context: NodeContext,
        manifest: RoundManifest,
        *,
        replica: Replica,
        layout: Layout,
        ledger: Ledger,
        saved: SessionRecord | None = None,
    ) -> None:
        """Reserve the budget and join, or go on with what an earlier process saved.

        Guarantees:
            Until its upload was masked, a round that is gone on with meets all that one
            that is joined meets.

        Raises:
            BudgetExhausted: The ledger does not cover the round.
            Refused: The round has no noise, and its cohort is too far from an earlier
                one.
            ProtocolError, PolicyError: The manifest breaks a rule of TSA-1 or of
                this node.
            ResourceError: The session cannot be written.
        """
        self.manifest = manifest
        self._context, self._replica, self._ledger = context, replica, ledger
        charge = context.trainer.charge(manifest)
        self.charge = None if charge is None else ledger.known(charge)
        self._answered: tuple[str, Message] | None = None
        self._state: ClientState
        if saved is not None and has_uploaded(saved.state.stage):
            self._restore(saved, saved.min_cohort)
            return
        context.store.check_upload(
            UploadMark.of(manifest, names=_names_of(replica)),
            named=context.varying_survivors,
        )
        terms = self._terms(layout)
        if saved is not None:
            self._restore(saved, check_manifest(manifest, terms))
            return
        self._state, self.advertisement = client.advertise_keys(
            manifest, context.identity, terms=terms
        )
        try:
            context.store.keep_session(self._save(self._state, None))
        except Exception:
            self.abandon()
            raise

    def _terms(self, layout: Layout) -> Requirements:
        context, manifest = self._context, self.manifest
        # The log still knows the uploads of a node whose disk was restored.
        logged = context.mirror.state.uploads_of(context.name).get(manifest.run_id, 0)
        return Requirements(
            model_digest=self._replica.digest,
            roster_digest=context.mirror.state.roster.digest,
            roster={m.name: m.node for m in context.mirror.state.members.values()},
            plan=_agreed_plan(context.mirror, manifest, layout),
            min_cohort=context.min_cohort,
            min_colluding=context.max_colluding,
            hybrid_up_to=context.hybrid_up_to,
            highest_round=max(context.store.highest(manifest.run_id), logged),
            afford=lambda _: self._reserve(),
        )

    def _restore(self, saved: SessionRecord, min_cohort: int) -> None:
        context = self._context
        self.advertisement = saved.advertisement
        self._state = restore_state(
            saved.state, self.manifest, context.identity, min_cohort=min_cohort
        )
        if saved.reply is None:
            return
        chunks: list[memoryview] = []
        if isinstance(self._state, InputMasked):
            chunks = context.files.read_upload(self.manifest, root=self._state.root)
        self._answered = saved.reply.request, message_of(saved.reply, chunks)

    def answer(
        self, request: StageRequest, bulk: Bulk = (), *, now: datetime
    ) -> Message:
        """Take the step of TSA-1 that a request asks for (messages 2 to 9).

        Guarantees:
            The state after the step, with the reply, is on the disk before this
            returns.

        Edge cases:
            The request that an earlier process answered last gets the same reply,
            byte for byte, until the next step. Any other request of a step that was
            taken is refused.

        Raises:
            ProtocolError: The request belongs to another step, or breaks a rule of it.
            VerificationError: A signature in it does not hold.
            QuorumError: The request names too few nodes.
            ResourceError: The session cannot be written; its step counts as taken.
        """
        asked = digest_all([request.encode(), *bulk])
        if self._answered is not None and self._answered[0] == asked:
            return self._answered[1]
        after, reply = self._step(request, bulk, now=now)
        mark = self._save(after, _saved(asked, reply))
        if isinstance(request, SurvivorList):
            self._mark_survivors(request.names, mark)
        else:
            self._context.store.keep_session(mark)
        self._context.files.keep_only(mark.stage)
        self._state, self._answered = after, None
        return reply

    def _step(
        self, request: StageRequest, bulk: Bulk, *, now: datetime
    ) -> tuple[ClientState, Message]:
        match self._state, request:
            case KeysAdvertised() as advertised, KeyList() as keys:
                shared, shares = client.share_keys(advertised, keys)
                return shared, encode_message(shares.head, [shares.messages])
            case KeysShared() as shared, HeadList() as heads:
                sealed = Ciphertexts(heads=heads, messages=b"".join(bulk))
                return self._contribute(shared, sealed, now=now)
            case InputMasked() as masked, SurvivorList() as survivors:
                checked, consent = client.check_consistency(masked, survivors)
                return checked, encode_message(consent)
            case ConsistencyChecked() as checked, ConsentList() as consents:
                revealed, reveal = client.unmask(checked, consents)
                return revealed, encode_message(reveal)
        raise ProtocolError(
            f"round {self.manifest.round_number} is at {type(self._state).__name__} "
            f"here; it takes no {type(request).__name__}",
            code="step-out-of-order",
        )

    def _save(self, state: ClientState, reply: SavedReply | None) -> SessionMark:
        """Write a state into its file; it counts once the node's state names it."""
        record = SessionRecord(
            min_cohort=state.round.min_cohort,
            advertisement=self.advertisement,
            reply=reply,
            state=save_state(state),
        )
        return self._context.files.write(self.manifest, record)

    def _contribute(
        self, shared: KeysShared, ciphertexts: Ciphertexts, *, now: datetime
    ) -> tuple[InputMasked, Message]:
        """Train, and answer message 4 with message 5.

        Guarantees:
            Charge, upload mark and the signed account of the spending, taken as one,
            are on disk before anything is masked, so that no two vectors ever get the
            same masks. A training that fails is paid for, accounted and marked as well:
            the failure may depend on the records, and the refusal shows it.

        Edge cases:
            A process that dies while it trains has spent nothing, and the next one
            trains again. One that dies between the mark and the masked vector's file
            has spent the budget, and is left out.
        """
        from tapestry.privacy.gaussian import NoiseSource

        ready = client.receive_shares(shared, ciphertexts)
        marks = _UploadMarks(
            context=self._context,
            manifest=self.manifest,
            names=_names_of(self._replica),
            charge=self.charge,
            now=now,
        )
        try:
            quantized = prepare(
                self._train(),
                manifest=self.manifest,
                random=secrets.token_bytes,
                noise=NoiseSource.fresh(),
            )
        except Exception:  # no interrupt, which shows nothing of the records
            self._context.failed.add(self.manifest.run_id)
            client.reserve(ready, marks)
            raise
        reservation = client.reserve(ready, marks)
        masked, upload = client.mask_input(ready, quantized, reservation=reservation)
        self._context.files.write_upload(upload.chunks)
        commitment = ContributionCommitted(
            run_id=self.manifest.run_id,
            round_number=self.manifest.round_number,
            attempt=self.manifest.attempt,
            context=self.manifest.context.hex(),
            masked_root=upload.head.root.removeprefix("sha256:"),
        )
        committed = self._context.sign_event(commitment, now=now)
        entries = marks.account, committed
        return masked, encode_message(upload.head, [*entries, *upload.chunks])

    @property
    def stage(self) -> RoundStage:
        """The stage whose reply may have left."""
        return stage_of(self._state)

    @property
    def done(self) -> SharesRevealed | None:
        """The state after message 9, to check the result with; None before."""
        return self._state if isinstance(self._state, SharesRevealed) else None

    def abandon(self) -> None:
        """Give back budget of a round for which nothing left."""
        if self.charge is not None:
            self._ledger.release(self.charge)

    def _reserve(self) -> None:
        privacy = self.manifest.privacy
        if self.charge is None and privacy.noise == "none":
            return
        if self.charge is None or privacy.noise == "none":
            raise ConfigError(
                f"round {self.manifest.round_number} has noise {privacy.noise!r}, but"
                f" charge {self.charge}",
                code="privacy-terms-differ",
            )
        self.charge = check_cap(
            self._ledger.fit(self.charge),
            ledger=self._ledger,
            state=self._context.mirror.state,
            name=self._context.name,
            target_delta=privacy.target_delta,
        )
        self._ledger.reserve(self.charge)

    def _mark_survivors(self, names: tuple[str, ...], session: SessionMark) -> None:
        """Put the survivor set of a round without noise on disk, with the session.

        Raises:
            Refused: This node, or the log, knows another set of the base or the run.
        """
        context = self._context
        if self.manifest.privacy.noise != "none":
            context.store.keep_session(session)
        else:
            context.store.take_consent(
                ConsentMark.of(self.manifest, names, names=_names_of(self._replica)),
                session=session,
                logged=_logged_consents(context.mirror, context.name, context.store),
                named=context.varying_survivors,
            )

    def _leave_out(self) -> None:
        """Train on those no more who were withdrawn by now."""
        withdrawn = self._context.store.reading().withdrawn
        self._context.trainer.drop(withdrawn)

    @hides_records
    def _train(self) -> FloatVector | IntegerVector:
        trainer = self._context.trainer

        def done(step: int, steps: int) -> None:
            event = {"stage": "round", "round": self.manifest.round_number}
            stage = RoundStage.COLLECT_MASKED_INPUTS
            work = {"round_stage": stage, "node": self._context.name}
            self._context.notify({**event, **work, "done": step, "total": steps})
            self._leave_out()

        self._leave_out()
        blocks = self.charge.blocks if self.charge else trainer.holdings.version.trains
        return trainer.update(self._replica, self.manifest, blocks=blocks, done=done)


def _saved(request: str, reply: Message) -> SavedReply:
    """Return a reply as it is sealed; an upload's chunks lie beside it."""
    is_upload = reply.kind is Kind.MASKED_INPUT
    attachments = reply.attachments[:2] if is_upload else reply.attachments
    return SavedReply(
        request=request,
        kind=reply.kind,
        body=reply.body,
        attachments=tuple(bytes(each) for each in attachments),
    )


def _logged_consents(
    mirror: LogMirror, name: str, store: NodeState
) -> Iterator[ConsentMark]:
    """List the survivor sets with a node whose sums may be known, by the log.

    Edge cases:
        A set that died with a coordinator is that of the node's own mark. Without one
        there was none, unless the node has ever forgotten what it did: then it may be
        any, and has no names here.
    """
    ends = [
        (mirror.body(ended.opened, RoundOpened).manifest, ended.index)
        for ended in mirror.state.closed.newest_first()
    ]
    closed = [(m, mirror.body(index, RoundClosed)) for m, index in ends]
    names: dict[str, set[str]] = defaultdict(set)
    for _, body in closed:  # one model under two names
        names[body.base_after].add(body.release_digest)
        names[body.release_digest].add(body.base_after)
    found = [(manifest, body.included) for manifest, body in closed]
    reading = store.reading()
    is_forgetful = reading.has_forgotten
    marked = {mark.key for mark in reading.consents}
    for ended in mirror.state.aborted.newest_first():
        manifest = mirror.body(ended.opened, RoundOpened).manifest
        end = mirror.body(ended.index, RoundAborted)
        if not end.is_unknown:
            found.append((manifest, end.survivors))
        elif is_forgetful and ended.key not in marked and _takes_part(name, manifest):
            found.append((manifest, ()))
    for manifest, survivors in found:
        if manifest.privacy.noise == "none" and (name in survivors or not survivors):
            base = manifest.model_digest
            yield ConsentMark.of(manifest, survivors, names=names.get(base, ()))


def _takes_part(name: str, manifest: RoundManifest) -> bool:
    return any(each.name == name for each in manifest.participants)


def _names_of(replica: Replica) -> tuple[str, ...]:
    """Return the digests of a base's parameters, as they are and as released."""
    return replica.manifest.parameters, replica.released.parameters


def _agreed_plan(mirror: LogMirror, manifest: RoundManifest, layout: Layout) -> RunPlan:
    """Return the plan of the run's first round, with this round's factors.

    Raises:
        Refused: The factor seed is not the one that follows from the round.
    """
    seed = round_seed(
        manifest.run_id, manifest.round_number, model_digest=manifest.model_digest
    )
    if manifest.training.factor_seed != seed:
        raise Refused(
            Reason.LOCAL_POLICY,
            f"factor seed {manifest.training.factor_seed}, but {seed} follows from the"
            f" run, round {manifest.round_number} and its base",
            code="factor-seed-differs",
        )
    first = first_round(mirror, manifest.run_id)
    training = first.training.model_copy(update={"factor_seed": seed})
    return replace(
        RunPlan.of(first),
        layout_digest=layout.digest,
        length=layout.length,
        training=training,
    )
