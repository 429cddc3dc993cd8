"""Each status of tlog-witness over HTTP; bodies of any kind; nobody is waited for."""

import hashlib
import http.client
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from tapestry.errors import ResourceError
from tapestry.keys import Algorithm, SigningKey
from tapestry.tlog import note as notes
from tapestry_governance.witness import witness_server
from tapestry_governance.witness.witness_folder import WitnessFolder
from tapestry_governance.witness.witness_server import answer, serving
from tests.support.cosigning import LOG_KEY, TIME, signing_key
from tests.support.outside_witness import MAIN, Branch, make_witness, opened, trust_of
from tests.support.refusals import refused

FORK = Branch(leaves_at=5)
TEXT, SIZE = "text/plain; charset=utf-8", "text/x.tlog.size"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_witness(tmp_path / "archive")
    return tmp_path / "archive"


@pytest.fixture
def witness(folder: Path) -> Iterator[WitnessFolder]:
    with opened(folder) as witness:
        witness.cosign(MAIN.request(0, 7))
        yield witness


@pytest.fixture
def port(witness: WitnessFolder) -> Iterator[int]:
    with serving(witness, ("127.0.0.1", 0)) as port:
        yield port


def ask(
    port: int, body: bytes, *, method: str = "POST", path: str = "/add-checkpoint"
) -> tuple[int, str, bytes]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as client:
        client.request(method, path, body)
        reply = client.getresponse()
        return reply.status, reply.headers["Content-Type"], reply.read()


def said(port: int, request: bytes) -> bytes:
    """Send bytes over a connection of their own; return all that comes back."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(request)
        found = b""
        while part := client.recv(4096):
            found += part
    return found


STATUSES: dict[str, tuple[bytes, int, str, bytes]] = {
    "not a request": (b"", 400, TEXT, b"witness-request-malformed\n"),
    "not a note": (b"old 7\n\nx\n", 400, TEXT, b"note-malformed\n"),
    "old above size": (
        b"old 9\n\n" + MAIN.request(0, 8).note,
        400,
        TEXT,
        b"old-size-too-large\n",
    ),
    "not signed by the log": (
        Branch(key=SigningKey.generate(LOG_KEY.name)).body(7, 9),
        403,
        TEXT,
        b"signature-missing\n",
    ),
    "another log": (
        Branch(key=signing_key("other.example/gov")).body(7, 9),
        404,
        TEXT,
        b"log-unknown\n",
    ),
    "smaller": (MAIN.body(3, 9), 409, SIZE, b"7\n"),
    "larger": (MAIN.body(8, 9), 409, SIZE, b"7\n"),
    "nothing known": (MAIN.body(0, 9), 409, SIZE, b"7\n"),
    "a shorter log": (MAIN.body(0, 5), 409, SIZE, b"7\n"),
    "two roots": (FORK.body(7, 7), 422, TEXT, b"log-forked\n"),
    "a fork": (FORK.body(7, 9), 422, TEXT, b"consistency-proof-invalid\n"),
}


@pytest.mark.parametrize("case", STATUSES)
def test_each_refusal_has_its_status_and_changes_nothing(
    port: int, witness: WitnessFolder, case: str
) -> None:
    body, *expected = STATUSES[case]
    assert ask(port, body) == tuple(expected)
    assert witness.cosigned(LOG_KEY.name).size == 7


@pytest.mark.parametrize(("old", "size"), [(7, 7), (7, 8), (7, 300)])
def test_what_continues_the_log_gets_a_line(
    port: int, witness: WitnessFolder, folder: Path, old: int, size: int
) -> None:
    status, content, line = ask(port, MAIN.body(old, size))
    assert (status, content) == (200, TEXT)
    trust = trust_of(SigningKey.load(folder / "witness.key").verify_key)
    assert trust.open_cosignature(MAIN.checkpoint(size), line).time == TIME
    assert witness.cosigned(LOG_KEY.name) == MAIN.checkpoint(size)


def test_the_newest_checkpoint_is_read_with_the_log_s_line_and_its_own(
    port: int, folder: Path
) -> None:
    other = MAIN.checkpoint(9).cosign(signing_key("x/w", Algorithm.COSIGNATURE), time=1)
    body = MAIN.body(7, 9)
    assert ask(port, body + other)[0] == 200
    name = hashlib.sha256(LOG_KEY.name.encode()).hexdigest()
    status, content, note = ask(port, b"", method="GET", path=f"/{name}/checkpoint")
    assert (status, content) == (200, TEXT)
    assert [s.name for s in notes.parse(note).signatures] == [
        LOG_KEY.name,
        "archive/witness",
    ]
    trust = trust_of(SigningKey.load(folder / "witness.key").verify_key)
    assert trust.open_pending(note).checkpoint == MAIN.checkpoint(9)


def test_a_retired_witness_and_one_that_fails_say_so(
    port: int, folder: Path, witness: WitnessFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "retired").write_bytes(b"")
    assert ask(port, MAIN.body(7, 9)) == (503, TEXT, b"witness-retired\n")
    (folder / "retired").unlink()

    def fail(*_: object) -> bytes:
        raise KeyError("secret")

    monkeypatch.setattr(witness, "cosign", fail)
    assert ask(port, MAIN.body(7, 9)) == (500, TEXT, b"KeyError\n")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/add-checkpoint", 404),
        ("GET", f"/{'0' * 64}/checkpoint", 404),
        ("GET", f"/{'0' * 64}/checkpoint?", 404),
        ("POST", "/", 404),
        ("POST", "/add-checkpoint/", 404),
        ("PUT", "/add-checkpoint", 501),
        ("DELETE", "/add-checkpoint", 501),
    ],
)
def test_there_is_nothing_else(port: int, method: str, path: str, status: int) -> None:
    assert ask(port, MAIN.body(7, 9), method=method, path=path)[0] == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (b"", 411),
        (b"Content-Length: x\r\n", 400),
        (b"Content-Length: -1\r\n", 400),
        (b"Content-Length: 1\r\nContent-Length: 1\r\n", 400),
        (b"Content-Length: 65537\r\n", 413),
        (b"Content-Length: 99999999999\r\n", 400),
        (b"Transfer-Encoding: chunked\r\n", 411),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 1\r\n", 411),
    ],
)
def test_a_body_has_one_length_that_is_not_too_large(
    port: int, headers: bytes, status: int
) -> None:
    found = said(port, b"POST /add-checkpoint HTTP/1.1\r\n" + headers + b"\r\n")
    assert found.startswith(b"HTTP/1.1 %d " % status)
    assert b"\r\nConnection: close\r\n" in found


def test_a_connection_serves_one_request_after_the_other(port: int) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as client:
        for old, size in ((7, 8), (8, 9), (9, 300)):
            client.request("POST", "/add-checkpoint", MAIN.body(old, size))
            reply = client.getresponse()
            assert (reply.status, reply.read()[:3]) == (200, "—".encode())


def test_who_says_nothing_is_left_and_keeps_no_other_waiting(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(witness_server._Handler, "timeout", 2.0)  # noqa: SLF001
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(b"POST /add-checkpoint HTTP/1.1\r\nContent-Length: 9\r\n\r\nold")
        assert ask(port, MAIN.body(7, 9))[0] == 200
        assert client.recv(4096) == b""


def test_of_two_forks_at_once_one_wins(port: int) -> None:
    barrier, replies = threading.Barrier(6), list[tuple[str, int, bytes]]()

    def post(name: str, branch: Branch) -> None:
        barrier.wait()
        status, _, body = ask(port, branch.body(7, 20))
        replies.append((name, status, body))

    fork = Branch(leaves_at=8)
    threads = [
        threading.Thread(target=post, args=each)
        for each in [("main", MAIN), ("fork", fork)] * 3
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(status for _, status, _ in replies) == [200, *[409] * 5]
    assert {body for _, status, body in replies if status == 409} == {b"20\n"}


def test_no_body_is_an_internal_error_or_moves_the_log_without_its_proof(
    witness: WitnessFolder,
) -> None:
    """Mutations of valid bodies; a reply of 200 must be to a valid checkpoint."""
    dice = np.random.default_rng(7)

    def below(number: int) -> int:
        return int(dice.integers(number))

    allowed = {200, 400, 403, 404, 409, 422}
    found = set[int]()
    for _ in range(1500):
        old = witness.cosigned(LOG_KEY.name).size
        branch = FORK if below(3) == 0 else MAIN
        body = bytearray(branch.body(old, min(old + below(3), 300)))
        for _ in range((0, 1, 1, 1, 3)[below(5)]):
            at = below(len(body))
            match below(4):
                case 0:
                    body[at] ^= 1 << below(8)
                case 1:
                    del body[at : at + (1, 5, 50)[below(3)]]
                case 2:
                    body[at:at] = body[: (1, 10, 80)[below(3)]]
                case _:
                    body[at:at] = (b"\n", b"\n\n", b"0", b"\0", b"=")[below(5)]
        reply = answer(witness, bytes(body))
        found.add(reply.status)
        after = witness.cosigned(LOG_KEY.name)
        assert reply.status in allowed
        assert (after.size > old) <= (reply.status == 200)
        assert after == MAIN.checkpoint(after.size)
    assert found == allowed


def test_no_reply_and_no_log_line_quotes_a_request(
    port: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for body in (b"old canary\n\nx", b"old 7\n\ncanary\n9\ncanary\n\ncanary\n"):
        assert b"canary" not in ask(port, body)[2]
    assert "canary" not in caplog.text
    assert "witness-request-malformed" in caplog.text or "400" in caplog.text


def test_an_address_in_use_is_said(port: int, witness: WitnessFolder) -> None:
    with (
        refused(ResourceError, "witness-address-unavailable", match=str(port)),
        serving(witness, ("127.0.0.1", port)),
    ):
        pass
