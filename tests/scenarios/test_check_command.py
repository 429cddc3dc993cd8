"""``tapestry node check``: what would be refused is said before anybody asks."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tapestry import cli
from tapestry.encoding import decode_decimal
from tapestry.workloads.base import Workload
from tapestry_coordinator.superlink.tls import make_node_key, make_server_certificate
from tapestry_node.budget.ledger import Balance
from tapestry_node.node import Node
from tapestry_node.settings import NodeSettings
from tests.scenarios.conftest import Found
from tests.scenarios.test_shared_noise import SHARED
from tests.support.federation import NAMES, RECORDS, Base, Federation
from tests.support.settings_files import NO_ADAPTER_NOISE, change_settings, run_settings

NAME, OTHER = NAMES[:2]
TRANSPORT = {
    "superlink": "127.0.0.1:9092",
    "root_certificates": "authority.pem",
    "auth_key": "keys/transport",
    "poll_seconds": "0.1",
}
WITHOUT_TORCH = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "flwr", "transformers", "peft", "opacus"}:
            raise ImportError("blocked: " + name, name=name)

sys.meta_path.insert(0, Blocker())
from tapestry.cli import main

for words in (["budget"], ["budget", "--json"], ["egress"]):
    try:
        main(["node", *words, sys.argv[1]])
    except SystemExit as end:
        if end.code:
            raise
"""


@pytest.fixture(autouse=True)
def loaded(monkeypatch: pytest.MonkeyPatch, base: Base) -> None:
    from tapestry.workloads.language import base_models

    def open_base(_: str, *, cache: Path | None) -> Workload:
        assert cache is None
        base.workload.load(base.replica.parameters)  # runs leave others in it
        return base.workload

    monkeypatch.setattr(base_models, "open_base", open_base)


@pytest.fixture
def idle(found: Found) -> Path:
    """The folder of a node that has not seen the log yet."""
    return closed(found())


@pytest.fixture
def used(found: Found) -> Path:
    """The folder of a node that took part in a round."""
    federation = found()
    federation.run()
    return closed(federation)


def closed(federation: Federation) -> Path:
    """Close a federation; returns a node's folder that could dial as well."""
    federation.close()
    folder = federation.directory / "nodes" / NAME
    make_node_key(folder / "keys" / "transport")
    files = make_server_certificate(federation.directory / "tls", ("localhost",))
    shutil.copy(files.authority, folder / "authority.pem")
    change(folder, {"transport": TRANSPORT})
    return folder


def change(folder: Path, settings: dict[str, Any]) -> None:
    change_settings(folder / "node.toml", NodeSettings, settings)


def run(verb: str, folder: Path, *more: str) -> int:
    with pytest.raises(SystemExit) as done:
        cli.main(["node", verb, str(folder), *more])
    return int(done.value.code or 0)


def test_a_node_that_may_join_is_ready(
    idle: Path, used: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in (idle, used):
        assert run("check", folder) == 0
        said = capsys.readouterr().out
        assert said.endswith("\nready\n")
        assert "refused" not in said


def test_what_a_node_would_train_on_and_pay_is_shown(
    idle: Path, used: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (used / "data" / "text.jsonl").open("rb") as file:
        size = len(file.read())
    assert run("check", idle) == 0
    said = capsys.readouterr().out
    assert "\nprice     the adapter: epsilon " in said
    assert "a round like" not in said  # nobody knows of one yet
    assert run("check", used) == 0
    said = capsys.readouterr().out
    assert f"\ndata      {RECORDS} records in 1 file of {size} bytes;" in said
    assert f"language {NAME}" in said
    assert "\nlength    " in said
    assert "\ntokens    " in said
    assert "\nprice     a round like round 1 of 'run', the log's last: epsilon " in said
    assert "node.key 0600" in said
    assert "transport 127.0.0.1:9092" in said


def test_the_same_is_shown_to_machines(
    used: Path, base: Base, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("check", used, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ready"] is True
    assert (found["refused"], found["missing"]) == ([], [])
    assert found["census"]["records"] == RECORDS
    balance = balance_of(used, base)
    assert found["budget"]["spent"] == balance.spent
    last, adapter = found["prices"]
    # One round was spent, so that another one like it costs what that one did.
    assert last["epsilon"] == pytest.approx(balance.spent)
    assert last["epsilon_after"] > last["epsilon"]
    assert last["sampling_rate"] == pytest.approx(
        run_settings()["training"]["batch_size"] / RECORDS
    )
    plan = NodeSettings.read(used / "node.toml").adapter
    assert plan.noise == "local"
    assert adapter["epsilon"] <= decode_decimal(plan.epsilon)
    assert adapter["epsilon"] == pytest.approx(decode_decimal(plan.epsilon), rel=0.01)


def test_records_that_are_cut_or_left_out_are_counted(
    idle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in idle.glob("budget.db*"):
        path.unlink()  # the data is another one from here on
    rows = [{"text": "a"}, {"text": "a"}, {"text": "\u200b"}, {"text": "b " * 400}]
    rows += [{"text": f"una frase {n}"} for n in range(30)]
    (idle / "data" / "text.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (idle / "data" / "empty.txt").touch()
    change(idle, {"adapter": {"publish": False}})
    run("check", idle, "--json")
    found = json.loads(capsys.readouterr().out)
    census, (coverage, *_) = found["census"], found["coverage"]
    assert (census["records"], census["duplicates"], census["files"]) == (33, 1, 2)
    assert (census["invisible"], census["empty"]) == (2, 1)
    assert census["characters"]["longest"] == 800
    assert coverage["without_loss"] == 0  # a start token makes two of one
    assert coverage["cut"] == 1
    assert coverage["tokens"]["longest"] > coverage["sequence_length"]


@pytest.mark.parametrize("lost", [None, "authority.pem", "keys/transport"])
def test_a_node_that_could_not_dial_is_not_ready(
    idle: Path, capsys: pytest.CaptureFixture[str], lost: str | None
) -> None:
    if lost is None:
        change(idle, {"transport": None})
    else:
        (idle / lost).unlink()
    assert run("check", idle) == 3
    said = capsys.readouterr().out
    assert f"missing   {'node.toml has no [transport]' if lost is None else ''}" in said
    assert lost is None or str(idle / lost) in said
    assert said.endswith("\nnot ready\n")


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "no certificate": (
        lambda folder: (folder / "authority.pem").write_text("canary"),
        "authority.pem holds no certificate",
    ),
    "no key": (
        lambda folder: (folder / "keys" / "transport").write_text("canary"),
        "transport is not an OpenSSH private key",
    ),
    "an open key": (
        lambda folder: (folder / "keys" / "transport").chmod(0o644),
        "transport is open to others; chmod 600 it",
    ),
    "a FIFO for a key": (
        lambda folder: fifo(folder / "keys" / "transport"),
        "transport is no plain file",
    ),
    "a FIFO for a certificate": (
        lambda folder: fifo(folder / "authority.pem"),
        "authority.pem is no plain file",
    ),
    "a folder for a certificate": (
        lambda folder: change(folder, {"transport": {"root_certificates": "data"}}),
        "data is no plain file",
    ),
    "a device for a certificate": (
        lambda folder: change(
            folder, {"transport": {"root_certificates": "/dev/zero"}}
        ),
        "zero is no plain file",
    ),
    "no port": (
        lambda folder: change(folder, {"transport": {"superlink": "no port here !!"}}),
        "'no port here !!' is not HOST:PORT",
    ),
    "a port too high": (
        lambda folder: change(folder, {"transport": {"superlink": "a.example:65536"}}),
        "'a.example:65536' is not HOST:PORT",
    ),
    "a URL": (
        lambda folder: change(folder, {"transport": {"superlink": "https://a:9092"}}),
        "'https://a:9092' is not HOST:PORT",
    ),
}


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, mode=0o600)


@pytest.mark.parametrize("name", WRONG)
def test_what_run_would_refuse_is_no_readiness(
    idle: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    spoil, rule = WRONG[name]
    spoil(idle)
    assert run("check", idle) == 2
    said = capsys.readouterr().out
    (line,) = [each for each in said.splitlines() if each.startswith("refused")]
    assert "transport." in line
    assert rule in line
    assert said.endswith("\nnot ready\n")
    assert "canary" not in said
    with pytest.raises(SystemExit) as done:  # and it does
        cli.main(["node", "run", str(idle)])
    assert done.value.code == 64
    assert rule in capsys.readouterr().err


@pytest.mark.parametrize("name", ["trust-policy.txt", "budget.db.mirror"])
def test_a_fifo_is_waited_for_nowhere(
    idle: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    fifo(idle / name)
    assert run("check", idle) in {1, 64}
    assert "is no plain file" in capsys.readouterr().err


def test_an_adapter_that_does_not_fit_the_budget_is_no_readiness(
    used: Path, base: Base, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = NodeSettings.read(used / "node.toml").adapter
    assert adapter.noise == "local"
    price = decode_decimal(adapter.epsilon)
    limit = f"{price + 0.01:.2f}"
    assert 0 < balance_of(used, base).spent < price
    change(used, {"policy": {"epsilon_limit": limit}})
    assert run("check", used, "--json") == 2
    found = json.loads(capsys.readouterr().out)
    assert [price["fits"] for price in found["prices"]] == [True, False]
    (line,) = found["refused"]
    assert line.startswith("the adapter: adapter 1 of 'run' would bring epsilon to ")
    assert f"over the limit of {float(limit):g}" in line
    assert found["ready"] is False
    change(used, {"adapter": {"publish": False}})
    assert run("check", used) == 0


def test_records_too_few_for_the_plans_are_no_readiness(
    used: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in used.glob("budget.db*"):
        path.unlink()
    (used / "view.db").unlink()
    (used / "state.db").unlink()
    (used / "data" / "text.jsonl").write_text('{"text": "una frase"}\n' * 3)
    assert run("check", used) == 2
    said = capsys.readouterr().out
    assert "data      3 records" in said
    size = NodeSettings.read(used / "node.toml").adapter.batch_size
    assert f"batch size {size} is not between 1 and the 3 records" in said
    assert said.endswith("\nnot ready\n")


def test_a_delta_that_promises_nothing_is_told_in_words(
    idle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in idle.glob("budget.db*"):
        path.unlink()
    change(idle, {"policy": {"target_delta": "0.1"}})
    assert run("check", idle) == 64
    said = capsys.readouterr().err
    assert f"delta 0.1 is not below 1/{RECORDS}, one over the number of records" in said


def test_faults_of_the_data_are_all_told_and_hold_no_record(
    idle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (idle / "data" / "text.jsonl").write_text('{"text": "canary}\n{"text": 7}\n')
    (idle / "data" / "more").symlink_to("/nowhere")
    assert run("check", idle) == 64
    said = capsys.readouterr()
    head, *lines = said.err.splitlines()
    assert head == f"tapestry: {idle / 'data'}: 3 faults [many-faults]"
    assert [line.split(":")[0].strip() for line in lines] == [
        "more",
        "text.jsonl, line 1",
        "text.jsonl, line 2",
    ]
    assert "canary" not in said.out + said.err


def balance_of(folder: Path, base: Base) -> Balance:
    node = Node(folder, workload=base.workload, replica=base.replica)
    node.close()
    return node.ledger.balance()


@pytest.mark.parametrize(
    ("factor", "said"),
    [
        (0.5, "no round fits"),
        (1.1, "no further round like the log's last one fits"),
    ],
)
def test_a_budget_that_no_round_fits_into_is_no_readiness(
    used: Path,
    base: Base,
    capsys: pytest.CaptureFixture[str],
    factor: float,
    said: str,
) -> None:
    limit = f"{factor * balance_of(used, base).spent:.9f}".rstrip("0")
    change(used, {"policy": {"epsilon_limit": limit}})
    assert run("check", used) == 2
    out = capsys.readouterr().out
    (line,) = [each for each in out.splitlines() if each.startswith("refused")]
    assert "policy.epsilon_limit" in line
    assert said in line
    assert out.endswith("\nnot ready\n")


@pytest.mark.slow
def test_a_fallback_that_is_spent_is_no_readiness(
    found: Found, capsys: pytest.CaptureFixture[str]
) -> None:
    federation = found(**SHARED)
    federation.run()
    folder = closed(federation)
    balance = balance_of(folder, federation.base)
    assert balance.fallback > balance.spent
    limit = f"{balance.spent * 1.01:.6f}".rstrip("0")
    limits = {"epsilon_limit": limit, "fallback_epsilon_limit": limit}
    change(folder, {"policy": limits})
    assert run("check", folder) == 2
    assert "policy.fallback_epsilon_limit" in capsys.readouterr().out


def test_a_base_that_the_policy_does_not_name_is_no_readiness(
    idle: Path, base: Base, capsys: pytest.CaptureFixture[str]
) -> None:
    change(idle, {"policy": {"bases": ["sha256:" + "0" * 64]}})
    assert run("check", idle) == 2
    said = capsys.readouterr().out
    assert f"base 'tiny' is {base.replica.digest}" in said
    assert "policy.bases" in said


def test_a_name_that_is_not_that_of_the_keys_is_no_readiness(
    idle: Path, used: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, status in ((idle, 2), (used, 64)):
        change(folder, {"name": OTHER})
        assert run("check", folder) == status
        said = "".join(capsys.readouterr())
        assert f"name is {OTHER!r} in node.toml" in said
        assert f"keys/node.key is that of {NAME!r}" in said


def test_keys_of_no_member_are_no_readiness(
    used: Path, found: Found, capsys: pytest.CaptureFixture[str]
) -> None:
    stranger = found()
    stranger.close()
    key = stranger.directory / "nodes" / NAME / "keys" / "witness.key"
    (used / "keys" / "witness.key").write_bytes(key.read_bytes())
    assert run("check", used) == 64
    assert "keys/witness.key is of no member" in capsys.readouterr().err


def test_a_witness_that_the_trust_policy_lacks_is_no_readiness(
    idle: Path, found: Found, capsys: pytest.CaptureFixture[str]
) -> None:
    stranger = found()
    stranger.close()
    policy = stranger.directory / "nodes" / NAME / "trust-policy.txt"
    (idle / "trust-policy.txt").write_bytes(policy.read_bytes())
    assert run("check", idle) == 2
    assert "is no witness of trust-policy.txt" in capsys.readouterr().out


def test_a_wrong_line_of_the_trust_policy_is_named_with_its_file(
    idle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = (idle / "keys" / "node.key").read_text().strip()
    (idle / "trust-policy.txt").write_text(f"# ours\n{secret}\n")
    assert run("check", idle) == 64
    said = capsys.readouterr().err
    file = idle / "trust-policy.txt"
    start = f"tapestry: {file}: trust policy: line 2 is no log, witness,"
    assert said.startswith(start)
    assert "PRIVATE" not in said
    assert secret[-24:] not in said


@pytest.mark.parametrize("older", [False, True], ids=["deleted", "older copy"])
def test_a_node_whose_memory_is_behind_the_log_does_not_start(
    found: Found, capsys: pytest.CaptureFixture[str], older: bool
) -> None:
    federation = found()
    state = federation.directory / "nodes" / NAME / "state.db"
    federation.kill(NAME)
    before = state.read_bytes()
    federation.start(NAME)
    federation.run()
    folder = closed(federation)
    state.unlink()
    assert run("egress", folder) == 64
    assert "has no state.db; it was deleted; put it back" in capsys.readouterr().err
    if older:
        state.write_bytes(before)
    for verb in ("check", "egress"):  # nor does the node itself start
        assert run(verb, folder) == 1
        said = capsys.readouterr()
        assert said.out == ""
        assert "uploaded for round 1 of 'run'" in said.err
        assert "it was deleted or is an older copy; put the newest back" in said.err
        assert len(said.err.splitlines()) == 1


def test_receipts_that_the_log_agrees_with_are_shown(
    used: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("egress", used) == 0
    assert "masked_input" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"adapter": {"targets": ["c_attn"]}},
            "the adapter: no linear module 'c_attn'",
        ),
        ({"adapter": {"rank": 97}}, "the adapter: rank 97 is above the 96"),
        ({"adapter": {"batch_size": 25}}, "the adapter: batch size 25 is not between"),
        (
            {"adapter": {"options": {"sequence_length": 2048}}},
            "the adapter: sequence_length 2048 is",
        ),
        ({"adapter": {"learning_rate": "0"}}, "the adapter: learning rate 0 is not"),
        ({"adapter": NO_ADAPTER_NOISE}, "the adapter: adapter.noise is 'none', and po"),
        ({"adapter": {"epsilon": "21"}}, "the adapter: adapter.epsilon 21 is above po"),
        ({"adapter": {"licence": "CC BY"}}, "the adapter: an adapter's licence: "),
        ({"country": ""}, "the adapter: an adapter's country: "),
        ({"policy": {"noise": []}}, "policy.noise is empty"),
        ({"policy": {"parameterizations": []}}, "policy.parameterizations is empty"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_settings_rule_out_is_said_before_there_is_a_log(
    idle: Path, base: Base, settings: dict[str, Any], said: str
) -> None:
    change(idle, settings)
    assert any(line.startswith(said) for line in objections(idle, base))
    change(idle, {"adapter": {"publish": False}})
    if "adapter" in said:  # nobody's concern then
        assert objections(idle, base) == []


def test_a_round_like_the_last_one_that_the_policy_refuses_is_no_readiness(
    used: Path, base: Base
) -> None:
    change(used, {"policy": {"min_cohort": 5}, "adapter": {"licence": "MIT"}})
    first, second = objections(used, base)
    assert first.startswith("a round like 1, the log's last: cohort of 4, floor 3")
    assert second.startswith("the adapter: adapter.licence 'MIT' is not one that the")


def objections(folder: Path, base: Base) -> list[str]:
    base.workload.load(base.replica.parameters)
    node = Node(folder, workload=base.workload, replica=base.replica)
    found = node.objections()
    node.close()
    assert all("\n" not in line for line in found)
    return found


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


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("trust-policy.txt", "the trust policy is empty"),
        ("keys/node.key", "is empty, so it is not a key file"),
        ("node.toml", "is empty; write its settings"),
        ("data/corpus.toml", "is empty; write its settings"),
    ],
)
def test_an_empty_file_is_called_empty(
    idle: Path, capsys: pytest.CaptureFixture[str], name: str, said: str
) -> None:
    (idle / name).write_bytes(b"")
    assert run("check", idle) == 64
    told = capsys.readouterr().err
    assert told.startswith(f"tapestry: {idle / name}")
    assert said in told
