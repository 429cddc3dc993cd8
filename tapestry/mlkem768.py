"""ML-KEM-768 (FIPS 203): strict decoding of keys and ciphertexts, and their use.

A node's decapsulation key is made from 64 secret bytes, so that whoever rebuilds these
bytes can open what was sent to the node. A key is decoded where it is parsed: its
numbers are below 3329 (FIPS 203 section 7.2, the modulus check), so it has one
encoding. A ciphertext that was changed opens to other secret bytes and to no error
(section 6.3): what is sealed under them does not open.
"""

from functools import lru_cache

from cryptography.hazmat.primitives.asymmetric.mlkem import (
    MLKEM768PrivateKey,
    MLKEM768PublicKey,
)

from tapestry.errors import ProtocolError

SEED_BYTES = 64  # d and z of FIPS 203
KEY_BYTES = 1184
CIPHERTEXT_BYTES = 1088


@lru_cache(maxsize=1024)
def read_encapsulation_key(key: bytes) -> MLKEM768PublicKey:
    """Read an encapsulation key, the public one.

    Raises:
        ProtocolError: The key has not 1184 bytes, or a number that is not below the
            modulus.
    """
    try:
        return MLKEM768PublicKey.from_public_bytes(key)
    except ValueError:
        raise ProtocolError(
            f"ML-KEM-768 key of {len(key)} bytes, want {KEY_BYTES} with numbers below"
            " 3329",
            code="key-malformed",
        ) from None


def encapsulate(key: bytes) -> tuple[bytes, bytes]:
    """Draw 32 secret bytes for the holder of a key, and the ciphertext of them.

    Raises:
        ProtocolError: The key is malformed (``read_encapsulation_key``).
    """
    return read_encapsulation_key(key).encapsulate()


class DecapsulationKey:
    """One's own key, ready to open ciphertexts."""

    __slots__ = ("_key",)

    def __init__(self, seed: bytes) -> None:
        """Make the key of 64 secret bytes."""
        self._key = MLKEM768PrivateKey.from_seed_bytes(seed)

    @property
    def public(self) -> bytes:
        """The encapsulation key, 1184 bytes."""
        return self._key.public_key().public_bytes_raw()

    def decapsulate(self, ciphertext: bytes) -> bytes:
        """Open a ciphertext to the 32 secret bytes that its sender drew.

        Raises:
            ProtocolError: The ciphertext has not 1088 bytes.
        """
        if len(ciphertext) != CIPHERTEXT_BYTES:
            raise ProtocolError(
                f"ML-KEM-768 ciphertext of {len(ciphertext)} bytes, want"
                f" {CIPHERTEXT_BYTES}",
                code="ciphertext-size-invalid",
            )
        return self._key.decapsulate(ciphertext)
