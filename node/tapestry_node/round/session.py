"""One round on one node: TSA-1's messages, with training between 4 and 5.

A session lives in memory. A node that restarts has dropped out of the round; what
must survive (budget, high-water mark, outbox) is on disk before it matters.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tapestry.encoding import encode_fraction
from tapestry.errors import ProtocolError
from tapestry.keys import SigningKey
from tapestry.model.low_rank import round_seed
from tapestry.model.replica import Replica
from tapestry.privacy import accounting
from tapestry.privacy.gaussian import NoiseSource
from tapestry.protocol.wire_messages import (
    Kind,
    Message,
    PrivacyPlan,
    Reason,
    RoundManifest,
)
from tapestry.secagg import client, client_states
from tapestry.secagg.messages import (
    Ciphertexts,
    ConsentList,
    KeyList,
    SurvivorList,
    Upload,
)
from tapestry.secagg.requirements import Requirements, RunPlan
from tapestry.settings import number
from tapestry.vectors import FloatVector, Layout
from tapestry_governance.events.envelope import Author, sign_entry
from tapestry_governance.events.types import (
    Body,
    ContributionCommitted,
    DpAccounted,
    roster_digest,
)
from tapestry_governance.log.mirror import LogMirror
from tapestry_governance.rules.federation_state import FederationState
from tapestry_node.budget.ledger import Charge, Ledger
from tapestry_node.log_history import committed_rounds
from tapestry_node.node_state import NodeState
from tapestry_node.round.admission import Refused, first_round
from tapestry_node.round.contribution import prepare
from tapestry_node.training.trainer import Trainer

Notify = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeContext:
    """What a session works with; all of it belongs to the node."""

    name: str
    identity: SigningKey
    store: NodeState
    view: LogMirror
    trainer: Trainer
    author: Author
    min_cohort: int
    max_colluding: int
    notify: Notify
    failed: set[str] = field(default_factory=set)  # runs in which a training failed

    def check_failed(self, run_id: str) -> None:
        """Pay for no further training of a run in which one failed here.

        A publication of what was trained counts as part of it. That it failed may
        depend on the records; its refusal told, and was paid for.

        Raises:
            Refused: One failed, of a round or of an adapter.
        """
        if run_id in self.failed:
            raise Refused(
                Reason.TRAINING_FAILED,
                f"a training of {run_id!r}, or what was made of it, failed here; see"
                " above why, and restart the node to try again",
            )

    def sign_event(self, body: Body, *, now: datetime) -> bytes:
        """Sign an event as this node."""
        event = self.author.event(body, now=now, seen=self.view.seen)
        return sign_entry(event, self.identity)


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
    ) -> None:
        """Reserve the budget and join.

        Raises:
            BudgetExhausted: The ledger does not cover the round.
            ProtocolError, PolicyError: The manifest breaks a rule of TSA-1 or of
                this node.
        """
        self.manifest = manifest
        self._context, self._replica, self._ledger = context, replica, ledger
        self._charge = context.trainer.charge(manifest)
        terms = Requirements(
            model_digest=replica.digest,
            roster_digest=roster_digest(context.view.state.charter.members),
            roster={m.name: m.node for m in context.view.state.members.values()},
            plan=_agreed_plan(context.view.state, manifest, layout),
            min_cohort=context.min_cohort,
            min_colluding=context.max_colluding,
            weight_cap=1,
            highest_round=_highest(context, manifest.run_id),
            afford=lambda _: self._reserve(),
        )
        self._state: Any
        self._state, self._hello = client.join(manifest, context.identity, terms=terms)

    def advertise(self) -> Message:
        """Message 1."""
        return Message(kind=Kind.ADVERTISEMENT, body=self._hello.encode())

    def share(self, message: Message) -> Message:
        """Messages 2 and 3."""
        self._state, reply = client.share(
            self._expect(client_states.Joined), KeyList.decode(message.body)
        )
        return Message(kind=Kind.SHARES, body=reply.encode())

    def contribute(self, message: Message, *, now: datetime) -> Message:
        """Messages 4 and 5, with training in between.

        Guarantees:
            Budget, high-water mark and the signed account of the spending are on
            disk before the upload is returned. A training that fails is paid for,
            too: that it failed may depend on the records, and the refusal tells.
        """
        ready = client.receive(
            self._expect(client_states.Shared), Ciphertexts.decode(message.body)
        )
        try:
            update = self._train()
        except Exception:
            self._context.failed.add(self.manifest.run_id)
            raise
        finally:
            accounted = self._spend(now)
        place = ready.round.cohort.places[self._context.name]
        quantized = prepare(
            update,
            manifest=self.manifest,
            place=place,
            random=secrets.token_bytes,
            noise=NoiseSource.fresh(),
        )
        reservation = client.reserve(ready, self._context.store)
        self._state, upload = client.upload(ready, quantized, reservation=reservation)
        committed = self._context.sign_event(self._commitment(upload), now=now)
        return Message(
            kind=Kind.UPLOAD,
            body=upload.head.encode(),
            attachments=[accounted, committed, *upload.chunks],
        )

    def consent(self, message: Message) -> Message:
        """Messages 6 and 7."""
        self._state, reply = client.consent(
            self._expect(client_states.Uploaded), SurvivorList.decode(message.body)
        )
        return Message(kind=Kind.CONSENT, body=reply.encode())

    def reveal(self, message: Message) -> Message:
        """Messages 8 and 9."""
        self._state, reply = client.reveal(
            self._expect(client_states.Consented), ConsentList.decode(message.body)
        )
        return Message(kind=Kind.REVEAL, body=reply.encode())

    @property
    def done(self) -> client_states.Done | None:
        """What is left after message 9, to check the result against."""
        return self._state if isinstance(self._state, client_states.Done) else None

    def abandon(self) -> None:
        """Give back budget of a round for which nothing left."""
        if self._charge is not None:
            self._ledger.release(self._charge)

    def _expect(self, kind: type[Any]) -> Any:
        if not isinstance(self._state, kind):
            raise ProtocolError(f"the round is not at the stage {kind.__name__}")
        return self._state

    def _reserve(self) -> None:
        if self._charge is not None:
            cap = number(self._context.view.state.policy.epsilon_cap)
            delta = number(self.manifest.privacy.target_delta)
            self._ledger.check_run(self._charge, target_delta=delta, cap=cap)
            self._ledger.reserve(self._charge)

    def _train(self) -> FloatVector:
        def done(step: int, steps: int) -> None:
            event = {"stage": "round", "round": self.manifest.round_number}
            work = {"phase": "training", "node": self._context.name}
            self._context.notify({**event, **work, "done": step, "total": steps})

        return self._context.trainer.update(self._replica, self.manifest, done=done)

    def _spend(self, now: datetime) -> bytes:
        if self._charge is not None:
            self._ledger.spend(self._charge)
        body = self._account()
        entry = self._context.sign_event(body, now=now)
        self._context.store.post(entry)
        return entry

    def _account(self) -> DpAccounted:
        manifest, charge = self.manifest, self._charge
        return DpAccounted(
            run_id=manifest.run_id,
            round_number=manifest.round_number,
            attempt=manifest.attempt,
            adapter=None,
            version=None,
            steps=manifest.training.steps,
            **account_of(charge, manifest.privacy, ledger=self._ledger),
        )

    def _commitment(self, upload: Upload) -> ContributionCommitted:
        manifest = self.manifest
        return ContributionCommitted(
            run_id=manifest.run_id,
            round_number=manifest.round_number,
            attempt=manifest.attempt,
            context=manifest.context.hex(),
            masked_root=upload.head.root.removeprefix("sha256:"),
        )


def account_of(
    charge: Charge | None, plan: PrivacyPlan, *, ledger: Ledger
) -> dict[str, Any]:
    """The fields of a ``dp.accounted`` event that a charge and its promise fix.

    The epsilons are composed at the delta that the event names, which may be smaller
    than the ledger's.
    """
    fixed = {
        "unit": plan.unit,
        "adjacency": plan.adjacency,
        "clip_norm": plan.clip_norm,
        "target_delta": plan.target_delta,
        "accountant": accounting.ACCOUNTANT,
        "accountant_version": accounting.accountant_version(),
    }
    if charge is None:
        return {**fixed, **_NOTHING_PROMISED}
    delta, shared = number(plan.target_delta), ledger.shares_noise(charge.run)
    epsilon = ledger.spent_on(charge.run, target_delta=delta)
    fallback = ledger.spent_on(charge.run, target_delta=delta, fallback=True)
    steps, own = charge.steps, charge.own_multiplier
    integer = steps.coordinates > 0
    return {
        **fixed,
        "trust_model": "shared" if shared else "local",
        "mechanism": accounting.INTEGER_MECHANISM if integer else accounting.MECHANISM,
        "noise_multiplier": encode_fraction(steps.noise_multiplier),
        "own_multiplier": encode_fraction(own),
        "shares": round((steps.noise_multiplier / own) ** 2),
        "coordinates": steps.coordinates,
        "bound": encode_fraction(steps.bound),
        "sampling_rate": encode_fraction(steps.sampling_rate),
        "epsilon_run": encode_fraction(round(epsilon, 6)),
        "epsilon_fallback": encode_fraction(round(fallback, 6)) if shared else None,
    }


_NOTHING_PROMISED = {
    "trust_model": "local",
    "mechanism": "none",
    "noise_multiplier": "0",
    "own_multiplier": "0",
    "shares": 1,
    "coordinates": 0,
    "bound": "0",
    "sampling_rate": "1",
    "epsilon_run": None,
    "epsilon_fallback": None,
}


def _highest(context: NodeContext, run_id: str) -> int:
    """The last round that this node uploaded for, by its own mark and by the log.

    A node whose disk was restored from a backup is behind the log, which still knows
    what it committed to.
    """
    logged = committed_rounds(context.view, context.name)
    numbers = (number for run, number in logged if run == run_id)
    return max(context.store.highest(run_id), *numbers, 0)


def _agreed_plan(
    state: FederationState, manifest: RoundManifest, layout: Layout
) -> RunPlan:
    """The plan of the run's first round, with this round's factors.

    Raises:
        Refused: The factor seed is not the one that follows from the round.
    """
    seed = round_seed(
        manifest.run_id, manifest.round_number, model_digest=manifest.model_digest
    )
    if manifest.training.factor_seed != seed:
        raise Refused(Reason.LOCAL_POLICY, "the factor seed was chosen by somebody")
    first = first_round(state, manifest.run_id)
    training = first.training.model_copy(update={"factor_seed": seed})
    return RunPlan(
        layout_digest=layout.digest,
        length=layout.length,
        clip_norm=first.clip_norm,
        clip_value=first.clip_value,
        scale_bits=first.scale_bits,
        weighting=first.weighting,
        privacy=first.privacy,
        training=training,
        outer=first.outer,
    )
