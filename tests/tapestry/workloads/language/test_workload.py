"""A language model as a workload: records in, examples, losses and scores out."""

import pytest
import torch

from tapestry.errors import ConfigError
from tapestry.protocol.round_manifest import Options
from tapestry.workloads.language.base_models import build_tiny
from tapestry.workloads.language.bits_per_byte import BitsPerByte
from tapestry.workloads.language.dialogue import Dialogue, Text
from tapestry.workloads.language.workload import LanguageWorkload
from tests.support.plans import training_plan
from tests.support.refusals import refused

OPTIONS: Options = {"sequence_length": 16}


@pytest.fixture(scope="module")
def workload() -> LanguageWorkload:
    torch.set_num_threads(1)
    return build_tiny()


def test_it_is_the_language_workload_and_reads_text(workload: LanguageWorkload) -> None:
    assert workload.name == "language"
    assert workload.reader.manifest_file == "corpus.toml"
    assert workload.adapters.model is workload
    assert workload.card_fields["library_name"] == "transformers"


def test_the_least_options_make_a_plan_that_it_takes(
    workload: LanguageWorkload,
) -> None:
    workload.check_plan(training_plan(options=workload.least_options()))


@pytest.mark.parametrize(
    ("options", "code", "values"),
    [
        ({"sequence_length": 1025}, "sequence-too-long", "1025 .* 1024 positions"),
        ({"sequence_length": 4}, "setting-invalid", "options.sequence_length: 4 .* 8 "),
        ({}, "setting-invalid", "options.sequence_length: is missing"),
        ({"sequence_length": 16, "bound": 4}, "setting-invalid", "options.bound: "),
    ],
    ids=str,
)
def test_a_plan_that_the_model_cannot_follow_is_refused(
    workload: LanguageWorkload, options: Options, code: str, values: str
) -> None:
    with refused(ConfigError, code, match=values):
        workload.check_plan(training_plan(options=options))


def test_records_become_examples_in_windows_of_the_plans_length(
    workload: LanguageWorkload,
) -> None:
    records: list[Text] = ["x" * 40, Dialogue(turns=("Ciao", "Ciao a te!"))]
    found = workload.examples(records, OPTIONS)
    assert len(found) == 2
    rows = [row for example in found for row in example.rows]
    assert all(2 <= len(row) <= 16 for row in rows)
    assert len(found[0].rows) > 1
    losses = workload.losses(rows)
    assert losses.shape == (len(rows),)
    with refused(ConfigError, "setting-invalid", match="sequence_length: is missing"):
        workload.examples(records, {})


def test_the_coverage_counts_what_a_training_reads(workload: LanguageWorkload) -> None:
    records = ["x" * 40, "breve"]
    found = workload.coverage(
        workload.examples(records, OPTIONS), OPTIONS, records=len(records)
    )
    assert found.sequence_length == 16
    assert (found.cut, found.without_loss) == (1, 0)


def test_the_probe_is_of_rows_that_differ_in_length(
    workload: LanguageWorkload,
) -> None:
    lengths = [[len(row) for row in example.rows] for example in workload.probe()]
    assert all(len(each) == 1 for each in lengths)
    assert len({each[0] for each in lengths}) == len(lengths) >= 2
    workload.check_private()


def test_it_is_scored_in_windows_of_the_plans_length(
    workload: LanguageWorkload,
) -> None:
    kind = workload.evaluation(OPTIONS)
    assert kind == BitsPerByte(model=workload, sequence_length=16)
    assert not kind.coarse  # members compare the gate's scores with their own
    with refused(ConfigError, "setting-invalid", match="options.bound: "):
        workload.evaluation({**OPTIONS, "bound": 1})
