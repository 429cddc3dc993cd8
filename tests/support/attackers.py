"""A coordinator that does not keep to the protocol, and what it can work out.

Also the deliberately weakened variants that give the attack tests their teeth: each
must fail the test that TSA-1 passes. They live here and nowhere else.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np

from tapestry.encoding import decode_digest
from tapestry.errors import QuorumError
from tapestry.protocol.round_manifest import RoundManifest
from tapestry.protocol.secagg_messages import (
    UNSIGNED,
    Consent,
    ConsentList,
    Reveal,
    SurvivorList,
)
from tapestry.secagg import client
from tapestry.secagg.client_states import Cohort
from tapestry.secagg.key_schedule import Agreement, pair_key, self_key
from tapestry.secagg.masks import Mask, add_masks
from tapestry.secagg.requirements import ClientProgress, Requirements
from tapestry.secagg.shamir import recover_checked
from tapestry.secagg.share_channel import ShareChannel, own_keys
from tapestry.vectors import RingVector
from tests.support.secagg_cohort import Federation, Member


def recover(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """Recover a secret by shares alone, with no commitment to compare it with."""
    return recover_checked(shares, threshold, accept=lambda _: True)[0]


def uploaded(federation: Federation, name: str) -> RingVector:
    """What the coordinator received of a node."""
    chunks = federation.uploads[name].chunks
    return np.frombuffer(b"".join(chunks), "<u4").copy()


def consent_of(member: Member, survivors: SurvivorList) -> Consent:
    """A colluding node signs whatever it is given."""
    context = member.state.round.cohort.context
    return Consent(
        node=member.name, survivors=survivors.digest, signature=UNSIGNED
    ).signed(context, member.identity)


def open_list(
    federation: Federation,
    survivors: SurvivorList,
    *,
    asked: Iterable[str],
    colluders: Sequence[str],
) -> list[Reveal]:
    """Ask honest nodes about a list, add the colluders' consents, get reveals."""
    consents = [consent_of(federation.member(n), survivors) for n in colluders]
    asked = list(asked)
    for name in asked:
        member = federation.member(name)
        member.state, message = client.check_consistency(member.state, survivors)
        consents.append(message)
    consents.sort(key=lambda c: c.node)
    reveals = []
    for name in asked:
        member = federation.member(name)
        try:
            member.state, reply = client.unmask(
                member.state, ConsentList(consents=tuple(consents))
            )
        except QuorumError:
            continue
        reveals.append(reply)
    return reveals


def without(survivors: SurvivorList, name: str) -> SurvivorList:
    """The same list, as if one node had dropped out."""
    rows = tuple(s for s in survivors.survivors if s.node != name)
    return SurvivorList(view=survivors.view, survivors=rows)


def steal(
    federation: Federation,
    victim: str,
    *,
    reveals: Sequence[Reveal],
    colluders: Sequence[str],
) -> RingVector:
    """Unmask one node's upload with all that reveals and colluders give.

    Raises:
        QuorumError: Too few shares of one of its two secrets.
    """
    cohort = federation.member(victim).state.round.cohort
    seeds, roots = {}, {}
    for name in colluders:
        held = federation.member(name).state.held[victim]
        seeds[cohort.places[name]] = held.seed
        roots[cohort.places[name]] = held.root
    for reveal in reveals:
        place = cohort.places[reveal.node]
        if victim in reveal.self_shares:
            seeds[place] = bytes.fromhex(reveal.self_shares[victim])
        if victim in reveal.root_shares:
            roots[place] = bytes.fromhex(reveal.root_shares[victim])
    threshold = cohort.manifest.threshold
    seed, root = recover(seeds, threshold), recover(roots, threshold)
    key = self_key(seed, cohort.context, node=victim)
    values = uploaded(federation, victim)
    pairs = pair_masks(federation, victim, root)
    add_masks(values, [Mask(key, negative=True), *pairs])
    return values


def pair_masks(federation: Federation, node: str, root: bytes) -> Iterator[Mask]:
    """What takes a node's pair masks off its upload, given its root and all traffic."""
    cohort = Cohort.of(federation.manifest)
    keys = own_keys(root, cohort, node=node)
    agreement = Agreement(keys.mask)
    for entry in federation.keys.advertisements:
        if entry.node != node:
            shared = agreement.with_peer(bytes.fromhex(entry.mask_key))
            added = contributed(federation, node, entry.node, root=root)
            yield pair_mask(federation, node, entry.node, secret=shared, added=added)


def pair_mask(
    federation: Federation, node: str, peer: str, *, secret: bytes, added: bytes
) -> Mask:
    """The mask that takes one pair's mask off a node's upload."""
    context = federation.manifest.context
    view = decode_digest(federation.uploads[node].head.view)
    key = pair_key(secret, context, names=(node, peer), view=view, contributed=added)
    return Mask(key, negative=node < peer)


def contributed(federation: Federation, node: str, peer: str, *, root: bytes) -> bytes:
    """What a node and its peer put into their mask, given the node's root."""
    cohort = Cohort.of(federation.manifest)
    own = channel_of(federation, node, peer).own_contribution(root)
    if own or not cohort.hybrid:
        return own
    data = federation.boxes(node)[peer]
    keys = own_keys(root, cohort, node=node)
    found = channel_of(federation, peer, node).recover_contribution(data, keys)
    assert found is not None
    return found


def channel_of(federation: Federation, sender: str, receiver: str) -> ShareChannel:
    """The channel between two nodes of a round."""
    return ShareChannel(
        cohort=Cohort.of(federation.manifest),
        sender=sender,
        receiver=receiver,
        view=decode_digest(federation.keys.digest),
    )


@contextmanager
def node_that_trusts_the_threshold() -> Iterator[None]:
    """Weakened: takes ``threshold`` from the manifest without 2 t > n + n_C."""

    def check(manifest: RoundManifest, terms: Requirements) -> int:
        return max(manifest.min_cohort, terms.min_cohort)

    with patch.object(client, "check_manifest", check):
        yield


@contextmanager
def node_that_trusts_the_key_list() -> Iterator[None]:
    """Weakened: does not check who signed the keys."""
    with patch.object(client, "_check_keys", lambda *_: None):
        yield


@contextmanager
def node_that_answers_twice() -> Iterator[None]:
    """Weakened: forgets that it has consented and revealed before."""
    with (
        patch.object(ClientProgress, "require", lambda *_: None),
        patch.object(ClientProgress, "advance", lambda *_: None),
    ):
        yield
