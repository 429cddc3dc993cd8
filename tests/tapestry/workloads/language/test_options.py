"""The options of the language workload: the length of a window, and nothing else."""

from typing import Any

import pytest

from tapestry.errors import ConfigError
from tapestry.workloads.language.options import LanguageOptions
from tests.support.refusals import refused


@pytest.mark.parametrize("length", [8, 128, 8192])
def test_a_length_goes_into_a_plan_and_out_of_it(length: int) -> None:
    options = LanguageOptions(sequence_length=length)
    assert LanguageOptions.of(options.to_options()) == options
    assert options.to_options() == {"sequence_length": length}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "options.sequence_length: is missing"),
        ({"sequence_length": 7}, "7 must be 8 or more"),
        ({"sequence_length": 8193}, "8193 must be 8192 or less"),
        ({"sequence_length": "64"}, '"64" must be a whole number'),
        ({"sequence_length": (64,)}, "a list must be a whole number"),
        ({"sequence_length": 64, "stride": 1}, "options.stride: no such key"),
    ],
    ids=str,
)
def test_other_options_are_refused(options: dict[str, Any], said: str) -> None:
    with refused(ConfigError, "setting-invalid") as caught:
        LanguageOptions.of(options)
    assert said in str(caught.value)
