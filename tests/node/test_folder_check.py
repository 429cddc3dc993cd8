"""Keys, credentials and findings of a folder that is checked without a model."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tapestry.cli.exit_status import ExitStatus
from tapestry.errors import ConfigError, ResourceError, VerificationError
from tapestry_node.folder_check import KINDS, Findings, FolderCheck
from tapestry_node.settings import NodeSettings
from tests.support.node_folders import TRANSPORT, change


def checked(folder: Path) -> FolderCheck:
    settings = NodeSettings.read(folder / "node.toml")
    found = FolderCheck(folder, settings, findings=Findings())
    found.read_files(datetime.now(UTC))
    return found


def codes(found: FolderCheck) -> dict[str, list[str]]:
    every = {kind: [e.code for e in found.findings.of[kind]] for kind in KINDS}
    return {kind: each for kind, each in every.items() if each}


def test_modes_of_private_keys_are_shown_and_of_no_others(idle: Path) -> None:
    (idle / "keys" / "transport.node-id").touch()
    (idle / "keys" / "root.key").touch(0o640)
    (idle / "keys" / "root.key").chmod(0o640)
    keys = checked(idle).modes()
    assert keys.pop("root.key") == "0640"
    assert keys == dict.fromkeys(
        ("community.key", "node.key", "transport", "witness.key"), "0600"
    )


@pytest.mark.parametrize("lost", [None, "root_certificates", "auth_key"])
def test_a_node_that_could_not_dial_is_told_what_is_missing(
    idle: Path, lost: str | None
) -> None:
    assert codes(checked(idle)) == {}
    if lost is None:
        change(idle, {"transport": None})
    else:
        (idle / TRANSPORT[lost]).unlink()
    found = checked(idle)
    assert found.transport is None
    (missing,) = found.findings.of["missing"]
    if lost is None:
        assert missing.code == "transport-missing"
        assert "node.toml has no [transport]" in missing.detail
    else:
        assert missing.code == "file-missing"
        start = f"transport.{lost}: no file {idle / TRANSPORT[lost]}"
        assert missing.detail.startswith(start)
    assert found.findings.status is ExitStatus.INCOMPLETE


def test_each_wrong_credential_is_refused_on_a_line(idle: Path) -> None:
    change(idle, {"transport": {"superlink": "https://a:9092"}})
    (idle / "authority.pem").write_text("canary")
    (idle / "keys" / "transport").chmod(0o644)
    refused = checked(idle).findings.of["refused"]
    assert [(each.code, each.detail.partition(":")[0]) for each in refused] == [
        ("address-invalid", "transport.superlink"),
        ("certificate-missing", "transport.root_certificates"),
        ("key-file-not-private", "transport.auth_key"),
    ]


def test_a_folder_without_keys_lacks_each(idle: Path) -> None:
    for path in (idle / "keys").iterdir():
        path.unlink()
    (idle / "keys").rmdir()
    found = checked(idle)
    assert found.modes() == {}
    assert codes(found) == {
        "refused": ["file-unreadable"] * 3,
        "missing": ["file-missing"],
    }


def test_the_worst_finding_gives_the_status() -> None:
    findings = Findings()
    assert findings.status is ExitStatus.HOLDS
    for error, kind, status in (
        (ResourceError("a", code="x"), "missing", ExitStatus.INCOMPLETE),
        (ConfigError("b", code="x"), "refused", ExitStatus.RULE_BROKEN),
        (VerificationError("c", code="x"), "failed", ExitStatus.FAILED),
        (ConfigError("d", code="x"), "refused", ExitStatus.FAILED),
    ):
        findings.add_error(error, place="at: ")
        assert findings.status is status
        assert [*findings.news()] == [f"{kind:<9} at: {error} [x]"]
    findings.add_error(ConfigError("b", code="x"))  # another one says so already
    assert [*findings.news()] == []
