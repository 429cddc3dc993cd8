"""The price of an adapter before it is trained: in epsilon, rounds, time and memory.

Guarantees:
    Nothing is written, charged or reserved, and nothing leaves; the node may run. What
    the training would be refused for is found by the same checks.

Edge cases:
    Time is measured by a step on the records, whose result is dropped. While a node
    serves the folder it is not: the model would be in memory twice.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tapestry.encoding import decode_decimal
from tapestry.errors import PolicyError, TapestryError
from tapestry.inputs.private_data import hides_records
from tapestry.model.replica import Replica
from tapestry.privacy import accounting
from tapestry.workloads.workload_registry import open_workload
from tapestry_governance.events.model_events import ReleasePublished
from tapestry_governance.rules.account_rules import count_adapter
from tapestry_governance.rules.federation_state import FederationState
from tapestry_governance.rules.model_rules import check_title
from tapestry_governance.rules.settlement import settle
from tapestry_governance.vote_count import VoteCount, count_votes
from tapestry_node.adapters.adapter_check import Place, check_adapter
from tapestry_node.adapters.adapter_file import NamedAdapter
from tapestry_node.adapters.adapter_trainer import AdapterPlan
from tapestry_node.adapters.chosen_release import find_release, held_base
from tapestry_node.adapters.publication import AdapterJob
from tapestry_node.budget.ledger import (
    Charge,
    ChargeRecord,
    Ledger,
    largest_epsilon,
)
from tapestry_node.budget.log_accounts import check_cap, published_charges
from tapestry_node.data_ledger import view_ledger
from tapestry_node.directory import open_mirror
from tapestry_node.node_state import DATABASE, NodeState
from tapestry_node.round.base_snapshots import BaseSnapshots
from tapestry_node.settings import NodeSettings
from tapestry_node.submission import foresee, require_ran
from tapestry_node.training.step_memory import StepSize
from tapestry_node.training.trainer import Trainer


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """A training that was planned and not begun."""

    name: str
    version: int
    release: VoteCount
    plan: AdapterPlan
    epsilon: float | None  # of this training alone; None without noise
    spent: float  # by all until now, at the ledger's delta
    after: float | None  # with this training
    blocks: tuple[int, ...]  # of the data, that pay for it
    spent_blocks: tuple[int, ...]  # that cannot, and are left out
    limit: float
    cap: str  # the federation's
    rounds: tuple[int, int] | None  # like the last one: left before, left after
    seconds: float | None  # None: not measured
    memory: int | None  # bytes; None: it would be refused
    fault: TapestryError | None  # that it would be refused for

    def lines(self) -> list[str]:
        """Print the quote for the operator."""
        training, counted = self.plan.training, self.release
        yes = [name for name, vote in counted.votes.items() if vote == "yes"]
        return [
            f"adapter   {self.name} {self.version}",
            f"release   {counted.release}, entry {counted.approved} approved it",
            f"votes     yes of {', '.join(yes)}",
            f"training  {training.steps} steps, rank {training.rank}",
            f"records   about {training.batch_size} of {self.plan.records} a step",
            *self._costs(),
            f"machine   {self._time()}{self._size()}",
        ]

    def _size(self) -> str:
        return "" if self.memory is None else f"; about {self.memory / 1e9:.1f} GB"

    def _costs(self) -> Iterator[str]:
        """Print what each record pays."""
        noise = self.plan.steps
        if noise is None or self.epsilon is None or self.after is None:
            yield "noise     none: no epsilon holds for any record after it"
        else:
            yield (
                f"noise     multiplier {noise.noise_multiplier:g}, sampling rate"
                f" {noise.sampling_rate:.4f}"
            )
            yield (
                f"epsilon   {self.epsilon:.4f} of this adapter alone; {self.spent:.4f}"
                f" is spent, {self.after:.4f} after it"
            )
            if self.spent_blocks:
                paying, spent = (
                    ", ".join(map(str, each))
                    for each in (self.blocks, self.spent_blocks)
                )
                yield f"blocks    {paying} pay for it; {spent} cannot: left out"
            yield (
                f"limits    {self.limit:g} of the institution, {self.cap} of the"
                " federation"
            )
        if self.rounds is not None:
            before, after = self.rounds
            yield f"rounds    like the last one: {before} are left, {after} after it"

    def _time(self) -> str:
        if self.seconds is None:
            return "time not measured"
        return f"about {self.seconds:.0f} s"

    def to_json(self) -> dict[str, Any]:
        """Return the quote for programs."""
        noise = self.plan.steps
        return {
            "adapter": self.name,
            "version": self.version,
            "release": self.release.release,
            "members": self.release.to_json(),
            "steps": self.plan.training.steps,
            "batch_size": self.plan.training.batch_size,
            "rank": self.plan.training.rank,
            "noise_multiplier": None if noise is None else noise.noise_multiplier,
            "sampling_rate": None if noise is None else noise.sampling_rate,
            "epsilon": self.epsilon,
            "epsilon_spent": self.spent,
            "epsilon_after": self.after,
            "epsilon_limit": self.limit,
            "blocks": list(self.blocks),
            "blocks_left_out": list(self.spent_blocks),
            "epsilon_cap": self.cap,
            "rounds_left": None if self.rounds is None else self.rounds[0],
            "rounds_left_after": None if self.rounds is None else self.rounds[1],
            "seconds": self.seconds,
            "memory_bytes": self.memory,
            "refused": None if self.fault is None else self.fault.code,
        }


def quote(
    folder: Path,
    adapter: NamedAdapter,
    settings: NodeSettings,
    *,
    release: str | None,
    measure: bool,
) -> Quote:
    """Plan an adapter on an approved release, and find what it would cost.

    Args:
        folder: Of the node.
        adapter: With its settings.
        settings: Of the node.
        release: A release, its run or the index of its entry; None: the newest.
        measure: Whether a step is tried for its time.

    Raises:
        PolicyError: There is no such approved release, or its base is not held here;
            or a version is trained and not published yet.
        ConfigError: A setting is out of range.
        VerificationError: Mirror, state or ledger were changed, or are older copies.
    """
    require_ran(folder, settings)
    with ExitStack() as opened:
        mirror = open_mirror(folder, settings, readonly=True)
        opened.callback(mirror.close)
        store = NodeState(folder / DATABASE, readonly=True)
        opened.callback(store.close)
        store.require(mirror.state.uploads_of(settings.name))
        seen = mirror.seen
        state = settle(mirror.state, seen=0 if seen is None else seen.size)
        chosen = find_release(state, release)
        workload = open_workload(
            settings.workload, settings.base, machine=settings.speed.machine
        )
        replica = held_base(
            chosen,
            BaseSnapshots(directory=folder, given=Replica.start(workload.given)),
            mirror=mirror,
            store=store,
        )
        data, manifest = settings.data_in(folder)
        trainer = Trainer(data, manifest=manifest, workload=workload, settings=settings)
        ledger = view_ledger(store, trainer)
        ledger.require(published_charges(mirror.state, settings.name))
        place = Place(
            folder=folder,
            adapter=adapter,
            settings=settings,
            policy=state.policy,
            data=trainer.manifest,
        )
        parts = _Parts(
            place=place,
            job=_next_job(
                place, chosen, state=state, store=store, trainer=trainer, ledger=ledger
            ),
            state=foresee(state, store.outbox()),
            ledger=ledger,
            trainer=trainer,
            replica=replica,
        )
        return parts.quote(measure=measure)


def _next_job(
    place: Place,
    release: ReleasePublished,
    *,
    state: FederationState,
    store: NodeState,
    trainer: Trainer,
    ledger: Ledger,
) -> AdapterJob:
    """Return the version that would be trained, or gone on with.

    Raises:
        PolicyError: The one before is trained and paid for, and not in the log.
    """
    name = place.adapter.name
    known, accounts = state.adapters.get(name), store.accounts()
    version = known.version + 1 if known else 1
    while True:
        job = AdapterJob.of(
            place,
            release,
            version=version,
            trainer=trainer,
            ledger=ledger,
        )
        if job.published.exists():
            raise PolicyError(
                f"{name} {version} is trained and paid for, and not in the log: publish"
                f" it (tapestry adapter publish {name}), or remove {job.folder} to skip"
                " it",
                code="adapter-not-published",
            )
        if not job.is_lost(accounts):
            return job
        version += 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """The parts of a quote."""

    place: Place
    job: AdapterJob
    state: FederationState
    ledger: Ledger
    trainer: Trainer
    replica: Replica

    def quote(self, *, measure: bool) -> Quote:
        """Price the plan, and check it as its training would be."""
        settings, job = self.place.settings, self.job
        charge, fault = self._fit()
        rows = [row for row in self.ledger.rows() if row.charge != job.charge]
        known = [row.charge for row in rows]
        alone = after = None
        delta = decode_decimal(settings.policy.target_delta)
        blocks = job.blocks if charge is None else charge.blocks
        if charge is not None:
            alone = accounting.epsilon([charge.steps], target_delta=delta)
            after = largest_epsilon([*known, charge], blocks, target_delta=delta)
        release = job.release.name
        return Quote(
            name=job.title.name,
            version=job.title.version,
            release=count_votes(self.state, release, size=self.state.size),
            plan=job.plan,
            epsilon=alone,
            spent=largest_epsilon(known, blocks, target_delta=delta),
            blocks=blocks,
            spent_blocks=tuple(each for each in job.blocks if each not in blocks),
            after=after,
            limit=decode_decimal(settings.policy.epsilon_limit),
            cap=self.state.policy.epsilon_cap,
            rounds=self._rounds(rows),
            seconds=self._seconds() if measure and fault is None else None,
            memory=self._step.bytes if fault is None else None,
            fault=fault,
        )

    def _fit(self) -> tuple[Charge | None, TapestryError | None]:
        """Return the charge on the blocks that can pay, or why it would be refused."""
        job, settings = self.job, self.place.settings
        name = settings.name
        try:
            check_title(self.state, job.title.name, job.title.version, actor=name)
            count_adapter(self.state, name)
            check_adapter(job.plan, self.place, trainer=self.trainer, load=self._load)
            if job.charge is None:
                return None, None
            charge = check_cap(
                self.ledger.fit(job.charge),
                ledger=self.ledger,
                state=self.state,
                name=name,
                target_delta=settings.policy.target_delta,
            )
        except TapestryError as error:
            return job.charge, error
        return charge, None

    def _rounds(self, rows: list[ChargeRecord]) -> tuple[int, int] | None:
        """Count the rounds like the log's last one that fit, before and after it."""
        last = self.state.newest
        like = None if last is None else self.trainer.charge(last)
        if like is None:
            return None
        charge = self.job.charge
        before = self.ledger.rounds_left(like, rows)
        if charge is None:
            return before, before
        now = datetime.now(UTC)
        more = ChargeRecord(charge=charge, state="reserved", number=0, time=now)
        return before, self.ledger.rounds_left(like, [*rows, more])

    def _load(self) -> Mapping[str, Any]:
        parameters = self.replica.rounded()
        self.trainer.workload.load(parameters)
        return parameters

    @hides_records
    def _seconds(self) -> float:
        """Time a step on the records; what it gives is dropped."""
        from tapestry_node.training import dp_sgd

        self._load()
        units = self.trainer.examples(self.job.plan.training.options, self.job.blocks)
        limits = self._step.limits
        start = time.monotonic()
        dp_sgd.update(
            self.trainer.workload,
            units,
            training=self.job.plan.training.model_copy(update={"steps": 1}),
            privacy=self.job.plan.privacy,
            records=self.job.plan.records,
            runtime=dp_sgd.Runtime(limits=limits),
        )
        return (time.monotonic() - start) * self.job.plan.training.steps

    @property
    def _step(self) -> StepSize:
        plan = self.job.plan
        return self.trainer.trainable.step(plan.training, plan.privacy)
