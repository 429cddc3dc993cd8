"""Ranges of epsilon and delta: what is inside, what is outside, at the edges."""

import pytest
from pydantic import TypeAdapter, ValidationError

from tapestry.privacy.bounds import MAX_EPSILON, Delta, Epsilon

EPSILON: TypeAdapter[str] = TypeAdapter(Epsilon)
DELTA: TypeAdapter[str] = TypeAdapter(Delta)


@pytest.mark.parametrize("value", ["0.001", "8", str(MAX_EPSILON)])
def test_an_epsilon_in_range_is_kept_as_written(value: str) -> None:
    assert EPSILON.validate_python(value) == value


@pytest.mark.parametrize("value", ["0", "-1", f"{MAX_EPSILON}.1", str(MAX_EPSILON + 1)])
def test_an_epsilon_out_of_range_is_refused(value: str) -> None:
    with pytest.raises(ValidationError, match=r"epsilon|decimal"):
        EPSILON.validate_python(value)


@pytest.mark.parametrize("value", ["0.00001", "0.999"])
def test_a_delta_in_range_is_kept_as_written(value: str) -> None:
    assert DELTA.validate_python(value) == value


@pytest.mark.parametrize("value", ["0", "1", "-0.1", "1.5"])
def test_a_delta_out_of_range_is_refused(value: str) -> None:
    with pytest.raises(ValidationError, match=r"delta|decimal"):
        DELTA.validate_python(value)


@pytest.mark.parametrize("value", ["1e-5", "nan", "inf", "08", "1.0", ""])
def test_a_second_spelling_of_a_number_is_refused(value: str) -> None:
    for kind in (EPSILON, DELTA):
        with pytest.raises(ValidationError):
            kind.validate_python(value)
