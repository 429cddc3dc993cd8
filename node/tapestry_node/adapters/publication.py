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
    present ones, is paid for and accounted all the same. Its version is skipped. The
    next one of that run is begun, and paid for, only after a restart of the node.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, cast

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
    PUBLICATIONS,
    Place,
    check_adapter,
    language_of,
    plan_adapter,
)
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

if TYPE_CHECKING:
    from tapestry_node.training.dp_sgd import StepProgress  # loads torch

_ACCOUNTED, _PUBLISHED = "accounted.entry", "published.entry"


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
        return ("adapter", self.release.run_id, self.title.version)

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
        return list(self.root.glob(f"{self.folder.name}.*.update"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Publisher:
    """The parts of a node that publishing works with."""

    context: NodeContext
    settings: NodeSettings
    replica: Replica
    ledger: Ledger
    community: SigningKey
    folder: Path  # of the node

    def publish(self, release: ReleasePublished, *, now: datetime) -> Message:
        """Train an adapter on a release and hand out files and signed entries.

        Raises:
            BudgetExhausted: The ledger does not cover the training.
            Refused: The policy does not allow to train without noise, the log would
                not publish the adapter, or a training of this run failed since the
                node was started.
            ConfigError, ResourceError: A setting is wrong, or the training failed.
        """
        job = self._next(release)
        if not job.published.exists():
            self._make(job, now=now)
        for path in job.updates():
            path.unlink()
        return _message(job.folder)

    def _next(self, release: ReleasePublished) -> AdapterJob:
        """Go on with the version that is under way, or begin the next."""
        known = self.context.mirror.state.adapters.get(self.context.name)
        job = self._job(release, known.version + 1 if known else 1)
        while self._is_lost(job):
            for path in job.updates():
                path.unlink()
            job = self._job(release, job.title.version + 1)
        return job

    def _job(self, release: ReleasePublished, version: int) -> AdapterJob:
        base = BaseName(name=release.name, digest=release.model_digest)
        title = Title(name=self.context.name, version=version, base=base)
        plan = plan_adapter(title, self.settings, trainer=self.context.trainer)
        charge, blocks = None, self.context.trainer.holdings.version.trains
        if plan.steps is not None:
            charge = Charge(
                purpose="adapter",
                run=release.run_id,
                number=version,
                steps=plan.steps,
                own_multiplier=plan.steps.noise_multiplier,
                blocks=blocks,
            )
            charge = self.ledger.known(charge)
        return AdapterJob(
            blocks=charge.blocks if charge else blocks,
            data=self.context.trainer.holdings.version.version,
            title=title,
            release=release,
            plan=plan,
            charge=charge,
            root=self.folder / PUBLICATIONS,
        )

    def _is_lost(self, job: AdapterJob) -> bool:
        """Return true if a version was paid for and nothing is left to publish."""
        if job.published.exists() or job.update.exists():
            return False
        return any(
            (purpose, version) == ("adapter", job.title.version)
            for purpose, _, version in self.context.store.accounts()
        )

    def _make(self, job: AdapterJob, *, now: datetime) -> None:
        """Take the steps that were not taken yet.

        Guarantees:
            One attempt that fails, at the training or after it, is the last training
            of its run until the node is restarted. What a training gave may still be
            published: that costs nothing. The public data that were checked before
            anything was paid for are those that are published.
        """
        if not job.update.exists():
            self.context.check_failed(job.release.run_id)
            self._ask_log(job)
        trainer = self.context.trainer
        place = Place(
            folder=self.folder,
            settings=self.settings,
            policy=self.context.mirror.state.policy,
            data=trainer.manifest,
        )
        public = check_adapter(job.plan, place, trainer=trainer, load=self._workload)
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
        try:
            if not job.update.exists():
                self._train(job, now=now)
            self._write(job, self._pay(job, now=now), public, now=now)
        except Exception:
            self.context.failed.add(job.release.run_id)
            raise

    def _ask_log(self, job: AdapterJob) -> None:
        """Refuse to train and to pay for what the log would not publish.

        Raises:
            Refused: The name is another's, or there were too many accounts.
        """
        state, name = self.context.mirror.state, self.context.name
        try:
            check_title(state, job.title.name, job.title.version, actor=name)
            count_adapter(state, name)
        except RuleError as error:
            raise Refused(Reason.LOCAL_POLICY, str(error), code=error.code) from None

    @hides_records
    def _train(self, job: AdapterJob, *, now: datetime) -> None:
        from tapestry_node.training.dp_sgd import Runtime

        trainer = self.context.trainer
        trainer.drop(self.context.store.reading().withdrawn)
        try:
            update = adapter_trainer.train(
                self._workload(),
                trainer.examples(job.plan.training.options, job.blocks),
                plan=job.plan,
                runtime=Runtime(progress=self._tell),
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
        known = self.context.mirror.state.adapters.get(self.context.name)
        try:
            job = self._job(release, known.version + 1 if known else 1)
        except (ConfigError, PolicyError):
            return
        with self.context.store.writing() as replay:
            paid = {number for kind, _, number in replay.accounted if kind == "adapter"}
            if job.title.version in paid:
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
            licence=self.settings.adapter.licence,
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
            language=language_of(facts.data),
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

    def _tell(self, seen: "StepProgress") -> None:
        event = {"stage": "adapter", "node": self.context.name}
        self.context.notify({**event, "done": seen.step, "total": seen.steps})


def _message(folder: Path) -> Message:
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
