"""Inspection of a node's folder: records, prices, keys and connection.

``readiness`` lists why offers would be refused. This module shows an operator the data
that the node would train on, the price of that for each record, and everything that
``tapestry node run`` still lacks.

Guarantees:
    Nothing is charged, reserved or sent. The counts are exact and for the operator's
    own terminal; what the log learns of the records is ``DataDeclared``.
"""

import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tapestry.encoding import decode_decimal
from tapestry.errors import ConfigError, ProtocolError
from tapestry.privacy import accounting
from tapestry.protocol.round_manifest import Options, RoundManifest
from tapestry.workloads.base import Summary
from tapestry.workloads.data_manifest import DataManifest
from tapestry_node.budget.ledger import Ledger
from tapestry_node.refusal import Objection
from tapestry_node.settings import NodeSettings, Transport
from tapestry_node.superlink_credentials import (
    check_address,
    load_auth_key,
    read_certificates,
)
from tapestry_node.training.trainer import Trainer


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """The cost of one training for each record, and its fit into the budget."""

    title: str
    sampling_rate: float
    steps: int
    noise_multiplier: float
    epsilon: float  # of this training alone
    epsilon_after: float  # together with what is spent or reserved
    fits: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """A node's folder, as its operator needs to see it before joining.

    ``refused`` holds the rules that plans and settings break for any coordinator,
    ``missing`` the files and tables that ``tapestry node run`` needs and does not find.
    """

    data: DataManifest
    records: int
    summary: Summary | None
    coverage: tuple[Summary, ...]
    prices: tuple[Price, ...]
    keys: dict[str, str]  # mode of each file, in octal digits
    superlink: str | None
    refused: tuple[Objection, ...]
    missing: tuple[Objection, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspector:
    """The parts of a node that an inspection reads."""

    directory: Path
    settings: NodeSettings
    trainer: Trainer
    ledger: Ledger
    last: RoundManifest | None  # the log's last round

    def inspect(self) -> Inspection:
        """Look at everything."""
        prices: list[Price] = []
        transport = self.settings.transport
        missing, refused = _dialling(self.directory, transport)
        for ask in (self._round, self._adapter):
            try:
                if (price := ask()) is not None:
                    prices.append(price)
            except (ConfigError, ProtocolError) as error:
                refused.append(Objection.of(error))
        return Inspection(
            data=self.trainer.manifest,
            records=self.trainer.count,
            summary=self.trainer.summary,
            coverage=tuple(filter(None, map(self.trainer.coverage, self._options()))),
            prices=tuple(prices),
            keys=_modes(self.directory / "keys"),
            superlink=transport.superlink if transport else None,
            refused=tuple(refused),
            missing=tuple(missing),
        )

    def _options(self) -> list[Options]:
        """List the options that are known: the adapter's and the last round's.

        Edge cases:
            Those of a round that this workload does not take are left out; the
            objections name them.
        """
        known = [self.settings.adapter.options]
        workload = self.trainer.workload
        if self.last is not None and self.last.training.workload == workload.name:
            known.append(self.last.training.options)
        return [each for at, each in enumerate(known) if each not in known[:at]]

    def _round(self) -> Price | None:
        """Price a round like the log's last one; None where nothing is promised.

        Raises:
            ConfigError: These records are too few for such a round.
        """
        charge = self.trainer.charge(self.last) if self.last else None
        if charge is None:
            return None
        return self._price(f"a round like {charge.title}, the log's last", charge.steps)

    def _adapter(self) -> Price | None:
        """Price the adapter of ``[adapter]``; None if it is not to be published.

        Raises:
            ConfigError: These records are too few for the adapter.
        """
        plan = self.settings.adapter
        if not plan.publish or plan.noise == "none":
            return None
        rate = accounting.sampling_rate(plan.batch_size, records=self.trainer.count)
        noise = accounting.calibrate(
            target_epsilon=decode_decimal(plan.epsilon),
            target_delta=decode_decimal(self.settings.policy.target_delta),
            sampling_rate=rate,
            steps=plan.steps,
        )
        steps = accounting.Steps(
            noise_multiplier=noise, sampling_rate=rate, steps=plan.steps
        )
        return self._price("the adapter", steps)

    def _price(self, title: str, steps: accounting.Steps) -> Price:
        delta = decode_decimal(self.settings.policy.target_delta)
        known = [row.charge.steps for row in self.ledger.rows()]
        after = accounting.epsilon([*known, steps], target_delta=delta)
        return Price(
            title=title,
            sampling_rate=steps.sampling_rate,
            steps=steps.steps,
            noise_multiplier=steps.noise_multiplier,
            epsilon=accounting.epsilon([steps], target_delta=delta),
            epsilon_after=after,
            fits=after <= decode_decimal(self.settings.policy.epsilon_limit),
        )


def _modes(folder: Path) -> dict[str, str]:
    """List the modes of the private keys of a folder."""
    public = {".pub", ".node-id"}
    return {
        path.name: f"{stat.S_IMODE(path.lstat().st_mode):04o}"
        for path in sorted(folder.iterdir())
        if path.suffix not in public
    }


def _dialling(
    directory: Path, transport: Transport | None
) -> tuple[list[Objection], list[Objection]]:
    """List the things that ``tapestry node run`` lacks to dial, and those in error."""
    if transport is None:
        said = (
            "node.toml has no [transport]; add the table with superlink,"
            " root_certificates, auth_key and poll_seconds, or give tapestry node run"
            " --superlink, --root-certificates and --auth-key"
        )
        return [Objection.of(ConfigError(said, code="transport-missing"))], []
    missing, wrong = [], []
    readers: tuple[tuple[str, Callable[[Path], object]], ...] = (
        ("root_certificates", read_certificates),
        ("auth_key", load_auth_key),
    )
    try:
        check_address(transport.superlink)
    except ConfigError as error:
        wrong.append(Objection.of(error, place="transport.superlink: "))
    for name, read in readers:
        path = directory / getattr(transport, name)
        if not path.exists():
            said = f"transport.{name}: no file {path}; put it there"
            missing.append(Objection.of(ConfigError(said, code="file-missing")))
            continue
        try:
            read(path)
        except ConfigError as error:
            wrong.append(Objection.of(error, place=f"transport.{name}: "))
    return missing, wrong
