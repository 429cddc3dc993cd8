"""``tapestry node status``, ``pause``, ``resume`` and ``leave``, as typed."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tapestry.encrypted_keys import load_key, save_encrypted
from tapestry.storage.file_lock import lock_file
from tapestry_governance.events.envelope import open_entry
from tapestry_governance.events.member_events import MemberLeft
from tapestry_governance.key_turn import NEXT
from tapestry_node.member_exit import Exit
from tapestry_node.status_file import LOCK, StatusFile, read_told
from tests.support.commands import tapestry
from tests.support.federation import NAMES
from tests.support.federation_fixtures import Found
from tests.support.node_folders import NAME, OTHER, change, connect, run
from tests.support.processes import environment, process
from tests.support.superlink import SuperLink

pytestmark = pytest.mark.slow

PHRASE = "correct horse battery staple"
ENDS = datetime(2040, 1, 1, tzinfo=UTC)
SECONDS = 300.0


def until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.1)


def state(folder: Path) -> str:
    found: str = json.loads(run("status", folder, "--json").stdout)["state"]
    return found


def test_ready_is_an_exit_status_for_a_probe(idle: Path) -> None:
    done = run("status", idle, "--ready")
    assert (done.exit_code, done.stdout.count("\n")) == (3, 1)
    status = StatusFile(idle, superlink="there:1")
    status.connection(None, ENDS)
    assert run("status", idle, "--ready").exit_code == 3  # nobody serves it
    with lock_file(idle / LOCK):
        done = run("status", idle, "--ready")
        assert (done.exit_code, done.stdout[:9]) == (0, "connected")
        assert run("pause", idle).exit_code == 0
        assert run("status", idle, "--ready").exit_code == 0  # it still cosigns
    assert run("status", idle).exit_code == 0
    done = run("status", idle, "--ready", "--watch")
    assert done.exit_code == 64
    assert "[usage]" in done.stderr


def test_json_and_lines_say_the_same(idle: Path) -> None:
    StatusFile(idle, superlink="there:1").connection(None, ENDS)
    found = json.loads(run("status", idle, "--json").stdout)
    assert (found["name"], found["state"]) == (NAME, "killed")
    assert (found["ready"], found["superlink"]) == (False, "there:1")
    assert "killed      it was connected" in run("status", idle).stdout


def test_pause_and_resume_say_what_was_and_write_one_file(idle: Path) -> None:
    before = {*idle.iterdir()}
    assert run("pause", idle).stdout.startswith("paused from now on")
    assert {*idle.iterdir()} - before == {idle / "paused"}
    assert run("pause", idle).stdout.startswith("paused since 20")
    assert "paused      since 20" in run("status", idle).stdout
    assert run("resume", idle).stdout.startswith("resumed: paused since 20")
    assert run("resume", idle).stdout == "not paused: nothing was changed\n"
    for verb, paused in (("pause", True), ("resume", False)):
        first, again = (json.loads(run(verb, idle, "--json").stdout) for _ in "12")
        assert first["paused"] is again["paused"] is paused
        assert (first["before"] is None, again["before"] is None) == (
            paused,
            not paused,
        )
    assert {*idle.iterdir()} == before


@pytest.mark.parametrize("verb", ["pause", "resume", "status", "leave"])
def test_a_folder_that_is_none_of_a_node_is_told(tmp_path: Path, verb: str) -> None:
    done = run(verb, tmp_path)
    assert done.exit_code == 64
    assert "node.toml" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_check_shows_hours_limits_and_pause(idle: Path, engine: SuperLink) -> None:
    connect(idle, engine)
    hours = {"days": ["mon"], "from": "20:00", "to": "06:00", "timezone": "UTC"}
    limits = {"upload_mbit": 50, "disk_free_gib": 1_000_000}
    change(idle, {"hours": hours})
    run("pause", idle)
    done = run("check", idle)
    assert done.exit_code == 0, done.stdout
    assert "; mon from 20:00 to 06:00 in UTC" in done.stdout
    assert "\nwarning   paused since 20" in done.stdout
    assert "\nlimits" not in done.stdout
    change(idle, {"limits": limits})
    done = run("check", idle)
    assert done.exit_code == 2
    assert "\nlimits    uploads 50 Mbit/s; no new work below 1000000" in done.stdout
    assert "limits.disk_free_gib is 1000000; make room [disk-free-low]" in done.stdout
    found = json.loads(run("check", idle, "--json").stdout)
    assert found["limits"] == limits
    assert "node-paused" in [each["code"] for each in found["warning"]]


def lock_root(folder: Path, secrets: Path) -> Path:
    """Put a root key under a passphrase, as node init does; returns its file."""
    path = folder / "keys" / "root.key"
    key = load_key(path, passphrase=None)
    path.unlink()
    save_encrypted(key, path, passphrase=PHRASE)
    secrets.mkdir()
    file = secrets / "phrase"
    file.write_text(PHRASE + "\n")
    file.chmod(0o600)
    return file


def test_an_institution_leaves_by_its_locked_root_key(
    used: Path, tmp_path: Path
) -> None:
    phrase = lock_root(used, tmp_path / "secrets")
    done = run("leave", used, "--passphrase-file", str(phrase))
    assert done.exit_code == 64
    assert f"give --confirm {NAME} [confirmation-missing]" in done.stderr
    words = ("--passphrase-file", str(phrase), "--confirm")
    done = run("leave", used, *words, OTHER)
    assert (done.exit_code, Exit(used).signed_before()) == (64, None)
    assert "[name-not-confirmed]" in done.stderr
    done = run("leave", used, *words, NAME)
    assert done.exit_code == 0, done.stderr
    entry = Exit(used).signed_before()
    assert entry == (used / f"{NAME}.left").read_bytes()
    assert "leaves      " in run("status", used).stdout
    assert "member-leaves" in run("check", used).stdout
    again = run("leave", used)  # it asks for nothing: it was signed
    assert again.exit_code == 0
    assert Exit(used).signed_before() == entry


def test_a_person_types_the_name(used: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tapestry_node.operator_commands.is_terminal", lambda: True)
    done = tapestry("node", "leave", used, typed="yes\n")
    assert done.exit_code == 64
    assert "for good" in done.stderr
    assert "'yes' is not" in done.stderr
    done = tapestry("node", "leave", used, typed=f"{NAME}\n")
    assert done.exit_code == 0, done.stderr


def test_an_exit_is_signed_where_the_root_key_is_and_handed_in_here(
    used: Path, tmp_path: Path
) -> None:
    vault = tmp_path / "vault"
    vault.mkdir()
    key = vault / "root.key"
    (used / "keys" / "root.key").rename(key)
    done = run("leave", used, "--confirm", NAME)
    assert done.exit_code == 3
    assert "[key-missing]" in done.stderr
    request, signed = used / f"{NAME}.request", vault / "exit"
    alone = ("--root-key", str(key), "--request", str(request), "-o", str(signed))
    assert run("leave", vault, *alone, "--confirm", NAME).exit_code == 0
    assert Exit(used).signed_before() is None
    wrong = used.parent / OTHER / f"{OTHER}.request"
    other = ("--root-key", str(key), "--request", str(wrong), "--confirm", OTHER)
    done = run("leave", vault, *other)
    assert (done.exit_code, "[root-key-differs]" in done.stderr) == (64, True)
    done = run("leave", used, "--signed", str(signed), "--confirm", NAME)
    assert done.exit_code == 0, done.stderr
    assert Exit(used).signed_before() == signed.read_bytes()
    assert run("leave", vault, "--request", str(request)).exit_code == 64


def test_an_exit_by_the_command_ends_in_the_log(found: Found) -> None:
    federation = found()
    federation.run()
    folder = federation.nodes[NAME].directory  # the node runs meanwhile
    assert run("leave", folder, "--confirm", NAME).exit_code == 0
    federation.begin_another_run("next")
    federation.run()
    (left,) = [e for e in federation.logged() if isinstance(e.body, MemberLeft)]
    assert left.actor == NAME
    assert open_entry((folder / f"{NAME}.left").read_bytes()).event == left
    first, second = federation.closed()
    assert (NAME in first.included, NAME in second.included) == (True, False)
    done = run("leave", folder)
    assert done.stdout.startswith("left    by entry ")
    assert NAME not in federation.view(NAMES[1]).logged.members


def test_watch_tells_a_line_for_each_change_and_ends_as_interrupted(
    idle: Path,
) -> None:
    status = StatusFile(idle, superlink="there:1")
    for purpose in ("node", "witness"):  # two lines of one label
        (idle / "keys" / f"{purpose}{NEXT}").touch()
    with (
        lock_file(idle / LOCK),
        process("node", "status", idle, "--watch") as watch,
    ):
        assert watch.stdout is not None
        first = [watch.stdout.readline() for _ in range(12)]
        assert sum("  new key " in each for each in first) == 2
        status.connection(None, ENDS)
        line = watch.stdout.readline()
        assert any("starting" in each for each in first)
        assert "  connected   to there:1 since " in line
        watch.send_signal(signal.SIGINT)
        rest, _ = watch.communicate(timeout=SECONDS)
        assert watch.returncode == 130
        assert len(rest.splitlines()) <= 2  # "work" and "certificate"


def test_a_process_tells_how_it_is_from_its_start_to_its_end(
    idle: Path, engine: SuperLink
) -> None:
    """Connected, waiting for a coordinator that is away, stopped, killed, refused."""
    connect(idle, engine)
    with process("node", "run", idle) as node:
        until(lambda: run("status", idle, "--ready").exit_code == 0)
        assert f"connected   to {engine.address} since" in run("status", idle).stdout
        assert run("pause", idle).exit_code == 0
        node.send_signal(signal.SIGTERM)
        assert node.wait(SECONDS) == 0
    assert state(idle) == "stopped"
    with process("node", "run", idle, "--superlink", "127.0.0.1:9") as node:
        until(lambda: state(idle) == "waiting")
        told = read_told(idle)
        assert told is not None
        assert told.code == "superlink-away"
        with process("node", "run", idle) as second:
            assert second.wait(SECONDS) == 64
        assert state(idle) == "waiting"
        node.kill()
        _, log = node.communicate()
        assert f"waiting for the coordinator: {told.words} [superlink-away]" in log
    assert state(idle) == "killed"
    change(idle, {"genesis": "sha256:" + "0" * 64})
    (idle / "data" / "text.jsonl").write_text('{"text": "another text"}\n')
    with process("node", "run", idle) as node:
        until(lambda: state(idle) == "refusing")  # and says so for ten minutes
        node.send_signal(signal.SIGTERM)
        _, log = node.communicate(timeout=SECONDS)
        assert node.returncode != 0
    _require_failed(idle, log)


def _require_failed(folder: Path, log: str) -> None:
    found = json.loads(run("status", folder, "--json").stdout)
    assert found["state"] == "failed"
    assert f"{found['words']} [{found['code']}]" in " ".join(log.split())


def test_watch_redraws_on_a_terminal(idle: Path) -> None:
    StatusFile(idle, superlink="there:1").connection(None, ENDS)
    ours, theirs = pty.openpty()
    words = [sys.executable, "-m", "tapestry", "node", "status", str(idle), "--watch"]
    path = os.pathsep.join(filter(None, sys.path))
    env = environment(PYTHONPATH=path, TERM="xterm", COLUMNS="120", LINES="40")
    with subprocess.Popen(
        words, stdin=theirs, stdout=theirs, stderr=theirs, env=env
    ) as w:
        os.close(theirs)
        said = b""
        try:
            while said.count(b"killed      it was connected") < 2:  # drawn twice
                said += os.read(ours, 256)  # and little of a third time
            w.send_signal(signal.SIGINT)
            assert w.wait(SECONDS) == 130
        finally:
            w.kill()
            os.close(ours)
    assert b"\x1b[" in said
    assert said.count(b"\n") < 60
