"""Tests of server: the exact sum, and bad messages refused by name of the sender."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapestry.errors import (
    ProtocolError,
    QuorumError,
    TapestryError,
    VerificationError,
)
from tapestry.protocol.secagg_messages import Upload
from tapestry.secagg import client
from tapestry.secagg.recovery import InconsistentShare
from tapestry.secagg.server import AdvertiseKeysStage
from tapestry.secagg.shamir import PRIME
from tapestry.secagg.transcript import SumChecker
from tapestry.vectors import RingVector
from tests.support.randomness import FixedRandom, looks_uniform
from tests.support.refusals import refused
from tests.support.secagg_cohort import Federation

OTHER = "sha256:" + "cd" * 32
# The log of the coordinator puts the sender in front of these (``round.py``).
NAMELESS = {"key-of-low-order", "chunk-count-differs", "chunk-size-invalid"}


def refused_by(
    stage: Any,
    sender: str,
    message: Any,
    *,
    error: type[TapestryError],
    code: str,
    values: str | None = None,
) -> None:
    """Expect a stage to refuse a message, to name its sender and to keep nothing."""
    before = stage.missing
    with refused(error, code, match=values) as caught:
        stage.accept(sender, message)
    assert sender in str(caught.value) or code in NAMELESS
    assert stage.missing == before


@pytest.mark.parametrize("count", [2, 3, 4, 5, 10, 25])
def test_the_sum_is_exact_when_everybody_answers(count: int) -> None:
    federation = Federation.of(count, length=1001)
    unmasked = federation.run()
    assert np.array_equal(unmasked.values, federation.expected(federation.names()))
    SumChecker(federation.manifest, federation.result(unmasked))


CODES_OF_TOO_FEW = {
    "check_consistency": "consents-too-few",
    "unmask": "shares-too-few",
}


@given(data=st.data())
@settings(max_examples=60)
def test_any_dropouts_that_leave_enough_give_the_exact_sum(data: st.DataObject) -> None:
    count = data.draw(st.integers(4, 10))
    federation = Federation.of(count, length=data.draw(st.integers(1, 70)))
    threshold = federation.manifest.threshold

    def remain(names: list[str]) -> list[str]:
        lost = data.draw(st.sets(st.sampled_from(names), max_size=len(names)))
        return [name for name in names if name not in lost]

    names = federation.names()
    steps = (
        federation.advertise_keys,
        federation.share_keys,
        federation.collect_masked_inputs,
        federation.check_consistency,
        federation.unmask,
    )
    survivors: list[str] = []
    unmasked = None
    for step in steps:
        names = remain(names)
        if step == federation.collect_masked_inputs:
            federation.receive_shares(federation.stage.missing)
            survivors = names
        if len(names) < threshold:
            code = CODES_OF_TOO_FEW.get(step.__name__, "cohort-too-small")
            with refused(QuorumError, code, match=f"^{len(names)} .* {threshold}$"):
                step(names)
            _assert_still_masked(federation)
            return
        unmasked = step(names)
        if step == federation.check_consistency:
            names = list(survivors)  # one may reveal without its consent having come
            names = [n for n in names if _has_consented(federation, n)]
    assert unmasked is not None
    assert np.array_equal(unmasked.values, federation.expected(survivors))
    SumChecker(federation.manifest, federation.result(unmasked))


def _has_consented(federation: Federation, name: str) -> bool:
    return hasattr(federation.member(name).state, "survivors")


def _assert_still_masked(federation: Federation) -> None:
    """No sum of some uploads is the sum of what was in them."""
    vectors = {name: federation.vectors[name] for name in federation.uploads}
    for names in _choices(list(vectors)):
        masked = sum(_values(federation.uploads[name]) for name in names)
        assert not np.array_equal(masked, sum(vectors[name] for name in names))


def _choices(names: list[str]) -> Iterator[tuple[str, ...]]:
    for size in range(1, len(names) + 1):
        yield from itertools.combinations(names, size)


def _values(upload: Upload) -> RingVector:
    return np.frombuffer(b"".join(upload.chunks), "<u4")


LAST = ["collect_masked_inputs", "check_consistency", "unmask"]


@pytest.mark.parametrize("stage", LAST)
def test_an_aborted_round_leaves_only_uniform_vectors_behind(stage: str) -> None:
    """Whichever of the uploads the coordinator adds up, wherever too few are left."""
    federation = Federation.of(5, length=20_000)
    federation.random = FixedRandom("abort")
    federation.run("receive_shares")
    zero = np.zeros(20_000, dtype=np.uint32)
    few = federation.names()[:2]
    asked = {step: few if step == stage else None for step in LAST}

    def go_on() -> None:
        federation.collect_masked_inputs(
            asked["collect_masked_inputs"], vector=lambda _: zero
        )
        federation.check_consistency(asked["check_consistency"])
        federation.unmask(asked["unmask"])

    code = CODES_OF_TOO_FEW.get(stage, "cohort-too-small")
    with refused(QuorumError, code, match=r"^2 "):
        go_on()
    uploads = {n: _values(u) for n, u in federation.uploads.items()}
    assert len(uploads) == (2 if stage == "collect_masked_inputs" else 5)
    for names in _choices(list(uploads)):
        assert looks_uniform(sum((uploads[name] for name in names), start=zero))
    assert not looks_uniform(zero)


def test_messages_of_strangers_and_second_messages_are_refused() -> None:
    federation = Federation.of(4)
    stage = AdvertiseKeysStage(federation.manifest)
    federation.advertise_keys()
    messages = {m.name: m.state.advertisement for m in federation.cohort}
    first, second = federation.names()[:2]
    sent = messages[first]
    for sender in ("zz.example", second):
        refused_by(stage, sender, sent, error=ProtocolError, code="sender-differs")
    stranger = sent.model_copy(update={"node": "zz.example"})
    unexpected = "message-unexpected"
    refused_by(stage, "zz.example", stranger, error=ProtocolError, code=unexpected)
    stage.accept(first, sent)
    refused_by(stage, first, sent, error=ProtocolError, code=unexpected)


def test_bad_advertisements_name_their_sender() -> None:
    federation = Federation.of(4)
    stage = AdvertiseKeysStage(federation.manifest)
    federation.advertise_keys()
    a, b = federation.cohort[:2]
    stage.accept(a.name, a.state.advertisement)
    context = a.state.round.cohort.context
    good = b.state.advertisement
    for key, code in [
        (a.state.advertisement.mask_key, "public-key-duplicated"),
        (good.channel_key, "public-key-duplicated"),
        ("00" * 32, "key-of-low-order"),
    ]:
        bad = good.model_copy(update={"mask_key": key}).signed(context, b.identity)
        refused_by(stage, b.name, bad, error=ProtocolError, code=code)
    bad = good.model_copy(update={"signature": "00" * 64})
    refused_by(stage, b.name, bad, error=VerificationError, code="signature-invalid")


def test_bad_shares_name_their_sender() -> None:
    federation = Federation.of(4)
    federation.run("advertise_keys")
    stage, member = federation.stage, federation.cohort[1]
    member.state, good = client.share_keys(member.state, federation.message)
    context = member.state.round.cohort.context
    name = member.name
    head = good.head.model_copy(update={"view": OTHER}).signed(context, member.identity)
    bad = replace(good, head=head)
    refused_by(
        stage, name, bad, error=ProtocolError, code="key-list-differs", values=OTHER
    )
    sealed, size = good.messages, len(good.messages)
    for wrong in (sealed[1170:], sealed[:-1], sealed + b"0", b""):
        refused_by(
            stage,
            name,
            replace(good, messages=wrong),
            error=ProtocolError,
            code="ciphertext-size-invalid",
            values=f" {len(wrong)} .* {size} .* 3 ",
        )
    turned = sealed[1170:] + sealed[:1170]
    flipped = sealed[:-1] + bytes([sealed[-1] ^ 1])
    for wrong in (turned, flipped):
        bad = replace(good, messages=wrong)
        refused_by(stage, name, bad, error=ProtocolError, code="ciphertexts-not-signed")
    head = good.head.model_copy(update={"commitment": "00" * 32})
    bad = replace(good, head=head)
    refused_by(stage, name, bad, error=VerificationError, code="signature-invalid")


def test_bad_uploads_name_their_sender_and_leave_the_sum_alone() -> None:
    federation = Federation.of(4, length=1000)
    federation.run("receive_shares")
    stage, member = federation.stage, federation.cohort[0]
    name = member.name
    good = federation.mask_input(name, federation.draw(name))
    context, key = member.state.round.cohort.context, member.identity
    head = good.head.model_copy(update={"view": OTHER}).signed(context, key)
    bad = Upload(head=head, chunks=good.chunks)
    refused_by(
        stage, name, bad, error=ProtocolError, code="share-list-differs", values=OTHER
    )
    cases: list[tuple[list[bytes | memoryview], str, str]] = [
        ([], "chunk-count-differs", "0 chunks, want 1"),
        ([*good.chunks, b""], "chunk-count-differs", "2 chunks, want 1"),
        ([bytes(good.chunks[0]) + b"\0"], "chunk-size-invalid", "0 of 4001 .* 4000"),
        ([good.chunks[0][:-4]], "chunk-size-invalid", "0 of 3996 .* 4000"),
        ([bytes(4000)], "upload-root-differs", good.head.root),
    ]
    for chunks, code, values in cases:
        bad = Upload(head=good.head, chunks=chunks)
        refused_by(stage, name, bad, error=ProtocolError, code=code, values=values)
    head = good.head.model_copy(update={"signature": "00" * 64})
    bad = Upload(head=head, chunks=good.chunks)
    refused_by(stage, name, bad, error=VerificationError, code="signature-invalid")
    stage.accept(name, good)
    refused_by(stage, name, good, error=ProtocolError, code="message-unexpected")
    federation.collect_masked_inputs(federation.names()[1:])
    federation.check_consistency()
    unmasked = federation.unmask()
    assert np.array_equal(unmasked.values, federation.expected(federation.names()))


def test_bad_consents_and_reveals_name_their_sender() -> None:
    federation = Federation.of(4)
    federation.run("collect_masked_inputs")
    stage, member = federation.stage, federation.cohort[0]
    context, key, name = member.state.round.cohort.context, member.identity, member.name
    member.state, good = client.check_consistency(member.state, federation.message)
    bad = good.model_copy(update={"survivors": OTHER}).signed(context, key)
    refused_by(
        stage,
        name,
        bad,
        error=ProtocolError,
        code="survivor-list-differs",
        values=OTHER,
    )
    bad = good.model_copy(update={"signature": "00" * 64})
    refused_by(stage, name, bad, error=VerificationError, code="signature-invalid")
    stage.accept(name, good)
    federation.check_consistency()
    stage = federation.stage
    member.state, revealed = client.unmask(member.state, federation.message)
    worse = revealed.model_copy(update={"self_shares": {}}).signed(context, key)
    refused_by(
        stage,
        name,
        worse,
        error=ProtocolError,
        code="share-set-differs",
        values=" 0 self masks",
    )
    extra = {"zz.example": "00" * 33}
    worse = revealed.model_copy(update={"root_shares": extra}).signed(context, key)
    refused_by(
        stage,
        name,
        worse,
        error=ProtocolError,
        code="share-set-differs",
        values=" 1 roots",
    )
    worse = revealed.model_copy(update={"signature": "00" * 64})
    refused_by(stage, name, worse, error=VerificationError, code="signature-invalid")


@pytest.mark.parametrize("kind", ["self_shares", "root_shares"])
@pytest.mark.parametrize("value", [PRIME, PRIME + 1, 2**257 - 1])
def test_a_share_outside_the_field_is_refused_and_the_round_completes(
    kind: str, value: int
) -> None:
    """It passes the pattern of a share, so it has to be stopped before close."""
    federation = Federation.of(7)  # threshold 5
    federation.run("receive_shares")
    federation.collect_masked_inputs(federation.names()[1:])
    federation.check_consistency()
    stage, member = federation.stage, federation.cohort[3]
    context = member.state.round.cohort.context
    member.state, good = client.unmask(member.state, federation.message)
    shares = getattr(good, kind)
    wrong = {**shares, min(shares): value.to_bytes(33, "big").hex()}
    worse = good.model_copy(update={kind: wrong}).signed(context, member.identity)
    worse = type(worse).decode(worse.encode())
    refused_by(
        stage, member.name, worse, error=ProtocolError, code="share-not-in-field"
    )
    rest = [name for name in stage.missing if name != member.name]
    unmasked = federation.unmask(rest)
    assert np.array_equal(unmasked.values, federation.expected(federation.names()[1:]))
    assert unmasked.faults == ()


def test_the_largest_share_of_the_field_is_taken() -> None:
    federation = Federation.of(7)
    federation.run("check_consistency")
    member = federation.cohort[3]
    context = member.state.round.cohort.context
    member.state, good = client.unmask(member.state, federation.message)
    wrong = {**good.self_shares, member.name: (PRIME - 1).to_bytes(33, "big").hex()}
    bad = good.model_copy(update={"self_shares": wrong})
    federation.stage.accept(member.name, bad.signed(context, member.identity))
    unmasked = federation.unmask()
    assert unmasked.faults == (
        InconsistentShare(dealer=member.name, reporter=member.name),
    )


def test_the_mean_divides_the_sum_by_the_survivors() -> None:
    federation = Federation.of(4, length=3, scale_bits=4)
    grid = {
        name: np.array([4 * n, 0, n], dtype=np.uint32)
        for n, name in enumerate(federation.names())
    }
    federation.run("receive_shares")
    federation.collect_masked_inputs(
        federation.names()[1:], vector=lambda name: grid[name]
    )
    federation.check_consistency()
    unmasked = federation.unmask()
    assert unmasked.mean().tolist() == [
        4 * (1 + 2 + 3) / 3 / 16,
        0,
        (1 + 2 + 3) / 3 / 16,
    ]


def test_a_poisoned_coordinate_is_found_in_the_sum() -> None:
    federation = Federation.of(4)
    federation.run("receive_shares")
    poison = federation.draw(federation.names()[0])
    poison[7] = 2**31

    def vector(name: str) -> Any:
        return poison if name == federation.names()[0] else federation.draw(name)

    federation.collect_masked_inputs(vector=vector)
    federation.check_consistency()
    unmasked = federation.unmask()
    with refused(ProtocolError, "sum-out-of-range", match="4 survivors"):
        unmasked.mean()
