"""The key by which a node connects to its SuperLink: EC P-384, in OpenSSH form.

It protects no update: masks and signatures do. The coordinator registers its public
half, so that strangers are turned away at the door.
"""

import base64
import binascii
import hashlib
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tapestry.errors import ConfigError, VerificationError
from tapestry.keys import read_key_file
from tapestry.storage.durable_files import create_file, replace_file

_SIGNED = ec.ECDSA(hashes.SHA384())


def make_transport_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Make the key of a node in a new file, and beside it ``.pub`` with its other half.

    Raises:
        ConfigError: The file exists. A key is never overwritten.
        ResourceError: The file cannot be written.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    try:
        create_file(path, private)
    except FileExistsError:
        raise ConfigError(
            f"{path} exists; keys are never overwritten", code="file-exists"
        ) from None
    public = path.with_name(path.name + ".pub")
    replace_file(public, f"{public_text(key)}\n".encode("ascii"))
    return key


def load_transport_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Read the key of a node.

    Raises:
        ConfigError: The file is missing, open to others, or no such key.
    """
    try:
        key = serialization.load_ssh_private_key(
            read_key_file(path).encode("ascii"), password=None
        )
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(
            f"{path} is no elliptic-curve key in OpenSSH form; put the node's there",
            code="key-file-invalid",
        )
    return key


def public_text(key: ec.EllipticCurvePrivateKey) -> str:
    """Return a key's public half as OpenSSH spells it, without a comment."""
    return _text(key.public_key())


def transport_digest(public: str) -> str:
    """Return the SHA-256 of a public key's blob (RFC 4253, 6.6), in hex.

    It is what ``ssh-keygen -l`` prints in base64.

    Raises:
        VerificationError: The text is no public key of this kind.
    """
    return key_digest(_parse(public))


def key_digest(key: ec.EllipticCurvePublicKey) -> str:
    """Return the same digest of a key that was read."""
    return hashlib.sha256(base64.b64decode(_text(key).split(" ")[1])).hexdigest()


def prove_transport(key: ec.EllipticCurvePrivateKey, statement: bytes) -> str:
    """Sign a statement (ECDSA with SHA-384, DER), in hex."""
    return key.sign(statement, _SIGNED).hex()


def check_transport_proof(public: str, statement: bytes, proof: str) -> None:
    """Require that a statement was signed by a transport key.

    Raises:
        VerificationError: It was not, or the text is no such key.
    """
    try:
        _parse(public).verify(bytes.fromhex(proof), statement, _SIGNED)
    except (InvalidSignature, ValueError):
        raise VerificationError(
            "the transport key did not sign the request that names it",
            code="possession-not-proven",
        ) from None


def _text(key: ec.EllipticCurvePublicKey) -> str:
    spelled = key.public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    return spelled.decode("ascii")


def _parse(public: str) -> ec.EllipticCurvePublicKey:
    """Read the one spelling of a P-384 key."""
    try:
        key = serialization.load_ssh_public_key(public.encode("ascii"))
    except (ValueError, UnsupportedAlgorithm, binascii.Error):
        key = None
    if (
        not isinstance(key, ec.EllipticCurvePublicKey)
        or key.curve.name != "secp384r1"
        or _text(key) != public
    ):
        raise VerificationError(
            "not a transport key: want ecdsa-sha2-nistp384 in OpenSSH form",
            code="transport-key-invalid",
        )
    return key
