"""A proof in one file: exactly these bytes, in a log that counts."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.errors import ProtocolError, QuorumError, VerificationError
from tapestry.tlog.checkpoint import Checkpoint
from tapestry.tlog.merkle import Tree, leaf_hash
from tapestry.tlog.proof import Proof
from tapestry.tlog.trust_policy import TrustPolicy
from tests.support.cosigning import LOG_KEY, TRUST, cosigned, entry

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "vectors" / "proof.json").read_text()
)
GOLDEN_TRUST = TrustPolicy.parse(VECTORS["policy"].encode())
GOLDEN_ENTRY = VECTORS["entry"].encode()


def _prove(index: int, size: int) -> Proof:
    tree = Tree(leaf_hash(entry(number)) for number in range(size))
    checkpoint = Checkpoint(origin=LOG_KEY.name, size=size, root=tree.root())
    return Proof(
        index=index,
        hashes=tuple(tree.inclusion_proof(index)),
        checkpoint=cosigned(checkpoint),
    )


def test_the_golden_proof_holds_and_prints_again() -> None:
    data = VECTORS["proof"].encode()
    proof = Proof.parse(data)
    assert proof.encode() == data
    assert proof.index == 2
    assert proof.verify(GOLDEN_ENTRY, GOLDEN_TRUST).checkpoint.size == 5


@pytest.mark.parametrize("case", VECTORS["malformed"], ids=lambda case: case["why"])
def test_malformed_proofs_are_refused(case: dict[str, str]) -> None:
    with pytest.raises(ProtocolError):
        Proof.parse(case["proof"].encode())


@pytest.mark.parametrize("case", VECTORS["unverified"], ids=lambda case: case["why"])
def test_proofs_of_something_else_are_refused(case: dict[str, str]) -> None:
    proof = Proof.parse(case["proof"].encode())
    with pytest.raises((VerificationError, QuorumError)):
        proof.verify(GOLDEN_ENTRY, GOLDEN_TRUST)


def test_another_entry_is_not_proven() -> None:
    with pytest.raises(VerificationError, match="not under the root"):
        Proof.parse(VECTORS["proof"].encode()).verify(b'{"n":3}', GOLDEN_TRUST)


@given(size=st.integers(1, 40), data=st.data())
def test_every_entry_is_proven(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    proof = _prove(index, size)
    assert Proof.parse(proof.encode()) == proof
    proof.verify(entry(index), TRUST)


@given(at=st.integers(0), bits=st.integers(1, 255))
def test_a_flipped_byte_anywhere_is_refused(at: int, bits: int) -> None:
    """Attack 12."""
    data = bytearray(_prove(11, 23).encode())
    data[at % len(data)] ^= bits
    with pytest.raises((ProtocolError, VerificationError, QuorumError)):
        Proof.parse(bytes(data)).verify(entry(11), TRUST)


def test_a_proof_is_bounded() -> None:
    """Attack 11."""
    with pytest.raises(ProtocolError, match="is over"):
        Proof.parse(VECTORS["proof"].encode() + b"\n" * (1 << 20))
