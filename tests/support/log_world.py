"""A federation in memory: keys, a log as a list of entries, and its checkpoints."""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal, TypeVar

from tapestry.artifacts.model_identity import ModelManifest
from tapestry.encoding import digest
from tapestry.keys import Algorithm, SigningKey
from tapestry.protocol.round_manifest import (
    Participant,
    RoundManifest,
    StageDeadlines,
)
from tapestry.protocol.stages import SECAGG_STAGES, RoundStage
from tapestry.schema import Strict
from tapestry.tlog.checkpoint import Checkpoint
from tapestry.tlog.merkle import leaf_hash, root
from tapestry.tlog.trust_policy import TrustPolicy
from tapestry_governance.events.envelope import Author, Seen, sign_entry
from tapestry_governance.events.event_body import Body, Role
from tapestry_governance.events.federation_events import (
    USUAL_VOTING,
    CharterAdopted,
    Coordinator,
    Founder,
    GivenBase,
    Member,
    Policy,
)
from tapestry_governance.events.member_events import (
    Admission,
    CharterAccepted,
    KeyRotated,
    MembershipRequest,
    PolicyChange,
    Proposal,
    ProposalMade,
    VoteCast,
)
from tapestry_governance.events.model_events import AdapterPublished, ReleasePublished
from tapestry_governance.events.possession import (
    PURPOSES,
    prove_possession,
    rotation_statement,
)
from tapestry_governance.events.privacy_events import (
    MAX_ACCOUNTS,
    BlockEpsilon,
    DataDeclared,
    DpAccounted,
    PrivacyLoss,
    UnboundedLoss,
    Unit,
)
from tapestry_governance.events.round_events import (
    ContributionCommitted,
    Dropped,
    RoundClosed,
    RoundOpened,
)
from tapestry_governance.rules.ballots import Vote, voters_digest
from tapestry_governance.rules.federation_state import FederationState
from tapestry_governance.rules.replay import apply
from tapestry_governance.rules.settlement import settle
from tests.support.plans import outer_plan, privacy_plan, round_manifest, training_plan

AnyBody = TypeVar("AnyBody", bound=Strict)
NAMES = ("de", "es", "fr", "id")
START = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
DEADLINES = StageDeadlines(**dict.fromkeys(SECAGG_STAGES, 60))
NEXT = MAX_ACCOUNTS  # of an account: the next of its node, when it is signed
EPSILON = {1: "2", 2: "2.5", 3: "2.9"}  # a little above what the rounds cost


def one_block(epsilon: str, fallback: str | None = None) -> tuple[BlockEpsilon, ...]:
    """Return what a node with one block reports."""
    return (BlockEpsilon(block=1, epsilon=epsilon, epsilon_fallback=fallback),)


def given_base(text: str, *, parameters: str = "given values") -> GivenBase:
    """Return a base that a policy names, by the text of its identity."""
    return GivenBase(model=fake_digest(text), parameters=fake_digest(parameters))


def fake_digest(text: str) -> str:
    return digest(text.encode())


def _key(
    name: str, purpose: str, algorithm: Algorithm = Algorithm.SIGNATURE
) -> SigningKey:
    seed = hashlib.sha256(f"{name}/{purpose}".encode()).digest()
    return SigningKey(name=f"{name}.example/{purpose}", algorithm=algorithm, seed=seed)


class World:
    """Everybody's keys and one log; deterministic, so tests can be replayed."""

    def __init__(
        self,
        *,
        rules: dict[str, object] | None = None,
        names: Sequence[str] = NAMES,
        unit: Unit = "record",
    ) -> None:
        self.names, self.unit = tuple(names), unit
        self.log_key = _key("tapestry", "log")
        self.coordinator_key = _key("coordinator", "author")
        self.keys: dict[tuple[str, str], SigningKey] = {}
        for name in names:
            for purpose in ("root", "node", "community"):
                self.keys[name, purpose] = _key(name, purpose)
            self.keys[name, "witness"] = _key(name, "witness", Algorithm.COSIGNATURE)
        self.entries: list[bytes] = []
        self.state: FederationState | None = None
        self.now = START
        self.ids = 0
        self.rules = rules or {}
        self.models: dict[int, ModelManifest] = {}  # of bases with real files

    @property
    def trust(self) -> TrustPolicy:
        witnesses = [self.keys[name, "witness"].verify_key for name in self.names]
        return TrustPolicy.of_members(self.log_key.verify_key, witnesses)

    @property
    def genesis(self) -> str:
        return digest(self.entries[0])

    @property
    def folded(self) -> FederationState:
        assert self.state is not None
        return self.state

    def members(self) -> tuple[Member, ...]:
        return tuple(self.request(name).member for name in self.names)

    def policy(self, **changes: object) -> Policy:
        base: dict[str, object] = {
            "version": 1,
            "min_cohort": 3,
            "max_colluding": 1,
            "noise": ("local",),
            "epsilon_cap": "8",
            "max_delta": "0.00001",
            "bases": (given_base("given"),),
            "software": "any",
            "adapter_licences": ("CC-BY-4.0",),
            "max_attempt": 3,
            "max_accounts": 16,
            "max_checkpoint_age": 86_400,
            "voting": USUAL_VOTING.model_dump(),
            "witnesses": (),
            "outside_quorum": 0,
            "withdrawn_warns": (),
        }
        return Policy.model_validate({**base, **self.rules, **changes})

    def request(self, name: str) -> MembershipRequest:
        keys = ("root", "node", "witness", "community")
        return MembershipRequest(
            name=name,
            transport=hashlib.sha256(f"{name}/transport".encode()).hexdigest(),
            languages=(name[:2],) if name.isalpha() else (),
            records=1000,
            held_out=None,
            **{purpose: str(self.keys[name, purpose].verify_key) for purpose in keys},
        )

    def charter(self) -> CharterAdopted:
        return CharterAdopted(
            log=str(self.log_key.verify_key),
            coordinator=Coordinator(
                name="coordinator", key=str(self.coordinator_key.verify_key)
            ),
            address="coordinator.example:443",
            authority=fake_digest("authority"),
            members=tuple(
                Founder(name=name, request=self.request(name).digest)
                for name in self.names
            ),
            policy=self.policy(),
        )

    def acceptance(self, name: str, **changes: object) -> CharterAccepted:
        request = self.request(name)
        keys = {purpose: self.keys[name, purpose] for purpose in PURPOSES}
        accepted = CharterAccepted(
            charter=self.genesis,
            request=request,
            possession=prove_possession(request, keys, federation="tapestry"),
            readers=tuple(other for other in self.names if other != name),
        )
        return changed(accepted, **changes)

    def key(self, actor: str, role: Role) -> SigningKey:
        if role == "coordinator":
            return self.coordinator_key
        return self.keys[actor, role]

    def entry(
        self,
        body: Body,
        actor: str = "coordinator",
        role: Role = "coordinator",
        *,
        signers: Sequence[SigningKey] = (),
        seen: Seen | Literal["newest"] | None = "newest",
        federation: str = "tapestry",
    ) -> bytes:
        """Sign an event as a party would; nothing is appended."""
        author = Author(federation=federation, actor=actor, role=role)
        if isinstance(body, DpAccounted) and body.number == NEXT:
            body = body.model_copy(update={"number": self.next_account(actor)})
        self.ids += 1
        self.now += timedelta(seconds=1)
        number = self.ids
        if seen == "newest":
            seen = self.seen() if self.entries else None
        event = author.event(
            body, now=self.now, seen=seen, entropy=lambda n: number.to_bytes(n, "big")
        )
        return sign_entry(event, *(signers or [self.key(actor, role)]))

    def next_account(self, actor: str) -> int:
        """Return the number of the next account of a node."""
        spent = self.folded.spending_of(actor)
        return max((each.number for each in spent), default=0) + 1

    def add(
        self, body: Body, actor: str = "coordinator", role: Role = "coordinator"
    ) -> int:
        """Append an event that must be valid; returns its index."""
        return self.append(self.entry(body, actor, role))

    def append(self, entry: bytes) -> int:
        index = len(self.entries)
        self.state = apply(self.state, entry, index)
        self.entries.append(entry)
        return index

    def seen(self, size: int | None = None) -> Seen:
        size = len(self.entries) if size is None else size
        return Seen(size=size, root=root(map(leaf_hash, self.entries[:size])).hex())

    def checkpoint(self, entries: Sequence[bytes] | None = None) -> Checkpoint:
        entries = self.entries if entries is None else entries
        return Checkpoint(
            origin=self.log_key.name,
            size=len(entries),
            root=root(map(leaf_hash, entries)),
        )

    def note(
        self,
        entries: Sequence[bytes] | None = None,
        *,
        witnesses: Sequence[str] = NAMES[:3],
        at: datetime | None = None,
    ) -> bytes:
        """Sign and cosign a checkpoint over some entries, by default all."""
        checkpoint = self.checkpoint(entries)
        time = int((at or self.now).timestamp())
        lines = [
            checkpoint.cosign(self.keys[name, "witness"], time=time)
            for name in witnesses
        ]
        return checkpoint.sign(self.log_key) + b"".join(lines)

    def adopt(self) -> "World":
        """Write the charter and the acceptances of all founders."""
        self.add(self.charter())
        for name in self.names:
            self.append(self.entry(self.acceptance(name), name, "root", seen=None))
        return self

    def found(self) -> "World":
        self.adopt()
        for name in NAMES:
            self.add(self.declaration(name), name, "node")
        return self

    def propose(self, proposal: Proposal, by: str = "fr") -> int:
        """Put a proposal to the members; returns its index."""
        voters = voters_digest(self.settled.active)
        return self.add(ProposalMade(roster=voters, proposal=proposal), by, "root")

    def vote(self, subject: int, *names: str, vote: Vote = "yes") -> int:
        """Cast a vote of each member on an entry; returns the index of the last."""
        cast = VoteCast(
            subject=subject,
            entry=digest(self.entries[subject]),
            vote=vote,
            reasons=None,
        )
        return [self.add(cast, name, "root") for name in names][-1]

    def decide(self, proposal: Proposal, *names: str) -> int:
        """Propose and vote yes, by all members or by some."""
        index = self.propose(proposal)
        self.carry(index, names or tuple(sorted(self.folded.active)))
        return index

    def carry(self, index: int, names: Sequence[str]) -> None:
        """Let members vote yes until that is enough."""
        for name in names:
            if self.folded.ballots[index].decided is None:
                self.vote(index, name)

    def approve(self, release: str) -> None:
        """Let members approve a release; a run may start from it then."""
        index = self.folded.release_named(release).index
        self.carry(index, tuple(self.folded.active))

    def change_policy(self, **changes: object) -> Policy:
        """Give the federation its next policy; it is in force with the next entry."""
        policy = self.policy(version=self.settled.policy.version + 1, **changes)
        self.decide(PolicyChange(kind="policy", policy=policy))
        return policy

    @property
    def settled(self) -> FederationState:
        """The state that the next entry finds, if its author has seen all."""
        return settle(self.folded, seen=len(self.entries))

    def invent(self, name: str) -> Admission:
        """Make keys of an institution that asks for admission."""
        for purpose in ("root", "node", "community"):
            self.keys[name, purpose] = _key(name, purpose)
        self.keys[name, "witness"] = _key(name, "witness", Algorithm.COSIGNATURE)
        request = self.request(name)
        keys = {purpose: self.keys[name, purpose] for purpose in PURPOSES}
        return Admission(
            kind="admit",
            request=request,
            possession=prove_possession(request, keys, federation="tapestry"),
        )

    def rotation(
        self, name: str, purpose: str, *, seed: str = "next", **changes: object
    ) -> KeyRotated:
        """Make a new key for one purpose, under ``keys[name, purpose + "'"]``."""
        kind = Algorithm.COSIGNATURE if purpose == "witness" else Algorithm.SIGNATURE
        new = _key(f"{name}-{seed}", purpose, kind)
        if purpose == "witness":
            drawn = hashlib.sha256(f"{name}-{seed}/witness".encode()).digest()
            new = SigningKey(name=_key(name, purpose).name, algorithm=kind, seed=drawn)
        self.keys[name, f"{purpose}'"] = new
        key, by = str(new.verify_key), new
        if purpose == "transport":
            key, by = hashlib.sha256(seed.encode()).hexdigest(), self.keys[name, "node"]
        said = rotation_statement(purpose, key, name=name, federation="tapestry")
        body = {
            "purpose": purpose,
            "key": key,
            "reason": "routine",
            "possession": by.sign(said).hex(),
        }
        return KeyRotated.model_validate({**body, **changes})

    def rotate(
        self, name: str, purpose: str, *, seed: str = "next", **changes: object
    ) -> int:
        """Give a member a new key, which tests sign with as soon as they like."""
        body = self.rotation(name, purpose, seed=seed, **changes)
        return self.add(body, name, "root")

    def declaration(self, name: str) -> DataDeclared:
        before = self.folded.data.get(name)
        return DataDeclared(
            dataset=fake_digest(f"data of {name}"),
            version=before.version + 1 if before else 1,
            block=1,
            records=1000,
            withdrawn=0,
            modality="text",
            unit=self.unit,
            max_rows=None if self.unit == "record" else 20,
            languages=(name,),
            licences=("CC-BY-4.0",),
        )

    def manifest(self, number: int = 1, *, attempt: int = 1) -> RoundManifest:
        return round_manifest(
            [
                Participant(name=name, key=str(self.keys[name, "node"].verify_key))
                for name in NAMES
            ],
            federation="tapestry",
            run_id="run",
            round_number=number,
            attempt=attempt,
            model_digest=self.base(number - 1),
            layout_digest=fake_digest("layout"),
            software=(fake_digest("software"),),
            policy_digest=self.settled.policy.digest,
            roster_digest=self.settled.roster.digest,
            min_cohort=3,
            length=1000,
            clip_value="0.1",
            scale_bits=20,
            training=training_plan(
                steps=20, batch_size=50, options={"sequence_length": 64}
            ),
            privacy=privacy_plan(),
            outer=outer_plan(max_loss_increase="0.1"),
            deadlines=DEADLINES,
        )

    def base(self, number: int) -> str:
        if number in self.models:
            return self.models[number].digest
        return fake_digest("given" if number == 0 else f"base {number}")

    def commitment(self, name: str, manifest: RoundManifest) -> ContributionCommitted:
        return ContributionCommitted(
            run_id=manifest.run_id,
            round_number=manifest.round_number,
            attempt=manifest.attempt,
            context=manifest.context.hex(),
            masked_root=hashlib.sha256(name.encode()).hexdigest(),
        )

    def commit(
        self, name: str, manifest: RoundManifest, *, epsilon: str | None = None
    ) -> int:
        """Account for a round and commit to an upload; returns the second's index."""
        self.add(self.account(manifest, epsilon=epsilon), name, "node")
        return self.add(self.commitment(name, manifest), name, "node")

    def account(
        self, manifest: RoundManifest, *, epsilon: str | None = None
    ) -> DpAccounted:
        return DpAccounted(
            number=NEXT,
            run_id=manifest.run_id,
            round_number=manifest.round_number,
            attempt=manifest.attempt,
            adapter=None,
            version=None,
            steps=20,
            loss=PrivacyLoss(
                mechanism="poisson-subsampled-gaussian",
                unit=self.unit,
                adjacency="add-remove",
                trust_model="local",
                clip_norm="1",
                noise_multiplier="1",
                own_multiplier="1",
                shares=1,
                coordinates=0,
                bound="0",
                sampling_rate="0.05",
                target_delta="0.00001",
                blocks=one_block(epsilon or EPSILON[manifest.round_number]),
                segments=(),
                accountant="dp-accounting/pld",
                accountant_version="0.6.0",
            ),
        )

    def adapter_account(self, name: str = "fr-culture") -> DpAccounted:
        account = self.account(self.manifest(), epsilon="2.9")
        return account.model_copy(
            update={
                "round_number": None,
                "attempt": None,
                "adapter": name,
                "version": 1,
            }
        )

    def closing(
        self, manifest: RoundManifest, commitments: dict[str, int]
    ) -> RoundClosed:
        included = tuple(sorted(commitments))
        return RoundClosed(
            run_id=manifest.run_id,
            round_number=manifest.round_number,
            attempt=manifest.attempt,
            outcome="applied",
            reason=None,
            included=included,
            dropped=tuple(
                Dropped(name=name, stage=RoundStage.COLLECT_MASKED_INPUTS)
                for name in NAMES
                if name not in included
            ),
            commitments=tuple(commitments[name] for name in included),
            aggregate_digest=fake_digest(f"sum {manifest.round_number}"),
            base_before=manifest.model_digest,
            base_after=self.base(manifest.round_number),
            release_digest=self.base(manifest.round_number),
            outer_digest=fake_digest("outer"),
            metrics={"held-out.fr": "3.5"},
        )

    def run_round(
        self, number: int = 1, *, names: Sequence[str] = NAMES
    ) -> RoundManifest:
        manifest = self.manifest(number)
        self.add(RoundOpened(manifest=manifest))
        commitments = {}
        for name in names:
            commitments[name] = self.commit(name, manifest)
        self.add(self.closing(manifest, commitments))
        return manifest

    def release(
        self, number: int = 1, *, manifest_digest: str | None = None
    ) -> ReleasePublished:
        known = self.models.get(number)
        return ReleasePublished(
            name=f"base-{number}",
            model_digest=self.base(number),
            parameters_digest=known.parameters if known else fake_digest("values"),
            manifest_digest=manifest_digest or fake_digest(f"files of base-{number}"),
            run_id="run",
            round_number=number,
            previous=max(self.folded.releases, default=None),
        )

    def adapter(self, number: int = 1) -> AdapterPublished:
        return AdapterPublished(
            name="fr-culture",
            version=1,
            country="France",
            language="fr",
            licence="CC-BY-4.0",
            base=f"base-{number}",
            base_digest=self.base(number),
            manifest_digest=fake_digest("adapter files"),
            epsilon="2.9",
            target_delta="0.00001",
            evaluation={"held-out.fr": "3.4"},
        )

    def grow(self) -> "World":
        """Found, two rounds (one node drops out of the second), release, adapter."""
        self.found()
        self.run_round(1)
        self.run_round(2, names=NAMES[:3])
        self.add(self.release(2))
        self.add(self.adapter_account(), "fr", "node")
        self.add(self.adapter(2), "fr", "community")
        return self


def without_noise(body: DpAccounted) -> DpAccounted:
    """Account for the same training as one without noise."""
    return body.model_copy(update={"loss": UnboundedLoss(mechanism="none")})


def with_loss(body: DpAccounted, **changes: object) -> DpAccounted:
    """Account for other noise, without a check of what is said of it."""
    assert body.promise is not None
    said = body.promise.blocks[0]
    said = said.model_copy(
        update={
            k: changes.pop(k) for k in ("epsilon", "epsilon_fallback") if k in changes
        }
    )
    changes.setdefault("blocks", (said,))
    return body.model_copy(update={"loss": body.promise.model_copy(update=changes)})


def claim(world: World, name: str, digest: str, **changes: object) -> KeyRotated:
    """Let a member's node key vouch for any transport key, also one of another."""
    said = rotation_statement("transport", digest, name=name, federation="tapestry")
    signed = world.keys[name, "node"].sign(said).hex()
    new = world.rotation(name, "transport")
    return changed(new, key=digest, possession=signed, **changes)


def changed(body: AnyBody, **changes: object) -> AnyBody:
    """Return a body with other values, validated as if it came from outside."""
    values = {name: getattr(body, name) for name in type(body).model_fields}
    return type(body).model_validate({**values, **changes})


def renamed(manifest: RoundManifest, **changes: object) -> RoundManifest:
    """Return a round manifest with other values."""
    values = {name: getattr(manifest, name) for name in RoundManifest.model_fields}
    return RoundManifest.model_validate({**values, **changes})
