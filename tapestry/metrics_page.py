"""Metrics in the text format of Prometheus, served on a loopback address alone.

The page is for the operator's own monitoring on the same machine. It is neither
encrypted nor authenticated, so that no other address is accepted.

Guarantees:
    One request is answered at a time, and none is waited for longer than seconds; a
    reader keeps nothing else waiting. What fails is told by its code alone.
"""

import ipaddress
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from socket import AF_INET, AF_INET6
from typing import Literal

from tapestry.errors import ResourceError, TapestryError

_logger = logging.getLogger(__name__)
_CONTENT = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = 5  # that a reader may take to ask
_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A number by its name, or several by the value of one label."""

    name: str
    help: str
    value: float | Mapping[str, float]
    label: str = ""  # of several
    kind: Literal["gauge", "counter"] = "gauge"


Read = Callable[[], list[Metric]]


def render(metrics: list[Metric]) -> str:
    """Return the page, a block for each metric."""
    lines = []
    for each in metrics:
        lines.append(f"# HELP {each.name} {each.help}")
        lines.append(f"# TYPE {each.name} {each.kind}")
        if isinstance(each.value, Mapping):
            for label, value in sorted(each.value.items()):
                text = label.translate(_ESCAPES)
                lines.append(f'{each.name}{{{each.label}="{text}"}} {value:.10g}')
        else:
            lines.append(f"{each.name} {each.value:.10g}")
    return "".join(f"{line}\n" for line in lines)


@dataclass(slots=True)
class CountedBy:
    """A counter for each value of a label."""

    counts: dict[str, float] = field(default_factory=dict)

    def add(self, label: str, number: float = 1) -> None:
        """Count more under a label."""
        self.counts[label] = self.counts.get(label, 0) + number


def parse_address(text: str) -> tuple[str, int]:
    """Read a loopback address and a port; the empty text is none, port 0.

    Raises:
        ValueError: It is another address, a name, or no port.
    """
    if not text:
        return "", 0
    host, _, port = text.rpartition(":")
    try:
        is_loopback = ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        is_loopback = False
    if not (is_loopback and port.isascii() and port.isdecimal()):
        raise ValueError(
            "must be a loopback address and a port, such as 127.0.0.1:9464, or empty"
        )
    check_port(port)
    return host.strip("[]"), int(port)


def check_port(digits: str) -> None:
    """Require the number of a port.

    Raises:
        ValueError: It is another one.
    """
    if not 0 < int(digits) < 1 << 16:
        raise ValueError("must have a port from 1 to 65535")


@contextmanager
def serving(address: str, read: Read) -> Iterator[None]:
    """Serve metrics at an address, as ``parse_address`` reads it, during a block.

    An empty address serves nothing.

    Raises:
        ResourceError: The address is in use, or cannot be had.
    """
    host, port = parse_address(address)
    if not port:
        yield
        return
    try:
        server = _Server((host, port), _handler(read))
    except OSError as error:
        raise ResourceError(
            f"cannot serve metrics at {address}: {error.strerror}; choose another port",
            code="metrics-address-unavailable",
        ) from error
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(HTTPServer):
    def __init__(
        self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]
    ) -> None:
        self.address_family = AF_INET6 if ":" in address[0] else AF_INET
        super().__init__(address, handler)

    def handle_error(self, *_: object) -> None:
        """Say nothing of a reader that went away."""


def _handler(read: Read) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = _SECONDS

        def do_GET(self) -> None:
            if self.path != "/metrics":
                self._send(HTTPStatus.NOT_FOUND, "it is at /metrics\n")
                return
            try:
                page = render(read())
            except Exception as error:  # noqa: BLE001 - monitoring ends nothing
                name = type(error).__name__
                code = error.code if isinstance(error, TapestryError) else name
                _logger.warning("no metrics: %s", code)
                self._send(HTTPStatus.INTERNAL_SERVER_ERROR, f"{code}\n")
                return
            self._send(HTTPStatus.OK, page)

        def _send(self, status: HTTPStatus, text: str) -> None:
            data = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", _CONTENT)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Keep no log of readers."""

    return Handler
