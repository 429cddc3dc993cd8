"""Known answers for TSA-1, from a second implementation that shares no code with it.

Run it to print the files again: ``python -m tests.support.make_vectors DIRECTORY``.
"""

import hashlib
import json
import math
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from tests.support.reference_mlkem import decapsulate, encapsulate, make_key
from tests.support.reference_secagg import (
    LOW_ORDER,
    PRIME,
    P,
    agree,
    canon,
    encode,
    fixed,
    hkdf,
    keystream,
    mask,
    public,
)
from tests.support.reference_secagg_refusals import edit, refusals
from tests.support.reference_secagg_round import NAMES, manifest, whole_round


def derivations() -> dict[str, Any]:
    context, view = fixed("context"), fixed("view")
    one, two, seed = fixed("one"), fixed("two"), fixed("seed")
    shared = agree(one, public(two))
    channel = hkdf(shared, context, P + b"channel\na.example\nb.example\n" + view)
    plaintext = fixed("shares", 66)
    clear = fixed("clear", 1152)
    sealed = ChaCha20Poly1305(channel).encrypt(
        bytes(12), plaintext, context + b"a.example\nb.example\n" + clear
    )
    root = fixed("root")
    of_root = {
        "mask_secret": hkdf(root, context, P + b"mask\na.example\n"),
        "kem_seed": hkdf(root, context, P + b"kem\na.example\n", 64),
        "contribution": hkdf(
            root, context, P + b"contribution\na.example\nb.example\n"
        ),
    }
    kem_public, kem_private = make_key(of_root["kem_seed"])
    drawn, kem = encapsulate(kem_public, fixed("drawn"))
    changed = bytes([kem[0] ^ 1]) + kem[1:]
    pad = hkdf(drawn, context, P + b"wrap\na.example\nb.example\n" + view)
    wrapped = [a ^ b for a, b in zip(of_root["contribution"], pad, strict=True)]
    return {
        "context": context.hex(),
        "view": view.hex(),
        "sender": "a.example",
        "receiver": "b.example",
        "private": [one.hex(), two.hex()],
        "public": [public(one).hex(), public(two).hex()],
        "shared": shared.hex(),
        "channel_key": channel.hex(),
        "pair_key": hkdf(
            shared, context, P + b"pair\na.example\nb.example\n" + view
        ).hex(),
        "seed": seed.hex(),
        "self_key": hkdf(seed, context, P + b"self\na.example\n").hex(),
        "commitment": hashlib.sha256(
            P + b"commitment\na.example\n" + context + seed
        ).hexdigest(),
        "root": root.hex(),
        **{name: value.hex() for name, value in of_root.items()},
        "kem_public": kem_public.hex(),
        "kem_ciphertext": kem.hex(),
        "kem_secret": drawn.hex(),
        "changed_kem_ciphertext": changed.hex(),
        "changed_kem_secret": decapsulate(kem_private, changed).hex(),
        "wrapped": bytes(wrapped).hex(),
        "contribution_commitment": hashlib.sha256(
            P
            + b"contribution commitment\na.example\nb.example\n"
            + context
            + of_root["contribution"]
        ).hexdigest(),
        "clear": clear.hex(),
        "plaintext": plaintext.hex(),
        "sealed": sealed.hex(),
        "refused_public_keys": [
            "00" * 32,
            "01" + "00" * 31,
            LOW_ORDER,
            "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        ],
        "refused_sealed": [
            sealed[:-1].hex() + f"{sealed[-1] ^ 1:02x}",
            f"{sealed[0] ^ 1:02x}" + sealed[1:].hex(),
        ],
    }


def masks() -> dict[str, Any]:
    context, view = fixed("context"), fixed("view")
    names = ["a.example", "b.example", "c.example"]
    secrets = {n: fixed(f"mask {n}") for n in names}
    seeds = {n: fixed(f"seed {n}") for n in names}
    length = 6
    plain = {
        n: [(i * 7 + k) % 2**32 for k in range(length)] for i, n in enumerate(names)
    }
    masked = {}
    for name in names:
        row = list(plain[name])
        own = mask(
            hkdf(seeds[name], context, P + f"self\n{name}\n".encode()), 0, length
        )
        row = [(a + b) % 2**32 for a, b in zip(row, own, strict=True)]
        for peer in names:
            if peer == name:
                continue
            low, high = min(name, peer), max(name, peer)
            info = P + f"pair\n{low}\n{high}\n".encode() + view
            shared = agree(secrets[name], public(secrets[peer]))
            pair = mask(hkdf(shared, context, info), 0, length)
            sign = 1 if name < peer else -1
            row = [(a + sign * b) % 2**32 for a, b in zip(row, pair, strict=True)]
        masked[name] = row
    key = fixed("keystream")
    return {
        "keystreams": [
            {"key": key.hex(), "start": start, "values": mask(key, start, 8)}
            for start in (0, 4, 65536, 2**34)
        ],
        "round": {
            "context": context.hex(),
            "view": view.hex(),
            "mask_private": {n: s.hex() for n, s in secrets.items()},
            "self_seed": {n: s.hex() for n, s in seeds.items()},
            "plain": plain,
            "masked": masked,
        },
    }


def encodings() -> dict[str, Any]:
    rows = []
    values = ["0", "0.5", "-0.5", "0.999755859375", "-3.140625", "100", "-100", "0.1"]
    for bits, bound in ((0, 10), (4, 100), (12, 20000)):
        key = fixed(f"rounding {bits}")
        exact = [Fraction(v if v != "0.1" else 0.10000000149011612) for v in values]
        encoded = encode(exact, bits=bits, bound=bound, key=key)
        rows.append(
            {
                "scale_bits": bits,
                "bound": bound,
                "key": key.hex(),
                "values": values,
                "encoded": encoded,
            }
        )
    return {
        "encodings": rows,
        "clip_norm": "1",
        "kept": [["1", "0", "0"], ["0.5", "-0.5", "0.5"]],
        "zeroed": [
            ["NaN", "0", "0"],
            ["Infinity", "0", "0"],
            ["0", "-Infinity", "0"],
        ],
        "shortened": [["1", "0.5", "0"], ["3", "4", "-12"]],
        "cohort": len(NAMES),
        "grids": [
            {"clip_value": "0.000244140625", "scale_bits": 12, "bound": 1},
            {"clip_value": "0.499999999", "scale_bits": 30, "bound": 2**29 - 2},
        ],
        "refused_grids": [
            {"clip_value": "0.000244140624", "scale_bits": 12},
            {"clip_value": "0.5", "scale_bits": 30},
            {"clip_value": "1", "scale_bits": 30},
        ],
    }


def sharings() -> dict[str, Any]:
    rows = []
    for threshold, places in ((1, [1, 2]), (3, [1, 2, 3, 4]), (5, [1, 2, 4, 6, 7, 10])):
        secret, seed = fixed(f"secret {threshold}"), fixed(f"polynomial {threshold}")
        stream = keystream(seed, 0, 3 * threshold)
        rest = [
            int.from_bytes(stream[i : i + 48], "big") % PRIME
            for i in range(0, 48 * (threshold - 1), 48)
        ]
        polynomial = [int.from_bytes(secret, "big"), *rest]
        shares = {
            str(x): (sum(c * x**k for k, c in enumerate(polynomial)) % PRIME)
            .to_bytes(33, "big")
            .hex()
            for x in places
        }
        rows.append(
            {
                "secret": secret.hex(),
                "seed": seed.hex(),
                "threshold": threshold,
                "shares": shares,
            }
        )
    return {
        "sharings": rows,
        "refused_shares": [
            "",
            "00" * 32,
            "00" * 34,
            PRIME.to_bytes(33, "big").hex(),
            "02" + "00" * 32,
        ],
    }


def messages() -> dict[str, Any]:
    context = fixed("context")
    key = Ed25519PrivateKey.from_private_bytes(fixed("identity"))
    keys = public(fixed("channel")), public(fixed("mask"))
    fields: dict[str, Any] = {
        "channel_key": keys[0].hex(),
        "kem_key": make_key(fixed("kem", 64))[0].hex(),
        "mask_key": keys[1].hex(),
        "node": "a.example",
    }
    signed = P + b"advertise_keys\na.example\n" + context + b"".join(keys)
    signed += hashlib.sha256(bytes.fromhex(fields["kem_key"])).digest()
    fields["signature"] = key.sign(signed).hex()
    good = json.dumps(fields, separators=(",", ":"), sort_keys=True)
    spelled = keys[1][:31] + bytes([keys[1][31] | 0x80])  # RFC 7748 ignores this bit
    upper = good.replace(fields["mask_key"], fields["mask_key"].upper())
    return {
        "context": context.hex(),
        "identity_seed": fixed("identity").hex(),
        "identity_public": key.public_key().public_bytes_raw().hex(),
        "advertisement": good,
        "signed": signed.hex(),
        "refused_advertisements": {
            "hex in upper case": upper,
            "a space": good.replace(",", ", ", 1),
            "another order": json.dumps(
                dict(reversed(fields.items())), separators=(",", ":")
            ),
            "an unknown field": good[:-1] + ',"zz":1}',
            "a field twice": good[:-1] + ',"node":"a.example"}',
            "a field missing": json.dumps(
                {k: v for k, v in fields.items() if k != "node"},
                separators=(",", ":"),
                sort_keys=True,
            ),
            "a second encoding of a key": good.replace(
                fields["mask_key"], spelled.hex()
            ),
            "a short key": good.replace(fields["mask_key"], fields["mask_key"][2:]),
            "a name in upper case": good.replace("a.example", "A.example"),
            "bytes after the end": good + "\n",
            "nothing": "",
        },
    }


def noises() -> dict[str, Any]:
    def changed(noise: tuple[str, str], **changes: Any) -> dict[str, Any]:
        fixed_ = {"length": 10_000, "clip_norm": "0.5", "clip_value": "0.5"}
        fixed_ |= {"scale_bits": 28}
        plan = {"unit": "record", "adjacency": "add-remove", "clip_norm": "0.5"}
        plan |= {"target_delta": "0.00001", "noise": "shared"}
        plan |= {"noise_multiplier": noise[0], "min_share": noise[1]}
        return {**manifest(), **fixed_, "privacy": plan, **changes}

    def training(**changes: Any) -> dict[str, Any]:
        return {"training": {**manifest()["training"], **changes}}

    rows = []
    for whole, floor in (("1", "0"), ("0.5", "1")):
        bound = 0.5 * 0.1 / 8 * 2**28
        own = max(float(whole) / math.sqrt(2), float(floor))
        rows.append(
            {
                "manifest": canon(changed((whole, floor))),
                "bound": bound,
                "unit_bound": math.floor(bound * (1 - 2.0**-10)),
                "shares": 2,
                "noise_multiplier": own * math.sqrt(2),
                "own_multiplier": own,
                "deviation": own * bound,
                "limits": [n * 2**27 + 12 * math.sqrt(n) * own * bound for n in (3, 4)],
            }
        )
    good = ("1", "0")
    shared = changed(good)["privacy"]
    local = {**shared, "noise": "local"}
    silent = {"noise": "none", "noise_multiplier": "1"}
    unbounded = {name: value for name, value in shared.items() if name != "min_share"}
    refused = {
        "several steps": changed(good, **training(steps=2)),
        "another optimizer": changed(good, **training(optimizer="adam")),
        "weight decay": changed(good, **training(weight_decay="0.1")),
        "a least share of noise that is not shared": changed(good, privacy=local),
        "a noise multiplier without noise": changed(good, privacy=silent),
        "shared noise without a least share": changed(good, privacy=unbounded),
        "no noise": changed(("0", "0")),
        "a negative least share": changed(("1", "-1")),
        "no share to count on": changed(good, threshold=2, max_colluding=2),
        "noise below 1000 grid steps": changed(good, scale_bits=13),
        "a grid that is too coarse for rounding": changed(good, scale_bits=20),
        "no room in the ring": changed(("200", "0")),
    }
    base = canon(changed(good))
    return {
        "shared": rows,
        "refused": {why: edit(base, canon(bad)) for why, bad in refused.items()},
    }


VECTORS = {
    "derivation": derivations,
    "masks": masks,
    "encoding": encodings,
    "sharing": sharings,
    "messages": messages,
    "round": whole_round,
    "refused": refusals,
    "noise": noises,
}


def render(name: str) -> str:
    """Print one file."""
    return json.dumps(VECTORS[name](), indent=1) + "\n"


if __name__ == "__main__":
    for name in VECTORS:
        Path(sys.argv[1], f"secagg-{name}.json").write_text(render(name))
