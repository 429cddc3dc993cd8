"""Refused messages of a round of TSA-1, as edits of the messages of a good one."""

import json
import re
from typing import Any

from tests.support.reference_secagg import (
    LOW_ORDER,
    PRIME,
    canon,
    fixed,
    named,
    public,
)
from tests.support.reference_secagg_round import (
    FIRST,
    LEFT,
    LOST,
    NAMES,
    Rows,
    advertise,
    body_of,
    boxed,
    clear_part,
    consent,
    gives,
    joined,
    play,
    public_keys,
    reveal,
    share,
    share_of,
    sign,
    upload,
)


def edit(good: str, bad: str) -> dict[str, Any]:
    """Say what to cut from a message, and what to put there."""
    at = common(good, bad)
    end = common(good[at:][::-1], bad[at:][::-1])
    return {
        "at": at,
        "cut": good[at : len(good) - end],
        "put": bad[at : len(bad) - end],
    }


def common(one: str, other: str) -> int:
    """Count the characters that two texts begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def misspelled(value: dict[str, Any]) -> Rows:
    """Ways to misspell any message; none may be read."""
    good, names = canon(value), sorted(value)
    fields = [canon({name: value[name]})[1:-1] for name in names]
    rows = {
        "hex in upper case": re.sub(
            "[0-9a-f]{64}", lambda found: found[0].upper(), good, count=1
        ),
        "a field too many": good[:-1] + ',"zz":1}',
        "a field missing": "{" + ",".join(fields[1:]) + "}",
        "a field twice": "{" + ",".join([fields[0], *fields]) + "}",
        "a space": good.replace(":", ": ", 1),
        "a byte after the end": good + "\n",
        "a name in upper case": good.replace('"a.ex', '"A.ex'),
    }
    if len(fields) > 1:
        first, second, *rest = fields
        rows["fields out of order"] = "{" + ",".join([second, first, *rest]) + "}"
    return rows


def misordered(value: dict[str, Any], *path: str) -> Rows:
    def changed(swap: Any) -> str:
        copy = json.loads(canon(value))
        inner = copy
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] = swap(inner[path[-1]])
        return canon(copy)

    return {
        "names out of order": changed(lambda rows: [rows[1], rows[0], *rows[2:]]),
        "a name twice": changed(lambda rows: [rows[0], *rows]),
    }


LISTS = {
    "0": ("participants",),
    "2": ("advertisements",),
    "4": ("heads",),
    "6": ("survivors",),
    "8": ("consents",),
    "10": ("transcript", "uploads"),
}


def unreadable(number: str, value: dict[str, Any]) -> Rows:
    rows = misspelled(value)
    if number in LISTS:
        rows |= misordered(value, *LISTS[number])
    good = canon(value)
    if number == "0":
        rows["a fraction with a zero at the end"] = good.replace('"0.25"', '"0.250"')
        rows["a number that is not a string"] = good.replace('"0.25"', "0.25")
        rows["another protocol"] = good.replace("secagg/2", "secagg/1")
        rows["another key agreement"] = good.replace("mlkem768", "mlkem512")
        rows["weights of the participants"] = canon({**value, "weighting": "uniform"})
        rows["a deadline too few"] = good.replace(',"unmask":60', "")
    if number == "2":
        a, b = value["advertisements"][:2]
        rows["a public key twice"] = good.replace(b["mask_key"], a["mask_key"])
        rows["an ML-KEM key twice"] = good.replace(b["kem_key"], a["kem_key"])
    if number == "1":
        kem = value["kem_key"]
        rows["an ML-KEM key of 1183 bytes"] = good.replace(kem, kem[2:])
        rows["an ML-KEM key of 1185 bytes"] = good.replace(kem, kem + "00")
        # Its first number is 3329, the modulus: 0xd01 from 12 bits, the lowest first.
        rows["an ML-KEM key that is not canonical"] = good.replace(
            kem, "01" + kem[2] + "d" + kem[4:]
        )
    if number == "9":
        mine = value["self_shares"][FIRST]
        both = {**value["root_shares"], FIRST: mine}
        rows["both secrets of one node"] = canon({**value, "root_shares": both})
        rows["a share of 32 bytes"] = good.replace(mine, mine[2:])
        rows["a share of 2**257"] = good.replace(mine, "02" + mine[2:])
    return rows


def flip(hexes: str) -> str:
    return hexes[:-1] + f"{int(hexes[-1], 16) ^ 1:x}"


def forged(body: dict[str, Any]) -> dict[str, Any]:
    return {**body, "signature": flip(body["signature"])}


def without_kem_key(node: str) -> dict[str, Any]:
    """A message 1 of a round without ML-KEM, signed."""
    keys = {**public_keys(node), "kem_key": None}
    parts = bytes.fromhex(f"{keys['channel_key']}{keys['mask_key']}")
    return sign("advertise_keys", {"node": node, **keys}, parts)


def refused_by_coordinator(m: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Build what the coordinator must refuse of ``a.example``, although it is read."""
    keys = public_keys(FIRST)
    mine, view, second = m["3"][FIRST], m["5"][FIRST]["view"], named("another view")
    boxes = mine["ciphertexts"]
    fewer = {n: box for n, box in boxes.items() if n != LOST}
    first = mine["head"]["view"]
    swapped = {**boxes, LOST: boxes["d.example"], "d.example": boxes[LOST]}
    others = {**boxes, LOST: flip(boxes[LOST])}
    own, made = m["9"][FIRST]["self_shares"], m["9"][FIRST]["contributions"]
    changed = {LOST: flip(made[LOST])}
    beyond = {**own, FIRST: PRIME.to_bytes(33, "big").hex()}
    less = {n: own[n] for n in LEFT[:-1]}
    more = {**m["9"][FIRST]["root_shares"], LEFT[-1]: own[LEFT[-1]]}
    return {
        "1": {
            "a forged signature": forged(m["1"][FIRST]),
            "a key of low order": advertise(FIRST, mask_key=LOW_ORDER),
            "one key for both": advertise(FIRST, mask_key=keys["channel_key"]),
            "no ML-KEM key": without_kem_key(FIRST),
        },
        "3": {
            "a forged signature": {**mine, "head": forged(mine["head"])},
            "another view": share(FIRST, second),
            "other ciphertexts than were signed": {**mine, "ciphertexts": others},
            "a ciphertext too few": share(FIRST, first, sealed=fewer),
            "ciphertexts in each other's place": {**mine, "ciphertexts": swapped},
            "a ciphertext that is a byte short": share(
                FIRST, first, sealed={**boxes, LOST: boxes[LOST][:-2]}
            ),
            "a ciphertext without ML-KEM": share(
                FIRST, first, sealed={**boxes, LOST: boxes[LOST][-164:]}
            ),
        },
        "5": {
            "a forged signature": forged(m["5"][FIRST]),
            "another view": upload(FIRST, second),
            "another root": upload(FIRST, view, root=second),
        },
        "7": {
            "a forged signature": forged(m["7"][FIRST]),
            "another list": consent(FIRST, second),
        },
        "9": {
            "a forged signature": forged(m["9"][FIRST]),
            "a share that is not below the prime": reveal(FIRST, self_shares=beyond),
            "a contribution that was not committed to": reveal(
                FIRST, contributions=changed
            ),
            "a contribution too few": reveal(FIRST, contributions={}),
            "a contribution to a mask with a survivor": reveal(
                FIRST, contributions={**made, LEFT[-1]: made[LOST]}
            ),
            "a self mask too few": reveal(FIRST, self_shares=less),
            "a survivor's root": reveal(FIRST, self_shares=less, root_shares=more),
        },
    }


def refused_by_node(m: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Build what ``a.example`` must refuse, although it can be read."""
    a, b, c, d = m["2"]["advertisements"]
    e, low = advertise("e.example"), advertise("c.example", mask_key=LOW_ORDER)
    swapped = advertise(FIRST, mask_key=public(fixed("another")).hex())
    heads, boxes = m["4"][FIRST]["heads"]["heads"], m["4"][FIRST]["ciphertexts"]
    other = share("c.example", named("another view"))["head"]
    first = named(canon(m["2"]))
    shares = PRIME.to_bytes(33, "big") + share_of("c.example", "root", FIRST)
    clear = clear_part("c.example", FIRST, first)
    beyond = boxed("c.example", FIRST, first, shares, clear)
    dealer = next(n for n in NAMES if n != FIRST and gives(n, FIRST))
    good = share_of(dealer, "seed", FIRST) + share_of(dealer, "root", FIRST)
    clear = clear_part(dealer, FIRST, first)[:1120] + bytes(32)
    uncommitted = boxed(dealer, FIRST, first, good, clear)
    sealed = boxes[LOST]

    def four(rows: list[Any], sealed: dict[str, str]) -> dict[str, Any]:
        return {"ciphertexts": sealed, "heads": {"heads": rows}}

    x, y, z = m["6"]["survivors"]
    lost = {"node": LOST, "root": y["root"]}
    one, two, three = m["8"]["consents"]
    lists = {
        "own keys left out": [b, c, d],
        "own keys changed": [swapped, b, c, d],
        "a stranger": [a, b, c, d, e],
        "too few": [a, b],
        "a forged signature": [a, b, forged(c), d],
        "a key of low order": [a, b, low, d],
        "no ML-KEM key": [a, b, without_kem_key("c.example"), d],
    }
    survivors = {
        "own upload left out": [lost, y, z],
        "own upload changed": [{**x, "root": y["root"]}, y, z],
        "a stranger": [x, y, z, {**z, "node": "e.example"}],
        "too few": [x, y],
    }
    consents = {
        "too few": [one, two],
        "a forged signature": [one, two, forged(three)],
        "one to another list": [one, two, consent(LEFT[2], named("another list"))],
        "one of a node that dropped out": [one, consent(LOST, one["survivors"]), two],
    }
    return {
        "2": {why: {"advertisements": rows} for why, rows in lists.items()},
        "4": {
            "own head left out": four(heads[1:], boxes),
            "a forged signature": four([*heads[:3], forged(heads[3])], boxes),
            "a head with another view": four([*heads[:2], other, heads[3]], boxes),
            "too few": four(heads[:2], {LOST: boxes[LOST]}),
            "a ciphertext too few": four(heads, {LOST: boxes[LOST]}),
            "one that does not open": four(heads, {**boxes, LOST: flip(boxes[LOST])}),
            "another ML-KEM ciphertext": four(
                heads, {**boxes, LOST: flip(sealed[:2]) + sealed[2:]}
            ),
            "one that is a byte short": four(heads, {**boxes, LOST: sealed[:-2]}),
            "one for another node": four(
                heads, {**boxes, LOST: m["4"]["d.example"]["ciphertexts"][LOST]}
            ),
            "a contribution that was not committed to": four(
                heads, {**boxes, dealer: uncommitted}
            ),
            "a share that is not below the prime": four(
                heads, {**boxes, "c.example": beyond}
            ),
        },
        "6": {
            **{why: {**m["6"], "survivors": rows} for why, rows in survivors.items()},
            "another view": {**m["6"], "view": named("another view")},
        },
        "8": {why: {"consents": rows} for why, rows in consents.items()},
    }


def refused_by_all(m: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Build what an auditor or a node must refuse of a result."""
    good, sent = m["10"], m["10"]["transcript"]
    seeds = {**sent["self_seeds"], FIRST: flip(sent["self_seeds"][FIRST])}
    secrets = {LOST: flip(sent["roots"][LOST])}
    made = sent["contributions"]
    [(node, row), *_] = made.items()
    x, y, z = sent["uploads"]
    changes: dict[str, dict[str, Any]] = {
        "a seed that was not committed to": {"self_seeds": seeds},
        "a root whose keys were not advertised": {"roots": secrets},
        "a contribution that was not committed to": {
            "contributions": {**made, node: row[:64] + flip(row[64:128]) + row[128:]}
        },
        "contributions too few": {"contributions": {}},
        "contributions of one that made none": {
            "contributions": {**dict.fromkeys(LEFT, row), **made}
        },
        "other messages than were signed": {
            "contributions": {**made, node: flip(row[:64]) + row[64:]}
        },
        "a proof that is a hash short": {"contributions": {**made, node: row[:-64]}},
        "a proof that is a hash long": {
            "contributions": {**made, node: row + row[:64]}
        },
        "too few consents": {"consents": {"consents": m["8"]["consents"][:2]}},
        "a forged upload": {"uploads": [x, y, forged(z)]},
        "a root too few": {"roots": {}},
    }
    rows = {
        why: {**good, "transcript": {**sent, **change}}
        for why, change in changes.items()
    }
    return {"10": {**rows, "another sum": {**good, "sum_root": named("another")}}}


def whole(number: str, value: dict[str, Any]) -> str:
    """The JSON of a message and, on a second line, the bytes beside it."""
    text = canon(body_of(number, value))
    return f"{text}\n{joined(value)}" if number in {"3", "4"} else text


def refusals() -> dict[str, Any]:
    m = play()
    good = {number: body.get(FIRST, body) for number, body in m.items()}
    rows = refused_by_coordinator(m) | refused_by_node(m) | refused_by_all(m)
    return {
        "unreadable": {
            number: {
                why: edit(canon(body_of(number, value)), bad)
                for why, bad in unreadable(number, body_of(number, value)).items()
            }
            for number, value in good.items()
        },
        "refused": {
            number: {
                why: edit(whole(number, good[number]), whole(number, bad))
                for why, bad in rows[number].items()
            }
            for number in sorted(rows, key=int)
        },
    }
