"""What publishes adapters has the whole form that nodes call."""

import inspect

import pytest

from tapestry.workloads.adapter_format import AdapterFormat
from tapestry.workloads.language.lora_adapters import LoraAdapters

METHODS = sorted(name for name in vars(AdapterFormat) if not name.startswith("_"))


def test_a_form_reads_public_data_finds_records_in_it_and_writes() -> None:
    assert METHODS == ["read_public", "repeated", "write"]


@pytest.mark.parametrize("name", METHODS)
def test_adapters_of_a_language_model_are_called_as_the_form_says(name: str) -> None:
    wanted = inspect.signature(getattr(AdapterFormat, name)).parameters.values()
    found = inspect.signature(getattr(LoraAdapters, name)).parameters.values()
    assert [(p.name, p.kind) for p in found] == [(p.name, p.kind) for p in wanted]
