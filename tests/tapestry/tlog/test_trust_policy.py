"""The trust policy: which checkpoints count."""

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry import keys
from tapestry.errors import ProtocolError, QuorumError, VerificationError
from tapestry.keys import Algorithm, SigningKey, VerifyKey
from tapestry.tlog import note
from tapestry.tlog.checkpoint import Checkpoint
from tapestry.tlog.merkle import EMPTY_ROOT, leaf_hash, root
from tapestry.tlog.trust_policy import (
    TrustPolicy,
    Witness,
    WitnessGroup,
    witness_quorum,
)
from tests.support.cosigning import (
    LOG_KEY,
    TIME,
    TRUST,
    WITNESSES,
    cosigned,
    entry,
    signing_key,
    without_line,
)
from tests.support.refusals import refused

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "vectors" / "trust.json").read_text()
)
CHECKPOINT = Checkpoint(
    origin=LOG_KEY.name, size=5, root=root(leaf_hash(entry(n)) for n in range(5))
)


def test_a_policy_is_read_and_printed_in_one_spelling() -> None:
    trust = TrustPolicy.parse(VECTORS["policy"].encode())
    assert trust.encode().decode() == VECTORS["printed"]
    assert TrustPolicy.parse(trust.encode()) == trust
    assert trust.logs[0].url == "https://log.example/gov/"
    assert trust.witnesses[1].url is None


@pytest.mark.parametrize("case", VECTORS["refused"], ids=lambda case: case["why"])
def test_policies_that_contradict_themselves_are_refused(case: dict[str, str]) -> None:
    with pytest.raises(ProtocolError):
        TrustPolicy.parse(case["policy"].encode())


@pytest.mark.parametrize(
    "case", VECTORS["quorums"], ids=lambda c: "+".join(c["cosigned"])
)
def test_groups_of_groups_decide(case: dict[str, Any]) -> None:
    trust = TrustPolicy.parse(VECTORS["policy"].encode())
    assert trust.is_quorum(set(case["cosigned"])) == case["enough"]


def test_the_quorum_leaves_no_room_for_two_branches() -> None:
    for members, needed in VECTORS["witness_quorum"].items():
        assert witness_quorum(int(members)) == needed
    for members in range(1, 100):
        faulty = (members - 1) // 3
        assert 2 * witness_quorum(members) - members > faulty
        assert witness_quorum(members) <= members - faulty  # the honest suffice
    with pytest.raises(ValueError, match="witnesses"):
        witness_quorum(0)


def test_names_are_opaque_bytes() -> None:
    line = f"witness \xe9\xff {WITNESSES[0].verify_key}\nquorum \xe9\xff\n"
    data = line.encode("latin-1")
    assert TrustPolicy.parse(data).encode() == data


@given(by=st.permutations(range(4)), count=st.integers(0, 4))
def test_any_three_of_four_witnesses_are_enough(by: list[int], count: int) -> None:
    lines = [CHECKPOINT.cosign(WITNESSES[at], time=TIME + at) for at in by[:count]]
    data = CHECKPOINT.sign(LOG_KEY) + b"".join(lines)
    if count < 3:
        with refused(QuorumError, "quorum-not-reached"):
            TRUST.open(data)
    else:
        opened = TRUST.open(data)
        assert opened.checkpoint == CHECKPOINT
        assert opened.note == data
        times = [each.time for each in opened.cosignatures]
        assert sorted(times) == sorted(TIME + late for late in by[:count])
    assert len(TRUST.open_pending(data).cosignatures) == count


def test_without_cosignatures_there_is_no_time() -> None:
    opened = TRUST.open_pending(CHECKPOINT.sign(LOG_KEY))
    assert opened.cosignatures == ()


def test_quorum_none_needs_no_cosignature() -> None:
    trust = TrustPolicy.parse(f"log {LOG_KEY.verify_key}\nquorum none\n".encode())
    assert trust.open(CHECKPOINT.sign(LOG_KEY)).cosignatures == ()


def test_a_checkpoint_without_the_logs_signature_is_refused() -> None:
    data = without_line(cosigned(CHECKPOINT), LOG_KEY.name)
    with refused(VerificationError, "log-signature-missing"):
        TRUST.open(data)


def test_a_listed_log_does_not_speak_for_another() -> None:
    """Attack 9: a signature, and cosignatures, for another origin."""
    other = signing_key("other.example/gov")
    trust = TrustPolicy.parse(
        f"log {LOG_KEY.verify_key}\nlog {other.verify_key}\nquorum none\n".encode()
    )
    text = str(Checkpoint(origin=other.name, size=0, root=EMPTY_ROOT))
    data = note.Note(text=text, signatures=(note.sign(text, LOG_KEY),)).encode()
    with refused(VerificationError, "log-signature-missing"):
        trust.open(data)


def test_cosignatures_are_not_moved_to_another_checkpoint() -> None:
    """Attacks 2 and 5: the log key re-signs, the witnesses do not."""
    fork = Checkpoint(
        origin=LOG_KEY.name, size=5, root=root(leaf_hash(entry(n)) for n in range(1, 6))
    )
    lines = cosigned(CHECKPOINT).removeprefix(CHECKPOINT.sign(LOG_KEY))
    with refused(VerificationError, "signature-invalid"):
        TRUST.open(fork.sign(LOG_KEY) + lines)
    with refused(QuorumError, "quorum-not-reached"):
        TRUST.open(fork.sign(LOG_KEY))


def test_one_forged_cosignature_condemns_the_note() -> None:
    """Attack 8: known name and id, wrong signature."""
    key = WITNESSES[3].verify_key
    line = note.Signature(name=key.name, key_id=key.id, blob=bytes(72))
    with refused(VerificationError, "signature-invalid"):
        TRUST.open(cosigned(CHECKPOINT) + str(line).encode())


def test_signatures_of_unknown_keys_are_ignored() -> None:
    """Attack 8: right name, wrong id."""
    impostor = SigningKey.generate(WITNESSES[2].name, algorithm=Algorithm.COSIGNATURE)
    two = cosigned(CHECKPOINT, by=2)
    with refused(QuorumError, "quorum-not-reached", match="2 cosignatures"):
        TRUST.open(two + CHECKPOINT.cosign(impostor, time=TIME))
    opened = TRUST.open(cosigned(CHECKPOINT) + CHECKPOINT.cosign(impostor, time=9**9))
    assert {each.time for each in opened.cosignatures} == {TIME}


def test_a_witness_does_not_count_twice() -> None:
    two = cosigned(CHECKPOINT, by=2)
    again = CHECKPOINT.cosign(WITNESSES[0], time=TIME + 1)
    with refused(VerificationError, "signature-duplicated"):
        TRUST.open(two + again)


@given(at=st.integers(0), bits=st.integers(1, 255))
def test_a_flipped_byte_in_a_note_that_just_counts_is_refused(
    at: int, bits: int
) -> None:
    """Attack 12."""
    data = bytearray(cosigned(CHECKPOINT))
    data[at % len(data)] ^= bits
    with pytest.raises((ProtocolError, VerificationError, QuorumError)):
        TRUST.open(bytes(data))


def test_one_line_is_checked_like_a_whole_note() -> None:
    line = CHECKPOINT.cosign(WITNESSES[0], time=TIME)
    held = TRUST.open_cosignature(CHECKPOINT, line)
    assert (held.witness, held.time) == (WITNESSES[0].name, TIME)
    stranger = signing_key("x.example/w", Algorithm.COSIGNATURE)
    with refused(VerificationError, "witness-unknown"):
        TRUST.open_cosignature(CHECKPOINT, CHECKPOINT.cosign(stranger, time=TIME))
    signature = note.sign(str(CHECKPOINT), LOG_KEY)
    with refused(VerificationError, "witness-unknown"):
        TRUST.open_cosignature(CHECKPOINT, str(signature).encode())
    for wrong in (line[:-1], line + line, b"\xff\n", b"", b"\n"):
        with refused(ProtocolError, "signature-line-malformed"):
            TRUST.open_cosignature(CHECKPOINT, wrong)


def test_policies_are_checked_when_built_in_code_too() -> None:
    key = WITNESSES[0].verify_key
    with refused(ProtocolError, "trust-policy-inconsistent"):
        TrustPolicy.of_members(LOG_KEY.verify_key, [key, key])
    with refused(ProtocolError, "trust-policy-inconsistent"):
        TrustPolicy.of_members(key, [WITNESSES[1].verify_key])
    for name in ("a b", "", "none"):
        witness = Witness(name=name, key=key)
        with refused(ProtocolError, "trust-policy-inconsistent"):
            TrustPolicy(logs=(), witnesses=(witness,), groups=(), quorum="none")
    group = WitnessGroup(name="g", threshold=1, members=("nobody",))
    with refused(ProtocolError, "trust-policy-inconsistent"):
        TrustPolicy(logs=(), witnesses=(), groups=(group,), quorum="g")
    with refused(ProtocolError, "trust-policy-inconsistent"):
        TrustPolicy(logs=(), witnesses=(), groups=(), quorum="nobody")


def test_one_key_has_one_purpose_across_the_policy() -> None:
    log = LOG_KEY.verify_key
    witness = VerifyKey(
        name=log.name, algorithm=Algorithm.COSIGNATURE, public=log.public
    )
    with refused(ProtocolError, "trust-policy-inconsistent"):
        TrustPolicy.of_members(log, [witness])


def test_keys_whose_short_ids_collide_cannot_be_listed_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Attack 8: four bytes can be made to collide on purpose."""
    monkeypatch.setattr(keys, "key_id", lambda *_: bytes(4))
    twins = [
        SigningKey(
            name="twin.example", algorithm=Algorithm.COSIGNATURE, seed=bytes([at]) * 32
        ).verify_key
        for at in (1, 2)
    ]
    with refused(ProtocolError, "trust-policy-inconsistent"):
        TrustPolicy.of_members(LOG_KEY.verify_key, twins)
    with pytest.raises(ValueError, match="one key"):
        note.open_note(cosigned(CHECKPOINT), twins)


def test_a_policy_is_bounded() -> None:
    with refused(ProtocolError, "trust-policy-malformed", match="400000 bytes"):
        TrustPolicy.parse(b"#\n" * 200_000)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "the trust policy is empty"),
        (b" \n\n", "the trust policy is empty"),
        (b"quorum none", "no line end"),
        (b"# to be written\n", "0 quorum lines"),
    ],
)
def test_an_empty_or_truncated_policy_is_refused(data: bytes, said: str) -> None:
    with refused(ProtocolError, "trust-policy-malformed", match=said):
        TrustPolicy.parse(data)


LINES = (
    f"log {LOG_KEY.verify_key} https://log.example/",
    *(f"witness Witness-{at} {WITNESSES[at].verify_key}" for at in range(4)),
    "group Clinics 2 Witness-0 Witness-1",
    "group Together 2 Clinics Witness-2",
    "quorum Together",
)
KEYWORDS = {"log", "witness", "group", "quorum", "all"}
SECRETS = (
    "Rossi,Anna,1961",
    "PRIVATE+tapestry.example/node+0011aabb",
    "PRIVATE+x+AXNlY3JldHNlY3JldHNlY3JldA==",
    "+ZZ+ZZ",
    "\N{CYRILLIC SMALL LETTER ZHE}" * 30,
    "99999",
    "00",
)


def _with_secret_words() -> list[tuple[int, str]]:
    """Put a secret in place of each word of each kind of line, and after the last."""
    found = []
    for secret in SECRETS:
        for number, line in enumerate(LINES, start=1):
            words = line.split(" ")
            for at in range(len(words) + 1):
                spoilt = [*words[:at], secret, *words[at + 1 :]]
                found.append((number, " ".join(spoilt)))
        found += [(1, f"{w} {secret}") for w in ("log", "witness", "group", "quorum")]
        found += [(1, f"{w} {secret} {secret}") for w in ("log", "witness", "group")]
        found += [(1, secret), (1, f"mirror {secret}"), (1, f"group all {secret} all")]
    return found


def test_a_refusal_names_the_line_and_the_remedy_and_quotes_no_word() -> None:
    """The file may be a key, or hold records, and was named by mistake."""
    refusals = 0
    for number, line in _with_secret_words():
        text = "\n".join([*LINES[: number - 1], line, *LINES[number:], ""])
        try:
            TrustPolicy.parse(text.encode())
        except ProtocolError as error:
            refusals += 1
            said = str(error)
            assert "trust policy" in said
            lines = re.search(r"line ([0-9]+) ", said)  # or a later one that needs it
            assert lines, said
            assert int(lines[1]) >= number
            assert "ask for the file again" in said
            rest = said.replace(lines[0], "")
            for word in " ".join([*LINES, line, *SECRETS]).split(" "):
                assert word in {*KEYWORDS, "1", "2"} or word not in rest, said
    assert refusals > 150


def test_a_policy_built_of_the_same_parts_obeys_the_same_rules() -> None:
    trust = TrustPolicy.parse("".join(f"{line}\n" for line in LINES).encode())
    for part in ("logs", "witnesses", "groups"):
        rows = getattr(trust, part)
        changed: dict[str, Any] = {part: (*rows, rows[0])}
        with refused(ProtocolError, "trust-policy-inconsistent") as caught:
            dataclasses.replace(trust, **changed)
        told = str(caught.value)
        assert not any(word in told for word in ("Witness-", "Clinics", ".example"))


PRINTED = "".join(f"{line}\n" for line in LINES)


@pytest.mark.parametrize(
    "spelled",
    [
        f"# to the reader\n{PRINTED}",
        PRINTED.replace(" ", "\t", 1),
        PRINTED.replace(" ", "  "),
        f"{PRINTED}\n",
        f"{PRINTED} \n",
        "".join(f"{line}\n" for line in [*LINES[1:5], LINES[0], *LINES[5:]]),
        PRINTED.replace("Clinics 2 ", "Clinics all ", 1),
    ],
    ids=["comment", "tab", "blanks", "line", "blank line", "order", "word"],
)
def test_a_policy_that_is_published_has_one_spelling(spelled: str) -> None:
    trust = TrustPolicy.parse_printed(PRINTED.encode())
    assert trust == TrustPolicy.parse(spelled.encode())  # as the format allows
    with refused(ProtocolError, "trust-policy-respelled"):
        TrustPolicy.parse_printed(spelled.encode())


def _respell(change: Callable[[list[note.Signature]], list[note.Signature]]) -> bytes:
    parsed = note.parse(cosigned(CHECKPOINT, by=4))
    changed = change(list(parsed.signatures))
    return note.Note(text=parsed.text, signatures=tuple(changed)).encode()


def test_a_published_checkpoint_may_lack_lines_beyond_the_quorum_and_no_other() -> None:
    for count in (3, 4):
        data = cosigned(CHECKPOINT, by=count)
        assert TRUST.open_published(data) == TRUST.open(data)
    fewer = _respell(lambda lines: [lines[0], *lines[2:]])
    assert TRUST.open_published(fewer).checkpoint == CHECKPOINT
    with refused(QuorumError, "quorum-not-reached"):
        TRUST.open_published(cosigned(CHECKPOINT, by=2))


NAMESAKE = SigningKey(name=LOG_KEY.name, algorithm=Algorithm.SIGNATURE, seed=bytes(32))
STRANGER = note.cosign(
    str(CHECKPOINT), signing_key("s.example/w", Algorithm.COSIGNATURE), time=TIME
)


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: [*lines, STRANGER],
        lambda lines: [STRANGER, *lines],
        lambda lines: [*lines, note.sign(str(CHECKPOINT), NAMESAKE)],
        lambda lines: [lines[0], lines[2], lines[1], *lines[3:]],
        lambda lines: [*lines[1:], lines[0]],
        lambda lines: [lines[0], *reversed(lines[1:])],
    ],
    ids=[
        "stranger",
        "stranger first",
        "namesake of the log",
        "swapped",
        "log last",
        "reversed",
    ],
)
def test_a_published_checkpoint_has_no_other_line_and_no_other_order(
    change: Callable[[list[note.Signature]], list[note.Signature]],
) -> None:
    data = _respell(change)
    assert TRUST.open(data).checkpoint == CHECKPOINT  # as the format allows
    with refused(VerificationError, "checkpoint-respelled"):
        TRUST.open_published(data)


def test_of_two_logs_of_one_policy_one_signs_a_published_checkpoint() -> None:
    other = SigningKey.generate(LOG_KEY.name)
    elsewhere = SigningKey.generate("elsewhere.example/gov")
    keys = (
        f"log {LOG_KEY.verify_key}\nlog {other.verify_key}\nlog {elsewhere.verify_key}"
    )
    trust = TrustPolicy.parse(f"{keys}\nquorum none\n".encode())
    lines = [note.sign(str(CHECKPOINT), key) for key in (LOG_KEY, other, elsewhere)]

    def signed(*chosen: note.Signature) -> bytes:
        return note.Note(text=str(CHECKPOINT), signatures=chosen).encode()

    for line in lines[:2]:
        assert trust.open_published(signed(line)).checkpoint == CHECKPOINT
    for pair in (lines[:2], [lines[0], lines[2]], [lines[2], lines[0]]):
        trust.open(signed(*pair))
        with refused(VerificationError, "checkpoint-respelled"):
            trust.open_published(signed(*pair))
