"""An institution publishes its adapter on a release: trained, paid for, signed.

The budget is spent and the account signed before anything is written that could
leave. What was signed is kept beside the files, so that a second request, or a
request after a crash, gives the same publication and never trains twice.
"""

import json
import shutil
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tapestry.config import NodeSettings
from tapestry.encoding import canonical_json
from tapestry.errors import ConfigError
from tapestry.keys import SigningKey
from tapestry.manifest import FOLDER
from tapestry.protocol import Kind, Message, Reason
from tapestry.replica import Replica
from tapestry.vector import FloatVector
from tapestry.workloads.adapters import BaseName
from tapestry.workloads.language import LanguageModel
from tapestry_governance.entries import Author, sign_entry
from tapestry_governance.events import AdapterPublished, DpAccounted, ReleasePublished
from tapestry_node import adapting
from tapestry_node.adapting import AdapterPlan, Title
from tapestry_node.budget import Charge, Ledger
from tapestry_node.card import Card
from tapestry_node.guard import Refused
from tapestry_node.session import Desk, account_of
from tapestry_node.training import Progress, Runtime

_ACCOUNTED, _PUBLISHED = "accounted.entry", "published.entry"
HELD_OUT = "held-out.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Publisher:
    """What publishing works with; all of it belongs to the node."""

    desk: Desk
    settings: NodeSettings
    replica: Replica
    ledger: Ledger
    community: SigningKey
    folder: Path  # of the node

    def publish(self, release: ReleasePublished, *, now: datetime) -> Message:
        """Train an adapter on a release and hand out files and signed entries.

        Raises:
            BudgetExhausted: The ledger does not cover it.
            Refused: The policy does not allow to train without noise.
            ConfigError, ResourceError: A setting is wrong, or the training failed.
        """
        title = self._title(release)
        folder = self.folder / "adapters" / f"{title.name}-{title.version}"
        if not (folder / FOLDER / _PUBLISHED).exists():
            if folder.exists():  # of a process that died before it was done
                shutil.rmtree(folder)
            self._make(folder, title, release, now=now)
        return _message(folder)

    def _title(self, release: ReleasePublished) -> Title:
        name = self.desk.name
        known = self.desk.view.state.adapters.get(name)
        base = BaseName(name=release.name, digest=release.parameters_digest)
        return Title(name=name, version=known.version + 1 if known else 1, base=base)

    def _make(
        self, folder: Path, title: Title, release: ReleasePublished, *, now: datetime
    ) -> None:
        trainer, chosen = self.desk.trainer, self.settings.adapter
        plan = adapting.plan(
            title,
            chosen,
            records=trainer.count,
            target_delta=self.settings.policy.target_delta,
        )
        charge = self._reserve(title, plan, release)
        model = self._model()
        try:
            update = adapting.train(
                model,
                trainer.units(chosen.sequence_length),
                plan=plan,
                runtime=Runtime(progress=self._tell),
            )
        finally:  # that it failed may depend on the records, and a refusal tells
            if charge is not None:
                self.ledger.spend(charge)
        account = self._account(title, plan, charge, release)
        card = self._card(title, plan, update, account=account)
        made = adapting.write(folder, update, model=model, plan=plan, card=card)
        published = AdapterPublished(
            name=title.name,
            version=title.version,
            country=card.country,
            language=card.language,
            licence=card.licence,
            base=release.name,
            base_digest=release.parameters_digest,
            manifest_digest=made.manifest_digest,
            epsilon=account.epsilon_run,
            target_delta=account.target_delta,
            evaluation=dict(card.evaluation),
        )
        self._sign(folder, account, published, now=now)

    def _model(self) -> LanguageModel:
        model = self.desk.trainer.workload
        if not isinstance(model, LanguageModel):
            raise ConfigError("adapters need a language model")
        model.load(self.replica.parameters)
        return model

    def _reserve(
        self, title: Title, plan: AdapterPlan, release: ReleasePublished
    ) -> Charge | None:
        if plan.steps is None:
            if "none" not in self.settings.policy.noise:
                raise Refused(Reason.LOCAL_POLICY, "adapter.epsilon is 0: no noise")
            return None
        charge = Charge(
            purpose="adapter",
            run=release.run_id,
            number=title.version,
            steps=plan.steps,
            own_multiplier=plan.steps.noise_multiplier,
        )
        self.ledger.reserve(charge)
        return charge

    def _account(
        self,
        title: Title,
        plan: AdapterPlan,
        charge: Charge | None,
        release: ReleasePublished,
    ) -> DpAccounted:
        return DpAccounted(
            run_id=release.run_id,
            round_number=None,
            attempt=None,
            adapter=title.name,
            version=title.version,
            steps=plan.training.steps,
            **account_of(charge, plan.privacy, ledger=self.ledger),
        )

    def _card(
        self,
        title: Title,
        plan: AdapterPlan,
        update: FloatVector,
        *,
        account: DpAccounted,
    ) -> Card:
        trainer = self.desk.trainer
        public = _read_public(self.folder / HELD_OUT)
        return Card(
            name=title.name,
            version=title.version,
            country=self.settings.country,
            language=trainer.corpus.language,
            licence=self.settings.adapter.licence,
            text_licence=trainer.corpus.licence,
            base=title.base,
            rank=plan.training.rank,
            promise=plan.promise(
                account.epsilon_run, fallback=account.epsilon_fallback
            ),
            evaluation=adapting.score(self._model(), update, public, plan=plan),
        )

    def _sign(
        self,
        folder: Path,
        account: DpAccounted,
        published: AdapterPublished,
        *,
        now: datetime,
    ) -> None:
        accounted = self.desk.say(account, now=now)
        self.desk.store.post(accounted)
        publisher = Author(
            federation=self.settings.federation,
            actor=self.desk.name,
            role="community",
        )
        event = publisher.event(published, now=now, seen=self.desk.view.seen)
        (folder / FOLDER / _ACCOUNTED).write_bytes(accounted)
        draft = folder / FOLDER / (_PUBLISHED + ".part")
        draft.write_bytes(sign_entry(event, self.community))
        draft.replace(folder / FOLDER / _PUBLISHED)

    def _tell(self, seen: Progress) -> None:
        event = {"stage": "adapter", "node": self.desk.name}
        self.desk.notify({**event, "done": seen.step, "total": seen.steps})


def _message(folder: Path) -> Message:
    """Pack a publication: its two entries, then its files."""
    entries = [
        (folder / FOLDER / name).read_bytes() for name in (_ACCOUNTED, _PUBLISHED)
    ]
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [path.relative_to(folder).as_posix() for path in paths]
    return Message(
        kind=Kind.PUBLICATION,
        body=canonical_json({"files": names}),
        attachments=[*entries, *(path.read_bytes() for path in paths)],
    )


def _read_public(path: Path) -> list[str]:
    """Read the text that this institution published for evaluations, if any."""
    if not path.exists():
        return []
    try:
        lines = path.read_text("utf-8").split("\n")
        rows = [json.loads(line) for line in lines if line]
        return [str(row["text"]) for row in rows]
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(f'{path.name} must hold lines {{"text": "..."}}') from None
