"""``tapestry node check``, ``budget`` and ``egress`` on folders of idle nodes."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tapestry.encoding import decode_decimal
from tapestry.errors import ConfigError
from tapestry_node.budget.ledger import Ledger
from tapestry_node.folder_check import KINDS
from tapestry_node.node import Node
from tapestry_node.node_state import NodeState
from tapestry_node.settings import NodeSettings
from tests.node.budget.test_ledger import charge, shared
from tests.support.blocked_packages import MACHINE_LEARNING, without
from tests.support.commands import Result
from tests.support.federation import DECLARED, NAMES, RECORDS, Base, Federation
from tests.support.node_folders import (
    NAME,
    balance_of,
    change,
    connect,
    fifo,
    run,
)
from tests.support.refusals import refused
from tests.support.settings_files import run_settings
from tests.support.superlink import SuperLink
from tests.support.unsigned_accounts import unsigned

SHARED: dict[str, Any] = {"policy": {"noise": ["local", "shared"]}}
WITHOUT_TORCH = (
    without(*MACHINE_LEARNING)
    + """
for words in (["budget"], ["budget", "--json"], ["egress"]):
    try:
        main(["node", *words, sys.argv[1]])
    except SystemExit as end:
        if end.code:
            raise
"""
)


@pytest.fixture
def folder(tmp_path: Path, base: Base) -> Path:
    federation = Federation(tmp_path / "federation", base, institution=SHARED)
    federation.close()
    return federation.directory / "nodes" / NAMES[0]


def spend(folder: Path, *charges: Any) -> Ledger:
    policy = NodeSettings.read(folder / "node.toml").policy
    ledger = Ledger.look(
        NodeState(folder / "node.db"),
        epsilon=decode_decimal(policy.epsilon_limit),
        fallback_epsilon=decode_decimal(policy.fallback_epsilon_limit),
    )
    for each in charges:
        ledger.reserve(each)
        ledger.spend(each, unsigned)
    return ledger


def budget(folder: Path, *more: str) -> str:
    done = run("budget", folder, *more)
    assert done.exit_code == 0
    return done.stdout


def test_check_of_a_node_that_may_join_ends_with_ready(
    idle: Path, used: Path, engine: SuperLink
) -> None:
    for folder in (idle, used):
        connect(folder, engine)
        done = run("check", folder)
        assert done.exit_code == 0
        assert done.stdout.endswith("\nready\n")
        assert "refused" not in done.stdout


def test_check_shows_records_prices_and_keys_in_lines(idle: Path, used: Path) -> None:
    with (used / "data" / "text.jsonl").open("rb") as file:
        size = len(file.read())
    said = run("check", idle).stdout
    assert "\nprice     the adapter: epsilon " in said
    assert "a round like" not in said  # none is known yet
    said = run("check", used).stdout
    assert f"\ndata      {RECORDS} records in 1 file of {size} bytes;" in said
    assert f"language {NAME}" in said
    assert "\nlength    " in said
    assert "\ntokens    " in said
    assert "\nprice     a round like round 1 of 'run', the log's last: epsilon " in said
    assert "node.key 0600" in said
    assert "transport 127.0.0.1:9092" in said


def test_check_with_json_shows_the_same_to_programs(
    used: Path, base: Base, engine: SuperLink
) -> None:
    connect(used, engine)
    done = run("check", used, "--json")
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert found["ready"] is True
    assert all(found[kind] == [] for kind in KINDS)
    assert found["certificate_ends"].startswith("20")
    assert found["census"]["records"] == RECORDS
    balance = balance_of(used, base)
    assert found["budget"]["spent"] == balance.spent
    last, adapter = found["prices"]
    # One round was spent, so that another one like it costs what that one did.
    assert last["epsilon"] == pytest.approx(balance.spent)
    assert last["epsilon_after"] > last["epsilon"]
    assert last["sampling_rate"] == pytest.approx(
        run_settings()["training"]["batch_size"] / DECLARED
    )
    plan = NodeSettings.read(used / "node.toml").adapter
    assert plan.noise == "local"
    assert adapter["epsilon"] <= decode_decimal(plan.epsilon)
    assert adapter["epsilon"] == pytest.approx(decode_decimal(plan.epsilon), rel=0.01)


def test_check_names_the_code_of_each_broken_rule_in_both_forms(idle: Path) -> None:
    change(idle, {"policy": {"bases": ["sha256:" + "0" * 64], "noise": []}})
    (idle / "authority.pem").unlink()
    (idle / "keys" / "transport").chmod(0o644)
    done = run("check", idle, "--json")
    assert done.exit_code == 2
    found = json.loads(done.stdout)
    assert found["ready"] is False
    codes = ["key-file-not-private", "base-not-allowed", "setting-invalid"]
    assert [each["code"] for each in found["refused"]] == codes
    assert [each["code"] for each in found["missing"]] == ["file-missing"]
    said = run("check", idle).stdout.splitlines()
    for kind in ("refused", "missing"):
        lines = [f"{kind}   {e['detail']} [{e['code']}]" for e in found[kind]]
        assert [line for line in said if line.startswith(kind)] == lines
    assert said[-1] == "not ready"


def test_check_says_once_what_two_checks_refuse(used: Path) -> None:
    """The records are too few for the adapter: for its plan and for its price."""
    change(used, {"adapter": {"batch_size": RECORDS + 1}})
    found = json.loads(run("check", used, "--json").stdout)
    (fault,) = found["refused"]
    assert f"batch size {RECORDS + 1} is not between 1" in fault["detail"]


def test_check_ends_with_incomplete_where_only_something_is_missing(idle: Path) -> None:
    change(idle, {"transport": None})
    done = run("check", idle)
    assert done.exit_code == 3
    (line,) = [each for each in done.stdout.splitlines() if "missing " in each]
    assert line.startswith("missing   node.toml has no [transport]")
    assert line.endswith(" [transport-missing]")
    assert done.stdout.endswith("\nnot ready\n")


@pytest.mark.parametrize(
    ("name", "status"), [("trust-policy.txt", 2), ("node.db.mirror", 1)]
)
def test_check_does_not_wait_for_a_fifo(idle: Path, name: str, status: int) -> None:
    fifo(idle / name)
    done = run("check", idle)
    assert done.exit_code == status
    assert f"{name} is no plain file" in done.stdout


def test_check_lists_all_faults_of_the_data_without_a_record(idle: Path) -> None:
    (idle / "data" / "text.jsonl").write_text('{"text": "canary}\n{"text": 7}\n')
    (idle / "data" / "more").symlink_to("/nowhere")
    done = run("check", idle)
    assert done.exit_code == 2
    head = f"refused   {idle / 'data'}: "
    lines = [line for line in done.stdout.splitlines() if line.startswith(head)]
    assert [line.removeprefix(head).split(":")[0] for line in lines] == [
        "more",
        "text.jsonl, line 1",
        "text.jsonl, line 2",
    ]
    assert "canary" not in done.stdout + done.stderr


def test_check_explains_a_delta_that_promises_nothing(idle: Path) -> None:
    for path in idle.glob("node.db*"):
        path.unlink()
    change(idle, {"policy": {"target_delta": "0.1"}})
    done = run("check", idle)
    assert done.exit_code == 2
    said = (
        f"refused   delta 0.1 is not below 1/{RECORDS}, one over the number of records"
    )
    assert said in done.stdout
    assert "[delta-too-large]\nnot ready\n" in done.stdout


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("trust-policy.txt", "the trust policy is empty"),
        ("keys/node.key", "is empty, so it is not a key file"),
        ("data/corpus.toml", "is empty; write its settings"),
    ],
)
def test_check_calls_an_empty_file_empty(idle: Path, name: str, said: str) -> None:
    (idle / name).write_bytes(b"")
    done = run("check", idle)
    assert done.exit_code == 2
    (line,) = [e for e in done.stdout.splitlines() if e.startswith("refused")]
    assert str(idle / name) in line
    assert said in line


def test_check_without_settings_is_wrong_usage(idle: Path) -> None:
    (idle / "node.toml").write_bytes(b"")
    done = run("check", idle)
    assert (done.exit_code, done.stdout) == (64, "")
    assert "is empty; write its settings" in done.stderr


def test_run_without_an_address_names_settings_and_options(idle: Path) -> None:
    change(idle, {"transport": None})
    done = run("run", idle)
    assert done.exit_code == 64
    assert f"{idle / 'node.toml'} has no [transport]" in done.stderr
    assert "--superlink" in done.stderr
    assert done.stderr.endswith("[transport-missing]\n")


@pytest.mark.parametrize("address", ["x" * 400, "a\x1b[2Jb:1", "a\u202eb:1"])
def test_an_option_that_no_setting_could_be_is_an_error_in_a_line(
    idle: Path, address: str
) -> None:
    done = run("run", idle, "--superlink", address)
    assert done.exit_code == 64, done.stderr
    assert "Traceback" not in done.stderr
    assert "superlink" in done.stderr


@pytest.mark.slow
def test_budget_names_every_charge_and_the_rest(folder: Path) -> None:
    ledger = spend(folder, charge(1), charge(2))
    ledger.reserve(charge(3))
    said = budget(folder)
    for line in ("round 1 of 'run-1'", "round 2 of 'run-1'", "round 3 of 'run-1'"):
        assert line in said
    assert said.count(" spent ") == 2 + 1  # two charges, and the line that sums up
    assert "reserved" in said
    assert "unit record, adjacency add-remove" in said
    spent = ledger.balance().spent
    assert f"epsilon {spent:.4f} of 20 is spent at delta 1e-05" in said
    left = ledger.rounds_left(charge(3))
    assert f"{left} more like round 3 of 'run-1' fit" in said
    assert "take their noise out" not in said


@pytest.mark.slow
def test_budget_tells_the_rest_in_rounds(folder: Path) -> None:
    adapter = replace(charge(1, run="fr-culture"), purpose="adapter")
    spend(folder, charge(1), adapter)
    said = budget(folder)
    assert "adapter 1 of 'fr-culture'" in said
    assert said.splitlines()[-1].endswith(" more like round 1 of 'run-1' fit")


@pytest.mark.slow
def test_budget_under_shared_noise_shows_the_fallback_as_well(folder: Path) -> None:
    balance = spend(folder, shared(1)).balance()
    said = budget(folder)
    line = f"epsilon {balance.fallback:.4f} of 1000 is spent if all other nodes"
    assert line in said
    found = json.loads(budget(folder, "--json"))
    assert found["spent"] == pytest.approx(balance.spent)
    assert found["fallback"] == pytest.approx(balance.fallback)
    assert found["charges"][0]["own_multiplier"] == "0.5"
    assert found["charges"][0]["state"] == "spent"
    assert (found["unit"], found["adjacency"]) == ("record", "add-remove")


@pytest.mark.slow
@pytest.mark.parametrize("gone", [False, True], ids=["changed", "gone"])
def test_budget_is_shown_whatever_became_of_the_data(
    folder: Path, *, gone: bool
) -> None:
    spend(folder, charge(1))
    before = budget(folder)
    change_data(folder)
    if gone:
        shutil.rmtree(folder / "data")
    assert budget(folder) == before


def test_other_data_than_the_ledgers_is_one_line(folder: Path, base: Base) -> None:
    change_data(folder)
    with refused(ConfigError, "dataset-differs") as caught:
        Node(folder, workload=base.workload, replica=base.replica)
    said = str(caught.value)
    assert said.startswith(f"{folder / 'data'} was changed: 1 of its records are")
    assert "put the data back as it was" in said
    assert "\n" not in said
    assert "one more record" not in said


@pytest.mark.parametrize("left", [True, False], ids=["empty", "no file"])
def test_budget_of_a_node_that_never_ran_is_refused(
    folder: Path, *, left: bool
) -> None:
    for path in [*folder.glob("node.db*"), *folder.glob("view.db*")]:
        path.unlink()
    if left:
        (folder / "node.db").touch()
    done = run("budget", folder)
    assert done.exit_code == 3
    assert "the node never ran" in done.stderr
    assert done.stderr.endswith("[state-missing]\n")


def change_data(folder: Path) -> None:
    with (folder / "data" / "text.jsonl").open("a") as file:
        file.write('{"text": "one more record"}\n')


def test_egress_shows_receipts_that_the_log_agrees_with(used: Path) -> None:
    done = run("egress", used)
    assert done.exit_code == 0
    assert "masked_input" in done.stdout
    store = NodeState(used / "node.db", readonly=True)
    sizes = [receipt.bytes for receipt in store.receipts()]
    store.close()
    assert done.stdout.splitlines()[-1] == f"{sum(sizes)} bytes left this node"
    rows = run("egress", used, "--json").stdout.splitlines()
    assert [json.loads(row)["bytes"] for row in rows] == sizes


def no_state(folder: Path) -> Result:
    (folder / "node.db").unlink()
    return run("egress", folder)


def test_egress_without_state_tells_a_deleted_file_from_a_new_node(
    used: Path, idle: Path
) -> None:
    for path in idle.glob("view.db*"):
        path.unlink()
    for folder, why in ((used, "it was deleted; put it back"), (idle, "never ran")):
        done = no_state(folder)
        assert done.exit_code == 3
        assert f"{folder} has no node.db; " in done.stderr
        assert why in done.stderr
        assert done.stderr.endswith("[state-missing]\n")


@pytest.mark.slow
def test_budget_and_receipts_are_shown_without_torch(used: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(used)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "round 1 of 'run'" in done.stdout
    assert '"spent":' in done.stdout
    assert "bytes left this node" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["check", "run"])
def test_a_node_does_not_start_with_an_edited_package(
    idle: Path, tmp_path: Path, verb: str
) -> None:
    package = importlib.metadata.distribution("rfc8785")
    for name in ("rfc8785", f"rfc8785-{package.version}.dist-info"):
        shutil.copytree(str(package.locate_file(name)), tmp_path / name)
    edited = tmp_path / "rfc8785" / "_impl.py"
    edited.write_bytes(edited.read_bytes() + b"\n")
    search = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-m", "tapestry", "node", verb, idle],
        env={**os.environ, "PYTHONPATH": search},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,  # a node that started after all would run until it is stopped
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("\n") == 1
    assert f"{edited} is not the file that package rfc8785" in done.stderr
    assert "[installed-file-differs]" in done.stderr
