"""Masks: the right keystream, wherever it starts; they cancel, and show no bias."""

import tracemalloc

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from hypothesis import given
from hypothesis import strategies as st

from tapestry.secagg import masks as keystream
from tapestry.secagg.key_schedule import pair_key
from tapestry.secagg.masks import (
    BLOCK_COORDINATES,
    Mask,
    add_masks,
    aligned_empty,
    in_ranges,
    keystream_into,
)
from tapestry.vectors import RingVector
from tests.support.randomness import FixedRandom, looks_uniform
from tests.support.secagg_cohort import Federation

# NIST SP 800-38A, F.5.5: CTR-AES256.Encrypt
NIST_KEY = "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4"
NIST_COUNTER = "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"
NIST_PLAIN = (
    "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
    "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
)
NIST_CIPHER = (
    "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5"
    "2b0930daa23de94ce87017ba2d84988ddfc9c58db67aada613c2dd08457941a6"
)


def stream(key: bytes, length: int, start: int = 0) -> RingVector:
    buffer = aligned_empty(length)
    keystream_into(key, start=start)(buffer.data.cast("B"))
    return buffer


def zeros(length: int) -> RingVector:
    return np.zeros(length, dtype=np.uint32)


def test_the_keystream_is_that_of_the_standard() -> None:
    start = 4 * int(NIST_COUNTER, 16)
    drawn = stream(bytes.fromhex(NIST_KEY), 16, start).tobytes()
    plain = bytes.fromhex(NIST_PLAIN)
    cipher = bytes(a ^ b for a, b in zip(plain, drawn, strict=True))
    assert cipher.hex() == NIST_CIPHER


@given(
    length=st.integers(1, 400),
    blocks=st.integers(0, 2**40),
    keys=st.lists(st.binary(min_size=32, max_size=32), max_size=3),
)
def test_a_part_of_a_vector_gets_that_part_of_the_mask(
    length: int, blocks: int, keys: list[bytes]
) -> None:
    part = zeros(length)
    add_masks(part, [Mask(key) for key in keys], start=4 * blocks)
    want = sum((stream(k, length, 4 * blocks) for k in keys), zeros(length))
    assert np.array_equal(part, want)


@given(keys=st.lists(st.binary(min_size=32, max_size=32), max_size=5), data=st.data())
def test_masks_and_their_negatives_cancel_in_any_order(
    keys: list[bytes], data: st.DataObject
) -> None:
    values = np.arange(100, dtype=np.uint32)
    masks = [Mask(key) for key in keys] + [Mask(key, negative=True) for key in keys]
    add_masks(values, data.draw(st.permutations(masks)))
    assert np.array_equal(values, np.arange(100, dtype=np.uint32))


@pytest.mark.parametrize("count", [3, 130])
def test_groups_blocks_and_threads_do_not_change_the_result(count: int) -> None:
    length = 3 * BLOCK_COORDINATES + 7
    masks = [Mask(bytes([i]) * 32, negative=i % 3 == 0) for i in range(count)]
    want = zeros(length)
    for mask in masks:
        drawn = np.concatenate(
            [
                stream(mask.key, min(BLOCK_COORDINATES, length - at), at)
                for at in range(0, length, BLOCK_COORDINATES)
            ]
        )
        want = want - drawn if mask.negative else want + drawn
    for threads in (1, 2, 3, 0):
        values = zeros(length)
        add_masks(values, iter(masks), threads=threads)
        assert np.array_equal(values, want)


def test_ranges_cover_everything_once() -> None:
    for length in (1, BLOCK_COORDINATES, 5 * BLOCK_COORDINATES + 1):
        for threads in (1, 2, 4, 9):
            seen = np.zeros(length, dtype=np.uint8)

            def work(start: int, stop: int, seen: object = seen) -> None:
                assert isinstance(seen, np.ndarray)
                assert start % 4 == 0
                seen[start:stop] += 1

            in_ranges(length, work, threads=threads)
            assert (seen == 1).all()


def test_a_start_inside_a_cipher_block_raises_value_error() -> None:
    with pytest.raises(ValueError, match="cipher block"):
        keystream_into(bytes(32), start=2)


def test_masks_of_4000_pairs_have_no_constant_or_biased_bit() -> None:
    random = FixedRandom("pairs")
    count = 4000
    first = np.empty((count, 16), dtype=np.uint32)
    keys = set()
    for index in range(count):
        names = (f"a{index}", f"b{index}")
        key = pair_key(
            random(32),
            random(32),
            names=names,
            view=random(32),
            contributed=random(32),
        )
        keys.add(key)
        first[index] = stream(key, 16)
    assert len(keys) == count
    ones = np.unpackbits(first.view(np.uint8), axis=1).sum(axis=0)
    assert ones.min() > count / 2 - 5 * np.sqrt(count) / 2
    assert ones.max() < count / 2 + 5 * np.sqrt(count) / 2
    assert looks_uniform(first.reshape(-1))


def test_a_generator_with_a_small_seed_fails_the_same_test() -> None:
    rng = np.random.RandomState(7)  # the weakness is the point
    first = rng.randint(0, 2**31, (4000, 16)).astype(np.uint32)
    ones = np.unpackbits(first.view(np.uint8), axis=1).sum(axis=0)
    assert ones.min() == 0  # the highest bit is never set
    assert not looks_uniform(first.reshape(-1))


def test_the_sum_does_not_depend_on_the_cipher(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A ChaCha20 build gives the same sum: the masks cancel, whatever they are."""

    def chacha(key: bytes, *, start: int = 0) -> object:
        counter = (start // 16).to_bytes(16, "little")
        cipher = Cipher(algorithms.ChaCha20(key, counter), None).encryptor()

        def fill(target: memoryview) -> object:
            return cipher.update_into(bytes(len(target)), target)

        return fill

    monkeypatch.setattr(keystream, "keystream_into", chacha)
    federation = Federation.of(5, length=1000)
    federation.run("receive_shares")
    federation.collect_masked_inputs(federation.names()[1:])
    federation.check_consistency()
    unmasked = federation.unmask()
    want = federation.expected(federation.names()[1:])
    assert np.array_equal(unmasked.values, want)


def test_masking_takes_no_memory_that_grows_with_vector_or_peers() -> None:
    values = zeros(8 * BLOCK_COORDINATES)
    peaks = []
    for count in (1, 200):
        masks = [Mask(bytes([i]) * 32) for i in range(count)]
        add_masks(values, masks[:1], threads=1)
        tracemalloc.start()
        add_masks(values, masks, threads=1)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert max(peaks) < values.nbytes * 0.3
