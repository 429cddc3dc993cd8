"""Rows of text and dialogues: keys and values that break a rule are named."""

import json
from pathlib import Path
from typing import Any

import pytest

from tapestry.errors import ConfigError
from tests.support.public_texts import read_public_texts
from tests.support.refusals import refused

CANARY = "canary"


def _write(path: Path, data: bytes | str) -> Path:
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def _chain(error: BaseException | None) -> str:
    """Spell an error and all that it carries."""
    told = []
    while error is not None:
        told += [str(error), repr(error.args), repr(vars(error))]
        error = error.__cause__ or (
            None if error.__suppress_context__ else error.__context__
        )
    return "\n".join(told)


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        ({}, '"text" is missing'),
        ({"text": 7}, '"text" is a number'),
        ({"text": None}, '"text" is null'),
        ({"text": ["canary"]}, '"text" is a list'),
        ({"text": "canary", "canary": 1}, 'key 2 of 2 is not "text"'),
        ({"Text": "canary"}, 'looks like "text"'),
        ({"text": "canary\ud800"}, '"text" holds a lone surrogate'),
        ({"text": "canary\udfff\ud800"}, "lone surrogate"),
        ({"text": "canary\x00"}, '"text" holds a NUL'),
        ({"text": "\ufeffcanary"}, "byte-order mark"),
        ({"text": ""}, "shows nothing"),
        ({"text": "\u200b \u2060\u3164\u00a0\u2800\ufe0f\U000e0041"}, "shows nothing"),
    ],
    ids=str,
)
def test_a_row_of_public_text_is_an_object_with_text(
    tmp_path: Path, row: dict[str, Any], rule: str
) -> None:
    path = _write(tmp_path / "a", json.dumps(row))  # escapes what is not ASCII
    with refused(ConfigError, "record-invalid") as caught:
        read_public_texts(path)
    assert str(caught.value).startswith(f"{path}, line 1: ")
    assert rule in str(caught.value)
    assert CANARY not in _chain(caught.value)
    str(caught.value).encode()


def test_a_public_file_without_rows_says_that_it_is_empty(tmp_path: Path) -> None:
    for data in (b"", b"\n\n", b"\xef\xbb\xbf"):
        with refused(ConfigError, "file-empty"):
            read_public_texts(_write(tmp_path / "a", data))


def test_an_emoji_of_two_surrogates_in_json_is_one_character(tmp_path: Path) -> None:
    path = _write(tmp_path / "a", r'{"text": "\ud83d\ude00"}')
    assert read_public_texts(path) == ["\U0001f600"]
