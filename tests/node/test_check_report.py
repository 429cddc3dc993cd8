"""``tapestry node check``: all faults at once, the first line early, and no trace."""

import json
import os
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from tapestry.keys import SigningKey
from tapestry_coordinator.superlink import tls
from tapestry_coordinator.superlink.tls import make_server_certificate
from tapestry_node.folder_check import KINDS
from tapestry_node.node_state import DATABASE, NodeState
from tests.support.federation import Base
from tests.support.node_folders import TRANSPORT, change, connect, opened, run
from tests.support.superlink import SuperLink, superlink

Kept = dict[str, tuple[int, int, bytes]]


def kept(folder: Path) -> Kept:
    """Return mode, time and bytes of all that a folder holds, but of ``-shm`` files."""
    found = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        seen = path.stat()
        content = path.read_bytes() if path.is_file() else b""
        if not path.name.endswith("-shm"):
            found[str(path)] = (seen.st_mode, seen.st_mtime_ns, content)
    return found


def without_state(folder: Path) -> None:
    for path in [*folder.glob("node.*"), *folder.glob("view.db*")]:
        if path.name != "node.toml":
            path.unlink()


@pytest.mark.parametrize("begun", [True, False], ids=["served", "never served"])
def test_a_check_writes_nothing(used: Path, engine: SuperLink, begun: bool) -> None:
    node_id = connect(used, engine)
    if not begun:
        without_state(used)
    before, status = kept(used), engine.status(node_id)
    done = run("check", used)
    assert (done.exit_code, done.stderr) == (0, "")
    assert kept(used) == before
    assert engine.status(node_id) == status == ("registered", "", "")


def test_a_check_beside_a_running_node_reads_and_says_so(
    used: Path, base: Base, engine: SuperLink
) -> None:
    connect(used, engine)
    node = opened(used, base)
    before = kept(used)
    done = run("check", used)
    assert done.exit_code == 0
    assert "warning   another process serves" in done.stdout
    assert kept(used) == before
    node.close()


def test_a_check_freezes_no_data(idle: Path, engine: SuperLink) -> None:
    connect(idle, engine)
    without_state(idle)
    assert run("check", idle).exit_code == 0
    with (idle / "data" / "text.jsonl").open("a") as file:
        file.write('{"text": "one more"}\n')
    assert run("check", idle).exit_code == 0


def test_data_that_are_not_the_ledgers_are_refused_as_before(
    used: Path, engine: SuperLink
) -> None:
    connect(used, engine)
    with (used / "data" / "text.jsonl").open("a") as file:
        file.write('{"text": "one more"}\n')
    done = run("check", used)
    assert done.exit_code == 2
    assert f"refused   {used / 'data'} was changed: 1 of its records are" in done.stdout
    assert "one more" not in done.stdout


def test_all_faults_come_at_once_without_a_network(used: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    change(used, {"transport": {"superlink": address}, "country": ""})
    change(used, {"policy": {"bases": ["sha256:" + "0" * 64]}})
    (used / "keys" / "node.key").write_bytes(b"")
    (used / "keys" / "community.key").unlink()
    head = used / f"{DATABASE}.mirror"
    head.write_bytes(head.read_bytes()[:-65] + b"0" * 64 + b"\n")
    done = run("check", used, "--json")
    found = json.loads(done.stdout)
    codes = {kind: [each["code"] for each in found[kind]] for kind in KINDS}
    assert codes["missing"] == ["superlink-away"]
    assert codes["refused"] == [
        "key-file-invalid",
        "file-unreadable",
        "base-not-allowed",
        "setting-invalid",
    ]
    assert found["budget"] is None
    assert codes["failed"] == ["state-head-differs"]
    assert done.exit_code == 1
    assert not found["ready"]


def test_a_base_that_is_missing_hides_no_fault_of_the_data(
    idle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # bases are opened by name again
    change(idle, {"base": "gone"})
    (idle / "data" / "text.jsonl").write_text('{"text": 7}\n')
    done = run("check", idle)
    assert done.exit_code == 2
    assert "refused   no base 'gone'" in done.stdout
    assert "text.jsonl, line 1: " in done.stdout


def test_a_manifest_outside_of_the_data_is_checked(idle: Path) -> None:
    about, path = idle / "about.toml", idle / "node.toml"
    text = (idle / "data" / "corpus.toml").read_text()
    (idle / "data" / "corpus.toml").rename(about)
    path.write_text(f'manifest = "about.toml"\n{path.read_text()}')
    assert "24 records in 1 file" in run("check", idle).stdout
    about.write_text(f"{text}[columns]\n")
    done = run("check", idle)
    assert f"refused   {about}: columns: want text, or messages" in done.stdout
    about.unlink()
    done = run("check", idle)
    assert f"refused   {idle} has no about.toml; write one with" in done.stdout


def test_a_stray_file_among_the_data_is_one_line_and_is_left_alone(
    idle: Path, engine: SuperLink
) -> None:
    connect(idle, engine)
    stray = idle / "data" / "notes.docx"
    stray.write_text("private")
    before = kept(idle)
    done = run("check", idle)
    assert done.exit_code == 2
    (line,) = [each for each in done.stdout.splitlines() if "notes.docx" in each]
    assert line.startswith(f"refused   {stray}: is not .txt, .jsonl, ")
    assert line.endswith("[file-not-expected]")
    assert done.stdout.count("refused ") == 1
    assert kept(idle) == before


def test_read_only_data_without_a_manifest_are_one_line_with_the_way_out(
    idle: Path, engine: SuperLink
) -> None:
    connect(idle, engine)
    data = idle / "data"
    (data / "corpus.toml").unlink()
    data.chmod(0o555)
    before = kept(idle)
    done = run("check", idle)
    assert done.exit_code == 2
    (line,) = [each for each in done.stdout.splitlines() if "refused " in each]
    assert line.startswith(f"refused   {data} has no corpus.toml; write one with ")
    assert "there or where manifest in node.toml says" in line
    assert kept(idle) == before
    data.chmod(0o755)


def test_missing_data_hide_no_fault_of_base_and_keys(idle: Path) -> None:
    without_state(idle)
    (idle / "data").rename(idle / "elsewhere")
    change(idle, {"policy": {"bases": ["sha256:" + "0" * 64]}, "name": "other"})
    said = run("check", idle).stdout
    codes = ("folder-missing", "base-not-allowed", "key-of-another-node")
    assert [said.count(f"[{code}]\n") for code in codes] == [1, 1, 1]


def test_a_log_of_another_genesis_is_a_failed_proof(
    used: Path, engine: SuperLink
) -> None:
    connect(used, engine)
    change(used, {"genesis": "sha256:" + "1" * 64})
    done = run("check", used)
    assert done.exit_code == 1
    assert "[genesis-differs]\n" in done.stdout
    assert done.stdout.count("failed ") == 1


def test_a_state_older_than_the_log_is_a_failed_proof(
    used: Path, engine: SuperLink
) -> None:
    connect(used, engine)
    for path in used.glob("node.db*"):
        path.unlink()
    done = run("check", used)
    assert done.exit_code == 1
    assert "[state-restored]\n" in done.stdout
    assert not (used / DATABASE).exists()


def test_a_key_of_another_member_is_refused_by_the_log(
    used: Path, engine: SuperLink
) -> None:
    connect(used, engine)
    path = used / "keys" / "witness.key"
    path.unlink()
    SigningKey.generate("stranger/witness").save(path)
    done = run("check", used)
    assert done.exit_code == 2
    assert "keys/witness.key is of no member" in done.stdout


def test_a_key_that_the_superlink_does_not_know_is_named(
    idle: Path, engine: SuperLink
) -> None:
    (idle / "authority.pem").write_bytes(engine.authority.read_bytes())
    change(idle, {"transport": {"superlink": engine.address}})
    done = run("check", idle)
    assert done.exit_code == 3
    key = idle / TRANSPORT["auth_key"]
    said = f"the coordinator does not know {key}; send it {key}.pub again"
    assert f"missing   {said} [transport-key-unknown]\n" in done.stdout


def test_a_certificate_that_ends_soon_is_a_warning(
    idle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_LIFETIME", "_AUTHORITY_LIFETIME"):
        monkeypatch.setattr(tls, name, timedelta(days=20))
    with superlink(make_server_certificate(tmp_path / "soon")) as link:
        connect(idle, link)
        done = run("check", idle)
    assert done.exit_code == 0
    assert done.stdout.count("[certificate-ends-soon]") == 2  # authority and server
    assert f"the certificate of {link.address} ends on" in done.stdout
    assert done.stdout.endswith("\nready\n")


def test_an_authority_that_has_expired_is_refused_without_a_connection(
    idle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "_AUTHORITY_LIFETIME", timedelta(minutes=-30))
    files = make_server_certificate(tmp_path / "old")
    (idle / "authority.pem").write_bytes(files.authority.read_bytes())
    done = run("check", idle)
    assert done.exit_code == 2
    assert "authority.pem has expired on" in done.stdout
    assert "[certificate-expired]\n" in done.stdout


EARLY = """
import sys, threading
from tapestry.cli import console

def say(line, said=console.say):
    said(f"{line} {'torch' in sys.modules} {'flwr' in sys.modules}")

console.say = say
from tapestry.cli import main
main(["node", "check", sys.argv[1]])
"""


@pytest.mark.slow
def test_the_first_lines_come_before_anything_slow_is_loaded(idle: Path) -> None:
    """Through a pipe, each as soon as it is known."""
    with subprocess.Popen(
        [sys.executable, "-c", EARLY, str(idle)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = process.stdout.read().splitlines()
    loaded = {line.split()[0]: line.split()[-2:] for line in lines}
    for label in ("node", "base", "policy", "keys"):
        assert loaded[label] == ["False", "False"], lines
    assert loaded["transport"] == ["False", "True"]
    assert loaded["budget"] == ["True", "True"]


def test_the_state_of_a_node_is_read_where_no_file_may_be_made(used: Path) -> None:
    before = kept(used)
    NodeState(used / DATABASE, readonly="still").close()
    assert kept(used) == before
    assert not list(used.glob("*-shm"))
