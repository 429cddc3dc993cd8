"""Signed text: one spelling, and no text without a signature that holds."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tapestry.errors import ProtocolError, VerificationError
from tapestry.keys import Algorithm, SigningKey, VerifyKey
from tapestry.tlog import note
from tapestry.tlog.note import MAX_TIME
from tests.support.refusals import refused

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "vectors" / "note.json").read_text()
)
LOG = SigningKey(
    name="log.example/a", algorithm=Algorithm.SIGNATURE, seed=bytes(range(32))
)
WITNESS = SigningKey(
    name="w.example/b", algorithm=Algorithm.COSIGNATURE, seed=bytes(range(32, 64))
)
KEYS = [LOG.verify_key, WITNESS.verify_key]
TEXT = "log.example/a\n7\nsome root\n"

lines = st.text(st.characters(min_codepoint=0x20, codec="utf-8"), max_size=20)
texts = st.lists(lines, min_size=1, max_size=5).map(
    lambda parts: "".join(part + "\n" for part in parts)
)


def _case(case: dict[str, Any]) -> str:
    return str(case["why"])


def _signed(text: str = TEXT, *, time: int = 1795452638) -> bytes:
    signatures = (note.sign(text, LOG), note.cosign(text, WITNESS, time=time))
    return note.Note(text=text, signatures=signatures).encode()


@pytest.mark.parametrize("case", VECTORS["accepted"], ids=_case)
def test_notes_of_others_open(case: dict[str, Any]) -> None:
    keys = [VerifyKey.parse(key) for key in case["keys"]]
    opened = note.open_note(case["note"].encode(), keys)
    assert case["note"].startswith(opened.text + "\n")
    assert [held.time for held in opened.verified] == case["times"]
    assert [held.key for held in opened.verified] == keys[: len(opened.verified)]


@pytest.mark.parametrize("case", VECTORS["malformed"], ids=_case)
def test_malformed_notes_are_refused(case: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        note.parse(case["note"].encode())


@pytest.mark.parametrize("case", VECTORS["unverified"], ids=_case)
def test_notes_without_a_valid_known_signature_are_refused(
    case: dict[str, Any],
) -> None:
    keys = [VerifyKey.parse(key) for key in case["keys"]]
    with pytest.raises(VerificationError):
        note.open_note(case["note"].encode(), keys)


@given(text=texts, time=st.integers(0, MAX_TIME))
def test_what_is_signed_opens_and_prints_again(text: str, time: int) -> None:
    data = _signed(text, time=time)
    parsed = note.parse(data)
    assert parsed.encode() == data
    assert parsed.text == text
    opened = note.open_note(data, KEYS)
    assert opened.text == text
    assert [held.time for held in opened.verified] == [None, time]


@given(data=st.binary(max_size=200))
def test_what_parses_is_canonical(data: bytes) -> None:
    for candidate in (data, data + b"\n\n\xe2\x80\x94 a AAAAAGE=\n"):
        try:
            parsed = note.parse(candidate)
        except ProtocolError:
            continue
        assert parsed.encode() == candidate


@given(at=st.integers(0), bits=st.integers(1, 255))
def test_a_flipped_byte_never_changes_what_is_opened(at: int, bits: int) -> None:
    """A flip in the name or id of one line makes its signer unknown, no more."""
    data = bytearray(_signed())
    data[at % len(data)] ^= bits
    try:
        opened = note.open_note(bytes(data), KEYS)
    except (ProtocolError, VerificationError):
        return
    assert opened.text == TEXT
    assert len(opened.verified) == 1
    start = bytes(data).index("\n\n— ".encode())
    assert at % len(data) > start


@given(at=st.integers(0), bits=st.integers(1, 255))
def test_a_flipped_byte_is_refused_where_all_signers_are_needed(
    at: int, bits: int
) -> None:
    text = TEXT
    data = bytearray(note.Note(text=text, signatures=(note.sign(text, LOG),)).encode())
    data[at % len(data)] ^= bits
    with pytest.raises((ProtocolError, VerificationError)):
        note.open_note(bytes(data), KEYS)


def test_a_key_never_does_the_other_kind_of_signature() -> None:
    with pytest.raises(ValueError, match="does not sign"):
        note.sign(TEXT, WITNESS)
    with pytest.raises(ValueError, match="does not cosign"):
        note.cosign(TEXT, LOG, time=1)


def test_a_signature_is_no_cosignature_of_the_same_key() -> None:
    """Attack 9: the type is part of the id, so the line is a stranger's."""
    both = SigningKey(
        name=LOG.name, algorithm=Algorithm.COSIGNATURE, seed=bytes(range(32))
    )
    data = note.Note(text=TEXT, signatures=(note.sign(TEXT, LOG),)).encode()
    with refused(VerificationError, "signature-missing"):
        note.open_note(data, [both.verify_key])
    renamed = note.Signature(
        name=both.name,
        key_id=both.verify_key.id,
        blob=bytes(8) + LOG.sign(TEXT.encode()),
    )
    forged = note.Note(text=TEXT, signatures=(renamed,)).encode()
    with refused(VerificationError, "signature-invalid"):
        note.open_note(forged, [both.verify_key])


def test_a_cosignature_is_of_one_text_and_one_time() -> None:
    line = note.cosign(TEXT, WITNESS, time=5)
    other = TEXT.replace("log.example/a", "log.example/z")
    with refused(VerificationError, "signature-invalid"):
        note.verify_signature(other, line, WITNESS.verify_key)
    later = note.Signature(
        name=line.name, key_id=line.key_id, blob=(6).to_bytes(8) + line.blob[8:]
    )
    with refused(VerificationError, "signature-invalid"):
        note.verify_signature(TEXT, later, WITNESS.verify_key)


def test_times_beyond_63_bits_do_not_exist() -> None:
    for time in (-1, MAX_TIME + 1, 2**63):
        with pytest.raises(ValueError, match="time"):
            note.cosign(TEXT, WITNESS, time=time)
    message = f"cosignature/v1\ntime {MAX_TIME + 1}\n{TEXT}".encode()
    blob = (MAX_TIME + 1).to_bytes(8) + WITNESS.sign(message)
    line = note.Signature(name=WITNESS.name, key_id=WITNESS.verify_key.id, blob=blob)
    with refused(VerificationError, "cosignature-malformed"):
        note.verify_signature(TEXT, line, WITNESS.verify_key)


def test_a_key_id_that_collides_is_not_enough() -> None:
    """Attack 8: an id of four bytes can be forged, the signature cannot."""
    mallory = SigningKey.generate(LOG.name)
    line = note.Signature(
        name=LOG.name, key_id=LOG.verify_key.id, blob=mallory.sign(TEXT.encode())
    )
    data = note.Note(text=TEXT, signatures=(line,)).encode()
    with refused(VerificationError, "signature-invalid"):
        note.open_note(data, KEYS)
    with refused(VerificationError, "signature-key-differs"):
        note.verify_signature(TEXT, line, mallory.verify_key)


def test_cosigners_that_share_a_key_are_refused() -> None:
    twin = VerifyKey(
        name="twin.example/w",
        algorithm=Algorithm.COSIGNATURE,
        public=WITNESS.verify_key.public,
    )
    with pytest.raises(ValueError, match="one key"):
        note.open_note(_signed(), [WITNESS.verify_key, twin])


def test_notes_are_bounded() -> None:
    """Attack 11: memory and time stay bounded."""
    line = str(note.sign(TEXT, LOG))
    with refused(ProtocolError, "note-too-large", match="101 signatures"):
        note.parse((TEXT + "\n" + line * 101).encode())
    with refused(ProtocolError, "note-too-large"):
        note.parse((TEXT + "\n" + line * 1_000_000).encode())
    assert len(note.parse((TEXT + "\n" + line * 100).encode()).signatures) == 100


@given(text=st.text(max_size=20))
def test_texts_that_cannot_be_in_a_note_are_not_signed(text: str) -> None:
    fits = text.endswith("\n") and all(char >= " " or char == "\n" for char in text)
    assume(not fits)
    with refused(ProtocolError, "note-malformed"):
        note.sign(text, LOG)
