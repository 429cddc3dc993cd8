"""What the steps of a run share: fixed for the run, without the replica."""

import dataclasses

import pytest

from tapestry_coordinator.run_context import RunContext


def test_a_context_is_fixed_and_holds_no_replica() -> None:
    names = {field.name for field in dataclasses.fields(RunContext)}
    assert "replica" not in names
    context = RunContext(**dict.fromkeys(names))  # type: ignore[arg-type]
    with pytest.raises(dataclasses.FrozenInstanceError):
        context.log = context.log  # type: ignore[misc]
