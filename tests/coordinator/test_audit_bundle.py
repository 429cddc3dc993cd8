"""A coordinator writes its bundle from its folder, and an auditor verifies it."""

import os
from pathlib import Path

from tapestry.errors import ConfigError, IncompleteError, ResourceError
from tapestry_coordinator.audit_bundle import collect_bundle
from tests.support.commands import tapestry
from tests.support.federation_fixtures import Found
from tests.support.refusals import refused


def test_a_bundle_verifies_and_has_no_weights(found: Found, tmp_path: Path) -> None:
    federation = found()
    federation.run()
    coordinator, bundle = federation.coordinator, tmp_path / "bundle"
    strange = [tmp_path / "bundle.releases" / "mine"]
    strange += [coordinator / "releases" / name for name in ("x.new", "base-7")]
    strange += [coordinator / "adapters" / ".draft", coordinator / "evidence" / "7.new"]
    for folder in strange:
        folder.mkdir(parents=True)
    said = tapestry("coordinator", "bundle", coordinator, "-o", bundle)
    assert said.exit_code == 0, said.stderr
    assert not list(tmp_path.glob(".releases-*"))
    assert all(folder.is_dir() for folder in strange)
    assert list(coordinator.rglob("releases/*/*.safetensors"))
    assert not list(bundle.rglob("*.safetensors"))
    genesis = (bundle / "genesis.sha256").read_text().strip()
    assert genesis == federation.genesis
    audit = tapestry("audit", "verify", bundle)
    assert audit.exit_code == 0, audit.stdout + audit.stderr
    with refused(ConfigError, "file-exists", match=str(bundle)):
        collect_bundle(coordinator, bundle)


def test_a_log_that_nobody_cosigned_gives_no_bundle(
    found: Found, tmp_path: Path
) -> None:
    with refused(IncompleteError, "checkpoint-missing"):
        collect_bundle(found().coordinator, tmp_path / "bundle")
    assert list(tmp_path.glob("bundle*")) == []


def test_a_bundle_that_fails_midway_leaves_nothing(
    found: Found, tmp_path: Path
) -> None:
    federation = found()
    federation.run()
    coordinator, bundle = federation.coordinator, tmp_path / "place" / "bundle"
    os.mkfifo(next(coordinator.glob("evidence/*")) / "fifo")  # is copied last
    with refused(ResourceError, "file-unwritable", match="fifo"):
        collect_bundle(coordinator, bundle)
    assert list(bundle.parent.iterdir()) == []
