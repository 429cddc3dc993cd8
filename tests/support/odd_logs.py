"""Logs that are legal and odd: what the rules take, and no honest party makes.

Numbers with gaps and out of order, epsilons far above or below the cost, hardly any
noise, other deltas, trust in others or none, trainings without noise, versions that
jump, attempts that fail, policies that change in between, blocks, bases of no history.
"""

from pathlib import Path
from typing import Any

from tapestry.artifacts import manifest
from tapestry.errors import RuleError
from tapestry.protocol.round_manifest import NoNoise, RoundManifest
from tapestry.protocol.stages import RoundStage
from tapestry_governance.events.event_body import Body, Role
from tapestry_governance.events.member_events import PolicyChange
from tapestry_governance.events.privacy_events import BlockEpsilon, DpAccounted
from tapestry_governance.events.round_events import RoundAborted, RoundOpened
from tests.fuzzing.draws import Draw
from tests.support.log_world import NAMES, World, changed, fake_digest, renamed
from tests.support.log_world import with_loss as with_any_loss

EPSILONS = ("0", "0.001", "1.9", "2", "2.5", "3", "4", "6.5", "7.999999", "8")
NOISES = ("0.000001", "0.1", "0.21", "0.5", "1", "1.5", "60", "9999")
DELTAS = ("0.00001", "0.000001", "0.000000000001")
FREE = {
    "noise": ("local", "none", "shared"), "bases": "any", "max_accounts": 50,
    "max_attempt": 9,
}  # fmt: skip


class OddLog:
    """A log that grows by what a generator draws, as far as the rules take it."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.draw, self.folder = Draw(seed), folder
        self.is_generous = self.draw.chance(0.6)  # then an audit goes on to the end
        self.world = World(rules=FREE).found()
        self.run, self.number, self.attempt = "run", 1, 1
        self.base = fake_digest("given")
        self.plans: list[RoundManifest] = []
        self.artifacts: dict[str, Path] = {}
        self.taken = 0

    def grow(self, deeds: int) -> "OddLog":
        """Try some deeds; what breaks a rule is left out."""
        kinds = (
            self._round, self._round, self._abort, self._account, self._account,
            self._release, self._adapter, self._adapter, self._policy, self._declare,
            self._run,
        )  # fmt: skip
        self._round()
        self._release()
        for _ in range(deeds):
            self.draw.one(kinds)()
        return self

    def _try(self, body: Body, actor: str = "coordinator", role: Role = "coordinator"):  # type: ignore[no-untyped-def] # an index or None
        try:
            index = self.world.add(body, actor, role)
        except RuleError:
            return None
        self.taken += 1
        return index

    def _open(self) -> RoundManifest | None:
        plan: dict[str, Any] = {
            "run_id": self.run, "round_number": self.number, "attempt": self.attempt,
            "model_digest": self.base,
        }  # fmt: skip
        if self.draw.chance(0.05):
            plan["privacy"] = NoNoise(noise="none")
        opened = renamed(self.world.manifest(1), **plan)
        if self._try(RoundOpened(manifest=opened)) is None:
            return None
        self.plans.append(opened)
        return opened

    def _round(self) -> None:
        opened, commitments = self._open(), {}
        if opened is None:
            return
        for name in NAMES:
            self._spend(opened, name)
            index = self._try(self.world.commitment(name, opened), name, "node")
            if index is not None:
                commitments[name] = index
        after = fake_digest(f"after {len(self.world.entries)}")
        try:
            closing = changed(
                self.world.closing(opened, commitments),
                base_after=after,
                release_digest=self.draw.one([after, fake_digest(f"r {after}")]),
            )
        except ValueError:  # nobody is in the sum
            closing = None
        if closing is not None and self._try(closing) is not None:
            self.base, self.number, self.attempt = after, self.number + 1, 1
        else:
            self._end(opened, sorted(commitments))

    def _abort(self) -> None:
        opened = self._open()
        if opened is None:
            return
        names = NAMES[: self.draw.below(5)]
        for name in names:
            self._spend(opened, name)
            self._try(self.world.commitment(name, opened), name, "node")
        self._end(opened, sorted(names)[:2])

    def _end(self, opened: RoundManifest, survivors: list[str]) -> None:
        ended = RoundAborted(
            run_id=opened.run_id,
            round_number=opened.round_number,
            attempt=opened.attempt,
            stage=self.draw.one([None, RoundStage.UNMASK]),
            reason="quorum",
            survivors=tuple(survivors),
        )
        if self._try(ended) is None:
            self._try(changed(ended, survivors=()))
        self.attempt += 1

    def _spend(self, opened: RoundManifest, name: str) -> None:
        account = self.world.account(opened, epsilon=self._epsilon())
        if opened.privacy.noise == "none":
            account = changed(account, loss={"mechanism": "none"})
        else:
            noise = self.draw.one(["1", "1", "2.5", "60"])
            account = self._loss(account, name, noise_multiplier=noise)
        self._try(self._numbered(account), name, "node")

    def _epsilon(self) -> str:
        return "8" if self.is_generous else self.draw.one(EPSILONS)

    def _numbered(self, account: DpAccounted) -> DpAccounted:
        if self.draw.chance(0.5):
            return account  # the next
        return changed(account, number=self.draw.below(40) + 1)

    def _loss(self, account: DpAccounted, name: str, **other: object) -> DpAccounted:
        """Draw the rest of a loss, with a block for each that was declared."""
        assert account.promise is not None
        said = account.promise.epsilon
        shared = self.draw.chance(0.2)
        blocks = tuple(
            BlockEpsilon(
                block=block, epsilon=said, epsilon_fallback="50" if shared else None
            )
            for block in range(1, self.world.folded.data[name].block + 1)
        )
        other["own_multiplier"] = other["noise_multiplier"]
        trust = "shared" if shared else "local"
        return with_any_loss(account, blocks=blocks, trust_model=trust, **other)

    def _account(self) -> None:
        """Account late for a round, of whichever run."""
        if self.plans:
            self._spend(self.draw.one(self.plans), self.draw.one(NAMES))

    def _release(self) -> None:
        state = self.world.folded
        if state.last_closed is None:
            return
        name, last = f"base-{len(state.releases) + 1}", state.released.last
        body = changed(
            self.world.release(1, manifest_digest=self._folder(name)),
            name=name,
            model_digest=state.last_closed.release_digest,
            parameters_digest=fake_digest(self.draw.one("abc")),
            run_id=state.last_closed.run_id,
            round_number=state.last_closed.round_number,
            previous=last.name if last else None,
        )
        index = self._try(body)
        if index is None:
            self.artifacts.pop(name)

    def _adapter(self) -> None:
        """Account for some versions, and publish one, perhaps of those."""
        state, draw = self.world.folded, self.draw
        releases = list(state.released)
        if not releases:
            return
        actor, release = draw.one(NAMES), draw.one(releases)
        name = draw.one([actor, f"{actor}-culture", "songs"])
        account = self.world.adapter_account(name)
        for _ in range(draw.below(3) + 1):
            one = changed(account, run_id=release.run_id, version=draw.below(5) + 1)
            if self.draw.chance(0.05):
                one = changed(one, loss={"mechanism": "none"})
            else:
                one = with_any_loss(one, epsilon=self._epsilon())
                one = self._loss(
                    one,
                    actor,
                    noise_multiplier=draw.one(
                        NOISES[4:] if self.is_generous else NOISES
                    ),
                    sampling_rate=draw.one(["0.000001", "0.05"]),
                    target_delta=draw.one(DELTAS),
                )
            self._try(self._numbered(one), actor, "node")
        known = self.world.folded.adapter_spending
        for version in sorted(range(1, 6), key=lambda _: draw.below(99)):
            paid = known.get((actor, name, version))
            promise = paid.promise if paid else None
            body = changed(
                self.world.adapter(1),
                name=name,
                version=version,
                base=release.name,
                base_digest=state.releases[release.name].model_digest,
                manifest_digest=self._folder(name),
                epsilon=promise.epsilon if promise else None,
                target_delta=promise.target_delta if promise else None,
            )
            index = self._try(body, actor, "community")
            if index is not None and paid is not None:
                place = self.artifacts[name] / "tapestry"
                entries = self.world.entries
                (place / "published.entry").write_bytes(entries[index])
                (place / "accounted.entry").write_bytes(entries[paid.index])
                return
        if name not in self.world.folded.adapters:
            self.artifacts.pop(name, None)

    def _folder(self, name: str) -> str:
        """Lay out a folder of a release or adapter by its manifest alone."""
        if name in self.artifacts and name in self.world.folded.adapters:
            return manifest.read(self.artifacts[name]).digest  # the same files again
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "README.md").write_text(f"{name} of {self.folder.name}")
        listed = manifest.write(folder)
        (folder / "README.md").unlink()
        self.artifacts[name] = folder
        return listed.digest

    def _policy(self) -> None:
        version = self.world.folded.policy.version + 1
        policy = self.world.policy(
            version=version,
            epsilon_cap=self.draw.one(["3", "8", "9"]),
            max_delta=self.draw.one(DELTAS[:2]),
            noise=self.draw.one([("local",), ("local", "none")]),
        )
        try:
            self.world.decide(PolicyChange(kind="policy", policy=policy))
        except RuleError:
            return

    def _declare(self) -> None:
        name = self.draw.one(NAMES)
        block = self.world.folded.data[name].block + self.draw.below(2)
        self._try(
            changed(
                self.world.declaration(name),
                block=block,
                unit="person",
                records=self.draw.one([1000, 2000, 50_000]),
            ),
            name,
            "node",
        )

    def _run(self) -> None:
        state = self.world.folded
        if state.open_round is None:
            self.run = f"run-{len(self.world.entries)}"
            self.number, self.attempt = 1, 1
            known = [r.model_digest for r in state.releases.values()]
            self.base = self.draw.one([*known, fake_digest(self.run)])
