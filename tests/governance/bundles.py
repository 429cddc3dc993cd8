"""Bundles on disk, made from a federation in memory."""

from pathlib import Path

from tapestry import manifest
from tapestry.merkle import inclusion_proof, leaf_hash
from tapestry_governance import tiles
from tapestry_governance.bundle import Bundle, write_bundle
from tapestry_governance.proof import Proof
from tests.governance.world import World


def released(folder: Path) -> tuple[World, Path]:
    """Grow a federation whose release and its files are real; small ones."""
    base = folder / "base-2"
    (base / "nested").mkdir(parents=True)
    (base / "config.json").write_bytes(b"{}")
    (base / "nested" / "weights.safetensors").write_bytes(bytes(range(256)))
    listed = manifest.write(base)
    world = World().found()
    world.run_round(1)
    world.run_round(2, names=("de", "es", "fr"))
    index = world.add(world.release(2, manifest_digest=listed.digest))
    world.add(world.adapter_account(), "fr", "node")
    world.add(world.adapter(2), "fr", "community")
    hashes = inclusion_proof([leaf_hash(entry) for entry in world.entries], index)
    proof = Proof(index=index, hashes=tuple(hashes), checkpoint=world.note())
    (base / "tapestry" / "release.tlog-proof").write_bytes(proof.encode())
    return world, base


def bundle_of(
    world: World, folder: Path, *, artifacts: dict[str, Path] | None = None
) -> Bundle:
    """Write the public files of a log and then its bundle."""
    public = folder / "public"
    public.mkdir(parents=True)
    (public / "checkpoint").write_bytes(world.note())
    tiles.write(public, world.entries)
    return write_bundle(
        folder / "bundle",
        public=public,
        trust=world.trust.encode(),
        genesis=world.genesis,
        artifacts=artifacts or {},
        blobs=[b"a sum", b""],
    )
