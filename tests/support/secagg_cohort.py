"""A cohort and its coordinator in memory, for the tests of secure aggregation."""

import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tapestry.errors import ProtocolError
from tapestry.keys import Algorithm, SigningKey
from tapestry.protocol.round_manifest import (
    Participant,
    RoundManifest,
)
from tapestry.protocol.secagg_messages import Ciphertexts, Result, ShareMessage, Upload
from tapestry.secagg import client
from tapestry.secagg.client_states import Cohort, KeysShared
from tapestry.secagg.masks import Random
from tapestry.secagg.pair_messages import split_joined
from tapestry.secagg.requirements import Requirements, RunPlan
from tapestry.secagg.server import (
    AdvertiseKeysStage,
    Unmasked,
)
from tapestry.vectors import Quantized, RingVector
from tests.support.plans import DIGEST, round_manifest


class MemoryMarks:
    """High-water marks that forget everything when the process ends."""

    def __init__(self) -> None:
        self._marks: dict[str, int] = {}

    def highest(self, run_id: str) -> int:
        return self._marks.get(run_id, 0)

    def raise_to(self, run_id: str, round_number: int) -> None:
        if round_number <= self.highest(run_id):
            raise ProtocolError(
                f"uploaded for round {round_number} already",
                code="round-already-uploaded",
            )
        self._marks[run_id] = round_number


@dataclass
class Member:
    """One institution: its key, its durable marks, its state in the round."""

    name: str
    identity: SigningKey
    marks: MemoryMarks = field(default_factory=MemoryMarks)
    state: Any = None


def members(count: int) -> list[Member]:
    """Found a federation; the keys follow from the names."""
    rows = []
    for index in range(1, count + 1):
        name = f"n{index:04d}.example"
        seed = index.to_bytes(32, "big")
        identity = SigningKey(
            name=f"{name}/node", algorithm=Algorithm.SIGNATURE, seed=seed
        )
        rows.append(Member(name=name, identity=identity))
    return rows


def manifest_for(cohort: Sequence[Member], **changes: Any) -> RoundManifest:
    """Propose a round to a cohort, with the recommended numbers."""
    return round_manifest(
        [Participant(name=m.name, key=str(m.identity.verify_key)) for m in cohort],
        **changes,
    )


def terms_for(manifest: RoundManifest, **changes: Any) -> Requirements:
    """Terms that a manifest meets exactly."""
    terms = Requirements(
        model_digest=manifest.model_digest,
        roster_digest=manifest.roster_digest,
        roster={p.name: p.key for p in manifest.participants},
        plan=RunPlan.of(manifest),
        min_cohort=2,
        min_colluding=manifest.max_colluding,
        hybrid_up_to=0,
        highest_round=0,
        afford=lambda _: None,
    )
    return replace(terms, **changes)


def sent_by(state: KeysShared, message: ShareMessage) -> dict[str, bytes]:
    """The messages to the other nodes in message 3."""
    cohort, names = state.round.cohort, state.agreed
    sizes = {name: cohort.message_size(state.round.node, name) for name in names}
    return split_joined(message.messages, sizes)


@dataclass
class Federation:
    """A round in progress; each stage can be run with some of its nodes only."""

    manifest: RoundManifest
    cohort: list[Member]
    random: Random = secrets.token_bytes
    vectors: dict[str, RingVector] = field(default_factory=dict)
    uploads: dict[str, Upload] = field(default_factory=dict)
    stage: Any = None
    message: Any = None
    keys: Any = None
    sealed: Any = None  # messages 4

    @classmethod
    def of(cls, count: int, *, length: int = 50, **changes: Any) -> "Federation":
        cohort = members(count)
        manifest = manifest_for(cohort, length=length, **changes)
        return cls(manifest=manifest, cohort=cohort)

    def member(self, name: str) -> Member:
        return next(m for m in self.cohort if m.name == name)

    def boxes(self, receiver: str) -> dict[str, bytes]:
        """What the others sealed for a node (message 4), by sender."""
        message, cohort = self.sealed[receiver], Cohort.of(self.manifest)
        names = [h.node for h in message.heads.heads if h.node != receiver]
        sizes = {name: cohort.message_size(name, receiver) for name in names}
        return split_joined(message.messages, sizes)

    def with_box(self, receiver: str, sender: str, data: bytes) -> Ciphertexts:
        """Message 4 for a node, with another message of one sender in it."""
        boxes = {**self.boxes(receiver), sender: data}
        heads = self.sealed[receiver].heads
        return Ciphertexts(heads=heads, messages=b"".join(boxes.values()))

    def names(self) -> list[str]:
        return [m.name for m in self.cohort]

    def advertise_keys(self, names: Iterable[str] | None = None) -> None:
        stage = AdvertiseKeysStage(self.manifest)
        for name in self.names() if names is None else names:
            member = self.member(name)
            terms = terms_for(
                self.manifest,
                highest_round=member.marks.highest(self.manifest.run_id),
            )
            member.state, message = client.advertise_keys(
                self.manifest, member.identity, terms=terms, random=self.random
            )
            stage.accept(name, message)
        self.stage, self.message = stage.close()
        self.keys = self.message

    def share_keys(self, names: Iterable[str] | None = None) -> None:
        for name in self._asked() if names is None else names:
            member = self.member(name)
            member.state, message = client.share_keys(member.state, self.message)
            self.stage.accept(name, message)
        self.stage, self.message = self.stage.close()
        self.sealed = self.message

    def receive_shares(self, names: Iterable[str] | None = None) -> None:
        for name in self._asked() if names is None else names:
            member = self.member(name)
            member.state = client.receive_shares(member.state, self.message[name])

    def mask_input(self, name: str, vector: RingVector) -> Upload:
        member = self.member(name)
        self.vectors[name] = vector.copy()
        reservation = client.reserve(member.state, member.marks)
        member.state, upload = client.mask_input(
            member.state, Quantized(values=vector.copy()), reservation=reservation
        )
        self.uploads[name] = upload
        return upload

    def collect_masked_inputs(
        self,
        names: Iterable[str] | None = None,
        *,
        vector: Callable[[str], RingVector] | None = None,
    ) -> None:
        for name in self._asked() if names is None else names:
            values = vector(name) if vector else self.draw(name)
            self.stage.accept(name, self.mask_input(name, values))
        self.stage, self.message = self.stage.close()

    def check_consistency(self, names: Iterable[str] | None = None) -> None:
        for name in self._asked() if names is None else names:
            member = self.member(name)
            member.state, message = client.check_consistency(member.state, self.message)
            self.stage.accept(name, message)
        self.stage, self.message = self.stage.close()

    def unmask(self, names: Iterable[str] | None = None) -> Unmasked:
        for name in self._asked() if names is None else names:
            member = self.member(name)
            member.state, message = client.unmask(member.state, self.message)
            self.stage.accept(name, message)
        unmasked: Unmasked = self.stage.close()
        return unmasked

    def run(self, until: str = "unmask") -> Any:
        """Run the stages in order, all nodes answering, up to and with one.

        The stages have their names; a node takes ``collect_masked_inputs`` in two
        steps, of which the first is ``receive_shares``.
        """
        result = None
        for step in (
            "advertise_keys",
            "share_keys",
            "receive_shares",
            "collect_masked_inputs",
            "check_consistency",
            "unmask",
        ):
            result = getattr(self, step)()
            if step == until:
                break
        return result

    def draw(self, name: str) -> RingVector:
        """A vector within the range of the round, the same for the same name."""
        seed = int.from_bytes(name.encode(), "big") % 2**32
        rng = np.random.default_rng(seed)
        bound = 1000
        drawn = rng.integers(-bound, bound, self.manifest.length, dtype=np.int32)
        return drawn.view(np.uint32)

    def expected(self, names: Iterable[str]) -> RingVector:
        total = np.zeros(self.manifest.length, dtype=np.uint32)
        for name in names:
            total += self.vectors[name]
        return total

    def result(self, unmasked: Unmasked) -> Result:
        return Result(
            transcript=unmasked.transcript,
            sum_root=unmasked.sum_root,
            model_digest=DIGEST,
        )

    def _asked(self) -> list[str]:
        missing: list[str] = self.stage.missing
        return missing
