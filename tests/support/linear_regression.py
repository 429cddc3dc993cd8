"""A workload without text: two outputs regressed on three inputs, by lines of CSV."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from tapestry.artifacts.model_identity import ModelContent
from tapestry.inputs.faults import Faults, InputFault
from tapestry.inputs.text_reader import read_text
from tapestry.protocol.round_manifest import Options, TrainingPlan
from tapestry.schema import Strict
from tapestry.settings import Count
from tapestry.workloads.base import Example, ReadRecords, read_options
from tapestry.workloads.data_manifest import DataManifest
from tapestry.workloads.ratio_score import RatioScore
from tapestry.workloads.torch_model import TorchModel

Row = tuple[float, ...]  # three inputs, then two outputs
_ROW = re.compile(r"(-?[0-9]{1,6}(\.[0-9]{1,6})?(,|$)){5}")


class LinearOptions(Strict):
    bound: Count  # numbers are cut to it


class OneRow(NamedTuple):
    rows: tuple[Row]


def read_table(path: Path, faults: Faults) -> list[Row]:
    lines = read_text(path).splitlines()
    for number in (n for n, line in enumerate(lines, 1) if not _ROW.fullmatch(line)):
        faults.add(InputFault(path, "is no row of five numbers", line=number))
    return [tuple(map(float, t.split(","))) for t in lines if _ROW.fullmatch(t)]


class CsvReader:
    manifest_file, manifest, beside = "table.toml", DataManifest, frozenset[str]()

    def read(self, paths: Iterable[Path], faults: Faults, **_: object) -> ReadRecords:
        rows = tuple(sorted(row for path in paths for row in read_table(path, faults)))
        digests = b"".join(sha256(repr(r).encode()).digest() for r in rows)
        return ReadRecords(rows, digests, "; add a .csv")


@dataclass(frozen=True)
class MeanSquaredError:
    workload: "LinearRegression"
    settings: Options
    name, suffix = "mean_squared_error", ".csv"
    read = check = staticmethod(read_table)

    def evaluate(self, data: Sequence[Row]) -> RatioScore:
        examples = self.workload.examples(data, self.settings)
        errors = self.workload.losses([each.rows[0] for each in examples]).tolist()
        return RatioScore(amounts=tuple(errors), sizes=(1,) * len(errors))


class LinearRegression(TorchModel):
    name, adapters, reader = "linear-regression", None, CsvReader()
    longest_row = staticmethod(lambda _: 5)
    given = ModelContent(tensors={"0.weight": torch.zeros(2, 3).numpy()})
    card_fields: ClassVar[dict[str, str]] = {}

    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Linear(3, 2, bias=False)))
        self.load(self.given.tensors)

    def least_options(self) -> Options:
        return {"bound": 1}

    def check_plan(self, plan: TrainingPlan) -> None:
        read_options(plan.options, LinearOptions)

    def check_private(self) -> None:
        assert list(self._parameters) == ["0.weight"]  # one layer mixes no rows

    def examples(self, records: Sequence[Row], options: Options) -> list[Example]:
        most = read_options(options, LinearOptions).bound
        return [OneRow((tuple(max(-most, min(n, most)) for n in r),)) for r in records]

    def coverage(self, *_: object, **__: object) -> None: ...

    def probe(self) -> list[Example]:
        return self.examples([(1, 2, 3, 4, 5), (0, 1, 0, 2, 0)], {"bound": 9})

    def losses(self, rows: Sequence[Row]) -> Tensor:
        table = torch.tensor(rows, dtype=torch.float32)
        return torch.square(self.module(table[:, :3]) - table[:, 3:]).mean(dim=1)

    def evaluation(self, options: Options) -> MeanSquaredError:
        return MeanSquaredError(self, options)
