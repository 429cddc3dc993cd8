"""Each reason why a node has no SuperLink, at a real one or a real TLS server."""

import datetime
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from flwr.supernode import node_auth_http_interceptor

from tapestry.errors import TapestryError
from tapestry.transport_keys import make_transport_key
from tapestry_coordinator.superlink import tls
from tapestry_coordinator.superlink.tls import (
    certificate_end,
    make_server_certificate,
)
from tapestry_node.flower import serve, try_connection
from tapestry_node.superlink_faults import Dialled, explain
from tests.support.superlink import SuperLink


@dataclass(frozen=True, slots=True)
class Site:
    """A node's key, and the SuperLink that it dials."""

    link: SuperLink
    authority: Path
    key: Path

    def dial(self, address: str | None = None) -> datetime.datetime:
        return try_connection(
            superlink=address or self.link.address,
            root_certificates=self.authority,
            auth_key=self.key,
        )

    def fault(self, address: str | None = None) -> TapestryError:
        with pytest.raises(TapestryError) as caught:
            self.dial(address)
        assert "\n" not in str(caught.value)
        return caught.value

    def node(self) -> int:
        return self.link.register(self.key)


@pytest.fixture
def site(engine: SuperLink, tmp_path: Path) -> Site:
    make_transport_key(tmp_path / "transport")
    return Site(engine, engine.authority, tmp_path / "transport")


@contextmanager
def server(
    folder: Path, answer: Callable[[BaseHTTPRequestHandler, int], int], **hosts: str
) -> Iterator[Site]:
    """Answer each request, over TLS, with the status for its length."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["content-length"])
            self.rfile.read(length)
            self.send_response(answer(self, length))
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    files = make_server_certificate(folder / "tls", (hosts.get("host", "127.0.0.1"),))
    make_transport_key(folder / "transport")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        listening.handle_error = lambda *_: None  # type: ignore[method-assign]
        listening.socket = context.wrap_socket(listening.socket, server_side=True)
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        try:
            link = SuperLink(f"127.0.0.1:{listening.server_port}", files.authority, 0)
            yield Site(link, files.authority, folder / "transport")
        finally:
            listening.shutdown()
            thread.join()


def test_a_registered_key_connects_and_leaves_no_trace(site: Site) -> None:
    node_id = site.node()
    before = site.link.status(node_id)
    assert before == ("registered", "", "")
    files = sorted(site.key.parent.iterdir())
    assert site.dial() == certificate_end(site.link.authority.parent)
    assert site.link.status(node_id) == before
    assert sorted(site.key.parent.iterdir()) == files


def test_a_key_that_is_not_registered_is_named_with_the_file_to_send(
    site: Site,
) -> None:
    fault = site.fault()
    assert fault.code == "transport-key-unknown"
    said = f"the coordinator does not know {site.key}; send it {site.key}.pub again"
    assert str(fault) == said


def utc_now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


@pytest.mark.parametrize("seconds", [-300, 4])
def test_a_clock_within_flowers_limit_connects(
    site: Site, monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    site.node()
    turn(monkeypatch, seconds)
    site.dial()


@pytest.mark.parametrize("seconds", [-310, 10])
def test_a_clock_beyond_flowers_limit_is_named_with_both_times(
    site: Site, monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    site.node()
    turn(monkeypatch, seconds)
    fault = site.fault()
    assert fault.code == "clock-off"
    here, there = (
        datetime.datetime.fromisoformat(part.partition(" UTC")[0] + "+00:00")
        for part in (
            str(fault).partition("here says ")[2],
            str(fault).partition(f"{site.link.address} ")[2],
        )
    )
    assert abs((here - there).total_seconds() - seconds) <= 5


def turn(monkeypatch: pytest.MonkeyPatch, seconds: int) -> None:
    """Let Flower sign with the time of a clock that is wrong."""
    right = node_auth_http_interceptor.now
    wrong = datetime.timedelta(seconds=seconds)
    monkeypatch.setattr(node_auth_http_interceptor, "now", lambda: right() + wrong)


def test_a_certificate_by_another_authority_is_a_failed_proof(
    site: Site, tmp_path: Path
) -> None:
    other = make_server_certificate(tmp_path / "other").authority
    fault = replace(site, authority=other).fault()
    assert fault.code == "certificate-foreign"
    assert f"is not by {other}" in str(fault)


def test_a_certificate_for_another_host_is_told_from_a_foreign_one(
    tmp_path: Path,
) -> None:
    with server(tmp_path, lambda *_: 200, host="rivers.example") as site:
        assert site.fault().code == "certificate-of-another-host"
        port = site.link.address.partition(":")[2]
        assert site.fault(f"localhost:{port}").code == "certificate-of-another-host"


@pytest.mark.parametrize(
    ("constant", "hours", "code"),
    [
        ("_LIFETIME", -0.5, "certificate-expired"),
        ("_SLACK", -1, "certificate-not-yet-valid"),
    ],
)
def test_a_certificate_of_another_time_is_named_with_the_clock_here(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    constant: str,
    hours: float,
    code: str,
) -> None:
    monkeypatch.setattr(tls, constant, datetime.timedelta(hours=hours))
    before = utc_now()
    with server(tmp_path, lambda *_: 200) as site:
        fault = site.fault()
    assert fault.code == code
    days = {f"by the clock here ({now:%Y-%m-%d}" for now in (before, utc_now())}
    assert any(day in str(fault) for day in days)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (401, "transport-forbidden"),
        (403, "transport-forbidden"),
        (404, "superlink-failing"),
        (500, "superlink-failing"),
        (502, "superlink-behind-proxy-away"),
    ],
)
def test_each_status_has_a_code(tmp_path: Path, status: int, code: str) -> None:
    with server(tmp_path, lambda *_: status) as site:
        fault = site.fault()
    assert fault.code == code
    assert f"status {status}" in str(fault)


def test_a_proxy_with_too_little_room_is_found_before_there_is_an_upload(
    tmp_path: Path,
) -> None:
    """It takes a mebibyte, as proxies do by default; a part with its head is more."""

    def answer(_: BaseHTTPRequestHandler, length: int) -> int:
        return 413 if length > 1 << 20 else 400

    with server(tmp_path, answer) as site:
        fault = site.fault()
    assert fault.code == "request-too-large"
    assert "client_max_body_size 4m" in str(fault)


def test_nobody_there_is_told_by_what_the_network_says(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    assert site.fault(address).code == "superlink-away"
    assert site.fault("no-such-host.invalid:443").code == "host-unknown"


def test_a_server_without_tls_or_manners_is_told_from_nobody(site: Site) -> None:
    for answer, code in ((b"HTTP/1.1 400 no\r\n\r\n", "tls-missing"), (b"", "")):
        with socket.create_server(("127.0.0.1", 0)) as plain:
            thread = threading.Thread(target=partial(reply, plain, answer))
            thread.start()
            fault = site.fault(f"127.0.0.1:{plain.getsockname()[1]}")
            thread.join()
        assert fault.code == (code or fault.code)
        assert fault.code in {"tls-missing", "connection-lost"}


def reply(listening: socket.socket, answer: bytes) -> None:
    connection, _ = listening.accept()
    with connection:
        connection.recv(64)
        connection.sendall(answer)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (httpx.ConnectTimeout("x"), "superlink-silent"),
        (httpx.ReadTimeout("x"), "superlink-silent"),
        (httpx.ReadError("x"), "connection-lost"),
        (httpx.ProxyError("canary"), "proxy-refuses"),
        (ValueError("canary"), "superlink-reply-malformed"),
    ],
)
def test_what_cannot_be_met_here_has_a_code_too(error: Exception, code: str) -> None:
    dialled = Dialled(superlink="a:1", root_certificates=Path("b"), auth_key=Path("c"))
    fault = explain(error, dialled)
    assert fault.code == code
    assert "canary" not in str(fault)


@pytest.mark.slow
def test_a_key_that_is_in_use_is_told_from_one_that_is_not_registered(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    node_id = site.node()
    with caplog.at_level(logging.INFO, logger="tapestry_node.flower"):
        with serving(site):
            wait_for(caplog, "connected to")
            online = site.link.status(node_id)
            site.dial()  # which neither counts as a connection nor ends one
            assert site.link.status(node_id) == online
            site.key.with_name("transport.node-id").unlink()
            with serving(site):
                wait_for(caplog, "[transport-key-in-use]")
        assert site.link.status(node_id)[0] == "offline"


@pytest.mark.slow
def test_a_node_waits_for_its_registration_and_then_connects(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="tapestry_node.flower"), serving(site):
        wait_for(caplog, "[transport-key-unknown]")
        site.node()
        wait_for(caplog, "connected to")
    assert caplog.text.count("waiting for the coordinator") == 1


@pytest.mark.slow
def test_a_node_takes_a_new_authority_without_a_restart(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site.node()
    authority = make_server_certificate(tmp_path / "old").authority
    waiting = replace(site, authority=authority)
    with caplog.at_level(logging.INFO, logger="tapestry_node.flower"), serving(waiting):
        wait_for(caplog, "[certificate-foreign]")
        authority.write_bytes(site.authority.read_bytes())
        wait_for(caplog, "connected to")


@contextmanager
def serving(site: Site) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(
        target=partial(
            serve,
            lambda request, _: request,
            superlink=site.link.address,
            root_certificates=site.authority,
            auth_key=site.key,
            stop=stop,
        )
    )
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def wait_for(caplog: pytest.LogCaptureFixture, text: str) -> None:
    end = time.monotonic() + 300
    while text not in caplog.text:
        assert time.monotonic() < end, caplog.text
        time.sleep(0.02)
