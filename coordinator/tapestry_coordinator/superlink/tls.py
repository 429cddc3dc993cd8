"""The certificates of a SuperLink, and the authority that vouches for them.

A private authority (Ed25519) signs the SuperLink's certificate and nothing else: its
path length is 0. Who renews a certificate keeps the authority's key under a passphrase
(``tapestry.encrypted_keys``); an engine on one machine throws it away. Neither protects
an update: masks and signatures do.
"""

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tapestry.errors import (
    ConfigError,
    ResourceError,
    TapestryError,
    VerificationError,
)
from tapestry.inputs.plain_file import read_plain, reading
from tapestry.keys import SigningKey
from tapestry.storage import durable_files

_LIFETIME = datetime.timedelta(days=825)  # of a server's certificate
_AUTHORITY_LIFETIME = datetime.timedelta(days=7300)
_DAY = datetime.timedelta(days=1)
_SLACK = datetime.timedelta(hours=1)  # clocks differ
LOCAL = ("127.0.0.1", "localhost")
_MOST_BYTES = 1 << 20  # of a certificate or key
AUTHORITY = "authority.pem"
_AUTHORITY_NAME = "Tapestry authority"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFiles:
    """The files by which a SuperLink speaks TLS and nodes recognize it."""

    authority: Path
    certificate: Path
    key: Path

    @classmethod
    def of(cls, folder: Path) -> "ServerFiles":
        """Name the files in a folder."""
        return cls(
            authority=folder / AUTHORITY,
            certificate=folder / "superlink.pem",
            key=folder / "superlink.key",
        )


def make_server_certificate(folder: Path, hosts: Sequence[str] = LOCAL) -> ServerFiles:
    """Make an authority and a server certificate, unless the folder has them.

    Guarantees:
        The authority's private key is never written, so it cannot sign for another
        server.

    Edge cases:
        Certificates that are not valid now, by this machine's clock, are made anew. So
        a demo can go on years later, or after the clock was corrected.

    Raises:
        ResourceError: The folder cannot be made or written.
    """
    files = ServerFiles.of(folder)
    now = datetime.datetime.now(datetime.UTC)
    if are_valid(files, now):
        return files
    durable_files.make_folders(folder)
    folder.chmod(0o700)
    key = SigningKey.generate("engine/authority")
    durable_files.replace_file(files.authority, make_authority(key))
    return issue_certificate(folder, hosts, key=key)


def are_valid(files: ServerFiles, now: datetime.datetime) -> bool:
    """Return whether ``check_validity`` passes and the server's key is there."""
    try:
        check_validity(files, now)
    except TapestryError:
        return False
    return files.key.exists()


def make_authority(key: SigningKey) -> bytes:
    """Return the certificate of an authority, PEM, signed by its own key."""
    private = _authority_key(key)
    certificate = (
        _builder(_AUTHORITY_NAME, private.public_key(), _AUTHORITY_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(private, None)
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def issue_certificate(
    folder: Path, hosts: Sequence[str], *, key: SigningKey
) -> ServerFiles:
    """Issue a certificate for a new server key, by the authority of a folder.

    Args:
        folder: Holds ``authority.pem``; what it has of a server is replaced.
        hosts: Names and addresses by which the server is dialled.
        key: The authority's.

    Raises:
        ConfigError: The key is not that of ``authority.pem``.
        ResourceError: The folder cannot be read or written.
    """
    files = ServerFiles.of(folder)
    authority = _read_certificate(files.authority)
    private = _authority_key(key)
    if authority.public_key() != private.public_key():
        raise ConfigError(
            f"{files.authority} is of another key than {key.name}; put back the one"
            " that the charter names",
            code="authority-differs",
        )
    server = ec.generate_private_key(ec.SECP384R1())
    certificate = _server(server, hosts, authority, private)
    data = server.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    durable_files.replace_file(files.key, data, mode=0o600)
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    durable_files.replace_file(files.certificate, pem)
    return files


def check_validity(files: ServerFiles, now: datetime.datetime) -> None:
    """Require certificates that are valid for another day, and of the server's key.

    Edge cases:
        A server's key that lies elsewhere is not compared.

    Raises:
        ConfigError: One is not, by this clock; or the key is another one, as after a
            crash in the midst of ``issue_certificate``.
        ResourceError: One cannot be read.
    """
    for path in (files.authority, files.certificate):
        found = _read_certificate(path)
        since, until = found.not_valid_before_utc, found.not_valid_after_utc
        if not since <= now < until - _DAY:
            raise ConfigError(
                f"{path} is valid from {since:%Y-%m-%d} to {until:%Y-%m-%d}, and this"
                f" machine's clock says {now:%Y-%m-%d}; correct the clock, or issue a"
                " new certificate with tapestry coordinator renew",
                code="certificate-not-valid",
            )
    certified = _read_certificate(files.certificate).public_key()
    if files.key.exists() and certified != _public_half(files.key):
        raise ConfigError(
            f"{files.key} is not the key of {files.certificate}; issue a new"
            " certificate with tapestry coordinator renew",
            code="certificate-key-differs",
        )


def require_files(files: ServerFiles) -> None:
    """Require that certificates and server key are there, as after a restoration.

    Raises:
        ConfigError: A file is not there; the message says how to make it.
    """
    for path in (files.authority, files.certificate, files.key):
        if not path.exists():
            raise ConfigError(
                f"{path} is missing; issue a new certificate with tapestry coordinator"
                f" renew, after {AUTHORITY} was put back if it is gone",
                code="tls-file-missing",
            )


def certificate_end(folder: Path) -> datetime.datetime:
    """Return when the SuperLink's certificate ends, or its authority's, if earlier.

    Raises:
        ResourceError: One cannot be read.
    """
    files = ServerFiles.of(folder)
    both = (files.authority, files.certificate)
    return min(_read_certificate(path).not_valid_after_utc for path in both)


def read_small_file(path: Path) -> bytes:
    """Read a certificate or key, which is small.

    Raises:
        ResourceError: It cannot be read.
        VerificationError: It is no plain file, or too large for one.
    """
    with reading(path):
        return read_plain(path, limit=_MOST_BYTES, links=True)


def _public_half(path: Path) -> object:
    """Return the public half of a server's key; None if the file is damaged.

    Raises:
        ResourceError: The file cannot be read, which says nothing of what is in it.
    """
    try:
        data = read_small_file(path)
        return serialization.load_pem_private_key(data, None).public_key()
    except (VerificationError, ValueError, TypeError):
        return None


def _authority_key(key: SigningKey) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(key.seed)


def _read_certificate(path: Path) -> x509.Certificate:
    data = read_small_file(path)
    try:
        return x509.load_pem_x509_certificate(data)
    except ValueError as error:
        raise ResourceError(
            f"cannot read the certificate {path}: {error}", code="file-unreadable"
        ) from error


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(
    subject: str,
    key: ec.EllipticCurvePublicKey | Ed25519PublicKey,
    lifetime: datetime.timedelta,
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(_AUTHORITY_NAME))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SLACK)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _server(
    key: ec.EllipticCurvePrivateKey,
    hosts: Sequence[str],
    authority: x509.Certificate,
    authority_key: Ed25519PrivateKey,
) -> x509.Certificate:
    issuer = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    return (
        _builder("Tapestry SuperLink", key.public_key(), _LIFETIME)
        .add_extension(
            x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
                issuer.value
            ),
            critical=False,
        )
        .sign(authority_key, None)
    )


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)
