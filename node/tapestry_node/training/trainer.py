"""The trainer: the one object of a node that holds private records.

It returns an update as a vector; the records themselves have no other way out. It also
finds public data that repeat a record. ``adapter_trainer`` trains on the same records
through the same object.
"""

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tapestry.encoding import canonical_json, decode_decimal, digest
from tapestry.errors import ConfigError
from tapestry.inputs.private_data import hides_records
from tapestry.model.replica import Replica
from tapestry.privacy.noise_shares import NoiseShare
from tapestry.protocol.round_manifest import Options, RoundManifest
from tapestry.vectors import FloatVector, IntegerVector, Layout
from tapestry.workloads import plan_checks
from tapestry.workloads.base import Example, RecordReader, Summary, Survey, Workload
from tapestry.workloads.data_manifest import DataManifest, Record, Row
from tapestry.workloads.lazy_sequence import LazySequence, drawn
from tapestry_governance.events.privacy_events import DataDeclared
from tapestry_node.budget.ledger import Charge, PrivacyPromise
from tapestry_node.data import data_versions, records
from tapestry_node.data.data_version import DataVersion, commitment
from tapestry_node.data.data_versions import DataSource, Holdings
from tapestry_node.settings import NodeSettings
from tapestry_node.training.machine_checks import Trainable
from tapestry_node.training.microbatches import BatchLimits

StepDone = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class _Nothing:
    """An example of which nothing is learned."""

    rows: tuple[Row, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundData:
    """A folder of records, as its operator sees it without a model."""

    manifest: DataManifest
    records: int
    summary: Summary | None
    counts: Mapping[str, Summary]  # of a survey, by name


@hides_records
def check_data(
    folder: Path,
    reader: RecordReader,
    *,
    manifest: Path | None = None,
    scratch: Path | None = None,
    watch: records.Watch = lambda _, __: None,
    survey: Survey = lambda _, __: {},
) -> FoundData:
    """Read the records of a folder for their faults and counts, without a model.

    Raises:
        ConfigError: The folder, its manifest or a file breaks a rule.
        ResourceError: The disk is full, or ``scratch`` cannot be written.
    """
    found = records.read(
        folder, reader, manifest=manifest, scratch=scratch, watch=watch
    )
    return FoundData(
        manifest=found.manifest,
        records=len(found.records),
        summary=found.summary,
        counts=survey(found.records, found.manifest),
    )


class Trainer:
    """Private records and the model they are trained into."""

    def __init__(
        self,
        folder: Path,
        *,
        workload: Workload,
        settings: NodeSettings,
        manifest: Path | None = None,
        scratch: Path | None = None,
    ) -> None:
        """Read the records; those that are more than memory are kept in ``scratch``.

        Their manifest lies among them, unless it is given.

        Raises:
            ConfigError: The folder, its manifest or a file breaks a rule.
            ResourceError: The disk is full, or ``scratch`` cannot be written.
        """
        self._folder = folder
        self._records = records.read(
            folder, workload.reader, manifest=manifest, scratch=scratch
        )
        self.workload, self._settings = workload, settings
        speed = settings.speed
        self._most = BatchLimits(rows=speed.physical_batch)
        self._machine = speed.machine
        self._examples: tuple[str, Sequence[Example]] = ("", ())
        self.hold(data_versions.unwritten(self.source, datetime.now(UTC)))

    def hold(self, holdings: Holdings) -> None:
        """Train from now on what belongs to a version of the data."""
        self.holdings = holdings
        self.trainable = Trainable(  # the checks before anything is charged
            workload=self.workload,
            records=self.count,
            limits=self._most,
            machine=self._machine,
        )

    @property
    def source(self) -> DataSource:
        """The records as they are, for their versions; private."""
        found = self._records
        return DataSource(
            unit=found.manifest.unit,
            place=str(self._folder),
            description=found.description,
            keys=found.keys,
            digests=found.digests,
        )

    def drop(self, withdrawn: Collection[bytes]) -> None:
        """Train no more on some units, which were withdrawn."""
        self.holdings = self.holdings.without(withdrawn)

    @property
    def manifest(self) -> DataManifest:
        """The institution's description of its data; public."""
        return self._records.manifest

    @property
    def count(self) -> int:
        """The number of units, rounded down; declared, public."""
        return self.holdings.version.records

    @property
    def summary(self) -> Summary | None:
        """The data folder in numbers; for the institution's own eyes."""
        return self._records.summary

    @hides_records
    def coverage(self, options: Options) -> Summary | None:
        """Count the parts of the records that a training with some options reads.

        Of more than 10,000 records, so many are drawn by lot and counted.
        """
        found = self.examples(options, self._trains)
        sample = drawn(found)
        return self.workload.coverage(sample, options, records=len(found))

    @property
    def _trains(self) -> tuple[int, ...]:
        return self.holdings.version.trains

    @property
    def terms(self) -> PrivacyPromise:
        """The promise that the ledger keeps for these records."""
        return self.promise(self.holdings.largest)

    def promise(self, largest: int) -> PrivacyPromise:
        """Return the promise for records of which the largest block has so many.

        Raises:
            ConfigError: The policy promises so many units nothing.
        """
        policy, manifest = self._settings.policy, self.manifest
        return PrivacyPromise(
            records=largest,
            unit=manifest.unit,
            key=manifest.key if manifest.unit == "person" else "",
            epsilon=decode_decimal(policy.epsilon_limit),
            fallback_epsilon=decode_decimal(policy.fallback_epsilon_limit),
            delta=decode_decimal(policy.target_delta),
        )

    @hides_records
    def repeated(self, public: Sequence[Record]) -> list[int]:
        """Return the places of public data that would publish a record, or a row.

        Raises:
            ConfigError: The workload publishes no adapters, and so no public data.
        """
        adapters = self.workload.adapters
        if adapters is None:
            raise ConfigError(
                f"workload {self.workload.name!r} publishes no adapters; set"
                " adapter.publish = false",
                code="adapters-not-supported",
            )
        private = itertools.chain(self._records.records, self._records.parts)
        return adapters.repeated(public, private)

    def declaration(self, version: DataVersion, salt: bytes) -> DataDeclared:
        """Describe a version of the records for the log."""
        manifest = self.manifest
        return DataDeclared(
            dataset=commitment(version.dataset, salt),
            version=version.version,
            block=version.block,
            records=version.records,
            withdrawn=version.withdrawn,
            modality="text",
            unit=manifest.unit,
            max_rows=manifest.max_rows,
            languages=self.manifest.languages,
            licences=(self.manifest.licence,),
        )

    def layout(self, manifest: RoundManifest) -> Layout:
        """Compute the layout of the update from the model that is held here."""
        return self.workload.layout(manifest.training)

    def charge(self, manifest: RoundManifest) -> Charge | None:
        """Compute a round's price for each record; None where nothing is promised."""
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
            blocks=self._trains,
        )

    @hides_records
    def update(
        self,
        replica: Replica,
        manifest: RoundManifest,
        *,
        blocks: tuple[int, ...],
        done: StepDone,
    ) -> FloatVector | IntegerVector:
        """Train from a base and return the change, shape (d,); still private.

        ``blocks`` are those that paid for it; no other record is drawn from.

        With shared noise it is in steps of the round's grid, int64, otherwise float32.
        """
        from tapestry.privacy.gaussian import NoiseSource
        from tapestry_node.training import dp_sgd

        self.workload.load(replica.parameters)
        runtime = dp_sgd.Runtime(
            source=NoiseSource.fresh(),
            limits=self.trainable.step(manifest.training, manifest.privacy).limits,
            progress=lambda seen: done(seen.step, seen.steps),
        )
        units = self.examples(manifest.training.options, blocks)
        if manifest.privacy.noise == "shared":
            return dp_sgd.noiseless_step(
                self.workload,
                units,
                manifest=manifest,
                records=self.count,
                runtime=runtime,
            )
        return dp_sgd.update(
            self.workload,
            units,
            training=manifest.training,
            privacy=manifest.privacy,
            records=self.count,
            runtime=runtime,
        ).values

    @hides_records
    def examples(self, options: Options, blocks: tuple[int, ...]) -> Sequence[Example]:
        """Return an example of each record of some blocks, encoded when drawn; private.

        Raises:
            ConfigError: The options are not the workload's own.
        """
        key = digest(canonical_json(dict(options)))
        if key != self._examples[0]:
            records = self._records.records
            self._examples = (key, self.workload.examples(records, options))
        every, places = self._examples[1], self.holdings.select(blocks)

        def example(number: int) -> Example:
            place = int(places[number])  # it may have been withdrawn since
            return every[place] if self.holdings.blocks[place] else _Nothing()

        return LazySequence(len(places), example)
