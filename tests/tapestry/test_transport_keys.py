"""The key of a node towards its SuperLink: made once, and shown to be held."""

import subprocess
from pathlib import Path
from shutil import which

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tapestry.errors import ConfigError, ResourceError, VerificationError
from tapestry.transport_keys import (
    check_transport_proof,
    load_transport_key,
    make_transport_key,
    prove_transport,
    public_text,
    transport_digest,
)
from tests.support.refusals import refused


def test_a_key_is_ours_alone_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "key"
    key = make_transport_key(path)
    before = path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "key.pub").read_text("ascii") == f"{public_text(key)}\n"
    assert public_text(load_transport_key(path)) == public_text(key)
    with refused(ConfigError, "file-exists", match=f"{tmp_path}/key"):
        make_transport_key(path)
    assert path.read_bytes() == before


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with refused(ResourceError, "file-unwritable", match="missing/key"):
        make_transport_key(tmp_path / "missing" / "key")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_key_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    make_transport_key(path)
    path.chmod(mode)
    with refused(ConfigError, "key-file-not-private", match=f"{path} .*chmod 600"):
        load_transport_key(path)


@pytest.mark.parametrize(
    "data",
    [
        b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n",
        b"canary",
        Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        ),
    ],
    ids=["cut", "text", "another algorithm"],
)
def test_a_file_of_another_kind_is_no_key(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(data)
    path.chmod(0o600)
    with refused(ConfigError, "key-file-invalid", match=f"{path} .*OpenSSH") as caught:
        load_transport_key(path)
    assert "canary" not in str(caught.value)


def test_a_proof_is_of_one_key_and_one_statement(tmp_path: Path) -> None:
    key, other = (make_transport_key(tmp_path / name) for name in "ab")
    public, proof = public_text(key), prove_transport(key, b"statement")
    check_transport_proof(public, b"statement", proof)
    for text, statement in ((public, b"other"), (public_text(other), b"statement")):
        with refused(VerificationError, "possession-not-proven", match="did not sign"):
            check_transport_proof(text, statement, proof)


@pytest.mark.parametrize("change", ["{} comment", "{}=", " {}", "ssh-ed25519 AAAA", ""])
def test_a_public_key_has_one_spelling(tmp_path: Path, change: str) -> None:
    public = public_text(make_transport_key(tmp_path / "key"))
    with refused(VerificationError, "transport-key-invalid", match="nistp384"):
        transport_digest(change.format(public))


@pytest.mark.skipif(which("ssh-keygen") is None, reason="no ssh-keygen here")
def test_the_digest_is_what_ssh_keygen_says(tmp_path: Path) -> None:
    public = public_text(make_transport_key(tmp_path / "key"))
    said = subprocess.run(
        ["ssh-keygen", "-l", "-E", "sha256", "-f", tmp_path / "key.pub"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()[1]
    import base64

    raw = base64.b64decode(said.removeprefix("SHA256:") + "=")
    assert raw.hex() == transport_digest(public)
