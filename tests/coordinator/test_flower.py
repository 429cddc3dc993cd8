"""The coordinator's Flower app: names, exchanges, outcomes and what it refuses."""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias

import httpx
import pytest
from flwr.app import ConfigRecord, Context, RecordDict
from flwr.app import Message as FlowerMessage
from flwr.app.error import Error
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.server.utils.validator import validate_message
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectUnavailableError,
)
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import http_grid

from tapestry.encoding import canonical_json
from tapestry.errors import ConfigError, PolicyError, QuorumError, VerificationError
from tapestry.inputs.faults import InputFault
from tapestry.installed_packages import required_packages
from tapestry.keys import SigningKey
from tapestry.protocol.framing import pack, unpack
from tapestry.protocol.messages import Kind, Message
from tapestry.software_digest import software_manifest
from tapestry_coordinator import flower as flower_side
from tapestry_coordinator.authenticated_grid import AuthenticatedGrid
from tapestry_coordinator.flower import (
    FlowerGrid,
    limit_hellos,
    pull_parts,
    server_app,
)
from tapestry_coordinator.flower import Reply as Came
from tapestry_coordinator.grid import Grid
from tapestry_coordinator.superlink.config_files import write_bundle
from tapestry_coordinator.superlink.outcome import (
    Outcome,
    is_worked_on,
    read_outcome,
)
from tests.support.echo_members import GENESIS, identity, node_keys
from tests.support.installed_folders import install
from tests.support.long_answers import Answers
from tests.support.process_families import wait_until
from tests.support.refusals import refused

TWO_DAYS = 2 * 24 * 3600
THIEF = SigningKey.generate("fr.example/node")
Reply: TypeAlias = Any  # a message, raw records, an error to send, one to raise, None


@pytest.fixture(autouse=True)
def _identity(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    monkeypatch.setattr(flower_side.THREAD, "limited", False, raising=False)


@dataclass(frozen=True)
class Info:
    node_id: int
    name: str
    last_activated_at: str


@dataclass
class FakeNode:
    """A node behind the fake: its name, the one it is registered by, its answers."""

    says: str
    registered: str = ""
    activation: str = "monday"
    online: bool = True
    answer: Callable[[Message], Reply] = field(
        default=lambda m: Message(kind=Kind.RECEIPT, body=m.body)
    )
    hello: Callable[[Message], Reply] | None = None  # its own proof if absent
    asked: list[Message] = field(default_factory=list)

    def reply(self, request: Message, connection: str) -> Reply:
        if request.kind is not Kind.HELLO:
            self.asked.append(request)
            return self.answer(request)
        if self.hello is not None:
            return self.hello(request)
        return identity(self.says, request, connection)


class FakeFlower:
    """A line to a SuperLink, without one."""

    def __init__(self, *nodes: FakeNode) -> None:
        self.nodes = dict(enumerate(nodes, start=11))
        self.replies: dict[str, tuple[FlowerMessage, Reply]] = {}
        self.pushed = 0
        self.small: list[bool] = []
        self.forgotten: list[str] = []

    def get_nodes(self) -> list[Info]:
        return [
            Info(key, node.registered, node.activation)
            for key, node in self.nodes.items()
            if node.online
        ]

    def push_messages(
        self, messages: list[FlowerMessage], *, small: list[bool]
    ) -> list[str]:
        ids = []
        self.small += small
        for message in messages:
            self.pushed += 1
            ids.append(f"m{self.pushed}")
            message.metadata.__dict__["_message_id"] = ids[-1]
            key = message.metadata.dst_node_id
            reply = self.nodes[key].reply(unpack(message.content), str(key))
            self.replies[ids[-1]] = message, reply
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Came]:
        replies = []
        for key in list(message_ids):
            message, reply = self.replies.get(key, (None, None))
            if isinstance(reply, httpx.HTTPError):
                raise reply
            if message is not None and reply is not None:
                del self.replies[key]
                whole = not isinstance(reply, Message) or not reply.attachments
                read = self.reader(message, reply)
                replies.append(Came(answers=key, is_whole=whole, read=read))
        return replies

    @staticmethod
    def reader(
        message: FlowerMessage, reply: Reply
    ) -> Callable[[Callable[[], bool]], FlowerMessage]:
        def read(_: Callable[[], bool]) -> FlowerMessage:
            if isinstance(reply, Exception):
                raise reply
            content = reply
            if isinstance(reply, Message):
                records = pack(reply).items()
                content = RecordDict({k: ConfigRecord(dict(v)) for k, v in records})
            return FlowerMessage(content, reply_to=message)

        return read

    def forget(self, message_ids: Iterable[str], *, after: float) -> None:
        assert after >= 1
        self.forgotten += message_ids


def grid_of(*nodes: FakeNode) -> tuple[AuthenticatedGrid, FakeFlower]:
    flower = FakeFlower(*nodes)
    names = {node.says for node in nodes} & node_keys().keys()
    keys = {name: node_keys()[name] for name in names}
    grid = AuthenticatedGrid(FlowerGrid(flower), genesis=GENESIS, keys=lambda: keys)
    return grid, flower


def offer(text: str = "x") -> Message:
    return Message(kind=Kind.ADVERTISE_KEYS, body=canonical_json({"text": text}))


def never(_: Message) -> Reply:
    return None


def stranger(request: Message) -> Message:
    """Claim the name of a member by a key of one's own."""
    return identity("fr", request, "11", key=THIEF)


class TestNames:
    def test_a_connection_has_the_id_that_the_superlink_gave_it(self) -> None:
        flower = FakeFlower(FakeNode("it"), FakeNode("be", online=False))
        assert FlowerGrid(flower).nodes() == ["11"]
        assert flower.pushed == 0

    def test_a_node_has_the_name_that_it_proves(self) -> None:
        grid, _ = grid_of(FakeNode("it"), FakeNode("be"))
        assert grid.nodes() == ["be", "it"]

    def test_a_node_that_was_started_again_is_seen_to_have_left(self) -> None:
        node = FakeNode("it")
        grid, _ = grid_of(node, FakeNode("be"))
        assert grid.nodes() == ["be", "it"]
        node.activation = "tuesday"
        list(grid.exchange({"be": offer()}, deadline=60))  # which looks as well
        assert grid.nodes() == ["be"]
        assert grid.nodes() == ["be", "it"]

    def test_a_node_is_greeted_once(self) -> None:
        grid, flower = grid_of(FakeNode("it"), FakeNode("be"))
        assert grid.nodes() == grid.nodes() == ["be", "it"]
        assert flower.pushed == 2

    def test_the_name_that_a_key_was_registered_under_counts_for_nothing(self) -> None:
        thief = FakeNode("xx", registered="fr", hello=stranger)
        true = FakeNode("fr", registered="xx")
        grid, _ = grid_of(thief, true)
        assert grid.nodes() == ["fr"]
        assert len(list(grid.exchange({"fr": offer()}, deadline=60))) == 1
        assert (len(thief.asked), len(true.asked)) == (0, 1)

    def test_of_two_connections_that_prove_a_name_one_is_asked(self) -> None:
        grid, flower = grid_of(FakeNode("it"), FakeNode("it"))
        assert grid.nodes() == ["it"]
        list(grid.exchange({"it": offer()}, deadline=60))
        assert sum(len(node.asked) for node in flower.nodes.values()) == 1

    def test_a_node_that_left_is_not_listed(self) -> None:
        grid, flower = grid_of(FakeNode("it"), FakeNode("be"))
        grid.nodes()
        flower.nodes[11].online = False
        assert grid.nodes() == ["be"]


ODD: dict[str, Reply] = {
    "no message": RecordDict({"message": ConfigRecord({"kind": "identity"})}),
    "no records": RecordDict(),
    "an error": Error(code=5, reason="x" * 1000),
    "what Flower cannot inflate": KeyError("MetricRecord"),
    "what Flower has no method for": AttributeError("metadata"),
    "a number where a length was": ValueError("invalid literal"),
    "more parts than an identity has": ObjectPullError("", "9 parts of an identity"),
    "what the SuperLink refuses to give": httpx.HTTPStatusError(
        "no", request=httpx.Request("POST", "https://x"), response=httpx.Response(500)
    ),
}


@pytest.mark.parametrize("reply", ODD.values(), ids=ODD)
def test_no_answer_of_a_stranger_to_a_hello_ends_the_run(reply: Reply) -> None:
    """Whoever can register a key can send it, and the pull raises what it raises."""
    grid, flower = grid_of(FakeNode("xx", hello=lambda _: reply), FakeNode("fr"))
    assert grid.nodes() == ["fr"]
    assert len(list(grid.exchange({"fr": offer()}, deadline=60))) == 1
    assert flower.nodes[11].asked == []


class TestExchange:
    def test_each_node_gets_its_request_and_answers(self) -> None:
        grid, _ = grid_of(FakeNode("it"), FakeNode("be"))
        requests = {"it": offer("one"), "be": offer("two")}
        replies = dict(grid.exchange(requests, deadline=60))
        assert {name: reply.body for name, reply in replies.items()} == {
            name: request.body for name, request in requests.items()
        }

    def test_a_request_to_an_unknown_node_gets_no_reply(self) -> None:
        grid, _ = grid_of(FakeNode("it"))
        start = time.monotonic()
        requests = {"it": offer(), "xx": offer()}
        assert [name for name, _ in grid.exchange(requests, deadline=60)] == ["it"]
        assert time.monotonic() - start < 60
        assert list(grid.exchange({}, deadline=60)) == []

    def test_an_exchange_ends_at_its_deadline(self) -> None:
        grid, _ = grid_of(FakeNode("it", answer=never), FakeNode("be"))
        grid.nodes()
        start = time.monotonic()
        assert list(grid.exchange({"it": offer()}, deadline=0.3)) == []
        assert time.monotonic() - start >= 0.3

    def test_a_deadline_ends_what_others_have_answered(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        grid, _ = grid_of(FakeNode("it", answer=never), FakeNode("be"))
        replies = grid.exchange(dict.fromkeys(("it", "be"), offer()), deadline=TWO_DAYS)
        assert next(replies)[0] == "be"
        later = time.monotonic() + TWO_DAYS
        monkeypatch.setattr(
            flower_side, "time", SimpleNamespace(monotonic=lambda: later)
        )
        assert list(replies) == []

    def test_a_half_sent_reply_delays_no_other_node(self) -> None:
        release = threading.Event()
        grid, flower = grid_of(FakeNode("it"), FakeNode("be"))
        grid.nodes()
        flower.nodes[11].answer = lambda m: replace(m, attachments=(b"part",))
        reader = flower.reader

        def stuck(message: FlowerMessage, reply: Reply) -> Any:
            if message.metadata.dst_node_id == 11:
                return lambda _: release.wait(600)
            return reader(message, reply)

        flower.reader = stuck  # type: ignore[method-assign]
        replies = grid.exchange(dict.fromkeys(("it", "be"), offer()), deadline=60)
        assert next(replies)[0] == "be"
        replies.close()  # type: ignore[attr-defined]
        release.set()

    @pytest.mark.slow
    def test_a_node_that_was_started_again_is_asked_again(self) -> None:
        def restart(_: Message) -> Reply:
            node.answer = lambda m: Message(kind=Kind.RECEIPT, body=m.body)
            node.activation = "tuesday"

        node = FakeNode("it", answer=restart)
        grid, _ = grid_of(node)
        grid.nodes()
        assert len(list(grid.exchange({"it": offer()}, deadline=60))) == 1
        assert len(node.asked) == 2

    @pytest.mark.slow
    def test_a_late_reply_to_the_first_request_still_counts(self) -> None:
        def blink(_: Message) -> Reply:
            node.activation = "tuesday"
            if len(node.asked) == 2:
                late = Message(kind=Kind.RECEIPT, body=b"first")
                flower.replies["m2"] = flower.replies["m2"][0], late

        node = FakeNode("it", answer=blink)
        grid, flower = grid_of(node)
        grid.nodes()
        replies = dict(grid.exchange({"it": offer()}, deadline=60))
        assert replies["it"].body == b"first"
        assert len(node.asked) == 2

    def test_a_request_may_wait_for_two_days(self) -> None:
        """Flower's own messages expire after half a day, unless they say otherwise."""
        grid, flower = grid_of(FakeNode("it"))
        push, sent = flower.push_messages, list[FlowerMessage]()

        def keep(messages: list[FlowerMessage], *, small: list[bool]) -> list[str]:
            sent.extend(messages)
            return push(messages, small=small)

        flower.push_messages = keep  # type: ignore[method-assign]
        assert len(list(grid.exchange({"it": offer()}, deadline=TWO_DAYS))) == 1
        message = sent[-1]
        assert TWO_DAYS - 60 < message.metadata.ttl <= TWO_DAYS
        message.metadata.__dict__["_src_node_id"] = SUPERLINK_NODE_ID
        assert validate_message(message, is_reply_message=False) == []

    def test_what_answers_no_request_is_not_looked_at(self) -> None:
        """Flower hands over messages that are addressed to the SuperLink as well."""
        grid, flower = grid_of(FakeNode("it"), FakeNode("be"))
        grid.nodes()
        pull = flower.pull_messages

        def with_a_stray(message_ids: Iterable[str]) -> list[Came]:
            def read(_: Callable[[], bool]) -> FlowerMessage:
                raise AssertionError

            return [Came(answers="", is_whole=True, read=read), *pull(message_ids)]

        flower.pull_messages = with_a_stray  # type: ignore[method-assign]
        names = dict.fromkeys(("it", "be"), offer())
        assert len(list(grid.exchange(names, deadline=60))) == 2

    def test_an_error_of_the_superlink_means_waiting_for_the_node(self) -> None:
        gone = Error(code=5, reason="node unavailable")
        grid, flower = grid_of(FakeNode("it", answer=lambda _: gone))
        assert list(grid.exchange({"it": offer()}, deadline=0.5)) == []
        assert flower.pushed == 2

    def test_a_reply_that_does_not_decode_is_silence(self) -> None:
        bad = RecordDict({"message": ConfigRecord({"kind": "receipt"})})
        grid, _ = grid_of(FakeNode("it", answer=lambda _: bad), FakeNode("be"))
        names = dict.fromkeys(("it", "be"), offer())
        start = time.monotonic()
        assert [name for name, _ in grid.exchange(names, deadline=60)] == ["be"]
        assert time.monotonic() - start < 60

    def test_an_engine_that_fails_is_not_taken_for_silence(self) -> None:
        broken = httpx.ReadError("gone")
        grid, _ = grid_of(FakeNode("it", answer=lambda _: broken))
        with pytest.raises(httpx.ReadError):
            list(grid.exchange({"it": offer()}, deadline=60))

    def test_answered_requests_are_cleared_away_and_others_later(self) -> None:
        grid, flower = grid_of(FakeNode("it"), FakeNode("be", answer=never))
        grid.nodes()
        replies = grid.exchange(dict.fromkeys(("it", "be"), offer()), deadline=60)
        assert next(replies)[0] == "it"
        replies.close()  # type: ignore[attr-defined]
        assert sorted(flower.forgotten) == ["m1", "m2", "m3", "m4"]

    def test_a_message_that_fits_travels_in_one_piece(self) -> None:
        grid, flower = grid_of(FakeNode("it"))
        large = replace(offer(), attachments=(bytes(1 << 16), b"1"))
        for request in (offer(), large):
            list(grid.exchange({"it": request}, deadline=60))
        assert flower.small == [True, True, False]

    @pytest.mark.slow
    def test_a_caller_that_stops_listening_leaves_no_poll_behind(self) -> None:
        grid, _ = grid_of(FakeNode("it"), FakeNode("be", answer=never))
        before = set(threading.enumerate())
        replies = grid.exchange(dict.fromkeys(("it", "be"), offer()), deadline=60)
        next(replies)
        replies.close()  # type: ignore[attr-defined]
        wait_until(lambda: set(threading.enumerate()) <= before)


class TestPulling:
    def test_parts_that_are_late_are_looked_for_soon(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        misses = iter(range(4))
        pauses: list[float] = []
        wait, others = threading.Event.wait, set(threading.enumerate())
        others.remove(threading.current_thread())

        def noted(event: threading.Event, timeout: float | None = None) -> bool:
            if timeout is not None and threading.current_thread() not in others:
                pauses.append(timeout)
            return wait(event, timeout)

        def late(object_id: str) -> bytes:
            if next(misses, None) is not None:
                raise ObjectUnavailableError(object_id)
            return b"part"

        monkeypatch.setattr(threading.Event, "wait", noted)
        assert pull_parts(["a"], late, is_lost=lambda: False) == {"a": b"part"}
        assert sum(pauses) < 0.5  # Flower's own would come to 15

    def test_parts_of_a_node_that_is_gone_are_not_waited_for(self) -> None:
        asked: list[str] = []

        def never_comes(object_id: str) -> bytes:
            asked.append(object_id)
            raise ObjectUnavailableError(object_id)

        with pytest.raises(ObjectPullError, match="its request is over"):
            pull_parts(["a"], never_comes, is_lost=lambda: len(asked) == 3)


@pytest.mark.parametrize("parts", [9, 1000])
def test_more_parts_than_an_identity_has_are_not_pulled(
    monkeypatch: pytest.MonkeyPatch, parts: int
) -> None:
    monkeypatch.setattr(flower_side.THREAD, "limited", True, raising=False)

    def never_asked(_: str) -> bytes:
        raise AssertionError

    with pytest.raises(ObjectPullError, match=f"{parts} parts of an identity"):
        pull_parts(["a"] * parts, never_asked, is_lost=lambda: False)


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("limited", [True, False])
def test_a_long_answer_to_a_hello_is_not_read(
    monkeypatch: pytest.MonkeyPatch, told: bool, limited: bool
) -> None:
    """Over a real client of Flower: the answer is refused by its head."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            server.answer = 0, True  # type: ignore[attr-defined]
            address = f"127.0.0.1:{server.server_port}"
            grid = http_grid.HttpGrid(address, insecure=True, token=address)
            assert list(grid.get_nodes()) == []
            limit_hellos(grid)
            monkeypatch.setattr(flower_side.THREAD, "limited", limited, raising=False)
            assert list(grid.get_nodes()) == []
            server.answer = (1 << 20) + 1, told  # type: ignore[attr-defined]
            said = "bytes for an identity" if limited else "Invalid protobuf"
            with pytest.raises(ObjectPullError if limited else ValueError, match=said):
                grid.get_nodes()
            grid.close()
        finally:
            server.shutdown()


class TestServerApp:
    @staticmethod
    def run(main: Callable[[Path, Grid], None], directory: str) -> None:
        context = Context(
            run_id=1,
            node_id=1,
            node_config={},
            state=RecordDict(),
            run_config={"directory": directory},
            series_id=1,
        )
        flower = FakeFlower(FakeNode("it"))
        app = server_app(main, connect=lambda _: flower)
        app(grid=flower, context=context)

    def test_main_gets_the_directory_and_a_grid_and_holds_the_lock(
        self, tmp_path: Path
    ) -> None:
        seen: list[Any] = []

        def main(directory: Path, grid: Grid) -> None:
            seen.extend([directory, grid.nodes(), is_worked_on(directory)])

        self.run(main, str(tmp_path))
        assert seen == [tmp_path, ["11"], True]
        assert read_outcome(tmp_path) == Outcome()

    def test_an_error_is_the_outcome(self, tmp_path: Path) -> None:
        def main(_: Path, __: Grid) -> None:
            raise QuorumError("2 of 3 zu w\u00e9nig", code="quorum-not-reached")

        with refused(QuorumError, "quorum-not-reached"):
            self.run(main, str(tmp_path))
        assert read_outcome(tmp_path) == Outcome(
            kind="QuorumError",
            code="quorum-not-reached",
            message="2 of 3 zu w?nig",
        )

    def test_an_error_of_a_narrower_class_is_of_the_kind_that_is_known(
        self, tmp_path: Path
    ) -> None:
        def main(directory: Path, _: Grid) -> None:
            raise InputFault(directory / "x", "is a link", code="link-not-allowed")

        with refused(ConfigError, "link-not-allowed"):
            self.run(main, str(tmp_path))
        outcome = read_outcome(tmp_path)
        assert outcome is not None
        assert (outcome.kind, outcome.code) == ("ConfigError", "link-not-allowed")

    def test_an_edited_package_is_the_outcome_and_nothing_ran(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        packages = tmp_path / "packages"
        packages.mkdir()
        install(packages, "first", requires=["second"])
        install(packages, "second")
        (packages / "second" / "__init__.py").write_bytes(b"edited")
        monkeypatch.syspath_prepend(packages)
        monkeypatch.setenv("TAPESTRY_CACHE", str(tmp_path / "cache"))
        manifest = replace(
            software_manifest(), packages=tuple(required_packages("first", "node"))
        )
        monkeypatch.setattr(flower_side, "software_manifest", lambda: manifest)
        with refused(VerificationError, "installed-file-differs"):
            self.run(lambda *_: pytest.fail("it ran"), str(tmp_path))
        outcome = read_outcome(tmp_path)
        assert outcome is not None
        assert outcome.code == "installed-file-differs"

    def test_an_unforeseen_error_is_an_outcome_without_its_text(
        self, tmp_path: Path
    ) -> None:
        def main(_: Path, __: Grid) -> None:
            raise ValueError("a private record")

        with pytest.raises(ValueError, match="private"):
            self.run(main, str(tmp_path))
        outcome = read_outcome(tmp_path)
        assert outcome is not None
        assert (outcome.kind, outcome.code) == ("ValueError", "")
        assert "private" not in outcome.message

    def test_an_engine_that_fails_leaves_no_outcome(self, tmp_path: Path) -> None:
        def main(_: Path, __: Grid) -> None:
            raise httpx.ConnectError("gone")

        with pytest.raises(httpx.ConnectError):
            self.run(main, str(tmp_path))
        assert read_outcome(tmp_path) is None

    @pytest.mark.parametrize("directory", ["", "relative", "/does/not/exist"])
    def test_a_directory_that_does_not_exist_is_refused(self, directory: str) -> None:
        def main(_: Path, __: Grid) -> None:
            raise AssertionError

        with refused(ConfigError, "folder-missing", match="names directory '"):
            self.run(main, directory)

    def test_a_directory_that_the_bundle_does_not_name_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        own, other = tmp_path / "own", tmp_path / "other"
        own.mkdir()
        other.mkdir()
        write_bundle(tmp_path / "bundle", app="a:b", directory=own)
        monkeypatch.setenv(flower_side.BUNDLE_VARIABLE, str(tmp_path / "bundle"))
        seen: list[Path] = []

        def main(directory: Path, _: Grid) -> None:
            seen.append(directory)

        with refused(PolicyError, "directory-not-allowed", match=f"{other}; .* {own}"):
            self.run(main, str(other))
        assert read_outcome(other) is None
        self.run(main, str(own))
        assert seen == [own]
