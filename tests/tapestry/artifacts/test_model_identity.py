"""The identity of a model names all that changes what is computed with it."""

import dataclasses

import numpy as np
import pytest

from tapestry.artifacts.model_identity import ModelContent, licence_in

CONTENT = ModelContent(
    tensors={"a": np.zeros((2, 3), np.float32), "b": np.ones(4, np.float16)},
    files={"config.json": b"{}", "tokenizer.json": b"{}"},
    licence="mit",
)
W = CONTENT.tensors["a"]


@pytest.mark.parametrize(
    "changes",
    [
        {"licence": None},
        {"licence": "apache-2.0"},
        {"files": {**CONTENT.files, "config.json": b"{ }"}},
        {"files": {**CONTENT.files, "chat_template.jinja": b""}},
        {"files": {"config.json": b"{}"}},
        {"files": {"config.json": b"{}", "tokenizer_config.json": b"{}"}},
        {"tensors": {"a": W, "c": CONTENT.tensors["b"]}},
        {"tensors": {**CONTENT.tensors, "a": W.reshape(3, 2)}},
        {"tensors": {**CONTENT.tensors, "a": -W}},  # the bits, not the values
        {"tensors": {**CONTENT.tensors, "b": CONTENT.tensors["b"].view(np.uint16)}},
    ],
    ids=str,
)
def test_each_part_of_a_model_is_in_its_identity(changes: dict[str, object]) -> None:
    assert dataclasses.replace(CONTENT, **changes).digest != CONTENT.digest  # type: ignore[arg-type]


def test_the_order_of_files_and_tensors_is_not() -> None:
    turned = dataclasses.replace(
        CONTENT,
        tensors=dict(reversed(list(CONTENT.tensors.items()))),
        files=dict(reversed(list(CONTENT.files.items()))),
    )
    assert turned.digest == CONTENT.digest


@pytest.mark.parametrize("line", ["license: mit", 'license: "mit"', "license: 'mit' "])
def test_the_licence_is_the_one_that_the_card_names(line: str) -> None:
    card = f"---\ntags: [x]\n{line}\n---\n\n# A base\n"
    assert licence_in(card.encode()) == "mit"


@pytest.mark.parametrize(
    "card",
    [
        b"# A base\n\nlicense: mit\n",
        b"---\ntags: [x]\n---\n\nlicense: mit\n",
        b"---\nlicense: other\n---\n",
        b"---\nlicense: [mit, x]\n---\n",
        b"---\nlicense: mit | `x`\n---\n",
        b"---\nlicense:\n---\n",
        b"---\nlicense: mit\xff\n---\n",
        b"",
    ],
)
def test_a_card_that_names_no_licence_gives_none(card: bytes) -> None:
    assert licence_in(card) is None
