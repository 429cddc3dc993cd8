"""Checkpoints: three lines and no more."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.encoding import decode_base64
from tapestry.errors import ProtocolError
from tapestry.keys import Algorithm, SigningKey
from tapestry.tlog.checkpoint import Checkpoint, read_claim
from tapestry.tlog.merkle import EMPTY_ROOT
from tests.support.refusals import refused

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "vectors" / "checkpoint.json").read_text()
)
LOG = SigningKey(
    name=VECTORS["origin"],
    algorithm=Algorithm.SIGNATURE,
    seed=bytes.fromhex(VECTORS["log_seed"]),
)
WITNESS = SigningKey(
    name="fr.example/w1",
    algorithm=Algorithm.COSIGNATURE,
    seed=bytes.fromhex(VECTORS["witness_seed"]),
)
GOLDEN = Checkpoint(
    origin=VECTORS["origin"], size=VECTORS["size"], root=decode_base64(VECTORS["root"])
)


def test_golden_keys_text_and_signatures() -> None:
    assert str(LOG.verify_key) == VECTORS["log"]
    assert str(WITNESS.verify_key) == VECTORS["witness"]
    assert str(GOLDEN) == VECTORS["text"]
    assert GOLDEN.sign(LOG).decode() == VECTORS["text"] + "\n" + VECTORS["log_line"]
    line = GOLDEN.cosign(WITNESS, time=VECTORS["time"])
    assert line.decode() == VECTORS["cosignature_line"]
    assert read_claim(GOLDEN.sign(LOG) + line) == GOLDEN


@pytest.mark.parametrize("text", VECTORS["accepted"])
def test_checkpoints_print_as_they_were_read(text: str) -> None:
    assert str(Checkpoint.parse(text)) == text


@pytest.mark.parametrize("case", VECTORS["refused"], ids=lambda case: case["why"])
def test_other_spellings_are_refused(case: dict[str, str]) -> None:
    with pytest.raises(ProtocolError):
        Checkpoint.parse(case["text"])


@given(
    origin=st.text(st.sampled_from("abcXYZ019./-_~:é+ \n"), min_size=0, max_size=12),
    size=st.integers(-1, 10**19),
    root=st.binary(min_size=31, max_size=33),
)
def test_whatever_can_be_built_can_be_read(origin: str, size: int, root: bytes) -> None:
    try:
        checkpoint = Checkpoint(origin=origin, size=size, root=root)
    except ProtocolError:
        return
    assert Checkpoint.parse(str(checkpoint)) == checkpoint


@given(text=st.text(st.sampled_from("a0159=\n+/A"), max_size=60))
def test_what_parses_is_canonical(text: str) -> None:
    for candidate in (text, f"a\n{text}\n{VECTORS['root']}\n"):
        try:
            parsed = Checkpoint.parse(candidate)
        except ProtocolError:
            continue
        assert str(parsed) == candidate


def test_only_the_logs_own_key_signs() -> None:
    other = SigningKey.generate("other.example/log")
    with pytest.raises(ValueError, match="cannot sign"):
        GOLDEN.sign(other)
    with pytest.raises(ValueError, match="does not cosign"):
        GOLDEN.cosign(LOG, time=1)


def test_an_empty_log_has_one_root() -> None:
    Checkpoint(origin="a.example", size=0, root=EMPTY_ROOT)
    with refused(ProtocolError, "checkpoint-malformed"):
        Checkpoint(origin="a.example", size=0, root=bytes(32))
