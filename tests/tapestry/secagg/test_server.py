"""The coordinator's half: the exact sum, bad senders by name, bad shares by name."""

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
from tapestry.secagg.key_schedule import channel_key, seal
from tapestry.secagg.recovery import InconsistentShare
from tapestry.secagg.server import AdvertiseKeysStage
from tapestry.secagg.shamir import PRIME
from tapestry.secagg.transcript import SumChecker
from tapestry.vectors import RingVector
from tests.support.randomness import FixedRandom, looks_uniform
from tests.support.secagg_cohort import Federation

OTHER = "sha256:" + "cd" * 32


def refused(
    stage: Any, sender: str, message: Any, *, error: type[TapestryError], rule: str
) -> None:
    before = stage.missing
    with pytest.raises(error, match=rule):
        stage.accept(sender, message)
    assert stage.missing == before


@pytest.mark.parametrize("count", [2, 3, 4, 5, 10, 25])
def test_the_sum_is_exact_when_everybody_answers(count: int) -> None:
    federation = Federation.of(count, length=1001)
    unmasked = federation.run()
    assert np.array_equal(unmasked.values, federation.expected(federation.names()))
    SumChecker(federation.manifest, federation.result(unmasked))


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
        federation.advertise,
        federation.share,
        federation.upload,
        federation.consent,
        federation.reveal,
    )
    survivors: list[str] = []
    unmasked = None
    for step in steps:
        names = remain(names)
        if step == federation.upload:
            federation.receive(federation.stage.missing)
            survivors = names
        if len(names) < threshold:
            with pytest.raises(QuorumError):
                step(names)
            _assert_still_masked(federation)
            return
        unmasked = step(names)
        if step == federation.consent:
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


LAST = ["upload", "consent", "reveal"]


@pytest.mark.parametrize("stage", LAST)
def test_an_aborted_round_leaves_only_uniform_vectors_behind(stage: str) -> None:
    """Whichever of the uploads the coordinator adds up, wherever too few are left."""
    federation = Federation.of(5, length=20_000)
    federation.random = FixedRandom("abort")
    federation.run("receive")
    zero = np.zeros(20_000, dtype=np.uint32)
    few = federation.names()[:2]
    asked = {step: few if step == stage else None for step in LAST}

    def go_on() -> None:
        federation.upload(asked["upload"], vector=lambda _: zero)
        federation.consent(asked["consent"])
        federation.reveal(asked["reveal"])

    with pytest.raises(QuorumError, match=r"^2 "):
        go_on()
    uploads = {n: _values(u) for n, u in federation.uploads.items()}
    assert len(uploads) == (2 if stage == "upload" else 5)
    for names in _choices(list(uploads)):
        assert looks_uniform(sum((uploads[name] for name in names), start=zero))
    assert not looks_uniform(zero)


def test_messages_of_strangers_and_second_messages_are_refused() -> None:
    federation = Federation.of(4)
    stage = AdvertiseKeysStage(federation.manifest)
    federation.advertise()
    messages = {m.name: m.state.advertisement for m in federation.cohort}
    first, second = federation.names()[:2]
    refused(stage, "zz.example", messages[first], error=ProtocolError, rule="a message")
    refused(stage, second, messages[first], error=ProtocolError, rule="sent a message")
    stage.accept(first, messages[first])
    refused(stage, first, messages[first], error=ProtocolError, rule="no message is")


def test_bad_advertisements_name_their_sender() -> None:
    federation = Federation.of(4)
    stage = AdvertiseKeysStage(federation.manifest)
    federation.advertise()
    a, b = federation.cohort[:2]
    stage.accept(a.name, a.state.advertisement)
    context = a.state.round.cohort.context
    good = b.state.advertisement
    for changes, error, rule in [
        ({"mask_key": a.state.advertisement.mask_key}, ProtocolError, "key twice"),
        ({"mask_key": good.channel_key}, ProtocolError, "key twice"),
        ({"mask_key": "00" * 32}, ProtocolError, "low order"),
    ]:
        bad = good.model_copy(update=changes).signed(context, b.identity)
        refused(stage, b.name, bad, error=error, rule=rule)
    forged = good.model_copy(update={"signature": "00" * 64})
    refused(stage, b.name, forged, error=VerificationError, rule=b.name)


def test_bad_shares_name_their_sender() -> None:
    federation = Federation.of(4)
    federation.run("advertise")
    stage, member = federation.stage, federation.cohort[1]
    member.state, good = client.share_keys(member.state, federation.message)
    context = member.state.round.cohort.context
    name = member.name
    head = good.head.model_copy(update={"view": OTHER}).signed(context, member.identity)
    bad = good.model_copy(update={"head": head})
    refused(stage, name, bad, error=ProtocolError, rule="saw another key list")
    fewer = dict(list(good.ciphertexts.items())[1:])
    bad = good.model_copy(update={"ciphertexts": fewer})
    refused(stage, name, bad, error=ProtocolError, rule="did not share with each")
    swapped = dict(
        zip(good.ciphertexts, reversed(good.ciphertexts.values()), strict=True)
    )
    bad = good.model_copy(update={"ciphertexts": swapped})
    refused(stage, name, bad, error=ProtocolError, rule="signed other ciphertexts")
    head = good.head.model_copy(update={"commitment": "00" * 32})
    bad = good.model_copy(update={"head": head})
    refused(stage, name, bad, error=VerificationError, rule="bad signature")


def test_bad_uploads_name_their_sender_and_leave_the_sum_alone() -> None:
    federation = Federation.of(4, length=1000)
    federation.run("receive")
    stage, member = federation.stage, federation.cohort[0]
    name = member.name
    good = federation.mask(name, federation.draw(name))
    context, key = member.state.round.cohort.context, member.identity
    head = good.head.model_copy(update={"view": OTHER}).signed(context, key)
    bad = Upload(head=head, chunks=good.chunks)
    refused(stage, name, bad, error=ProtocolError, rule="another set of nodes")
    cases: list[tuple[list[bytes | memoryview], str]] = [
        ([], "0 chunks, want 1"),
        ([*good.chunks, b""], "2 chunks, want 1"),
        ([bytes(good.chunks[0]) + b"\0"], "chunk 0 of 4001 bytes"),
        ([good.chunks[0][:-4]], "chunk 0 of 3996 bytes"),
        ([bytes(4000)], "another Merkle root"),
    ]
    for chunks, rule in cases:
        bad = Upload(head=good.head, chunks=chunks)
        refused(stage, name, bad, error=ProtocolError, rule=rule)
    head = good.head.model_copy(update={"signature": "00" * 64})
    bad = Upload(head=head, chunks=good.chunks)
    refused(stage, name, bad, error=VerificationError, rule="bad signature")
    stage.accept(name, good)
    refused(stage, name, good, error=ProtocolError, rule="no message is expected")
    federation.upload(federation.names()[1:])
    federation.consent()
    unmasked = federation.reveal()
    assert np.array_equal(unmasked.values, federation.expected(federation.names()))


def test_bad_consents_and_reveals_name_their_sender() -> None:
    federation = Federation.of(4)
    federation.run("upload")
    stage, member = federation.stage, federation.cohort[0]
    context, key, name = member.state.round.cohort.context, member.identity, member.name
    member.state, good = client.check_consistency(member.state, federation.message)
    bad = good.model_copy(update={"survivors": OTHER}).signed(context, key)
    refused(stage, name, bad, error=ProtocolError, rule="consented to another list")
    bad = good.model_copy(update={"signature": "00" * 64})
    refused(stage, name, bad, error=VerificationError, rule="bad signature")
    stage.accept(name, good)
    federation.consent()
    stage = federation.stage
    member.state, revealed = client.unmask(member.state, federation.message)
    worse = revealed.model_copy(update={"self_shares": {}}).signed(context, key)
    refused(stage, name, worse, error=ProtocolError, rule="other self masks")
    extra = {"zz.example": "00" * 33}
    worse = revealed.model_copy(update={"mask_shares": extra}).signed(context, key)
    refused(stage, name, worse, error=ProtocolError, rule="other mask keys")
    worse = revealed.model_copy(update={"signature": "00" * 64})
    refused(stage, name, worse, error=VerificationError, rule="bad signature")


@pytest.mark.parametrize("kind", ["self_shares", "mask_shares"])
@pytest.mark.parametrize("value", [PRIME, PRIME + 1, 2**257 - 1])
def test_a_share_outside_the_field_costs_its_sender_and_not_the_round(
    kind: str, value: int
) -> None:
    """It passes the pattern of a share, so it has to be stopped before close."""
    federation = Federation.of(7)  # threshold 5
    federation.run("receive")
    federation.upload(federation.names()[1:])
    federation.consent()
    stage, member = federation.stage, federation.cohort[3]
    context = member.state.round.cohort.context
    member.state, good = client.unmask(member.state, federation.message)
    shares = getattr(good, kind)
    wrong = {**shares, min(shares): value.to_bytes(33, "big").hex()}
    worse = good.model_copy(update={kind: wrong}).signed(context, member.identity)
    worse = type(worse).decode(worse.encode())
    refused(stage, member.name, worse, error=ProtocolError, rule=f"'{member.name}' rev")
    rest = [name for name in stage.missing if name != member.name]
    unmasked = federation.reveal(rest)
    assert np.array_equal(unmasked.values, federation.expected(federation.names()[1:]))
    assert unmasked.faults == ()


def test_the_largest_share_of_the_field_is_taken() -> None:
    federation = Federation.of(7)
    federation.run("consent")
    member = federation.cohort[3]
    context = member.state.round.cohort.context
    member.state, good = client.unmask(member.state, federation.message)
    wrong = {**good.self_shares, member.name: (PRIME - 1).to_bytes(33, "big").hex()}
    bad = good.model_copy(update={"self_shares": wrong})
    federation.stage.accept(member.name, bad.signed(context, member.identity))
    unmasked = federation.reveal()
    assert unmasked.faults == (
        InconsistentShare(dealer=member.name, reporter=member.name),
    )


def lying_reveals(federation: Federation, liars: list[str]) -> Any:
    """Everybody reveals; the liars turn every share into another one."""
    for name in list(federation.stage.missing):
        member = federation.member(name)
        context = member.state.round.cohort.context
        member.state, message = client.unmask(member.state, federation.message)
        if name in liars:
            wrong = dict.fromkeys(message.self_shares, "00" + "77" * 32)
            masks = dict.fromkeys(message.mask_shares, "00" + "77" * 32)
            message = message.model_copy(
                update={"self_shares": wrong, "mask_shares": masks}
            ).signed(context, member.identity)
        federation.stage.accept(name, message)
    return federation.stage.close()


@pytest.mark.parametrize(
    ("count", "lost", "liars"), [(10, 1, 2), (7, 0, 2), (25, 0, 4)]
)
def test_wrong_shares_name_the_reporter_and_the_round_completes(
    count: int, lost: int, liars: int
) -> None:
    federation = Federation.of(count)
    federation.run("receive")
    federation.upload(federation.names()[lost:])
    federation.consent()
    bad = federation.names()[lost : lost + liars]
    unmasked = lying_reveals(federation, bad)
    assert np.array_equal(
        unmasked.values, federation.expected(federation.names()[lost:])
    )
    assert {fault.reporter for fault in unmasked.faults} == set(bad)


def test_too_many_wrong_shares_abort_and_name_a_dealer() -> None:
    federation = Federation.of(7)  # threshold 5
    federation.run("consent")
    with pytest.raises(VerificationError, match=r"'n0001\.example' dealt shares of"):
        lying_reveals(federation, federation.names()[:3])


def test_a_dealer_who_cheats_some_is_named_and_the_round_completes() -> None:
    federation = Federation.of(7)
    federation.run("advertise")
    dealer, victims = federation.cohort[2], federation.names()[:2]
    view = bytes.fromhex(federation.message.digest[7:])
    state = dealer.state
    after, message = client.share_keys(state, federation.message)
    context = state.round.cohort.context
    ciphertexts = dict(message.ciphertexts)
    for name in victims:
        key = channel_key(
            after.agreed[name][0],
            context,
            sender=dealer.name,
            receiver=name,
            view=view,
        )
        wrong = b"\0" + bytes(range(32)) + b"\0" + bytes(range(32))
        ciphertexts[name] = seal(
            key, wrong, context=context, sender=dealer.name, receiver=name
        ).hex()
    changed = message.model_copy(update={"ciphertexts": ciphertexts})
    head = message.head.model_copy(update={"ciphertexts": changed.ciphertexts_digest})
    head = head.signed(context, dealer.identity)
    federation.stage.accept(dealer.name, changed.model_copy(update={"head": head}))
    dealer.state = replace(after, head=head)
    federation.share()
    federation.receive()
    federation.upload()
    federation.consent()
    unmasked = federation.reveal()
    assert np.array_equal(unmasked.values, federation.expected(federation.names()))
    want = {InconsistentShare(dealer=dealer.name, reporter=name) for name in victims}
    assert set(unmasked.faults) == want


def test_the_mean_is_that_of_the_survivors() -> None:
    federation = Federation.of(4, length=3, scale_bits=4)
    grid = {
        name: np.array([4 * n, 0, n], dtype=np.uint32)
        for n, name in enumerate(federation.names())
    }
    federation.run("receive")
    federation.upload(federation.names()[1:], vector=lambda name: grid[name])
    federation.consent()
    unmasked = federation.reveal()
    assert unmasked.mean().tolist() == [
        4 * (1 + 2 + 3) / 3 / 16,
        0,
        (1 + 2 + 3) / 3 / 16,
    ]


def test_a_poisoned_coordinate_is_found_in_the_sum() -> None:
    federation = Federation.of(4)
    federation.run("receive")
    poison = federation.draw(federation.names()[0])
    poison[7] = 2**31

    def vector(name: str) -> Any:
        return poison if name == federation.names()[0] else federation.draw(name)

    federation.upload(vector=vector)
    federation.consent()
    unmasked = federation.reveal()
    with pytest.raises(ProtocolError, match="outside the range"):
        unmasked.mean()
