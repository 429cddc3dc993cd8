"""What the shipped proxy passes, and what it does not, by a server that records it."""

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapestry.tlog.tiles import layout
from tapestry_coordinator.superlink.tls import ServerFiles, make_server_certificate
from tests.deploy.reverse_proxy import (
    FLEET,
    PATHS,
    Proxy,
    RecordingServer,
    needs_nginx,
    proxied,
    recording,
)

pytestmark = needs_nginx

# Other spellings of the nodes' paths, and the paths of others.
SPELLINGS = [
    "//v1/fleet/{name}",
    "/v1//fleet/{name}",
    "/v1/fleet//{name}",
    "/v1/fleet/{name}/",
    "/v1/fleet/{name}//",
    "/v1/fleet/{name}/.",
    "/v1/fleet/./{name}",
    "/v1/fleet/x/../{name}",
    "/v1/control/../fleet/{name}",
    "/v1/fleet/{name};x",
    "/v1/fleet/;/{name}",
    "/v1/fleet/{name}?",
    "/v1/fleet/{name}?x=1",
    "/v1/fleet/{name}%3fx",
    "/v1/fleet/{name}#x",
    "/v1/fleet/{name}%00",
    "/v1/fleet/{name}%0a",
    "/v1/fleet/{name}%20",
    "/v1/fleet/%2e/{name}",
    "/v1/fleet/%2e%2e/control/{name}",
    "/v1%2ffleet/{name}",
    "/v1/fleet%2f{name}",
    "/%76%31/fleet/{name}",
    "/V1/fleet/{name}",
    "/v1/FLEET/{name}",
    "/api/v1/fleet/{name}",
    "/v1/fleet/x{name}",
    "/v1/fleet/{name}x",
    "/v1/fleet\\{name}",
    "\\v1\\fleet\\{name}",
]
OTHERS = [
    "/",
    "/docs",
    "/redoc",
    "/openapi.json",
    "/health",
    "/v1/fleet",
    "/v1/fleet/",
    "/v1/fleet/register-node",
    "/v1/fleet/unregister-node",
    "/v1/fleet/get-run",
    "/v1/fleet/get-fab",
    "/v1/fleet/../control/stop-run",
    "/v1/fleet/activate-node/../../control/stop-run",
    "/v1/fleet/activate-node%2f..%2f..%2fcontrol%2fstop-run",
    "/v1/control/start-run",
    "/v1/runtime/push-object",
    "/public",
    "/public/",
    "/public/tile/",
    "/public/../secret",
    "/public/%2e%2e/secret",
    "/public/..%2fsecret",
    "/public//checkpoint",
    "/public/checkpoint/",
    "/public/checkpoint?x",
    "/public/Checkpoint",
    "/public/secret",
    "/public/tile/0/../../secret",
    "/secret",
]
METHODS = ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "X"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ServerFiles:
    return make_server_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def server(files: ServerFiles) -> Iterator[RecordingServer]:
    with recording(files) as server:
        yield server


@pytest.fixture(scope="module")
def proxy(
    server: RecordingServer,
    files: ServerFiles,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("proxy")
    (folder / "secret").write_text("a secret")
    (folder / "public").mkdir()
    (folder / "public" / "secret").write_text("a secret")
    (folder / "public" / "checkpoint").write_text("a checkpoint")
    (folder / "public" / "turns").mkdir()
    for name in ("outbox.json", "turns/41", "turns/x"):
        (folder / "public" / name).write_text(name)
    for tile in itertools.chain(layout(1), layout(70_000)):
        path = folder / "public" / tile.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(tile.path)
    with proxied(folder, files, superlink=server.address) as proxy:
        yield proxy


def request(method: str, path: str, version: str = "HTTP/1.1") -> bytes:
    head = f"{method} {path} {version}\r\nHost: x\r\nContent-Length: 0\r\n"
    return f"{head}Connection: close\r\n\r\n".encode("latin-1")


def test_each_of_the_eight_paths_passes_as_it_was_sent(
    proxy: Proxy, server: RecordingServer
) -> None:
    server.seen.clear()
    for path in PATHS:
        assert proxy.ask("POST", path, b"\0" * 2**20)[0] == 200
    assert server.lines == [f"POST {path} HTTP/1.1" for path in PATHS]
    assert len(FLEET) == 8


def attempts() -> list[bytes]:
    """Requests that must not reach a SuperLink."""
    spelled = [each.format(name=name) for each in SPELLINGS for name in FLEET[::7]]
    tried = [request("POST", path) for path in [*spelled, *OTHERS]]
    tried += [request("GET", path) for path in OTHERS]
    tried += [request("POST", f"/v1/fleet/{name.title()}") for name in FLEET]
    tried += [request(method, path) for path in PATHS for method in METHODS]
    tried += [request("POST", path, "HTTP/1.0") for path in PATHS]
    tried += [request("POST", path, "HTTP/2.0") for path in PATHS]
    return tried


def test_no_other_path_spelling_method_or_version_reaches_the_superlink(
    proxy: Proxy, server: RecordingServer
) -> None:
    server.seen.clear()
    for each in attempts():
        assert proxy.send(each) in {400, 404, 405, 505}, each
    for path in PATHS:
        assert proxy.send(f"POST {path}\r\n\r\n".encode()) == 0  # HTTP/0.9
    assert server.seen == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shipped", "looser"),
    [
        ('  if ($tapestry_place = "") { return 404; }\n', ""),
        ("$request_method $request_uri", "$request_method $uri"),
        ("~^HTTP/1\\.1 POST", "~*^HTTP/1\\.1 POST"),
        ("~^HTTP/1\\.1 POST", "~^HTTP/1\\.[01] POST"),
        ("~^HTTP/1\\.1 POST", "~^HTTP/1\\.1 [A-Z]+"),
        ('|push-object)$"', '|push-object)"'),
    ],
)
def test_a_looser_list_would_be_noticed(
    server: RecordingServer,
    files: ServerFiles,
    tmp_path: Path,
    shipped: str,
    looser: str,
) -> None:
    server.seen.clear()
    with proxied(
        tmp_path, files, superlink=server.address, changes={shipped: looser}
    ) as proxy:
        for each in attempts():
            proxy.send(each)
    assert server.seen != []


def test_a_second_request_cannot_hide_in_the_first(
    proxy: Proxy, server: RecordingServer
) -> None:
    server.seen.clear()
    inner = "POST /v1/control/stop-run HTTP/1.1\r\nHost: x\r\n\r\n"
    size = f"Content-Length: {len(inner)}\r\n"
    head = f"POST {PATHS[1]} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    chunked = "Transfer-Encoding: chunked\r\n"
    assert proxy.send(f"{head}{size}{chunked}\r\n{inner}".encode()) == 400
    assert proxy.send(f"{head}{size}{size}\r\n{inner}".encode()) == 400
    assert proxy.send(f"{head}Transfer-Encoding : chunked\r\n\r\n0\r\n".encode()) == 400
    assert server.seen == []
    assert proxy.send(f"{head}{size}\r\n{inner}".encode()) == 200
    assert server.lines == [f"POST {PATHS[1]} HTTP/1.1"]


def test_the_headers_of_a_node_pass_and_none_that_a_proxy_sets(
    proxy: Proxy, server: RecordingServer
) -> None:
    server.seen.clear()
    signed = "flwr-public-key: a\r\nflwr-timestamp: b\r\nflwr-signature: c\r\n"
    forged = "X-Forwarded-For: 192.0.2.1\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n"
    head = f"POST {PATHS[2]} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n"
    assert proxy.send(f"{head}{signed}{forged}\r\n".encode()) == 200
    ((_, headers),) = server.seen
    assert {
        name: headers[name]
        for name in ("flwr-public-key", "flwr-timestamp", "flwr-signature")
    } == {"flwr-public-key": "a", "flwr-timestamp": "b", "flwr-signature": "c"}
    assert headers["X-Forwarded-For"] == "127.0.0.1"
    assert "Upgrade" not in headers
    assert "Upgrade" not in headers.get("Connection", "")


def test_a_piece_above_four_mebibytes_is_refused(
    proxy: Proxy, server: RecordingServer
) -> None:
    server.seen.clear()
    head = f"POST {PATHS[7]} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    refused = proxy.send(f"{head}Content-Length: {4 * 2**20 + 1}\r\n\r\n".encode())
    assert refused == 413
    assert server.seen == []
    assert proxy.ask("POST", PATHS[7], b"\0" * 4 * 2**20)[0] == 200


def test_the_public_log_is_served_file_by_file(
    proxy: Proxy, server: RecordingServer
) -> None:
    server.seen.clear()
    assert proxy.ask("GET", "/public/checkpoint") == (200, b"a checkpoint")
    assert proxy.ask("HEAD", "/public/checkpoint") == (200, b"")
    tiles = [*layout(1), *layout(70_000)]
    assert len(tiles) > 500
    for tile in [*tiles[:4], *tiles[-6:], *(t for t in tiles if t.index == 256)]:
        assert proxy.ask("GET", f"/public/{tile.path}") == (200, tile.path.encode())
    for name in ("outbox.json", "turns/41"):
        assert proxy.ask("GET", f"/public/{name}") == (200, name.encode())
    for name in ("turns/", "turns/x", "turns/041", "outboxxjson", "tile/0/999"):
        assert proxy.ask("GET", f"/public/{name}")[0] == 404
    assert proxy.ask("POST", "/public/checkpoint", b"")[0] == 404
    assert server.seen == []


PUBLISHED = [
    "releases/base-1/model.safetensors",
    "releases/base-1/tapestry/manifest.json",
    "releases/base-12/config.json",
    "adapters/italy.2/adapter_config.json",
    "adapters/italy.2/tapestry/published.entry",
]
UNPUBLISHED = [
    "releases/base-2.new/model.safetensors",
    "releases/base-2.new.old/model.safetensors",
    "releases/draft/config.json",
    "releases/base-01/config.json",
    "releases/notes.txt",
    "releases/base-1/.hidden",
    "releases/base-1/.git/config",
    "releases/base-1/tapestry/release.tlog-proof.new",
    "releases/base-1/a/b/c",
    "adapters/.italy/adapter_config.json",
    "adapters/.italy.old/adapter_config.json",
    "adapters/italy.2/tapestry/.secret",
    "runs/run-1/journal.db",
    "keys/log.key",
]


def test_releases_and_adapters_are_served_without_drafts_or_hidden_files(
    proxy: Proxy, server: RecordingServer
) -> None:
    server.seen.clear()
    for name in [*PUBLISHED, *UNPUBLISHED]:
        path = proxy.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (proxy.folder / "releases" / "base-1" / "link").symlink_to(proxy.folder / "secret")
    (proxy.folder / "releases" / "base-3").symlink_to(proxy.folder / "keys")
    for name in PUBLISHED:
        assert proxy.ask("GET", f"/public/{name}") == (200, name.encode())
        assert proxy.ask("HEAD", f"/public/{name}") == (200, b"")
        assert proxy.ask("POST", f"/public/{name}", b"")[0] == 404
        assert proxy.ask("GET", f"/public/{name}?x")[0] == 404
        assert proxy.ask("GET", f"/{name}")[0] == 404
    for name in UNPUBLISHED:
        assert (proxy.folder / name).exists()
        assert proxy.ask("GET", f"/public/{name}")[0] == 404, name
    for name in ("releases/base-1/link", "releases/base-3/log.key"):
        assert proxy.ask("GET", f"/public/{name}")[0] in {403, 404}
    for name in ("releases", "adapters", "releases/base-1", "releases/base-1/tapestry"):
        assert proxy.ask("GET", f"/public/{name}/")[0] == 404
        assert proxy.ask("GET", f"/public/{name}")[0] in {301, 404}
    for name in ("releases/../secret", "releases/base-1/../../secret"):
        assert proxy.send(request("GET", f"/public/{name}")) == 404
    assert server.seen == []


def test_an_address_that_activates_again_and_again_is_slowed_down(
    server: RecordingServer, files: ServerFiles, tmp_path: Path
) -> None:
    with proxied(tmp_path, files, superlink=server.address) as proxy:
        server.seen.clear()
        begun = time.monotonic()
        said = [proxy.ask("POST", PATHS[0], b"")[0] for _ in range(60)]
        more = (time.monotonic() - begun) / 2  # one that passes each two seconds
        assert said[:21] == [200] * 21
        assert said.count(429) >= 60 - 22 - more
        assert len(server.seen) == said.count(200)
        assert proxy.ask("POST", PATHS[3], b"")[0] == 200  # only activating is slow


def test_a_superlink_of_another_authority_gets_nothing(
    server: RecordingServer, tmp_path: Path
) -> None:
    other = make_server_certificate(tmp_path / "tls")
    with proxied(tmp_path / "proxy", other, superlink=server.address) as proxy:
        server.seen.clear()
        assert proxy.ask("POST", PATHS[3], b"")[0] == 502
        assert server.seen == []
