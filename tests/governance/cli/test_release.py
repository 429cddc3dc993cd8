"""``tapestry release``: a folder is the base model that was published, or is not."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tapestry.artifacts import manifest
from tapestry_governance.audit.bundle import write_manifest
from tapestry_governance.events.round_events import RoundDisputed
from tests.support.adapter_folders import codes, make_demo, words
from tests.support.commands import Result, tapestry


def _run(*arguments: object) -> Result:
    return tapestry("release", *arguments)


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    return make_demo(tmp_path)


@pytest.fixture
def release(demo: Path) -> Path:
    return demo / "releases" / "base-2"


def test_a_release_of_the_demo_holds_without_further_options(release: Path) -> None:
    result = _run("verify", release)
    assert words(result) == {"folder": "holds", "log": "holds", "members": "holds"}
    assert result.exit_code == 0
    assert "give the one you hold" in result.stderr
    assert "approved by entry " in result.stdout


def test_a_candidate_holds_with_a_status_of_its_own(tmp_path: Path) -> None:
    demo = make_demo(tmp_path, approved=False)
    result = _run("verify", demo / "releases" / "base-2")
    assert words(result)["members"] == "PROVISIONAL"
    assert "candidate; 0 yes, 3 are needed (no vote)" in result.stdout
    assert result.exit_code == 5
    told = json.loads(_run("verify", demo / "releases" / "base-2", "--json").stdout)
    assert (told["standing"], told["exit"]) == ("candidate", 5)
    assert (told["members"]["may_be_used"], told["members"]["needed"]) == (False, 3)
    adapter = tapestry("adapter", "verify", demo / "adapters" / "fr-culture")
    assert adapter.exit_code == 5
    assert "base-2: candidate; 0 yes" in adapter.stdout
    listed = tapestry("adapter", "list", demo / "bundle")
    assert "; base-2: candidate; 0 yes, 3 are needed" in listed.stdout
    audited = tapestry("audit", "verify", demo / "bundle")
    assert audited.exit_code == 0
    assert "members      base-2      candidate; 0 yes, 3 are needed" in audited.stdout


def test_what_members_withdrew_is_told_with_their_reason(tmp_path: Path) -> None:
    demo = make_demo(tmp_path / "release", withdrawn="base-2")
    result = _run("verify", demo / "releases" / "base-2")
    assert result.exit_code == 5
    assert "withdrawn by entry " in result.stdout
    assert ": harmful, the policy refuses it; " in result.stdout
    adapter = tapestry("adapter", "verify", demo / "adapters" / "fr-culture")
    assert adapter.exit_code == 5
    assert "base-2: withdrawn by entry " in adapter.stdout
    demo = make_demo(tmp_path / "adapter", withdrawn="fr-culture")
    assert _run("verify", demo / "releases" / "base-2").exit_code == 0
    adapter = tapestry("adapter", "verify", demo / "adapters" / "fr-culture")
    assert adapter.exit_code == 5
    listed = tapestry("adapter", "list", demo / "bundle")
    assert "; fr-culture is withdrawn by entry " in listed.stdout
    assert listed.exit_code == 0


@pytest.mark.parametrize("withdrawn", ["base-2", "fr-culture"])
@pytest.mark.parametrize(("warns", "status"), [("harmful", 0), ("superseded", 5)])
def test_the_policy_says_whether_a_withdrawal_refuses_or_warns(
    tmp_path: Path, withdrawn: str, warns: str, status: int
) -> None:
    rules = {"withdrawn_warns": (warns,)}
    demo = make_demo(tmp_path, withdrawn=withdrawn, rules=rules)
    says = "the policy " + ("refuses it" if status else "only warns")
    adapter = tapestry("adapter", "verify", demo / "adapters" / "fr-culture")
    assert adapter.exit_code == status
    assert says in adapter.stdout
    listed = tapestry("adapter", "list", demo / "bundle")
    assert says in listed.stdout
    if withdrawn == "base-2":
        found = _run("verify", demo / "releases" / "base-2")
        assert (found.exit_code, says in found.stdout) == (status, True)
        traced = tapestry("audit", "trace", demo / "bundle", "base-2")
        assert (traced.exit_code, says in traced.stdout) == (status, True)


def test_what_members_dispute_of_its_rounds_is_shown(tmp_path: Path) -> None:
    attempt: dict[str, Any] = {"run_id": "run", "attempt": 1}
    disputes = [
        RoundDisputed(**attempt, round_number=1, subject="sum", chunk=3),
        RoundDisputed(**attempt, round_number=2, subject="gate", chunk=None),
    ]
    demo = make_demo(tmp_path, disputes=disputes)
    result = _run("verify", demo / "releases" / "base-2")
    assert "; DISPUTED by fr: the gate of round 2" in result.stdout
    assert "; DISPUTED by fr: the sum of round 1" in result.stdout
    assert result.exit_code == 0  # one member alone can say so
    told = json.loads(_run("verify", demo / "releases" / "base-2", "--json").stdout)
    assert told["disputes"] == [
        {"member": "fr", "subject": "gate", "round": 2},
        {"member": "fr", "subject": "sum", "round": 1},
    ]
    audit = tapestry("audit", "verify", demo / "bundle")
    assert "2 disputes of them, by fr" in audit.stdout


def test_a_given_trust_policy_is_used(demo: Path, release: Path) -> None:
    policy = demo / "bundle" / "trust-policy.txt"
    assert _run("verify", release, "--trust", policy).exit_code == 0
    (demo / "empty").touch()
    result = _run("verify", release, "--trust", demo / "empty")
    assert result.exit_code == 1


@pytest.mark.parametrize(
    ("place", "code"), [(100, "tensor-entry-invalid"), (-1, "manifest-file-changed")]
)
def test_one_byte_of_the_weights_fails(release: Path, place: int, code: str) -> None:
    path = release / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(bytes(content))
    result = _run("verify", release)
    assert words(result) == {"folder": "FAILS"}
    assert "model.safetensors" in result.stdout
    assert result.exit_code == 1
    assert codes(_run("verify", release, "--json")) == {"folder": code}


def test_another_model_with_a_manifest_of_its_own_fails(release: Path) -> None:
    (release / "config.json").write_text("{}")
    manifest.write(release)
    result = _run("verify", release)
    assert words(result) == {"folder": "holds", "log": "FAILS"}
    assert result.exit_code == 1
    assert codes(_run("verify", release, "--json"))["log"] == "manifest-differs"


def test_without_a_log_there_is_no_verdict(demo: Path, release: Path) -> None:
    shutil.move(demo / "bundle", demo / "elsewhere")
    result = _run("verify", release)
    assert words(result) == {"folder": "holds", "log": "not checked"}
    assert result.exit_code == 3
    assert codes(_run("verify", release, "--json"))["log"] == "bundle-missing"
    assert _run("verify", release, "--bundle", demo / "elsewhere").exit_code == 0


def test_a_base_without_a_manifest_has_no_verdict(release: Path) -> None:
    shutil.rmtree(release / manifest.FOLDER)
    result = _run("verify", release)
    assert words(result) == {"folder": "INCOMPLETE"}
    assert result.exit_code == 3
    assert codes(_run("verify", release, "--json")) == {"folder": "manifest-missing"}


def test_a_release_that_the_log_does_not_know_has_no_verdict(release: Path) -> None:
    other = release.with_name("base-9")
    shutil.move(release, other)
    assert _run("verify", other).exit_code == 0  # known by its files
    (other / "NOTICE.txt").write_text("mine")
    manifest.write(other)
    result = _run("verify", other)
    assert "no release base-9" in result.stdout
    assert result.exit_code == 3
    assert codes(_run("verify", other, "--json"))["log"] == "name-not-published"


def test_machines_read_the_same_verdict(release: Path) -> None:
    report = json.loads(_run("verify", release, "--json").stdout)
    assert [step["holds"] for step in report["steps"]] == [True, True, True]
    assert report["exit"] == 0


@pytest.mark.parametrize(
    "words", [["verify", "nosuch"], ["verify"], ["check"], [], ["--nosuch"]]
)
def test_wrong_usage_exits_with_64(words: list[str]) -> None:
    assert _run(*words).exit_code == 64


def test_each_institutions_epsilons_are_composed_from_the_log(release: Path) -> None:
    """Of what led to the release, and of all: fr has also an adapter's account."""
    result = _run("verify", release)
    said = [line.strip() for line in result.stdout.splitlines() if line[0] == " "]
    assert said[0] == (
        "privacy de: epsilon 2.4681 at delta 0.00001;"
        " in the whole log epsilon 2.5000 at delta 0.00001"  # as it reported
    )
    assert len(said) == 4
    rows = json.loads(_run("verify", release, "--json").stdout)["privacy"]
    assert [row["node"] for row in rows] == ["de", "es", "fr", "id"]
    french = rows[2]
    assert french["epsilon"] == pytest.approx(2.4681, abs=1e-3)
    assert french["total_epsilon"] > french["epsilon"] + 0.3
    assert french["target_delta"] == french["total_target_delta"] == "0.00001"
    assert french["epsilon_fallback"] is None


def test_a_release_without_a_log_that_holds_states_no_epsilon(
    demo: Path, release: Path
) -> None:
    shutil.move(demo / "bundle", demo / "elsewhere")
    result = _run("verify", release)
    assert "no statement without a log that holds" in result.stdout
    assert "--bundle" in result.stdout.splitlines()[-1]
    assert json.loads(_run("verify", release, "--json").stdout)["privacy"] is None
    (demo / "elsewhere" / "checkpoint").write_bytes(b"")
    told = _run("verify", release, "--bundle", demo / "elsewhere", "--json")
    assert json.loads(told.stdout)["privacy"] is None


def _with_artifacts(demo: Path, faulty: str, file: str) -> Path:
    """Put release and adapter into the bundle, and spoil a file of one of them."""
    bundle = demo / "bundle"
    for folder in (demo / "releases" / "base-2", demo / "adapters" / "fr-culture"):
        shutil.copytree(folder, bundle / "artifacts" / folder.name)
    (bundle / "artifacts" / faulty / file).write_bytes(b"x")
    write_manifest(bundle)
    return bundle


@pytest.mark.parametrize(
    ("faulty", "file", "status"),
    [
        ("fr-culture", "tapestry/published.entry", 1),
        ("fr-culture", "notes.txt", 4),
        ("base-2", "tapestry/release.tlog-proof", 1),
        ("base-2", "tapestry/more.json", 4),
    ],
)
def test_a_faulty_artifact_in_a_bundle_is_no_fault_of_another(
    demo: Path, faulty: str, file: str, status: int
) -> None:
    """The whole bundle does not hold; what is verified beside it does."""
    bundle = _with_artifacts(demo, faulty, file)
    told = json.loads(tapestry("audit", "verify", bundle, "--json").stdout)
    assert (told["exit"], list(told["faulty_artifacts"])) == (status, [faulty])
    assert [step["holds"] for step in told["steps"]] == [True] * 10 + [False]
    adapter = demo / "adapters" / "fr-culture"
    for command, name in (
        (("release", "verify", demo / "releases" / "base-2"), "base-2"),
        (("adapter", "verify", adapter), "fr-culture"),
    ):
        result = tapestry(*command, "--bundle", bundle)
        assert result.exit_code == (status if name == faulty else 0), result.stdout
        assert faulty in result.stdout
    for name in ("base-2", "fr-culture"):
        result = tapestry("audit", "statement", bundle, name)
        assert result.exit_code == (status if name == faulty else 0)
        assert faulty in result.stdout + result.stderr
    listed = tapestry("adapter", "list", bundle)
    assert (listed.exit_code, listed.stdout.split()[0]) == (status, "fr-culture")
    assert f"{faulty} is faulty" in listed.stderr
