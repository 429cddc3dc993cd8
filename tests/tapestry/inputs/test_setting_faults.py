"""A wrong setting is told by key, value, what is wanted and an example to paste."""

import tomllib
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from tapestry.inputs.setting_faults import example_of, explain


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Inner(_Table):
    """A table of settings, with a setting of each kind."""

    min_cohort: Annotated[int, Field(ge=2, le=9, examples=[3])]
    noise: Annotated[tuple[Literal["none", "local"], ...], Field(strict=False)] = ()
    publish: bool = True
    name: Annotated[
        str,
        Field(
            pattern="^[a-z]+$",
            max_length=8,
            description="a name: up to 8 of a-z",
            examples=["italy"],
        ),
    ] = "x"
    rank: Annotated[int, Field(gt=0, lt=9, examples=[4])] = 4


class Outer(_Table):
    """Settings with a table, an optional one and a rule of their own."""

    policy: Inner
    transport: Inner | None = None
    word: str = ""

    @field_validator("word")
    @classmethod
    def check_word(cls, word: str) -> str:
        if word == "bad":
            raise ValueError("bad is no word")
        return word


def _lines(**settings: Any) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate({"policy": {"min_cohort": 3}, **settings})
    return explain(caught.value, Outer)


def _line(**policy: Any) -> str:
    (line,) = _lines(policy={"min_cohort": 3, **policy})
    return line


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ({"min_cohort": 1}, "policy.min_cohort: 1 must be 2 or more"),
        ({"min_cohort": 10}, "policy.min_cohort: 10 must be 9 or less"),
        (
            {"min_cohort": "3"},
            'policy.min_cohort: "3" must be a whole number without quotes',
        ),
        ({"publish": "y"}, 'policy.publish: "y" must be true or false without quotes'),
        ({"publish": 1}, "policy.publish: 1 must be true or false"),
        ({"noise": "local"}, 'policy.noise: "local" must be a list in brackets'),
        ({"noise": {}}, "policy.noise: a table must be a list in brackets"),
        ({"noise": ["some"]}, "policy.noise.0: \"some\" must be 'none' or 'local'"),
        ({"name": 8}, "policy.name: 8 must be text in quotes"),
        ({"name": "FR"}, 'policy.name: "FR" is not a name: up to 8 of a-z'),
        (
            {"name": "abcdefghi"},
            'policy.name: "abcdefghi" must have 8 characters or fewer',
        ),
        ({"rank": 0}, "policy.rank: 0 must be over 0"),
        ({"rank": 9}, "policy.rank: 9 must be below 9"),
    ],
    ids=str,
)
def test_a_fault_names_key_value_and_what_is_wanted(
    policy: dict[str, Any], said: str
) -> None:
    rule, _, hint = _line(**policy).partition("; ")
    assert rule == said
    assert hint.startswith("write, for example, ")


@pytest.mark.parametrize(
    ("policy", "example"),
    [
        ({"min_cohort": 1}, "min_cohort = 3"),
        ({"min_cohort": "7"}, "min_cohort = 7"),  # of the value, where it is clear
        ({"min_cohort": "seven"}, "min_cohort = 3"),
        ({"name": 8}, 'name = "8"'),
        ({"name": True}, 'name = "italy"'),
        ({"publish": "y"}, "publish = true"),
        ({"noise": ["some"]}, 'noise = ["none"]'),
        ({"noise": "local"}, 'noise = ["none"]'),
    ],
    ids=str,
)
def test_the_example_can_be_pasted_and_is_right(
    policy: dict[str, Any], example: str
) -> None:
    assert _line(**policy).endswith(f"; write, for example, {example}")
    fixed = tomllib.loads(example)
    if "8" not in example:
        Outer.model_validate({"policy": {"min_cohort": 3, **fixed}})


def test_a_missing_setting_is_told_with_an_example_and_a_table_by_name() -> None:
    assert _lines(policy={}) == [
        "policy.min_cohort: is missing; write, for example, min_cohort = 3"
    ]
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate({})
    assert explain(caught.value, Outer) == [
        "policy: is missing; add the table [policy]"
    ]
    assert _lines(policy=3) == ["policy: 3 must be a table; add the table [policy]"]
    assert _lines(transport=3) == [
        "transport: 3 must be a table; add the table [transport]"
    ]


def test_a_misspelled_key_stands_for_the_missing_one_that_is_meant() -> None:
    assert _lines(policy={"min_cohrt": 3}) == [
        "policy.min_cohrt: no such key; is min_cohort meant?"
    ]
    assert _lines(transprt={"min_cohort": 3}) == [
        "transprt: no such key; is transport meant?"
    ]
    assert _lines(POLICY={}) == ["POLICY: no such key; is policy meant?"]


def test_a_key_like_no_other_is_only_refused_and_another_lack_is_told() -> None:
    assert _lines(policy={"zzz": 3}) == [
        "policy.zzz: no such key; mind the spelling",
        "policy.min_cohort: is missing; write, for example, min_cohort = 3",
    ]


def test_misspelled_keys_come_first_and_no_fault_is_left_out() -> None:
    lines = _lines(policy={"min_cohort": 1, "publish": 1}, colour="red")
    assert [line.split(":")[0] for line in lines] == [
        *("colour", "policy.min_cohort", "policy.publish")
    ]


def test_a_rule_of_the_settings_own_is_told_in_its_words() -> None:
    assert _lines(word="bad") == ["word: bad is no word"]


def test_a_value_and_a_key_as_long_as_a_book_are_cut() -> None:
    (line,) = _lines(word=None, policy={"min_cohort": 3, "name": "x" * 9999})[:1]
    assert len(line) < 250
    assert f'"{"x" * 59}…' in line
    (line,) = _lines(**{"k" * 9999: 1})
    assert len(line) < 250
    (line,) = _lines(**{"a\n\x1b": 1})
    assert line.startswith("a\\n\\u001b: no such key")


@pytest.mark.parametrize(
    ("where", "example"),
    [
        (("policy", "min_cohort"), 3),
        (("policy", "noise"), ["none"]),
        (("policy", "noise", 0), "none"),
        (("policy", "publish"), True),
        (("transport", "name"), "italy"),
        (("word",), None),
        (("nowhere", "deep"), None),
    ],
    ids=str,
)
def test_an_example_is_that_of_the_field_or_of_its_type(
    where: tuple[str | int, ...], example: object
) -> None:
    assert example_of(Outer, where) == example


def test_a_number_without_an_example_shows_the_least_that_it_may_be() -> None:
    class Bounded(_Table):
        steps: Annotated[int, Field(ge=1)]

    assert example_of(Bounded, ("steps",)) == 1
