"""The address, certificate and key with which a node dials its SuperLink."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tapestry.errors import ConfigError, ResourceError
from tapestry.transport_keys import make_transport_key
from tapestry_coordinator.superlink.tls import make_server_certificate
from tapestry_node.superlink_credentials import (
    check_address,
    read_certificates,
    take_up_next,
)
from tests.support.node_folders import change, fifo, run
from tests.support.refusals import refused

MOST = 1 << 20  # bytes of a file


@pytest.fixture
def key(tmp_path: Path) -> Path:
    make_transport_key(tmp_path / "key")
    return tmp_path / "key"


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return make_server_certificate(tmp_path / "tls", ("localhost",)).authority


@pytest.mark.parametrize(
    "address", ["a.example:9092", "127.0.0.1:1", "[::1]:65535", "localhost:65535"]
)
def test_a_host_and_a_port_are_an_address(address: str) -> None:
    check_address(address)


@pytest.mark.parametrize(
    "address",
    ["no port here !!", "a.example:65536", "https://a:9092", "a:0", ":1", "a:", "a:9x"],
)
def test_an_address_without_host_or_port_is_refused(address: str) -> None:
    with refused(ConfigError, "address-invalid", match=f"'{address}' is not HOST:PORT"):
        check_address(address)


def test_a_certificate_that_tapestry_made_is_read(certificate: Path) -> None:
    assert read_certificates(certificate) == certificate.read_bytes()


@pytest.mark.parametrize("data", [b"canary", b"", b"\xff\xfe"])
def test_a_file_without_a_certificate_is_refused_without_its_content(
    certificate: Path, data: bytes
) -> None:
    certificate.write_bytes(data)
    with refused(ConfigError, "certificate-missing", match=str(certificate)) as caught:
        read_certificates(certificate)
    assert "canary" not in str(caught.value)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (Path.unlink, "file-unreadable"),
        (fifo, "file-not-plain"),
        (folder, "file-not-plain"),
        (device, "file-not-plain"),
        (lambda path: os.truncate(path, MOST + 1), "file-too-large"),
    ],
    ids=["missing", "FIFO", "folder", "device", "too large"],
)
def test_a_file_that_cannot_be_read_whole_is_refused_at_once(
    certificate: Path,
    spoil: Callable[[Path], object],
    code: str,
) -> None:
    spoil(certificate)
    with refused(ConfigError, code, match=str(certificate)):
        read_certificates(certificate)


WRONG: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "no certificate": (
        lambda folder: (folder / "authority.pem").write_text("canary"),
        "root_certificates",
        "certificate-missing",
    ),
    "no key": (
        lambda folder: (folder / "keys" / "transport").write_text("canary"),
        "auth_key",
        "key-file-invalid",
    ),
    "an open key": (
        lambda folder: (folder / "keys" / "transport").chmod(0o644),
        "auth_key",
        "key-file-not-private",
    ),
    "a FIFO for a key": (
        lambda folder: fifo(folder / "keys" / "transport"),
        "auth_key",
        "key-file-invalid",
    ),
    "a folder for a certificate": (
        lambda folder: change(folder, {"transport": {"root_certificates": "data"}}),
        "root_certificates",
        "file-not-plain",
    ),
    "a device for a certificate": (
        lambda folder: change(
            folder, {"transport": {"root_certificates": "/dev/zero"}}
        ),
        "root_certificates",
        "file-not-plain",
    ),
    "a URL": (
        lambda folder: change(folder, {"transport": {"superlink": "https://a:9092"}}),
        "superlink",
        "address-invalid",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_check_refuses_the_credentials_that_run_refuses(idle: Path, name: str) -> None:
    spoil, setting, code = WRONG[name]
    spoil(idle)
    done = run("check", idle)
    assert done.exit_code == 2
    (line,) = [each for each in done.stdout.splitlines() if each.startswith("refused")]
    assert line.startswith(f"refused   transport.{setting}: ")
    assert line.endswith(f" [{code}]")
    assert done.stdout.endswith("\nnot ready\n")
    again = run("run", idle)
    assert again.exit_code == 64
    assert again.stderr.endswith(f" [{code}]\n")
    rule = line.partition(": ")[2]
    assert rule in again.stderr
    assert "canary" not in done.stdout + again.stderr


def test_a_new_transport_key_is_taken_up_once_the_superlink_knows_it(
    key: Path,
) -> None:
    def unknown(_: Path) -> None:
        raise ResourceError("it is not registered", code="transport-key-unknown")

    asked: list[Path] = []
    assert not take_up_next(key, is_known=asked.append)
    assert asked == []
    coming = key.with_name("key.next")
    make_transport_key(coming)
    new, old = coming.read_bytes(), key.read_bytes()
    public = coming.with_name("key.next.pub").read_bytes()
    assert not take_up_next(key, is_known=unknown)
    assert (key.read_bytes(), coming.read_bytes()) == (old, new)
    assert take_up_next(key, is_known=asked.append)
    assert asked == [coming]
    assert key.read_bytes() == new
    assert key.with_name("key.pub").read_bytes() == public
    assert sorted(path.name for path in key.parent.glob("key*")) == ["key", "key.pub"]
