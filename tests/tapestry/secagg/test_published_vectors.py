"""The known answers: the package gives them, and so does the second implementation."""

import functools
import json
import math
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from tapestry.errors import ProtocolError, QuorumError, VerificationError
from tapestry.keys import Algorithm, SigningKey
from tapestry.mlkem768 import DecapsulationKey
from tapestry.privacy.clipping import clip
from tapestry.privacy.noise_shares import NoiseShare
from tapestry.protocol import secagg_messages as messages
from tapestry.protocol.round_manifest import RoundManifest
from tapestry.protocol.secagg_messages import Advertisement
from tapestry.protocol.stages import SECAGG_STAGES
from tapestry.schema import Strict
from tapestry.secagg import client, share_channel
from tapestry.secagg.chunks import chunk_leaves, chunk_root, cut
from tapestry.secagg.key_schedule import (
    Agreement,
    channel_key,
    commitment,
    contribution,
    contribution_commitment,
    kem_seed,
    mask_secret,
    pair_key,
    public_key,
    seal,
    self_key,
    unseal,
    wrap,
)
from tapestry.secagg.masks import Mask, add_masks, keystream_into
from tapestry.secagg.quantization import Encoding, check_sum, quantize
from tapestry.secagg.server import AdvertiseKeysStage, Unmasked
from tapestry.secagg.shamir import decode_share, split
from tapestry.secagg.transcript import SumChecker, check_own, check_sum_chunks
from tapestry.vectors import Clipped, Quantized
from tests.support.attackers import recover
from tests.support.make_vectors import VECTORS, render
from tests.support.refusals import refused
from tests.support.secagg_cohort import MemoryMarks, terms_for

FOLDER = Path(__file__).parents[2] / "vectors"
FIRST = "a.example"
KINDS: dict[str, type[Strict]] = {
    "0": RoundManifest,
    "1": messages.Advertisement,
    "2": messages.KeyList,
    "3": messages.ShareHead,
    "4": messages.HeadList,
    "5": messages.UploadHead,
    "6": messages.SurvivorList,
    "7": messages.Consent,
    "8": messages.ConsentList,
    "9": messages.Reveal,
    "10": messages.Result,
}


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
    key = pair_key(shared, context, names=names, view=view, contributed=b"")
    assert key.hex() == v["pair_key"]
    seed = raw(v["seed"])
    assert self_key(seed, context, node=sender).hex() == v["self_key"]
    assert commitment(seed, context, node=sender).hex() == v["commitment"]


def test_what_follows_from_a_root_is_derived_as_written() -> None:
    v = load("derivation")
    context, view, root = raw(v["context"]), raw(v["view"]), raw(v["root"])
    ends = {"sender": v["sender"], "receiver": v["receiver"]}
    node = v["sender"]
    assert mask_secret(root, context, node=node).hex() == v["mask_secret"]
    assert kem_seed(root, context, node=node).hex() == v["kem_seed"]
    own = contribution(root, context, **ends)
    assert own.hex() == v["contribution"]
    kem = DecapsulationKey(raw(v["kem_seed"]))
    assert kem.public.hex() == v["kem_public"]
    secret = kem.decapsulate(raw(v["kem_ciphertext"]))
    assert secret.hex() == v["kem_secret"]
    changed = kem.decapsulate(raw(v["changed_kem_ciphertext"]))
    assert changed.hex() == v["changed_kem_secret"]
    wrapped = wrap(own, secret, context, view=view, **ends)
    assert wrapped.hex() == v["wrapped"]
    assert wrap(wrapped, secret, context, view=view, **ends) == own
    committed = contribution_commitment(own, context, **ends)
    assert committed.hex() == v["contribution_commitment"]


def test_shares_are_sealed_as_written() -> None:
    v = load("derivation")
    pair = {"sender": v["sender"], "receiver": v["receiver"], "clear": raw(v["clear"])}
    key, context = raw(v["channel_key"]), raw(v["context"])
    assert seal(key, raw(v["plaintext"]), context=context, **pair).hex() == v["sealed"]
    assert (
        unseal(key, raw(v["sealed"]), context=context, **pair).hex() == v["plaintext"]
    )
    for bad in v["refused_sealed"]:
        with refused(ProtocolError, "ciphertext-invalid", match=pair["sender"]):
            unseal(key, raw(bad), context=context, **pair)


def test_public_keys_of_low_order_are_refused() -> None:
    v = load("derivation")
    mine = Agreement(raw(v["private"][0]))
    for bad in v["refused_public_keys"]:
        with refused(ProtocolError, "key-of-low-order", match=bad):
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
            key = pair_key(
                shared, context, names=(name, peer), view=view, contributed=b""
            )
            masks.append(Mask(key, negative=peer < name))
        add_masks(values, masks)
        assert values.tolist() == v["masked"][name]
        total += values
        add_masks(total, [Mask(own, negative=True)])
    want = np.sum(list(v["plain"].values()), axis=0)
    assert total.tolist() == want.tolist()


def test_updates_are_encoded_as_written() -> None:
    for row in load("encoding")["encodings"]:
        values = np.array([float(x) for x in row["values"]], dtype=np.float32)
        encoding = grid(values.size, bits=row["scale_bits"], bound=row["bound"])
        result = quantize(
            Clipped(values=values, clip_norm=1e6),
            encoding=encoding,
            random=functools.partial(fixed_key, raw(row["key"])),
        )
        assert result.values.tolist() == row["encoded"]


def grid(length: int, *, bits: int, bound: int, clip_norm: float = 1e6) -> Encoding:
    return Encoding(
        length=length,
        scale_bits=bits,
        bound=bound,
        clip_norm=clip_norm,
    )


def test_updates_that_are_not_finite_become_zero_and_long_ones_shorter_as_written() -> (
    None
):
    v = load("encoding")
    norm = float(v["clip_norm"])
    for kind in ("kept", "shortened", "zeroed"):
        for row in v[kind]:
            values = np.array([float(x) for x in row], dtype=np.float32)
            result = quantize(
                clip(values, clip_norm=norm),
                encoding=grid(values.size, bits=8, bound=256, clip_norm=norm),
                random=functools.partial(fixed_key, bytes(32)),
            )
            found = result.values.view(np.int32) / 256
            assert result.values.any() == (kind != "zeroed")
            assert np.linalg.norm(found) <= norm + math.sqrt(values.size) / 256
            assert np.array_equal(found, values) == (kind == "kept")


def test_grids_that_do_not_fit_are_refused_as_written() -> None:
    v = load("encoding")
    good = RoundManifest.decode(load("round")["messages"]["0"].encode())
    assert len(good.participants) == v["cohort"]

    def bound(clip_value: str, scale_bits: int) -> int:
        changes = {"clip_value": clip_value, "scale_bits": scale_bits}
        changed = good.model_copy(update=changes)
        return Encoding.of(RoundManifest.decode(changed.encode())).bound

    for row in v["grids"]:
        assert bound(row["clip_value"], row["scale_bits"]) == row["bound"]
    codes = set()
    for row in v["refused_grids"]:
        with pytest.raises(ProtocolError) as caught:
            bound(**row)
        codes.add(caught.value.code)
    assert codes == {"clip-value-below-grid", "sum-may-overflow"}


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


def edited(good: str, row: dict[str, Any]) -> str:
    """Apply one edit: cut something at a place, put something else there."""
    at = int(row["at"])
    cut_, put = str(row["cut"]), str(row["put"])
    assert good[at : at + len(cut_)] == cut_ != put
    return good[:at] + put + good[at + len(cut_) :]


def takes(attempt: Callable[[Any], object], message: Any) -> bool:
    try:
        attempt(message)
    except (ProtocolError, QuorumError, VerificationError):
        return False
    return True


def good_message(number: str) -> str:
    found = load("round")["messages"][number]
    return str(found[FIRST] if isinstance(found, dict) else found)


def read(number: str, text: str) -> Any:
    return KINDS[number].decode(text.encode())


def whole(number: str, text: str) -> Any:
    """Read a message, with the bytes that messages 3 and 4 carry on a second line."""
    text, _, sealed = text.partition("\n")
    found = read(number, text)
    if number == "3":
        return messages.ShareMessage(head=found, messages=raw(sealed))
    if number == "4":
        return messages.Ciphertexts(heads=found, messages=raw(sealed))
    return found


@pytest.mark.parametrize("number", list(KINDS))
def test_messages_have_one_spelling_and_the_others_are_refused(number: str) -> None:
    found = load("round")["messages"][number]
    for text in found.values() if isinstance(found, dict) else [found]:
        assert read(number, text).encode().decode() == text
    for row in load("refused")["unreadable"][number].values():
        with pytest.raises(ProtocolError):
            read(number, edited(good_message(number), row))


class Replay:
    """The round of the vectors, played by the package."""

    def __init__(self) -> None:
        self.v = load("round")
        self.messages = self.v["messages"]
        self.refused = load("refused")["refused"]
        self.seen: set[str] = set()
        self.manifest = RoundManifest.decode(self.messages["0"].encode())
        self.stage: Any = AdvertiseKeysStage(self.manifest)
        self.states: dict[str, Any] = {}
        self.sender = FIRST

    def encapsulate(self, key: bytes) -> tuple[bytes, bytes]:
        """Draw as the second implementation did; OpenSSL takes no random bytes."""
        adverts = json.loads(self.messages["2"])["advertisements"]
        [receiver] = [a["node"] for a in adverts if a["kem_key"] == key.hex()]
        drawn, kem = self.v["nodes"][self.sender]["encapsulated"][receiver]
        return raw(drawn), raw(kem)

    def identity(self, name: str) -> SigningKey:
        seed = raw(self.v["nodes"][name]["identity"])
        return SigningKey(name=f"{name}/node", algorithm=Algorithm.SIGNATURE, seed=seed)

    def refuses(self, number: str, attempt: Callable[[Any], object]) -> None:
        """Try every message of a number that can be read and must not be taken."""
        self.seen.add(number)
        good = self.text(number, FIRST)
        rows = self.refused[number].items()
        bad = {why: whole(number, edited(good, row)) for why, row in rows}
        assert [why for why, body in bad.items() if takes(attempt, body)] == []

    def send(self, number: str, name: str, message: Any) -> None:
        """See that the node sent the vector's message, and pass that on."""
        text = self.text(number, name)
        assert message == whole(number, text)
        if name == FIRST and number in self.refused:
            self.refuses(number, lambda bad: self.stage.accept(name, bad))
        self.stage.accept(name, whole(number, text))

    def text(self, number: str, name: str) -> str:
        """A message of or for a node; what it carries in bytes on a second line."""
        found = self.messages[number]
        text: str = found[name] if isinstance(found, dict) else found
        sealed = self.v["sealed"].get(number)
        return f"{text}\n{sealed[name]}" if sealed else text

    def join(self) -> None:
        for name, own in self.v["nodes"].items():
            seeds = [own["channel_key"], own["root"], own["seed"]]
            drawn = iter([*map(raw, seeds), *map(raw, own["polynomials"])])
            self.states[name], message = client.advertise_keys(
                self.manifest,
                self.identity(name),
                terms=terms_for(self.manifest),
                random=functools.partial(next_key, drawn),
            )
            self.send("1", name, message)

    def answer(self, name: str, step: Any, number: str, text: str) -> Any:
        """Give a node a message; the first one is tried with bad ones before."""
        state = self.states[name]
        self.sender = name
        if name == FIRST:
            self.refuses(number, functools.partial(step, state))
        return step(state, whole(number, text))

    def broadcast(self, number: str, step: Any, names: list[str]) -> None:
        """Send all nodes a message, and the coordinator all replies."""
        self.stage, message = self.stage.close()
        text = self.messages[number]
        assert message.encode().decode() == text
        for name in names:
            self.states[name], reply = self.answer(name, step, number, text)
            self.send(str(int(number) + 1), name, reply)

    def receive(self) -> None:
        self.stage, sealed = self.stage.close()
        for name in self.messages["4"]:
            text = self.text("4", name)
            assert sealed[name] == whole("4", text)
            self.states[name] = self.answer(name, client.receive_shares, "4", text)

    def upload(self, name: str) -> None:
        state = self.states[name]
        reservation = client.reserve(state, MemoryMarks())
        self.states[name], sent = client.mask_input(
            state, self.encode(name), reservation=reservation
        )
        assert [bytes(c).hex() for c in sent.chunks] == self.v["chunks"][name]
        assert sent.head.encode().decode() == self.messages["5"][name]
        if name == FIRST:
            self.refuses(
                "5",
                lambda bad: self.stage.accept(
                    name, messages.Upload(head=bad, chunks=sent.chunks)
                ),
            )
        self.stage.accept(name, sent)

    def encode(self, name: str) -> Quantized:
        own, encoding = self.v["nodes"][name], Encoding.of(self.manifest)
        values = np.array([float(x) for x in own["update"]], dtype=np.float32)
        encoded = quantize(
            Clipped(values=values, clip_norm=encoding.clip_norm),
            encoding=encoding,
            random=functools.partial(fixed_key, raw(own["rounding"])),
        )
        assert encoded.values.tolist() == own["encoded"]
        return encoded

    def play(self) -> Unmasked:
        left = list(self.messages["5"])
        with patch.object(share_channel, "encapsulate", self.encapsulate):
            return self._play(left)

    def _play(self, left: list[str]) -> Unmasked:
        self.join()
        self.broadcast("2", client.share_keys, list(self.states))
        self.receive()
        for name in left:
            self.upload(name)
        self.broadcast("6", client.check_consistency, left)
        self.broadcast("8", client.unmask, left)
        unmasked: Unmasked = self.stage.close()
        return unmasked


def next_key(keys: Any, size: int) -> bytes:
    key = next(keys)
    assert len(key) == size
    return bytes(key)


def test_a_round_is_played_as_written_and_what_it_must_refuse_is_refused() -> None:
    replay = Replay()
    v, unmasked = replay.v, replay.play()
    assert unmasked.values.tolist() == v["sum"]
    assert [bytes(c).hex() for c in unmasked.chunks()] == v["sum_chunks"]
    want = [float(Fraction(x)) for x in v["mean"]]
    assert unmasked.mean().tolist() == np.array(want, dtype=np.float32).tolist()
    assert unmasked.transcript.self_seeds == v["recovered"]["self_seeds"]
    assert unmasked.transcript.roots == v["recovered"]["roots"]
    found = unmasked.transcript.model_dump(mode="json")["contributions"]
    assert found == v["recovered"]["contributions"]
    result = read("10", v["messages"]["10"])
    assert unmasked.transcript == result.transcript
    assert unmasked.sum_root == result.sum_root

    def check(given: messages.Result) -> None:
        SumChecker(replay.manifest, given)
        check_own(replay.states[FIRST], given)
        check_sum_chunks(given, unmasked.chunks(), length=unmasked.values.size)

    check(result)
    replay.refuses("10", check)
    assert replay.seen == set(replay.refused)


def test_a_round_has_the_context_views_and_keys_that_are_written() -> None:
    v = load("round")
    context = raw(v["context"])
    assert read("0", good_message("0")).context == context
    views = {
        name: raw(view.removeprefix("sha256:")) for name, view in v["views"].items()
    }
    assert read("2", good_message("2")).digest == v["views"]["keys"]
    assert read("4", good_message("4")).digest == v["views"]["heads"]
    assert read("6", good_message("6")).digest == v["survivors"]
    nodes = v["nodes"]
    for one, own in nodes.items():
        assert (
            self_key(raw(own["seed"]), context, node=one).hex() == v["self_keys"][one]
        )
        for two in nodes.keys() - {one}:
            peer = public_key(raw(nodes[two]["channel_key"]))
            shared = Agreement(raw(own["channel_key"])).with_peer(peer)
            drawn = "".join(own["encapsulated"][two])
            key = channel_key(
                shared + raw(drawn),
                context,
                sender=one,
                receiver=two,
                view=views["keys"],
            )
            assert key.hex() == v["channel_keys"][f"{one} to {two}"]


def test_what_is_signed_in_a_round_is_as_written() -> None:
    v, replay = load("round"), Replay()
    numbers = dict(zip(SECAGG_STAGES, (1, 3, 5, 7, 9), strict=True))
    assert v["signed"].keys() == numbers.keys()
    for stage, rows in v["signed"].items():
        for name, statement in rows.items():
            message = json.loads(v["messages"][str(numbers[stage])][name])
            signature = raw(message["signature"])
            replay.identity(name).verify_key.verify(raw(statement), signature)


def test_a_vector_of_several_chunks_has_the_root_that_is_written() -> None:
    v = load("round")["long_vector"]
    values = np.zeros(v["length"], dtype=np.uint32)
    add_masks(values, [Mask(raw(v["keystream"]))])
    chunks = cut(values)
    assert [leaf.hex() for leaf in chunk_leaves(chunks)] == v["leaves"]
    assert chunk_root(chunks) == v["root"]


def test_noise_is_shared_as_written() -> None:
    v = load("noise")
    for row in v["shared"]:
        found = NoiseShare.of(RoundManifest.decode(row["manifest"].encode()))
        assert found is not None
        assert found.shares == row["shares"]
        assert found.unit_bound == row["unit_bound"]
        for name in ("bound", "noise_multiplier", "own_multiplier", "deviation"):
            assert getattr(found, name) == pytest.approx(row[name], rel=1e-12)
        encoding = encoding_of(row["manifest"])
        assert encoding.noise == found.deviation
        for survivors, limit in zip((3, 4), row["limits"], strict=True):
            total = np.zeros(encoding.length, dtype=np.uint32)
            total[7] = math.floor(limit)
            check_sum(total, encoding=encoding, survivors=survivors)
            total[7] += 1
            with refused(ProtocolError, "sum-out-of-range"):
                check_sum(total, encoding=encoding, survivors=survivors)


def test_noise_that_must_not_be_shared_is_refused_as_written() -> None:
    v = load("noise")
    good = v["shared"][0]["manifest"]
    bad = {why: edited(good, row) for why, row in v["refused"].items()}
    assert [why for why, text in bad.items() if takes(encoding_of, text)] == []


def encoding_of(text: str) -> Encoding:
    return Encoding.of(RoundManifest.decode(text.encode()))


def test_the_example_of_the_specification_is_the_round_of_the_vectors() -> None:
    page = (FOLDER.parents[1] / "governance" / "SECAGG.md").read_text()
    example = page.split("```")[1]
    shown = re.findall(r"(?:sha256:)?[0-9a-f]{4}(?=…)", example)
    text = (FOLDER / "secagg-round.json").read_text()
    assert len(shown) > 5
    for start in shown:
        assert start in text
