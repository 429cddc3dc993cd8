"""Checks of a folder: each step has its status and code, and the worst decides."""

import json
from pathlib import Path
from typing import Any

import pytest

from tapestry.cli.exit_status import ExitStatus
from tapestry.errors import (
    ConfigError,
    ForeignFileError,
    IncompleteError,
    RuleError,
    TapestryError,
    VerificationError,
)
from tapestry_governance.audit.verify import Audit
from tapestry_governance.cli.folder_checks import (
    CheckStep,
    audited,
    check_log,
    conclude,
    find,
    run,
)
from tapestry_governance.events.model_events import ReleasePublished
from tapestry_governance.events.round_events import RoundOpened
from tests.support.audit_bundles import bundle_of, released
from tests.support.log_world import World, fake_digest, renamed
from tests.support.refusals import refused

HOLDS = CheckStep(name="log", status=ExitStatus.HOLDS, detail="as published")


def _failing(error: TapestryError) -> CheckStep:
    def check() -> None:
        raise error

    steps: list[CheckStep] = []
    assert run(steps, "folder", check, str) is None
    (step,) = steps
    return step


def test_a_check_that_holds_returns_its_value_and_appends_its_description() -> None:
    steps: list[CheckStep] = []
    assert run(steps, "folder", lambda: 7, lambda value: f"{value} files") == 7
    (step,) = steps
    assert step.to_json() == {
        "name": "folder",
        "holds": True,
        "detail": "7 files",
        "code": None,
    }
    assert str(step).split() == ["holds", "folder", "7", "files"]


@pytest.mark.parametrize(
    ("error", "status", "word"),
    [
        (VerificationError("v", code="a-rule"), ExitStatus.FAILED, "FAILS"),
        (RuleError("r", code="a-rule"), ExitStatus.RULE_BROKEN, "RULE BROKEN"),
        (IncompleteError("i", code="a-rule"), ExitStatus.INCOMPLETE, "INCOMPLETE"),
        (
            ForeignFileError("f", ["x.py"], code="a-rule"),
            ExitStatus.FOREIGN_FILE,
            "FOREIGN FILE",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_check_that_fails_carries_status_and_code_of_its_error(
    error: TapestryError, status: ExitStatus, word: str
) -> None:
    step = _failing(error)
    assert (step.status, step.code) == (status, "a-rule")
    assert step.to_json()["holds"] is False
    assert step.to_json()["code"] == "a-rule"
    assert str(step).startswith(word)
    assert step.foreign == getattr(error, "files", ())


def test_a_wrong_argument_is_no_step_but_ends_the_command() -> None:
    with refused(ConfigError, "folder-missing"):
        _failing(ConfigError("no folder x", code="folder-missing"))


def test_the_worst_step_is_the_verdict_of_the_report(
    capsys: pytest.CaptureFixture[str],
) -> None:
    foreign = _failing(ForeignFileError("f", ["x.py"], code="foreign-file"))
    steps = [HOLDS, foreign]
    found = conclude(
        steps, {"release": "base-1"}, privacy=None, trust=b"", as_json=True
    )
    assert found is ExitStatus.FOREIGN_FILE
    report = json.loads(capsys.readouterr().out)
    assert report["release"] == "base-1"
    assert [step["code"] for step in report["steps"]] == [None, "foreign-file"]
    assert (report["foreign_files"], report["exit"]) == (["x.py"], 4)
    assert (
        conclude([HOLDS], {}, privacy=None, trust=b"", as_json=False)
        is ExitStatus.HOLDS
    )
    assert capsys.readouterr().out.split()[:2] == ["holds", "log"]


FOLDER = CheckStep(name="folder", status=ExitStatus.HOLDS, detail="")
BROKEN = CheckStep(name="log", status=ExitStatus.FAILED, detail="", code="x")


@pytest.mark.parametrize(
    ("steps", "trust", "noted"),
    [
        ([FOLDER, HOLDS], None, True),
        ([FOLDER, HOLDS], b"policy", False),
        ([FOLDER, BROKEN], None, False),
        ([FOLDER], None, False),
    ],
    ids=["own", "given", "broken", "no-log"],
)
def test_a_log_that_holds_by_the_bundles_own_policy_is_noted(
    steps: list[CheckStep],
    trust: bytes | None,
    noted: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    conclude(steps, {}, privacy=None, trust=trust, as_json=False)
    assert ("own trust-policy.txt" in capsys.readouterr().err) is noted


def test_an_entry_is_found_by_its_files_before_its_name() -> None:
    world = World()
    first, second = (
        world.adapter(2).model_copy(update={"manifest_digest": fake_digest(each)})
        for each in ("first", "second")
    )
    entries = {"fr": first, "it": second}

    def named(name: str, digest: str) -> Any:
        digest = fake_digest(digest)
        return find(entries, kind="adapter", name=name, manifest_digest=digest)

    assert named("fr", "second") is second
    assert named("fr", "other") is first
    with refused(IncompleteError, "name-not-published", match="adapter es"):
        named("es", "other")


def _unasked(_: Audit) -> ReleasePublished:
    raise AssertionError("there is no log to ask")


def test_without_a_bundle_at_hand_the_log_is_not_checked(tmp_path: Path) -> None:
    steps: list[CheckStep] = []
    folder = tmp_path / "adapters" / "fr"
    check_log(steps, folder, _unasked, str, bundle=None, trust=None)
    (step,) = steps
    assert step.to_json()["holds"] is None
    assert (step.status, step.code) == (ExitStatus.INCOMPLETE, "bundle-missing")
    assert str(step).startswith("not checked")


def test_the_bundle_beside_a_folder_is_verified_and_passed_to_the_check(
    tmp_path: Path,
) -> None:
    world, base = released(tmp_path / "releases")
    bundle = bundle_of(world, tmp_path).folder
    seen: list[Audit] = []
    steps: list[CheckStep] = []

    def check(audit: Audit) -> ReleasePublished:
        seen.append(audit)
        return audit.state.releases["base-2"]

    for given in (None, bundle):
        trust = world.trust.encode()
        check_log(steps, base, check, lambda e: e.name, bundle=given, trust=trust)
    assert [audit.state.size for audit in seen] == [len(world.entries)] * 2
    assert [str(step).split() for step in steps] == [["holds", "log", "base-2"]] * 2


@pytest.mark.parametrize(
    "name", ["release.entry", "release.tlog-proof", "trust-policy.txt", "more.json"]
)
def test_a_file_beside_the_manifest_is_compared_with_the_log(
    tmp_path: Path, name: str
) -> None:
    world, base = released(tmp_path / "releases")
    bundle_of(world, tmp_path)
    (base / "tapestry" / name).write_bytes(b"{}")
    steps: list[CheckStep] = []
    check_log(
        steps,
        base,
        lambda audit: audit.state.releases["base-2"],
        lambda entry: entry.name,
        bundle=None,
        trust=world.trust.encode(),
    )
    assert steps[0].status is not ExitStatus.HOLDS
    assert steps[0].code


def _broken_rule(world: World) -> None:
    bad = renamed(world.manifest(), policy_digest=fake_digest("lax"))
    world.entries.append(world.entry(RoundOpened(manifest=bad)))


def test_a_bundle_that_does_not_verify_is_an_error_with_the_code_of_its_step(
    tmp_path: Path,
) -> None:
    world = World().found()
    whole = bundle_of(world, tmp_path / "whole").folder
    assert audited(whole, trust=None).steps[-1].code is None
    (whole / "extra.txt").write_text("")
    with refused(ForeignFileError, "foreign-file", match="extra") as caught:
        audited(whole, trust=None)
    assert caught.value.files == ("extra.txt",)
    (whole / "extra.txt").unlink()
    (whole / "checkpoint").unlink()
    with pytest.raises(IncompleteError) as missing:
        audited(whole, trust=None)
    _broken_rule(world)
    broken = bundle_of(world, tmp_path / "broken").folder
    with refused(RuleError, "policy-differs", match="does not verify"):
        audited(broken, trust=None)
    other = World()
    other.log_key = other.keys["fr", "node"]
    with pytest.raises(VerificationError) as failed:
        audited(broken, trust=other.trust.encode())
    codes = {missing.value.code, failed.value.code}
    assert "" not in codes
    assert len(codes) == 2
