"""Tests of key_schedule: each key is bound to its use, its nodes and its round."""

import itertools
from typing import Any

import pytest

from tapestry.errors import ProtocolError
from tapestry.secagg.key_schedule import (
    Agreement,
    channel_key,
    commitment,
    contribution,
    kem_seed,
    mask_secret,
    pair_key,
    public_key,
    seal,
    self_key,
    unseal,
    wrap,
)
from tests.support.reference_secagg import LOW_ORDER
from tests.support.refusals import refused

ONE, TWO, VIEW, CONTEXT = (bytes([n]) * 32 for n in range(1, 5))


def test_two_nodes_agree_on_one_secret_and_a_third_on_another() -> None:
    shared = Agreement(ONE).with_peer(public_key(TWO))
    assert shared == Agreement(TWO).with_peer(public_key(ONE))
    assert shared != Agreement(VIEW).with_peer(public_key(ONE))


def test_a_key_of_low_order_gives_no_agreement() -> None:
    with refused(ProtocolError, "key-of-low-order", match=LOW_ORDER):
        Agreement(ONE).with_peer(bytes.fromhex(LOW_ORDER))


def test_keys_of_all_uses_nodes_rounds_and_views_differ() -> None:
    keys = {
        key
        for shared, context, view in itertools.product(
            (ONE, TWO), (CONTEXT, VIEW), (VIEW, ONE)
        )
        for key in (
            channel_key(shared, context, sender="a", receiver="b", view=view),
            channel_key(shared, context, sender="b", receiver="a", view=view),
            channel_key(shared, context, sender="a", receiver="c", view=view),
            pair_key(shared, context, names=("a", "b"), view=view, contributed=b""),
            pair_key(shared, context, names=("a", "c"), view=view, contributed=b""),
            pair_key(shared, context, names=("a", "b"), view=view, contributed=TWO),
            wrap(bytes(32), shared, context, sender="a", receiver="b", view=view),
            wrap(bytes(32), shared, context, sender="b", receiver="a", view=view),
        )
    }
    assert len(keys) == 8 * 2**3
    own = {
        f(secret, context, node=node)
        for f in (self_key, commitment)
        for secret, context, node in itertools.product(
            (ONE, TWO), (CONTEXT, VIEW), ("a", "b")
        )
    }
    own |= {mask_secret(s, c, node="a") for s in (ONE, TWO) for c in (CONTEXT, VIEW)}
    own |= {
        contribution(s, c, sender="a", receiver=b)
        for s in (ONE, TWO)
        for c in (CONTEXT, VIEW)
        for b in ("b", "c")
    }
    assert len(own | keys) == 2 * 2**3 + 4 + 8 + len(keys)
    assert len(kem_seed(ONE, CONTEXT, node="a")) == 64
    assert all(len(key) == 32 for key in own | keys)


def test_a_pair_key_does_not_depend_on_the_order_of_its_nodes() -> None:
    one = pair_key(ONE, CONTEXT, names=("a", "b"), view=VIEW, contributed=b"")
    assert one == pair_key(ONE, CONTEXT, names=("b", "a"), view=VIEW, contributed=b"")


GOOD: dict[str, Any] = {
    "context": CONTEXT,
    "sender": "a",
    "receiver": "b",
    "clear": b"c",
}


@pytest.mark.parametrize(
    "change",
    [
        {"context": VIEW},
        {"sender": "c"},
        {"receiver": "c"},
        {"key": TWO},
        {"cut": 1},
        {"clear": b""},
    ],
    ids=str,
)
def test_a_ciphertext_opens_only_under_its_key_nodes_and_round(
    change: dict[str, Any],
) -> None:
    sealed = seal(ONE, b"two shares", **GOOD)
    assert len(sealed) == len(b"two shares") + 16
    assert unseal(ONE, sealed, **GOOD) == b"two shares"
    wrong = {**GOOD, **change}
    key, cut = wrong.pop("key", ONE), wrong.pop("cut", 0)
    with refused(
        ProtocolError,
        "ciphertext-invalid",
        match=f"'{wrong['sender']}' for '{wrong['receiver']}'",
    ):
        unseal(key, sealed[cut:], **wrong)
