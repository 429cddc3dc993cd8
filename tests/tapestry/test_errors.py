"""Every error of ours: its kind, its code, and the place where it was found."""

import copy
import inspect
import pickle

import pytest

from tapestry import errors


def test_a_place_in_front_of_an_error_keeps_kind_code_and_what_it_holds() -> None:
    error = errors.ForeignFileError("two files too many", ["a"], code="foreign-file")
    placed = error.at("entry 7")
    assert type(placed) is errors.ForeignFileError
    assert str(placed) == "entry 7: two files too many"
    assert (placed.code, placed.files) == ("foreign-file", ("a",))
    assert str(error) == "two files too many"


OURS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, errors.TapestryError)
]


def test_every_error_is_exported_and_drawn_in_the_tree() -> None:
    names = {kind.__name__ for kind in OURS}
    assert names == set(errors.__all__)
    drawn = inspect.getdoc(errors) or ""
    assert [name for name in sorted(names) if name not in drawn] == []


def test_no_error_of_ours_is_a_bug_of_the_caller() -> None:
    assert [kind for kind in OURS if issubclass(kind, (ValueError, OSError))] == []


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.TapestryError, "tapestry"),
        (errors.RuleError, "rule"),
        (errors.BudgetExhausted, "budget-exhausted"),
        (errors.ForeignFileError, "foreign-file"),
        (errors.InconsistentLog, "inconsistent-log"),
    ],
)
def test_an_error_without_a_code_has_that_of_its_kind(
    kind: type[errors.TapestryError], code: str
) -> None:
    assert kind("what is wrong").code == code
    assert kind("what is wrong", code="some-rule").code == "some-rule"


def test_no_two_kinds_share_a_code() -> None:
    codes = [kind("x").code for kind in OURS]
    assert len(set(codes)) == len(OURS)


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.__name__)
def test_a_place_in_front_keeps_the_kind_of_every_error(
    kind: type[errors.TapestryError],
) -> None:
    placed = kind("wrong", code="some-rule").at("entry 7").at("log")
    assert (type(placed), placed.code) == (kind, "some-rule")
    assert str(placed) == "log: entry 7: wrong"


def test_foreign_files_are_kept_by_name() -> None:
    error = errors.ForeignFileError("two", files=["b", "a"])
    assert error.files == ("b", "a")
    assert errors.ForeignFileError("none").files == ()


def test_an_error_survives_another_process() -> None:
    error = errors.RuleError("round 3 is closed", code="round-not-open")
    for again in (copy.copy(error), pickle.loads(pickle.dumps(error))):  # noqa: S301  our own bytes
        assert (str(again), again.code) == ("round 3 is closed", "round-not-open")
