"""What every description of data says, whatever the data are."""

from typing import Any

import pytest
from pydantic import ValidationError

from tapestry.workloads.data_manifest import DataManifest

GOOD: dict[str, Any] = {"licence": "CC0-1.0", "unit": "record"}


def test_data_of_no_language_name_none() -> None:
    found = DataManifest.model_validate(GOOD)
    assert found.languages == ()
    assert found.source == ""


@pytest.mark.parametrize(
    "changes",
    [
        {"licence": ""},
        {"licence": "CC0 1.0"},
        {"licence": "-x"},
        {"licence": "x" * 81},
        {"licence": "MIT\n"},
        {"unit": "person"},
        {"source": "x" * 301},
        {"language": "it"},
        {"licence": None},
    ],
    ids=str,
)
def test_what_breaks_a_rule_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        DataManifest.model_validate({**GOOD, **changes})


@pytest.mark.parametrize("licence", ["x", "BSD-3-Clause", "GPL-2.0+", "x" * 80])
def test_names_of_spdx_are_licences(licence: str) -> None:
    assert DataManifest.model_validate({**GOOD, "licence": licence}).licence == licence
