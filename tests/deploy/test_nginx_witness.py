"""What the shipped proxy of a witness passes, by a real nginx and a real witness."""

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapestry_coordinator.superlink.tls import ServerFiles, make_server_certificate
from tapestry_governance.witness.witness_server import serving
from tests.deploy.reverse_proxy import (
    CONFIGURATION,
    Proxy,
    listening,
    needs_nginx,
    rendered,
)
from tests.support.cosigning import LOG_KEY
from tests.support.outside_witness import MAIN, make_witness, opened
from tests.support.ports import free_port

pytestmark = needs_nginx

SHIPPED = CONFIGURATION.with_name("nginx-witness.conf")
ADD = "/witness/add-checkpoint"
READ = f"/witness/{hashlib.sha256(LOG_KEY.name.encode()).hexdigest()}/checkpoint"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ServerFiles:
    return make_server_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def proxy(tmp_path: Path, files: ServerFiles) -> Iterator[Proxy]:
    make_witness(tmp_path / "archive")
    folder, port = tmp_path / "proxy", free_port()
    folder.mkdir()
    with (
        opened(tmp_path / "archive") as witness,
        serving(witness, ("127.0.0.1", 0)) as upstream,
    ):
        values = {
            "/etc/tapestry/tls/witness.pem": str(files.certificate),
            "/etc/tapestry/tls/witness.key": str(files.key),
            "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
            "client_body_timeout 10s;": "client_body_timeout 1s;",
            "http://127.0.0.1:8444/": f"http://127.0.0.1:{upstream}/",
        }
        with listening(folder, rendered(values, SHIPPED), port):
            yield Proxy(port=port, authority=files.authority, folder=folder)


def test_both_paths_pass_with_all_that_a_client_needs(proxy: Proxy) -> None:
    assert proxy.ask("POST", ADD, MAIN.body(0, 7))[0] == 200
    assert proxy.ask("POST", ADD, MAIN.body(7, 300))[0] == 200
    assert proxy.ask("POST", ADD, MAIN.body(0, 7)) == (409, b"300\n")
    status, note = proxy.ask("GET", READ)
    assert (status, note.startswith(str(MAIN.checkpoint(300)).encode())) == (200, True)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("GET", ADD), ("PUT", ADD), ("POST", READ), ("HEAD", READ), ("GET", "/")),
        *(("POST", path) for path in (f"{ADD}/", f"{ADD}?", "/add-checkpoint")),
        *(("POST", path) for path in ("/witness//add-checkpoint", f"/x/..{ADD}")),
        *(("GET", path) for path in ("/witness/", f"{READ}x", READ.upper())),
    ],
)
def test_nothing_else_passes(proxy: Proxy, method: str, path: str) -> None:
    assert proxy.ask(method, path, b"")[0] == 404
    assert proxy.passed == []


@pytest.mark.slow
def test_a_body_that_is_too_large_or_unfinished_reaches_no_witness(
    proxy: Proxy,
) -> None:
    assert proxy.ask("POST", ADD, b"x" * (2**16 + 1))[0] == 413
    head = f"POST {ADD} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nold"
    assert proxy.send(head.encode()) in {0, 408}  # it is not waited for
    assert proxy.passed == []


def test_one_address_is_answered_so_often_a_minute(proxy: Proxy) -> None:
    answers: list[int] = []
    begun = time.monotonic()
    while 429 not in answers:  # it asks more quickly than once a second
        answers.append(proxy.ask("POST", ADD, b"x")[0])
    assert set(answers) == {400, 429}
    assert 60 <= answers.count(400) <= 62 + time.monotonic() - begun
