"""The keys and certificates of the Flower engine, in files of mode 0600.

A private authority signs the SuperLink's certificate and nothing else: its path length
is 0, and its key is never written. Each node has an EC key by which the SuperLink
recognizes it. None of these protects an update: masks and signatures do.
"""

import base64
import datetime
import hashlib
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tapestry.errors import ConfigError, ResourceError
from tapestry.storage import durable_files

_LIFETIME = datetime.timedelta(days=825)
_DAY = datetime.timedelta(days=1)
_SLACK = datetime.timedelta(hours=1)  # clocks differ


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFiles:
    """The files by which a SuperLink speaks TLS and nodes recognize it."""

    authority: Path
    certificate: Path
    key: Path


def make_server_certificate(
    folder: Path, hosts: tuple[str, ...] = ("127.0.0.1", "localhost")
) -> ServerFiles:
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
    files = ServerFiles(
        authority=folder / "authority.pem",
        certificate=folder / "superlink.pem",
        key=folder / "superlink.key",
    )
    now = datetime.datetime.now(datetime.UTC)
    if files.key.exists() and _is_valid(files, now):
        return files
    authority_key, server_key = (ec.generate_private_key(ec.SECP384R1()) for _ in "12")
    authority = _authority(authority_key, now)
    certificate = _server(server_key, hosts, now, authority, authority_key)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        files.key.unlink(missing_ok=True)
    except OSError as error:
        raise ResourceError(
            f"cannot write {folder}: {error.strerror}", code="file-unwritable"
        ) from error
    pem = serialization.Encoding.PEM
    _write_key(files.key, _private(server_key, serialization.PrivateFormat.PKCS8))
    durable_files.replace_file(files.certificate, certificate.public_bytes(pem))
    durable_files.replace_file(files.authority, authority.public_bytes(pem))
    return files


def _is_valid(files: ServerFiles, now: datetime.datetime) -> bool:
    """Return whether both certificates are there and valid for another day."""
    try:
        found = [
            x509.load_pem_x509_certificate(path.read_bytes())
            for path in (files.authority, files.certificate)
        ]
    except (OSError, ValueError):
        return False
    return all(
        each.not_valid_before_utc <= now < each.not_valid_after_utc - _DAY
        for each in found
    )


def make_node_key(path: Path) -> Path:
    """Make the EC key (P-384, OpenSSH) of a node; return the path of its public half.

    Raises:
        ConfigError: The file exists. A key is never overwritten.
        ResourceError: The file cannot be written.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    _write_key(path, _private(key, serialization.PrivateFormat.OpenSSH))
    public = path.with_name(path.name + ".pub")
    text = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    durable_files.replace_file(public, text + b"\n")
    return public


def transport_digest(path: Path) -> str:
    """Return the SHA-256 of a public key's blob (RFC 4253, 6.6), in hex.

    It is what ``ssh-keygen -l`` prints in base64.
    """
    _, blob, *_ = path.read_text("ascii").split()
    return hashlib.sha256(base64.b64decode(blob, validate=True)).hexdigest()


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(
    subject: str, key: ec.EllipticCurvePrivateKey, now: datetime.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name("Tapestry engine authority"))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SLACK)
        .not_valid_after(now + _LIFETIME)
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
        )
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


def _authority(
    key: ec.EllipticCurvePrivateKey, now: datetime.datetime
) -> x509.Certificate:
    return (
        _builder("Tapestry engine authority", key, now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA384())
    )


def _server(
    key: ec.EllipticCurvePrivateKey,
    hosts: tuple[str, ...],
    now: datetime.datetime,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    issuer = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    return (
        _builder("Tapestry SuperLink", key, now)
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
        .sign(authority_key, hashes.SHA384())
    )


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _private(
    key: ec.EllipticCurvePrivateKey, form: serialization.PrivateFormat
) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, form, serialization.NoEncryption()
    )


def _write_key(path: Path, data: bytes) -> None:
    try:
        durable_files.create_file(path, data)
    except FileExistsError:
        raise ConfigError(
            f"{path} exists; keys are never overwritten", code="file-exists"
        ) from None
