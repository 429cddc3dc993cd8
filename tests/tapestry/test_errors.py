"""Every error of ours: its kind, its code, and the place where it was found."""

from tapestry import errors


def test_a_place_in_front_of_an_error_keeps_kind_code_and_what_it_holds() -> None:
    error = errors.ForeignFileError("two files too many", ["a"], code="foreign-file")
    placed = error.at("entry 7")
    assert type(placed) is errors.ForeignFileError
    assert str(placed) == "entry 7: two files too many"
    assert (placed.code, placed.files) == ("foreign-file", ("a",))
    assert str(error) == "two files too many"
