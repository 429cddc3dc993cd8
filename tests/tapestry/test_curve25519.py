"""Public keys are decoded strictly: one encoding, on the curve, not of small order.

Verdicts are those of the vectors of C2SP/CCTV and Wycheproof, by their flags.
"""

import itertools

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from tapestry.curve25519 import SMALL_ORDER, check_ed25519_key, check_x25519_key
from tapestry.errors import ProtocolError, VerificationError
from tapestry.keys import Algorithm, SigningKey, VerifyKey
from tapestry.secagg.key_schedule import Agreement
from tests.support.public_vectors import read_vectors, read_wycheproof
from tests.support.refusals import refused

P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P
ORDER = 2**252 + 27742317777372353535851937790883648493
BAD_KEY = {"low_order_A", "non_canonical_A"}
BAD_SIGNATURE = BAD_KEY | {"low_order_R", "non_canonical_R", "low_order_residue"}

Point = tuple[int, int]


def add(one: Point, other: Point) -> Point:
    """Add two points (RFC 8032 section 5.1)."""
    (x1, y1), (x2, y2) = one, other
    product = D * x1 * x2 * y1 * y2 % P
    return (
        (x1 * y2 + x2 * y1) * pow(1 + product, -1, P) % P,
        (y1 * y2 + x1 * x2) * pow(1 - product, -1, P) % P,
    )


def decode(key: bytes) -> Point:
    """Decode a point by trying a root, without the product's formula."""
    value = int.from_bytes(key, "little")
    sign, y = value >> 255, value % 2**255
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    root = pow(square, (P + 3) // 8, P)
    x = next(
        r
        for f in (1, pow(2, (P - 1) // 4, P))
        if (r := root * f % P) ** 2 % P == square
    )
    return (x if x % 2 == sign else -x % P), y


def is_key(key: bytes) -> bool:
    try:
        check_ed25519_key(key)
    except ProtocolError:
        return False
    return True


def verifies(key: bytes, signature: bytes, message: bytes) -> bool:
    try:
        parsed = VerifyKey(name="a", algorithm=Algorithm.SIGNATURE, public=key)
        parsed.verify(message, signature)
    except (ProtocolError, VerificationError):
        return False
    return True


def test_the_points_of_small_order_are_all_eight() -> None:
    points = {decode(key) for key in SMALL_ORDER}
    assert len(points) == 8
    for point in points:
        total = (0, 1)
        for _ in range(8):
            total = add(total, point)
        assert total == (0, 1)
    assert {add(a, b) for a, b in itertools.product(points, points)} == points


def test_all_fourteen_encodings_of_small_order_are_no_key() -> None:
    numbers = {int.from_bytes(key, "little") for key in SMALL_ORDER}
    ys = {number % 2**255 for number in numbers}
    spelled = {y + more for y in ys for more in (0, P) if y + more < 2**255}
    encodings = [
        (y + (sign << 255)).to_bytes(32, "little") for y in spelled for sign in (0, 1)
    ]
    assert len(encodings) == 14
    assert not any(map(is_key, encodings))


def test_a_key_without_a_private_key_verifies_nothing() -> None:
    """One signature fits every message under the point of order 1, if it is a key."""
    identity = (1).to_bytes(32, "little")
    signature = identity + bytes(32)
    Ed25519PublicKey.from_public_bytes(identity).verify(signature, b"any message")
    with refused(ProtocolError, "key-of-low-order"):
        VerifyKey(name="a", algorithm=Algorithm.SIGNATURE, public=identity)
    text = f"a+{'0' * 8}+AQ" + "A" * 42  # y = 0, a point of order 4
    with refused(ProtocolError, "key-of-low-order"):
        VerifyKey.parse(text)


@given(seed=st.binary(min_size=32, max_size=32), message=st.binary(max_size=64))
def test_every_generated_key_is_one_and_a_signature_with_small_r_fails(
    seed: bytes, message: bytes
) -> None:
    key = SigningKey(name="a", algorithm=Algorithm.SIGNATURE, seed=seed)
    signature = key.sign(message)
    key.verify_key.verify(message, signature)
    for small in SMALL_ORDER:
        with refused(VerificationError, "signature-invalid"):
            key.verify_key.verify(message, small + signature[32:])


@given(y=st.integers(0, 2**255 - 1), sign=st.integers(0, 1))
def test_a_key_is_a_point_in_its_only_encoding(y: int, sign: int) -> None:
    key = (y + (sign << 255)).to_bytes(32, "little")
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    on_curve = pow(square, (P - 1) // 2, P) in (0, 1) and not (square == 0 and sign)
    assert is_key(key) is (y < P and on_curve and key not in SMALL_ORDER)


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_key_of_another_length_is_refused(length: int) -> None:
    for check in (check_ed25519_key, check_x25519_key):
        with refused(ProtocolError, "key-malformed", match=f"of {length} bytes"):
            check(bytes(length))


def test_cctv_vectors_of_ed25519_get_the_strict_verdict() -> None:
    vectors = read_vectors("cctv-ed25519.json")
    assert len(vectors) == 914
    wrong = []
    for vector in vectors:
        flags = set(vector["flags"] or [])
        key, signature = bytes.fromhex(vector["key"]), bytes.fromhex(vector["sig"])
        found = is_key(key), verifies(key, signature, vector["msg"].encode())
        if found != (not flags & BAD_KEY, not flags & BAD_SIGNATURE):
            wrong.append(vector["number"])
    assert wrong == []


def test_wycheproof_vectors_of_ed25519_get_their_verdict() -> None:
    wrong = []
    tests = read_wycheproof("wycheproof-ed25519.json")
    for test, group in tests:
        found = verifies(
            bytes.fromhex(group["publicKey"]["pk"]),
            bytes.fromhex(test["sig"]),
            bytes.fromhex(test["msg"]),
        )
        if found != (test["result"] == "valid"):
            wrong.append(test["tcId"])
    assert (len(tests), wrong) == (151, [])


def test_wycheproof_vectors_of_x25519_agree_or_are_refused() -> None:
    tests = read_wycheproof("wycheproof-x25519.json")
    wrong = []
    for test, _ in tests:
        agreement = Agreement(bytes.fromhex(test["private"]))
        public = bytes.fromhex(test["public"])
        flags = set(test["flags"])
        strange = int.from_bytes(public, "little") >= P
        assert strange or "NonCanonicalPublic" not in flags
        try:
            check_x25519_key(public)
            found: str | None = agreement.with_peer(public).hex()
        except ProtocolError:
            found = None
        expected = None if strange or "ZeroSharedSecret" in flags else test["shared"]
        if found != expected:
            wrong.append(test["tcId"])
    assert (len(tests), wrong) == (518, [])
