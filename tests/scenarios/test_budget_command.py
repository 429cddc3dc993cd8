"""``tapestry node budget``: what an operator reads, and what a machine reads."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tapestry import cli
from tapestry.encoding import decode_decimal
from tapestry.errors import ConfigError
from tapestry_node.budget.ledger import Ledger
from tapestry_node.node import Node
from tapestry_node.settings import NodeSettings
from tests.node.budget.test_ledger import charge, shared
from tests.support.federation import NAMES, Base, Federation
from tests.support.refusals import refused

SHARED: dict[str, Any] = {"policy": {"noise": ["local", "shared"]}}


@pytest.fixture
def folder(tmp_path: Path, base: Base) -> Path:
    federation = Federation(tmp_path / "federation", base, institution=SHARED)
    federation.close()
    return federation.directory / "nodes" / NAMES[0]


def spend(folder: Path, *charges: Any) -> Ledger:
    policy = NodeSettings.read(folder / "node.toml").policy
    ledger = Ledger.look(
        folder / "budget.db",
        epsilon=decode_decimal(policy.epsilon_limit),
        fallback_epsilon=decode_decimal(policy.fallback_epsilon_limit),
    )
    for each in charges:
        ledger.reserve(each)
        ledger.spend(each)
    return ledger


def run(*arguments: str) -> Any:
    with pytest.raises(SystemExit) as done:
        cli.main(["node", "budget", *arguments])
    return done.value.code or 0


@pytest.mark.slow
def test_the_table_names_every_charge_and_what_is_left(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = spend(folder, charge(1), charge(2))
    ledger.reserve(charge(3))
    assert run(str(folder)) == 0
    said = capsys.readouterr().out
    for line in ("round 1 of 'run-1'", "round 2 of 'run-1'", "round 3 of 'run-1'"):
        assert line in said
    assert said.count(" spent ") == 2 + 1  # two charges, and the line that sums up
    assert "reserved" in said
    assert "unit record, adjacency add-remove" in said
    spent = ledger.balance().spent
    assert f"epsilon {spent:.4f} of 20 is spent at delta 1e-05" in said
    left = ledger.rounds_left(charge(3))
    assert f"{left} more like round 3 of 'run-1' fit" in said
    assert "takes their noise out" not in said


@pytest.mark.slow
def test_what_is_left_is_told_in_rounds(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = replace(charge(1, run="fr-culture"), purpose="adapter")
    spend(folder, charge(1), adapter)
    assert run(str(folder)) == 0
    said = capsys.readouterr().out
    assert "adapter 1 of 'fr-culture'" in said
    assert said.splitlines()[-1].endswith(" more like round 1 of 'run-1' fit")


@pytest.mark.slow
def test_shared_noise_shows_the_fallback_as_well(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    balance = spend(folder, shared(1)).balance()
    assert run(str(folder)) == 0
    said = capsys.readouterr().out
    assert f"epsilon {balance.fallback:.4f} of 1000 is spent if everybody" in said
    assert run(str(folder), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["spent"] == pytest.approx(balance.spent)
    assert found["fallback"] == pytest.approx(balance.fallback)
    assert found["charges"][0]["own_multiplier"] == "0.5"
    assert found["charges"][0]["state"] == "spent"
    assert (found["unit"], found["adjacency"]) == ("record", "add-remove")


@pytest.mark.slow
@pytest.mark.parametrize("gone", [False, True], ids=["changed", "gone"])
def test_what_is_spent_is_shown_whatever_became_of_the_data(
    folder: Path, capsys: pytest.CaptureFixture[str], gone: bool
) -> None:
    spend(folder, charge(1))
    assert run(str(folder)) == 0
    before = capsys.readouterr().out
    change_data(folder)
    if gone:
        shutil.rmtree(folder / "data")
    assert run(str(folder)) == 0
    assert capsys.readouterr().out == before


def test_other_data_than_the_ledgers_is_one_line(folder: Path, base: Base) -> None:
    change_data(folder)
    with refused(ConfigError, "dataset-differs") as caught:
        Node(folder, workload=base.workload, replica=base.replica)
    said = str(caught.value)
    assert said.startswith(f"{folder / 'data'} was changed: its dataset is sha256:")
    assert "put the data back as it was" in said
    assert "\n" not in said
    assert "one more record" not in said


def test_an_empty_ledger_is_of_a_node_that_never_ran(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in folder.glob("budget.db*"):
        path.unlink()
    (folder / "budget.db").touch()
    assert run(str(folder)) == 64
    assert "was never started" in capsys.readouterr().err


def change_data(folder: Path) -> None:
    with (folder / "data" / "text.jsonl").open("a") as file:
        file.write('{"text": "one more record"}\n')
