"""Attacks with a quantum computer, later: all traffic, and every X25519 key broken.

A test whose name ends in ``works_against_...`` runs the attack on a round without
ML-KEM, and must succeed.
"""

import numpy as np
import pytest

from tapestry.errors import PolicyError, ProtocolError
from tapestry.secagg import client
from tapestry.secagg.client_states import Cohort
from tapestry.secagg.key_schedule import Agreement, mask_secret, public_key, self_key
from tapestry.secagg.masks import Mask, add_masks
from tapestry.secagg.share_channel import OpenedShares, own_keys
from tapestry.vectors import RingVector
from tests.support.attackers import (
    channel_of,
    contributed,
    pair_mask,
    recover,
    uploaded,
)
from tests.support.randomness import FixedRandom, looks_uniform
from tests.support.refusals import refused
from tests.support.secagg_cohort import Federation, manifest_for, members, terms_for


class Recorded:
    """A round of seven, two lost: its traffic, and every X25519 key, broken later."""

    def __init__(self, post_quantum: str) -> None:
        self.f = Federation.of(7, length=20_000, post_quantum=post_quantum)
        self.f.random = FixedRandom("recorded")
        self.f.run("share_keys")
        self.context = self.f.manifest.context
        drawn = {m.name: m.state.secrets for m in self.f.cohort}
        self.channels = {name: Agreement(s.channel) for name, s in drawn.items()}
        self.masks = {
            name: Agreement(mask_secret(s.root, self.context, node=name))
            for name, s in drawn.items()
        }
        *self.left, one, two = self.f.names()
        self.lost = [one, two]
        self.f.receive_shares()
        self.f.collect_masked_inputs(self.left)
        self.f.check_consistency()
        self.transcript = self.f.unmask().transcript
        self.keys = {a.node: a for a in self.f.keys.advertisements}
        self.roots = {n: bytes.fromhex(r) for n, r in self.transcript.roots.items()}

    def shares(self, receiver: str) -> dict[str, OpenedShares]:
        """What the adversary opens of all that was sent to a node, by dealer."""
        cohort = Cohort.of(self.f.manifest)
        kem = None
        if receiver in self.roots:  # was opened in the round, and all follows from it
            kem = own_keys(self.roots[receiver], cohort, node=receiver).kem
        opened = {}
        for sender, data in self.f.boxes(receiver).items():
            public = bytes.fromhex(self.keys[sender].channel_key)
            shared = self.channels[receiver].with_peer(public)
            channel = channel_of(self.f, sender, receiver)
            try:
                opened[sender] = channel.open(data, shared=shared, kem=kem)
            except ProtocolError:
                continue
        return opened

    def residual(self, node: str) -> RingVector:
        """An upload less every mask that the adversary can derive."""
        values = uploaded(self.f, node)
        seed = bytes.fromhex(self.transcript.self_seeds[node])
        own = self_key(seed, self.context, node=node)
        masks = [Mask(own, negative=True)]
        for peer, key in self.keys.items():
            if peer == node:
                continue
            added = b""
            if peer in self.roots:
                added = contributed(self.f, peer, node, root=self.roots[peer])
            secret = self.masks[node].with_peer(bytes.fromhex(key.mask_key))
            masks.append(pair_mask(self.f, node, peer, secret=secret, added=added))
        add_masks(values, masks)
        return values


def test_x25519_broken_later_opens_no_share_and_no_mask_between_survivors() -> None:
    recorded = Recorded("mlkem768")
    threshold, colluding = recorded.f.manifest.threshold, 2
    assert recorded.f.manifest.max_colluding == colluding
    for name in recorded.left:
        assert recorded.shares(name) == {}
    # The two that dropped out are opened by their roots: with the colluding nodes these
    # are fewer than the threshold, whichever nodes drop out.
    opened = [recorded.shares(name) for name in recorded.lost]
    assert all(len(rows) == 6 for rows in opened)
    assert len(opened) + colluding < threshold
    for name in recorded.left:
        assert looks_uniform(recorded.residual(name))


def test_x25519_broken_later_works_against_a_round_without_ml_kem() -> None:
    recorded = Recorded("none")
    places = Cohort.of(recorded.f.manifest).places
    victim, *others = recorded.f.names()
    opened = {name: recorded.shares(name)[victim] for name in others}
    root = recover(
        {places[name]: rows.root for name, rows in opened.items()},
        recorded.f.manifest.threshold,
    )
    public = public_key(mask_secret(root, recorded.context, node=victim)).hex()
    assert public == recorded.keys[victim].mask_key
    for name in recorded.left:
        assert np.array_equal(recorded.residual(name), recorded.f.vectors[name])


@pytest.mark.parametrize(("count", "least"), [(7, 200), (7, 7), (7, 1000)])
def test_a_round_without_ml_kem_is_refused_below_the_size_of_the_nodes_policy(
    count: int, least: int
) -> None:
    cohort = members(count)
    manifest = manifest_for(cohort, post_quantum="none")
    terms = terms_for(manifest, hybrid_up_to=least)
    me = cohort[0].identity
    with refused(PolicyError, "post-quantum-required", match=f"7 nodes .* {least} "):
        client.advertise_keys(manifest, me, terms=terms)
    terms = terms_for(manifest, hybrid_up_to=count - 1)
    client.advertise_keys(manifest, me, terms=terms)


def test_a_round_without_ml_kem_is_refused_in_a_run_with_it() -> None:
    cohort = members(4)
    terms = terms_for(manifest_for(cohort))
    weaker = manifest_for(cohort, post_quantum="none")
    with refused(ProtocolError, "run-plan-differs", match="post_quantum"):
        client.advertise_keys(weaker, cohort[0].identity, terms=terms)


def test_a_message_of_another_context_does_not_open() -> None:
    """The same keys and the same list of them, in another attempt of the round."""
    federation = Federation.of(4)
    federation.run("share_keys")
    receiver, sender = federation.names()[:2]
    data = federation.boxes(receiver)[sender]
    state = federation.member(receiver).state
    own = own_keys(state.secrets.root, Cohort.of(federation.manifest), node=receiver)
    ends = {"shared": state.agreed[sender].channel, "kem": own.kem}
    channel_of(federation, sender, receiver).open(data, **ends)
    federation.manifest = manifest_for(federation.cohort, attempt=2)
    with refused(ProtocolError, "ciphertext-invalid", match=sender):
        channel_of(federation, sender, receiver).open(data, **ends)
