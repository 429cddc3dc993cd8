"""An export: all that an institution owns, by itself, whole, and without a secret."""

import base64
import hashlib
import json
from pathlib import Path

import pytest

from tapestry.artifacts import manifest
from tapestry.encrypted_keys import load_key
from tapestry.errors import ConfigError, IncompleteError, ResourceError
from tapestry.keys import SigningKey
from tapestry_governance.audit.bundle import MANIFEST
from tapestry_node import member_export
from tapestry_node.directory import PURPOSES, open_mirror
from tapestry_node.member_export import export
from tapestry_node.settings import NodeSettings
from tests.support.commands import tapestry
from tests.support.federation import Federation
from tests.support.federation_fixtures import Found
from tests.support.node_folders import NAME, change, run
from tests.support.refusals import refused


def files_of(place: Path) -> dict[str, bytes]:
    found = (path for path in place.rglob("*") if path.is_file())
    return {path.relative_to(place).as_posix(): path.read_bytes() for path in found}


def snapshot_of(folder: Path) -> Path:
    (path,) = (folder / "bases").iterdir()
    return path


@pytest.fixture
def trained(found: Found) -> Federation:
    """A federation whose nodes go on running after a round."""
    federation = found()
    federation.run()
    return federation


def test_a_running_node_exports_what_the_coordinator_published(
    trained: Federation, tmp_path: Path
) -> None:
    folder, place = trained.nodes[NAME].directory, tmp_path / "export"
    made = export(folder, place)
    assert (made.releases, made.adapters, made.lacks) == (["base-1"], [], {})
    published = trained.coordinator / "releases" / "base-1"
    listed = manifest.read(published)
    assert manifest.read(place / "releases" / "base-1") == listed
    manifest.verify(place / "releases" / "base-1", listed)
    assert tapestry("audit", "verify", place / "bundle").exit_code == 0
    release = tapestry("release", "verify", place / "releases" / "base-1")
    assert release.exit_code == 5, release.stdout  # it is a candidate
    assert "holds        log" in release.stdout
    said = json.loads((place / "export.json").read_text())
    assert (said["member"], said["genesis"]) == (NAME, trained.genesis)
    assert said["releases"] == {"base-1": "candidate"}
    assert (place / "corpus.toml").read_text().splitlines()[0] == 'licence = "CC0-1.0"'


def test_ledger_receipts_and_keys_are_those_of_the_commands_and_the_log(
    used: Path, tmp_path: Path
) -> None:
    export(used, place := tmp_path / "export")
    ledger = json.loads((place / "ledger.json").read_text())
    assert ledger == json.loads(run("budget", used, "--json").stdout)
    assert [each["state"] for each in ledger["charges"]] == ["spent"]
    receipts = json.loads((place / "receipts.json").read_text())
    rows = run("egress", used, "--json").stdout.splitlines()
    assert receipts == [json.loads(row) for row in rows]
    mirror = open_mirror(used, NodeSettings.read(used / "node.toml"), readonly=True)
    member = mirror.state.members[NAME].model_dump()
    mirror.close()
    keys = json.loads((place / "public-keys.json").read_text())
    assert {"name": NAME, **keys} == member
    for name in ("ledger.json", "receipts.json"):
        assert (place / name).stat().st_mode & 0o777 == 0o600
    assert place.stat().st_mode & 0o777 == 0o700


def test_the_manifest_lists_each_file_with_its_digest(
    used: Path, tmp_path: Path
) -> None:
    export(used, place := tmp_path / "export")
    found = files_of(place)
    listed = found.pop(MANIFEST).decode()
    rows = (f"{hashlib.sha256(found[name]).hexdigest()}  {name}\n" for name in found)
    assert sorted(listed.splitlines(keepends=True)) == sorted(rows)


def test_no_private_key_is_in_it(used: Path, tmp_path: Path) -> None:
    export(used, place := tmp_path / "export")
    keys = [SigningKey.load(used / "keys" / f"{each}.key") for each in PURPOSES]
    keys.append(load_key(used / "keys" / "root.key", passphrase=None))
    seeds = [key.seed for key in keys]
    for name, data in files_of(place).items():
        assert b"PRIVATE" not in data, name
        for seed in seeds:
            spelled = (seed, seed.hex().encode(), base64.b64encode(b"\1" + seed))
            assert not any(each in data for each in spelled), name


def test_an_export_replaces_nothing_and_is_whole_or_absent(
    used: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "export"

    def full(*_: object) -> None:
        raise ResourceError("no room", code="disk-full")

    monkeypatch.setattr(member_export, "write_manifest", full)
    with refused(ResourceError, "disk-full"):
        export(used, place)
    assert [p.name for p in tmp_path.iterdir() if "export" in p.name] == []
    place.mkdir()
    (place / "mine").write_text("kept")
    with refused(ConfigError, "file-exists", match=str(place)):
        export(used, place)
    assert files_of(place) == {"mine": b"kept"}


def test_a_base_that_was_damaged_is_told_and_all_else_is_there(
    used: Path, tmp_path: Path
) -> None:
    path = snapshot_of(used)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    place = tmp_path / "export"
    done = run("export", used, "-o", str(place))
    assert done.exit_code == 3, done.stdout + done.stderr
    assert "lacks   base-1: " in done.stdout
    assert not (place / "releases").exists()
    assert tapestry("audit", "verify", place / "bundle").exit_code == 0
    said = json.loads((place / "export.json").read_text())
    assert said["lacks"] == {"base-1": "replica-differs"}
    path.unlink()
    assert set(export(used, tmp_path / "without").lacks) == {"base-1"}


def test_data_and_given_base_that_are_gone_are_told(
    used: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # the command looks for the base itself
    change(used, {"base": str(tmp_path / "gone")})
    (used / "data" / "corpus.toml").unlink()
    done = run("export", used, "-o", str(tmp_path / "export"), "--json")
    assert done.exit_code == 3
    found = json.loads(done.stdout)
    assert found["releases"] == []
    codes = {each["name"]: each["code"] for each in found["lacks"]}
    assert codes == {"corpus.toml": "data-manifest-missing", "base": "base-unknown"}


def test_an_exit_that_was_damaged_is_told_and_all_else_is_there(
    used: Path, tmp_path: Path
) -> None:
    (used / f"{NAME}.left").write_text("no entry")
    made = export(used, place := tmp_path / "export")
    assert list(made.lacks) == [f"{NAME}.left"]
    assert (place / "ledger.json").exists()


def test_no_export_is_written_among_the_records(used: Path) -> None:
    data = (used / NodeSettings.read(used / "node.toml").data).resolve()
    for place in (data / "export", used / "link" / "export"):
        if place.parent != data:
            place.parent.symlink_to(data)
        with refused(ConfigError, "output-in-data"):
            export(used, place)
        assert not place.exists()


def test_a_node_that_accepted_nothing_has_nothing_to_export(
    idle: Path, tmp_path: Path
) -> None:
    with refused(IncompleteError, "mirror-empty"):
        export(idle, tmp_path / "export")
    assert [p.name for p in tmp_path.iterdir() if "export" in p.name] == []
