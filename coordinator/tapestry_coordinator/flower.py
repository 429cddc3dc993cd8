"""The coordinator's Flower ServerApp, which translates messages and nothing else.

``FlowerGrid`` is the ``Grid`` of a run, over Flower's ``push_messages`` and
``pull_messages``. The submitted bundle refers to ``app``, which reads ``directory``
from the run configuration and calls ``tapestry_coordinator.run.main``.

Flower may end or signal this process at any time (SIGINT on status 401, exit when the
SuperLink is gone). That does no harm: all state is in the journal, and the supervisor
submits a new run on the same directory.

Every client that reaches a SuperLink's port can submit a bundle, which would run here.
So ``guarded_serverapp`` replaces Flower's ``flwr-serverapp`` and runs only the bundle
that the supervisor wrote.
"""

import functools
import importlib
import logging
import os
import queue
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from flwr.app import ConfigRecord, Context, RecordDict
from flwr.app import Message as FlowerMessage
from flwr.cli.build import build_fab_from_disk
from flwr.serverapp import Grid as Flower
from flwr.serverapp import ServerApp
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError
from flwr.supercore.run import RunNotRunningException
from flwr.superlink.cli.flwr_serverapp import flwr_serverapp
from flwr.superlink.grid import http_grid

from tapestry.errors import ConfigError, PolicyError, ProtocolError
from tapestry.inputs.faults import unforeseen
from tapestry.installed_files import require_installed_files
from tapestry.protocol.framing import pack, unpack
from tapestry.protocol.messages import Kind, Message
from tapestry.software_digest import software_manifest
from tapestry_coordinator.grid import Grid
from tapestry_coordinator.superlink.outcome import Outcome, working_on, write_outcome

_LOG = logging.getLogger(__name__)

BUNDLE_VARIABLE = "TAPESTRY_BUNDLE"

_MESSAGE_TYPE = "query"
_FIRST_POLL = 0.04
_POLLS_PER_SECOND = 40  # of all pending requests together
_LAZINESS = 12  # polls become rarer with waiting, up to this factor
_LOOK_SECONDS = 1.0  # between looks at who is online
_HELLO_BYTES = 1 << 20  # of each part of a reply to a hello, which anybody may give
_HELLO_PARTS = 8
_ENGINE_ERRORS = (httpx.HTTPError, RunNotRunningException)

THREAD = threading.local()  # lost: the request of this thread is over; limited: a hello

Main = Callable[[Path, Grid], None]
_Arrival = tuple[str, Message] | Exception | None  # None: no valid reply will come


@dataclass(frozen=True, slots=True, kw_only=True)
class _PendingRequest:
    """A request that was sent and is not answered yet."""

    name: str
    node_id: int
    request: Message
    end: float
    pause: float  # between the first polls
    arrivals: "queue.SimpleQueue[_Arrival]"
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def is_over(self) -> bool:
        return self.over.is_set() or self.end <= time.monotonic()

    def message(self) -> FlowerMessage:
        """Build the message; it expires with the deadline."""
        records = pack(self.request)
        return FlowerMessage(
            RecordDict({name: ConfigRecord(part) for name, part in records.items()}),
            dst_node_id=self.node_id,
            message_type=_MESSAGE_TYPE,
            ttl=max(self.end - time.monotonic(), 1.0),
        )


class FlowerGrid:
    """Connections to a SuperLink, by the ids that it gives them.

    Guarantees:
        ``exchange`` ends at its deadline, whatever a node does, half-sent replies
        included. What answers a hello costs at most ``_HELLO_PARTS`` MiB and ends
        nothing, whatever it is: nobody has proved anything by then.

    Edge cases:
        A request is sent again when its node was started again meanwhile, so a node
        can see it twice. A reply that does not decode counts as silence, and is not
        waited for. An id stands for a key that somebody registered at the SuperLink,
        and the name that it was registered under for nothing.
    """

    def __init__(self, flower: Flower) -> None:
        self._flower = flower
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
        infos = list(self._flower.get_nodes())
        self._online = {info.node_id: str(info.last_activated_at) for info in infos}

    def exchange(
        self, requests: Mapping[str, Message], *, deadline: float
    ) -> Iterator[tuple[str, Message]]:
        """Send each connection its request and yield replies as they arrive."""
        if not requests:
            return
        arrivals: queue.SimpleQueue[_Arrival] = queue.SimpleQueue()
        all_pending = [
            _PendingRequest(
                name=name,
                node_id=int(name),
                request=request,
                end=time.monotonic() + deadline,
                pause=max(_FIRST_POLL, len(requests) / _POLLS_PER_SECOND),
                arrivals=arrivals,
            )
            for name, request in requests.items()
        ]
        self._look()
        sent = self._flower.push_messages(
            [pending.message() for pending in all_pending]
        )
        for pending, message_id in zip(all_pending, sent, strict=True):
            threading.Thread(
                target=self._run, args=(pending, message_id), daemon=True
            ).start()
        try:
            yield from self._arrivals(arrivals, len(all_pending), all_pending[0].end)
        finally:
            for pending in all_pending:
                pending.over.set()

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

    def _run(self, pending: _PendingRequest, message_id: str) -> None:
        """Wait for the reply to one request; each request has its own thread."""
        try:
            reply = self._await_reply(pending, message_id)
            if reply is not None:
                pending.arrivals.put((pending.name, unpack(reply.content)))
        except ProtocolError as error:
            _LOG.warning(
                "discarding malformed reply from node %s to %s: %s",
                pending.name,
                pending.request.kind.value,
                error,
            )
            pending.arrivals.put(None)
        except _ENGINE_ERRORS as error:  # raised where the run waits
            gone = not isinstance(error, httpx.HTTPStatusError)
            hello = pending.request.kind is Kind.HELLO
            pending.arrivals.put(error if gone or not hello else None)
        except Exception as error:  # noqa: BLE001 - whatever a node can send
            said = "discarding a reply from node %s that cannot be read: %s"
            _LOG.warning(said, pending.name, unforeseen(error))
            pending.arrivals.put(None)

    def _await_reply(
        self, pending: _PendingRequest, message_id: str
    ) -> FlowerMessage | None:
        activation = self._online.get(pending.node_id, "")
        waiting = {message_id} - {""}  # empty: the SuperLink did not take it
        start = time.monotonic()
        while not pending.is_over:
            waited = (time.monotonic() - start) / _LAZINESS
            pending.over.wait(
                min(max(waited, pending.pause), pending.pause * _LAZINESS)
            )
            THREAD.lost = functools.partial(self._is_lost, pending, activation)
            THREAD.limited = pending.request.kind is Kind.HELLO
            for reply in self._flower.pull_messages(waiting) if waiting else ():
                if reply.has_content():
                    return reply
                waiting.discard(reply.metadata.reply_to_message_id)  # it will not come
            now = self._online.get(pending.node_id, activation)
            if now != activation:
                _LOG.info(
                    "node %s was started again, sending it %s again",
                    pending.name,
                    pending.request.kind.value,
                )
                waiting |= {*self._flower.push_messages([pending.message()])} - {""}
                activation, start = now, time.monotonic()
        return None

    def _is_lost(self, pending: _PendingRequest, activation: str) -> bool:
        now = self._online.get(pending.node_id, activation)
        return pending.is_over or now != activation


def server_app(main: Main) -> ServerApp:
    """Return the ServerApp that runs ``main`` on the run configuration's directory."""
    server = ServerApp()

    def run(flower: Flower, context: Context) -> None:
        directory = Path(str(context.run_config.get("directory", "")))
        _check_directory(directory)
        pull_promptly()
        limit_hellos(flower)
        with working_on(directory):
            try:
                require_installed_files(software_manifest().packages)
                main(directory, FlowerGrid(flower))
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


def pull_promptly() -> None:
    """Replace Flower's polling for the parts of a reply, which arrive after its head.

    Flower polls after one second, and this function after a fiftieth of one. Flower
    waits three minutes for the rest of a reply whose node died, and aborts any upload
    that takes longer; here a part is waited for as long as its request. A
    reply to a hello has few parts, or is not read.
    """
    pull_objects = http_grid.pull_objects

    def pull(object_ids: list[str], pull_object_fn: Callable[[str], bytes]) -> Any:
        lost = getattr(THREAD, "lost", lambda: False)
        limited = getattr(THREAD, "limited", False)

        def pull_unless_lost(object_id: str) -> bytes:
            if lost():
                raise ObjectPullError(object_id, "its request is over")
            THREAD.limited = limited  # here, in a thread of Flower's own
            return pull_object_fn(object_id)

        if limited and len(object_ids) > _HELLO_PARTS:
            raise ObjectPullError("", f"{len(object_ids)} parts of an identity")

        return pull_objects(
            object_ids,
            pull_unless_lost,
            max_tries_per_object=None,
            initial_backoff=0.02,
            backoff_cap=0.5,
        )

    http_grid.pull_objects = pull


def limit_hellos(flower: Flower) -> None:
    """Have answers that are long read for no hello: anybody can send one."""
    if isinstance(flower, http_grid.HttpGrid):
        client: httpx.Client = vars(vars(flower)["_client"])["_client"]
        client.event_hooks = {"response": [_refuse_long]}  # called before the body


def _refuse_long(response: httpx.Response) -> None:
    length = response.headers.get("content-length", "")
    known = length.isdecimal() and len(length) < 10
    if getattr(THREAD, "limited", False) and not (
        known and int(length) <= _HELLO_BYTES
    ):
        raise ObjectPullError("", f"{length[:20] or 'unknown'} bytes for an identity")


def _drive(directory: Path, grid: Grid) -> None:
    importlib.import_module("tapestry_coordinator.run").main(directory, grid)


def _serve(directory: Path, grid: Grid) -> None:
    importlib.import_module("tapestry_coordinator.service").main(directory, grid)


app = server_app(_drive)
service = server_app(_serve)
