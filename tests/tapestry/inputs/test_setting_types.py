"""The type of a setting at a place: through tables, tagged tables and lists."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from tapestry.inputs.setting_types import type_at, without_tags


class Quiet(BaseModel):
    noise: Literal["none"]


class Noisy(BaseModel):
    noise: Literal["local"]
    epsilon: Annotated[
        str, Field(examples=["8"], json_schema_extra={"format": "decimal"})
    ]


class Plan(BaseModel):
    steps: Annotated[int, Field(ge=3, description="how many")]
    names: tuple[Annotated[str, Field(examples=["q_proj"])], ...]
    adapter: Annotated[Quiet | Noisy, Field(discriminator="noise")]
    optional: Noisy | None = None


def test_a_setting_has_its_description_and_its_least_value_as_example() -> None:
    found = type_at(Plan, ("steps",))
    assert (found.annotation, found.description, found.example) == (int, "how many", 3)


def test_an_element_of_a_list_has_the_example_of_its_type() -> None:
    assert type_at(Plan, ("names", 0)).example == "q_proj"
    assert type_at(Plan, ("names",)).example == ["q_proj"]


def test_a_setting_behind_a_tag_is_of_the_model_with_that_tag() -> None:
    found = type_at(Plan, ("adapter", "local", "epsilon"))
    assert (found.is_decimal, found.example) == (True, "8")


def test_a_table_is_picked_by_its_tag() -> None:
    found = type_at(Plan, ("adapter",))
    assert found.tables == [Quiet, Noisy]
    assert found.table("none") is Quiet
    assert found.table("local") is Noisy
    assert found.table("loud") is None


def test_an_optional_table_has_one_model() -> None:
    assert type_at(Plan, ("optional",)).table(None) is Noisy


def test_a_place_for_an_operator_has_no_tag() -> None:
    assert without_tags(Plan, ("adapter", "local", "epsilon")) == ("adapter", "epsilon")
    assert without_tags(Plan, ("names", 2)) == ("names", 2)


def test_an_unknown_setting_has_no_type() -> None:
    assert type_at(Plan, ("nothing",)).annotation is None
