"""Each limit of the table: so much is taken, and one more is refused by its code."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from tapestry.errors import TapestryError
from tests.support.limit_table import LIMITS, Limit, table


def _code(limit: Limit, amount: int, folder: Path) -> str | None:
    """Return the code of the refusal of so much; None if it is taken."""
    folder.mkdir()
    try:
        limit.probe(amount, folder)
    except TapestryError as error:
        return error.code
    except (ValidationError, ValueError):  # of a type, which a message would hold
        return ""
    return None


@pytest.mark.parametrize("limit", LIMITS, ids=lambda each: each.what)
def test_a_limit_takes_so_much_and_refuses_one_more(
    tmp_path: Path, limit: Limit
) -> None:
    """A file of zeros may be refused at the limit as well, by the rule after it."""
    at = _code(limit, limit.most, tmp_path / "at")
    assert at != limit.code
    assert at is None or limit.unit == "bytes", at
    assert _code(limit, limit.most + 1, tmp_path / "above") == limit.code


def test_the_table_names_each_limit_once() -> None:
    names = [each.what for each in LIMITS]
    assert len(set(names)) == len(names) > 40
    assert len(table().splitlines()) == len(names) + 2
