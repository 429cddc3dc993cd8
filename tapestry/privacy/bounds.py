"""Ranges of epsilon and delta, as types of a setting."""

from typing import Annotated

from pydantic import AfterValidator, Field

from tapestry.encoding import decode_decimal
from tapestry.schema import Plain

MAX_EPSILON = 1000  # of a limit or a target; more promises nothing


def _epsilon(plain: str) -> str:
    if not 0 < decode_decimal(plain) <= MAX_EPSILON:
        raise ValueError(f"epsilon {plain} is not in (0, {MAX_EPSILON}]")
    return plain


def _delta(plain: str) -> str:
    if not 0 < decode_decimal(plain) < 1:
        raise ValueError(f"delta {plain} is not between 0 and 1")
    return plain


Epsilon = Annotated[Plain, AfterValidator(_epsilon), Field(examples=["8"])]
Delta = Annotated[Plain, AfterValidator(_delta), Field(examples=["0.00001"])]
