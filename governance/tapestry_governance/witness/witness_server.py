"""A witness over HTTP, on a loopback address: ``add-checkpoint`` and the read side.

A proxy in front has the certificate, and keeps slow and greedy clients away. Anyone may
ask: a checkpoint that its log has not signed is refused, and a signed one costs at most
63 hashes and one commit.

Guarantees:
    A reply of status 200 leaves after the checkpoint is on the disk. A client that says
    nothing for seconds is left. No reply and no log line quotes a request.
"""

import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET, AF_INET6

from tapestry.errors import (
    InconsistentLog,
    ProtocolError,
    ResourceError,
    TapestryError,
    VerificationError,
)
from tapestry_governance.witness.add_checkpoint import (
    MAX_BYTES,
    PATH,
    SIZE_TYPE,
    TEXT_TYPE,
    CheckpointRequest,
    StaleSizeError,
    encode_size,
)
from tapestry_governance.witness.witness_folder import WitnessFolder

_logger = logging.getLogger(__name__)
_SECONDS = 5  # that a client may take for its next bytes
_LENGTH = re.compile("[0-9]{1,9}")
_CHECKPOINT = re.compile("/([0-9a-f]{64})/checkpoint")


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpAnswer:
    """A status and a body for a client."""

    status: HTTPStatus
    body: bytes
    content: str = TEXT_TYPE


def answer(witness: WitnessFolder, body: bytes) -> HttpAnswer:
    """Answer the body of an ``add-checkpoint``; never raises."""
    try:
        line = witness.cosign(CheckpointRequest.parse(body))
    except StaleSizeError as error:
        size = encode_size(error.size)
        return HttpAnswer(status=HTTPStatus.CONFLICT, body=size, content=SIZE_TYPE)
    except Exception as error:  # noqa: BLE001 - one request ends no service
        return _refused(error)
    return HttpAnswer(status=HTTPStatus.OK, body=line)


def _refused(error: Exception) -> HttpAnswer:
    """Tell a client no more than the rule that it broke."""
    code = error.code if isinstance(error, TapestryError) else type(error).__name__
    match error:
        case InconsistentLog():
            status = HTTPStatus.UNPROCESSABLE_ENTITY
        case VerificationError(code="log-unknown"):
            status = HTTPStatus.NOT_FOUND
        case VerificationError(code="witness-retired"):
            status = HTTPStatus.SERVICE_UNAVAILABLE
        case VerificationError():
            status = HTTPStatus.FORBIDDEN
        case ProtocolError():
            status = HTTPStatus.BAD_REQUEST
        case _:
            status = HTTPStatus.INTERNAL_SERVER_ERROR
    _logger.warning("refused a checkpoint: %d %s", status, code)
    return HttpAnswer(status=status, body=f"{code}\n".encode("ascii"))


@contextmanager
def serving(witness: WitnessFolder, address: tuple[str, int]) -> Iterator[int]:
    """Serve a witness at an address during a block; yield the port.

    Raises:
        ResourceError: The address is in use, or cannot be had.
    """
    try:
        server = _WitnessServer(address, witness)
    except OSError as error:
        raise ResourceError(
            f"cannot listen at {address[0]} port {address[1]}: {error.strerror}; choose"
            " another port",
            code="witness-address-unavailable",
        ) from error
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: "_WitnessServer"
    protocol_version = "HTTP/1.1"  # clients keep their connection
    timeout = _SECONDS

    def do_POST(self) -> None:
        length = self._length()
        if isinstance(length, HTTPStatus):
            self._refuse(length)
            return
        body = self.rfile.read(length)
        if len(body) == length:  # else the client has hung up
            self._send(answer(self.server.witness, body))

    def do_GET(self) -> None:
        asked = _CHECKPOINT.fullmatch(self.path)
        note = asked and self.server.witness.note_of(asked[1])
        if note:
            self._send(HttpAnswer(status=HTTPStatus.OK, body=note))
        else:
            self._refuse(HTTPStatus.NOT_FOUND)

    def _length(self) -> int | HTTPStatus:
        """Return how many bytes to read, or why none are read."""
        said = self.headers.get_all("Content-Length", [])
        if self.path != PATH:
            return HTTPStatus.NOT_FOUND
        if "Transfer-Encoding" in self.headers or not said:
            return HTTPStatus.LENGTH_REQUIRED
        if len(said) > 1 or not _LENGTH.fullmatch(said[0]):
            return HTTPStatus.BAD_REQUEST
        if int(said[0]) > MAX_BYTES:
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        return int(said[0])

    def _refuse(self, status: HTTPStatus) -> None:
        """Refuse a request whose body, if it has one, is not read."""
        self.close_connection = True
        self._send(HttpAnswer(status=status, body=f"{status.phrase}\n".encode("ascii")))

    def _send(self, reply: HttpAnswer) -> None:
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content)
        self.send_header("Content-Length", str(len(reply.body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(reply.body)

    def version_string(self) -> str:
        """Name the program and no versions."""
        return "tapestry-witness"

    def log_message(self, *_: object) -> None:
        """Keep no log of clients."""


class _WitnessServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], witness: WitnessFolder) -> None:
        self.address_family = AF_INET6 if ":" in address[0] else AF_INET
        self.witness = witness
        super().__init__(address, _Handler)

    def handle_error(self, *_: object) -> None:
        """Say nothing of a client that went away."""
