"""Folders of releases and adapters are those that the log publishes."""

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from tapestry.artifacts import manifest
from tapestry.artifacts.model_identity import ModelContent
from tapestry.errors import ForeignFileError, IncompleteError, VerificationError
from tapestry.tlog import tiles
from tapestry.tlog.checkpoint import read_claim
from tapestry.tlog.merkle import inclusion_proof, leaf_hash
from tapestry.tlog.proof import Proof
from tapestry_governance.audit.published_folders import (
    CheckedArtifacts,
    check_artifacts,
)
from tapestry_governance.rules.federation_state import FederationState
from tapestry_governance.rules.replay import apply_all
from tests.support.adapter_folders import make_demo
from tests.support.audit_bundles import attach_proof, released, safetensors
from tests.support.log_world import World
from tests.support.refusals import refused


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, Path]:
    return released(tmp_path_factory.mktemp("made"))


@pytest.fixture
def world(made: tuple[World, Path]) -> World:
    return made[0]


@pytest.fixture
def base(made: tuple[World, Path], tmp_path: Path) -> Path:
    """A copy that the test may damage."""
    return shutil.copytree(made[1], tmp_path / "base-2")


def whole(
    world: World, *folders: Path, entries: Sequence[bytes] | None = None
) -> frozenset[str]:
    """Check folders, and raise the first fault."""
    found = check_artifacts(
        {folder.name: folder for folder in folders},
        state=world.folded,
        entries=world.entries if entries is None else entries,
        policy=world.trust.encode(),
    )
    for fault in found.faults.values():
        raise fault
    return found.whole


def test_a_release_with_all_files_is_whole(world: World, base: Path) -> None:
    assert whole(world, base) == {"base-2"}


def test_a_manifest_alone_is_checked_and_is_not_whole(world: World, base: Path) -> None:
    for path in base.iterdir():
        if path.is_file():
            path.unlink()
    assert whole(world, base) == set()
    (base / "notes.txt").write_text("x")
    with refused(ForeignFileError, "foreign-file", match=r"notes\.txt"):
        whole(world, base)


def test_a_folder_that_the_log_does_not_publish_is_refused(
    world: World, base: Path
) -> None:
    with refused(VerificationError, "artifact-not-in-log", match="base-3"):
        whole(world, base.rename(base.with_name("base-3")))


def test_a_manifest_of_other_files_than_were_published_is_refused(
    world: World, base: Path
) -> None:
    shutil.rmtree(base / "tapestry")
    (base / "config.json").write_bytes(b'{"changed": 1}')
    digest = manifest.write(base).digest
    with refused(VerificationError, "manifest-differs", match=digest):
        whole(world, base)


def test_a_release_of_other_parameters_than_the_log_names_is_refused(
    tmp_path: Path,
) -> None:
    base = tmp_path / "base-1"
    base.mkdir()
    values = np.ones((2, 2), dtype=np.float32)
    (base / "model.safetensors").write_bytes(safetensors({"w": values}))
    world, digest = World(), manifest.write(base).digest
    other = ModelContent(tensors={"w": values + 1})
    world.models[1] = other.manifest
    world.found()
    world.run_round(1)
    index = world.add(world.release(1, manifest_digest=digest))
    attach_proof(base, world, index)
    want = other.manifest.parameters
    with refused(VerificationError, "release-parameters-differ", match=want):
        whole(world, base)


def entry_of_another(world: World) -> bytes:
    return world.entry(world.declaration("fr"), "fr", "node")


@pytest.mark.parametrize(
    "make",
    [lambda _: b"{}", lambda _: b"no JSON", entry_of_another, lambda w: w.entries[1]],
    ids=["JSON", "text", "an entry that was not logged", "another entry of the log"],
)
def test_a_release_holds_its_own_entry_or_is_refused(
    world: World, base: Path, make: Callable[[World], bytes]
) -> None:
    (base / "tapestry" / "release.entry").write_bytes(make(world))
    with refused(VerificationError, "own-entry-differs", match=r"release\.entry"):
        whole(world, base)


def test_a_release_holds_the_proof_of_its_own_entry_or_is_refused(
    world: World, base: Path
) -> None:
    path = base / "tapestry" / "release.tlog-proof"
    proof = Proof.parse(path.read_bytes())
    hashes = inclusion_proof([leaf_hash(each) for each in world.entries], 1)
    other = Proof(index=1, hashes=tuple(hashes), checkpoint=world.note())
    other.verify(world.entries[1], world.trust)
    path.write_bytes(other.encode())
    with refused(VerificationError, "inclusion-proof-invalid", match="for entry 1,"):
        whole(world, base)
    wrong = dataclasses.replace(proof, hashes=(bytes(32), *proof.hashes[1:]))
    path.write_bytes(wrong.encode())
    with refused(VerificationError, "inclusion-proof-invalid"):
        whole(world, base)


def test_a_release_holds_the_trust_policy_that_verifies_the_log_or_is_refused(
    world: World, base: Path
) -> None:
    path = base / "tapestry" / "trust-policy.txt"
    path.write_bytes(path.read_bytes() + b"# more\n")
    with refused(VerificationError, "trust-policy-differs"):
        whole(world, base)


@pytest.mark.parametrize("name", ["notes.json", "a.txt", "b.entry", "c.tlog-proof"])
def test_a_file_beside_a_manifest_that_nothing_compares_is_foreign(
    world: World, base: Path, name: str
) -> None:
    (base / "tapestry" / name).write_bytes(world.entries[1])
    with refused(ForeignFileError, "foreign-file", match=name.replace(".", r"\.")):
        whole(world, base)


@pytest.mark.parametrize(
    "name", ["release.entry", "release.tlog-proof", "trust-policy.txt"]
)
def test_a_file_that_belongs_beside_a_release_is_missed(
    world: World, base: Path, name: str
) -> None:
    (base / "tapestry" / name).unlink()
    with refused(IncompleteError, "file-missing", match=f"base-2: {name}"):
        whole(world, base)


@pytest.mark.parametrize(
    "name", ["release.entry", "release.tlog-proof", "trust-policy.txt"]
)
def test_an_empty_file_beside_a_release_is_named(
    world: World, base: Path, name: str
) -> None:
    (base / "tapestry" / name).write_bytes(b"")
    with refused(IncompleteError, "file-empty", match=f"base-2: {name}"):
        whole(world, base)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Demo:
    """A release and an adapter on it, with the log that publishes both."""

    folders: dict[str, Path]
    entries: list[bytes]
    state: FederationState

    def check(self) -> CheckedArtifacts:
        policy = World().trust.encode()
        return check_artifacts(
            self.folders, state=self.state, entries=self.entries, policy=policy
        )


@pytest.fixture
def demo(tmp_path: Path) -> Demo:
    place = make_demo(tmp_path)
    size = read_claim((place / "bundle" / "checkpoint").read_bytes()).size
    entries = list(tiles.read_entries(place / "bundle", size))
    state = apply_all(None, entries)
    assert state is not None
    kinds = {"base-2": "releases", "fr-culture": "adapters"}
    folders = {name: place / kind / name for name, kind in kinds.items()}
    return Demo(folders=folders, entries=entries, state=state)


@pytest.mark.parametrize(
    ("faulty", "file", "code"),
    [
        ("base-2", "model.safetensors", "manifest-file-changed"),
        ("base-2", "tapestry/release.tlog-proof", "proof-malformed"),
        ("base-2", "tapestry/manifest.json", "json-invalid"),
        ("fr-culture", "adapter_config.json", "manifest-file-changed"),
        ("fr-culture", "tapestry/accounted.entry", "own-entry-differs"),
        ("fr-culture", "more.txt", "foreign-file"),
    ],
)
def test_the_fault_of_one_artifact_is_not_anothers(
    demo: Demo, faulty: str, file: str, code: str
) -> None:
    (other,) = demo.folders.keys() - {faulty}
    assert demo.check().whole == demo.folders.keys()
    assert demo.check().fitted == {"fr-culture"}
    (demo.folders[faulty] / file).write_bytes(b"x")
    found = demo.check()
    assert {name: fault.code for name, fault in found.faults.items()} == {faulty: code}
    assert found.whole == {other}
    assert found.fitted == set()  # without a sound base, or without a sound adapter
