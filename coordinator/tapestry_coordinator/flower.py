"""The coordinator's end of the wire: a Flower ServerApp; translation only.

``FlowerGrid`` is the round driver's ``Grid``, over Flower's ``push_messages`` and
``pull_messages``. ``app`` is what the submitted bundle refers to: it reads
``directory`` from the run configuration and hands over to
``tapestry_coordinator.run.main``.

Flower ends or signals this process as it likes (SIGINT on status 401, exit when the
SuperLink is gone). So be it: the process is disposable, all that counts is in the
driver's journal, and whoever supervises submits a new run on the same directory.

Whoever reaches a SuperLink's port can submit a bundle, and it would run here.
``guarded_serverapp`` stands in for Flower's ``flwr-serverapp`` and runs none but ours.
"""

import functools
import importlib
import logging
import os
import queue
import threading
import time
import tomllib
import unicodedata
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

from tapestry.errors import ConfigError, PolicyError, ProtocolError, TapestryError
from tapestry.inputs.faults import unforeseen
from tapestry.protocol.framing import pack, unpack
from tapestry.protocol.messages import (
    HelloRequest,
    Identity,
    Message,
    encode_message,
    expect_body,
)
from tapestry_coordinator.grid import Grid
from tapestry_coordinator.superlink.outcome import working_on, write_outcome

_LOG = logging.getLogger(__name__)

BUNDLE_VARIABLE = "TAPESTRY_BUNDLE"

_MESSAGE_TYPE = "query"
_FIRST_POLL = 0.04
_POLLS_PER_SECOND = 40  # of all pending requests together
_LAZINESS = 12  # polls become rarer with waiting, up to this factor
_LOOK_SECONDS = 1.0  # between looks at who is online
_HELLO_SECONDS = 10.0
_ENGINE_ERRORS = (httpx.HTTPError, RunNotRunningException)

_THREAD = threading.local()  # lost: whether the errand of this thread is in vain

Main = Callable[[Path, Grid], None]
_Arrival = tuple[str, Message] | Exception | None  # None: nothing of use will come


@dataclass(frozen=True, slots=True, kw_only=True)
class _PendingRequest:
    """One request on its way."""

    name: str
    node_id: int
    request: Message
    end: float
    pause: float  # between the first polls
    arrivals: "queue.SimpleQueue[_Arrival]"
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def seconds_left(self) -> float:
        return self.end - time.monotonic()

    @property
    def is_over(self) -> bool:
        return self.over.is_set() or self.seconds_left <= 0

    def message(self) -> FlowerMessage:
        """Build the message; it expires with the deadline."""
        records = pack(self.request)
        return FlowerMessage(
            RecordDict({name: ConfigRecord(part) for name, part in records.items()}),
            dst_node_id=self.node_id,
            message_type=_MESSAGE_TYPE,
            ttl=max(self.seconds_left, 1.0),
        )


class FlowerGrid:
    """Nodes behind a SuperLink.

    Guarantees:
        ``exchange`` ends at its deadline, whatever a node does, half-sent replies
        included. A node goes by the name it was registered under, or else by the one
        in its ``identity``; a name is given once.

    Edge cases:
        A request is sent again when its node was started again meanwhile, so a node
        can see it twice. A reply that does not decode counts as silence, and is not
        waited for. Neither name proves anything: the protocol's signatures do.
    """

    def __init__(self, flower: Flower) -> None:
        """Take the grid that Flower hands to a ServerApp."""
        self._flower = flower
        self._names: dict[int, str] = {}  # by node id, which stands for a public key
        self._online: dict[int, str] = {}  # when each was activated last

    def nodes(self) -> list[str]:
        """Name the nodes that are online, in order of name."""
        for node_id, name in self._look().items():
            if name:  # also when it is too busy to say so
                self._introduce(node_id, name)
        new = {str(key): key for key in self._online if key not in self._names}
        hello = dict.fromkeys(new, encode_message(HelloRequest()))
        for key, reply in self._exchange(hello, new, deadline=_HELLO_SECONDS):
            self._introduce(new[key], _identity(reply))
        return sorted(name for key, name in self._names.items() if key in self._online)

    def exchange(
        self, requests: Mapping[str, Message], *, deadline: float
    ) -> Iterator[tuple[str, Message]]:
        """Send each node its request and yield replies as they arrive."""
        end = time.monotonic() + deadline
        if not requests.keys() <= set(self._names.values()):
            self.nodes()
        ids = {name: key for key, name in self._names.items() if name in requests}
        known = {name: requests[name] for name in ids}
        yield from self._exchange(known, ids, deadline=end - time.monotonic())

    def _look(self) -> dict[int, str]:
        """See who is online; return the names under which they were registered."""
        infos = list(self._flower.get_nodes())
        self._online = {info.node_id: str(info.last_activated_at) for info in infos}
        return {info.node_id: str(info.name) for info in infos}

    def _introduce(self, node_id: int, name: str) -> None:
        if name and name not in self._names.values():
            self._names.setdefault(node_id, name)

    def _exchange(
        self,
        requests: Mapping[str, Message],
        ids: Mapping[str, int],
        *,
        deadline: float,
    ) -> Iterator[tuple[str, Message]]:
        if not requests:
            return
        arrivals: queue.SimpleQueue[_Arrival] = queue.SimpleQueue()
        errands = [
            _PendingRequest(
                name=name,
                node_id=ids[name],
                request=request,
                end=time.monotonic() + deadline,
                pause=max(_FIRST_POLL, len(requests) / _POLLS_PER_SECOND),
                arrivals=arrivals,
            )
            for name, request in requests.items()
        ]
        self._look()
        sent = self._flower.push_messages([errand.message() for errand in errands])
        for errand, message_id in zip(errands, sent, strict=True):
            threading.Thread(
                target=self._run, args=(errand, message_id), daemon=True
            ).start()
        try:
            yield from self._arrivals(arrivals, len(errands), errands[0].end)
        finally:
            for errand in errands:
                errand.over.set()

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

    def _run(self, errand: _PendingRequest, message_id: str) -> None:
        """See one request through, in a thread, so that no node blocks another."""
        try:
            reply = self._await_reply(errand, message_id)
            if reply is not None:
                errand.arrivals.put((errand.name, unpack(reply.content)))
        except ProtocolError as error:
            _LOG.warning("dropped a reply of %s: %s", errand.name, error)
            errand.arrivals.put(None)
        except Exception as error:  # noqa: BLE001 - raised where the driver waits
            errand.arrivals.put(error)

    def _await_reply(
        self, errand: _PendingRequest, message_id: str
    ) -> FlowerMessage | None:
        activation = self._online.get(errand.node_id, "")
        pending = {message_id} - {""}  # empty: the SuperLink did not take it
        start = time.monotonic()
        while not errand.is_over:
            _THREAD.lost = functools.partial(self._is_lost, errand, activation)
            for reply in self._flower.pull_messages(pending) if pending else ():
                if reply.has_content():
                    return reply
                pending.discard(reply.metadata.reply_to_message_id)  # it will not come
            now = self._online.get(errand.node_id, activation)
            if now != activation:
                _LOG.info("%s was started again; asking it again", errand.name)
                pending |= {*self._flower.push_messages([errand.message()])} - {""}
                activation, start = now, time.monotonic()
            waited = (time.monotonic() - start) / _LAZINESS
            errand.over.wait(min(max(waited, errand.pause), errand.pause * _LAZINESS))
        return None

    def _is_lost(self, errand: _PendingRequest, activation: str) -> bool:
        now = self._online.get(errand.node_id, activation)
        return errand.is_over or now != activation


def _identity(reply: Message) -> str:
    try:
        return expect_body(reply, Identity).name
    except ProtocolError:
        return ""


def server_app(main: Main) -> ServerApp:
    """Make the ServerApp that runs ``main`` on the directory it is told."""
    server = ServerApp()

    def run(flower: Flower, context: Context) -> None:
        directory = Path(str(context.run_config.get("directory", "")))
        _check_directory(directory)
        _pull_promptly()
        with working_on(directory):
            _run_to_the_end(main, directory, FlowerGrid(flower))

    server.main()(run)
    return server


def guarded_serverapp() -> None:
    """Be ``flwr-serverapp``, for the bundle in the folder ``$TAPESTRY_BUNDLE`` alone.

    Guarantees:
        A bundle that differs from it in one byte ends the process before anything of
        it is unpacked. So only installed code runs, whoever submitted what.
    """
    bundle = Path(os.environ[BUNDLE_VARIABLE])
    runtime = importlib.import_module("flwr.superlink.runtime.run_serverapp")
    install = runtime.install_from_fab

    def install_ours(content: bytes, *, skip_prompt: bool) -> Path:
        if content != build_fab_from_disk(bundle):
            raise PolicyError("a bundle that is not ours is not run")
        return Path(install(content, skip_prompt=skip_prompt))

    vars(runtime)["install_from_fab"] = install_ours
    flwr_serverapp()


def _check_directory(directory: Path) -> None:
    if not directory.is_absolute() or not directory.is_dir():
        raise ConfigError(f"run-config directory={str(directory)!r} does not exist")
    bundle = os.environ.get(BUNDLE_VARIABLE)
    if bundle is not None:  # then nobody else may choose another one
        project = tomllib.loads((Path(bundle) / "pyproject.toml").read_text("utf-8"))
        if project["tool"]["flwr"]["app"]["config"]["directory"] != str(directory):
            raise PolicyError("a directory that is not ours is not worked on")


def _run_to_the_end(main: Main, directory: Path, grid: Grid) -> None:
    try:
        main(directory, grid)
    except _ENGINE_ERRORS:
        raise  # no outcome: another run can go on from here
    except Exception as error:
        known = isinstance(error, TapestryError)
        said = f"{type(error).__name__}: {error}" if known else unforeseen(error)
        text = unicodedata.normalize("NFC", said)
        write_outcome(directory, error=text.encode("ascii", "replace").decode())
        raise
    write_outcome(directory, error=None)


def _pull_promptly() -> None:
    """Mend how Flower fetches the parts of a reply, which shows up before they do.

    It looks again after a second; we after a fiftieth. It waits three minutes for the
    rest of a reply whose node died, and gives up on an upload that takes longer; we
    wait as long as the errand of the calling thread does.
    """
    pull_objects = http_grid.pull_objects

    def pull(object_ids: list[str], pull_object_fn: Callable[[str], bytes]) -> Any:
        lost = getattr(_THREAD, "lost", _never)

        def pull_unless_lost(object_id: str) -> bytes:
            if lost():
                raise ObjectPullError(object_id, "nobody waits for it any more")
            return pull_object_fn(object_id)

        return pull_objects(
            object_ids,
            pull_unless_lost,
            max_tries_per_object=None,
            initial_backoff=0.02,
            backoff_cap=0.5,
        )

    http_grid.pull_objects = pull


def _never() -> bool:
    return False


def _drive(directory: Path, grid: Grid) -> None:
    importlib.import_module("tapestry_coordinator.run").main(directory, grid)


app = server_app(_drive)
