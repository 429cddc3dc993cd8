"""A node writes an audit bundle from its own mirror, without a coordinator."""

from pathlib import Path

import pytest

from tapestry.errors import ConfigError, IncompleteError, ResourceError
from tapestry.tlog.checkpoint import read_claim
from tapestry_governance.audit.bundle import open_bundle
from tapestry_governance.audit.verify import AuditVerdict, verify
from tapestry_node import mirror_bundle
from tapestry_node.mirror_bundle import collect_bundle
from tests.support.federation_fixtures import Found
from tests.support.node_folders import NAME
from tests.support.refusals import refused


def test_the_bundle_of_a_running_node_holds_with_the_accepted_log(
    found: Found, tmp_path: Path
) -> None:
    federation = found(coordinator={"rounds": 2})
    federation.run()
    node = federation.nodes[NAME]
    bundle = collect_bundle(node.directory, tmp_path / "bundle")
    assert node.mirror.accepted is not None
    size = node.mirror.accepted.checkpoint.size
    assert read_claim(bundle.checkpoint).size == size
    assert bundle.genesis == federation.genesis
    audit = verify(
        bundle.folder, trust=(node.directory / "trust-policy.txt").read_bytes()
    )
    assert audit.verdict is AuditVerdict.HOLDS, audit.steps[-1].detail
    assert {each.node for each in audit.accounts} >= {NAME}


def test_a_node_that_accepted_nothing_gives_no_bundle(
    idle: Path, tmp_path: Path
) -> None:
    with refused(IncompleteError, "checkpoint-missing", match=str(idle)):
        collect_bundle(idle, tmp_path / "bundle")
    for path in idle.glob("view.db*"):
        path.unlink()
    with refused(ResourceError, "database-unavailable"):
        collect_bundle(idle, tmp_path / "bundle")
    assert list(tmp_path.glob("*bundle*")) == []


def test_a_bundle_is_whole_or_absent(
    used: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "bundle"

    def full(*_: object) -> None:
        raise ResourceError("no room", code="disk-full")

    monkeypatch.setattr(mirror_bundle, "add_sums", full)
    with refused(ResourceError, "disk-full"):
        collect_bundle(used, place)
    assert [p.name for p in tmp_path.iterdir() if "bundle" in p.name] == []
    assert list(tmp_path.glob(".public-*")) == []
    monkeypatch.undo()
    collect_bundle(used, place)
    open_bundle(place)
    with refused(ConfigError, "file-exists", match=str(place)):
        collect_bundle(used, place)
