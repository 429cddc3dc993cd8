"""The known answers: the package gives them, and so does the second implementation."""

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tapestry.errors import ProtocolError
from tapestry.keys import Algorithm, SigningKey
from tapestry.secagg.derivation import (
    Agreement,
    channel_key,
    commitment,
    pair_key,
    public_key,
    seal,
    self_key,
    unseal,
)
from tapestry.secagg.keystream import Mask, add_masks, keystream_into
from tapestry.secagg.messages import Advertisement
from tapestry.secagg.ring import Encoding, quantize
from tapestry.secagg.sharing import decode_share, recover, split
from tapestry.vector import Clipped
from tests.core.secagg.make_vectors import VECTORS, render

FOLDER = Path(__file__).parents[2] / "vectors"


def load(name: str) -> Any:
    return json.loads((FOLDER / f"secagg-{name}.json").read_text())


def fixed_key(key: bytes, size: int) -> bytes:
    return key[:size]


def raw(text: str) -> bytes:
    return bytes.fromhex(text)


@pytest.mark.parametrize("name", list(VECTORS))
def test_the_files_are_what_the_second_implementation_prints(name: str) -> None:
    assert (FOLDER / f"secagg-{name}.json").read_text() == render(name)


def test_keys_are_derived_as_written() -> None:
    v = load("derivation")
    context, view = raw(v["context"]), raw(v["view"])
    sender, receiver = v["sender"], v["receiver"]
    one, two = map(raw, v["private"])
    assert [public_key(one).hex(), public_key(two).hex()] == v["public"]
    shared = Agreement(one).with_peer(public_key(two))
    assert shared.hex() == v["shared"]
    key = channel_key(shared, context, sender=sender, receiver=receiver, view=view)
    assert key.hex() == v["channel_key"]
    back = channel_key(shared, context, sender=receiver, receiver=sender, view=view)
    assert back != key
    names = (receiver, sender)
    assert pair_key(shared, context, names=names, view=view).hex() == v["pair_key"]
    seed = raw(v["seed"])
    assert self_key(seed, context, node=sender).hex() == v["self_key"]
    assert commitment(seed, context, node=sender).hex() == v["commitment"]


def test_shares_are_sealed_as_written() -> None:
    v = load("derivation")
    pair = {"sender": v["sender"], "receiver": v["receiver"]}
    key, context = raw(v["channel_key"]), raw(v["context"])
    assert seal(key, raw(v["plaintext"]), context=context, **pair).hex() == v["sealed"]
    assert (
        unseal(key, raw(v["sealed"]), context=context, **pair).hex() == v["plaintext"]
    )
    for bad in v["refused_sealed"]:
        with pytest.raises(ProtocolError, match="does not open"):
            unseal(key, raw(bad), context=context, **pair)


def test_public_keys_of_low_order_are_refused() -> None:
    v = load("derivation")
    mine = Agreement(raw(v["private"][0]))
    for bad in v["refused_public_keys"]:
        with pytest.raises(ProtocolError, match="low order"):
            mine.with_peer(raw(bad))


def test_keystreams_are_as_written() -> None:
    for row in load("masks")["keystreams"]:
        buffer = np.empty(8, dtype=np.uint32)
        keystream_into(raw(row["key"]), start=row["start"])(buffer.data.cast("B"))
        assert buffer.tolist() == row["values"]


def test_a_round_is_masked_as_written_and_its_pair_masks_cancel() -> None:
    v = load("masks")["round"]
    context, view = raw(v["context"]), raw(v["view"])
    total = np.zeros(6, dtype=np.uint32)
    for name, secret in v["mask_private"].items():
        values = np.array(v["plain"][name], dtype=np.uint32)
        own = self_key(raw(v["self_seed"][name]), context, node=name)
        masks = [Mask(own)]
        for peer, other in v["mask_private"].items():
            if peer == name:
                continue
            shared = Agreement(raw(secret)).with_peer(public_key(raw(other)))
            key = pair_key(shared, context, names=(name, peer), view=view)
            masks.append(Mask(key, negative=peer < name))
        add_masks(values, masks)
        assert values.tolist() == v["masked"][name]
        total += values
        add_masks(total, [Mask(own, negative=True)])
    want = np.sum(list(v["plain"].values()), axis=0)
    assert total.tolist() == want.tolist()


def test_updates_are_encoded_as_written() -> None:
    for row in load("encoding"):
        values = np.array([float(x) for x in row["values"]], dtype=np.float32)
        encoding = Encoding(
            length=values.size,
            scale_bits=row["scale_bits"],
            bound=row["bound"],
            clip_norm=1e6,
            weights=(1,),
            weight_cap=1,
        )
        result = quantize(
            Clipped(values=values, clip_norm=1e6),
            encoding=encoding,
            random=functools.partial(fixed_key, raw(row["key"])),
            alarm=pytest.fail,
        )
        assert result.values.tolist() == row["encoded"]


def test_secrets_are_shared_as_written() -> None:
    v = load("sharing")
    for row in v["sharings"]:
        places = [int(x) for x in row["shares"]]
        secret, threshold = raw(row["secret"]), row["threshold"]
        shares = split(secret, threshold, places=places, seed=raw(row["seed"]))
        assert {str(x): s.hex() for x, s in shares.items()} == row["shares"]
        assert recover(shares, threshold) == secret
    for bad in v["refused_shares"]:
        with pytest.raises(ProtocolError):
            decode_share(raw(bad))


def test_messages_are_signed_and_spelled_as_written() -> None:
    v = load("messages")
    identity = SigningKey(
        name="a.example/node",
        algorithm=Algorithm.SIGNATURE,
        seed=raw(v["identity_seed"]),
    )
    assert identity.verify_key.public.hex() == v["identity_public"]
    message = Advertisement.decode(v["advertisement"].encode())
    message.verify(raw(v["context"]), identity.verify_key)
    assert message.signed(raw(v["context"]), identity) == message
    assert message.encode().decode() == v["advertisement"]
    identity.verify_key.verify(raw(v["signed"]), raw(message.signature))
    for bad in v["refused_advertisements"].values():
        with pytest.raises(ProtocolError):
            Advertisement.decode(bad.encode())
