"""The seam: options are read strictly, and workloads have all that is called."""

import inspect
from typing import Any, Literal

import pytest

from tapestry.errors import ConfigError
from tapestry.protocol.round_manifest import Options
from tapestry.schema import Plain, Strict
from tapestry.workloads.base import Evaluation, RecordReader, Workload, read_options
from tapestry.workloads.language.bits_per_byte import BitsPerByte
from tapestry.workloads.language.text_records import TextReader
from tapestry.workloads.language.workload import LanguageWorkload
from tests.support.linear_regression import (
    CsvReader,
    LinearRegression,
    MeanSquaredError,
)
from tests.support.refusals import refused


class Recipe(Strict):
    count: int
    rate: Plain = "1"
    kind: Literal["flat", "deep"] = "flat"
    rates: tuple[Plain, ...] = ()
    names: tuple[str, ...] = ()


def test_options_become_the_fields_of_the_workloads_model() -> None:
    options: Options = {
        "count": 3,
        "kind": "deep",
        "rates": (1, "0.5"),
        "names": ("a", "0.5"),
    }
    assert read_options(options, Recipe) == Recipe(
        count=3, kind="deep", rates=("1", "0.5"), names=("a", "0.5")
    )


@pytest.mark.parametrize(
    ("rate", "said"),
    [
        (2, "2"),
        ("0.25", "0.25"),
        (-3, "-3"),
        ("2", '"2" is text; write rate = 2 without quotation marks'),
        ("0.50", '"0.50" is text; write rate = 0.5 without quotation marks'),
        ("much", '"much" must be a number without quotation marks'),
        ((1,), "a list must be a number"),
    ],
    ids=repr,
)
def test_a_decimal_option_has_one_spelling(rate: Any, said: str) -> None:
    options = {"count": 1, "rate": rate}
    if not said[-1].isdigit():
        with refused(ConfigError, "setting-invalid") as caught:
            read_options(options, Recipe)
        assert str(caught.value).startswith(f"options.rate: {said}")
    else:
        assert read_options(options, Recipe).rate == said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "options.count: is missing"),
        ({"count": "3"}, 'options.count: "3" must be a whole number'),
        ({"count": 3, "kinds": "flat"}, "options.kinds: no such key; is kind meant"),
        ({"count": 3, "kind": "odd"}, 'options.kind: "odd" must be'),
        ({"count": 3, "names": "a"}, 'options.names: "a" must be a list'),
        ({"count": 3, "names": (1,)}, "options.names.0: 1 must be text"),
    ],
    ids=str,
)
def test_options_that_a_workload_does_not_know_are_refused(
    options: dict[str, Any], said: str
) -> None:
    with refused(ConfigError, "setting-invalid") as caught:
        read_options(options, Recipe)
    assert str(caught.value).startswith(said)


def test_all_faults_of_options_are_named_at_once() -> None:
    both = r"options\.more: .*; options\.count: is mis"
    with refused(ConfigError, "setting-invalid", match=both):
        read_options({"more": 1}, Recipe)


@pytest.mark.parametrize(
    ("seam", "kind"),
    [
        (Workload, LanguageWorkload),
        (Workload, LinearRegression),
        (RecordReader, TextReader),
        (RecordReader, CsvReader),
        (Evaluation, BitsPerByte),
        (Evaluation, MeanSquaredError),
    ],
)
def test_each_kind_has_all_that_the_seam_calls(seam: type, kind: type) -> None:
    known = set(dir(kind)) | set(inspect.get_annotations(kind))
    wanted = {name for name in vars(seam) if not name.startswith("_")}
    assert wanted
    assert wanted - known == set()
