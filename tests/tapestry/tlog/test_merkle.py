"""The Merkle tree: one shape, and proofs that bend for nobody."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.encoding import decode_base64, encode_base64
from tapestry.errors import InconsistentLog, VerificationError
from tapestry.tlog import merkle
from tests.support.public_vectors import read_vectors
from tests.support.refusals import refused

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "vectors" / "merkle.json").read_text()
)
LEAVES = [merkle.leaf_hash(b"%d" % number) for number in range(600)]
TREE = merkle.Tree(LEAVES)
BORDERS = (1, 2, 3, 4, 5, 7, 8, 9, 31, 64, 65, 255, 256, 257, 511, 512, 513, 600)


def _by_definition(leaves: list[bytes]) -> bytes:
    """RFC 6962, 2.1, word by word."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(
        b"\x01" + _by_definition(leaves[:split]) + _by_definition(leaves[split:])
    ).digest()


def test_roots_equal_those_of_certificate_transparency() -> None:
    leaves = [merkle.leaf_hash(bytes.fromhex(data)) for data in VECTORS["ct_inputs"]]
    for size, root in enumerate(VECTORS["ct_roots"], 1):
        assert merkle.root(leaves[:size]).hex() == root


def test_golden_roots_and_proofs() -> None:
    leaves = [merkle.leaf_hash(entry.encode()) for entry in VECTORS["entries"]]
    assert leaves[0].hex() == VECTORS["leaf_0"]
    for size, root in VECTORS["roots"].items():
        assert encode_base64(merkle.root(leaves[: int(size)])) == root
    inclusion, consistency = VECTORS["inclusion"], VECTORS["consistency"]
    proof = merkle.inclusion_proof(leaves, inclusion["index"])
    assert [encode_base64(value) for value in proof] == inclusion["proof"]
    proof = merkle.consistency_proof(leaves, consistency["old_size"])
    assert [encode_base64(value) for value in proof] == consistency["proof"]
    merkle.verify_consistency(
        old_size=3,
        old_root=decode_base64(VECTORS["roots"]["3"]),
        size=5,
        root=decode_base64(VECTORS["roots"]["5"]),
        proof=proof,
    )


def test_a_leaf_is_never_a_node() -> None:
    left, right = LEAVES[:2]
    assert merkle.leaf_hash(left + right) != merkle.node_hash(left, right)


def test_root_and_tree_have_the_root_of_the_definition() -> None:
    for size in range(601):
        assert merkle.root(LEAVES[:size]) == TREE.root(size)
        if size < 130 or size in BORDERS:
            assert merkle.root(LEAVES[:size]) == _by_definition(LEAVES[:size])


@pytest.mark.parametrize("size", BORDERS)
def test_every_leaf_is_proven(size: int) -> None:
    root = TREE.root(size)
    for index in range(size):
        proof = TREE.inclusion_proof(index, size)
        merkle.verify_inclusion(
            LEAVES[index], index=index, size=size, proof=proof, root=root
        )


@pytest.mark.parametrize("size", BORDERS)
def test_every_prefix_is_proven(size: int) -> None:
    for old in range(size + 1):
        merkle.verify_consistency(
            old_size=old,
            old_root=TREE.root(old),
            size=size,
            root=TREE.root(size),
            proof=TREE.consistency_proof(old, size),
        )


@pytest.mark.slow
def test_all_proofs_hold_at_all_sizes_to_600() -> None:
    for size in range(1, 601):
        root = TREE.root(size)
        for number in range(size):
            merkle.verify_inclusion(
                LEAVES[number],
                index=number,
                size=size,
                proof=TREE.inclusion_proof(number, size),
                root=root,
            )
            merkle.verify_consistency(
                old_size=number,
                old_root=TREE.root(number),
                size=size,
                root=root,
                proof=TREE.consistency_proof(number, size),
            )


def test_no_leaf_is_proven_elsewhere() -> None:
    for size in range(1, 34):
        for index in range(size):
            proof = TREE.inclusion_proof(index, size)
            for other in range(size + 1):
                if other == index:
                    continue
                with refused(VerificationError, "inclusion-proof-invalid"):
                    merkle.verify_inclusion(
                        LEAVES[index],
                        index=other,
                        size=size,
                        proof=proof,
                        root=TREE.root(size),
                    )


def test_no_tree_is_proven_a_prefix_at_another_size() -> None:
    for size in range(2, 34):
        for old in range(1, size):
            proof = TREE.consistency_proof(old, size)
            for claimed in range(size + 2):
                if claimed == old:
                    continue
                with pytest.raises(InconsistentLog):
                    merkle.verify_consistency(
                        old_size=claimed,
                        old_root=TREE.root(old),
                        size=size,
                        root=TREE.root(size),
                        proof=proof,
                    )


cases = st.integers(1, 600).flatmap(
    lambda size: st.tuples(st.just(size), st.integers(0, size - 1))
)
flips = st.tuples(st.integers(0, 2**16), st.integers(0, 31), st.integers(1, 255))


def _flip(values: list[bytes], flip: tuple[int, int, int]) -> list[bytes]:
    which, where, bits = flip
    changed = bytearray(values[which % len(values)])
    changed[where] ^= bits
    values[which % len(values)] = bytes(changed)
    return values


@given(case=cases, flip=flips)
def test_a_flipped_byte_breaks_an_inclusion_proof(
    case: tuple[int, int], flip: tuple[int, int, int]
) -> None:
    size, index = case
    values = [LEAVES[index], TREE.root(size), *TREE.inclusion_proof(index, size)]
    leaf, root, *proof = _flip(values, flip)
    with refused(VerificationError, "inclusion-proof-invalid"):
        merkle.verify_inclusion(leaf, index=index, size=size, proof=proof, root=root)


@given(case=cases, flip=flips)
def test_a_flipped_byte_breaks_a_consistency_proof(
    case: tuple[int, int], flip: tuple[int, int, int]
) -> None:
    size, old = case
    if old == 0:
        old = size
    values = [TREE.root(old), TREE.root(size), *TREE.consistency_proof(old, size)]
    old_root, root, *proof = _flip(values, flip)
    with pytest.raises(InconsistentLog):
        merkle.verify_consistency(
            old_size=old, old_root=old_root, size=size, root=root, proof=proof
        )


@given(case=cases, at=st.integers(0, 16), extra=st.binary(min_size=0, max_size=40))
def test_a_hash_more_less_or_misshapen_breaks_any_proof(
    case: tuple[int, int], at: int, extra: bytes
) -> None:
    size, index = case
    inclusion = TREE.inclusion_proof(index, size)
    consistency = TREE.consistency_proof(index, size)
    old_root, root = TREE.root(index), TREE.root(size)
    longer = [*inclusion[:at], extra, *inclusion[at:]]
    for proof in (longer, inclusion[:-1] if inclusion else [root]):
        with refused(VerificationError, "inclusion-proof-invalid"):
            merkle.verify_inclusion(
                LEAVES[index], index=index, size=size, proof=proof, root=root
            )
    longer = [*consistency[:at], extra, *consistency[at:]]
    for proof in (longer, consistency[:-1] if consistency else [root]):
        with pytest.raises(InconsistentLog):
            merkle.verify_consistency(
                old_size=index, old_root=old_root, size=size, root=root, proof=proof
            )


@given(case=cases)
def test_a_forked_log_has_no_consistency_proof(case: tuple[int, int]) -> None:
    """The best forger sends the honest proof: it must not carry the fork."""
    size, index = case
    fork = [*LEAVES[:index], merkle.leaf_hash(b"forged"), *LEAVES[index + 1 : size]]
    with pytest.raises(InconsistentLog):
        merkle.verify_consistency(
            old_size=index + 1,
            old_root=TREE.root(index + 1),
            size=size,
            root=merkle.root(fork),
            proof=merkle.consistency_proof(fork, index + 1),
        )


def test_an_empty_proof_proves_nothing() -> None:
    for old in range(1, 33):
        with refused(InconsistentLog, "consistency-proof-invalid"):
            merkle.verify_consistency(
                old_size=old,
                old_root=TREE.root(old),
                size=33,
                root=TREE.root(33),
                proof=[],
            )


def test_an_inner_node_is_not_proven_as_a_leaf() -> None:
    left, right = TREE.nodes(1, 0, 2)
    root = merkle.root(LEAVES[:4])
    with refused(VerificationError, "inclusion-proof-invalid", match="1 hashes"):
        merkle.verify_inclusion(left, index=0, size=4, proof=[right], root=root)


def test_an_inclusion_proof_beyond_the_tree_is_refused() -> None:
    for index, size in ((-1, 1), (-2, 4), (1, 1), (0, 0), (4, 4)):
        with refused(VerificationError, "inclusion-proof-invalid"):
            merkle.verify_inclusion(
                LEAVES[0], index=index, size=size, proof=[], root=LEAVES[0]
            )


def test_a_log_does_not_shrink() -> None:
    with refused(InconsistentLog, "log-shrunk"):
        merkle.verify_consistency(
            old_size=5, old_root=TREE.root(5), size=3, root=TREE.root(3), proof=[]
        )


def test_consistency_from_an_empty_tree_requires_the_empty_root() -> None:
    merkle.verify_consistency(
        old_size=0, old_root=merkle.EMPTY_ROOT, size=7, root=TREE.root(7), proof=[]
    )
    for old_root, size, root in (
        (TREE.root(1), 7, TREE.root(7)),
        (TREE.root(1), 0, TREE.root(1)),
        (merkle.EMPTY_ROOT, 0, TREE.root(1)),
    ):
        with refused(InconsistentLog, "log-forked"):
            merkle.verify_consistency(
                old_size=0, old_root=old_root, size=size, root=root, proof=[]
            )


def test_proofs_and_roots_beyond_the_tree_are_value_errors() -> None:
    for call in (
        lambda: TREE.root(601),
        lambda: TREE.inclusion_proof(5, 5),
        lambda: TREE.inclusion_proof(-1),
        lambda: TREE.consistency_proof(6, 5),
        lambda: TREE.nodes(3, 0, 76),
        lambda: TREE.nodes(60, 0, 1),
        lambda: merkle.root([b"short"]),
        lambda: merkle.Tree([b"short"]),
    ):
        with pytest.raises(ValueError, match=r"\d"):
            call()


# Accepted there and refused here: a root is 32 bytes, that of no entries is known.
_EQUAL = "additional/sizes-are-equal-one-and-proof-is-empty.json"
STRICTER = {
    f"consistency/{_EQUAL}",
    f"subtreeconsistency/{_EQUAL}",
    (
        "subtreeconsistency/additional/subtree-is-empty-sizes-are-equal-zero-subtree-root-"
        "valid-tree-root-random-proof-is-empty.json"
    ),
}


def _hashes(values: list[str | None] | None) -> list[bytes]:
    return [decode_base64(value or "") for value in values or []]


def _verdict_of_vector(kind: str, case: dict[str, Any]) -> bool | None:
    """Verify a vector of transparency-dev/merkle; None for a subtree we have not."""
    start = case.get("start", 0)
    try:
        if kind.endswith("inclusion"):
            stop = case["end"] if "end" in case else case["treeSize"]
            if start % max(1, 1 << (stop - start - 1).bit_length()):
                return None
            leaf, root = _hashes([case["leafHash"], case["root"]])
            merkle.verify_inclusion(
                leaf,
                index=case["leafIdx"] - start,
                size=stop - start,
                proof=_hashes(case["proof"]),
                root=root,
            )
        elif start:
            return None
        else:
            before, after = _hashes([case["root1"], case["root2"]])
            merkle.verify_consistency(
                old_size=case["end"] if "end" in case else case["size1"],
                old_root=before,
                size=case["size"] if "size" in case else case["size2"],
                root=after,
                proof=_hashes(case["proof"]),
            )
    except (VerificationError, InconsistentLog):
        return False
    return True


def test_public_vectors_get_their_verdict() -> None:
    vectors = read_vectors("merkle-proofs.json")
    found = {
        name: _verdict_of_vector(name.split("/")[0], case)
        for name, case in vectors.items()
    }
    left_out = [name for name, verdict in found.items() if verdict is None]
    wrong = {name for name, case in vectors.items() if found[name] is case["wantErr"]}
    assert wrong == STRICTER
    assert all(name.startswith("subtree") for name in left_out)
    assert len(found) - len(left_out) > 300


@pytest.mark.parametrize("place", ["leaf", "sibling", "root"])
def test_a_hash_of_another_length_is_refused_in_a_proof(place: str) -> None:
    """Else the border between two hashes of a node could move by a byte."""
    left, right = merkle.leaf_hash(b"l"), merkle.leaf_hash(b"r")
    moved = {
        "leaf": (left + right[:1], right[1:]),
        "sibling": (left[:-1], left[-1:] + right),
    }
    leaf, sibling = moved.get(place, (left, right))
    root = merkle.node_hash(left, right) + (b"" if place != "root" else b"\0")
    assert place == "root" or merkle.node_hash(leaf, sibling) == root
    with refused(VerificationError, "inclusion-proof-invalid", match="32 bytes"):
        merkle.verify_inclusion(leaf, index=0, size=2, proof=[sibling], root=root)
    with refused(InconsistentLog, "consistency-proof-invalid", match="32 bytes"):
        merkle.verify_consistency(
            old_size=1, old_root=leaf, size=2, root=root, proof=[sibling]
        )
