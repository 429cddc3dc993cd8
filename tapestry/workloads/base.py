"""The seam between training and what is trained: protocols that name no kind of data.

Node and coordinator train, sum, gate and release through ``Workload``. A record is
whatever the workload's reader returns, and an example is that record as the workload's
loss takes it. Nothing outside the workload looks inside either of them::

    folder -> RecordReader.read -> records -> Workload.examples -> examples
           -> Workload.losses -> gradients -> update in the order of Workload.layout

A workload without some ability says so: ``adapters`` may be None, and a plan that it
cannot follow is refused by ``check_plan``.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pydantic import ValidationError

from tapestry.artifacts.model_identity import ModelContent
from tapestry.errors import ConfigError
from tapestry.inputs.faults import Faults
from tapestry.inputs.setting_faults import explain
from tapestry.inputs.setting_values import fit_options
from tapestry.protocol.round_manifest import Options, TrainingPlan
from tapestry.schema import Strict
from tapestry.vectors import FloatVector, Layout, Parameters
from tapestry.workloads.adapter_format import AdapterFormat
from tapestry.workloads.data_manifest import DataManifest, Record, Row
from tapestry.workloads.ratio_score import RatioScore

if TYPE_CHECKING:
    from torch import Tensor, nn

_Options = TypeVar("_Options", bound=Strict)


def read_options(options: Options, model: type[_Options]) -> _Options:
    """Read the options of a plan or of settings as the workload's own model.

    Raises:
        ConfigError: An option is missing, unknown or out of range; all are named.
    """
    try:
        return model.model_validate(fit_options(options, model))
    except ValidationError as error:
        lines = [f"options.{line}" for line in explain(error, model)]
        raise ConfigError("; ".join(lines), code="setting-invalid") from None


class Example(Protocol):
    """One record, encoded; it is clipped as one.

    Of a row only the length is looked at, as a measure of the work that it takes. The
    loss of an example is the mean over its rows of the loss of each.
    """

    @property
    def rows(self) -> Sequence[Row]:
        """The rows that ``Workload.losses`` takes; none if nothing can be learned."""
        ...


class Summary(Protocol):
    """Counts of records for the institution's own operator; none leaves the node."""

    def lines(self) -> Iterator[tuple[str, str]]:
        """Yield a label and a sentence for each line that a terminal shows."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Return the same as one JSON object."""
        ...


Survey = Callable[[Sequence[Record], DataManifest], Mapping[str, Summary]]
"""Counts records in several ways, without a model; each count has a name."""


@dataclass(frozen=True, slots=True)
class ReadRecords:
    """The records that a reader found in a folder; private.

    ``digests`` has SHA-256 of the canonical bytes of each record, 32 bytes each, and
    ``keys`` the key under which its rows were found, or None; it is empty where the
    reader knows no keys. All stand in an order that depends on the records alone, and
    records may be read from the disk one by one as they are asked for.
    """

    records: Sequence[Record]
    digests: bytes
    hint: str  # what to put into a folder without records
    keys: Sequence[str | None] = ()
    parts: Sequence[Record] = ()  # rows that some records are joined from
    summary: Summary | None = None


class RecordReader(Protocol):
    """The form of a workload's private records on disk."""

    @property
    def manifest_file(self) -> str:
        """Name of the file that describes the data."""
        ...

    @property
    def manifest(self) -> type[DataManifest]:
        """The model of that file."""
        ...

    @property
    def beside(self) -> frozenset[str]:
        """Names of files that may lie at the top of the folder, and hold no data."""
        ...

    def read(
        self,
        paths: Iterable[Path],
        faults: Faults,
        *,
        manifest: DataManifest | None,
        scratch: Path | None = None,
        beside: Sequence[str] = (),
    ) -> ReadRecords:
        """Read all files of a folder but the manifest; what is wrong becomes faults.

        ``beside`` names the files that lie there and are no data; they are not read.

        Where the manifest's unit is a person, each record is all that is read of one,
        and has its key. ``manifest`` is None where that was a fault. Records that are
        more than memory may be kept, sealed, in a file without a name in the folder
        ``scratch``.

        Guarantees:
            A fault names a file, a line and a rule, and holds nothing of a record.
        """
        ...


class Evaluation(Protocol):
    """The score of a workload's model on public held-out data.

    Bits per byte of text is one kind. The acceptance gate compares the mean of the
    scores before and after a step, and the log names each of them.
    """

    @property
    def name(self) -> str:
        """The measure, as log and reports name it, such as ``bits_per_byte``."""
        ...

    @property
    def settings(self) -> Options:
        """Settings on which the scores depend, but for model and data."""
        ...

    @property
    def suffix(self) -> str:
        """The end of the name of a file of held-out data."""
        ...

    def read(self, path: Path, faults: Faults) -> Sequence[Record]:
        """Read a file of public data; what is wrong becomes faults."""
        ...

    def check(self, path: Path, faults: Faults) -> Sequence[Record]:
        """Read a file again; what the loaded model cannot be scored on is a fault."""
        ...

    def evaluate(self, data: Sequence[Record]) -> RatioScore:
        """Score the loaded parameters, without gradients."""
        ...


class FoundBase(Protocol):
    """A base whose folder was read and hashed, and whose model is not built yet."""

    @property
    def name(self) -> str:
        """The workload's tag, as ``Workload.name``."""
        ...

    @property
    def given(self) -> ModelContent:
        """The base, as it is stored."""
        ...

    def load(self) -> "Workload":
        """Build the model from what was read.

        Raises:
            ConfigError: It is no model of this workload.
            ResourceError: Memory or a package is missing.
        """
        ...


class Workload(Protocol):
    """A loaded model, and how its records become losses and scores."""

    @property
    def name(self) -> str:
        """The tag of its plans (``TrainingPlan.workload``)."""
        ...

    @property
    def module(self) -> "nn.Module":
        """The torch module."""
        ...

    def parameters(self) -> dict[str, FloatVector]:
        """Copy all parameters out, by name, float32."""
        ...

    def load(self, parameters: Parameters) -> None:
        """Copy parameters in.

        Raises:
            ProtocolError: Names or shapes differ from the model's.
        """
        ...

    def layout(self, plan: TrainingPlan) -> Layout:
        """Order the trained tensors.

        With ``low_rank``: B of each target module, shape (out, rank), under the name
        of the dense weight that it moves.

        Raises:
            ConfigError: The plan does not fit the model.
        """
        ...

    def choose_targets(self) -> tuple[str, ...]:
        """Name the targets of a low-rank plan where settings leave them open.

        Raises:
            ConfigError: Nothing in this model can be targeted.
        """
        ...

    def least_options(self) -> Options:
        """Return the options of the smallest plan that this workload takes."""
        ...

    def longest_row(self, options: Options) -> int:
        """Return the length of the longest row that a plan's options allow.

        Raises:
            ConfigError: The options are not this workload's.
        """
        ...

    def check_plan(self, plan: TrainingPlan) -> None:
        """Refuse a plan whose options this model cannot follow.

        Raises:
            ConfigError: An option is missing, unknown, or not the model's.
        """
        ...

    def check_private(self) -> None:
        """Refuse a model whose gradients of single examples are not known to be right.

        The workload holds the list of architectures that are tested.

        Raises:
            ConfigError: The model is not on the list, or is set to do something that
                mixes examples or is drawn at random.
        """
        ...

    def attach(
        self, plan: TrainingPlan
    ) -> "AbstractContextManager[list[tuple[str, nn.Parameter]]]":
        """Make exactly the tensors of ``layout`` trainable, in that order.

        With ``low_rank`` B starts at zero over the public factor A
        (``tapestry.model.low_rank.factor``). On leaving, nothing is attached any more
        and every parameter has the value from before.
        """
        ...

    def recomputing(self) -> "AbstractContextManager[None]":
        """Compute layers anew on the way back rather than keep what they gave.

        No gradient changes. A model that is not built for it goes on as before.
        """
        ...

    @property
    def reader(self) -> RecordReader:
        """The reader of private records."""
        ...

    def examples(
        self, records: Sequence[Record], options: Options
    ) -> Sequence[Example]:
        """Return one example for each record, encoded when it is asked for.

        One that nothing can be learned from gives an example without rows.

        Raises:
            ConfigError: The options are not this workload's.
        """
        ...

    def coverage(
        self, examples: Sequence[Example], options: Options, *, records: int
    ) -> Summary | None:
        """Count what a training reads of some records, for their own operator.

        ``examples`` are of all ``records``, or of a sample of them.

        Edge cases:
            None where that is all of them.
        """
        ...

    def probe(self) -> Sequence[Example]:
        """Return public examples of one row each, two or more, to try a model on.

        Before a model is trained privately, the gradients of these in one batch are
        compared with those of one at a time. Where rows differ in length, so must
        these.
        """
        ...

    def losses(self, rows: Sequence[Row]) -> "Tensor":
        """Loss of each row, shape (len(rows),); none depends on any other row."""
        ...

    def evaluation(self, options: Options) -> Evaluation:
        """Return how the model is scored, as a plan with these options has it.

        Raises:
            ConfigError: The options are not this workload's.
        """
        ...

    @property
    def adapters(self) -> AdapterFormat | None:
        """The format of adapters; None where there are none."""
        ...

    @property
    def given(self) -> ModelContent:
        """The base that was given, as it is stored: tensors, settings files, licence.

        It stays what it was, whatever is loaded into the module.
        """
        ...

    @property
    def card_fields(self) -> Mapping[str, str]:
        """Fields in front of a release's card that say what kind of model it is."""
        ...
