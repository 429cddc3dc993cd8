import os
import subprocess
from pathlib import Path

import pytest

from tapestry.errors import (
    ConfigError,
    IncompleteError,
    ResourceError,
    VerificationError,
)
from tapestry_governance.audit.bundle import (
    MANIFEST,
    add_sums,
    open_bundle,
    read_small,
    write_bundle,
    write_manifest,
)
from tapestry_governance.audit.verify import AuditVerdict, verify
from tests.support.audit_bundles import bundle_of, released
from tests.support.log_world import World
from tests.support.refusals import refused


def test_a_bundle_is_read_as_it_was_written(tmp_path: Path) -> None:
    world, base = released(tmp_path)
    bundle = bundle_of(world, tmp_path, artifacts={"base-2": base})
    again = open_bundle(bundle.folder)
    assert again == bundle
    assert again.policy == world.trust.encode()
    assert again.genesis == world.genesis
    assert again.checkpoint == world.note()
    assert list(again.artifacts) == ["base-2"]
    assert len(again.blobs) == 2


def test_a_listed_file_with_one_changed_byte_is_refused(tmp_path: Path) -> None:
    world, base = released(tmp_path)
    folder = bundle_of(world, tmp_path, artifacts={"base-2": base}).folder
    path = folder / "checkpoint"
    path.write_bytes(path.read_bytes().replace(b"=", b"A", 1))
    with refused(VerificationError, "manifest-file-changed", match="checkpoint"):
        open_bundle(folder)


def test_other_tools_can_check_the_list_of_files(tmp_path: Path) -> None:
    bundle = bundle_of(World().found(), tmp_path)
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "--quiet", "MANIFEST.sha256"],
        cwd=bundle.folder,
        check=False,
        capture_output=True,
    )
    assert (done.returncode, done.stdout) == (0, b"")


def test_a_bundle_never_overwrites_a_folder(tmp_path: Path) -> None:
    world = World().found()
    bundle = bundle_of(world, tmp_path)
    with refused(ConfigError, "file-exists", match=str(bundle.folder)):
        write_bundle(
            bundle.folder,
            public=tmp_path / "public",
            trust=world.trust.encode(),
            genesis=world.genesis,
            artifacts={},
        )


def test_a_log_that_was_never_published_has_no_bundle(tmp_path: Path) -> None:
    world = World().found()
    (tmp_path / "public").mkdir()
    with refused(IncompleteError, "checkpoint-missing", match="public"):
        write_bundle(
            tmp_path / "bundle",
            public=tmp_path / "public",
            trust=world.trust.encode(),
            genesis=world.genesis,
            artifacts={},
        )


def test_an_artifact_that_is_not_there_is_named(tmp_path: Path) -> None:
    with refused(ResourceError, "file-unwritable", match="base-9"):
        bundle_of(World().found(), tmp_path, artifacts={"base-9": tmp_path / "base-9"})


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("MANIFEST.sha256", "file-empty"),
        ("trust-policy.txt", "file-empty"),
        ("checkpoint", "file-empty"),
        ("genesis.sha256", "file-empty"),
        ("artifacts/base-2/tapestry/manifest.json", "manifest-missing"),
        ("artifacts/base-2/tapestry/release.entry", "file-empty"),
        ("artifacts/base-2/tapestry/release.tlog-proof", "file-empty"),
    ],
)
def test_an_empty_file_is_called_empty(tmp_path: Path, name: str, code: str) -> None:
    world, base = released(tmp_path)
    bundle = bundle_of(world, tmp_path, artifacts={"base-2": base})
    (bundle.folder / name).write_bytes(b"")
    if name != "MANIFEST.sha256":
        write_manifest(bundle.folder)
    audit = verify(bundle.folder)
    assert f"{Path(name).name} is empty" in audit.steps[-1].detail
    assert audit.steps[-1].code == code
    assert audit.verdict is AuditVerdict.INCOMPLETE


@pytest.mark.parametrize("kind", ["link", "folder-link", "pipe"])
def test_a_list_of_files_is_not_made_of_a_folder_with_a_link_or_pipe(
    tmp_path: Path, kind: str
) -> None:
    bundle = bundle_of(World().found(), tmp_path).folder
    odd = bundle / "blobs" / "odd"
    if kind == "pipe":
        os.mkfifo(odd)
    else:
        odd.symlink_to(bundle / ("tile" if kind == "folder-link" else "checkpoint"))
    with refused(VerificationError, "file-not-plain", match="blobs/odd"):
        write_manifest(bundle)


def test_no_hole_of_a_terabyte_is_hashed_wherever_it_is(tmp_path: Path) -> None:
    """Each file in turn, also under a list of files that has another digest of it."""
    world, base = released(tmp_path)
    bundle = bundle_of(world, tmp_path, artifacts={"base-2": base})
    listed = (bundle.folder / MANIFEST).read_text()
    for name in bundle.files:
        path = bundle.folder / name
        size, true = path.stat().st_size, f"{bundle.listed[name]}  {name}\n"
        for text in (listed, listed.replace(true, f"{'0' * 64}  {name}\n")):
            os.truncate(path, 1 << 40)
            (bundle.folder / MANIFEST).write_text(text)
            assert verify(bundle.folder).verdict is AuditVerdict.FAILS, name
            os.truncate(path, size)
    (bundle.folder / MANIFEST).write_text(listed)
    assert verify(bundle.folder).verdict is AuditVerdict.HOLDS


@pytest.mark.parametrize("name", ["result.json", "0/sum.bin", "0/upload-fr.bin"])
def test_no_hole_in_the_evidence_of_a_sum_is_hashed(tmp_path: Path, name: str) -> None:
    bundle = bundle_of(World().grow(), tmp_path)
    path = tmp_path / "sum" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"{}")
    add_sums(bundle.folder, {3: tmp_path / "sum"})
    os.truncate(bundle.folder / "sums" / "3" / name, 1 << 40)
    with refused(VerificationError, "file-too-large", match=path.name):
        open_bundle(bundle.folder)


def test_another_digest_in_the_list_is_refused_for_each_file(tmp_path: Path) -> None:
    """Those of artifacts are compared with the manifest that the log names."""
    world, base = released(tmp_path)
    bundle = bundle_of(world, tmp_path, artifacts={"base-2": base})
    listed = (bundle.folder / MANIFEST).read_text()
    for name in bundle.files:
        true = f"{bundle.listed[name]}  {name}\n"
        other = listed.replace(true, f"{'0' * 64}  {name}\n")
        (bundle.folder / MANIFEST).write_text(other)
        audit = verify(bundle.folder)
        assert audit.steps[-1].code == "manifest-file-changed", name
        assert name.rpartition("/")[2] in audit.steps[-1].detail


def test_a_small_file_is_read_up_to_its_bound(tmp_path: Path) -> None:
    file = tmp_path / "trust-policy.txt"
    file.touch()
    os.truncate(file, 1 << 40)
    with refused(VerificationError, "file-too-large", match=r"policy\.txt"):
        read_small(file)
    for other in (tmp_path, Path("/dev/zero")):
        with refused(ConfigError, "file-not-plain", match=str(other)):
            read_small(other)
    with refused(ConfigError, "file-unreadable", match="gone"):
        read_small(tmp_path / "gone")
