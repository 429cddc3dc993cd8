"""The primitives, as this product calls them, agree with pyca's published vectors.

The package ``cryptography_vectors`` carries the vectors of RFCs and other projects that
the library itself is tested with. Each test says how many it ran, so that none is lost
by a change of format.
"""

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tapestry.errors import VerificationError
from tapestry.keys import Algorithm, SigningKey
from tapestry.mlkem768 import DecapsulationKey, encapsulate
from tapestry.secagg.key_schedule import Agreement
from tapestry.secagg.masks import keystream_into
from tests.support.refusals import refused

FOLDER = Path(str(files("cryptography_vectors")))


def blocks(name: str) -> Iterator[dict[str, str]]:
    """Read a file of ``name = value`` lines; a counter starts a block."""
    block: dict[str, str] = {}
    for line in (FOLDER / name).read_text("utf-8").splitlines():
        key, equals, value = (part.strip() for part in line.partition("="))
        if not equals or line.startswith(("#", "[")):
            continue
        if key.lower() == "count":
            if len(block) > 1:
                yield block
            block = {}
        block[key.lower()] = value
    if len(block) > 1:
        yield block


def octets(block: dict[str, str], *names: str) -> list[bytes]:
    return [bytes.fromhex(block[name]) for name in names]


def test_ed25519_signs_and_verifies_as_the_authors_do() -> None:
    lines = (FOLDER / "asymmetric/Ed25519/sign.input").read_text("utf-8").split()
    for line in lines:
        secret, public, message, signed = (
            bytes.fromhex(part) for part in line.split(":")[:4]
        )
        key = SigningKey(name="x", algorithm=Algorithm.SIGNATURE, seed=secret[:32])
        signature = signed[:64]
        assert key.verify_key.public == public
        assert key.sign(message) == signature
        key.verify_key.verify(message, signature)
        with refused(VerificationError, "signature-invalid"):
            key.verify_key.verify(message + b"\0", signature)
    assert len(lines) == 1024


def test_x25519_agrees_with_rfc_7748() -> None:
    found = list(blocks("asymmetric/X25519/rfc7748.txt"))
    for block in found:
        scalar, point, result = octets(block, "input_scalar", "input_u", "output_u")
        point = point[:31] + bytes([point[31] & 0x7F])  # RFC 7748, 5: masked off
        assert Agreement(scalar).with_peer(point) == result
    assert len(found) == 3


def test_ml_kem_768_agrees_with_its_known_answers() -> None:
    found = list(blocks("asymmetric/MLKEM/kat_MLKEM_768.rsp"))
    for block in found:
        d, z, public, ciphertext, secret = octets(block, "d", "z", "pk", "ct", "ss")
        key = DecapsulationKey(d + z)
        assert key.public == public
        assert key.decapsulate(ciphertext) == secret
        rejected, implicit = octets(block, "ct_n", "ss_n")
        assert key.decapsulate(rejected) == implicit
        own, sealed = encapsulate(public)
        assert key.decapsulate(sealed) == own
    assert len(found) == 1000


@pytest.mark.parametrize(
    ("name", "count"), [("rfc-5869-HKDF-SHA256", 3), ("hkdf-generated", 1)]
)
def test_hkdf_agrees_with_rfc_5869(name: str, count: int) -> None:
    found = list(blocks(f"KDF/{name}.txt"))
    for block in found:
        secret, salt, info, result = octets(block, "ikm", "salt", "info", "okm")
        kdf = HKDF(algorithm=hashes.SHA256(), length=len(result), salt=salt, info=info)
        assert kdf.derive(secret) == result
    assert len(found) == count


def test_chacha20_poly1305_agrees_with_rfc_8439() -> None:
    found = list(blocks("ciphers/ChaCha20Poly1305/openssl.txt"))
    opened = 0
    for block in found:
        names = ("key", "iv", "aad", "plaintext", "ciphertext", "tag")
        key, nonce, data, plain, cipher, tag = octets(block, *names)
        aead = ChaCha20Poly1305(key)
        if block.get("result", "").startswith("CIPHERFINAL"):
            with pytest.raises(InvalidTag):
                aead.decrypt(nonce, cipher + tag, data)
        elif len(nonce) == 12 and len(tag) == 16:
            assert aead.encrypt(nonce, plain, data) == cipher + tag
            assert aead.decrypt(nonce, cipher + tag, data) == plain
            opened += 1
    assert (len(found), opened) == (5, 4)


def test_masks_are_the_keystream_of_rfc_3686() -> None:
    found = list(blocks("ciphers/AES/CTR/aes-256-ctr.txt"))
    for block in found:
        key, counter, plain, cipher = octets(
            block, "key", "iv", "plaintext", "ciphertext"
        )
        stream = bytearray(len(plain))
        first = 4 * int.from_bytes(counter, "big")
        keystream_into(key, start=first)(memoryview(stream))
        mixed = np.frombuffer(stream, np.uint8) ^ np.frombuffer(plain, np.uint8)
        assert mixed.tobytes() == cipher
    assert len(found) == 3
