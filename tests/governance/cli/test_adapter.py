"""``tapestry adapter``: a line and a code for each check, and the exit status."""

import json
import shutil
from pathlib import Path

import pytest

from tapestry.artifacts import manifest
from tapestry.tlog.trust_policy import TrustPolicy
from tests.support.adapter_folders import (
    codes,
    make_adapter,
    make_base,
    make_demo,
    make_metadata,
    words,
)
from tests.support.commands import Result, tapestry
from tests.support.log_world import NAMES, World

STEPS = ("folder", "base", "log", "members")


def _run(*arguments: object) -> Result:
    return tapestry("adapter", *arguments)


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    return make_demo(tmp_path)


def test_a_base_with_a_file_outside_its_manifest_is_refused(demo: Path) -> None:
    """The digest of the parameters is the same; what the model does is not."""
    (demo / "releases" / "base-2" / "config.json").write_text('{"rms_norm_eps": 5.0}')
    result = _run("verify", demo / "adapters" / "fr-culture")
    assert words(result)["base"] == "FOREIGN FILE"
    assert "config.json" in result.stdout
    assert result.exit_code == 4
    told = _run("verify", demo / "adapters" / "fr-culture", "--json")
    assert codes(told)["base"] == "foreign-file"
    assert json.loads(told.stdout)["foreign_files"] == ["config.json"]


def test_a_base_without_a_manifest_has_no_verdict(demo: Path) -> None:
    shutil.rmtree(demo / "releases" / "base-2" / manifest.FOLDER)
    result = _run("verify", demo / "adapters" / "fr-culture")
    assert words(result)["base"] == "INCOMPLETE"
    assert result.exit_code == 3
    told = _run("verify", demo / "adapters" / "fr-culture", "--json")
    assert codes(told)["base"] == "manifest-missing"


def test_a_base_with_another_manifest_is_compared_with_the_log(demo: Path) -> None:
    base = demo / "releases" / "base-2"
    (base / "README.md").write_text("# Another card\n")
    manifest.write(base)
    result = _run("verify", demo / "adapters" / "fr-culture")
    assert words(result) == {"folder": "holds", "base": "holds", "log": "FAILS"}
    assert result.exit_code == 1
    told = _run("verify", demo / "adapters" / "fr-culture", "--json")
    assert codes(told) == {"folder": None, "base": None, "log": "manifest-differs"}


def test_a_base_with_another_setting_is_another_base(demo: Path) -> None:
    base = demo / "releases" / "base-2"
    (base / "config.json").write_text('{"rms_norm_eps": 5.0}')
    manifest.write(base)
    told = _run("verify", demo / "adapters" / "fr-culture", "--json")
    assert codes(told) == {
        "folder": None,
        "base": "base-differs",
        "log": None,
        "members": None,
    }
    assert told.exit_code == 1


def test_an_adapter_of_the_demo_holds_without_further_options(demo: Path) -> None:
    result = _run("verify", demo / "adapters" / "fr-culture")
    assert words(result) == dict.fromkeys(STEPS, "holds")
    assert result.exit_code == 0


def test_the_report_for_machines_says_the_same(demo: Path) -> None:
    result = _run("verify", demo / "adapters" / "fr-culture", "--json")
    report = json.loads(result.stdout)
    assert [step["holds"] for step in report["steps"]] == [True] * len(STEPS)
    assert codes(result) == dict.fromkeys(STEPS)
    assert report["exit"] == result.exit_code == 0
    assert report["base"] == "base-2"


def test_a_tampered_file_fails(demo: Path) -> None:
    folder = demo / "adapters" / "fr-culture"
    (folder / "README.md").write_text("# better\n")
    result = _run("verify", folder)
    assert words(result) == {"folder": "FAILS"}
    assert "README.md" in result.stdout
    assert result.exit_code == 1
    assert codes(_run("verify", folder, "--json")) == {
        "folder": "manifest-file-changed"
    }


def test_a_tampered_file_under_a_new_manifest_fails_against_the_log(
    demo: Path,
) -> None:
    folder = demo / "adapters" / "fr-culture"
    (folder / "README.md").write_text("# better\n")
    manifest.write(folder)
    result = _run("verify", folder)
    assert words(result) == {"folder": "holds", "base": "holds", "log": "FAILS"}
    assert result.exit_code == 1
    told = codes(_run("verify", folder, "--json"))
    assert told["log"] == "adapter-entry-differs"


def test_an_adapter_alone_gets_no_verdict(demo: Path, tmp_path: Path) -> None:
    alone = tmp_path / "elsewhere" / "deep" / "fr-culture"
    shutil.copytree(demo / "adapters" / "fr-culture", alone)
    result = _run("verify", alone)
    assert words(result)["log"] == "not checked"
    assert "--base" in result.stdout
    assert result.exit_code == 3
    assert codes(_run("verify", alone, "--json"))["base"] == "base-missing"
    given = _run("verify", alone, "--base", demo / "releases" / "base-2")
    assert words(given) == {"folder": "holds", "base": "holds", "log": "not checked"}
    assert "--bundle" in given.stdout
    assert given.exit_code == 3
    told = _run("verify", alone, "--base", demo / "releases" / "base-2", "--json")
    assert codes(told) == {"folder": None, "base": None, "log": "bundle-missing"}
    report = json.loads(told.stdout)
    assert [step["holds"] for step in report["steps"]] == [True, True, None]
    assert report["exit"] == 3
    both = _run(
        "verify", alone, "--base", demo / "releases" / "base-2",
        "--bundle", demo / "bundle",
    )  # fmt: skip
    assert words(both) == dict.fromkeys(STEPS, "holds")


NOTE = "note: trusted was the bundle's own trust-policy.txt"


def test_without_a_trust_file_a_note_names_the_trusted_policy(
    demo: Path,
) -> None:
    adapter, own = demo / "adapters" / "fr-culture", demo / "own-policy.txt"
    own.write_bytes(World().trust.encode())
    for arguments in (["verify", adapter], ["list", demo / "bundle"]):
        bare, given = _run(*arguments), _run(*arguments, "--trust", own)
        assert (bare.exit_code, given.exit_code) == (0, 0)
        assert NOTE in bare.stderr
        assert given.stderr == ""
        assert bare.stdout == given.stdout
        assert NOTE in _run(*arguments, "--json").stderr


def test_a_bundle_that_other_witnesses_cosigned_is_not_trusted(demo: Path) -> None:
    """The maker of a bundle also makes its trust-policy.txt."""
    stranger = World()
    stranger.log_key = stranger.keys["de", "node"]
    trust = TrustPolicy.of_members(
        stranger.log_key.verify_key,
        [stranger.keys[name, "witness"].verify_key for name in NAMES],
    )
    own = demo / "own-policy.txt"
    own.write_bytes(trust.encode())
    result = _run("verify", demo / "adapters" / "fr-culture", "--trust", own)
    assert words(result) == {"folder": "holds", "base": "holds", "log": "FAILS"}
    assert result.exit_code == 1
    listed = _run("list", demo / "bundle", "--trust", own)
    assert (listed.exit_code, listed.stdout) == (1, "")


def test_a_trust_file_that_is_not_there_is_wrong_usage(demo: Path) -> None:
    for arguments in (
        ["verify", demo / "adapters" / "fr-culture"],
        ["list", demo / "bundle"],
    ):
        result = _run(*arguments, "--trust", demo / "nowhere")
        assert result.exit_code == 64
        assert "nowhere" in result.stderr


def test_a_failed_check_decides_over_a_missing_bundle(
    demo: Path, tmp_path: Path
) -> None:
    other = make_base(tmp_path / "other", scale=2.0)
    shutil.rmtree(demo / "bundle")
    result = _run("verify", demo / "adapters" / "fr-culture", "--base", other)
    assert words(result)["base"] == "FAILS"
    assert words(result)["log"] == "not checked"
    assert result.exit_code == 1


@pytest.mark.parametrize("command", ["verify", "list"])
def test_the_help_says_what_the_exit_status_means(command: str) -> None:
    text = " ".join(_run(command, "--help").stdout.split())
    assert "--trust" in text
    for status in ("0", "1", "2", "3", "4", "64"):
        assert f" {status} " in text


def test_another_base_fails(demo: Path, tmp_path: Path) -> None:
    other = make_base(tmp_path / "other", scale=2.0)
    result = _run("verify", demo / "adapters" / "fr-culture", "--base", other)
    assert words(result)["base"] == "FAILS"
    assert result.exit_code == 1
    told = _run("verify", demo / "adapters" / "fr-culture", "--base", other, "--json")
    assert codes(told)["base"] == "base-differs"


def test_a_bundle_that_does_not_verify_proves_nothing(demo: Path) -> None:
    path = demo / "bundle" / "checkpoint"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\n ", 1))
    result = _run("verify", demo / "adapters" / "fr-culture")
    assert words(result)["log"] == "FAILS"
    assert result.exit_code == 1
    listed = _run("list", demo / "bundle")
    assert (listed.exit_code, listed.stdout) == (1, "")


def test_an_adapter_the_log_does_not_know_gets_no_verdict(demo: Path) -> None:
    unknown = make_adapter(
        demo / "adapters" / "unknown",
        metadata=make_metadata(base="base-2"),
        config_changes={"base_model_name_or_path": "base-2"},
        card="# unknown\n",
    )
    result = _run("verify", unknown)
    assert "no adapter unknown" in result.stdout
    assert result.exit_code == 3
    assert codes(_run("verify", unknown, "--json"))["log"] == "name-not-published"


def test_a_folder_that_is_none_is_wrong_usage(tmp_path: Path) -> None:
    result = _run("verify", tmp_path / "nowhere")
    assert result.exit_code == 64
    assert "nowhere" in result.stderr


def test_the_list_names_what_was_published(demo: Path) -> None:
    result = _run("list", demo / "bundle")
    assert result.exit_code == 0
    line, _, standing = result.stdout.partition("; ")
    assert line == (
        "fr-culture 1  by fr  France  fr  CC-BY-4.0  on base-2"
        "  epsilon 2.9 at delta 0.00001"
    )
    assert standing.startswith("base-2: approved by entry ")
    assert standing.endswith("; 3 yes, 3 are needed (de yes, es yes, fr yes)\n")
    rows = json.loads(_run("list", demo / "bundle", "--json").stdout)["adapters"]
    assert [(row["name"], row["publisher"]) for row in rows] == [("fr-culture", "fr")]


def test_an_adapter_states_its_own_and_its_institutions_epsilon(demo: Path) -> None:
    folder = demo / "adapters" / "fr-culture"
    result = _run("verify", folder)
    last = result.stdout.splitlines()[-1].split()
    assert last[:3] == ["privacy", "fr:", "epsilon"]
    (row,) = json.loads(_run("verify", folder, "--json").stdout)["privacy"]
    assert row["node"] == "fr"
    assert 2.8 < row["epsilon"] < 2.9  # two rounds and the adapter
    assert row["total_epsilon"] == 2.9  # as it reported, a little above
    shutil.rmtree(demo / "bundle")
    alone = _run("verify", folder)
    assert "no statement without a log that holds" in alone.stdout
    assert json.loads(_run("verify", folder, "--json").stdout)["privacy"] is None
