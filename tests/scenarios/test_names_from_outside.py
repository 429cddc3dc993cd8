"""Names in files and messages: refused before any path is built from them.

Each reader gets a folder or message of which one name was replaced. It answers with an
error of the product, and opens, lists, makes or removes nothing outside the folder.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tapestry.artifacts import manifest, model_folder
from tapestry.encoding import canonical_json
from tapestry.errors import TapestryError
from tapestry.protocol.messages import ChunkPaths, Publication, PublishAdapterRequest
from tapestry_governance import registry
from tapestry_governance.audit.bundle import MANIFEST, open_bundle
from tapestry_governance.audit.sum_evidence import read_spot
from tests.support.adapter_folders import make_adapter, make_base, make_metadata
from tests.support.commands import tapestry
from tests.support.hostile_names import HOSTILE_NAMES
from tests.support.touched_paths import touched

ZERO = "0" * 64


def _manifest(folder: Path, name: str) -> None:
    place = folder / "tapestry"
    place.mkdir()
    listed = {"content": f"sha256:{ZERO}", "name": name, "size": 1}
    value = {"files": [listed], "format": "tapestry-manifest/1"}
    (place / "manifest.json").write_bytes(json.dumps(value).encode())
    manifest.verify(folder, manifest.read(folder))


def _bundle(folder: Path, name: str) -> None:
    text = f"{ZERO}  {name}\n"
    (folder / MANIFEST).write_bytes(text.encode("utf-8", "surrogatepass"))
    open_bundle(folder)


def _artifact(folder: Path, name: str) -> None:
    _bundle(folder, f"artifacts/{name}/tapestry/manifest.json")


def _evidence(folder: Path, name: str) -> None:
    value = {"total": [], "uploads": {name: []}}
    (folder / "proofs.json").write_bytes(json.dumps(value).encode())
    (folder / "total.bin").write_bytes(b"0")
    read_spot(folder, 0)


def _shard(folder: Path, name: str) -> None:
    save_file({"w": np.ones(1, dtype=np.float32)}, folder / "model-00001.safetensors")
    index = {"weight_map": {"w": name}}
    (folder / model_folder.INDEX).write_text(json.dumps(index))
    registry.read_base(folder)


def _base_of_adapter(folder: Path, name: str) -> None:
    make_adapter(
        folder,
        metadata=make_metadata(base=name),
        config_changes={"base_model_name_or_path": name},
    )
    registry.check_folder(folder)


def _publication(_: Path, name: str) -> None:
    Publication.decode(_json({"files": [name]}))


def _request(_: Path, name: str) -> None:
    PublishAdapterRequest.decode(_json({"checkpoint": "", "name": name}))


def _spots(_: Path, name: str) -> None:
    ChunkPaths.decode(_json({"total": [], "uploads": {name: []}}))


def _json(value: object) -> bytes:
    try:
        return canonical_json(value)
    except TapestryError:  # no peer can send it in one spelling; it sends another
        return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


READERS: dict[str, Callable[[Path, str], None]] = {
    "manifest of a folder": _manifest,
    "manifest of a bundle": _bundle,
    "artifact of a bundle": _artifact,
    "evidence on a sum": _evidence,
    "index of shards": _shard,
    "base of an adapter": _base_of_adapter,
    "files of a publication": _publication,
    "name of a release": _request,
    "uploads of a chunk": _spots,
}


@pytest.mark.parametrize("hostile", HOSTILE_NAMES.values(), ids=HOSTILE_NAMES)
@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_a_hostile_name_is_refused_and_nothing_outside_is_touched(
    tmp_path: Path, read: Callable[[Path, str], None], hostile: str
) -> None:
    folder = tmp_path / "inside" / "folder"
    folder.mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    with touched() as paths, pytest.raises((TapestryError, UnicodeError)) as caught:
        read(folder, hostile)
    if isinstance(caught.value, UnicodeError):
        assert hostile == "a\ud800", "only the test itself cannot write it"
    own = {str(folder), *map(str, folder.rglob("*"))}
    strays = {p for p in paths if p == "/etc/passwd" or p.startswith(str(tmp_path))}
    assert {p for p in strays - own if not p.startswith(f"{folder}/")} == set()
    assert list((tmp_path / "outside").iterdir()) == []


def test_what_is_opened_is_seen(tmp_path: Path) -> None:
    with touched() as paths:
        (tmp_path / "b").write_bytes(b"")
    assert str(tmp_path / "b") in paths


def test_an_adapter_check_opens_no_folder_that_the_adapter_names(
    tmp_path: Path,
) -> None:
    base = make_base(tmp_path / "outside" / "base-1")
    folder = make_adapter(
        tmp_path / "adapters" / "italy",
        metadata=make_metadata(base=str(base)),
        config_changes={"base_model_name_or_path": str(base)},
    )
    with touched() as paths:
        said = tapestry("adapter", "verify", folder)
    assert "names no base" in said.stdout + said.stderr
    assert not any(str(base) in path for path in paths)
