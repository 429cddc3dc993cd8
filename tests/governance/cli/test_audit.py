import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name

import pytest

from tapestry.software_digest import software_digest
from tapestry_governance.events.round_events import RoundOpened
from tests.support.audit_bundles import bundle_of
from tests.support.blocked_packages import MACHINE_LEARNING, without
from tests.support.commands import Result, tapestry
from tests.support.log_world import World, fake_digest, renamed

_AUDIT = "tapestry_governance.audit"
_STEPS = {  # a function that each step calls, and the calls of steps before
    "files": ("verify.open_bundle", 0),
    "trust": ("verify.TrustPolicy.parse", 0),
    "signatures": ("turn_audit.Times.of", 0),
    "log": ("verify.tiles.verify", 0),
    "since": ("verify.TrustPolicy.open_pending", 1),
    "charter": ("verify.apply_signed", 0),
    "events": ("verify.apply_signed", 1),
    "privacy": ("privacy_accounts.check", 0),
    "artifacts": ("verify.check_artifacts", 0),
    "blobs": ("verify.digest_file", 0),
    "sums": ("verify.check_sums", 0),
}
_WITHOUT = (
    without(*MACHINE_LEARNING, "safetensors")
    + """
for command in ("verify", "account"):
    try:
        main(["audit", command, sys.argv[1]])
    except SystemExit as error:
        if error.code:
            raise
"""
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle_of(World().grow(), tmp_path_factory.mktemp("bundle")).folder


def run(*words: object) -> Result:
    return tapestry("audit", *words)


def test_a_bundle_that_holds_exits_with_zero_and_says_why(bundle: Path) -> None:
    result = run("verify", bundle, "--trust", bundle / "trust-policy.txt")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["holds", "files", "7", "files,", "each", "as", "listed"]
    assert lines[-1].startswith("HOLDS: 11 steps, every one holds; 4 parts were not")
    assert [line.split()[:3] for line in lines if "not checked  " in line] == [
        ["not", "checked", number] for number in ("4", "3", "2", "2")
    ]
    assert result.stderr == ""


@pytest.mark.parametrize("step", _STEPS)
@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (KeyError("secret"), 70, "internal"),
        (UnicodeDecodeError("utf-8", b"secret", 0, 1, "bad"), 70, "internal"),
        (MemoryError("secret"), 3, "machine-exhausted"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_unforeseen_error_is_no_verdict_and_names_its_step(
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    error: Exception,
    status: int,
    code: str,
) -> None:
    name, before = _STEPS[step]
    plain: Callable[..., object] = resolve_name(f"{_AUDIT}.{name}")
    calls: list[int] = []

    def fails(*arguments: object, **named: object) -> object:
        calls.append(1)
        if len(calls) > before:
            raise error
        return plain(*arguments, **named)

    monkeypatch.delenv("TAPESTRY_TRACEBACK", raising=False)
    monkeypatch.setattr(f"{_AUDIT}.{name}", fails)
    since = ("--since", bundle / "checkpoint")
    result = run("verify", bundle, *since)
    assert result.exit_code == status
    told = result.stdout + result.stderr
    assert f"step {step}" in told
    assert type(error).__name__ in told
    assert "secret" not in told
    assert "HOLDS:" not in told
    calls.clear()
    report = json.loads(run("verify", bundle, *since, "--json").stdout)
    assert report.get("error", report)["code"] == code


def test_an_empty_policy_trusts_nobody(bundle: Path, tmp_path: Path) -> None:
    """A download that broke off must not fall back to what the bundle says."""
    empty = tmp_path / "trust-policy.txt"
    empty.touch()
    result = run("verify", bundle, "--trust", empty)
    assert result.exit_code == 1
    assert result.stdout.splitlines()[1].split()[:2] == ["FAILS", "trust"]
    told = run("verify", bundle, "--trust", empty, "--json")
    assert json.loads(told.stdout)["code"] == "trust-policy-malformed"


def test_a_note_says_that_the_bundles_own_policy_was_trusted(bundle: Path) -> None:
    assert "give the one you hold" in run("verify", bundle).stderr


def test_the_json_report_has_the_same_verdict(bundle: Path) -> None:
    result = run("verify", bundle, "--since", bundle / "checkpoint", "--json")
    report = json.loads(result.stdout)
    assert (report["verdict"], report["exit"], report["reason"]) == ("holds", 0, None)
    assert report["code"] is None
    assert {step["code"] for step in report["steps"]} == {None}
    names = [step["name"] for step in report["steps"]]
    assert names == [
        "files", "trust", "signatures", "log", "charter", "events", "since", "age",
        "privacy", "blobs", "sums", "artifacts",
    ]  # fmt: skip
    assert all(step["holds"] and step["code"] is None for step in report["steps"])


def test_epsilon_is_recomputed_per_node_and_block(bundle: Path) -> None:
    result = run("account", bundle)
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 4
    accounts = json.loads(run("account", bundle, "--json").stdout)["accounts"]
    rows = {(row["node"], row["block"]): row for row in accounts}
    assert set(rows) == {("de", 1), ("es", 1), ("fr", 1), ("id", 1)}
    assert (rows["de", 1]["rounds"], rows["de", 1]["adapters"]) == (2, 0)
    assert rows["de", 1]["epsilon_reported"] == 2.5
    assert 2.4 < rows["de", 1]["epsilon_recomputed"] < 2.5
    together = rows["fr", 1]
    assert (together["rounds"], together["adapters"]) == (2, 1)
    assert together["epsilon_recomputed"] > rows["de", 1]["epsilon_recomputed"]
    assert together["epsilon_recomputed"] <= together["epsilon_reported"]


def test_each_kind_of_failure_has_its_exit_status(tmp_path: Path) -> None:
    broken = World().grow()
    bad = renamed(broken.manifest(3), policy_digest=fake_digest("lax"))
    broken.entries.append(broken.entry(RoundOpened(manifest=bad)))
    rule = bundle_of(broken, tmp_path / "rule").folder
    missing = bundle_of(World().found(), tmp_path / "missing").folder
    (missing / "checkpoint").unlink()
    forged = bundle_of(World().found(), tmp_path / "forged").folder
    (forged / "genesis.sha256").write_text("sha256:0\n")
    for folder, status, word, code in (
        (forged, 1, "FAILS", "manifest-file-changed"),
        (rule, 2, "RULE BROKEN", "policy-differs"),
        (missing, 3, "INCOMPLETE", "file-missing"),
    ):
        for command in ("verify", "account"):
            result = run(command, folder)
            assert result.exit_code == status
            assert result.stdout.splitlines()[-1].startswith(f"{word}: ")
        report = json.loads(run("verify", folder, "--json").stdout)
        assert report["exit"] == status
        assert not report["steps"][-1]["holds"]
        assert report["code"] == report["steps"][-1]["code"] == code


def test_a_release_states_its_promise(bundle: Path) -> None:
    page = run("statement", bundle, "base-2")
    assert page.exit_code == 0
    assert page.stdout.startswith("# Privacy of base-2\n")
    report = json.loads(run("statement", bundle, "fr-culture", "--json").stdout)
    assert report["kind"] == "adapter"
    assert run("statement", bundle, "base-9").exit_code == 3


def test_wrong_usage_is_told_from_a_broken_rule(bundle: Path, tmp_path: Path) -> None:
    for words in (
        ("verify",),
        ("verify", bundle, "--lax"),
        ("verify", tmp_path / "nothing"),
        ("verify", bundle, "--trust", tmp_path / "nothing"),
        ("check", bundle),
    ):
        result = run(*words)
        assert result.exit_code == 64
        assert len(result.stderr.splitlines()) == 1
    assert "BUNDLE is missing" in run("verify").stderr


@pytest.mark.slow
def test_an_audit_needs_no_machine_learning(bundle: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT, str(bundle)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "HOLDS: 11 steps" in done.stdout
    assert "recomputed" in done.stdout


def test_a_statement_that_cannot_be_made_is_json_where_json_was_asked(
    bundle: Path, tmp_path: Path
) -> None:
    trust = tmp_path / "trust-policy.txt"
    trust.write_text("garbage\n")
    result = run("statement", bundle, "base-2", "--trust", trust, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["exit"] == 1


def test_the_software_here_is_compared_with_the_policy_of_a_log(
    bundle: Path, tmp_path: Path
) -> None:
    alone = run("software")
    assert alone.exit_code == 0
    assert alone.stdout.startswith(f"digest     {software_digest()}\n")
    assert "\npackage    torch " in alone.stdout
    assert run("software", "--policy", bundle).stdout.endswith("this software\n")
    made = bundle
    cases = {"this": (software_digest(),), "other": (fake_digest("other"),)}
    made = tmp_path
    for name, status in (("this", 0), ("other", 2)):
        world = World(rules={"software": cases[name]}).found()
        made = bundle_of(world, tmp_path / name).folder
        done = run("software", "--policy", made, "--json")
        assert done.exit_code == status, name
        assert json.loads(done.stdout)["policy"] == list(cases[name])
        assert json.loads(done.stdout)["allowed"] is (status == 0)
    (made / "genesis.sha256").write_text("sha256:0\n")
    for more, word in (([], "FAILS"), (["--json"], '"fails"')):
        done = run("software", "--policy", made, *more)
        assert done.exit_code == 1
        assert word in done.stdout
        assert software_digest() not in done.stdout
