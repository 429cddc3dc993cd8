"""Bundles on disk, made from a federation in memory."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tapestry.artifacts import manifest, model_folder
from tapestry.tlog import tiles
from tapestry.tlog.checkpoint import read_claim
from tapestry.tlog.merkle import inclusion_proof, leaf_hash
from tapestry.tlog.proof import Proof
from tapestry_governance.audit.bundle import Bundle, write_bundle
from tapestry_governance.log.outbox_heads import encode_heads
from tests.support.log_world import World


def released(folder: Path) -> tuple[World, Path]:
    """Grow a federation whose release and its files are real; small ones."""
    base = folder / "base-2"
    base.mkdir(parents=True)
    (base / "config.json").write_bytes(b"{}")
    (base / "tokenizer.model").write_bytes(bytes(range(256)))
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    (base / "model.safetensors").write_bytes(safetensors({"w": values}))
    listed = manifest.write(base)
    world = World()
    world.models[2] = model_folder.read_files(base).manifest
    world.found()
    world.run_round(1)
    world.run_round(2, names=("de", "es", "fr"))
    index = world.add(world.release(2, manifest_digest=listed.digest))
    world.add(world.adapter_account(), "fr", "node")
    world.add(world.adapter(2), "fr", "community")
    world.approve("base-2")
    attach_proof(base, world, index)
    return world, base


def attach_proof(base: Path, world: World, index: int) -> None:
    """Put a release's entry, its proof and the trust policy beside its manifest."""
    hashes = inclusion_proof([leaf_hash(entry) for entry in world.entries], index)
    proof = Proof(index=index, hashes=tuple(hashes), checkpoint=world.note())
    (base / "tapestry" / "release.tlog-proof").write_bytes(proof.encode())
    (base / "tapestry" / "release.entry").write_bytes(world.entries[index])
    (base / "tapestry" / "trust-policy.txt").write_bytes(world.trust.encode())


def safetensors(tensors: dict[str, npt.NDArray[np.float32]]) -> bytes:
    """Print float32 tensors in the format of safetensors."""
    header, data = {}, b""
    for name, array in tensors.items():
        part = array.astype("<f4").tobytes()
        header[name] = {
            "dtype": "F32",
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + len(part)],
        }
        data += part
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def bundle_of(
    world: World,
    folder: Path,
    *,
    artifacts: dict[str, Path] | None = None,
    note: bytes | None = None,
    turns: Iterable[bytes] = (),
    heads: Mapping[str, bytes] | None = None,
) -> Bundle:
    """Write the public files of a log and then its bundle."""
    public = folder / "public"
    (public / "turns").mkdir(parents=True)
    (public / "checkpoint").write_bytes(note or world.note())
    for turn in turns:
        (public / "turns" / str(read_claim(turn).size)).write_bytes(turn)
    tiles.write(public, world.entries)
    if heads is not None:
        (public / "outbox.json").write_bytes(encode_heads(heads))
    return write_bundle(
        folder / "bundle",
        public=public,
        trust=world.trust.encode(),
        genesis=world.genesis,
        artifacts=artifacts or {},
        blobs=[b"data of de", b"data of es"],  # named by ``data.declared``
    )
