"""``tapestry adapter train``, ``publish``, ``withdraw`` and ``list``, as typed."""

import json
from pathlib import Path

import pytest

from tapestry.cli.exit_status import ExitStatus
from tapestry_node import adapter_commands
from tests.support.commands import tapestry
from tests.support.federation import Federation
from tests.support.operated_adapters import (
    LAW,
    adapter_charges,
    ask,
    exchange,
    folder_of,
    idle,
)


@pytest.mark.parametrize(
    "words",
    [("list",), ("list", "bundle", "--node", "node")],
    ids=["neither", "both"],
)
def test_a_list_is_of_a_bundle_or_of_a_node(words: tuple[str, ...]) -> None:
    said = tapestry("adapter", *words)
    assert said.exit_code == ExitStatus.USAGE
    assert "[usage]" in said.stderr


@pytest.mark.parametrize("verb", ["train", "publish", "withdraw"])
def test_a_folder_without_a_node_is_refused(tmp_path: Path, verb: str) -> None:
    more = ("--reason", "superseded") if verb == "withdraw" else ()
    said = tapestry("adapter", verb, LAW, *more, "--node", tmp_path)
    assert said.exit_code != 0
    assert "[file-missing]" in said.stderr or "[adapter-not-trained]" in said.stderr


@pytest.mark.parametrize("version", ["0", "-1", "one", "1000001"])
def test_a_version_is_a_number(tmp_path: Path, version: str) -> None:
    words = ("--reason", "superseded", "--node", tmp_path, "--", LAW, version)
    (tmp_path / "node.toml").touch()
    assert tapestry("adapter", "withdraw", *words).exit_code == ExitStatus.USAGE


@pytest.mark.slow
def test_a_plan_costs_nothing_and_says_so_to_programs(settled: Federation) -> None:
    said = ask(settled, "train", LAW, "--plan", "--json")
    assert said.exit_code == 0, said.stderr
    found = json.loads(said.stdout)
    assert (found["state"], found["plan"]["release"]) == ("planned", "base-2")
    assert found["plan"]["seconds"] is None  # a node serves the folder
    assert adapter_charges(settled) == []
    assert not list((folder_of(settled) / "adapters").glob("*.job"))
    refused_one = ask(settled, "train", "sw-law", "--plan")
    assert refused_one.exit_code == ExitStatus.RULE_BROKEN
    assert "[adapter-name-reserved]" in refused_one.stderr
    wrong = ask(settled, "train", LAW, "--plan", "--release", "base-9")
    assert wrong.exit_code == ExitStatus.RULE_BROKEN
    assert "[release-unknown]" in wrong.stderr


@pytest.mark.slow
def test_nothing_is_trained_before_a_person_or_an_option_says_so(
    settled: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = ask(settled, "train", LAW)
    assert said.exit_code == ExitStatus.USAGE
    assert "[confirmation-missing]" in said.stderr
    monkeypatch.setattr(adapter_commands, "is_terminal", lambda: True)
    folder = folder_of(settled)
    no = tapestry("adapter", "train", LAW, "--node", folder, typed="no\n")
    assert "[training-declined]" in no.stderr
    assert not list((folder / "adapters").glob("*.job"))
    yes = tapestry("adapter", "train", LAW, "--node", folder, typed="yes\n")
    assert yes.exit_code == 0, yes.stderr
    assert "epsilon" in yes.stdout
    idle(settled)
    assert adapter_charges(settled) == [(LAW, 1, "spent")]


@pytest.mark.slow
def test_one_training_of_an_adapter_is_asked_for_at_a_time(settled: Federation) -> None:
    first = ask(settled, "train", LAW, "--yes", "--json")
    assert json.loads(first.stdout)["state"] == "waiting"
    again = ask(settled, "train", LAW, "--yes")
    assert again.exit_code == 0
    assert "goes on with what was asked for" in again.stderr
    other = ask(settled, "train", LAW, "--yes", "--release", "base-1")
    assert other.exit_code == ExitStatus.USAGE
    assert "[job-under-way]" in other.stderr


@pytest.mark.slow
def test_what_is_published_and_withdrawn_is_told_to_programs(
    settled: Federation,
) -> None:
    settled.kill("fr")
    done = ask(settled, "train", LAW, "--yes", "--json")
    found = json.loads(done.stdout)
    assert found["state"] == "trained"
    assert found["plan"]["seconds"] > 0  # measured, as no node runs
    settled.start("fr")
    published = json.loads(ask(settled, "publish", LAW, "--json").stdout)
    assert published == {"adapter": LAW, "version": 1, "waiting": True}
    exchange(settled)
    rows = json.loads(ask(settled, "list", "--json").stdout)["adapters"]
    (law,) = [row for row in rows if row["name"] == LAW]
    assert (law["version"], law["base"], law["state"]) == (1, "base-2", "accepted")
    assert "in the log already" in ask(settled, "publish", LAW).stdout
    words = ("withdraw", LAW, "--reason", "superseded", "--json")
    assert json.loads(ask(settled, *words).stdout)["version"] == 1
