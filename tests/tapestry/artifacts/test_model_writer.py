"""A model's folder is described without being written, and as it is written."""

from pathlib import Path

import numpy as np
import pytest

from tapestry.artifacts import manifest, model_folder
from tapestry.artifacts.model_identity import ModelContent
from tapestry.artifacts.model_writer import describe_model, write_model
from tapestry.errors import ResourceError
from tests.support.refusals import refused

CONTENT = ModelContent(
    tensors={"a": np.ones((2, 3), np.float32), "b": np.zeros(2, np.uint16)},
    files={"config.json": b"{}", "LICENSE": b"as you like\n"},
)


@pytest.mark.parametrize("card", [None, b"# A model\n"])
def test_what_is_described_is_what_is_written(
    tmp_path: Path, card: bytes | None
) -> None:
    write_model(tmp_path / "model", CONTENT, card=card)
    listed = describe_model(CONTENT, card=card)
    assert manifest.describe(tmp_path / "model").files == listed
    found = model_folder.read_files(tmp_path / "model")
    assert found.digest == CONTENT.digest
    assert found.content.tensors.keys() == CONTENT.tensors.keys()
    for name, tensor in found.content.tensors.items():
        assert np.array_equal(tensor, CONTENT.tensors[name])


def test_a_file_in_the_way_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("")
    with refused(ResourceError, "file-unwritable", match="model"):
        write_model(tmp_path / "model", CONTENT, card=None)
