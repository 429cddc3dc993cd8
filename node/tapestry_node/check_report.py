"""The report of ``tapestry node check``: each line as soon as it is known.

::

    settings   policy        before anything slow is loaded
    files      keys, trust, certificate
    connection the SuperLink, by the very requests that a node sends
    state      log, uploads, charges
    model      base, records, prices, and the rules that every offer would break

Guarantees:
    Nothing is written, charged or reserved, and nothing that depends on a record is
    sent. The counts are exact and for the operator's own terminal.
"""

from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tapestry.environment import direct
from tapestry.errors import TapestryError
from tapestry.installed_files import require_installed_files
from tapestry.model.replica import Replica
from tapestry.software_digest import software_manifest
from tapestry.workloads.workload_registry import open_reader, open_workload
from tapestry_governance.key_turn import NEXT
from tapestry_node.availability import exit_obstacle, obstacles
from tapestry_node.budget.ledger import Balance, Ledger
from tapestry_node.budget.log_accounts import published_charges
from tapestry_node.folder_check import Findings, FolderCheck
from tapestry_node.refusal import Objection
from tapestry_node.settings import Limits, NodeSettings

if TYPE_CHECKING:
    from tapestry_node.inspection import Inspection, Price
    from tapestry_node.training.trainer import Trainer


class CheckReport:
    """A check of a node's folder: its lines as they come, then the same as JSON."""

    def __init__(self, folder: Path, settings: NodeSettings, *, now: datetime) -> None:
        """Take a folder and its settings; ``lines`` does the work."""
        self.settings, self.findings, self._now = settings, Findings(), now
        self._checked = FolderCheck(folder, settings, findings=self.findings)
        self._ends: datetime | None = None
        self._seen: Inspection | None = None
        self._memory: int | None = None  # bytes, of the largest step that was tried
        self._balance: Balance | None = None

    def lines(self) -> Iterator[str]:
        """Check, and yield each line as soon as it is known.

        Raises:
            VerificationError: An installed file was edited; nothing more is checked.
        """
        yield f"node      {self.settings.name} of federation {self.settings.federation}"
        yield f"base      {self.settings.base}"
        yield f"policy    cohorts of {self.settings.policy.min_cohort} and more"
        yield from self._operation()
        require_installed_files(software_manifest().packages)
        try:
            for stage in (self._files, self._connection, self._state, self._model):
                yield from stage()
                yield from self.findings.news()
        finally:
            self._checked.close()
        yield "ready" if self._ready else "not ready"

    @property
    def _ready(self) -> bool:
        return self.findings.status == 0

    def _operation(self) -> Iterator[str]:
        """Yield hours and limits where there are any, and add what closes the node."""
        settings = self.settings
        if settings.hours is not None:
            yield f"hours     {settings.hours.said(self._now)}"
        if settings.limits != Limits():
            yield f"limits    {settings.limits}"
        with self.findings.noting():
            for found in obstacles(self._checked.folder, settings, self._now):
                kind = "refused" if found.code == "disk-free-low" else "warning"
                self.findings.add(Objection.of(found), kind=kind)

    def _files(self) -> Iterator[str]:
        self._checked.read_files(self._now)
        modes = self._checked.modes()
        yield f"keys      {', '.join(f'{n} {mode}' for n, mode in modes.items())}"

    def _connection(self) -> Iterator[str]:
        """Dial as ``tapestry node run`` would, if nothing that it needs is missing."""
        known, dialled = self.settings.transport, self._checked.transport
        if dialled is not None:
            from tapestry_node.flower import try_connection

            with self.findings.noting(), direct(dialled.superlink):
                self._ends = try_connection(
                    superlink=dialled.superlink,
                    root_certificates=Path(dialled.root_certificates),
                    auth_key=Path(dialled.auth_key),
                )
        rest = ""
        if self._ends is not None and known is not None:
            self._checked.check_certificate(
                self._now, self._ends, what=known.superlink, now=self._now
            )
            rest = f" knows this node's key; certificate until {self._ends:%Y-%m-%d}"
        yield f"transport {known.superlink if known else 'none'}{rest}"

    def _state(self) -> Iterator[str]:
        self._checked.read_state()
        log, store = self._checked.log, self._checked.store
        name = self.settings.name
        left = None if store is None else exit_obstacle(name, log, store.outbox())
        if left is not None:
            self.findings.add(Objection.of(left))
        yield f"log       {f'{log.size} entries' if log else 'none seen yet'}"

    def _model(self) -> Iterator[str]:
        """Open the base and the records; without a base, the records alone."""
        settings = self.settings
        folder, manifest = settings.data_in(self._checked.folder)
        self._compare_keys()
        try:
            workload = open_workload(
                settings.workload, settings.base, machine=settings.speed.machine
            )
        except TapestryError as error:
            self.findings.add_error(error)
            reader = open_reader(settings.workload)
            if reader is not None:
                from tapestry_node.training.trainer import check_data

                with self.findings.noting():
                    check_data(
                        folder, reader, manifest=manifest, scratch=self._checked.folder
                    )
            return
        from tapestry_node.readiness import base_objections
        from tapestry_node.training.trainer import Trainer

        replica = Replica.start(workload.given)
        for found in base_objections(settings, given_base=replica.digest):
            self.findings.add(found)
        with self.findings.noting():
            trainer = Trainer(
                folder,
                workload=workload,
                settings=settings,
                manifest=manifest,
                scratch=self._checked.folder,
            )
            self._judge(replica, trainer)
        yield from self._model_lines()

    def _compare_keys(self) -> None:
        """Compare keys with the members of the log, or else with name and trust."""
        from tapestry_node.readiness import check_keys, key_objections

        checked, settings = self._checked, self.settings
        if checked.log is None:
            keys = checked.public_keys
            for found in key_objections(settings, keys=keys, trust=checked.trust):
                self.findings.add(found)
            return
        place = checked.folder / "keys"
        coming = {path.stem for path in place.glob(f"*{NEXT}")}
        own = {p: key for p, key in checked.keys.items() if p not in coming}
        with self.findings.noting():
            check_keys(checked.log, keys=own, name=settings.name)

    def _judge(self, replica: Replica, trainer: "Trainer") -> None:
        """Compare records, ledger and policy, and price the known trainings.

        Raises:
            ConfigError: The policy promises these records nothing.
        """
        from tapestry_node.inspection import inspect
        from tapestry_node.readiness import Standing, objections

        checked, ledger = self._checked, None
        with self.findings.noting():
            ledger = self._ledger(trainer)
        self._balance = ledger.balance() if ledger else None
        standing = Standing(
            folder=checked.folder,
            settings=self.settings,
            keys=checked.public_keys,
            trust=checked.trust,
            state=checked.log,
            given_base=replica.digest,
            ledger=ledger or Ledger.view(checked.scratch(), trainer.terms),
            trainer=trainer,
            load=lambda: trainer.workload.load(replica.parameters),
        )
        self._seen = inspect(standing)
        for found in objections(standing):
            self.findings.add(found)
        self._memory = trainer.trainable.largest
        for error in self._seen.faults:
            self.findings.add_error(error)

    def _ledger(self, trainer: "Trainer") -> Ledger | None:
        """Return the ledger, compared with the records and the log; None without one.

        Raises:
            TapestryError: It is that of other records, or older than the log.
        """
        from tapestry_node.data_ledger import view_ledger

        log, store = self._checked.log, self._checked.store
        if store is None:
            return None
        ledger = view_ledger(store, trainer)
        if log is not None:
            ledger.require(published_charges(log, self.settings.name))
        return ledger

    def _model_lines(self) -> Iterator[str]:
        """Yield the records, and what is spent and priced where the ledger holds."""
        seen, balance = self._seen, self._balance
        if seen is not None:
            yield from _records(seen)
        if self._memory is not None:
            size = f"{self._memory / 1e9:.1f} GB"
            yield f"memory    a node takes about {size} in a step of training"
        if seen is not None and balance is not None:
            yield f"budget    epsilon {balance.spent:.4f} of {balance.limit:g} is spent"
            for price in seen.prices:
                yield f"price     {_price(price, limit=balance.limit)}"

    def as_json(self) -> dict[str, Any]:
        """Return all of it as one object, after ``lines``."""
        settings, seen = self.settings, self._seen
        found = {
            kind: [asdict(e) for e in each] for kind, each in self.findings.of.items()
        }
        return {
            "ready": self._ready,
            "name": settings.name,
            "federation": settings.federation,
            "base": settings.base,
            "min_cohort": settings.policy.min_cohort,
            "hours": settings.hours and settings.hours.said(self._now),
            "limits": settings.limits.model_dump(),
            "budget": asdict(self._balance) if self._balance else None,
            "licence": seen.data.licence if seen else None,
            "languages": list(seen.data.languages) if seen else [],
            "records": seen.records if seen else None,
            "census": seen.summary.to_json() if seen and seen.summary else None,
            "coverage": [each.to_json() for each in seen.coverage] if seen else [],
            "prices": [asdict(p) for p in seen.prices]
            if seen and self._balance
            else [],
            "memory_bytes": self._memory,
            "keys": self._checked.modes(),
            "superlink": settings.transport.superlink if settings.transport else None,
            "certificate_ends": self._ends.isoformat() if self._ends else None,
            **found,
        }


def _records(seen: "Inspection") -> Iterator[str]:
    described = f"licence {seen.data.licence}"
    if seen.data.languages:
        described = f"language {', '.join(seen.data.languages)}, {described}"
    if seen.summary is None:
        yield f"data      {_count(seen.records, 'record')}; {described}"
    for summary in filter(None, (seen.summary, *seen.coverage)):
        for label, text in summary.lines():
            rest = f"; {described}" if label == "data" else ""
            yield f"{label:<9} {text}{rest}"
    yield f"version   {seen.version}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _price(price: "Price", *, limit: float) -> str:
    fits = "" if price.fits else ", which does not fit"
    return (
        f"{price.title}: epsilon {price.epsilon:.4f} ({_count(price.steps, 'step')},"
        f" sampling rate {price.sampling_rate:.4f}, noise multiplier"
        f" {price.noise_multiplier:g}); with what is spent {price.epsilon_after:.4f} of"
        f" {limit:g}{fits}"
    )
