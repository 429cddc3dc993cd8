"""Valid logs of any length, with real signatures, made without replaying them."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from tapestry.encoding import decode_decimal, digest, encode_decimal
from tapestry.keys import SigningKey
from tapestry.privacy.accounting import Composition, Steps
from tapestry.protocol.round_manifest import RoundManifest
from tapestry.tlog.checkpoint import Checkpoint
from tapestry.tlog.merkle import Tree, leaf_hash
from tapestry_governance.events.envelope import Author, Seen, sign_entry
from tapestry_governance.events.event_body import Body, Role
from tapestry_governance.events.member_events import KeyRotated, VoteCast
from tapestry_governance.events.model_events import ReleasePublished
from tapestry_governance.events.privacy_events import (
    BlockEpsilon,
    DataDeclared,
    DpAccounted,
    PrivacyLoss,
)
from tapestry_governance.events.round_events import (
    ContributionCommitted,
    RoundClosed,
    RoundOpened,
)
from tapestry_governance.rules.thresholds import needed

ROUNDS_PER_RUN = 100
ROUNDS_PER_RELEASE = 50
RELEASE_SHARE = "2/3"
EPSILON = "0.9"  # above what ten thousand rounds cost with a noise multiplier of 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Parties:
    """The keys of a federation: members' by name and purpose."""

    federation: str
    log: SigningKey
    coordinator: SigningKey
    members: Mapping[str, dict[str, SigningKey]]


class LongLog:
    """A growing log; ``entries`` and ``note`` are what an auditor or a node gets."""

    def __init__(
        self, founding: Sequence[bytes], parties: Parties, *, template: RoundManifest
    ) -> None:
        """Start after the founding; rounds follow the plan of a template."""
        self.entries: list[bytes] = []
        self._parties, self._template = parties, template
        self._tree = Tree()
        self._base = template.model_digest
        self._rounds = self._releases = 0
        self._rate = "1"
        self._accounts: Counter[str] = Counter()
        self.now = datetime.now(UTC) - timedelta(hours=1)
        for entry in founding:
            self._append(entry)
        self._seen = self._newest()

    def declare(
        self, records: int, *, datasets: Mapping[str, str] | None = None
    ) -> None:
        """Let every member declare its data; ``datasets`` has real commitments."""
        known = datasets or {}
        rate = self._template.training.batch_size / records
        self._rate = encode_decimal(min(1.0, rate))
        for name in sorted(self._parties.members):
            self.add(
                DataDeclared(
                    dataset=known.get(name, digest(name.encode())),
                    version=1,
                    block=1,
                    records=records,
                    withdrawn=0,
                    modality="text",
                    unit="record",
                    max_rows=None,
                    languages=("en",),
                    licences=("CC-BY-4.0",),
                ),
                name,
                "node",
            )

    def grow(self, size: int, *, cohort: Sequence[str]) -> None:
        """Add rounds and releases up to about a size; the last one is whole."""
        while len(self.entries) < size:
            self.add_round(cohort)

    def add_round(self, cohort: Sequence[str]) -> None:
        """Add a round from its opening to its end, and a release when one is due."""
        run, number = divmod(self._rounds, ROUNDS_PER_RUN)
        self._rounds += 1
        plan = self._template
        manifest = plan.model_copy(
            update={
                "run_id": f"history-{run}",
                "round_number": number + 1,
                "attempt": 1,
                "model_digest": self._base,
                "participants": tuple(
                    p for p in plan.participants if p.name in set(cohort)
                ),
            }
        )
        self.add(RoundOpened(manifest=manifest))
        self._seen = self._newest()  # what nodes accept before they join
        commitments = []
        for name in sorted(cohort):
            self.add(self._account(manifest), name, "node")
            commitments.append(self.add(self._commitment(name, manifest), name, "node"))
        after = digest(f"base {self._rounds}".encode())
        self.add(self._closing(manifest, sorted(cohort), commitments, after))
        self._base = after
        if self._rounds % ROUNDS_PER_RELEASE == 0:
            index = self.add(self._release(manifest))
            if self._rounds % ROUNDS_PER_RUN == 0:
                self._approve(index)

    def _approve(self, release: int) -> None:
        """Let members approve a release, so that the next run may begin with it."""
        names = sorted(self._parties.members)
        count = needed(RELEASE_SHARE, voters=len(names), members=len(names))
        for name in names[:count]:
            body = VoteCast(
                subject=release,
                entry=digest(self.entries[release]),
                vote="yes",
                reasons=None,
            )
            self.add(body, name, "root")
        self._seen = self._newest()

    def rotate_witness(self, name: str, body: KeyRotated, key: SigningKey) -> None:
        """Give a member another witness key, in force when the next round opens."""
        self.add(body, name, "root")
        self._parties.members[name]["witness"] = key
        self._seen = self._newest()

    def add_adapter_accounts(self, name: str, count: int) -> None:
        """Let one member account for adapters of its own, each with its own noise."""
        manifest, spent = self._template, Composition()
        plan = manifest.privacy
        if plan.noise == "none":
            raise ValueError("the history of a long log has noise")
        delta = decode_decimal(plan.target_delta)
        spent.add(
            Steps(
                noise_multiplier=decode_decimal(plan.noise_multiplier),
                sampling_rate=decode_decimal(self._rate),
                steps=manifest.training.steps * self._rounds,
            )
        )
        for at in range(count):
            rate = encode_decimal(round(0.005 + at / 10**6, 9))
            said = self._account(manifest)
            if said.promise is None:
                raise ValueError("the history of a long log has noise")
            noise = encode_decimal(round(1.5 + at / 200, 6))
            spent.add(
                Steps(
                    noise_multiplier=decode_decimal(noise),
                    sampling_rate=decode_decimal(rate),
                    steps=20,
                )
            )
            # Each report is above the one before, so that none stands for another.
            least = decode_decimal(EPSILON) + at / 10**6
            cost = max(spent.epsilon(target_delta=delta), least)
            loss = said.promise.model_copy(
                update={
                    "noise_multiplier": noise,
                    "own_multiplier": noise,
                    "sampling_rate": rate,
                    "blocks": (
                        BlockEpsilon(
                            block=1,
                            epsilon=encode_decimal(math.ceil(cost * 10**6) / 10**6),
                            epsilon_fallback=None,
                        ),
                    ),
                }
            )
            self.add(
                said.model_copy(
                    update={
                        "loss": loss,
                        "run_id": "history-0",
                        "round_number": None,
                        "attempt": None,
                        "adapter": f"adapter-{at}",
                        "version": 1,
                        "steps": 20,
                    }
                ),
                name,
                "node",
            )

    def add(
        self,
        body: Body,
        actor: str = "coordinator",
        role: Role = "coordinator",
    ) -> int:
        """Append an event; returns its index."""
        parties = self._parties
        if isinstance(body, DpAccounted):
            self._accounts[actor] += 1
            body = body.model_copy(update={"number": self._accounts[actor]})
        author = Author(federation=parties.federation, actor=actor, role=role)
        self.now += timedelta(milliseconds=10)
        event = author.event(body, now=self.now, seen=self._seen)
        coordinator = role == "coordinator"
        key = parties.coordinator if coordinator else parties.members[actor][role]
        return self._append(sign_entry(event, key))

    def note(self, size: int | None = None) -> bytes:
        """Sign and cosign a checkpoint by everybody."""
        size = len(self.entries) if size is None else size
        parties = self._parties
        checkpoint = Checkpoint(
            origin=parties.log.name, size=size, root=self._tree.root(size)
        )
        time = int(datetime.now(UTC).timestamp())
        lines = [
            checkpoint.cosign(keys["witness"], time=time)
            for _, keys in sorted(parties.members.items())
        ]
        return checkpoint.sign(parties.log) + b"".join(lines)

    def _newest(self) -> Seen:
        return Seen(size=len(self.entries), root=self._tree.root().hex())

    def _append(self, entry: bytes) -> int:
        self.entries.append(entry)
        self._tree.push(leaf_hash(entry))
        return len(self.entries) - 1

    def _account(self, manifest: RoundManifest) -> DpAccounted:
        plan = manifest.privacy
        if plan.noise == "none":
            raise ValueError("the history of a long log has noise")
        return DpAccounted(
            number=1,  # the right one follows when it is added
            run_id=manifest.run_id,
            round_number=manifest.round_number,
            attempt=manifest.attempt,
            adapter=None,
            version=None,
            steps=manifest.training.steps,
            loss=PrivacyLoss(
                mechanism="poisson-subsampled-gaussian",
                unit="record",
                adjacency="add-remove",
                trust_model="local",
                clip_norm=plan.clip_norm,
                noise_multiplier=plan.noise_multiplier,
                own_multiplier=plan.noise_multiplier,
                shares=1,
                coordinates=0,
                bound="0",
                sampling_rate=self._rate,
                target_delta=plan.target_delta,
                blocks=(BlockEpsilon(block=1, epsilon=EPSILON, epsilon_fallback=None),),
                segments=(),
                accountant="dp-accounting/pld",
                accountant_version="0.6.0",
            ),
        )

    @staticmethod
    def _commitment(name: str, manifest: RoundManifest) -> ContributionCommitted:
        return ContributionCommitted(
            run_id=manifest.run_id,
            round_number=manifest.round_number,
            attempt=manifest.attempt,
            context=manifest.context.hex(),
            masked_root=digest(f"{name} {manifest.round_number}".encode())[7:],
        )

    def _closing(
        self,
        manifest: RoundManifest,
        cohort: Sequence[str],
        commitments: Sequence[int],
        after: str,
    ) -> RoundClosed:
        return RoundClosed(
            run_id=manifest.run_id,
            round_number=manifest.round_number,
            attempt=manifest.attempt,
            outcome="applied",
            reason=None,
            included=tuple(cohort),
            dropped=(),
            commitments=tuple(commitments),
            aggregate_digest=digest(f"sum {self._rounds}".encode()),
            base_before=manifest.model_digest,
            base_after=after,
            release_digest=after,
            outer_digest=digest(b"outer"),
            metrics={"bits_per_byte/en": "1.25", "mean_norm": "0.5"},
        )

    def _release(self, manifest: RoundManifest) -> ReleasePublished:
        self._releases += 1
        previous = f"base-{self._releases - 1}" if self._releases > 1 else None
        return ReleasePublished(
            name=f"base-{self._releases}",
            model_digest=self._base,
            parameters_digest=digest(b"parameters"),
            manifest_digest=digest(f"files {self._releases}".encode()),
            run_id=manifest.run_id,
            round_number=manifest.round_number,
            previous=previous,
        )
