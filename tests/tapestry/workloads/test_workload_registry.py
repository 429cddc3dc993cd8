"""A workload is chosen by a name that is registered here, and by nothing else."""

import subprocess
import sys
from pathlib import Path

import pytest

from tapestry.errors import ConfigError
from tapestry.workloads.data_manifest import DataManifest
from tapestry.workloads.hardware import Machine
from tapestry.workloads.workload_registry import INSTALLED, open_survey, open_workload
from tests.support.linear_regression import LinearRegression
from tests.support.refusals import refused


def open_linear(base: str, cache: Path | None, _: Machine) -> LinearRegression:
    assert (base, cache) == ("zeros", None)
    return LinearRegression()


def test_a_workload_of_ones_own_is_handed_over_in_a_mapping() -> None:
    workloads = {**INSTALLED, "linear-regression": open_linear}
    found = open_workload("linear-regression", "zeros", workloads=workloads)
    assert found.name == "linear-regression"
    with refused(ConfigError, "workload-unknown", match="'linear-regression'"):
        open_workload("linear-regression", "zeros")


@pytest.mark.parametrize(
    "name",
    [
        "tapestry.workloads.language.base_models",
        "tests.support.linear_regression",
        "os",
        "https://example.org/workload.py",
        "../language",
        "",
    ],
)
def test_a_name_never_leads_to_code_that_is_not_registered(name: str) -> None:
    before = set(sys.modules)
    with refused(ConfigError, "workload-unknown", match=f"'{name}' .* language"):
        open_workload(name, "tiny")
    assert set(sys.modules) == before


def test_the_names_are_known_without_a_machine_learning_stack() -> None:
    program = (
        "import sys; from tapestry.workloads.workload_registry import INSTALLED;"
        " assert set(INSTALLED) == {'language'};"
        " sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'peft')))"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_workload_without_a_survey_counts_nothing() -> None:
    begun: list[str] = []
    manifest = DataManifest(licence="CC0-1.0", unit="record")
    found = open_survey("linear-regression", base="b", options={}, begin=begun.append)
    assert (found([], manifest), begun) == ({}, [])


def test_what_is_installed_cannot_be_changed_in_passing() -> None:
    with pytest.raises(TypeError):
        INSTALLED["other"] = open_linear  # type: ignore[index]  # that is tested
