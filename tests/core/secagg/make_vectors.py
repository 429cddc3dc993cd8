"""Known answers for TSA-1, from a second implementation that shares no code with it.

Written from ``governance/SECAGG.md`` with hashlib, hmac, single AES blocks, X25519 and
plain integers. Run it to print the files again: ``python make_vectors.py DIRECTORY``.
"""

import hashlib
import hmac
import json
import math
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey,
    X25519PublicKey,
)
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

P = b"tapestry-secagg/1\n"
PRIME = 2**256 + 297


def fixed(label: str, size: int = 32) -> bytes:
    return hashlib.shake_256(b"tsa-1 vector " + label.encode()).digest(size)


def hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    extracted = hmac.digest(salt, secret, "sha256")
    return hmac.digest(extracted, info + b"\x01", "sha256")


def keystream(key: bytes, first: int, count: int) -> bytes:
    """16-byte blocks, one at a time."""
    # ECB on a counter is what counter mode is.
    cipher = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305
    return b"".join(
        cipher.update((first + i).to_bytes(16, "big")) for i in range(count)
    )


def mask(key: bytes, start: int, count: int) -> list[int]:
    stream = keystream(key, start // 4, -(-count // 4))
    words = [stream[i : i + 4] for i in range(0, 4 * count, 4)]
    return [int.from_bytes(word, "little") for word in words]


def agree(private: bytes, public: bytes) -> bytes:
    key = X25519PrivateKey.from_private_bytes(private)
    return key.exchange(X25519PublicKey.from_public_bytes(public))


def public(private: bytes) -> bytes:
    key = X25519PrivateKey.from_private_bytes(private)
    return key.public_key().public_bytes_raw()


def derivations() -> dict[str, Any]:
    context, view = fixed("context"), fixed("view")
    one, two, seed = fixed("one"), fixed("two"), fixed("seed")
    shared = agree(one, public(two))
    channel = hkdf(shared, context, P + b"channel\na.example\nb.example\n" + view)
    plaintext = fixed("shares", 66)
    sealed = ChaCha20Poly1305(channel).encrypt(
        bytes(12), plaintext, context + b"a.example\nb.example\n"
    )
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
        "plaintext": plaintext.hex(),
        "sealed": sealed.hex(),
        "refused_public_keys": [
            "00" * 32,
            "01" + "00" * 31,
            "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
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


def encodings() -> list[dict[str, Any]]:
    rows = []
    values = ["0", "0.5", "-0.5", "0.999755859375", "-3.140625", "100", "-100", "0.1"]
    for bits, bound in ((0, 10), (4, 100), (12, 20000)):
        key = fixed(f"rounding {bits}")
        draws = mask(key, 0, len(values))
        encoded = []
        for value, draw in zip(values, draws, strict=True):
            x = Fraction(value) if value != "0.1" else Fraction(0.10000000149011612)
            x = max(Fraction(-bound), min(Fraction(bound), x * 2**bits))
            floor = math.floor(x)
            up = (draw >> 8) < (x - floor) * 2**24
            encoded.append((floor + up) % 2**32)
        rows.append(
            {
                "scale_bits": bits,
                "bound": bound,
                "key": key.hex(),
                "values": values,
                "encoded": encoded,
            }
        )
    return rows


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
    fields: dict[str, Any] = {
        "channel_key": fixed("channel").hex(),
        "mask_key": fixed("mask").hex(),
        "node": "a.example",
    }
    signed = P + b"advertisement\na.example\n" + context
    signed += fixed("channel") + fixed("mask")
    fields["signature"] = key.sign(signed).hex()
    good = json.dumps(fields, separators=(",", ":"), sort_keys=True)
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
            "a short key": good.replace(fields["mask_key"], fields["mask_key"][2:]),
            "a name in upper case": good.replace("a.example", "A.example"),
            "bytes after the end": good + "\n",
            "nothing": "",
        },
    }


VECTORS = {
    "derivation": derivations,
    "masks": masks,
    "encoding": encodings,
    "sharing": sharings,
    "messages": messages,
}


def render(name: str) -> str:
    """Print one file."""
    return json.dumps(VECTORS[name](), indent=1) + "\n"


if __name__ == "__main__":
    for name in VECTORS:
        Path(sys.argv[1], f"secagg-{name}.json").write_text(render(name))
