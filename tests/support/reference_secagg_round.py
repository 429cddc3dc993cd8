"""A whole round of TSA-1 by the second implementation; ``b.example`` drops out."""

import base64
import functools
import hashlib
import math
from fractions import Fraction
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from tests.support.reference_mlkem import decapsulate, encapsulate, make_key
from tests.support.reference_secagg import (
    PRIME,
    P,
    agree,
    canon,
    encode,
    fixed,
    hkdf,
    keystream,
    mask,
    named,
    public,
    tail,
)

NAMES = ("a.example", "b.example", "c.example", "d.example")
FIRST, LOST = "a.example", "b.example"  # the latter is silent once it has shared
LEFT = tuple(name for name in NAMES if name != LOST)
THRESHOLD, LENGTH, BITS, BOUND = 3, 6, 12, 1024

STAGES = (
    "advertise_keys",
    "share_keys",
    "collect_masked_inputs",
    "check_consistency",
    "unmask",
)

Rows = dict[str, str]


def identity(node: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(fixed(f"identity {node}"))


def verify_key(node: str) -> str:
    """Print a node's key as C2SP signed-note does."""
    name = f"{node}/node"
    key = b"\x01" + identity(node).public_key().public_bytes_raw()
    tag = hashlib.sha256(name.encode() + b"\n" + key).digest()[:4]
    return f"{name}+{tag.hex()}+{base64.b64encode(key).decode()}"


def manifest() -> dict[str, Any]:
    words = ("model", "layout", "policy", "roster")
    return {
        **{f"{word}_digest": named(word) for word in words},
        "software": [named("software")],
        "protocol": "tapestry-secagg/2",
        "federation": "loom.example",
        "run_id": "run-1",
        "purpose": "train",
        "round_number": 7,
        "attempt": 1,
        "participants": [{"name": n, "key": verify_key(n)} for n in NAMES],
        "max_colluding": 1,
        "threshold": THRESHOLD,
        "min_cohort": 3,
        "ring_bits": 32,
        "length": LENGTH,
        "clip_norm": "2",
        "clip_value": "0.25",
        "scale_bits": BITS,
        "statistics": [],
        "training": {
            "workload": "language",
            "parameterization": "full",
            "rank": 0,
            "targets": [],
            "factor_seed": "00" * 32,
            "steps": 1,
            "batch_size": 8,
            "optimizer": "sgd",
            "learning_rate": "0.1",
            "weight_decay": "0",
            "options": {"sequence_length": 32},
        },
        "privacy": {"noise": "none"},
        "outer": {
            "optimizer": "mean",
            "learning_rate": "1",
            "max_norm": "10",
            "max_loss_increase": "1",
        },
        "gate": {"held_out": named("held-out"), "evaluation": named("evaluation")},
        "deadlines": dict.fromkeys(STAGES, 60),
        "post_quantum": "mlkem768",
    }


CONTEXT = hashlib.sha256(b"tapestry-secagg/2" + canon(manifest()).encode()).digest()


def signed(stage: str, node: str, *parts: bytes) -> bytes:
    return P + f"{stage}\n{node}\n".encode() + CONTEXT + b"".join(parts)


def sign(stage: str, body: dict[str, Any], *parts: bytes) -> dict[str, Any]:
    node = body["node"]
    signature = identity(node).sign(signed(stage, node, *parts)).hex()
    return {**body, "signature": signature}


def secret(node: str, what: str) -> bytes:
    return fixed(f"{what} of {node}")


@functools.cache
def of_root(node: str, label: str, *more: str, size: int = 32) -> bytes:
    lines = "".join(f"{line}\n" for line in (label, node, *more))
    return hkdf(secret(node, "root"), CONTEXT, P + lines.encode(), size)


@functools.cache
def kem_keys(node: str) -> tuple[bytes, bytes]:
    return make_key(of_root(node, "kem", size=64))


def public_keys(node: str) -> Rows:
    return {
        "channel_key": public(secret(node, "channel_key")).hex(),
        "kem_key": kem_keys(node)[0].hex(),
        "mask_key": public(of_root(node, "mask")).hex(),
    }


def advertised_parts(body: dict[str, Any]) -> bytes:
    kem = hashlib.sha256(bytes.fromhex(body["kem_key"])).digest()
    return bytes.fromhex(body["channel_key"] + body["mask_key"]) + kem


def advertise(node: str, **changes: str) -> dict[str, Any]:
    keys = public_keys(node) | changes
    return sign("advertise_keys", {"node": node, **keys}, advertised_parts(keys))


def polynomial(node: str, what: str) -> list[int]:
    size = THRESHOLD - 1
    stream = keystream(secret(node, f"polynomial of the {what}"), 0, 3 * size)
    rest = [
        int.from_bytes(stream[i : i + 48], "big") % PRIME
        for i in range(0, 48 * size, 48)
    ]
    return [int.from_bytes(secret(node, what), "big"), *rest]


def share_of(dealer: str, what: str, receiver: str) -> bytes:
    x = NAMES.index(receiver) + 1
    terms = (c * x**k for k, c in enumerate(polynomial(dealer, what)))
    value: int = sum(terms) % PRIME
    return value.to_bytes(33, "big")


def gives(node: str, peer: str) -> bool:
    x, y = NAMES.index(node) + 1, NAMES.index(peer) + 1
    return x < y if (x + y) % 2 else x > y


@functools.cache
def encapsulated(sender: str, receiver: str) -> tuple[bytes, bytes]:
    drawn = fixed(f"encapsulation of {sender} for {receiver}")
    return encapsulate(kem_keys(receiver)[0], drawn)


def channel(sender: str, receiver: str, view: str) -> bytes:
    shared = agree(
        secret(sender, "channel_key"), public(secret(receiver, "channel_key"))
    )
    info = P + f"channel\n{sender}\n{receiver}\n".encode() + tail(view)
    return hkdf(shared + b"".join(encapsulated(sender, receiver)), CONTEXT, info)


def committed(node: str, peer: str) -> bytes:
    lines = f"contribution commitment\n{node}\n{peer}\n".encode()
    own = of_root(node, "contribution", peer)
    return hashlib.sha256(P + lines + CONTEXT + own).digest()


def clear_part(node: str, peer: str, view: str) -> bytes:
    kem_secret, kem = encapsulated(node, peer)
    if not gives(node, peer):
        return kem
    own = of_root(node, "contribution", peer)
    info = P + f"wrap\n{node}\n{peer}\n".encode() + tail(view)
    pad = hkdf(kem_secret, CONTEXT, info)
    wrapped = bytes(a ^ b for a, b in zip(own, pad, strict=True))
    return kem + committed(node, peer) + wrapped


def boxed(node: str, peer: str, view: str, plain: bytes, clear: bytes) -> str:
    data = CONTEXT + f"{node}\n{peer}\n".encode() + clear
    box = ChaCha20Poly1305(channel(node, peer, view))
    return (clear + box.encrypt(bytes(12), plain, data)).hex()


def sealed_for(node: str, peer: str, view: str) -> str:
    plain = share_of(node, "seed", peer) + share_of(node, "root", peer)
    return boxed(node, peer, view, plain, clear_part(node, peer, view))


def tree(hashes: list[bytes]) -> bytes:
    if len(hashes) == 1:
        return hashes[0]
    cut = 1 << (len(hashes) - 1).bit_length() - 1
    both = tree(hashes[:cut]) + tree(hashes[cut:])
    return hashlib.sha256(b"\x01" + both).digest()


def partly(hashes: list[bytes], shown: dict[int, bytes]) -> bytes:
    """Walk the tree: what is shown at its leaf, a hash for each part without such."""
    if not shown:
        return tree(hashes)
    if len(hashes) == 1:
        return shown[0]
    cut = 1 << (len(hashes) - 1).bit_length() - 1
    left = {i: value for i, value in shown.items() if i < cut}
    right = {i - cut: value for i, value in shown.items() if i >= cut}
    return partly(hashes[:cut], left) + partly(hashes[cut:], right)


def in_one(sealed: Rows) -> bytes:
    """All messages of a node, joined and hashed."""
    return hashlib.sha256(
        bytes.fromhex("".join(sealed[n] for n in sorted(sealed)))
    ).digest()


def signed_root(sealed: Rows) -> str:
    """The commitments, where there is room for one, and the hash of all messages."""
    rows = [bytes.fromhex(text) for _, text in sorted(sealed.items())]
    made = [data[1088:1120] for data in rows if len(data) == 1234]
    first = tree(made) if made else hashlib.sha256(b"").digest()
    return named_hash(hashlib.sha256(b"\x01" + first + in_one(sealed)).digest())


def named_hash(value: bytes) -> str:
    return f"sha256:{value.hex()}"


def share(node: str, view: str, **changes: Any) -> dict[str, Any]:
    sealed = {peer: sealed_for(node, peer, view) for peer in NAMES if peer != node}
    sealed = changes.pop("sealed", sealed)
    seed = P + f"commitment\n{node}\n".encode() + CONTEXT + secret(node, "seed")
    head = {
        "node": node,
        "view": view,
        "commitment": hashlib.sha256(seed).hexdigest(),
        "ciphertexts": signed_root(sealed),
    } | changes
    parts = (tail(head["view"]), bytes.fromhex(head["commitment"]))
    head = sign("share_keys", head, *parts, tail(head["ciphertexts"]))
    return {"ciphertexts": sealed, "head": head}


def shown(node: str, view: str) -> str:
    """What a survivor contributed to its mask with the lost node, and the proof."""
    sealed = share(node, view)["ciphertexts"]
    data = bytes.fromhex(sealed[LOST])
    kem_secret = decapsulate(kem_keys(LOST)[1], data[:1088])
    info = P + f"wrap\n{node}\n{LOST}\n".encode() + tail(view)
    pad = hkdf(kem_secret, CONTEXT, info)
    made = bytes(a ^ b for a, b in zip(data[1120:1152], pad, strict=True))
    peers = [peer for peer in NAMES if peer != node and gives(node, peer)]
    hashes = [committed(node, peer) for peer in peers]
    return (in_one(sealed) + partly(hashes, {peers.index(LOST): made})).hex()


def pair(node: str, peer: str, view: str) -> bytes:
    low, high = min(node, peer), max(node, peer)
    shared = agree(of_root(node, "mask"), public(of_root(peer, "mask")))
    one, two = (node, peer) if gives(node, peer) else (peer, node)
    shared += of_root(one, "contribution", two)
    return hkdf(shared, CONTEXT, P + f"pair\n{low}\n{high}\n".encode() + tail(view))


def self_mask(node: str) -> bytes:
    return hkdf(secret(node, "seed"), CONTEXT, P + f"self\n{node}\n".encode())


def update(node: str) -> list[Fraction]:
    drawn = fixed(f"update of {node}", 2 * LENGTH)
    at = range(0, 2 * LENGTH, 2)
    words = [int.from_bytes(drawn[i : i + 2], "big", signed=True) for i in at]
    return [Fraction(word, 2**16) for word in words]


def plain(node: str) -> list[int]:
    return encode(update(node), bits=BITS, bound=BOUND, key=secret(node, "rounding"))


def masked(node: str, view: str) -> list[int]:
    keys = [(1, self_mask(node))]
    for peer in NAMES:
        if peer != node:
            keys.append((1 if node < peer else -1, pair(node, peer, view)))
    return add(plain(node), keys)


def add(row: list[int], keys: list[tuple[int, bytes]]) -> list[int]:
    for sign_, key in keys:
        row = [
            (a + sign_ * b) % 2**32
            for a, b in zip(row, mask(key, 0, LENGTH), strict=True)
        ]
    return row


def chunk(row: list[int]) -> bytes:
    return b"".join(value.to_bytes(4, "little") for value in row)


def leaf(data: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + data).digest()


def upload(node: str, view: str, **changes: str) -> dict[str, Any]:
    root = "sha256:" + leaf(chunk(masked(node, view))).hex()
    body = {"node": node, "root": root, "view": view} | changes
    return sign("collect_masked_inputs", body, tail(body["view"]), tail(body["root"]))


def consent(node: str, survivors: str) -> dict[str, Any]:
    body = {"node": node, "survivors": survivors}
    return sign("check_consistency", body, tail(survivors))


def reveal(node: str, **changes: dict[str, str]) -> dict[str, Any]:
    made = {LOST: of_root(node, "contribution", LOST).hex()}
    shares = {
        "contributions": made if gives(node, LOST) else {},
        "root_shares": {LOST: share_of(LOST, "root", node).hex()},
        "self_shares": {n: share_of(n, "seed", node).hex() for n in LEFT},
    } | changes
    return sign("unmask", {"node": node, **shares}, tail(named(canon(shares))))


def recover(reveals: list[dict[str, Any]], kind: str, dealer: str) -> str:
    """Lagrange at zero, over the first reveals."""
    total = Fraction(0)
    places = [NAMES.index(row["node"]) + 1 for row in reveals[:THRESHOLD]]
    for row, x in zip(reveals, places, strict=True):
        factor = math.prod(Fraction(y, y - x) for y in places if y != x)
        total += int(row[kind][dealer], 16) * factor
    value = total.numerator * pow(total.denominator, -1, PRIME) % PRIME
    return value.to_bytes(32, "big").hex()


def play() -> dict[str, Any]:
    """Every message as a value, by number and, where each node has its own, by name."""
    keys = {"advertisements": [advertise(n) for n in NAMES]}
    first = named(canon(keys))
    shares = {n: share(n, first) for n in NAMES}
    heads = {"heads": [shares[n]["head"] for n in NAMES]}
    second = named(canon(heads))
    sealed = {
        n: {p: shares[p]["ciphertexts"][n] for p in NAMES if p != n} for n in NAMES
    }
    uploads = {n: upload(n, second) for n in LEFT}
    rows = [{"node": n, "root": uploads[n]["root"]} for n in LEFT]
    survivors = {"survivors": rows, "view": second}
    consents = {n: consent(n, named(canon(survivors))) for n in LEFT}
    reveals = {n: reveal(n) for n in LEFT}
    opened = list(reveals.values())
    transcript = {
        "keys": keys,
        "heads": heads,
        "uploads": list(uploads.values()),
        "consents": {"consents": list(consents.values())},
        "self_seeds": {n: recover(opened, "self_shares", n) for n in LEFT},
        "roots": {LOST: recover(opened, "root_shares", LOST)},
        "contributions": {n: shown(n, first) for n in LEFT if gives(n, LOST)},
    }
    result = {
        "transcript": transcript,
        "sum_root": "sha256:" + leaf(chunk(total())).hex(),
        "model_digest": named("model after"),
    }
    return {
        "0": manifest(),
        "1": {n: advertise(n) for n in NAMES},
        "2": keys,
        "3": shares,
        "4": {n: {"ciphertexts": sealed[n], "heads": heads} for n in NAMES},
        "5": uploads,
        "6": survivors,
        "7": consents,
        "8": transcript["consents"],
        "9": reveals,
        "10": result,
    }


def total() -> list[int]:
    rows = [plain(n) for n in LEFT]
    return [sum(column) % 2**32 for column in zip(*rows, strict=True)]


def means() -> list[str]:
    centred = [(x + 2**31) % 2**32 - 2**31 for x in total()]
    return [str(Fraction(x, len(LEFT) * 2**BITS)) for x in centred]


def statements(m: dict[str, Any]) -> dict[str, Rows]:
    def pieces(body: dict[str, Any], *fields: str) -> bytes:
        return b"".join(tail(body[field]) for field in fields)

    return {
        "advertise_keys": {
            n: signed("advertise_keys", n, advertised_parts(body)).hex()
            for n, body in m["1"].items()
        },
        "share_keys": {
            n: signed(
                "share_keys",
                n,
                pieces(body["head"], "view", "commitment", "ciphertexts"),
            ).hex()
            for n, body in m["3"].items()
        },
        "collect_masked_inputs": {
            n: signed("collect_masked_inputs", n, pieces(body, "view", "root")).hex()
            for n, body in m["5"].items()
        },
        "check_consistency": {
            n: signed("check_consistency", n, pieces(body, "survivors")).hex()
            for n, body in m["7"].items()
        },
        "unmask": {
            n: signed(
                "unmask",
                n,
                tail(
                    named(canon({k: v for k, v in body.items() if isinstance(v, dict)}))
                ),
            ).hex()
            for n, body in m["9"].items()
        },
    }


def long_vector() -> dict[str, Any]:
    """A vector of three chunks, given as a keystream."""
    key, length = fixed("long vector"), 2 * 2**18 + 100
    data = keystream(key, 0, length // 4)
    leaves = [leaf(data[i : i + 2**20]) for i in range(0, len(data), 2**20)]
    inner = hashlib.sha256(b"\x01" + leaves[0] + leaves[1]).digest()
    root = hashlib.sha256(b"\x01" + inner + leaves[2]).hexdigest()
    return {
        "keystream": key.hex(),
        "length": length,
        "leaves": [row.hex() for row in leaves],
        "root": f"sha256:{root}",
    }


def body_of(number: str, value: dict[str, Any]) -> dict[str, Any]:
    """The JSON of a message; messages 3 and 4 carry bytes beside it."""
    field = {"3": "head", "4": "heads"}.get(number)
    found: dict[str, Any] = value[field] if field else value
    return found


def joined(value: dict[str, Any]) -> str:
    """The bytes beside the JSON of message 3 or 4, in order of the names."""
    sealed = value["ciphertexts"]
    return "".join(sealed[name] for name in sorted(sealed))


def printed(number: str, value: dict[str, Any]) -> Any:
    if value.keys() <= set(NAMES):
        return {n: canon(body_of(number, each)) for n, each in value.items()}
    return canon(value)


def whole_round() -> dict[str, Any]:
    m = play()
    first, second = m["3"][FIRST]["head"]["view"], m["6"]["view"]
    check_unmasking(m, second)
    return {
        "nodes": {n: inputs(n) for n in NAMES},
        "context": CONTEXT.hex(),
        "views": {"keys": first, "heads": second},
        "survivors": m["7"][FIRST]["survivors"],
        "messages": {number: printed(number, value) for number, value in m.items()},
        "sealed": {
            number: {n: joined(each) for n, each in m[number].items()}
            for number in ("3", "4")
        },
        "signed": statements(m),
        "channel_keys": {
            f"{a} to {b}": channel(a, b, first).hex()
            for a in NAMES
            for b in NAMES
            if a != b
        },
        "pair_keys": {
            f"{a} and {b}": pair(a, b, second).hex()
            for a in NAMES
            for b in NAMES
            if a < b
        },
        "self_keys": {n: self_mask(n).hex() for n in NAMES},
        "chunks": {n: [chunk(masked(n, second)).hex()] for n in LEFT},
        "recovered": {
            word: m["10"]["transcript"][word]
            for word in ("self_seeds", "roots", "contributions")
        },
        "sum": total(),
        "sum_chunks": [chunk(total()).hex()],
        "mean": means(),
        "long_vector": long_vector(),
    }


def inputs(node: str) -> dict[str, Any]:
    seeds = [secret(node, f"polynomial of the {what}") for what in ("seed", "root")]
    return {
        "identity": fixed(f"identity {node}").hex(),
        "channel_key": secret(node, "channel_key").hex(),
        "root": secret(node, "root").hex(),
        "encapsulated": {
            peer: [part.hex() for part in encapsulated(node, peer)]
            for peer in NAMES
            if peer != node
        },
        "seed": secret(node, "seed").hex(),
        "polynomials": [seed.hex() for seed in seeds],
        "update": [str(float(x)) for x in update(node)],
        "rounding": secret(node, "rounding").hex(),
        "encoded": plain(node),
    }


def check_unmasking(m: dict[str, Any], view: str) -> None:
    """Take the masks off as the coordinator does: with what was recovered."""
    rows = [masked(n, view) for n in LEFT]
    row = [sum(column) % 2**32 for column in zip(*rows, strict=True)]
    sent = m["10"]["transcript"]
    lost = bytes.fromhex(sent["roots"][LOST])
    lost_key = hkdf(lost, CONTEXT, P + f"mask\n{LOST}\n".encode())
    for node in LEFT:
        low, high = min(node, LOST), max(node, LOST)
        info = P + f"pair\n{low}\n{high}\n".encode() + tail(view)
        mine = agree(lost_key, public(of_root(node, "mask")))
        if gives(node, LOST):
            mine += of_root(node, "contribution", LOST)
            assert mine[-32:].hex() in sent["contributions"][node]
        else:
            lines = f"contribution\n{LOST}\n{node}\n".encode()
            mine += hkdf(lost, CONTEXT, P + lines)
        shared = hkdf(mine, CONTEXT, info)
        seed = bytes.fromhex(sent["self_seeds"][node])
        own = hkdf(seed, CONTEXT, P + f"self\n{node}\n".encode())
        row = add(row, [(-1, own), (-1 if node < LOST else 1, shared)])
    if row != total():
        raise AssertionError("the masks did not cancel")
