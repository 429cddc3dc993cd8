"""Docstrings state what something is or does, and each error with its condition."""

import ast
import re
from collections.abc import Iterator

import pytest

from tests.house.test_house import ROOT, SOURCES

_QUESTION = re.compile(r"(Who|Whose|What|How|Whether|Why|When|Where|Which)\b")
_RAISES = re.compile(r"^Raises:\n((?: {4}.*(?:\n|$)|\n)+)", re.MULTILINE)
_LEAST = 4  # words of a condition: "The file is missing."

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def question(docstring: str) -> str | None:
    """Return the question word that a docstring begins with."""
    found = _QUESTION.match(docstring)
    return found[1] if found else None


def without_condition(docstring: str) -> list[str]:
    """List the errors that a docstring names without saying what raises them."""
    section = _RAISES.search(docstring)
    rows = re.split(r"\n(?= {4}\S)", "\n" + section[1].rstrip()) if section else []
    found = []
    for row in filter(None, (" ".join(row.split()) for row in rows)):
        _, _, condition = row.partition(": ")
        if len(condition.split()) < _LEAST or condition.startswith("As ``"):
            found.append(row)
    return found


def _docstrings() -> Iterator[tuple[str, str]]:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, Documented) and (text := ast.get_docstring(node)):
                line = getattr(node, "lineno", 1)
                yield f"{path.relative_to(ROOT)}:{line}", text


def test_a_docstring_begins_with_no_question_word() -> None:
    assert [place for place, text in _docstrings() if question(text)] == []


def test_each_error_of_a_docstring_has_its_condition() -> None:
    found = [(place, without_condition(text)) for place, text in _docstrings()]
    assert [(place, rows) for place, rows in found if rows] == []


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        ("Whether a node is online.", "Whether"),
        ("What a plan holds.", "What"),
        ("Whatever a plan holds.", None),
        ("Track which nodes are online.", None),
    ],
)
def test_a_question_word_is_found_as_a_whole_word(
    docstring: str, expected: str | None
) -> None:
    assert question(docstring) == expected


@pytest.mark.parametrize(
    ("row", "fails"),
    [
        ("PolicyError: It is.", True),
        ("ConfigError: As ``open``, or the file is missing.", True),
        ("ConfigError: The file is missing.", False),
        ("ConfigError: The file\n        is missing.", False),
    ],
)
def test_a_condition_has_four_words_of_its_own(*, row: str, fails: bool) -> None:
    text = f"Read it.\n\nRaises:\n    OSError: The disk cannot be read.\n    {row}\n"
    assert bool(without_condition(text)) is fails
