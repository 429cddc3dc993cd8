"""Outside witnesses are asked over HTTP; what they say must hold."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from tapestry.errors import QuorumError
from tapestry.keys import VerifyKey
from tapestry.tlog.checkpoint import read_claim
from tapestry.tlog.trust_policy import TrustPolicy
from tapestry_coordinator import outside_witnesses as module
from tapestry_coordinator.outside_witnesses import OutsideWitnesses
from tapestry_governance.log.writer import Log
from tapestry_governance.witness.witness_folder import WitnessFolder
from tapestry_governance.witness.witness_server import serving
from tests.support.cosigning import LOG_KEY, TIME, WITNESSES, entry
from tests.support.outside_witness import MAIN, make_witness, opened, trust_of
from tests.support.process_families import wait_until
from tests.support.refusals import refused

Say = Callable[[socket.socket], None]


@pytest.fixture
def key(tmp_path: Path) -> VerifyKey:
    return make_witness(tmp_path / "archive")


@pytest.fixture
def witness(tmp_path: Path, key: VerifyKey) -> Iterator[WitnessFolder]:
    assert (tmp_path / "archive").exists(), key
    with opened(tmp_path / "archive") as witness:
        yield witness


@pytest.fixture
def trust(key: VerifyKey, witness: WitnessFolder) -> Iterator[TrustPolicy]:
    """A witness that serves at the address of the trust policy."""
    with serving(witness, ("127.0.0.1", 0)) as port:
        yield trust_of(key, url=f"http://127.0.0.1:{port}/")


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with Log.create(tmp_path / "log", key=LOG_KEY) as log:
        yield log


def grow(log: Log, size: int, trust: TrustPolicy, *, by: int = 3) -> None:
    """Append up to a size, sign, and let members cosign."""
    log.append([entry(n) for n in range(log.size, size)])
    checkpoint = read_claim(log.sign_checkpoint())
    for member in WITNESSES[:by]:
        log.add_cosignature(size, checkpoint.cosign(member, time=TIME), trust=trust)


def test_each_checkpoint_is_published_with_the_line_and_not_without(
    log: Log, trust: TrustPolicy
) -> None:
    outside = OutsideWitnesses(log, trust)
    assert outside.are_needed
    for size in (1, 7, 256, 300):
        grow(log, size, trust)
        with refused(QuorumError, "quorum-not-reached"):
            log.publish(trust=trust)
        outside.ask()
        outside.ask()  # once more, as after cosign_every
        opened_note = trust.open_published(log.publish(trust=trust))
        assert opened_note.cosignatures[-1].witness == "archive/witness"


def test_one_that_knows_more_than_was_heard_is_asked_from_there(
    log: Log, trust: TrustPolicy, witness: WitnessFolder
) -> None:
    """A reply was lost, or came to a coordinator that died before it kept it."""
    witness.cosign(MAIN.request(0, 5))
    grow(log, 7, trust)
    OutsideWitnesses(log, trust).ask()
    log.publish(trust=trust)


def test_none_is_asked_for_what_too_few_members_cosigned(
    log: Log, trust: TrustPolicy, witness: WitnessFolder
) -> None:
    grow(log, 7, trust, by=2)
    OutsideWitnesses(log, trust).ask()
    assert witness.cosigned(LOG_KEY.name).size == 0


def test_one_that_has_forgotten_is_not_asked_again(
    log: Log,
    trust: TrustPolicy,
    key: VerifyKey,
    caplog: pytest.LogCaptureFixture,
) -> None:
    grow(log, 7, trust)
    OutsideWitnesses(log, trust).ask()
    requests: list[bytes] = []
    with other_server(replies(conflict(b"3\n")), requests) as url:
        changed = trust_of(key, url=url)
        grow(log, 9, changed)
        OutsideWitnesses(log, changed).ask()
    assert len(requests) == 1
    assert b"\r\n\r\nold 7\n" in requests[0]
    assert "retired" in caplog.text


def test_a_witness_of_more_than_the_log_is_told(
    log: Log,
    trust: TrustPolicy,
    witness: WitnessFolder,
    caplog: pytest.LogCaptureFixture,
) -> None:
    witness.cosign(MAIN.request(0, 9))
    grow(log, 7, trust)
    OutsideWitnesses(log, trust).ask()
    assert "this log is an older copy" in caplog.text


def test_outsiders_that_the_quorum_does_without_are_not_needed(
    log: Log, key: VerifyKey
) -> None:
    trust = trust_of(key, url="http://127.0.0.1:1", quorum=0)
    outside = OutsideWitnesses(log, trust)
    assert not outside.are_needed
    grow(log, 7, trust)
    outside.ask()  # none is there
    log.publish(trust=trust)


# Witnesses of other makes


@contextmanager
def other_server(say: Say, requests: list[bytes]) -> Iterator[str]:
    """A server that reads a request and says something; yields its address."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    client, _ = server.accept()
                    with client, suppress(OSError):
                        client.settimeout(120)
                        asked = client.recv(1 << 16)
                        while asked.startswith(b"POST") and not asked.endswith(b"=\n"):
                            more = client.recv(1 << 16)  # up to the log's signature
                            if not more:
                                break
                            asked += more
                        requests.append(asked)
                        say(client)

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)


def replies(data: bytes) -> Say:
    return lambda client: client.sendall(data)


def reply(body: bytes, status: bytes = b"200 OK", more: bytes = b"") -> bytes:
    length = b"Content-Length: %d\r\n" % len(body)
    return b"HTTP/1.1 " + status + b"\r\n" + length + more + b"\r\n" + body


def conflict(body: bytes) -> bytes:
    return reply(body, b"409 Conflict", b"Content-Type: text/x.tlog.size\r\n")


def endless(client: socket.socket) -> None:
    client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        client.sendall(b"x" * 65536)


def drips(client: socket.socket) -> None:
    client.sendall(b"HTTP/1.1 200 OK\r\n")
    for _ in range(300):
        client.sendall(b"X: x\r\n")
        time.sleep(0.1)


def silent(client: socket.socket) -> None:
    client.recv(1)


LINE = MAIN.checkpoint(7).cosign(WITNESSES[3], time=TIME)
SAYINGS: dict[str, Say] = {
    "nothing": lambda _: None,
    "no HTTP": replies(b"\x00\xff" * 50),
    "an error": replies(reply(b"no", b"500 Oops")),
    "no body": replies(reply(b"")),
    "garbage": replies(reply(b"\xff\xfe\n")),
    "another's line": replies(reply(LINE)),
    "a conflict without a type": replies(reply(b"5\n", b"409 Conflict")),
    "a conflict without a size": replies(conflict(b"five")),
    "a conflict for ever": replies(conflict(b"5\n")),
    "a conflict of a larger log": replies(conflict(b"999999999999\n")),
    "without an end": endless,
    "slowly": drips,
    "late": silent,
    "compressed": replies(reply(b"x", more=b"Content-Encoding: gzip\r\n")),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", SAYINGS)
def test_one_that_says_nonsense_costs_seconds_and_is_not_believed(
    log: Log, key: VerifyKey, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setattr(module, "_DEADLINE", 2.0)
    monkeypatch.setattr(module, "_SECONDS", 1.0)
    requests: list[bytes] = []
    with other_server(SAYINGS[case], requests) as url:
        trust = trust_of(key, url=url)
        grow(log, 7, trust)
        begun = time.monotonic()
        OutsideWitnesses(log, trust).ask()
        assert time.monotonic() - begun < 25
        wait_until(lambda: requests != [])
    assert len(requests) <= 2
    with refused(QuorumError, "quorum-not-reached"):
        log.publish(trust=trust)


def test_a_line_that_is_forged_or_over_another_checkpoint_is_not_kept(
    log: Log, key: VerifyKey, witness: WitnessFolder
) -> None:
    of_six = witness.cosign(MAIN.request(0, 6))
    forged = bytearray(witness.cosign(MAIN.request(6, 7)))
    forged[60] = ord("B") if forged[60] == ord("A") else ord("A")
    for line in (of_six, bytes(forged)):
        with other_server(replies(reply(line)), []) as url:
            trust = trust_of(key, url=url)
            grow(log, 7, trust)
            OutsideWitnesses(log, trust).ask()
            with refused(QuorumError, "quorum-not-reached"):
                log.publish(trust=trust)


def test_a_line_is_found_among_others(
    log: Log, key: VerifyKey, witness: WitnessFolder
) -> None:
    body = LINE + witness.cosign(MAIN.request(0, 7)) + LINE
    with other_server(replies(reply(body)), []) as url:
        trust = trust_of(key, url=url)
        grow(log, 7, trust)
        OutsideWitnesses(log, trust).ask()
        log.publish(trust=trust)


def test_a_redirection_is_not_followed(log: Log, key: VerifyKey) -> None:
    elsewhere: list[bytes] = []
    with other_server(replies(reply(b"")), elsewhere) as target:
        where = b"Location: " + target.encode() + b"/add-checkpoint\r\n"
        for status in (b"301 M", b"302 F", b"307 T", b"308 P"):
            with other_server(replies(reply(b"", status, where)), []) as url:
                trust = trust_of(key, url=url)
                grow(log, 7, trust)
                OutsideWitnesses(log, trust).ask()
    assert elsewhere == []


def test_one_that_is_still_being_asked_is_not_asked_again(
    log: Log, key: VerifyKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_DEADLINE", 0.2)
    requests: list[bytes] = []
    with other_server(silent, requests) as url:
        trust = trust_of(key, url=url)
        outside = OutsideWitnesses(log, trust)
        grow(log, 7, trust)
        outside.ask()
        wait_until(lambda: requests != [])
        for _ in range(2):
            outside.ask()
        assert len(requests) == 1
