import os
import socket
import ssl
import stat
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tapestry.errors import ConfigError, ResourceError, VerificationError
from tapestry.keys import SigningKey
from tapestry_coordinator.superlink.tls import (
    certificate_end,
    check_validity,
    issue_certificate,
    make_authority,
    make_server_certificate,
    read_small_file,
)
from tests.support.refusals import refused


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def shake_hands(files_folder: Path, authority: Path, host: str) -> None:
    """Connect a client that trusts ``authority`` to a server, by a host name."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(
        files_folder / "superlink.pem", files_folder / "superlink.key"
    )
    client = ssl.create_default_context(cafile=authority)
    ours, theirs = socket.socketpair()

    def answer() -> None:
        try:
            with server.wrap_socket(theirs, server_side=True):
                pass
        except OSError:
            theirs.close()

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        with client.wrap_socket(ours, server_hostname=host):
            pass
    finally:
        ours.close()
        thread.join()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_client_recognizes_the_server_by_the_authority(
    tmp_path: Path, host: str
) -> None:
    files = make_server_certificate(tmp_path)
    shake_hands(tmp_path, files.authority, host)


def test_another_name_or_authority_is_not_accepted(tmp_path: Path) -> None:
    files = make_server_certificate(tmp_path / "one")
    other = make_server_certificate(tmp_path / "two")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(tmp_path / "one", files.authority, "example.org")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(tmp_path / "one", other.authority, "localhost")


def test_names_are_chosen_by_the_caller(tmp_path: Path) -> None:
    files = make_server_certificate(tmp_path, hosts=("coordinator.example", "::1"))
    certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert [str(name.value) for name in names.value] == ["coordinator.example", "::1"]


def test_private_keys_are_ours_alone_and_the_authoritys_is_gone(tmp_path: Path) -> None:
    files = make_server_certificate(tmp_path / "tls")
    assert mode(files.key) == 0o600
    assert mode(tmp_path / "tls") == 0o700
    private = [p for p in (tmp_path / "tls").iterdir() if b"PRIVATE" in p.read_bytes()]
    assert private == [files.key]
    authority = x509.load_pem_x509_certificate(files.authority.read_bytes())
    assert isinstance(authority.public_key(), Ed25519PublicKey)


def test_certificates_are_made_once(tmp_path: Path) -> None:
    before = make_server_certificate(tmp_path).certificate.read_bytes()
    assert make_server_certificate(tmp_path).certificate.read_bytes() == before


def test_a_renewed_certificate_is_by_the_same_authority(tmp_path: Path) -> None:
    key = SigningKey.generate("rivers/authority")
    (tmp_path / "authority.pem").write_bytes(make_authority(key))
    known = (tmp_path / "authority.pem").read_bytes()
    hosts = ["rivers.example", "10.0.0.1", "::1"]
    first = issue_certificate(tmp_path, hosts, key=key).certificate.read_bytes()
    files = issue_certificate(tmp_path, hosts, key=key)
    assert files.certificate.read_bytes() != first
    assert files.authority.read_bytes() == known
    assert mode(files.key) == 0o600
    issuer = x509.load_pem_x509_certificate(known)
    renewed = x509.load_pem_x509_certificate(files.certificate.read_bytes())
    renewed.verify_directly_issued_by(issuer)
    names = renewed.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.value.get_values_for_type(x509.DNSName) == ["rivers.example"]
    assert len(names.value.get_values_for_type(x509.IPAddress)) == 2


def test_a_key_that_cannot_be_read_is_not_called_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    files, now = make_server_certificate(Path("tls")), datetime.now(UTC)
    Path("tls").chmod(0o755)
    files.key.chmod(0)
    before = os.geteuid()
    if before == 0:
        os.seteuid(65_533)
    try:
        with refused(ResourceError, "file-unreadable", match=r"tls/superlink\.key"):
            check_validity(files, now)
    finally:
        os.seteuid(before)
    files.key.chmod(0o600)
    files.key.write_bytes(b"no key")
    with refused(ConfigError, "certificate-key-differs", match="is not the key of"):
        check_validity(files, now)


def test_another_authority_issues_nothing(tmp_path: Path) -> None:
    own, other = (SigningKey.generate("rivers/authority") for _ in "12")
    (tmp_path / "authority.pem").write_bytes(make_authority(own))
    with refused(ConfigError, "authority-differs", match="the charter names"):
        issue_certificate(tmp_path, ["localhost"], key=other)
    assert [path.name for path in tmp_path.iterdir()] == ["authority.pem"]


@pytest.mark.parametrize("size", [1 << 20, (1 << 20) + 1, 1 << 44])
def test_no_more_is_read_than_a_certificate_can_be(tmp_path: Path, size: int) -> None:
    """A sparse file of terabytes would fill the memory."""
    path = make_server_certificate(tmp_path).certificate
    os.truncate(path, size)
    if size > 1 << 20:
        with refused(VerificationError, "file-too-large", match=path.name):
            read_small_file(path)
        with refused(VerificationError, "file-too-large", match=path.name):
            certificate_end(tmp_path)
    else:
        assert len(read_small_file(path)) == size


def test_a_file_of_two_authorities_recognizes_the_servers_of_both(
    tmp_path: Path,
) -> None:
    """So nodes can get ready for another coordinator while the old one still leads."""
    folders = [tmp_path / name for name in ("old", "new")]
    for folder in folders:
        folder.mkdir()
    pems = [make_server_certificate(folder).authority for folder in folders]
    both = tmp_path / "authorities.pem"
    both.write_bytes(b"".join(pem.read_bytes() for pem in pems))
    for folder in folders:
        shake_hands(folder, both, "localhost")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(folders[0], pems[1], "localhost")
