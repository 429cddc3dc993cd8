"""ML-KEM-768 agrees with FIPS 203: another implementation, and Wycheproof's vectors."""

import secrets

import pytest

from tapestry.errors import ProtocolError
from tapestry.mlkem768 import (
    CIPHERTEXT_BYTES,
    KEY_BYTES,
    DecapsulationKey,
    encapsulate,
    read_encapsulation_key,
)
from tests.support import reference_mlkem
from tests.support.public_vectors import read_wycheproof
from tests.support.refusals import refused

SEED = bytes(range(64))


def with_number(key: bytes, index: int, number: int) -> bytes:
    """Put a number of 12 bits in place of one of a key."""
    value = int.from_bytes(key, "little")
    value &= ~(0xFFF << (12 * index))
    return (value | number << (12 * index)).to_bytes(KEY_BYTES, "little")


def test_both_directions_agree_with_a_second_implementation() -> None:
    own = DecapsulationKey(SEED)
    public, private = reference_mlkem.make_key(SEED)
    assert own.public == public
    secret, ciphertext = encapsulate(public)
    assert own.decapsulate(ciphertext) == secret
    assert reference_mlkem.decapsulate(private, ciphertext) == secret
    secret, ciphertext = reference_mlkem.encapsulate(public, secrets.token_bytes(32))
    assert own.decapsulate(ciphertext) == secret
    changed = bytes([ciphertext[0] ^ 1]) + ciphertext[1:]
    other = own.decapsulate(changed)
    assert other == reference_mlkem.decapsulate(private, changed) != secret


@pytest.mark.parametrize("index", [0, 1, 383, 767])
@pytest.mark.parametrize("number", [3329, 3330, 4095])
def test_a_number_that_is_not_below_the_modulus_makes_no_key(
    index: int, number: int
) -> None:
    key = DecapsulationKey(SEED).public
    read_encapsulation_key(with_number(key, index, 3328))
    with refused(ProtocolError, "key-malformed", match="below 3329"):
        read_encapsulation_key(with_number(key, index, number))


@pytest.mark.parametrize("size", [0, 32, KEY_BYTES - 1, KEY_BYTES + 1, 1568])
def test_a_key_of_another_length_is_refused(size: int) -> None:
    with refused(ProtocolError, "key-malformed", match=f"of {size} bytes"):
        read_encapsulation_key(bytes(size))


@pytest.mark.parametrize("size", [0, CIPHERTEXT_BYTES - 1, CIPHERTEXT_BYTES + 1])
def test_a_ciphertext_of_another_length_is_refused(size: int) -> None:
    with refused(ProtocolError, "ciphertext-size-invalid", match=f"of {size} bytes"):
        DecapsulationKey(SEED).decapsulate(bytes(size))


def opens(seed: bytes, key: bytes, ciphertext: bytes, secret: bytes) -> bool:
    try:
        read_encapsulation_key(key)
        own = DecapsulationKey(seed)
        return own.public == key and own.decapsulate(ciphertext) == secret
    except (ProtocolError, ValueError):  # the latter: a seed, which is our own
        return False


def test_wycheproof_vectors_agree() -> None:
    tests = read_wycheproof("wycheproof-mlkem768.json")
    assert len(tests) == 193
    results = {"valid": 0, "invalid": 0}
    for test, _ in tests:
        parts = [bytes.fromhex(test.get(k, "")) for k in ("seed", "ek", "c", "K")]
        seed, key, ciphertext, secret = parts
        found = opens(seed, key, ciphertext, secret)
        assert found is (test["result"] == "valid"), test["tcId"]
        results[test["result"]] += 1
    assert results == {"valid": 153, "invalid": 40}
