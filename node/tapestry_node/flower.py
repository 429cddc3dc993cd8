"""The node's side of the wire: Flower's Fleet API, outbound only; translation only.

::

    node                                            SuperLink
      ── activate, heartbeats ───────────────────────▶
      ── pull-messages ──────────────────────────────▶   a request, if there is one
      handle(request) -> reply                           (installed code, nothing else)
      ── push-messages, push-object ─────────────────▶   the reply

A message up to ``framing.SMALL_BYTES`` travels within ``pull-messages`` and
``push-messages``. A larger one is taken apart by Flower, each part a request.

The process opens no port and never asks for an app bundle. Flower's own connection
helper, ``http_request_response``, ends the process when the SuperLink is away and
sends it SIGINT on status 401; the plain client underneath, used here, only
raises. What a request met instead of a SuperLink is ``superlink_faults``'s to say. A
contract test names every part of Flower that this relies on.
"""

import contextlib
import logging
import os
import secrets
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import ConfigRecord, RecordDict
from flwr.app import Message as FlowerMessage
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
    PushMessagesResponse,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ObjectTree,
    PushObjectRequest,
)
from flwr.proto.node_pb2 import Node
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
    inflate_object_from_contents,
    pull_objects,
    push_objects,
)
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supercore.runtime_version_compatibility import RuntimeVersionMetadata
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from tapestry.environment import proxies
from tapestry.errors import (
    ConfigError,
    ProtocolError,
    ResourceError,
    TapestryError,
    VerificationError,
)
from tapestry.inputs.faults import wants_traceback
from tapestry.inputs.plain_file import read_plain
from tapestry.inputs.private_data import frames_of
from tapestry.protocol.framing import is_small, pack, unpack
from tapestry.protocol.messages import Kind, Message
from tapestry.storage import durable_files
from tapestry.transport_keys import load_transport_key
from tapestry_node.superlink_credentials import (
    check_address,
    read_certificates,
    take_up_next,
)
from tapestry_node.superlink_faults import Dialled, explain

_LOG = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 20  # after twice as long without any, a node counts as offline
_BEATS_PER_INTERVAL = 4  # training may keep the machine busy
_LONGEST_BACKOFF = 4.0  # so that a coordinator that starts again has all nodes soon
_STEADY_SECONDS = 30.0  # a connection that lasted so long was a good one
_SOON = 0.1  # seconds to the first poll after a request: the next one may be near
_LAZINESS = 10  # an idle node polls this many times more slowly
_ID_BYTES = 64
_MBIT = 1_000_000 / 8  # bytes
_LARGEST_PIECE = 1 << 20  # bytes of a message's part, as Flower cuts it
_TRANSPORT_ERRORS = (httpx.HTTPError, ValueError)
Handler = Callable[[Message, str], Message]  # a request, and its connection
PushPiece = Callable[[PushObjectRequest], Any]


class Pace:
    """Spreads the pieces of uploads so that a line is not filled by them.

    Guarantees:
        Over any time, however many threads ask, at most the bytes a second that were
        named are let go, and one piece more.

    Edge cases:
        A piece is sent at once when its turn comes, as fast as the line is. Heartbeats
        and all other requests ask for no turn.
    """

    def __init__(self, bytes_per_second: float) -> None:
        self._rate, self._lock = bytes_per_second, threading.Lock()
        self._free = time.monotonic()  # when the next piece may go

    @classmethod
    def of_mbit(cls, mbit: int) -> "Pace | None":
        """Return the pace of so many megabits a second; None for 0, no limit."""
        return cls(mbit * _MBIT) if mbit else None

    def wait(self, count: int) -> None:
        """Wait for the turn of a piece of so many bytes."""
        with self._lock:
            turn = max(self._free, time.monotonic())
            self._free = turn + count / self._rate
        time.sleep(max(turn - time.monotonic(), 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class LineUse:
    """A node's use of its line to the SuperLink, and whom it tells."""

    # Between polls while requests come; up to ten times as long when none came lately.
    poll_seconds: float = 0.1
    pace: Pace | None = None  # of uploads; None: as fast as it goes
    # Called with None at each connection, otherwise with what is waited for; and with
    # the end of the SuperLink's certificate.
    tell: Callable[[TapestryError | None, datetime], None] = lambda _cause, _ends: None
    # Called whenever no request waits; no request is answered meanwhile.
    idle: Callable[[], None] = lambda: None


def serve(
    handle: Handler,
    *,
    superlink: str,
    root_certificates: Path,
    auth_key: Path,
    use: LineUse | None = None,
    stop: threading.Event,
) -> None:
    """Answer requests until ``stop`` is set; reconnect for ever.

    Guarantees:
        All that leaves is the reply of ``handle``, which has receipted it. Where it
        raises instead, or was not asked since the request is no message, nothing
        leaves: to the coordinator, this node is silent. Nothing that the SuperLink or
        the network does ends or signals this process: whoever is in between could end
        every node otherwise. What it waits for is logged once, until that changes. A
        request that comes twice in a row (its reply was lost, or the coordinator
        started again) gets the same bytes again, without another call of ``handle``;
        unless it is a ``hello`` or was refused, then ``handle`` is asked again.

    Edge cases:
        After a restart of this process, ``handle`` can see a request that it has
        answered before. It is called for one request at a time. The certificate's file
        is read at each connection, so that a new one needs no restart, and a new key
        beside ``auth_key``, with ``.next`` at its end, takes its place there.

    Args:
        handle: Turns a request, and the SuperLink's id of this node's connection, into
            a reply.
        superlink: Host and port.
        root_certificates: PEM file of the authority that signed its certificate.
        auth_key: Private EC key in OpenSSH format, mode 0600; the node's identity
            towards the SuperLink. The node id is remembered in a file beside it.
        use: How the line is used.
        stop: Set it to return, after the request at hand.

    Raises:
        ConfigError: The key or the certificate cannot be read, the address is not
            a host and a port, or a proxy that the environment names cannot be used.
    """
    site = _site(superlink, root_certificates, auth_key)
    use = use or LineUse()
    worker = FleetWorker(handle, use)
    failures, start, told = 0, time.monotonic(), ""
    while not stop.is_set():
        try:
            start = time.monotonic()
            if take_up_next(auth_key, is_known=_is_known(site)):
                site = _site(superlink, root_certificates, auth_key)
            with _connect(site) as client, _activated(client, site, stop) as link:
                _LOG.info("connected to %s as node %s", superlink, link.connection)
                told = ""
                use.tell(None, site.seen.ends)
                worker.run(link)
        except Exception as error:  # noqa: BLE001 - outlives whatever comes from outside
            steady = time.monotonic() - start > _STEADY_SECONDS
            failures = 1 if steady else failures + 1
            cause = explain(error, site.dialled)
            if cause.code != told:
                _LOG.warning("waiting for the coordinator: %s [%s]", cause, cause.code)
            told = cause.code
            use.tell(cause, site.seen.ends)
            stop.wait(backoff(failures))


def try_connection(
    *, superlink: str, root_certificates: Path, auth_key: Path
) -> datetime:
    """Try whether the SuperLink would serve this node; return its certificate's end.

    Guarantees:
        Nothing changes at the SuperLink, whether the node is connected or not: it
        looks the key up, and then refuses what is asked of it. No file is written.

    Raises:
        TapestryError: The connection fails, the key is not registered, or a request of
            the largest size does not pass; as ``explain`` has it. A credential cannot
            be read.
    """
    site = _site(superlink, root_certificates, auth_key)
    try:
        with _connect(site) as client:
            _require_registered(client, site)
            _require_room(client)
            return site.seen.ends
    except _TRANSPORT_ERRORS as error:
        raise explain(error, site.dialled) from None


def _check_proxies() -> None:
    try:
        httpx.Client(verify=False).close()  # noqa: S501 - it connects to nothing
    except (ValueError, ImportError, httpx.InvalidURL):  # trying again does not help
        named = ", ".join(proxies(os.environ)) or "the system"
        said = f"cannot use the proxy that {named} names: it is http://HOST:PORT"
        raise ConfigError(f"{said}, or unset it", code="proxy-unsupported") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Site:
    dialled: Dialled
    key: ec.EllipticCurvePrivateKey
    seen: "_Header"

    @property
    def public_key(self) -> bytes:
        return bytes(public_key_to_bytes(self.key.public_key()))


def _site(superlink: str, root_certificates: Path, auth_key: Path) -> _Site:
    check_address(superlink)
    _check_proxies()
    read_certificates(root_certificates)
    return _Site(
        dialled=Dialled(
            superlink=superlink, root_certificates=root_certificates, auth_key=auth_key
        ),
        key=load_transport_key(auth_key),
        seen=_Header(),
    )


def _is_known(site: _Site) -> Callable[[Path], object]:
    dialled = site.dialled
    return lambda key: try_connection(
        superlink=dialled.superlink,
        root_certificates=dialled.root_certificates,
        auth_key=key,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Link:
    client: FleetHttpClient
    node: Node
    stop: threading.Event

    @property
    def connection(self) -> str:
        """The SuperLink's id of this node, told at activation and not by a request."""
        return str(self.node.node_id)

    def pull(self) -> tuple[str, FlowerMessage] | None:
        """Fetch the next request, with a digest of its content.

        A small one is whole as it is, and its sender clears it away; the parts of a
        large one are fetched, and confirmed.
        """
        found = self.client.PullMessages(PullMessagesRequest(node=self.node))
        if not found.messages_list:
            return None
        tree = found.message_object_trees[0]
        if not tree.children:
            message = message_from_proto(found.messages_list[0])
            return str(message.content.object_id), message
        return str(tree.children[0].object_id), self._fetch(
            tree, run_id=found.messages_list[0].metadata.run_id
        )

    def _fetch(self, tree: ObjectTree, *, run_id: int) -> FlowerMessage:
        contents = pull_objects(
            [part.object_id for part in iterate_object_tree(tree)],
            make_pull_object_fn_protobuf(self.client.PullObject, self.node, run_id),
            max_time=180,  # how long the SuperLink itself waits for missing parts
            initial_backoff=0.02,
            backoff_cap=0.5,
        )
        self.client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(
                node=self.node, run_id=run_id, message_object_id=tree.object_id
            )
        )
        message = inflate_object_from_contents(tree.object_id, contents)
        if not isinstance(message, FlowerMessage):
            raise ProtocolError(
                f"a {type(message).__name__} instead of a message",
                code="reply-malformed",
            )
        message.metadata.__dict__["_message_id"] = tree.object_id
        return message

    def push(self, reply: FlowerMessage, pace: Pace | None, *, small: bool) -> None:
        """Deliver a reply with all its parts; doing so twice is harmless.

        A small one is whole in the first request. Flower wants its outermost part
        nevertheless; whether that was still wanted when it came makes no difference.
        """

        def push_piece(piece: PushObjectRequest) -> Any:
            if pace is not None:
                pace.wait(len(piece.object_content))
            return self.client.PushObject(piece)

        with no_object_id_recompute():
            reply.metadata.__dict__["_message_id"] = reply.object_id
            run_id = reply.metadata.run_id
            head = reply if small else remove_content_from_message(reply)
            only = ObjectTree(object_id=reply.object_id)
            announced = PushMessagesRequest(
                node=self.node,
                messages_list=[message_to_proto(head)],
                message_object_trees=[only if small else get_object_tree(reply)],
                clientapp_runtime_list=[0.0],
            )
            if pace is not None and small:
                pace.wait(announced.ByteSize())
            missing = self.client.PushMessages(announced)
            if small:
                self._push_outermost(reply, missing, push_piece)
                return
            push_objects(
                get_all_nested_objects(reply),
                make_push_object_fn_protobuf(
                    push_piece, self.node, run_id, missing.session_id
                ),
                object_ids_to_push=set(missing.objects_to_push),
            )

    def _push_outermost(
        self, reply: FlowerMessage, missing: PushMessagesResponse, push: PushPiece
    ) -> None:
        for object_id in missing.objects_to_push:
            push(
                PushObjectRequest(
                    node=self.node,
                    run_id=reply.metadata.run_id,
                    object_id=object_id,
                    object_content=reply.deflate(),
                    session_id=missing.session_id,
                )
            )

    def beat(self, ended: threading.Event) -> None:
        """Send heartbeats until the connection ends; also while training."""
        request = SendNodeHeartbeatRequest(
            node=self.node, heartbeat_interval=HEARTBEAT_SECONDS
        )
        while not ended.wait(HEARTBEAT_SECONDS / _BEATS_PER_INTERVAL):
            with contextlib.suppress(*_TRANSPORT_ERRORS):
                self.client.SendNodeHeartbeat(request)


class FleetWorker:
    """Takes requests from one connection after another."""

    def __init__(self, handle: Handler, use: LineUse) -> None:
        self._handle, self._use = handle, use
        self._last: tuple[str, Message] | None = None

    def run(self, link: _Link) -> None:
        """Answer requests until told to stop or the connection fails."""
        last = time.monotonic()
        while not link.stop.is_set():
            found = self._pull(link)
            if found is not None:
                self._reply(link, *found)
                last = time.monotonic()
                continue
            self._use.idle()
            link.stop.wait(self.pause_after(time.monotonic() - last))

    def pause_after(self, idle: float) -> float:
        """Return the seconds to the next poll, so many after the last request."""
        usual = self._use.poll_seconds
        lively = min(max(idle / 2, _SOON), usual)
        return max(lively, min(idle / _LAZINESS, usual * _LAZINESS))

    def _pull(self, link: _Link) -> tuple[str, FlowerMessage] | None:
        try:
            return link.pull()
        except httpx.HTTPStatusError as error:
            if error.response.status_code != httpx.codes.FORBIDDEN:
                raise
            return None  # its run ended meanwhile

    def _reply(self, link: _Link, name: str, request: FlowerMessage) -> None:
        reply = self.answer(name, request, connection=link.connection)
        if reply is None:
            return
        packed = pack(reply)
        records = {name: ConfigRecord(each) for name, each in packed.items()}
        answer = FlowerMessage(RecordDict(records), reply_to=request)
        try:
            link.push(answer, self._use.pace, small=is_small(packed))
        except httpx.HTTPStatusError as error:
            if error.response.status_code != httpx.codes.FORBIDDEN:
                raise
            _LOG.info("the run of this %s has ended; discarding it", reply.kind)

    def answer(
        self, name: str, request: FlowerMessage, *, connection: str
    ) -> Message | None:
        """Have a request answered; None for what leaves no receipt, and so nothing."""
        if self._last is not None and self._last[0] == name:
            return self._last[1]
        self._last = None
        try:
            message = unpack(request.content)
            reply = self._handle(message, connection)
        except Exception as error:  # noqa: BLE001 - whatever it is, it stays here
            _LOG.error("a request failed (%s); sending no answer", type(error).__name__)
            if wants_traceback():
                _LOG.error("%s", frames_of(error))
            return None
        if message.kind is not Kind.HELLO and reply.kind is not Kind.REFUSAL:
            self._last = name, reply
        return reply


def _connect(site: _Site) -> FleetHttpClient:
    return FleetHttpClient.from_server_address(
        site.dialled.superlink,
        insecure=False,
        root_certificates=read_certificates(site.dialled.root_certificates),
        interceptors=[
            site.seen,
            NodeAuthHttpInterceptor(site.key, site.key.public_key()),
        ],
    )


@contextlib.contextmanager
def _activated(
    client: FleetHttpClient, site: _Site, stop: threading.Event
) -> Iterator[_Link]:
    node = Node(node_id=_activate(client, site))
    link = _Link(client=client, node=node, stop=stop)
    ended = threading.Event()
    beats = threading.Thread(target=link.beat, args=(ended,), daemon=True)
    beats.start()
    try:
        yield link
    finally:
        ended.set()
        beats.join()
        with contextlib.suppress(*_TRANSPORT_ERRORS):
            client.DeactivateNode(DeactivateNodeRequest(node_id=node.node_id))


def _activate(client: FleetHttpClient, site: _Site) -> int:
    # After kill -9 the SuperLink takes the node for online and refuses an activation
    # until two heartbeats are missed; leaving first, by the remembered id, avoids that.
    key = site.dialled.auth_key
    id_file = key.with_name(key.name + ".node-id")
    with contextlib.suppress(OSError, VerificationError, *_TRANSPORT_ERRORS):
        known = int(read_plain(id_file, limit=_ID_BYTES))
        client.DeactivateNode(DeactivateNodeRequest(node_id=known))
    request = ActivateNodeRequest(
        public_key=site.public_key, heartbeat_interval=HEARTBEAT_SECONDS
    )
    try:
        node_id = client.ActivateNode(request).node_id
    except httpx.HTTPStatusError as error:
        if error.response.status_code == httpx.codes.PRECONDITION_FAILED:
            _require_registered(client, site)
            raise ConfigError(
                f"another process is connected with {key}; stop it, or wait"
                f" {2 * HEARTBEAT_SECONDS} s if it was killed",
                code="transport-key-in-use",
            ) from None
        raise
    with contextlib.suppress(ResourceError):
        durable_files.replace_file(id_file, str(node_id).encode())
    return int(node_id)


def _require_registered(client: FleetHttpClient, site: _Site) -> None:
    """Require that the SuperLink knows the key, and change nothing there.

    It looks the key up (status 412) before it refuses a heartbeat without an interval.

    Raises:
        httpx.HTTPError: It does not know the key, or cannot be asked.
    """
    try:
        client.ActivateNode(ActivateNodeRequest(public_key=site.public_key))
    except httpx.HTTPStatusError as error:
        if error.response.status_code != httpx.codes.BAD_REQUEST:
            raise


def _require_room(client: FleetHttpClient) -> None:
    """Require that a request of the largest size passes what is in between.

    The SuperLink refuses it (status 401), since no node has the id 0.

    Raises:
        httpx.HTTPError: The request is too large, or nobody answers any more.
    """
    piece = PushObjectRequest(node=Node(), object_content=bytes(_LARGEST_PIECE))
    try:
        client.PushObject(piece)
    except httpx.HTTPStatusError as error:
        if error.response.status_code != httpx.codes.UNAUTHORIZED:
            raise


class _Header:
    """Names Flower's version in requests; unlike Flower's own, it ends no process.

    It also keeps the end of the certificate under which it is connected.
    """

    def __init__(self) -> None:
        self._headers = dict(
            RuntimeVersionMetadata.from_local_component("SuperNode").as_metadata()
        )
        self.ends = datetime.max.replace(tzinfo=UTC)

    def intercept(
        self, context: ProtobufRequestContext, call_next: ProtobufCall
    ) -> httpx.Response:
        context.request.headers.update(self._headers)
        context.request.extensions["trace"] = self._trace
        response: httpx.Response = call_next(context)
        return response

    def _trace(self, event: str, seen: dict[str, Any]) -> None:
        if event.endswith("start_tls.complete"):
            peer = seen["return_value"].get_extra_info("ssl_object").getpeercert()
            ends = ssl.cert_time_to_seconds(peer["notAfter"])
            self.ends = datetime.fromtimestamp(ends, UTC)


def backoff(failures: int) -> float:
    """Draw the seconds to wait after some failures in a row; longer after more."""
    longest = min(0.2 * 2.0 ** min(failures, 16), _LONGEST_BACKOFF)
    return longest * (0.5 + secrets.randbelow(1000) / 2000)  # spread the herd
