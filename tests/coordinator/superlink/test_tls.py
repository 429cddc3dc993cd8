import datetime
import socket
import ssl
import stat
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from tapestry.errors import ConfigError, ResourceError
from tapestry_coordinator.superlink import tls
from tapestry_coordinator.superlink.tls import make_node_key, make_server_certificate
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
    assert isinstance(authority.public_key(), ec.EllipticCurvePublicKey)


def test_certificates_are_made_once(tmp_path: Path) -> None:
    before = make_server_certificate(tmp_path).certificate.read_bytes()
    assert make_server_certificate(tmp_path).certificate.read_bytes() == before


def test_a_node_key_is_ours_alone_and_never_overwritten(tmp_path: Path) -> None:
    public = make_node_key(tmp_path / "key")
    before = (tmp_path / "key").read_bytes()
    assert mode(tmp_path / "key") == 0o600
    assert public.read_bytes().startswith(b"ecdsa-sha2-nistp384 ")
    with refused(ConfigError, "file-exists", match=f"{tmp_path}/key"):
        make_node_key(tmp_path / "key")
    assert (tmp_path / "key").read_bytes() == before


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with refused(ResourceError, "file-unwritable", match="missing/key"):
        make_node_key(tmp_path / "missing" / "key")
    (tmp_path / "file").touch()
    with refused(ResourceError, "file-unwritable", match=f"{tmp_path}/file"):
        make_server_certificate(tmp_path / "file")


@pytest.mark.parametrize(
    ("lifetime", "slack"), [(-1, 10), (900, -10)], ids=["expired", "of the future"]
)
def test_certificates_that_do_not_hold_now_are_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lifetime: int, slack: int
) -> None:
    """Made by a clock that was wrong, or years ago."""
    with monkeypatch.context() as clock:
        clock.setattr(tls, "_LIFETIME", datetime.timedelta(days=lifetime))
        clock.setattr(tls, "_SLACK", datetime.timedelta(days=slack))
        files = make_server_certificate(tmp_path)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(tmp_path, files.authority, "localhost")
    made = make_server_certificate(tmp_path)
    shake_hands(tmp_path, made.authority, "localhost")
    kept = made.certificate.read_bytes()
    assert make_server_certificate(tmp_path).certificate.read_bytes() == kept
    assert mode(made.key) == 0o600


def test_a_damaged_certificate_is_made_anew(tmp_path: Path) -> None:
    files = make_server_certificate(tmp_path)
    files.certificate.write_bytes(b"")
    shake_hands(tmp_path, make_server_certificate(tmp_path).authority, "localhost")
