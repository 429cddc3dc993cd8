import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tapestry_coordinator.superlink import processes
from tapestry_coordinator.superlink.processes import Child, ChildGroup
from tests.support.process_families import lives, wait_until

SLEEP = "import time; print('ready', flush=True); time.sleep(300)"


def child(tmp_path: Path, code: str) -> Child:
    return Child(
        [sys.executable, "-c", code], log=tmp_path / "log", environment=dict(os.environ)
    )


def test_output_goes_to_the_log(tmp_path: Path) -> None:
    one = child(tmp_path, "print('hello')")
    wait_until(lambda: not one.alive)
    assert (tmp_path / "log").read_text() == "hello\n"


def test_a_log_that_became_large_is_begun_anew_under_its_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, older, go = (tmp_path / name for name in ("log", "log.1", "go"))
    one = child(
        tmp_path,
        "import pathlib, time; print('x' * 100, flush=True)\n"
        f"while not pathlib.Path({str(go)!r}).exists(): time.sleep(0.01)\n"
        "print('after', flush=True); time.sleep(300)",
    )
    wait_until(lambda: log.stat().st_size == 101)
    assert not one.tend()
    assert not older.exists()
    monkeypatch.setattr(processes, "_MOST_BYTES", 100)
    assert not one.tend()
    assert older.read_text() == "x" * 100 + "\n"
    go.touch()
    wait_until(lambda: log.read_text() == "after\n")
    one.end(0.1)


def test_what_ended_is_started_again_but_not_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_QUICK_DEATH", 3600.0)
    one = child(tmp_path, "pass")
    before = one.pid
    assert not one.tend()
    wait_until(lambda: not one.alive)
    assert not one.tend()
    monkeypatch.setattr(processes, "_QUICK_DEATH", 0.0)
    assert one.tend()
    assert one.pid != before
    one.end(10)


def test_who_does_not_listen_is_killed(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    code = (
        "import pathlib, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        f"pathlib.Path({str(ready)!r}).touch(); time.sleep(300)"
    )
    one = child(tmp_path, code)
    wait_until(ready.exists)
    one.ask_to_end()
    assert one.alive
    one.end(0.1)
    assert not one.alive


@pytest.mark.skipif(sys.platform != "linux", reason="a promise of the Linux kernel")
def test_a_child_ends_when_we_are_killed(tmp_path: Path) -> None:
    code = (
        "import os, sys, time, pathlib\n"
        "from tapestry_coordinator.superlink.processes import Child\n"
        "child = Child([sys.executable, '-c', 'import time; time.sleep(300)'],\n"
        "              log=pathlib.Path(sys.argv[1]), environment=dict(os.environ))\n"
        "print(child.pid, flush=True); time.sleep(300)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "log")], stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
    wait_until(lambda: not lives(pid))


@pytest.mark.slow
def test_a_group_keeps_its_children_up_and_ends_them_all(tmp_path: Path) -> None:
    sleeps, environment = [sys.executable, "-c", SLEEP], dict(os.environ)
    with ChildGroup(tmp_path) as group:
        for name in ("one", "other"):
            group.start(name, sleeps, environment)
        before = group.pids
        assert ("one" in group, "third" in group) == (True, False)
        wait_until(lambda: "ready" in group["one"].last_words)
        os.kill(before["one"], signal.SIGKILL)
        wait_until(lambda: group["one"].status == -signal.SIGKILL)
        wait_until(lambda: group.tend() == ["one"])
        assert group.pids["other"] == before["other"]
        assert group.processes == 2
        children = [psutil.Process(pid) for pid in group.pids.values()]
    assert group.processes == 0
    assert not any(process.is_running() for process in children)
