"""The coordinator's Flower ServerApp, which translates messages and nothing else.

``FlowerGrid`` is the ``Grid`` of a run, over a ``Line``: the plain client that Flower's
own grid has. A message up to ``framing.SMALL_BYTES`` travels within the requests that
announce and look for it. A larger one is taken apart by Flower, each part a request.
The submitted bundle refers to ``app``, which reads ``directory``
from the run configuration and calls ``tapestry_coordinator.run.main``.

Flower may end or signal this process at any time (SIGINT on status 401, exit when the
SuperLink is gone). The supervisor then submits a new run, which has the journal.

Every client that reaches a SuperLink's port can submit a bundle, which would run here.
So ``guarded_serverapp`` replaces Flower's ``flwr-serverapp`` and runs only the bundle
that the supervisor wrote.
"""

import functools
import heapq
import importlib
import itertools
import logging
import os
import queue
import threading
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx
from flwr.app import ConfigRecord, Context, RecordDict
from flwr.app import Message as FlowerMessage
from flwr.app.message import remove_content_from_message
from flwr.cli.build import build_fab_from_disk
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PushAppMessagesRequest
from flwr.serverapp import ServerApp
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    inflate_object_from_contents,
    pull_objects,
    push_objects,
)
from flwr.supercore.run import RunNotRunningException
from flwr.superlink.cli.flwr_serverapp import flwr_serverapp
from flwr.superlink.grid.http_grid import HttpGrid

from tapestry.errors import ConfigError, PolicyError, ProtocolError
from tapestry.inputs.faults import unforeseen
from tapestry.installed_files import require_installed_files
from tapestry.protocol.framing import is_small, pack, unpack
from tapestry.protocol.messages import Kind, Message
from tapestry.software_digest import software_manifest
from tapestry.workloads.deferred_workload import loading
from tapestry_coordinator.grid import Grid
from tapestry_coordinator.superlink.outcome import Outcome, working_on, write_outcome
from tapestry_coordinator.superlink.work_log import write_log

_LOG = logging.getLogger(__name__)

BUNDLE_VARIABLE = "TAPESTRY_BUNDLE"

_MESSAGE_TYPE = "query"
_FIRST_POLL = 0.04
_POLLS_PER_SECOND = 40  # of all pending requests together
_LAZINESS = 12  # polls become rarer with waiting, up to this factor
_LOOK_SECONDS = 1.0  # between looks at who is online
_HELLO_BYTES = 1 << 20  # of each part of a reply to a hello, which anybody may give
_HELLO_PARTS = 8
_PUSHED_TOGETHER = 8  # messages in one request
_SETTLED = 1.0  # seconds after a small reply came: all that belongs to it is there
_ENGINE_ERRORS = (httpx.HTTPError, RunNotRunningException)

THREAD = threading.local()  # limited: what this thread reads answers a hello

Main = Callable[[Path, Grid], None]
_Arrival = tuple[str, Message] | Exception | None  # None: no valid reply will come


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A reply that the SuperLink has."""

    answers: str  # the id of the request
    is_whole: bool  # its parts are here; otherwise they may never come
    read: Callable[[Callable[[], bool]], FlowerMessage]  # takes: is it given up?


class Line(Protocol):
    """A connection to a SuperLink, as far as a grid needs it."""

    def get_nodes(self) -> Iterable[Any]:
        """Return the connections that are online."""
        ...

    def push_messages(
        self, messages: list[FlowerMessage], *, small: list[bool]
    ) -> list[str]:
        """Send requests; return their ids, empty for one that was not taken."""
        ...

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Reply]:
        """Return what has come in reply to requests; each reply is returned once."""
        ...

    def forget(self, message_ids: Iterable[str], *, after: float) -> None:
        """Clear requests or replies away, so many seconds from now."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _PendingRequest:
    """A request that was sent and is not answered yet."""

    name: str
    node_id: int
    request: Message
    end: float
    arrivals: "queue.SimpleQueue[_Arrival]"
    activation: str  # of its node when it was sent first
    over: threading.Event = field(default_factory=threading.Event)
    once: threading.Lock = field(default_factory=threading.Lock)
    sent: list[str] = field(default_factory=list)  # the ids of its messages

    @property
    def is_over(self) -> bool:
        return self.over.is_set() or self.end <= time.monotonic()

    @property
    def is_hello(self) -> bool:
        return self.request.kind is Kind.HELLO

    def send(self, others: Iterable["_PendingRequest"], line: Line) -> None:
        """Send this request and others; each expires with its deadline."""
        every = [self, *others]
        packed = [pack(each.request) for each in every]
        messages = [
            FlowerMessage(
                RecordDict({n: ConfigRecord(part) for n, part in records.items()}),
                dst_node_id=each.node_id,
                message_type=_MESSAGE_TYPE,
                ttl=max(each.end - time.monotonic(), 1.0),
            )
            for each, records in zip(every, packed, strict=True)
        ]
        ids = line.push_messages(messages, small=list(map(is_small, packed)))
        for each, message_id in zip(every, ids, strict=True):
            each.sent.extend([message_id] if message_id else [])

    def settle(self, arrival: _Arrival) -> None:
        """Hand over what came first; nothing more is waited for."""
        self.over.set()
        if self.once.acquire(blocking=False):
            self.arrivals.put(arrival)


Connect = Callable[[HttpGrid], Line]


class FlowerGrid:
    """Connections to a SuperLink, by the ids that it gives them.

    Guarantees:
        ``exchange`` ends at its deadline, whatever a node does, half-sent replies
        included. What answers a hello costs at most ``_HELLO_PARTS`` MiB and ends
        nothing, whatever it is: nobody has proved anything by then.

    Edge cases:
        A request is sent again when its node was started again meanwhile, so a node
        can see it twice. A reply that does not decode counts as silence, and is not
        waited for; what answers no request that was asked about is not looked at. An
        id stands for a key that somebody registered at the SuperLink, and the name
        that it was registered under for nothing.
    """

    def __init__(self, line: Line) -> None:
        self._line = line
        self._online: dict[int, str] = {}  # when each was activated last
        self._listed: dict[int, str] = {}  # likewise, when ``nodes`` was asked last

    def nodes(self) -> list[str]:
        """Return the ids of the connections that are online, in order.

        One that was activated anew since the last call is left out of one list: its
        process has ended in between, however quickly another one came.
        """
        self._look()
        before, self._listed = self._listed, self._online
        return sorted(
            str(i) for i, at in self._online.items() if before.get(i, at) == at
        )

    def _look(self) -> None:
        infos = list(self._line.get_nodes())
        self._online = {info.node_id: str(info.last_activated_at) for info in infos}

    def exchange(
        self, requests: Mapping[str, Message], *, deadline: float
    ) -> Iterator[tuple[str, Message]]:
        """Send each connection its request and yield replies as they arrive."""
        if not requests:
            return
        arrivals: queue.SimpleQueue[_Arrival] = queue.SimpleQueue()
        self._look()
        all_pending = [
            _PendingRequest(
                name=name,
                node_id=int(name),
                request=request,
                end=time.monotonic() + deadline,
                arrivals=arrivals,
                activation=self._online.get(int(name), ""),
            )
            for name, request in requests.items()
        ]
        all_pending[0].send(all_pending[1:], self._line)
        # An answer to a hello is read alone: whatever it is, it costs no other one.
        hellos = [[each] for each in all_pending if each.is_hello]
        members = [each for each in all_pending if not each.is_hello]
        for group in filter(None, [members, *hellos]):
            pause = max(_FIRST_POLL, len(hellos) / _POLLS_PER_SECOND)
            threading.Thread(target=self._run, args=(group, pause), daemon=True).start()
        try:
            yield from self._arrivals(arrivals, len(all_pending), all_pending[0].end)
        finally:
            for pending in all_pending:
                left = 0.0 if pending.over.is_set() else pending.end - time.monotonic()
                pending.over.set()
                self._line.forget(pending.sent, after=max(left, _SETTLED))

    def _arrivals(
        self, arrivals: "queue.SimpleQueue[_Arrival]", count: int, end: float
    ) -> Iterator[tuple[str, Message]]:
        look = time.monotonic() + _LOOK_SECONDS
        while count and (left := end - time.monotonic()) > 0:
            try:
                arrival = arrivals.get(timeout=min(left, _LOOK_SECONDS))
            except queue.Empty:
                pass
            else:
                if isinstance(arrival, Exception):
                    raise arrival
                count -= 1
                if arrival is not None:
                    yield arrival
            if time.monotonic() > look:
                self._look()
                look = time.monotonic() + _LOOK_SECONDS

    def _run(self, group: list[_PendingRequest], pause: float) -> None:
        """Wait for the replies to some requests, in a thread for all of them."""
        try:
            self._await_replies(group, pause)
        except Exception as error:  # noqa: BLE001 - raised where the run waits, or told
            for pending in group:
                if not pending.over.is_set():
                    self._fail(pending, error)

    def _await_replies(self, group: list[_PendingRequest], pause: float) -> None:
        THREAD.limited = group[0].is_hello
        now_active = {each.name: each.activation for each in group}
        start = time.monotonic()
        while live := [each for each in group if not each.is_over]:
            waited = (time.monotonic() - start) / _LAZINESS
            live[0].over.wait(min(max(waited, pause), pause * _LAZINESS))
            asked = {m: each for each in live for m in each.sent if not each.is_over}
            for reply in self._line.pull_messages(asked) if asked else ():
                if (pending := asked.get(reply.answers)) is not None:
                    self._take(reply, pending)  # another one answers nothing
            for each in live:
                now = self._online.get(each.node_id, now_active[each.name])
                if now != now_active[each.name] and not each.is_over:
                    _LOG.info(
                        "node %s was started again, sending it %s again",
                        *(each.name, each.request.kind.value),
                    )
                    each.send([], self._line)
                    now_active[each.name], start = now, time.monotonic()

    def _take(self, reply: Reply, pending: _PendingRequest) -> None:
        """Read a reply; one whose parts may never come in a thread of its own."""
        pending.sent.remove(reply.answers)
        self._line.forget([reply.answers], after=_SETTLED)
        if reply.is_whole or pending.is_hello:
            self._read(reply, pending)
        else:
            work = threading.Thread(
                target=self._read, args=(reply, pending), daemon=True
            )
            work.start()

    def _read(self, reply: Reply, pending: _PendingRequest) -> None:
        THREAD.limited = pending.is_hello
        active = self._online.get(pending.node_id, "")

        def is_lost() -> bool:
            now = self._online.get(pending.node_id, active)
            return pending.is_over or now != active

        try:
            message = reply.read(is_lost)
            if message.has_content():  # otherwise it will not come
                pending.settle((pending.name, unpack(message.content)))
        except ObjectPullError as error:
            _LOG.info("the parts of a reply of node %s: %s", pending.name, error)
            if pending.is_hello:
                pending.settle(None)
        except Exception as error:  # noqa: BLE001 - whatever a node can send
            self._fail(pending, error)

    def _fail(self, pending: _PendingRequest, error: Exception) -> None:
        """Count a reply as silence, or raise an engine's error where the run waits."""
        if isinstance(error, _ENGINE_ERRORS):
            gone = not isinstance(error, httpx.HTTPStatusError)
            pending.settle(error if gone or not pending.is_hello else None)
            return
        known = isinstance(error, ProtocolError)
        _LOG.warning(
            "discarding a reply from node %s to %s that cannot be read: %s",
            *(pending.name, pending.request.kind.value),
            error if known else unforeseen(error),
        )
        pending.settle(None)


class RuntimeLine:
    """Flower's messages over the plain client that its grid has."""

    def __init__(self, flower: HttpGrid) -> None:
        """Take Flower's grid, which is connected."""
        self._flower, self._client = flower, vars(flower)["_client"]
        self._done: list[tuple[float, str]] = []  # heap: when to clear what away
        self._lock = threading.Lock()

    def get_nodes(self) -> Iterable[Any]:
        """Return the connections that are online."""
        return list(self._flower.get_nodes())

    def push_messages(
        self, messages: list[FlowerMessage], *, small: list[bool]
    ) -> list[str]:
        """Send requests; return their ids, empty for one that was not taken."""
        threading.Thread(target=self._clear, daemon=True).start()
        every, ids = iter(zip(messages, small, strict=True)), list[str]()
        while some := list(itertools.islice(every, _PUSHED_TOGETHER)):
            with no_object_id_recompute():
                ids += self._push(some)
        return ids

    def _push(self, messages: list[tuple[FlowerMessage, bool]]) -> list[str]:
        heads, trees, objects = [], [], dict[str, Any]()
        for message, small in messages:
            message.metadata.__dict__["_message_id"] = message.object_id
            head = message if small else remove_content_from_message(message)
            only = ObjectTree(object_id=message.object_id)
            heads.append(message_to_proto(head))
            trees.append(only if small else get_object_tree(message))
            objects |= (
                {message.object_id: message}
                if small
                else get_all_nested_objects(message)
            )
        taken = self._client.PushMessages(
            PushAppMessagesRequest(messages_list=heads, message_object_trees=trees)
        )
        push_objects(
            objects,
            make_push_object_fn_protobuf(
                self._client.PushObject, self._flower.node, self._run, taken.session_id
            ),
            object_ids_to_push=set(taken.objects_to_push),
        )
        return list(taken.message_ids)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Reply]:
        """Return what has come in reply to requests; each reply is returned once."""
        asked = PullAppMessagesRequest(message_ids=list(message_ids))
        found = self._client.PullMessages(asked)
        replies = []
        for head, tree in zip(
            found.messages_list, found.message_object_trees, strict=True
        ):
            whole = not tree.children
            if whole:
                self.forget([tree.object_id], after=_SETTLED)
            replies.append(
                Reply(
                    answers=head.metadata.reply_to_message_id,
                    is_whole=whole,
                    read=functools.partial(self._read, head, tree),
                )
            )
        return replies

    def _read(
        self, head: Any, tree: ObjectTree, is_lost: Callable[[], bool]
    ) -> FlowerMessage:
        if not tree.children:
            return message_from_proto(head)
        parts = [part.object_id for part in iterate_object_tree(tree)]
        pull = make_pull_object_fn_protobuf(
            self._client.PullObject, self._flower.node, self._run
        )
        contents = pull_parts(parts, pull, is_lost=is_lost)
        self._confirm(tree.object_id)
        message = inflate_object_from_contents(tree.object_id, contents)
        if not isinstance(message, FlowerMessage):
            raise ProtocolError(
                f"a {type(message).__name__} instead of a message",
                code="reply-malformed",
            )
        return message

    def forget(self, message_ids: Iterable[str], *, after: float) -> None:
        """Clear requests or replies away, so many seconds from now.

        It is done beside the requests that come then; what is left at the end of a run
        goes with the run.
        """
        due = time.monotonic() + after
        with self._lock:
            for message_id in message_ids:
                heapq.heappush(self._done, (due, message_id))

    def _clear(self) -> None:
        with suppress(*_ENGINE_ERRORS):  # whoever waits for it is told by a request
            while (message_id := self._due()) is not None:
                self._confirm(message_id)

    def _due(self) -> str | None:
        with self._lock:
            if self._done and self._done[0][0] <= time.monotonic():
                return heapq.heappop(self._done)[1]
            return None

    def _confirm(self, message_id: str) -> None:
        self._client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(
                node=self._flower.node, run_id=self._run, message_object_id=message_id
            )
        )

    @property
    def _run(self) -> int:
        return int(self._flower.run.run_id)


def pull_parts(
    parts: list[str], pull: Callable[[str], bytes], *, is_lost: Callable[[], bool]
) -> dict[str, bytes]:
    """Pull the parts of a reply, which arrive after its head.

    Flower polls after one second, and this function after a fiftieth of one. Flower
    waits three minutes for the rest of a reply whose node died, and aborts any upload
    that takes longer; here a part is waited for as long as its request. A
    reply to a hello has few parts, or is not read.

    Raises:
        ObjectPullError: The request is over, or it is an identity in many parts.
    """
    limited = getattr(THREAD, "limited", False)

    def pull_unless_lost(object_id: str) -> bytes:
        if is_lost():
            raise ObjectPullError(object_id, "its request is over")
        THREAD.limited = limited  # here, in a thread of Flower's own
        return pull(object_id)

    if limited and len(parts) > _HELLO_PARTS:
        raise ObjectPullError("", f"{len(parts)} parts of an identity")
    return dict(
        pull_objects(
            parts,
            pull_unless_lost,
            max_tries_per_object=None,
            max_time=None,
            initial_backoff=0.02,
            backoff_cap=0.5,
        )
    )


def connect(flower: HttpGrid) -> Line:
    """Use Flower's grid, which is connected, for small messages and careful hellos."""
    limit_hellos(flower)
    return RuntimeLine(flower)


def server_app(main: Main, *, connect: Connect = connect) -> ServerApp:
    """Return the ServerApp that runs ``main`` on the run configuration's directory."""
    server = ServerApp()

    def run(flower: HttpGrid, context: Context) -> None:
        directory = Path(str(context.run_config.get("directory", "")))
        _check_directory(directory)
        line = connect(flower)
        with working_on(directory):
            try:
                require_installed_files(software_manifest().packages)
                main(directory, FlowerGrid(line))
            except _ENGINE_ERRORS:
                raise  # no outcome: another run can go on from here
            except Exception as error:
                write_outcome(directory, Outcome.of(error))
                raise
            write_outcome(directory, Outcome())

    server.main()(run)
    return server


def guarded_serverapp() -> None:
    """Run Flower's ``flwr-serverapp``, but only the bundle in ``$TAPESTRY_BUNDLE``.

    Guarantees:
        A bundle that differs from that folder in one byte ends the process before any
        file of it is unpacked. So only installed code runs, whatever was submitted.

    Raises:
        PolicyError: The submitted bundle differs from that folder.
    """
    bundle = Path(os.environ[BUNDLE_VARIABLE])
    write_log(bundle.parent)
    runtime = importlib.import_module("flwr.superlink.runtime.run_serverapp")
    install = runtime.install_from_fab

    def install_ours(content: bytes, *, skip_prompt: bool) -> Path:
        if content != build_fab_from_disk(bundle):
            raise PolicyError(
                f"the submitted bundle differs from {bundle}; this SuperLink runs only"
                " that one",
                code="bundle-not-allowed",
            )
        return Path(install(content, skip_prompt=skip_prompt))

    vars(runtime)["install_from_fab"] = install_ours
    flwr_serverapp()


def _check_directory(directory: Path) -> None:
    if not directory.is_absolute() or not directory.is_dir():
        raise ConfigError(
            f"run-config names directory {str(directory)!r}; it must be the absolute"
            " path of a folder that exists",
            code="folder-missing",
        )
    bundle = os.environ.get(BUNDLE_VARIABLE)
    if bundle is not None:  # then no client may choose another directory
        project = tomllib.loads((Path(bundle) / "pyproject.toml").read_text("utf-8"))
        allowed = project["tool"]["flwr"]["app"]["config"]["directory"]
        if allowed != str(directory):
            raise PolicyError(
                f"run-config names directory {directory}; this SuperLink may only run"
                f" {allowed}",
                code="directory-not-allowed",
            )


def limit_hellos(flower: HttpGrid) -> None:
    """Have answers that are long read for no hello: anybody can send one."""
    client: httpx.Client = vars(vars(flower)["_client"])["_client"]
    client.event_hooks = {"response": [_refuse_long]}  # called before the body


def _refuse_long(response: httpx.Response) -> None:
    length = response.headers.get("content-length", "")
    known = length.isdecimal() and len(length) < 10
    if getattr(THREAD, "limited", False) and not (
        known and int(length) <= _HELLO_BYTES
    ):
        raise ObjectPullError("", f"{length[:20] or 'unknown'} bytes for an identity")


def _main_of(module: str) -> Main:
    """Return a ``main`` whose module is loaded when it is called."""

    def main(directory: Path, grid: Grid) -> None:
        with loading():
            found = importlib.import_module(module)
        found.main(directory, grid)

    return main


app = server_app(_main_of("tapestry_coordinator.run"))
service = server_app(_main_of("tapestry_coordinator.service"))
