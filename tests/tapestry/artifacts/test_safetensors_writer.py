"""One spelling of a file, which every reader of the format takes."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

from tapestry.artifacts.safetensors_reader import read_tensors
from tapestry.artifacts.safetensors_writer import encode_tensors, write_tensors
from tapestry.encoding import digest
from tapestry.tensor_types import narrow, widen

VALUES = np.linspace(-3, 3, 12, dtype=np.float32).reshape(3, 4)
TENSORS = {
    "z": VALUES,
    "a": narrow(VALUES[0, :3], "BF16"),
    "m": narrow(VALUES, "F16"),
    "none": np.zeros((0, 2), np.float32),
    "one": np.array(2.5, np.float32),
}


def test_the_library_and_our_reader_find_the_same_values(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_tensors(path, TENSORS)
    found = read_tensors(path)
    assert found.content == digest(path.read_bytes())
    assert found.size == path.stat().st_size
    with safe_open(path, framework="pt") as theirs:
        assert theirs.metadata() == {"format": "pt"}
        assert sorted(theirs.keys()) == sorted(TENSORS)
        for name, tensor in TENSORS.items():
            assert np.array_equal(found.arrays[name], tensor)
            read = theirs.get_tensor(name)
            assert read.shape == tensor.shape
            assert np.array_equal(read.to(torch.float32).numpy(), widen(tensor))


def test_the_bytes_depend_on_the_tensors_alone() -> None:
    data = b"".join(encode_tensors(TENSORS))
    turned = dict(reversed(list(TENSORS.items())))
    turned["z"] = np.asfortranarray(VALUES)
    assert b"".join(encode_tensors(turned)) == data
    size = int.from_bytes(data[:8], "little")
    assert size % 8 == 0
    header = json.loads(data[8 : 8 + size])
    assert list(header) == ["__metadata__", "none", "one", "z", "a", "m"]
    offsets = [entry["data_offsets"] for entry in list(header.values())[1:]]
    assert offsets == sorted(offsets)
    assert header["z"] == {"dtype": "F32", "shape": [3, 4], "data_offsets": [4, 52]}
    assert digest(data)[:23] == "sha256:8a01f2480e806bd6"


def test_metadata_of_an_adapter_is_kept_in_order() -> None:
    data = b"".join(encode_tensors({"a": VALUES}, {"format": "pt", "base": "base-1"}))
    assert b'{"__metadata__":{"format":"pt","base":"base-1"},"a":' in data
