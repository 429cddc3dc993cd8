import contextlib
import logging
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from flwr.app import ConfigRecord, Metadata, RecordDict
from flwr.app import Message as FlowerMessage
from flwr.app.message import make_message
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree

from tapestry.encoding import digest
from tapestry.errors import ConfigError, ResourceError
from tapestry.protocol.framing import pack, unpack
from tapestry.protocol.messages import Kind, Message
from tapestry.transport_keys import make_transport_key
from tapestry_coordinator.superlink.tls import make_server_certificate
from tapestry_node import flower
from tapestry_node.flower import LineUse, serve
from tapestry_node.node_state import NodeState
from tests.support.refusals import refused
from tests.support.superlink import SuperLink


@dataclass(slots=True)
class FakeLink:
    """Hands out requests, takes replies; stops when there are none."""

    requests: list[Message]
    stop: threading.Event = field(default_factory=threading.Event)
    replies: list[Message] = field(default_factory=list)
    broken: list[int] = field(default_factory=list)  # statuses of the next pushes
    connection: str = "17"

    def pull(self) -> tuple[str, FlowerMessage] | None:
        if not self.requests:
            self.stop.set()
            return None
        records = pack(self.requests.pop(0))
        content = RecordDict({k: ConfigRecord(dict(v)) for k, v in records.items()})
        return content.object_id, instruction(content)

    def push(
        self, reply: FlowerMessage, _pace: flower.Pace | None, *, small: bool
    ) -> None:
        assert small
        if self.broken:
            response = httpx.Response(self.broken.pop(0))
            raise httpx.HTTPStatusError(
                "no", request=httpx.Request("POST", "https://x"), response=response
            )
        self.replies.append(unpack(reply.content))


def instruction(content: RecordDict) -> FlowerMessage:
    metadata = Metadata(
        run_id=1,
        message_id="one",
        src_node_id=1,
        dst_node_id=2,
        reply_to_message_id="",
        group_id="",
        created_at=time.time(),
        ttl=60.0,
        message_type="query",
    )
    return make_message(metadata=metadata, content=content)


class Counting:
    """A handler that numbers its answers and fails when asked to."""

    def __init__(self) -> None:
        self.calls = 0
        self.connections: set[str] = set()

    def __call__(self, request: Message, connection: str) -> Message:
        self.calls += 1
        self.connections.add(connection)
        if request.body == b'{"fail":1}':
            raise KeyError("patient 17")
        if request.body == b'{"refuse":1}':
            return Message(kind=Kind.REFUSAL)
        return Message(kind=Kind.RECEIPT, body=b"%d" % self.calls)


def work(handler: Counting, link: FakeLink) -> Any:
    worker = flower.FleetWorker(handler, LineUse(poll_seconds=0.001))
    worker.run(link)  # type: ignore[arg-type]
    return worker


def offer(body: bytes) -> Message:
    return Message(kind=Kind.ADVERTISE_KEYS, body=body)


class TestWorker:
    def test_the_same_request_again_gets_the_same_bytes_without_a_call(self) -> None:
        handler, link = Counting(), FakeLink([offer(b"{}"), offer(b"{}")])
        work(handler, link)
        assert [reply.body for reply in link.replies] == [b"1", b"1"]
        assert handler.calls == 1

    def test_only_the_latest_reply_is_kept(self) -> None:
        handler = Counting()
        work(handler, FakeLink([offer(b"{}"), offer(b"[]"), offer(b"{}")]))
        assert handler.calls == 3

    def test_a_refusal_is_not_kept(self) -> None:
        handler = Counting()
        link = FakeLink([offer(b'{"refuse":1}')] * 2)
        work(handler, link)
        assert handler.calls == 2
        assert [r.kind for r in link.replies] == [Kind.REFUSAL] * 2

    def test_without_a_receipt_nothing_leaves(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Whatever the handler raises: not even that there was an error."""
        handler = Counting()
        link = FakeLink([offer(b'{"fail":1}'), offer(b"{}"), offer(b'{"fail":1}')])
        work(handler, link)
        assert handler.calls == 3
        assert [r.body for r in link.replies] == [b"2"]
        assert "KeyError" in caplog.text
        assert "patient" not in caplog.text

    @pytest.mark.parametrize("wanted", [False, True])
    def test_a_traceback_is_logged_only_where_the_operator_asks(
        self,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
        wanted: bool,
    ) -> None:
        monkeypatch.setenv("TAPESTRY_TRACEBACK", str(int(wanted)))
        with caplog.at_level(logging.DEBUG):
            work(Counting(), FakeLink([offer(b'{"fail":1}')]))
        assert ("Traceback" in caplog.text) is wanted

    def test_a_greeting_is_answered_afresh(self) -> None:
        handler, link = Counting(), FakeLink([Message(kind=Kind.HELLO)] * 2)
        work(handler, link)
        assert [reply.body for reply in link.replies] == [b"1", b"2"]

    def test_a_handler_is_told_the_connection_and_not_what_a_request_says(
        self,
    ) -> None:
        """Requests of the fake are for node 2, and the link is node 17's."""
        handler = Counting()
        work(handler, FakeLink([offer(b"{}")]))
        assert handler.connections == {"17"}

    def test_a_reply_that_was_lost_is_given_to_the_request_sent_again(self) -> None:
        handler = Counting()
        link = FakeLink([offer(b"{}"), offer(b"{}")], broken=[500])
        worker = flower.FleetWorker(handler, LineUse(poll_seconds=0.001))
        with pytest.raises(httpx.HTTPStatusError):
            worker.run(link)  # type: ignore[arg-type]
        worker.run(link)  # type: ignore[arg-type]
        assert [reply.body for reply in link.replies] == [b"1"]
        assert handler.calls == 1

    def test_a_run_that_ended_is_no_reason_to_reconnect(self) -> None:
        link = FakeLink([offer(b"{}"), offer(b"[]")], broken=[403])
        work(Counting(), link)
        assert [reply.body for reply in link.replies] == [b"2"]

    @pytest.mark.parametrize(
        "content",
        [{}, {"message": {"kind": "launch"}}, {"message": {"kind": "hello"}, "x": {}}],
        ids=["nothing", "unknown", "more"],
    )
    def test_what_is_no_message_is_neither_handled_nor_answered(
        self, content: dict[str, dict[str, Any]]
    ) -> None:
        handler = Counting()
        records = {name: ConfigRecord(dict(fields)) for name, fields in content.items()}
        worker = flower.FleetWorker(handler, LineUse(poll_seconds=1))
        request = instruction(RecordDict(records))
        assert worker.answer("name", request, connection="17") is None
        assert handler.calls == 0


class Clock:
    """Takes the place of ``time``: it goes on when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(flower, "time", clock)
    return clock


class TestPace:
    def test_pieces_of_all_threads_together_keep_to_the_rate(self) -> None:
        """Ten pieces of 10 kB at 200 kB a second: nine waits of 50 ms."""
        pace = flower.Pace(200_000)
        start = time.monotonic()

        def send() -> None:
            for _ in range(5):
                pace.wait(10_000)

        threads = [threading.Thread(target=send) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 0.44 < time.monotonic() - start < 60

    def test_what_was_not_used_is_not_made_up_for(self, clock: Clock) -> None:
        pace = flower.Pace(100_000)
        clock.sleep(0.3)
        for _ in range(3):
            pace.wait(10_000)
        assert clock.now == pytest.approx(0.5)

    def test_no_limit_is_no_pace_and_a_megabit_is_a_million(self, clock: Clock) -> None:
        assert flower.Pace.of_mbit(0) is None
        pace = flower.Pace.of_mbit(8)
        assert pace is not None
        for _ in range(2):
            pace.wait(200_000)
        assert clock.now == pytest.approx(0.2)

    @pytest.mark.parametrize("small", [False, True])
    def test_each_piece_of_a_reply_waits_for_its_turn_and_nothing_else(
        self, small: bool
    ) -> None:
        """What goes over the wire in pieces is counted; a large reply's head is not."""
        sent, waited = list[int](), list[int]()

        class Counted(flower.Pace):
            def wait(self, count: int) -> None:
                waited.append(count)

        def push_object(piece: Any) -> Any:
            sent.append(len(piece.object_content))
            return SimpleNamespace(stored=not small)

        def push_messages(request: Any) -> Any:
            if small:  # whole in the first request, and what follows may be refused
                sent.append(request.ByteSize())
            tree = request.message_object_trees[0]
            found = [part.object_id for part in iterate_object_tree(tree)]
            return SimpleNamespace(objects_to_push=found, session_id="s")

        client: Any = SimpleNamespace(
            PushObject=push_object, PushMessages=push_messages
        )
        link = flower._Link(  # noqa: SLF001
            client=client,
            node=Node(node_id=2),
            stop=threading.Event(),
        )
        bulk = Message(kind=Kind.MASKED_INPUT, body=b"{}", attachments=[b"x" * 3000])
        records = {name: ConfigRecord(each) for name, each in pack(bulk).items()}
        request = instruction(RecordDict({}))
        request.metadata.__dict__["_message_id"] = "one"
        for pace in (None, Counted(1.0)):
            if pace is not None:
                sent.clear()
            reply = FlowerMessage(RecordDict(records), reply_to=request)
            link.push(reply, pace, small=small)
        assert sorted(waited) == sorted(sent)
        assert 3000 < sum(sent) < 4500
        assert len(sent) == (2 if small else 3)


def test_a_node_that_cannot_write_receipts_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The product: what leaves a node over the wire is in its receipts, each byte."""
    store = NodeState(tmp_path / "node.db")

    def handle(request: Message, _connection: str) -> Message:
        reply = Message(kind=Kind.RECEIPT, body=request.body)
        store.record(reply)
        return reply

    link = FakeLink([offer(b"[1]"), offer(b"[2]"), offer(b"[3]")])
    honest, full = store.record, iter([False, True, False])

    def record(message: Message) -> None:
        if next(full):
            raise ResourceError("node.db: disk full")
        honest(message)

    monkeypatch.setattr(store, "record", record)
    flower.FleetWorker(handle, LineUse(poll_seconds=0.001)).run(link)  # type: ignore[arg-type]
    assert [reply.body for reply in link.replies] == [b"[1]", b"[3]"]
    assert [r.content for r in store.receipts()] == [digest(b"[1]"), digest(b"[3]")]
    store.close()


@contextlib.contextmanager
def superlink(folder: Path, status: int, body: bytes) -> Iterator[str]:
    """Something on a loopback port that answers everything alike, over TLS."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    files = make_server_certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def outlive(folder: Path, address: str) -> None:
    """Serve in this process, for three attempts or a second of a connection.

    Whatever ends or signals it, shows.
    """
    if not (folder / "key").exists():
        make_transport_key(folder / "key")
    make_server_certificate(folder)
    stop, told = threading.Event(), list[object]()

    def tell(cause: object, _ends: object) -> None:
        told.append(cause)
        if cause is None:
            threading.Timer(1.0, stop.set).start()
        elif len(told) == 3:
            stop.set()

    serve(
        Counting(),
        superlink=address,
        root_certificates=folder / "authority.pem",
        auth_key=folder / "key",
        use=LineUse(tell=tell),
        stop=stop,
    )
    assert told == [None] or len(told) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "body"),
    [(401, b""), (403, b""), (500, b"no"), (200, b"\xff\xff\xff"), (200, b"")],
)
def test_whatever_a_superlink_answers_the_process_goes_on(
    tmp_path: Path, status: int, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.WARNING, logger="tapestry_node.flower"),
        superlink(tmp_path, status, body) as address,
    ):
        outlive(tmp_path, address)
    if status != 200:
        assert f"status {status}" in caplog.text


@pytest.mark.slow
def test_what_it_waits_for_is_said_once_and_not_at_each_attempt(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[int] = []

    def backoff(failures: int) -> float:
        attempts.append(failures)
        return 0.05

    monkeypatch.setattr(flower, "backoff", backoff)
    outlive(tmp_path, "127.0.0.1:9")
    assert len(attempts) > 2
    assert caplog.text.count("waiting for the coordinator: ") == 1
    assert "no SuperLink listens at 127.0.0.1:9 (connection refused)" in caplog.text


@pytest.mark.slow
def test_a_new_transport_key_is_used_from_the_next_connection_on(
    engine: SuperLink, tmp_path: Path
) -> None:
    """And not before the SuperLink knows it."""
    key, coming = tmp_path / "key", tmp_path / "key.next"
    for path in (key, coming):
        make_transport_key(path)
    new = coming.read_bytes()

    def connect() -> None:
        stop = threading.Event()
        serve(
            Counting(),
            superlink=engine.address,
            root_certificates=engine.authority,
            auth_key=key,
            use=LineUse(tell=lambda *_: stop.set()),
            stop=stop,
        )

    first = engine.register(key)
    connect()
    assert engine.status(first)[1]
    assert coming.read_bytes() == new
    second = engine.register(coming)
    connect()
    assert engine.status(second)[1]
    assert key.read_bytes() == new
    assert not coming.exists()


@pytest.mark.slow
def test_a_superlink_with_another_authority_is_not_spoken_to(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = tmp_path / "other"
    with superlink(other, 200, b"") as address:
        outlive(tmp_path, address)
    assert "connected" not in caplog.text
    assert "[certificate-foreign]" in caplog.text


def refusal_of(folder: Path, address: str, *, certificates: str, code: str) -> str:
    """Return what ``serve`` says instead of trying for ever."""
    if not (folder / "key").exists():
        make_transport_key(folder / "key")
    with refused(ConfigError, code) as caught:
        serve(
            Counting(),
            superlink=address,
            root_certificates=folder / certificates,
            auth_key=folder / "key",
            stop=threading.Event(),
        )
    return str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["", "\n", "nonsense", "-----BEGIN CERTIFICATE-----\nAA", "\N{SNOWMAN}"],
)
def test_certificates_are_checked_at_once(tmp_path: Path, text: str) -> None:
    path = tmp_path / "authority.pem"
    path.write_text(text)
    said = refusal_of(
        tmp_path,
        "127.0.0.1:9",
        certificates=path.name,
        code="certificate-missing",
    )
    assert said.startswith(f"{path} holds no certificate; name the PEM file")


def test_a_file_without_certificates_is_named_once(tmp_path: Path) -> None:
    said = refusal_of(
        tmp_path, "127.0.0.1:9", certificates="nope.pem", code="file-unreadable"
    )
    path = tmp_path / "nope.pem"
    assert said == f"cannot read the certificates {path}: No such file or directory"


@pytest.mark.parametrize(
    "address", ["bad host", "bad host:9", "host", "https://host:9", "host:port", ""]
)
def test_an_address_is_a_host_and_a_port(tmp_path: Path, address: str) -> None:
    make_server_certificate(tmp_path)
    said = refusal_of(
        tmp_path, address, certificates="authority.pem", code="address-invalid"
    )
    assert said == f"SuperLink {address!r} is not HOST:PORT"


def test_polls_follow_a_request_soon_and_become_rare() -> None:
    worker = flower.FleetWorker(lambda request, _: request, LineUse(poll_seconds=0.5))
    pauses = [worker.pause_after(idle) for idle in (0.0, 0.4, 2.0, 20.0, 1000.0)]
    assert pauses == [0.1, 0.2, 0.5, 2.0, 5.0]
    eager = flower.FleetWorker(lambda request, _: request, LineUse(poll_seconds=0.01))
    assert [eager.pause_after(idle) for idle in (0.0, 1000.0)] == [0.01, 0.1]


def test_backing_off_grows_and_stays_bounded() -> None:
    waits = [flower.backoff(failures) for failures in range(1, 40)]
    assert 0.2 <= waits[0] <= 0.4
    assert all(2 <= wait <= 4 for wait in waits[8:])
