import subprocess
from pathlib import Path

import pytest

from tapestry.errors import ConfigError, IncompleteError, ResourceError
from tapestry_governance.bundle import open_bundle, write_bundle
from tests.governance.bundles import bundle_of, released
from tests.governance.world import World


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
    with pytest.raises(ConfigError, match="exists"):
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
    with pytest.raises(IncompleteError, match="no cosigned checkpoint"):
        write_bundle(
            tmp_path / "bundle",
            public=tmp_path / "public",
            trust=world.trust.encode(),
            genesis=world.genesis,
            artifacts={},
        )


def test_an_artifact_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="base-9"):
        bundle_of(World().found(), tmp_path, artifacts={"base-9": tmp_path / "base-9"})
