"""The report says which file, package or rule is at fault, with a verdict for each."""

from pathlib import Path

import pytest

from tapestry.cli.exit_status import ExitStatus
from tapestry.installed_packages import required_packages
from tapestry.software_digest import SoftwareManifest
from tapestry_governance.software_report import SoftwareReport
from tests.support.installed_folders import CODE, install
from tests.support.log_world import fake_digest

OTHER = fake_digest("other")


@pytest.fixture
def manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SoftwareManifest:
    install(tmp_path, "first", requires=["second"])
    install(tmp_path, "second", version="2.5")
    monkeypatch.syspath_prepend(tmp_path)
    return SoftwareManifest(
        own=fake_digest("own"),
        interpreter="CPython 3.11.7",
        packages=tuple(required_packages("first", "node")),
        settings={"MKL_CBWR": "COMPATIBLE"},
    )


def report(
    manifest: SoftwareManifest, allowed: tuple[str, ...] | str | None = None
) -> SoftwareReport:
    return SoftwareReport.of(manifest, allowed=allowed, reads_files=True)


def test_a_report_names_all_that_the_digest_covers(manifest: SoftwareManifest) -> None:
    found = SoftwareReport.of(manifest, allowed=None, reads_files=False)
    (package,) = manifest.packages
    assert [*found.lines()] == [
        f"digest     {manifest.digest}",
        "python     CPython 3.11.7",
        f"tapestry   {fake_digest('own')}",
        f"package    second 2.5 {package.record_digest}",
        "setting    MKL_CBWR=COMPATIBLE",
    ]
    assert found.status is ExitStatus.HOLDS
    assert found.to_json()["allowed"] is None
    assert found.to_json()["differing_files"] is None


def test_software_that_a_policy_does_not_list_breaks_its_rule(
    manifest: SoftwareManifest,
) -> None:
    for allowed, is_allowed in (
        ("any", True),
        ((OTHER, manifest.digest), True),
        ((OTHER,), False),
    ):
        found = report(manifest, allowed)
        assert found.is_allowed is is_allowed
        assert found.status is (
            ExitStatus.HOLDS if is_allowed else ExitStatus.RULE_BROKEN
        )
        assert (
            f"{'this' if is_allowed else 'not this'} software" in [*found.lines()][-1]
        )
        assert found.to_json()["exit"] == int(found.status)


def test_an_edited_file_and_a_foreign_one_are_named(
    manifest: SoftwareManifest, tmp_path: Path
) -> None:
    assert "files      2 of 1 packages were read" in report(manifest).lines()
    stray, edited = tmp_path / "second" / "x.py", tmp_path / "second" / "__init__.py"
    stray.touch()
    found = report(manifest)
    assert found.status is ExitStatus.FOREIGN_FILE
    assert "foreign    second/x.py: no package recorded it" in found.lines()
    assert report(manifest, (OTHER,)).status is ExitStatus.RULE_BROKEN
    edited.write_bytes(CODE + CODE)
    found = report(manifest, (OTHER,))
    assert found.status is ExitStatus.FAILED
    assert found.differing == (str(edited),)
    assert any(line.startswith(f"differs    {edited}: ") for line in found.lines())
