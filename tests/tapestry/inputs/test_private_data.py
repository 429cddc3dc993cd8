"""Errors with records at hand: what is kept of them, and what is not."""

import pytest

from tapestry.errors import ConfigError, ProtocolError
from tapestry.inputs.faults import HiddenError, unforeseen
from tapestry.inputs.private_data import frames_of, hides_records
from tests.support.record_canaries import CANARY, shown_in, spelled


@hides_records
def _work(error: Exception) -> None:
    raise error from LookupError(CANARY)


@pytest.mark.parametrize("kind", [ValueError, KeyError, ProtocolError])
def test_of_an_error_that_others_wrote_type_and_place_are_left(
    kind: type[Exception],
) -> None:
    with pytest.raises(HiddenError) as caught:
        _work(kind(CANARY))
    assert unforeseen(caught.value).startswith(f"{kind.__name__} in tapestry")
    assert "_work" in caught.value.frames
    assert shown_in(spelled(caught.value) + frames_of(caught.value)) == []
    assert caught.value.__context__ is None


def test_an_error_written_for_the_operator_leaves_without_its_cause() -> None:
    with pytest.raises(ConfigError, match="a rule") as caught:
        _work(ConfigError("a rule"))
    assert caught.value.__cause__ is caught.value.__context__ is None


@pytest.mark.parametrize("kind", [MemoryError, RecursionError])
def test_an_error_of_the_machine_keeps_its_type(kind: type[Exception]) -> None:
    with pytest.raises(kind) as caught:
        _work(kind(CANARY))
    assert caught.value.args == ()


def test_an_error_of_the_system_keeps_its_number_alone() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        _work(FileNotFoundError(2, CANARY, CANARY))
    assert shown_in(spelled(caught.value)) == []
    with pytest.raises(HiddenError) as hidden:
        _work(OSError(CANARY))
    assert shown_in(spelled(hidden.value)) == []


def test_an_error_that_is_hidden_stays_as_it_is() -> None:
    hidden = HiddenError("a place", "frames\n")
    with pytest.raises(HiddenError) as caught:
        _work(hidden)
    assert caught.value is hidden
    assert "frames\nHiddenError" in frames_of(hidden)


def test_frames_name_code_and_types_and_no_text() -> None:
    with pytest.raises(ValueError, match=CANARY) as caught:
        _work.__wrapped__(ValueError(CANARY))  # type: ignore[attr-defined]
    said = frames_of(caught.value)
    assert said.startswith("Traceback (most recent call last):\n")
    assert "LookupError" in said
    assert "ValueError" in said
    assert shown_in(said) == []
