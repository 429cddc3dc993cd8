"""Columns of a table become the parts of a row, or a fault that names no record."""

import pytest
from pydantic import ValidationError

from tapestry.errors import ConfigError
from tapestry.workloads.language.table_columns import (
    Columns,
    check_columns,
    check_keys,
    roles_of,
    row_of,
)
from tests.support.record_canaries import CANARY, shown_in
from tests.support.refusals import refused

NAMED = Columns(text="body", id="patient", ignored=("ward",))
OPEN = Columns(text="body", others="ignored")


@pytest.mark.parametrize(
    "table",
    [
        {},
        {"id": "a"},
        {"text": "a", "messages": "b"},
        {"text": "a", "question": "b", "answer": "c"},
        {"question": "a"},
        {"answer": "a"},
        {"text": "a", "id": "a"},
        {"text": "a", "ignored": ("a",)},
        {"text": "a", "ignored": ("b", "b")},
        {"text": "a", "others": "taken"},
        {"text": "a", "person": "b"},
        {"text": "a\x1b"},
        {"text": ""},
    ],
    ids=str,
)
def test_a_table_of_columns_says_one_thing_once(table: dict[str, object]) -> None:
    if table == {"text": ""}:  # the name that pandas writes over its index
        assert Columns.model_validate(table).roles == {"text": ""}
        return
    with pytest.raises(ValidationError):
        Columns.model_validate(table)


@pytest.mark.parametrize(
    ("names", "columns", "roles"),
    [
        (["id", "text"], None, {"text": "text", "id": "id"}),
        (["messages"], None, {"messages": "messages"}),
        (["ward", "patient", "body"], NAMED, {"text": "body", "id": "patient"}),
        (["patient", "body"], NAMED, {"text": "body", "id": "patient"}),
        (["", "x", "body", "text"], OPEN, {"text": "body"}),
    ],
    ids=["text", "messages", "ignored", "nothing to ignore", "others"],
)
def test_each_role_has_its_column(
    names: list[str], columns: Columns | None, roles: dict[str, str]
) -> None:
    check_columns(names, columns)
    assert roles_of(names, columns) == roles


@pytest.mark.parametrize(
    ("names", "columns", "code", "said"),
    [
        (["text", "messages"], None, "column-missing", 'are "text", "messages"'),
        (["id"], None, "column-missing", 'are "id"'),
        (["text", "id", "date"], None, "column-unknown", "column 3 of 3 .*and 1 more"),
        (["text", "ID"], None, "column-unknown", "column 2 of 2 "),
        (["text", "text"], None, "column-duplicated", "twice"),
        (["body", "patinet"], NAMED, "column-missing", '"patient".* "body", "patinet"'),
        (["boddy", "x"], OPEN, "column-missing", '"body".* "boddy", and 1 more'),
        (["body", "patient", "when"], NAMED, "column-unknown", "3 of 3 .*and 1 more"),
        (["body", "id"], OPEN, "column-unknown", "column 2 of 2 "),
        (["body", "Id"], OPEN, "column-unknown", "column 2 of 2 "),
        (["body", "x", "x"], OPEN, "column-duplicated", "twice"),
        (["body", "a\x1bb", "id"], OPEN, "column-unknown", '"body", and 2 more'),
        (["body", "y" * 61, "id"], OPEN, "column-unknown", "and 2 more"),
        (["body", "id", *map(str, range(30))], OPEN, "column-unknown", "and 31 more"),
    ],
)
def test_a_column_too_few_or_too_many_is_named(
    names: list[str], columns: Columns | None, code: str, said: str
) -> None:
    with refused(ConfigError, code, match=said):
        check_columns(names, columns)


@pytest.mark.parametrize("columns", [None, NAMED, OPEN], ids=["none", "named", "open"])
def test_the_first_row_of_a_table_without_names_is_not_shown(
    columns: Columns | None,
) -> None:
    rows = [[CANARY, "p7"], [f"{CANARY} body text", "", CANARY], [CANARY, CANARY]]
    rows += [["7", "text", CANARY, "1972"], ["id", CANARY]]  # one cell is like a name
    for row in rows:
        with pytest.raises(ConfigError) as caught:
            check_columns(row, columns)
        assert shown_in(str(caught.value)) == []


def test_no_key_of_an_object_is_shown() -> None:
    check_keys({"body": 1, "patient": None, "ward": 3}, NAMED)
    for row in ({"body": 1, "patient": 2, CANARY: 3}, {"body": 1, CANARY: 2}):
        with pytest.raises(ConfigError) as caught:
            check_keys(row, NAMED)
        assert shown_in(str(caught.value)) == []


def test_questions_and_answers_are_dialogues() -> None:
    named = Columns(question="q", answer="a", id="p")
    check_columns(["p", "a", "q"], named)
    assert roles_of(["p", "a", "q"], named) == {
        "question": "q",
        "answer": "a",
        "id": "p",
    }
    assert row_of({"question": "x", "answer": "y", "id": "7"}) == {
        "id": "7",
        "messages": [
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": "y"},
        ],
    }
    assert row_of({"text": "x"}) == {"text": "x"}
