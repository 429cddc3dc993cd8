"""A node's status: by its file, its lock and its settings, running or not."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tapestry.encrypted_keys import load_key
from tapestry.errors import ConfigError, ResourceError
from tapestry.storage.file_lock import lock_file
from tapestry_governance.key_turn import sign_rotation
from tapestry_node.availability import pause
from tapestry_node.key_rotation import Rotation
from tapestry_node.node_status import NodeStatus, read_node_status
from tapestry_node.status_file import LOCK, StatusFile, Told, ToldLog, ToldRotation
from tapestry_node.submission import submit
from tests.support.blocked_packages import without
from tests.support.federation import Base
from tests.support.node_folders import NAME, change, opened
from tests.support.refusals import refused

AWAY = ResourceError("no SuperLink listens at there:1", code="superlink-away")
WITHOUT_TORCH = (
    without("torch", "flwr", "scipy", "httpx", "transformers")
    + """
import time

try:
    main(["node", "status", sys.argv[1]])
except SystemExit as end:
    begun = time.process_time()  # from the start of the process on
    sum(range(10**7))
    print("loops", begun / (time.process_time() - begun))
    raise
"""
)


@pytest.fixture
def now() -> datetime:
    """The time at which a test begins, hours after its module was read."""
    return datetime.now(UTC)


@pytest.fixture
def ends(now: datetime) -> datetime:
    return now + timedelta(days=100, hours=1)


def read(folder: Path, *, now: datetime | None = None) -> NodeStatus:
    return read_node_status(folder, now=now or datetime.now(UTC))


def lines(folder: Path, *, now: datetime | None = None) -> dict[str, str]:
    return {line.label: line.text for line in read(folder, now=now).lines()}


def test_a_node_that_never_ran_says_so(idle: Path) -> None:
    said = lines(idle)
    assert said["node"] == f"{NAME} of federation simulated"
    assert "never called here" in said["never started"]
    assert "never started tapestry node run" in " | ".join(map(str, read(idle).lines()))
    assert said["budget"] == "not known before the first start"
    assert said["paused"] == "no"
    assert said["hours"] == "any"
    assert "GiB free" in said["disk"]
    assert not read(idle).ready


def test_each_state_of_the_process_is_told_apart(idle: Path, ends: datetime) -> None:
    status = StatusFile(idle, superlink="there:1")
    with lock_file(idle / LOCK):
        status.starting()
        assert read(idle).state == "starting"
        status.connection(AWAY, ends)
        assert not read(idle).ready
        assert f": {AWAY} [superlink-away]" in lines(idle)["waiting"]
        status.connection(None, ends)
        assert read(idle).ready
        assert lines(idle)["connected"].startswith("to there:1 since ")
        assert lines(idle)["work"] == "waits for the next round"
        assert lines(idle)["certificate"] == "of the SuperLink: 100 days left"
    assert read(idle).state == "killed"
    assert "it was connected from" in lines(idle)["killed"]
    assert not read(idle).ready
    status.ended(None)
    assert read(idle).state == "stopped"
    status.ended(ConfigError("data was changed", code="dataset-differs"))
    assert lines(idle)["failed"].endswith(": data was changed [dataset-differs]")


def test_a_start_after_an_end_is_no_end(idle: Path) -> None:
    """Between taking the lock and telling so, the file is of the process before."""
    StatusFile(idle).ended(None)
    with lock_file(idle / LOCK):
        assert read(idle).state == "starting"


def test_budget_log_and_checkpoint_are_those_of_the_node(
    used: Path, base: Base, now: datetime
) -> None:
    node = opened(used, base)
    StatusFile(used, superlink="there:1").watching(node, node.handle)
    balance, size = node.ledger.balance(), node.mirror.size
    node.close()
    said = lines(used)
    assert said["budget"].startswith(f"epsilon {balance.spent:.4f} of ")
    assert "rounds like the last one fit" in said["budget"]
    assert said["log"].startswith(f"{size} entries, checkpoint ")
    assert said["log"].endswith(" old, of at most 24 h")
    later = lines(used, now=now + timedelta(days=3, hours=1))["log"]
    assert "checkpoint 3 days old" in later
    assert later.endswith("; the next offer has to bring a newer one")


def test_pause_hours_disk_and_exit_are_read_from_the_folder(
    idle: Path, now: datetime, ends: datetime
) -> None:
    hours = {"days": ["mon"], "from": "20:00", "to": "06:00", "timezone": "UTC"}
    limits = {"disk_free_gib": 1_000_000}
    change(idle, {"hours": hours, "limits": limits})
    pause(idle, now=now)
    (idle / f"{NAME}.left").write_bytes(b"")
    StatusFile(idle, superlink="there:1").connection(None, ends)
    with lock_file(idle / LOCK):
        assert lines(idle)["work"] == "rests: it begins no round"
    tuesday = datetime(2026, 12, 1, 12, tzinfo=UTC)
    said = lines(idle, now=tuesday)
    assert said["paused"] == f"since {now:%Y-%m-%d %H:%M} UTC"
    assert said["hours"].startswith("closed until Mon 2026-12-07 20:00 UTC; mon from")
    assert said["disk"].endswith("limits.disk_free_gib is 1000000: no new work")
    assert said["leaves"].endswith(f"{NAME}.left is signed")
    found = read(idle, now=tuesday).to_json()
    assert (found["hours_open"], found["ready"], found["rests"]) == (False, False, True)
    assert found["paused"] in said["paused"]
    assert found["disk_free"] < found["disk_least"]


def test_settings_that_are_none_are_the_answer(idle: Path) -> None:
    (idle / "node.toml").write_text("name = 7\n")
    with refused(ConfigError, "many-faults", match="name: 7 must be text"):
        read(idle)


def test_what_waits_for_the_log_is_told_whether_or_not_the_node_runs(
    used: Path,
) -> None:
    said = lines(used)
    assert "last head " in said["outbox"]
    rotation = Rotation(used, "witness", "compromised", root=used / "keys" / "root.key")
    draft = rotation.draft()
    assert lines(used)["new key"].startswith("witness: its key is made; ")
    root = load_key(used / "keys" / "root.key", passphrase=None)
    submit(used, [sign_rotation(draft, root, now=datetime.now(UTC))])
    later = datetime.now(UTC) + timedelta(hours=3)
    said = lines(used, now=later)
    assert said["new key"] == "witness: in the outbox, compromised"
    assert "1 key.rotated" in said["outbox"]
    assert " wait for the log, up to 3 h; last head 3 h ago" in said["outbox"]
    found = read(used, now=later).to_json()
    assert found["rotations"] == {"witness": "in the outbox, compromised"}
    assert found["outbox"]["kinds"]["key.rotated"] == 1
    assert found["outbox"]["count"] == sum(found["outbox"]["kinds"].values())
    assert 3 * 3600 <= found["outbox"]["oldest_age"] < 4 * 3600
    assert 3 * 3600 <= found["outbox"]["head_age"] < 4 * 3600
    assert found["outbox"]["code"] is None


def test_the_log_says_how_far_a_new_key_is(idle: Path) -> None:
    rotation = ToldRotation(purpose="node", entry=41)
    log = ToldLog(
        entries=50,
        cosigned=None,
        max_age=60,
        left=None,
        rotations=(rotation,),
        release="base-3: candidate; 1 yes, 3 are needed (fr yes)",
    )
    told = Told(state="stopped", since=datetime.now(UTC).isoformat(), log=log)
    (idle / "status.json").write_text(told.model_dump_json())
    said = lines(idle)
    assert said["new key"] == "node: entry 41 of the log, not in force yet"
    assert said["release"] == "base-3: candidate; 1 yes, 3 are needed (fr yes)"
    assert read(idle).to_json()["log"]["release"] == said["release"]


def test_an_outbox_that_cannot_be_read_costs_its_line_alone(used: Path) -> None:
    (used / "node.db").write_bytes(b"nonsense" * 1000)
    said = lines(used)
    assert said["outbox"].endswith("[database-damaged]")
    assert "GiB free" in said["disk"]
    found = read(used).to_json()["outbox"]
    assert found == {"count": None, "code": "database-damaged"}


def test_a_status_takes_no_machine_learning_and_little_time(
    used: Path, base: Base
) -> None:
    node = opened(used, base)
    StatusFile(used, superlink="there:1").watching(node, node.handle)
    node.close()
    before = {path: path.stat().st_mtime_ns for path in used.rglob("*")}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(used)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "budget      epsilon" in done.stdout
    # A loop of ten millions, by which machines differ: here an eighth of a second.
    assert float(done.stdout.split("loops ")[1]) < 8
    assert {path: path.stat().st_mtime_ns for path in used.rglob("*")} == before
