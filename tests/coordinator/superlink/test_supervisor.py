"""The engine as it runs: a SuperLink, TLS, registered keys, four node processes.

One engine serves all tests of this module. Some of them kill processes, and the tests
after them need the engine in full order.
"""

import functools
import json
import os
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tapestry.errors import IncompleteError, QuorumError, ResourceError
from tapestry.protocol.messages import Message
from tapestry.transport_keys import make_transport_key, transport_digest
from tapestry_coordinator.superlink.outcome import clear_outcome, read_outcome
from tapestry_coordinator.superlink.supervisor import Engine, Site
from tapestry_node.flower import serve, try_connection
from tests.support.enrolled import enroll
from tests.support.flwr_command import flwr, write_connection
from tests.support.process_families import lives, wait_until
from tests.support.refusals import refused

HERE = Path(__file__).parent
NAMES = ("be", "de", "fr", "it")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    home = tmp_path_factory.mktemp("engine")
    path = os.pathsep.join([str(HERE), *filter(None, sys.path)])  # the code under test
    with Engine(home, environment={"PYTHONPATH": path}) as engine:
        for name in NAMES:
            site = enroll(engine, name, home / "keys" / name)
            engine.start_node(name, node_command(name, site))
        yield engine
    assert not [process for process in children() if process.is_running()]


def children() -> list[Any]:
    found = psutil.Process().children(recursive=True)
    return [process for process in found if lives(process.pid)]


def words_of(process: Any) -> str:
    """The command line of a process, empty if it has just ended."""
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def connections_of(process: Any) -> list[Any]:
    with suppress(psutil.Error):  # it has just ended
        return list(process.net_connections())
    return []


def node_command(name: str, site: Site) -> list[str]:
    script = str(HERE / "echo_node.py")
    files = [str(site.root_certificates), str(site.auth_key)]
    return [sys.executable, script, name, site.superlink, *files]


def step(**fields: Any) -> dict[str, Any]:
    return {"body": {}, "deadline": 40.0} | fields


def run(
    engine: Engine,
    directory: Path,
    steps: Sequence[dict[str, Any]],
    *,
    tick: Callable[[], None] | None = None,
    **plan: Any,
) -> list[dict[str, Any]]:
    text = json.dumps({"nodes": len(NAMES), "steps": steps} | plan)
    (directory / "plan.json").write_text(text)
    engine.run(directory, app="echo_app:app", tick=tick)
    return [
        json.loads((directory / f"step-{number}.json").read_text())
        for number in range(len(steps))
    ]


def within_the_second_step(
    directory: Path, act: Callable[[], None]
) -> Callable[[], None]:
    """Act once, when the first step is done and the second one begins."""
    acts = iter([act])

    def tick() -> None:
        if (directory / "step-0.json").exists():
            next(acts, lambda: None)()

    return tick


def test_every_node_answers_every_time(engine: Engine, tmp_path: Path) -> None:
    for note in run(engine, tmp_path, [step()] * 8):
        assert note["kinds"] == dict.fromkeys(NAMES, "receipt")


def test_forty_megabytes_come_back_unchanged(engine: Engine, tmp_path: Path) -> None:
    (note,) = run(engine, tmp_path, [step(blocks=40, deadline=120.0)])
    assert sorted(note["kinds"]) == list(NAMES)
    assert note["same"]


def test_equal_attachments_are_not_merged(engine: Engine, tmp_path: Path) -> None:
    (note,) = run(engine, tmp_path, [step(blocks=9, distinct=False)])
    assert sorted(note["kinds"]) == list(NAMES)
    assert note["same"]


def test_an_exception_without_a_receipt_leaves_no_trace(
    engine: Engine, tmp_path: Path
) -> None:
    silent, on_time = run(
        engine, tmp_path, [step(body={"fail": "bug"}, deadline=1.0), step()]
    )
    assert silent["kinds"] == {}
    assert sorted(on_time["kinds"]) == list(NAMES)


def test_the_deadline_holds_when_nodes_are_slow(engine: Engine, tmp_path: Path) -> None:
    late, on_time = run(
        engine, tmp_path, [step(body={"sleep": "3"}, deadline=1.0), step()]
    )
    assert late["kinds"] == {}
    assert sorted(on_time["kinds"]) == list(NAMES)


def test_a_killed_node_is_started_and_asked_again(
    engine: Engine, tmp_path: Path
) -> None:
    wish = {"die": "fr", "mark": str(tmp_path / "killed")}
    before = engine.pids["fr"]
    (note,) = run(engine, tmp_path, [step(body=wish)])
    assert engine.pids["fr"] != before
    assert sorted(note["kinds"]) == list(NAMES)


def test_a_node_killed_amid_its_reply_is_asked_again(
    engine: Engine, tmp_path: Path
) -> None:
    wish = {"die": "fr", "mark": str(tmp_path / "killed"), "pieces": "20"}
    before = engine.pids["fr"]
    (note,) = run(engine, tmp_path, [step(body=wish, blocks=60, deadline=150.0)])
    assert engine.pids["fr"] != before
    assert sorted(note["kinds"]) == list(NAMES)
    assert note["same"]


def test_a_killed_superlink_costs_one_run_and_no_step(
    engine: Engine, tmp_path: Path
) -> None:
    before = engine.pids
    done = run(
        engine,
        tmp_path,
        [step(), step(body={"sleep": "6"}), step()],
        tick=within_the_second_step(
            tmp_path, lambda: os.kill(engine.pids["superlink"], signal.SIGKILL)
        ),
    )
    assert engine.pids["superlink"] != before["superlink"]
    assert [engine.pids[name] for name in NAMES] == [before[name] for name in NAMES]
    assert [sorted(note["kinds"]) for note in done] == [list(NAMES)] * 3


def test_a_killed_coordinator_goes_on_in_another_run(
    engine: Engine, tmp_path: Path
) -> None:
    def kill() -> None:
        (app,) = (p for p in children() if "guarded_serverapp" in words_of(p))
        app.kill()

    done = run(
        engine,
        tmp_path,
        [step(), step(body={"sleep": "6"}), step()],
        tick=within_the_second_step(tmp_path, kill),
    )
    assert [sorted(note["kinds"]) for note in done] == [list(NAMES)] * 3


def test_an_error_that_ends_the_coordinator_is_raised_with_its_code(
    engine: Engine, tmp_path: Path
) -> None:
    with refused(QuorumError, "quorum-not-reached", match="2 of 3 nodes"):
        run(engine, tmp_path, [], end="quorum")


def test_a_node_that_is_not_registered_keeps_trying_and_does_no_harm(
    engine: Engine, tmp_path: Path
) -> None:
    key = tmp_path / "stranger"
    make_transport_key(key)
    site, stop, asked = engine.site(key), threading.Event(), []

    def handle(request: Message, _connection: str) -> Message:
        asked.append(request)
        return request

    def stranger() -> None:
        serve(
            handle,
            superlink=site.superlink,
            root_certificates=site.root_certificates,
            auth_key=key,
            stop=stop,
        )

    thread = threading.Thread(target=stranger)
    thread.start()
    try:
        (note,) = run(engine, tmp_path, [step()])
        assert thread.is_alive()
    finally:
        stop.set()
        thread.join(120)
    assert not thread.is_alive()
    assert sorted(note["kinds"]) == list(NAMES)
    assert asked == []


@pytest.mark.parametrize("changed", ["code", "directory"])
def test_a_bundle_that_is_not_ours_is_not_run(
    engine: Engine, tmp_path: Path, changed: str
) -> None:
    run(engine, tmp_path, [])
    clear_outcome(tmp_path)
    mark, bundle = tmp_path / "mark", tmp_path / "bundle"
    shutil.copytree(engine.home / "bundle", bundle)
    (tmp_path / "other").mkdir()
    options = []
    if changed == "code":
        code = f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n"
        (bundle / "echo_app.py").write_text(code + "app = None\n")
    else:
        options = ["--run-config", f"directory='{tmp_path / 'other'}'"]
    home = tmp_path / "home"
    write_connection(home, engine.address, authority=engine.home / "tls/authority.pem")
    words = ("run", str(bundle), "local", *options)
    run_id = flwr(*words, home=home, search=str(HERE))["run-id"]
    wait_until(lambda: engine.has_finished(int(run_id)))
    (row,) = (
        r for r in flwr("list", "local", home=home)["runs"] if r["run-id"] == run_id
    )
    assert row["status"] == "finished:failed"
    assert not mark.exists()
    assert read_outcome(tmp_path) is None
    assert list((tmp_path / "other").iterdir()) == []


def test_a_port_in_use_is_told_in_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with refused(ResourceError, "port-unavailable", match=f"^port {port} [^\n]*$"):
            Engine(tmp_path, port=port).start()


@pytest.mark.usefixtures("engine")
def test_nothing_of_flower_listens_beyond_the_loopback() -> None:
    listening = [
        connection.laddr.ip
        for process in children()
        for connection in connections_of(process)
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening
    assert set(listening) == {"127.0.0.1"}


def test_a_member_may_connect_by_another_key(engine: Engine) -> None:
    """Its name is taken already; so it is when a transport key was rotated."""
    for file in ("first", "second"):
        site = enroll(engine, "xx", engine.home / "keys" / file)
        try_connection(
            superlink=site.superlink,
            root_certificates=site.root_certificates,
            auth_key=site.auth_key,
        )


def test_a_stolen_key_connects_no_more_also_after_a_restart(
    engine: Engine,
) -> None:
    site = enroll(engine, "zz", engine.home / "keys" / "stolen")
    connect = functools.partial(
        try_connection,
        superlink=site.superlink,
        root_certificates=site.root_certificates,
        auth_key=site.auth_key,
    )
    connect()
    public = (engine.home / "keys" / "stolen.pub").read_text().strip()
    engine.bar(frozenset({transport_digest(public)}))
    with refused(IncompleteError, "transport-key-unknown"):
        connect()
    os.kill(engine.pids["superlink"], signal.SIGKILL)
    wait_until(lambda: "superlink" in engine.tend())
    with refused(IncompleteError, "transport-key-unknown"):
        connect()
    other = enroll(engine, "zz", engine.home / "keys" / "new")
    try_connection(
        superlink=other.superlink,
        root_certificates=other.root_certificates,
        auth_key=other.auth_key,
    )


class Failing(Engine):
    """Its runs end without an outcome; the pauses are noted and not waited for."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.pauses: list[float] = []

    def _submit(self, *_: Any) -> int:
        return len(self.pauses)

    def _watch(self, *_: Any) -> None:
        return

    def _forget(self, run_id: int) -> None:
        assert run_id == len(self.pauses)

    def _pause(self, seconds: float, tick: Callable[[], None]) -> None:
        self.pauses.append(seconds)
        if len(self.pauses) == 1100:
            tick()


def test_a_service_is_submitted_again_for_ever_and_a_run_a_dozen_times(
    tmp_path: Path,
) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    failing = Failing(tmp_path / "superlink")
    with pytest.raises(KeyboardInterrupt):
        failing.run(tmp_path, tick=stop, for_ever=True)
    assert failing.pauses[:7] == [1, 2, 4, 8, 16, 32, 60]
    failing = Failing(tmp_path / "superlink")
    with refused(ResourceError, "runs-without-outcome", match="12 runs"):
        failing.run(tmp_path)
    assert failing.pauses == []
