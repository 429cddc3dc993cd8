"""The memory of a model, from its headers and its configuration."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tapestry.errors import ResourceError
from tapestry.workloads.hardware import Machine
from tapestry.workloads.language import base_models, memory_estimate
from tapestry.workloads.language.memory_estimate import LIBRARIES, MemoryEstimate
from tests.support.model_folders import build, in_type
from tests.support.refusals import refused

# The shapes of Llama-3.1-8B and of SmolLM2-1.7B, with their tensors in bfloat16.
LARGE: dict[str, Any] = {
    "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "model_type": "llama",
}  # fmt: skip
MIDDLE: dict[str, Any] = {
    "vocab_size": 49152, "hidden_size": 2048, "intermediate_size": 8192,
    "num_hidden_layers": 24, "num_attention_heads": 32, "num_key_value_heads": 32,
    "model_type": "llama",
}  # fmt: skip


def folder_of(folder: Path, config: dict[str, Any], *, tied: bool) -> Path:
    """Write the headers of a model, and a file that is sparse where values would be."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    keys = width // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes = {"embed": [config["vocab_size"], width]}
    if not tied:
        shapes["head"] = shapes["embed"]
    for layer in range(config["num_hidden_layers"]):
        parts = {"q": width, "k": keys, "v": keys, "o": width}
        shapes |= {f"{layer}.{name}": [out, width] for name, out in parts.items()}
        shapes |= {f"{layer}.{n}": [inner, width] for n in ("gate", "up", "down")}
    header: dict[str, Any] = {}
    start = 0
    for name, shape in shapes.items():
        size = 2 * shape[0] * shape[1]
        place = [start, start + size]
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": place}
        start += size
    text = json.dumps(header).encode()
    folder.mkdir()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + start)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_model_of_eight_billion_is_estimated_from_its_headers(tmp_path: Path) -> None:
    found = memory_estimate.of_folder(folder_of(tmp_path / "8b", LARGE, tied=False))

    assert found is not None
    assert found.stored == pytest.approx(16.06e9, rel=0.01)
    assert found.widened == 2 * found.stored
    memory = 24 * 10**9
    assert not found.fits_widened(memory)
    assert found.held(memory) == pytest.approx(18.9e9, rel=0.02)  # one matrix is wide
    batch = found.step(4 * 128, recomputed=True)
    assert found.held(memory) + batch < memory
    found.check("base 8b", memory=memory)
    with refused(ResourceError, "memory-too-small", match=r"base 8b takes about 1[89]"):
        found.check("base 8b", memory=16 * 10**9)


def test_a_private_step_of_1_7_billion_is_estimated_below_ten_gigabytes(
    tmp_path: Path,
) -> None:
    found = memory_estimate.of_folder(folder_of(tmp_path / "1.7b", MIDDLE, tied=True))

    assert found is not None
    whole = found.held(10**10) + found.step(4 * 128, recomputed=False)
    assert 7e9 < whole < 10e9
    less = found.held(10**10) + found.step(4 * 128, recomputed=True)
    assert 4.5e9 < less < 6.5e9


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_headers_and_tensors_give_the_same_sizes(kind: str, tmp_path: Path) -> None:
    folder = in_type(build(tmp_path / "llama", "llama"), kind)
    read = base_models.find_base(str(folder)).given.tensors
    ours, theirs = memory_estimate.of_folder(folder), memory_estimate.of_tensors(read)

    assert ours is not None
    assert (ours.stored, ours.widened, ours.largest) == (
        theirs.stored,
        theirs.widened,
        theirs.largest,
    )
    assert ours.stored == sum(tensor.nbytes for tensor in read.values())
    assert (ours.widened == 0) == (kind == "F32")


def test_a_base_that_cannot_fit_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(tmp_path / "8b", LARGE, tied=False)
    monkeypatch.setattr("tapestry.artifacts.model_folder.read", None)

    with refused(ResourceError, "memory-too-small", match="take a smaller base"):
        base_models.find_base(str(folder), machine=Machine(memory=8 * 10**9))


def test_an_architecture_that_is_not_tested_is_widened_in_the_estimate(
    tmp_path: Path,
) -> None:
    folder = folder_of(tmp_path / "gemma", LARGE, tied=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "gemma"}))
    found = memory_estimate.of_folder(folder)

    assert found is not None
    assert found.held(24 * 10**9) == LIBRARIES + found.stored + found.widened
    with refused(ResourceError, "memory-too-small"):
        found.check("base gemma", memory=24 * 10**9)


def test_a_configuration_that_is_no_file_is_left_to_the_reader(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "model", MIDDLE, tied=True)
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    assert memory_estimate.of_folder(folder) is None


@pytest.mark.parametrize("number", [10**30, 10**400, -1, 1.5, True, "x"])
def test_a_size_that_is_no_size_is_left_out(number: object, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "model", MIDDLE, tied=True)
    config = folder / "config.json"
    text = json.dumps({**MIDDLE, "hidden_size": "HERE"})
    config.write_text(text.replace('"HERE"', json.dumps(number)))
    found = memory_estimate.of_folder(folder)
    assert found is None or found.width == 0
    if found is not None:
        found.check("base", memory=24 * 10**9)


@pytest.mark.parametrize(
    "damage",
    ["config", "weights", "numbers", "list"],
)
def test_what_cannot_be_estimated_is_left_to_the_reader(
    damage: str, tmp_path: Path
) -> None:
    folder = folder_of(tmp_path / "model", MIDDLE, tied=True)
    config = folder / "config.json"
    if damage == "config":
        config.write_bytes(b"\xff")
    elif damage == "weights":
        (folder / "model.safetensors").write_bytes(b"no header at all")
    elif damage == "list":
        config.write_text("[]")
    else:
        config.write_text(json.dumps(dict.fromkeys(MIDDLE, "many")))

    found = memory_estimate.of_folder(folder)

    if damage in ("config", "weights", "list"):
        assert found is None
    else:
        assert found is not None
        assert (found.vocabulary, found.layers) == (0, 0)


def test_a_quarter_of_the_memory_may_be_wide() -> None:
    model = MemoryEstimate(stored=10**9, widened=2 * 10**9, largest=10**8)
    most = 4 * (LIBRARIES + 3 * 10**9)

    assert model.fits_widened(None)
    assert model.fits_widened(most)
    assert not model.fits_widened(most - 1)
    assert model.held(most) == LIBRARIES + 3 * 10**9
    assert model.held(most - 1) == LIBRARIES + 10**9 + 10**8
    plain = MemoryEstimate(stored=10**9, widened=0, largest=10**8)
    assert plain.fits_widened(1)  # nothing would be copied
