"""Publication of an institution's adapter on a release: trained, paid for, signed.

Each step is on the disk before the next begins, so that a process that dies goes on
where it was, and a second request gives the same publication::

    reserve  train                  nothing is left of a training that dies
    NAME-VERSION.PLAN.update        what it gave; from here on it is never repeated
    spend                           in the ledger; with it the account, signed once and
                                    for the log
    NAME-VERSION/…                  the files, both entries beside them
    NAME-VERSION/tapestry/published.entry    takes its name last: it is published

Guarantees:
    What leaves was paid for before, once: one training, one account, one publication
    per name and version, whenever the process is killed.

Edge cases:
    A training that failed, or was made for other settings or another release than the
    present ones, is paid for and accounted all the same. Its version is skipped. At the
    end of a run the next one is begun, and paid for, only after a restart of the node;
    at the operator's word (``training_job``) only when that is given again.
"""

import re
import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Self, cast

import numpy as np

from tapestry.artifacts import manifest
from tapestry.artifacts.manifest import FOLDER
from tapestry.encoding import canonical_json, digest
from tapestry.errors import ConfigError, PolicyError, RuleError
from tapestry.inputs.private_data import hides_records
from tapestry.keys import SigningKey
from tapestry.model.replica import Replica
from tapestry.protocol.messages import Message, Publication, Reason, encode_message
from tapestry.storage import durable_files
from tapestry.workloads.adapter_format import AdapterFacts, AdapterPromise, BaseName
from tapestry.workloads.base import Workload
from tapestry.workloads.data_manifest import Record
from tapestry_governance.events.envelope import Author, open_entry, sign_entry
from tapestry_governance.events.model_events import AdapterPublished, ReleasePublished
from tapestry_governance.events.privacy_events import DpAccounted
from tapestry_governance.rules.account_rules import count_adapter
from tapestry_governance.rules.model_rules import check_title
from tapestry_node.adapters import adapter_trainer
from tapestry_node.adapters.adapter_check import (
    Place,
    check_adapter,
    language_of,
    plan_adapter,
)
from tapestry_node.adapters.adapter_file import PUBLICATIONS, NamedAdapter
from tapestry_node.adapters.adapter_trainer import AdapterPlan, Title
from tapestry_node.budget.ledger import Charge, Ledger
from tapestry_node.budget.ledger_entries import Key
from tapestry_node.budget.log_accounts import (
    ancestry_epsilon,
    check_cap,
    loss_of,
    own_spending,
)
from tapestry_node.refusal import Refused
from tapestry_node.round.session import NodeContext
from tapestry_node.settings import NodeSettings
from tapestry_node.state_entries import Sign
from tapestry_node.submission import foresee
from tapestry_node.training.trainer import Trainer

if TYPE_CHECKING:
    from tapestry_node.training.dp_sgd import StepProgress  # loads torch

_ACCOUNTED, _PUBLISHED = "accounted.entry", "published.entry"
Tell = Callable[[int, int], None]  # steps that were taken, of how many


def _tell_nobody(_done: int, _total: int) -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterJob:
    """One adapter to publish, and where its steps are kept."""

    title: Title
    release: ReleasePublished
    plan: AdapterPlan
    charge: Charge | None  # None: without noise, nothing is promised
    data: int  # the version of the data
    blocks: tuple[int, ...]  # that are trained on
    root: Path

    @classmethod
    def of(
        cls,
        place: Place,
        release: ReleasePublished,
        *,
        version: int,
        trainer: Trainer,
        ledger: Ledger,
    ) -> Self:
        """Plan a version of an adapter on a release.

        What was reserved or paid for already keeps the blocks of data that it was on.

        Raises:
            ConfigError: A setting is out of range, or more is asked than the records
                give.
        """
        base = BaseName(name=release.name, digest=release.model_digest)
        title = Title(name=place.adapter.name, version=version, base=base)
        plan = plan_adapter(
            title,
            place.adapter.file.adapter,
            target_delta=place.settings.policy.target_delta,
            trainer=trainer,
        )
        data = trainer.holdings.version
        charge, blocks = None, data.trains
        if plan.steps is not None:
            charge = ledger.known(
                Charge(
                    purpose="adapter",
                    run=title.name,
                    number=version,
                    steps=plan.steps,
                    own_multiplier=plan.steps.noise_multiplier,
                    blocks=blocks,
                )
            )
            blocks = charge.blocks
        return cls(
            blocks=blocks,
            data=data.version,
            title=title,
            release=release,
            plan=plan,
            charge=charge,
            root=place.folder / PUBLICATIONS,
        )

    def is_lost(self, accounts: Collection[Key]) -> bool:
        """Return true if it was paid for and nothing is left to publish."""
        if self.published.exists() or self.update.exists():
            return False
        return self.key in accounts

    @property
    def folder(self) -> Path:
        """The publication."""
        return self.root / f"{self.title.name}-{self.title.version}"

    @property
    def published(self) -> Path:
        """The entry whose presence says that the publication is whole."""
        return self.folder / FOLDER / _PUBLISHED

    @property
    def key(self) -> Key:
        """The name under which it is charged, if it has noise, and accounted."""
        return ("adapter", self.title.name, self.title.version)

    @property
    def update(self) -> Path:
        """The update of the training, named by all that it was made for."""
        made_for = canonical_json(
            {
                "base": self.title.base.digest,
                "blocks": list(self.blocks),
                "data": self.data,
                "privacy": self.plan.privacy.model_dump(mode="json"),
                "training": self.plan.training.model_dump(mode="json"),
            }
        )
        plan = digest(made_for).removeprefix("sha256:")[:16]
        return self.folder.with_name(f"{self.folder.name}.{plan}.update")

    def updates(self) -> list[Path]:
        """List the updates of all trainings of this version, for any settings."""
        name = re.escape(self.folder.name)
        own = re.compile(rf"{name}\.[0-9a-f]{{16}}\.update")
        found = self.root.iterdir() if self.root.is_dir() else ()
        return [path for path in found if own.fullmatch(path.name)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Publisher:
    """The parts of a node that making one of its adapters works with."""

    adapter: NamedAdapter
    context: NodeContext
    settings: NodeSettings
    replica: Replica
    ledger: Ledger
    community: SigningKey
    folder: Path  # of the node

    def publish(self, release: ReleasePublished, *, now: datetime) -> Message:
        """Train an adapter on a release and hand out files and signed entries.

        Guarantees:
            One attempt that fails, at the training or after it, is the last training
            of its run until the node is restarted. What a training gave may still be
            published: that costs nothing.

        Raises:
            BudgetExhausted: The ledger does not cover the training.
            Refused: The policy does not allow to train without noise, the log would
                not publish the adapter, or a training of this run failed since the
                node was started.
            ConfigError, ResourceError: A setting is wrong, or the training failed.
        """
        job = self.next(release)
        if not job.published.exists():
            if not job.update.exists():
                self.context.check_failed(release.run_id)
            job, public = self._admit(job)
            try:
                self._finish(job, public, now=now)
            except Exception:
                self.context.failed.add(release.run_id)
                raise
        return publication_in(self._tidy(job).folder)

    def make(
        self, release: ReleasePublished, *, now: datetime, tell: Tell = _tell_nobody
    ) -> AdapterJob:
        """Train an adapter on a release, pay for it, and write its publication.

        Nothing leaves by that. ``tell`` is told the steps of the training.

        Raises:
            BudgetExhausted: The ledger does not cover the training.
            Refused: The policy does not allow to train without noise, or the log would
                not publish the adapter.
            ConfigError, ResourceError: A setting is wrong, or the training failed.
        """
        job = self.next(release)
        if not job.published.exists():
            job, public = self._admit(job)
            self._finish(job, public, now=now, tell=tell)
        return self._tidy(job)

    def _tidy(self, job: AdapterJob) -> AdapterJob:
        for path in job.updates():
            path.unlink()
        return job

    def next(self, release: ReleasePublished) -> AdapterJob:
        """Go on with the version that is under way, or begin the next."""
        accounts = self.context.store.accounts()
        job = self._first(release)
        while job.is_lost(accounts):
            self._tidy(job)
            job = self._job(release, job.title.version + 1)
        return job

    def _first(self, release: ReleasePublished) -> AdapterJob:
        """Name the version after the one that is published."""
        known = self.context.mirror.state.adapters.get(self.adapter.name)
        return self._job(release, known.version + 1 if known else 1)

    @property
    def _place(self) -> Place:
        return Place(
            folder=self.folder,
            adapter=self.adapter,
            settings=self.settings,
            policy=self.context.mirror.state.policy,
            data=self.context.trainer.manifest,
        )

    def _job(self, release: ReleasePublished, version: int) -> AdapterJob:
        return AdapterJob.of(
            self._place,
            release,
            version=version,
            trainer=self.context.trainer,
            ledger=self.ledger,
        )

    def _admit(self, job: AdapterJob) -> tuple[AdapterJob, list[Record]]:
        """Check what a job needs, and reserve its charge; nothing is paid for yet.

        Returns:
            The job on the blocks that can pay, and the public data that it will be
            measured on: those that are checked here are those that are published.
        """
        if not job.update.exists():
            self._ask_log(job)
        trainer = self.context.trainer
        public = check_adapter(
            job.plan, self._place, trainer=trainer, load=self._workload
        )
        if job.charge is not None:
            affordable = check_cap(
                self.ledger.fit(job.charge),
                ledger=self.ledger,
                state=self.context.mirror.state,
                name=self.context.name,
                target_delta=self.settings.policy.target_delta,
            )
            self.ledger.reserve(affordable)
            job = replace(job, charge=affordable, blocks=affordable.blocks)
        return job, public

    def _finish(
        self,
        job: AdapterJob,
        public: list[Record],
        *,
        now: datetime,
        tell: Tell = _tell_nobody,
    ) -> None:
        """Take the steps that were not taken yet."""
        if not job.update.exists():
            self._train(job, now=now, tell=tell)
        self._write(job, self._pay(job, now=now), public, now=now)

    def _ask_log(self, job: AdapterJob) -> None:
        """Refuse to train and to pay for what the log would not publish.

        Raises:
            Refused: The name is another's, or there were too many accounts.
        """
        name, outbox = self.context.name, self.context.store.outbox()
        state = foresee(self.context.mirror.state, outbox)
        try:
            check_title(state, job.title.name, job.title.version, actor=name)
            count_adapter(state, name)
        except RuleError as error:
            raise Refused(Reason.LOCAL_POLICY, str(error), code=error.code) from None

    @hides_records
    def _train(self, job: AdapterJob, *, now: datetime, tell: Tell) -> None:
        from tapestry_node.training.dp_sgd import Runtime

        trainer = self.context.trainer
        trainer.drop(self.context.store.reading().withdrawn)

        def progress(seen: "StepProgress") -> None:
            event = {"stage": "adapter", "node": self.context.name}
            self.context.notify({**event, "done": seen.step, "total": seen.steps})
            tell(seen.step, seen.steps)
            trainer.drop(self.context.store.reading().withdrawn)

        limits = trainer.trainable.step(job.plan.training, job.plan.privacy).limits
        try:
            update = adapter_trainer.train(
                self._workload(),
                trainer.examples(job.plan.training.options, job.blocks),
                plan=job.plan,
                runtime=Runtime(limits=limits, progress=progress),
            )
        except Exception:  # the failure may depend on the records, and it shows
            if job.charge is not None:
                self._pay(job, now=now)
            raise
        durable_files.replace_file(job.update, update.astype("<f4").tobytes())

    def _pay(self, job: AdapterJob, *, now: datetime) -> bytes:
        """Spend the charge and sign the account, once; a lost one is posted again."""
        sign = self._signer(job, now=now)
        if job.charge is None:
            return self.context.store.account(job.key, sign)
        return self.ledger.spend(job.charge, sign)

    def assume_next(self, release: ReleasePublished, *, now: datetime) -> None:
        """Count the next version as paid for: a state that was restored may lack it.

        Edge cases:
            What these settings cannot plan was not trained.
        """
        try:
            job = self._first(release)
        except (ConfigError, PolicyError):
            return
        with self.context.store.writing() as replay:
            if job.key in replay.accounted:
                return
            if job.charge is not None:
                replay.assume(job.charge)
            replay.account(job.key, self._signer(job, now=now))

    def _signer(self, job: AdapterJob, *, now: datetime) -> Sign:
        def sign(number: int, spent: Sequence[Charge]) -> bytes:
            account = DpAccounted(
                number=number,
                run_id=job.release.run_id,
                round_number=None,
                attempt=None,
                adapter=job.title.name,
                version=job.title.version,
                steps=job.plan.training.steps,
                loss=loss_of(
                    job.charge,
                    job.plan.privacy,
                    spent=spent,
                    unit=self.context.trainer.manifest.unit,
                ),
            )
            return self.context.sign_event(account, now=now)

        return sign

    def _write(
        self,
        job: AdapterJob,
        accounted: bytes,
        public: list[Record],
        *,
        now: datetime,
    ) -> None:
        """Write the publication; its last file makes it one."""
        update = np.frombuffer(job.update.read_bytes(), dtype="<f4").copy()
        if job.folder.exists():  # of a process that died before it was done
            shutil.rmtree(job.folder)
        account = cast("DpAccounted", open_entry(accounted).event.body)
        loss = account.promise
        facts = AdapterFacts(
            name=job.title.name,
            version=job.title.version,
            country=self.settings.country,
            language=language_of(self.adapter, self.context.trainer.manifest),
            domain=self.adapter.file.domain,
            region=self.adapter.file.region,
            licence=self.adapter.file.adapter.licence,
            data=self.context.trainer.manifest,
            base=job.title.base,
            promise=self._promise(job, account),
        )
        made, scores = adapter_trainer.write(
            job.folder,
            update,
            workload=self._workload(),
            plan=job.plan,
            facts=facts,
            public=public,
        )
        published = AdapterPublished(
            name=job.title.name,
            version=job.title.version,
            country=facts.country,
            language=facts.language,
            licence=facts.licence,
            base=job.title.base.name,
            base_digest=job.title.base.digest,
            manifest_digest=made.manifest_digest,
            epsilon=loss.epsilon if loss else None,
            target_delta=loss.target_delta if loss else None,
            evaluation=scores,
        )
        publisher = Author(
            federation=self.settings.federation,
            actor=self.context.name,
            role="community",
        )
        event = publisher.event(published, now=now, seen=self.context.mirror.seen)
        durable_files.replace_file(job.folder / FOLDER / _ACCOUNTED, accounted)
        durable_files.sync_tree(job.folder)
        durable_files.replace_file(job.published, sign_entry(event, self.community))

    def _promise(self, job: AdapterJob, account: DpAccounted) -> AdapterPromise | None:
        """Return what the card promises; None without noise."""
        if account.promise is None:
            return None
        led = ancestry_epsilon(
            account,
            job.release.name,
            state=self.context.mirror.state,
            spending=own_spending(self.context.store.accounts().values()),
        )
        return job.plan.promise(account.promise, led)

    def _workload(self) -> Workload:
        """Return the workload, with the release of the base held here in its model."""
        workload = self.context.trainer.workload
        workload.load(self.replica.rounded())
        return workload


def publication_in(folder: Path) -> Message:
    """Pack a publication: its two entries, then its files.

    Guarantees:
        What leaves are the files of the manifest, unchanged, with the manifest and the
        two entries. Nothing that came into the folder later leaves with them.

    Raises:
        VerificationError: The folder is not what was written; it says what to remove.
    """
    entries = [
        (folder / FOLDER / name).read_bytes() for name in (_ACCOUNTED, _PUBLISHED)
    ]
    listed = manifest.read(folder)
    manifest.verify(folder, listed)
    own = (manifest.FILE, _ACCOUNTED, _PUBLISHED)
    names = sorted([*(f.name for f in listed.files), *(f"{FOLDER}/{n}" for n in own)])
    files = [(folder / name).read_bytes() for name in names]
    return encode_message(Publication(files=tuple(names)), [*entries, *files])
