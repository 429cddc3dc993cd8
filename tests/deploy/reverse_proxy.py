"""The shipped nginx configuration, run by a real nginx on ports of a test."""

import http.client
import os
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tapestry_coordinator.superlink.tls import ServerFiles
from tests.support.ports import free_port
from tests.support.process_families import wait_until

CONFIGURATION = Path(__file__).resolve().parents[2] / "deploy" / "nginx.conf"
NGINX = shutil.which("nginx")
FLEET = (
    "activate-node",
    "deactivate-node",
    "send-node-heartbeat",
    "pull-messages",
    "confirm-message-received",
    "push-messages",
    "pull-object",
    "push-object",
)
PATHS = [f"/v1/fleet/{name}" for name in FLEET]

needs_nginx = pytest.mark.skipif(
    NGINX is None, reason="nginx is not installed; apt-get install nginx"
)

# What a distribution's own nginx.conf does: the file under test is included in http.
_MAIN = """
daemon off;
master_process off;
{user}
pid {folder}/pid;
error_log {folder}/error.log;
events {{}}
http {{
  log_format places '$status "$request" [$upstream_addr]';
  access_log {folder}/access.log places;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  include {folder}/tapestry.conf;
}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """An nginx that listens on this machine."""

    port: int
    authority: Path
    folder: Path

    @property
    def address(self) -> str:
        """What a node dials."""
        return f"127.0.0.1:{self.port}"

    @property
    def passed(self) -> list[str]:
        """The request lines that were passed on, by nginx's own log."""
        lines = (self.folder / "access.log").read_text().splitlines()
        return [line.split('"')[1] for line in lines if not line.endswith("[-]")]

    def send(self, text: bytes) -> int:
        """Send the bytes of a request; return the status, or 0 if there is none."""
        context = ssl.create_default_context(cafile=self.authority)
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=60) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
        ):
            connection.sendall(text)
            answer = http.client.HTTPResponse(connection)
            try:
                answer.begin()
            except http.client.BadStatusLine:
                return 0  # a page alone, as in HTTP/0.9, or no answer
            return answer.status

    def ask(
        self, method: str, path: str, body: bytes | None = None
    ) -> tuple[int, bytes]:
        """Send an ordinary request; return status and content."""
        return ask(self.address, self.authority, method, path, body)


def ask(
    address: str, authority: Path, method: str, path: str, body: bytes | None = None
) -> tuple[int, bytes]:
    """Send a request to a server; return status and content."""
    context = ssl.create_default_context(cafile=authority)
    connection = http.client.HTTPSConnection(address, context=context, timeout=60)
    try:
        kind = {"Content-Type": "application/protobuf"}
        connection.request(method, path, body=body, headers=kind)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def rendered(values: Mapping[str, str], shipped_file: Path = CONFIGURATION) -> str:
    """Return a shipped file with the values of a test; each must stand in it."""
    text = shipped_file.read_text("utf-8")
    for shipped, value in values.items():
        assert shipped in text
        text = text.replace(shipped, value)
    return text


@contextmanager
def proxied(
    folder: Path,
    files: ServerFiles,
    *,
    superlink: str,
    changes: Mapping[str, str] | None = None,
) -> Iterator[Proxy]:
    """Run nginx in front of a SuperLink; the log lies in ``folder/public``.

    Releases and adapters lie beside it.

    ``changes`` replaces further parts of the shipped file.
    """
    folder.mkdir(exist_ok=True)
    port = free_port()
    values = {
        **(changes or {}),
        "/etc/tapestry/tls/authority.pem": str(files.authority),
        "/etc/tapestry/tls/superlink.pem": str(files.certificate),
        "/etc/tapestry/tls/superlink.key": str(files.key),
        "root /srv/tapestry;": f"root {folder};",
        "alias /srv/tapestry/": f"alias {folder}/",
        "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
        "server 127.0.0.1:8443;": f"server {superlink};",
    }
    with listening(folder, rendered(values), port):
        yield Proxy(port=port, authority=files.authority, folder=folder)


@contextmanager
def listening(folder: Path, configuration: str, port: int) -> Iterator[None]:
    """Run nginx with a configuration until it listens at a port."""
    assert NGINX is not None
    (folder / "tapestry.conf").write_text(configuration)
    user = "user root;" if os.getuid() == 0 else ""
    (folder / "main.conf").write_text(_MAIN.format(folder=folder, user=user))
    with (folder / "nginx.out").open("w") as said:
        command = [NGINX, "-e", f"{folder}/error.log", "-c", f"{folder}/main.conf"]
        process = subprocess.Popen(command, stdout=said, stderr=said)
    try:
        wait_until(lambda: process.poll() is not None or _listens(port))
        assert process.poll() is None, (folder / "error.log").read_text()
        yield
    finally:
        process.terminate()
        process.wait(60)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class _Recorder(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "RecordingServer"

    def _record(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.seen.append((self.requestline, dict(self.headers)))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = _record

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class RecordingServer(ThreadingHTTPServer):
    """Stands where the SuperLink stands, and writes down whatever reaches it."""

    def __init__(self, files: ServerFiles) -> None:
        super().__init__(("127.0.0.1", 0), _Recorder)
        self.seen: list[tuple[str, dict[str, str]]] = []
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files.certificate, files.key)
        self.socket = context.wrap_socket(self.socket, server_side=True)

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.server_port}"

    @property
    def lines(self) -> list[str]:
        """The request lines that reached it."""
        return [line for line, _ in self.seen]


@contextmanager
def recording(files: ServerFiles) -> Iterator[RecordingServer]:
    """Run a recording server."""
    server = RecordingServer(files)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join(60)
        server.server_close()
