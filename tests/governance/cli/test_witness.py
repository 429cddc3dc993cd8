"""``tapestry witness`` as a shell and a client by others see it."""

import http.client
import json
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from tapestry.keys import SigningKey, VerifyKey
from tapestry_governance.log.writer import Log
from tests.support.commands import tapestry
from tests.support.cosigning import LOG_KEY, entry, publish
from tests.support.founding_place import ok, refuses
from tests.support.go_programs import build_go
from tests.support.log_world import World
from tests.support.outside_witness import MAIN, make_witness, trust_of
from tests.support.ports import free_port

CLIENT = Path(__file__).parents[2] / "support" / "witness_client"


@pytest.fixture
def address() -> str:
    return f"127.0.0.1:{free_port()}"


@contextmanager
def running(folder: Path, address: str) -> Iterator[subprocess.Popen[str]]:
    """Run a witness as a process of its own, until it listens."""
    words = ["witness", "run", folder, "--listen", address]
    with subprocess.Popen(
        [sys.executable, "-m", "tapestry", *map(str, words)],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        try:
            line = process.stderr.readline()
            assert line == f"listening at {address}\n"
            yield process
        finally:
            process.kill()


def post(address: str, body: bytes) -> tuple[int, bytes]:
    with closing(http.client.HTTPConnection(address, timeout=60)) as client:
        client.request("POST", "/add-checkpoint", body)
        reply = client.getresponse()
        return reply.status, reply.read()


def test_init_prints_what_a_policy_takes_and_takes_trust_later(tmp_path: Path) -> None:
    folder, url = tmp_path / "archive", "https://archive.example/witness"
    words = ("witness", "init", folder, "--name", "archive", "--url", url)
    first = ok(tapestry(*words)).stdout
    assert "--trust" in first
    assert ok(tapestry(*words)).stdout == first
    (line,) = [row for row in first.splitlines() if row.startswith("policy")]
    told = json.loads(ok(tapestry(*words, "--json")).stdout)
    key = VerifyKey.parse(told["key"])
    named = tomllib.loads(line.removeprefix("policy  "))
    policy = World().policy(witnesses=tuple(named["witnesses"]))
    assert [(w.name, w.key, w.url) for w in policy.witnesses] == [
        ("archive", str(key), url)
    ]
    (tmp_path / "trust.txt").write_bytes(trust_of(key, url=url).encode())
    said = ok(tapestry(*words, "--trust", tmp_path / "trust.txt")).stdout
    assert "tapestry witness run" in said


def test_wrong_words_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    refuses(tapestry("witness", "init", folder, "--name", "A b"), 64, "name-invalid")
    make_witness(folder)
    for listen in ("0.0.0.0:1", "8444", ""):
        refuses(tapestry("witness", "run", folder, "--listen", listen), 64, "usage")


def test_sign_writes_a_line_that_ends_a_checkpoint(tmp_path: Path) -> None:
    key = make_witness(tmp_path / "archive")
    with Log.create(tmp_path / "log", key=LOG_KEY) as log:
        log.append([entry(n) for n in range(7)])
        publish(log)
    public, line = tmp_path / "log" / "public", tmp_path / "line"
    words = ("witness", "sign", tmp_path / "archive", "--log", public, "-o", line)
    ok(tapestry(*words))
    note = (public / "checkpoint").read_bytes() + line.read_bytes()
    assert len(trust_of(key).open_published(note).cosignatures) == 4
    said = ok(tapestry(*words, "--json")).stdout  # again, with a newer time
    assert json.loads(said) == {"line": str(line)}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_answers_until_it_is_stopped_and_remembers(
    tmp_path: Path, address: str, number: signal.Signals
) -> None:
    make_witness(tmp_path / "archive")
    with running(tmp_path / "archive", address) as process:
        assert post(address, MAIN.body(0, 7))[0] == 200
        process.send_signal(number)
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0
        assert said.endswith("stopped\n")
    with running(tmp_path / "archive", address):
        assert post(address, MAIN.body(0, 7)) == (409, b"7\n")


@pytest.mark.slow
def test_a_witness_that_is_killed_while_it_answers_remembers_what_it_gave(
    tmp_path: Path, address: str
) -> None:
    """Requests come one after the other; SIGKILL comes at some part of one of them.

    The machine's own pace says when: after some answers, and a part of the time that
    one of these took.
    """
    make_witness(tmp_path / "archive")
    given = 0
    for part in (0.0, 0.2, 0.4, 0.6, 0.8):
        with running(tmp_path / "archive", address) as process:
            first, begun = _size_known(address, given), time.monotonic()
            for known in range(first, first + 8):
                assert post(address, MAIN.body(known, known + 1))[0] == 200
            given = first + 8
            delay = part * (time.monotonic() - begun) / 8
            killer = threading.Timer(delay, process.kill)
            killer.start()
            with suppress(OSError, http.client.HTTPException):
                for known in range(given, given + 40):
                    assert post(address, MAIN.body(known, known + 1))[0] == 200
                    given = known + 1
            killer.join()
    with running(tmp_path / "archive", address):
        _size_known(address, given)


def _size_known(address: str, given: int) -> int:
    """Return the size that a witness remembers: what it gave, or one that it lost."""
    status, size = post(address, MAIN.body(300, 300))
    assert status == 409
    assert given <= int(size) <= given + 1
    return int(size)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the client by others, without network."""
    return build_go(CLIENT, tmp_path_factory.mktemp("go"))


@pytest.mark.slow
def test_a_client_by_others_finds_the_witness_as_specified(
    client: Path, tmp_path: Path, address: str
) -> None:
    log = SigningKey.generate("go.example/log")
    log.save(tmp_path / "log.key")
    key = make_witness(tmp_path / "archive", log=log.verify_key)
    with running(tmp_path / "archive", address):
        done = subprocess.run(
            [client, "-url", f"http://{address}", "-witness", str(key)],
            input=(tmp_path / "log.key").read_text(),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 32
