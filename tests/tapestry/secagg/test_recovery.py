"""Tests of recovery: wrong shares and bad dealers are named, honest nodes never."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest

from tapestry.errors import VerificationError
from tapestry.protocol.secagg_messages import SHARE_BYTES, Reveal, ShareMessage
from tapestry.secagg import client
from tapestry.secagg.client_states import Cohort, KeysShared
from tapestry.secagg.pair_messages import signed_digest
from tapestry.secagg.recovery import InconsistentShare, bad_dealers, recover_round
from tapestry.secagg.server import Unmasked
from tapestry.secagg.shamir import PRIME, decode_share
from tapestry.secagg.share_channel import ShareChannel
from tests.support.refusals import refused
from tests.support.secagg_cohort import Federation


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
    state: KeysShared, message: ShareMessage, ciphertexts: dict[str, str]
) -> ShareMessage:
    """Message 3 with other messages to other nodes, signed."""
    messages = {name: bytes.fromhex(c) for name, c in ciphertexts.items()}
    root = "sha256:" + signed_digest(messages).hex()
    head = message.head.model_copy(update={"ciphertexts": root})
    head = head.signed(state.round.cohort.context, state.round.identity)
    return ShareMessage(head=head, ciphertexts=ciphertexts)


def test_a_dealer_of_wrong_shares_to_two_is_named_and_the_round_completes() -> None:
    federation = Federation.of(7)
    federation.run("advertise_keys")
    dealer, victims = federation.cohort[2], federation.names()[:2]
    view = bytes.fromhex(federation.message.digest[7:])
    state = dealer.state
    after, message = client.share_keys(state, federation.message)
    kem_keys = {a.node: a.kem_key for a in federation.message.advertisements}
    ciphertexts = dict(message.ciphertexts)
    for name in victims:
        wrong = b"\0" + bytes(range(32))
        channel = ShareChannel(
            cohort=state.round.cohort, sender=dealer.name, receiver=name, view=view
        )
        ciphertexts[name] = channel.seal(
            (wrong, wrong),
            shared=after.agreed[name].channel,
            kem_key=kem_keys[name],
            root=state.secrets.root,
        ).hex()
    federation.stage.accept(dealer.name, dealt(after, message, ciphertexts))
    dealer.state = replace(after, head=dealt(after, message, ciphertexts).head)
    federation.share_keys()
    federation.receive_shares()
    federation.collect_masked_inputs()
    federation.check_consistency()
    unmasked = federation.unmask()
    assert np.array_equal(unmasked.values, federation.expected(federation.names()))
    want = {InconsistentShare(dealer=dealer.name, reporter=name) for name in victims}
    assert set(unmasked.faults) == want


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
