"""``tapestry node budget``: what an operator reads, and what a machine reads."""

import json
from pathlib import Path
from typing import Any

import pytest

from tapestry import cli
from tapestry.config import NodeSettings
from tapestry_node.budget import Ledger
from tapestry_node.trainer import Trainer
from tests.node.test_budget import charge, shared
from tests.simulator import NAMES, Base, Federation

SHARED: dict[str, Any] = {"policy": {"noise": ["local", "shared"]}}


@pytest.fixture
def folder(tmp_path: Path, base: Base) -> Path:
    federation = Federation(tmp_path / "federation", base, institution=SHARED)
    federation.close()
    return federation.directory / "nodes" / NAMES[0]


def spend(folder: Path, *charges: Any) -> Ledger:
    settings = NodeSettings.read(folder / "node.toml")
    terms = Trainer.terms_of(folder / settings.data, settings)
    ledger = Ledger.open(folder / "budget.db", terms)
    for each in charges:
        ledger.reserve(each)
        ledger.spend(each)
    return ledger


def run(*arguments: str) -> Any:
    with pytest.raises(SystemExit) as done:
        cli.main(["node", "budget", *arguments])
    return done.value.code or 0


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


def test_other_data_than_the_ledgers_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spend(folder, charge(1))
    with (folder / "data" / "text.jsonl").open("a") as file:
        file.write('{"text": "one more record"}\n')
    assert run(str(folder)) == 1
    said = capsys.readouterr()
    assert "dataset is" in said.err
    assert len(said.err.strip().splitlines()) == 1
    assert "one more record" not in said.err
