"""The one object of a node that holds private records.

It is asked for an update and returns a vector; the records themselves have no other
way out. It also says which lines of public text repeat a record. ``adapter_trainer``
trains on the same records through the same object.
"""

import itertools
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path

from tapestry.model.replica import Replica
from tapestry.privacy.gaussian import NoiseSource
from tapestry.privacy.noise_shares import NoiseShare
from tapestry.protocol.wire_messages import RoundManifest
from tapestry.settings import NodeSettings, number
from tapestry.vectors import FloatVector, Layout
from tapestry.workloads import plan_checks
from tapestry.workloads.base import Unit, Workload
from tapestry.workloads.language.dialogue import Text
from tapestry_governance.events.types import DataDeclared
from tapestry_node.budget.ledger import Charge, PrivacyPromise
from tapestry_node.data import overlap, records
from tapestry_node.data.record_statistics import Census, Coverage, Lengths
from tapestry_node.training import dp_sgd
from tapestry_node.training.machine_checks import Trainable
from tapestry_node.training.microbatches import BatchLimits

StepDone = Callable[[int, int], None]


class Trainer:
    """Private records and the model they are trained into."""

    def __init__(
        self, folder: Path, *, workload: Workload, settings: NodeSettings
    ) -> None:
        """Read the records.

        Raises:
            ConfigError: The folder, its manifest or a file is not as it must be.
        """
        self._folder = folder
        self._records = records.read(folder)
        self._workload = workload
        self._settings = settings
        self._units: dict[int, list[Unit]] = {}
        self._trainable = Trainable(
            workload=workload, records=self.count, limits=self._limits
        )

    @property
    def workload(self) -> Workload:
        """The loaded model."""
        return self._workload

    @property
    def corpus(self) -> records.Corpus:
        """What the institution says about its text; public."""
        return self._records.corpus

    @property
    def count(self) -> int:
        """How many records there are; declared, public."""
        return len(self._records.texts)

    @property
    def census(self) -> Census:
        """What the data folder holds, in numbers; for the institution's own eyes."""
        return self._records.census

    def coverage(self, sequence_length: int) -> Coverage:
        """Count what a training at some sequence length reads of the records."""
        units = self.units(sequence_length)
        return Coverage(
            sequence_length=sequence_length,
            # Sequences of one record overlap by a token.
            tokens=Lengths.of(1 + sum(len(s) - 1 for s in u.sequences) for u in units),
            cut=sum(len(unit.sequences) > 1 for unit in units),
            without_loss=self.count - len(units),
        )

    @property
    def terms(self) -> PrivacyPromise:
        """The promise that the ledger keeps for these records."""
        policy = self._settings.policy
        return PrivacyPromise(
            dataset=self._records.digest,
            records=self.count,
            epsilon=number(policy.epsilon_limit),
            fallback_epsilon=number(policy.fallback_epsilon_limit),
            delta=number(policy.target_delta),
            place=str(self._folder),
        )

    def repeated(self, public: Sequence[Text]) -> list[int]:
        """Return the places of public texts that would publish a record, or a row."""
        private = itertools.chain(self._records.texts, self._records.rows)
        return overlap.repeated(public, private)

    def declaration(self, salt: bytes) -> DataDeclared:
        """What the log is told about the records."""
        return DataDeclared(
            dataset=self._records.commitment(salt),
            records=self.count,
            unit="record",
            languages=(self.corpus.language,),
            licences=(self.corpus.licence,),
        )

    @property
    def trainable(self) -> Trainable:
        """What can be trained on the model here; asked before anything is charged."""
        return self._trainable

    def layout(self, manifest: RoundManifest) -> Layout:
        """The layout of the update, computed here."""
        return self._workload.layout(manifest.training)

    def charge(self, manifest: RoundManifest) -> Charge | None:
        """What a round would cost each record; None where nothing is promised."""
        steps = plan_checks.round_steps(manifest, records=self.count)
        if steps is None:
            return None
        share = NoiseShare.of(manifest)
        return Charge(
            purpose="round",
            run=manifest.run_id,
            number=manifest.round_number,
            steps=steps,
            own_multiplier=share.own_multiplier if share else steps.noise_multiplier,
        )

    def update(
        self, replica: Replica, manifest: RoundManifest, *, done: StepDone
    ) -> FloatVector:
        """Train from a base and return the change, shape (d,); still private."""
        self._workload.load(replica.parameters)
        runtime = dp_sgd.Runtime(
            source=NoiseSource.fresh(),
            limits=self._limits,
            progress=lambda seen: done(seen.step, seen.steps),
        )
        train = dp_sgd.update
        if manifest.privacy.noise == "shared":
            train = dp_sgd.noiseless_step
        return train(
            self._workload,
            self.units(manifest.training.sequence_length),
            training=manifest.training,
            privacy=manifest.privacy,
            records=self.count,
            runtime=runtime,
        ).values

    def units(self, sequence_length: int) -> list[Unit]:
        """The records, encoded; private."""
        if sequence_length not in self._units:
            self._units[sequence_length] = self._workload.encode(
                self._records.texts, sequence_length=sequence_length
            )
        return self._units[sequence_length]

    @property
    def _limits(self) -> BatchLimits:
        return BatchLimits(rows=self._settings.speed.physical_batch)

    @staticmethod
    def salt() -> bytes:
        """Draw the salt of a commitment."""
        return secrets.token_bytes(32)
