"""``tapestry node data`` tells what a folder holds, and withdraws persons."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest

from tapestry.encoding import decode_decimal
from tapestry.errors import ConfigError, IncompleteError
from tapestry.privacy import accounting
from tapestry_node.data import withdrawal
from tapestry_node.settings import NodeSettings
from tests.scenarios.test_growing_data import GROWING, persons, withdraw
from tests.support.blocked_packages import MACHINE_LEARNING, without
from tests.support.commands import Result, tapestry
from tests.support.federation import Base
from tests.support.federation_fixtures import Found
from tests.support.refusals import refused
from tests.support.settings_files import (
    NO_ADAPTER_NOISE,
    change_settings,
    node_settings,
    write_settings,
)

DIGEST = "sha256:" + "0" * 64
PRIVATE = "canary"
WITHOUT_TORCH = (
    without(*MACHINE_LEARNING) + 'main(["node", "data", "check", sys.argv[1]])'
)


EARLY = """
import sys
from tapestry.cli import console

def note(line, said=console.note):
    said(f"{line} {'torch' in sys.modules or 'transformers' in sys.modules}")

console.note = note
from tapestry.cli import main
main(["node", "data", "check", sys.argv[1]])
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a node whose base is not at hand."""
    monkeypatch.setenv("TAPESTRY_CACHE", str(tmp_path / "cache"))
    place = tmp_path / "node"
    (place / "data").mkdir(parents=True)
    (place / "data" / "corpus.toml").write_text(
        'language = "it"\nlicence = "CC0-1.0"\nunit = "record"\n'
    )
    rows = [{"id": f"p{n // 2}", "text": f"{PRIVATE} {n}"} for n in range(80)]
    rows += [{"text": PRIVATE}, {"text": PRIVATE}]
    (place / "data" / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    known = {**node_settings(DIGEST), "name": "fr", "genesis": DIGEST}
    write_settings(place / "node.toml", known, NodeSettings)
    return place


def check(folder: Path, *more: str) -> Result:
    return tapestry("node", "data", "check", folder, *more)


def _listing(folder: Path) -> list[tuple[Path, int]]:
    return [(path, path.lstat().st_mtime_ns) for path in sorted(folder.rglob("*"))]


def test_counts_and_price_are_told_and_nothing_is_written(folder: Path) -> None:
    before = _listing(folder)
    done = check(
        folder, "--steps", "10", "--batch-size", "6", "--noise-multiplier", "1"
    )
    assert done.exit_code == 0
    assert _listing(folder) == before
    steps = accounting.Steps(noise_multiplier=1, sampling_rate=6 / 40, steps=10)
    epsilon = accounting.epsilon([steps], target_delta=1e-5)
    assert f"epsilon {epsilon:.4f} at delta 1e-05" in done.stdout
    assert "records   42\n" in done.stdout
    assert "1 records that repeat another one exactly" in done.stdout
    assert "manifest  it, CC0-1.0" in done.stdout
    assert PRIVATE not in done.stdout + done.stderr
    assert done.stderr.startswith("reading ")


def test_tokens_are_counted_where_the_base_is_at_hand(
    folder: Path, base: Base, tmp_path: Path
) -> None:
    cast("Any", base.workload).save(tmp_path / "cache" / "tiny-2")
    rows = [{"text": letter * n} for letter in "xy" for n in (15, 16, 31)]
    (folder / "data" / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    before = _listing(tmp_path)
    done = check(folder)
    assert done.exit_code == 0
    tokens = "16 to 32, median 17; in sequences of 16, 4 records cut, 0 too short"
    assert f"tokens    {tokens}\n" in done.stdout
    assert _listing(tmp_path) == before
    told = json.loads(check(folder, "--json").stdout)
    assert (told["tokens"]["cut"], told["tokens"]["measured"]) == (4, 6)
    assert told["languages"] == ["it"]
    assert told["near_duplicates"] == {"alike": 4, "measured": 6, "records": 6}


def test_without_the_base_all_else_is_told_and_why_tokens_are_not(
    folder: Path,
) -> None:
    done = check(folder)
    assert done.exit_code == 0
    assert "tokens    not counted: base 'tiny' is not in the cache yet; " in done.stdout
    assert "repeats   " in done.stdout
    assert "languages " in done.stdout
    assert done.stderr.splitlines()[1:] == [
        "counting near duplicates",
        "counting identified languages",
        "counting tokens",
    ]


def test_a_stray_file_is_one_line_and_is_left_alone(folder: Path) -> None:
    stray = folder / "data" / "notes.docx"
    stray.write_text(PRIVATE)
    before = _listing(folder)
    done = check(folder)
    assert done.exit_code == 2
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"refused   {stray}: is not .txt, .jsonl, ")
    assert "move it out of the data folder" in line
    assert line.endswith("[file-not-expected]")
    assert _listing(folder) == before
    stray.rename(folder / "notes.docx")
    assert check(folder).exit_code == 0


def test_read_only_data_without_a_manifest_are_one_line_with_the_way_out(
    folder: Path,
) -> None:
    place = folder / "data"
    text = (place / "corpus.toml").read_text()
    (place / "corpus.toml").unlink()
    place.chmod(0o555)
    before = _listing(folder)
    done = check(folder)
    assert done.exit_code == 2
    (line,) = done.stdout.splitlines()
    assert line == (
        f"refused   {place} has no corpus.toml; write one with language, licence and"
        " unit, there or where manifest in node.toml says [data-manifest-missing]"
    )
    assert _listing(folder) == before
    (folder / "corpus.toml").write_text(text)
    change_settings(folder / "node.toml", NodeSettings, {"manifest": "corpus.toml"})
    assert check(folder).exit_code == 0
    place.chmod(0o755)


def test_the_adapters_settings_are_priced_where_none_are_named(folder: Path) -> None:
    found = json.loads(check(folder, "--json").stdout)
    plan = NodeSettings.read(folder / "node.toml").adapter
    assert plan.noise == "local"
    assert found["records"] == found["census"]["records"] == 42
    assert found["languages"] == ["it"]
    assert found["price"]["steps"] == plan.steps
    assert found["price"]["sampling_rate"] == pytest.approx(plan.batch_size / 40)
    limit = decode_decimal(plan.epsilon)
    assert 0.9 * limit < found["price"]["epsilon"] <= limit


def test_counts_are_told_also_where_a_training_has_no_price(folder: Path) -> None:
    found = check(folder, "--batch-size", "1000")
    assert found.exit_code == 64
    assert "none: batch size 1000 is not between 1 and the 40 records" in found.stdout
    assert "records   42" in found.stdout
    shown = json.loads(check(folder, "--json", "--batch-size", "1000").stdout)
    assert shown["records"] == 42
    assert shown["price"] is None
    assert "batch size 1000" in shown["price_refused"]


def test_without_noise_nothing_is_priced_unless_it_is_named(folder: Path) -> None:
    change_settings(folder / "node.toml", NodeSettings, {"adapter": NO_ADAPTER_NOISE})
    assert json.loads(check(folder, "--json").stdout)["price"] is None
    assert "give --noise-multiplier" in check(folder).stdout
    priced = json.loads(check(folder, "--json", "--noise-multiplier", "2").stdout)
    assert priced["price"]["noise_multiplier"] == 2


def test_faults_are_named_by_file_and_line(folder: Path) -> None:
    (folder / "data" / "b.jsonl").write_text(f'{{"body": "{PRIVATE}"}}\n')
    (folder / "data" / "c.csv").write_text(PRIVATE)
    done = check(folder)
    assert done.exit_code == 2
    assert "b.jsonl, line 1: " in done.stdout
    assert "c.csv" in done.stdout
    assert len(json.loads(check(folder, "--json").stdout)["refused"]) == 2
    assert PRIVATE not in done.stdout + done.stderr


@pytest.mark.slow
def test_it_needs_no_machine_learning_stack(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "records   42" in done.stdout) == (0, True), done.stderr


@pytest.mark.slow
def test_the_first_lines_come_before_anything_slow_is_loaded(
    folder: Path, base: Base, tmp_path: Path
) -> None:
    cast("Any", base.workload).save(tmp_path / "cache" / "tiny-2")
    done = subprocess.run(
        [sys.executable, "-c", EARLY, str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "in sequences of" in done.stdout) == (0, True)
    lines = done.stderr.splitlines()
    assert lines[0] == f"reading {folder / 'data'} False"
    assert lines[-1] == "counting tokens False"


def test_a_withdrawal_says_what_rests_on_the_persons(found: Found) -> None:
    from click.testing import CliRunner

    from tapestry_node.cli import app

    federation = found(data=persons)
    federation.run()
    federation.approve()
    listed = federation.directory / "keys.txt"
    listed.write_text("\nperson-1\nperson-2\n\n")
    folder = str(federation.directory / "nodes" / GROWING)
    command = ["data", "withdraw", folder, "--keys", str(listed)]
    plan = CliRunner().invoke(app, [*command, "--plan"])
    assert plan.exit_code == 0, plan.output
    assert plan.stdout.splitlines()[0] == "releases   base-1"
    assert not federation.nodes[GROWING].store.reading().withdrawn
    done = CliRunner().invoke(app, command)
    lines = done.stdout.splitlines()
    assert lines[0] == "withdrawn  2 of 2; they train no more"
    assert lines[1:] == plan.stdout.splitlines()
    assert lines[3] == "retrain    from the given base: 1 rounds again"
    assert lines[4].startswith("cost       epsilon 2.4472 at delta 1e-05 once more")
    again = CliRunner().invoke(app, command)
    assert again.stdout.splitlines()[0] == "withdrawn  0 of 2; they train no more"


def test_single_records_are_taken_out_of_the_folder(found: Found) -> None:
    federation = found()
    federation.cosign()
    done = withdraw(federation, "person-0")
    assert isinstance(done.exception, ConfigError)
    assert done.exception.code == "unit-unsupported"
    assert "take the records out of the folder" in str(done.exception)


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_a_list_of_nobody_is_refused(found: Found, text: str) -> None:
    federation = found(data=persons)
    federation.cosign()
    listed = federation.directory / "keys.txt"
    listed.write_text(text)
    folder = federation.directory / "nodes" / GROWING
    with refused(ConfigError, "file-empty", match="a key in each line"):
        withdrawal.run(folder, listed, only_plan=False)


def test_a_node_that_never_ran_has_nobody_to_withdraw(
    found: Found, tmp_path: Path
) -> None:
    federation = found(data=persons)
    federation.close()
    folder = federation.directory / "nodes" / GROWING
    (folder / "node.db").unlink()
    listed = tmp_path / "keys.txt"
    listed.write_text("person-0\n")
    with refused(IncompleteError, "state-missing", match="never ran"):
        withdrawal.run(folder, listed, only_plan=True)


def test_who_waits_for_a_version_can_be_withdrawn_as_well(found: Found) -> None:
    federation = found(data=persons)
    federation.cosign()
    node = federation.directory / "nodes" / GROWING
    listed = federation.directory / "keys.txt"
    listed.write_text("person-0\nwho-waits\n")
    done = tapestry("node", "data", "withdraw", node, "--keys", listed, "--unknown")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("withdrawn  2 of 2")
    assert len(federation.nodes[GROWING].store.reading().withdrawn) == 2


def test_an_exchange_of_all_persons_is_noted(found: Found) -> None:
    federation = found(data=persons)
    node = federation.directory / "nodes" / GROWING
    done = tapestry("node", "data", "exchange", node, "--json")
    assert json.loads(done.stdout) == {"exchanged": True}
    assert federation.nodes[GROWING].store.reading().exchanged


def test_persons_are_withdrawn_whatever_is_known_of_the_log(found: Found) -> None:
    """Also by a node that has heard nothing of its federation yet."""
    federation = found(data=persons)
    done = withdraw(federation, "person-0")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["plan"]["releases"] == []
    assert len(federation.nodes[GROWING].store.reading().withdrawn) == 1
