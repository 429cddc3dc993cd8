"""Tests of recovery: wrong shares and bad dealers are named, honest nodes never."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest

from tapestry.errors import ProtocolError, VerificationError
from tapestry.protocol.secagg_messages import (
    SHARE_BYTES,
    Reveal,
    ShareMessage,
)
from tapestry.secagg import client
from tapestry.secagg.client_states import Cohort, KeysShared
from tapestry.secagg.pair_messages import PairMessages
from tapestry.secagg.recovery import InconsistentShare, bad_dealers, recover_round
from tapestry.secagg.server import Unmasked
from tapestry.secagg.shamir import PRIME, decode_share
from tapestry.secagg.share_channel import RootKeys, ShareChannel
from tapestry.secagg.transcript import SumChecker
from tests.support.refusals import refused
from tests.support.secagg_cohort import Federation, sent_by


def lying_reveals(federation: Federation, liars: list[str]) -> Unmasked:
    """Unmask with the reveals of all; the liars turn every share into another one."""
    for name in list(federation.stage.missing):
        member = federation.member(name)
        context = member.state.round.cohort.context
        member.state, message = client.unmask(member.state, federation.message)
        if name in liars:
            wrong = dict.fromkeys(message.self_shares, "00" + "77" * 32)
            masks = dict.fromkeys(message.root_shares, "00" + "77" * 32)
            message = message.model_copy(
                update={"self_shares": wrong, "root_shares": masks}
            ).signed(context, member.identity)
        federation.stage.accept(name, message)
    unmasked: Unmasked = federation.stage.close()
    return unmasked


@pytest.mark.parametrize(
    ("count", "lost", "liars"), [(10, 1, 2), (7, 0, 2), (25, 0, 4)]
)
def test_wrong_shares_name_the_reporter_and_the_round_completes(
    count: int, lost: int, liars: int
) -> None:
    federation = Federation.of(count)
    federation.run("receive_shares")
    federation.collect_masked_inputs(federation.names()[lost:])
    federation.check_consistency()
    bad = federation.names()[lost : lost + liars]
    unmasked = lying_reveals(federation, bad)
    assert np.array_equal(
        unmasked.values, federation.expected(federation.names()[lost:])
    )
    assert {fault.reporter for fault in unmasked.faults} == set(bad)


def test_too_many_wrong_shares_abort_and_name_a_dealer() -> None:
    federation = Federation.of(7)  # threshold 5
    federation.run("check_consistency")
    with refused(VerificationError, "secret-not-recovered", match="n0001.example"):
        lying_reveals(federation, federation.names()[:3])


def dealt(
    state: KeysShared, message: ShareMessage, to: dict[str, bytes]
) -> ShareMessage:
    """Message 3 with other messages to other nodes, signed."""
    joined = b"".join(to.values())
    root = "sha256:" + PairMessages.of(to, joined=joined).digest.hex()
    head = message.head.model_copy(update={"ciphertexts": root})
    head = head.signed(state.round.cohort.context, state.round.identity)
    return ShareMessage(head=head, messages=joined)


def test_a_dealer_of_wrong_shares_to_two_is_named_and_the_round_completes() -> None:
    federation = Federation.of(7)
    federation.run("advertise_keys")
    dealer, victims = federation.cohort[2], federation.names()[:2]
    view = bytes.fromhex(federation.message.digest[7:])
    state = dealer.state
    after, message = client.share_keys(state, federation.message)
    kem_keys = {a.node: a.kem_key for a in federation.message.advertisements}
    to = sent_by(after, message)
    for name in victims:
        wrong = b"\0" + bytes(range(32))
        channel = ShareChannel(
            cohort=state.round.cohort, sender=dealer.name, receiver=name, view=view
        )
        to[name] = channel.seal(
            (wrong, wrong),
            shared=after.agreed[name].channel,
            kem_key=kem_keys[name],
            root=state.secrets.root,
        )
    federation.stage.accept(dealer.name, dealt(after, message, to))
    dealer.state = replace(after, head=dealt(after, message, to).head)
    federation.share_keys()
    federation.receive_shares()
    federation.collect_masked_inputs()
    federation.check_consistency()
    unmasked = federation.unmask()
    assert np.array_equal(unmasked.values, federation.expected(federation.names()))
    want = {InconsistentShare(dealer=dealer.name, reporter=name) for name in victims}
    assert set(unmasked.faults) == want


def share_garbled(federation: Federation, liar: str) -> None:
    """Let all nodes share; one garbles its messages to those that it contributes to."""
    federation.run("advertise_keys")
    member = federation.member(liar)
    cohort = member.state.round.cohort
    after, message = client.share_keys(member.state, federation.message)
    changed = {
        name: garbled(data) if cohort.contributes(liar, name) else data
        for name, data in sent_by(after, message).items()
    }
    message = dealt(after, message, changed)
    member.state = replace(after, head=message.head)
    federation.stage.accept(liar, message)
    federation.share_keys()


def garbled(data: bytes) -> bytes:
    """A message whose contribution opens to another one than was committed to."""
    return data[:1120] + bytes([data[1120] ^ 1]) + data[1121:]


def gives_to(federation: Federation, name: str) -> list[str]:
    cohort = Cohort.of(federation.manifest)
    return cohort.receivers(name, federation.names())


def without_receivers(liar: str) -> Federation:
    """A round in which those drop out to whom a node sent what does not open."""
    federation = Federation.of(10)
    share_garbled(federation, liar)
    lost = gives_to(federation, liar)[:2]
    for name in lost:
        with refused(ProtocolError, "ciphertext-invalid", match=liar):
            federation.receive_shares([name])
    left = [name for name in federation.names() if name not in lost]
    # The others to whom it contributes would drop out as well, and too few be left.
    for name in gives_to(federation, liar)[2:]:
        whole = garbled(federation.boxes(name)[liar])
        federation.message[name] = federation.with_box(name, liar, whole)
    federation.receive_shares(left)
    federation.collect_masked_inputs(left)
    federation.check_consistency()
    return federation


LIAR = "n0004.example"


def test_what_a_survivor_reveals_needs_no_message_of_it_to_open() -> None:
    federation = without_receivers(LIAR)
    left = federation.stage.missing
    unmasked = federation.unmask()
    assert np.array_equal(unmasked.values, federation.expected(left))
    SumChecker(federation.manifest, federation.result(unmasked))


def test_a_maker_of_another_contribution_that_reveals_none_is_named() -> None:
    federation = without_receivers(LIAR)
    stage = federation.stage
    with refused(VerificationError, "contribution-differs", match=LIAR):
        federation.unmask([name for name in stage.missing if name != LIAR])
    assert stage.bad_contributors == (LIAR,)


def test_a_lost_maker_of_another_contribution_than_its_root_gives_is_named() -> None:
    federation = Federation.of(7)
    federation.run("advertise_keys")
    real = ShareChannel.own_contribution

    def of_another_root(channel: ShareChannel, _: bytes) -> bytes:
        return real(channel, bytes(range(32)))

    member = federation.member(LIAR)
    with patch.object(ShareChannel, "own_contribution", of_another_root):
        member.state, message = client.share_keys(member.state, federation.message)
    federation.stage.accept(LIAR, message)
    federation.share_keys()
    federation.receive_shares()
    federation.collect_masked_inputs([n for n in federation.names() if n != LIAR])
    federation.check_consistency()
    stage = federation.stage
    with refused(VerificationError, "contribution-differs", match=LIAR):
        federation.unmask()
    assert stage.bad_contributors == (LIAR,)


def unmasked_without(federation: Federation, silent: list[str]) -> int:
    """Unmask without the reveals of some; returns how many messages were opened."""
    opened = []
    real = ShareChannel.recover_contribution

    def count(channel: ShareChannel, data: bytes, keys: RootKeys) -> bytes | None:
        opened.append(channel.sender)
        return real(channel, data, keys)

    left = list(federation.stage.missing)
    with patch.object(ShareChannel, "recover_contribution", count):
        unmasked = federation.unmask([name for name in left if name not in silent])
    assert np.array_equal(unmasked.values, federation.expected(left))
    SumChecker(federation.manifest, federation.result(unmasked))
    assert set(opened) <= set(silent)
    return len(opened)


def test_only_messages_of_survivors_that_reveal_nothing_are_opened() -> None:
    for silent in (0, 1, 2):
        federation = Federation.of(10)
        federation.run("receive_shares")
        names = federation.names()
        federation.collect_masked_inputs(names[1:])
        federation.check_consistency()
        givers = [name for name in names[1:] if names[0] in gives_to(federation, name)]
        assert unmasked_without(federation, givers[:silent]) == silent


def with_lost(count: int) -> Federation:
    federation = Federation.of(count)
    federation.run("receive_shares")
    federation.collect_masked_inputs(federation.names()[2:])
    federation.check_consistency()
    return federation


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda made: {**made, min(made): "11" * 32}, "contribution-differs"),
        (lambda _: {}, "contribution-set-differs"),
        (lambda made: {**made, "n0009.example": "11" * 32}, "contribution-set-differs"),
    ],
    ids=["another", "none", "one to a survivor"],
)
def test_a_reveal_of_other_contributions_is_refused_and_the_round_completes(
    change: Callable[[dict[str, str]], dict[str, str]], code: str
) -> None:
    federation = with_lost(10)
    stage = federation.stage
    name = next(n for n in stage.missing if "n0001.example" in gives_to(federation, n))
    member = federation.member(name)
    context = member.state.round.cohort.context
    member.state, good = client.unmask(member.state, federation.message)
    bad = good.model_copy(update={"contributions": change(good.contributions)})
    with refused(ProtocolError, code, match=name):
        stage.accept(name, bad.signed(context, member.identity))
    assert name in stage.missing
    assert unmasked_without(federation, [name]) == len(good.contributions)


def test_a_changed_contribution_needs_a_new_signature() -> None:
    federation = with_lost(10)
    name = federation.stage.missing[0]
    member = federation.member(name)
    _, good = client.unmask(member.state, federation.message)
    bad = good.model_copy(update={"contributions": {}})
    with refused(VerificationError, "signature-invalid"):
        bad.verify(member.state.round.cohort.context, member.identity.verify_key)


Change = Callable[[str, str, str], str]  # reporter, dealer, share: the share to reveal


def plus(share: str, number: int) -> str:
    """Add a number to a share, in the field."""
    value = (decode_share(bytes.fromhex(share)) + number) % PRIME
    return value.to_bytes(SHARE_BYTES, "big").hex()


class Recovery:
    """A round up to its reveals, of which some shares were changed."""

    def __init__(
        self, count: int, change: Change, *, lost: int = 0, **manifest: int
    ) -> None:
        self.federation = Federation.of(count, **manifest)
        self.federation.run("receive_shares")
        self.federation.collect_masked_inputs(self.federation.names()[lost:])
        self.keys = self.federation.keys
        self.federation.check_consistency()
        self.heads = self.federation.stage.masked.heads
        self.reveals: list[Reveal] = []
        for name in self.federation.stage.missing:
            member = self.federation.member(name)
            _, reveal = client.unmask(member.state, self.federation.message)

            def changed(row: Mapping[str, str], name: str = name) -> dict[str, str]:
                return {dealer: change(name, dealer, s) for dealer, s in row.items()}

            update = {
                "self_shares": changed(reveal.self_shares),
                "root_shares": changed(reveal.root_shares),
            }
            self.reveals.append(reveal.model_copy(update=update))
        self.cohort = Cohort.of(self.federation.manifest)

    def name(self, place: int) -> str:
        return self.federation.names()[place]

    def recover(self, *, reveals: int | None = None) -> tuple[InconsistentShare, ...]:
        kept = self.reveals[:reveals]
        _, _, faults = recover_round(
            self.cohort, self.keys, heads=self.heads, reveals=kept
        )
        return faults

    def named(self, *, reveals: int | None = None) -> tuple[str, ...]:
        kept = self.reveals[:reveals]
        return bad_dealers(self.cohort, self.keys, heads=self.heads, reveals=kept)


def dealt_wrong(*dealers: str) -> Change:
    """All reporters have the shares of another secret than was committed to."""
    return lambda _, dealer, share: plus(share, 1) if dealer in dealers else share


def reported_wrong(*reporters: str) -> Change:
    """Some reporters change all shares that they reveal."""
    return lambda name, _, share: plus(share, 1) if name in reporters else share


@pytest.mark.parametrize("lost", [0, 1])
def test_a_dealer_of_shares_of_another_secret_is_named(lost: int) -> None:
    """Of a survivor it is the self seed, of a node that dropped out the mask key."""
    dealer = "n0001.example"
    round_ = Recovery(7, dealt_wrong(dealer), lost=lost, max_colluding=1, threshold=5)
    with refused(VerificationError, "secret-not-recovered", match=f"'{dealer}'.* 1$"):
        round_.recover()
    assert round_.named() == (dealer,)


def test_two_bad_dealers_are_both_named_and_no_other() -> None:
    dealers = ("n0002.example", "n0005.example")
    round_ = Recovery(7, dealt_wrong(*dealers))
    assert round_.named() == dealers


def test_a_lying_reporter_is_named_and_no_dealer() -> None:
    round_ = Recovery(4, reported_wrong("n0001.example"))
    want = {
        InconsistentShare(dealer=dealer, reporter="n0001.example")
        for dealer in round_.federation.names()
    }
    # With the liar known, the first try goes without it, and it goes unchecked.
    assert set(round_.recover()) <= want
    assert round_.recover()[0].dealer == "n0001.example"
    assert round_.named() == ()


def test_with_as_few_reveals_as_it_takes_no_dealer_is_named() -> None:
    """Where t reveal, the liar may be the dealer or any reporter."""
    dealer = "n0002.example"
    for change in (dealt_wrong(dealer), reported_wrong("n0001.example")):
        round_ = Recovery(4, change)
        with refused(VerificationError, "secret-not-recovered", match="no 3 of 3 "):
            round_.recover(reveals=3)
        assert round_.named(reveals=3) == ()
    assert Recovery(4, dealt_wrong(dealer)).named(reveals=4) == (dealer,)


LIARS = tuple(f"n{number:04d}.example" for number in (1, 2, 3))


def test_above_16_nodes_it_takes_two_reveals_more_than_t_for_each_liar() -> None:
    """There wrong shares are decoded, and a decoder corrects half of what is spare."""
    numbers = {"max_colluding": 3, "threshold": 17, "min_cohort": 17}
    honest = Recovery(30, reported_wrong(*LIARS), **numbers)
    with refused(VerificationError, "secret-not-recovered", match="no 17 of 22 "):
        honest.recover(reveals=22)
    assert honest.named(reveals=22) == ()
    assert {fault.reporter for fault in honest.recover(reveals=23)} == {*LIARS}
    assert honest.named(reveals=23) == ()
    bad = Recovery(30, dealt_wrong("n0009.example"), **numbers)
    assert bad.named(reveals=22) == ()
    assert bad.named(reveals=23) == ("n0009.example",)
