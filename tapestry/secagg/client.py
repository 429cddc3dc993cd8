"""Client of secure aggregation: the node's half of TSA-1, messages 0 to 9.

TSA-1 (governance/SECAGG.md) follows Bonawitz et al., "Practical Secure Aggregation for
Privacy-Preserving Machine Learning" (CCS 2017), figure 4, with the consistency check
that it asks for against active adversaries. The rules are those of the page's section
"A node MUST".

One state type per step; each function takes the state and a message and returns the
next state and the reply. Functions are named after the stages of a round::

    advertise_keys -> KeysAdvertised                            messages 0, 1
    --share_keys--> KeysShared                                  2, 3
    --receive_shares--> MasksReady --mask_input--> InputMasked  4, 5
    --check_consistency--> ConsistencyChecked                   6, 7
    --unmask--> SharesRevealed                                  8, 9

All randomness of a round is drawn in ``advertise_keys``, but for that of ML-KEM in
``share_keys``; what follows is determined by it and by the messages. A message that
breaks a rule raises one error and leaves everything as it was. Between two messages a
state can be saved, and restored in another process (``saved_states``): the caller sees
to it that a state is restored only where no later one ever replied.

Guarantees:
    The coordinator together with up to n_C nodes learns the sum over the survivors,
    of whom at least two are honest, and nothing else about a node's update. No state
    sends twice: see ``ClientProgress``. There is no upload without a ``Reservation``.

Not protected: availability, and the honesty of what other nodes put in. Python cannot
wipe memory; secrets are dropped with the state that holds them.
"""

import secrets
from collections.abc import Mapping

from tapestry.encoding import decode_digest
from tapestry.errors import ProtocolError, QuorumError, VerificationError
from tapestry.keys import SigningKey
from tapestry.protocol.round_manifest import RoundManifest
from tapestry.protocol.secagg_messages import (
    UNSIGNED,
    Advertisement,
    Ciphertexts,
    Consent,
    ConsentList,
    KeyList,
    Reveal,
    ShareHead,
    ShareMessage,
    SurvivorList,
    Upload,
    UploadHead,
    require_subset,
)
from tapestry.secagg.chunks import chunk_root, cut
from tapestry.secagg.client_states import (
    Agreed,
    ClientRound,
    Cohort,
    ConsistencyChecked,
    HeldShares,
    InputMasked,
    KeysAdvertised,
    KeysShared,
    MasksReady,
    Secrets,
    SharesRevealed,
)
from tapestry.secagg.key_schedule import (
    Agreement,
    commitment,
    mask_secret,
    pair_key,
    public_key,
    self_key,
)
from tapestry.secagg.masks import Mask, Random, add_masks
from tapestry.secagg.pair_messages import PairMessages, split_joined
from tapestry.secagg.requirements import (
    ClientProgress,
    ClientStep,
    Marks,
    Requirements,
    Reservation,
    check_manifest,
    issue_reservation,
)
from tapestry.secagg.shamir import split
from tapestry.secagg.share_channel import ShareChannel, own_keys
from tapestry.vectors import MaskedVector, Quantized


def advertise_keys(
    manifest: RoundManifest,
    identity: SigningKey,
    *,
    terms: Requirements,
    random: Random = secrets.token_bytes,
) -> tuple[KeysAdvertised, Advertisement]:
    """Take part in a round (message 0), and advertise fresh keys (message 1).

    The caller has authenticated the manifest: it is in the cosigned log, signed by
    the coordinator.

    Raises:
        ProtocolError: The manifest breaks a rule of :func:`check_manifest`, or no
            participant of it has this node's key.
        PolicyError: The node's own terms refuse the round.
    """
    cohort = Cohort.of(manifest)
    own = cohort.name_of(identity)
    min_cohort = check_manifest(manifest, terms)  # last, since it may reserve budget
    state = ClientRound(
        cohort=cohort,
        node=own,
        identity=identity,
        min_cohort=min_cohort,
        progress=ClientProgress(),
    )
    drawn = Secrets(
        channel=random(32),
        root=random(32),
        seed=random(32),
        polynomials=(random(32), random(32)),
    )
    keys = own_keys(drawn.root, cohort, node=state.node)
    message = Advertisement(
        node=state.node,
        channel_key=public_key(drawn.channel).hex(),
        kem_key=keys.kem.public.hex() if keys.kem else None,
        mask_key=public_key(keys.mask).hex(),
        signature=UNSIGNED,
    ).signed(cohort.context, identity)
    return KeysAdvertised(round=state, secrets=drawn, advertisement=message), message


def share_keys(
    state: KeysAdvertised, message: KeyList
) -> tuple[KeysShared, ShareMessage]:
    """Check the keys of all nodes (message 2) and seal shares for them (message 3).

    Raises:
        ProtocolError: The list names a node outside the cohort or a key of low order, a
            node has no ML-KEM key in a hybrid round, this node's entry was changed or
            left out, or the message is out of order.
        QuorumError: The list has fewer nodes than this node accepts.
        VerificationError: A node's signature does not hold.
    """
    r = state.round
    r.progress.require(ClientStep.SHARE_KEYS)
    _check_keys(state, message)
    context, places = r.cohort.context, r.cohort.places
    agreed = _agree(state, message)
    view = decode_digest(message.digest)
    seed_shares, root_shares = _split(state, message)
    kem_keys = {a.node: a.kem_key for a in message.advertisements}
    messages = {
        name: ShareChannel(
            cohort=r.cohort, sender=r.node, receiver=name, view=view
        ).seal(
            (seed_shares[places[name]], root_shares[places[name]]),
            shared=both.channel,
            kem_key=kem_keys[name],
            root=state.secrets.root,
        )
        for name, both in agreed.items()
    }
    joined = b"".join(messages.values())  # in order of name, as the list of keys
    head = ShareHead(
        node=r.node,
        view="sha256:" + view.hex(),
        commitment=commitment(state.secrets.seed, context, node=r.node).hex(),
        ciphertexts="sha256:" + PairMessages.of(messages, joined=joined).digest.hex(),
        signature=UNSIGNED,
    ).signed(context, r.identity)
    place = places[r.node]
    after = KeysShared(
        round=r,
        secrets=state.secrets,
        view=view,
        agreed=agreed,
        head=head,
        own=HeldShares(seed=seed_shares[place], root=root_shares[place]),
    )
    r.progress.advance(ClientStep.SHARE_KEYS)
    return after, ShareMessage(head=head, messages=joined)


def receive_shares(state: KeysShared, message: Ciphertexts) -> MasksReady:
    """Open the shares of the others (message 4) and fix the masks.

    Raises:
        ProtocolError: A node is not in the key list, this node's head was changed or
            left out, a ciphertext is missing, of another size or does not open, a share
            is malformed, a contribution is not the one committed to, or the message
            is out of order.
        QuorumError: Fewer nodes shared than this node accepts.
        VerificationError: A node's signature does not hold, or it saw other keys.
    """
    r = state.round
    r.progress.require(ClientStep.RECEIVE_SHARES)
    _check_heads(state, message)
    context = r.cohort.context
    own = own_keys(state.secrets.root, r.cohort, node=r.node)
    held, contributed, own_part = {r.node: state.own}, {}, {}
    sealed = _split_messages(r, message)
    for name, data in sealed.items():
        there, back = (
            ShareChannel(
                cohort=r.cohort, sender=sender, receiver=receiver, view=state.view
            )
            for sender, receiver in ((r.node, name), (name, r.node))
        )
        opened = back.open(data, shared=state.agreed[name].channel, kem=own.kem)
        held[name] = HeldShares(seed=opened.seed, root=opened.root)
        if mine := there.own_contribution(state.secrets.root):
            own_part[name] = mine
        contributed[name] = mine or opened.contributed
    view = message.heads.digest
    bound = decode_digest(view)
    masks = [Mask(self_key(state.secrets.seed, context, node=r.node))]
    for name in sealed:
        names = (r.node, name)
        key = pair_key(
            state.agreed[name].mask,
            context,
            names=names,
            view=bound,
            contributed=contributed[name],
        )
        masks.append(Mask(key, negative=name < r.node))
    r.progress.advance(ClientStep.RECEIVE_SHARES)
    return MasksReady(
        round=r, masks=tuple(masks), held=held, contributed=own_part, view=view
    )


def reserve(state: MasksReady, marks: Marks) -> Reservation:
    """Raise the node's durable mark: from here on the round counts as uploaded.

    Write the spent privacy budget in the same transaction.

    Raises:
        ProtocolError: The node has uploaded for this round or a later one.
    """
    r = state.round
    r.progress.require(ClientStep.RESERVE)
    reservation = issue_reservation(
        r.cohort.manifest, context=r.cohort.context, marks=marks
    )
    r.progress.advance(ClientStep.RESERVE)
    return reservation


def mask_input(
    state: MasksReady, update: Quantized, *, reservation: Reservation, threads: int = 0
) -> tuple[InputMasked, Upload]:
    """Mask an update and sign the Merkle root over its chunks (message 5).

    Guarantees:
        Without the masks, what leaves is uniform in Z_2^32. The vector is masked in
        place: the plain one is gone, and memory does not grow.

    Raises:
        ProtocolError: The reservation is for another round, or was used.
        ValueError: The update has another length than the round: a bug.
    """
    r = state.round
    if update.values.shape != (r.cohort.manifest.length,):
        raise ValueError(
            f"{update.values.shape} coordinates, want {r.cohort.manifest.length}"
        )
    if reservation.context != r.cohort.context:
        raise ProtocolError(
            "the reservation is for another round than"
            f" {r.cohort.manifest.round_number}",
            code="reservation-differs",
        )
    r.progress.advance(ClientStep.MASK_INPUT)
    add_masks(update.values, state.masks, threads=threads)
    masked = MaskedVector(values=update.values)
    chunks = cut(masked.values)
    head = UploadHead(
        node=r.node,
        view=state.view,
        root=chunk_root(chunks, threads=threads),
        signature=UNSIGNED,
    ).signed(r.cohort.context, r.identity)
    after = InputMasked(
        round=r,
        held=state.held,
        contributed=state.contributed,
        view=state.view,
        root=head.root,
    )
    return after, Upload(head=head, chunks=chunks)


def check_consistency(
    state: InputMasked, message: SurvivorList
) -> tuple[ConsistencyChecked, Consent]:
    """Check the list of uploads to be summed (message 6) and sign it (message 7).

    Raises:
        ProtocolError: The list lacks this node or names another upload of it, names a
            node that did not share, follows another list of shares, or is a second
            one.
        QuorumError: The list has fewer survivors than this node accepts.
    """
    r = state.round
    r.progress.require(ClientStep.CHECK_CONSISTENCY)
    if message.view != state.view:
        raise ProtocolError(
            f"the survivors of round {r.cohort.manifest.round_number} shared with"
            f" another set of nodes: {message.view}, want {state.view}",
            code="share-list-differs",
        )
    require_subset(message.names, state.held, rule="among the nodes that shared")
    _check_size(r, len(message.survivors), "survivors")
    own = [s.root for s in message.survivors if s.node == r.node]
    if own != [state.root]:
        raise ProtocolError(
            f"the survivor list of round {r.cohort.manifest.round_number} lacks the"
            f" upload {state.root} of {r.node!r}",
            code="own-entry-differs",
        )
    reply = Consent(node=r.node, survivors=message.digest, signature=UNSIGNED).signed(
        r.cohort.context, r.identity
    )
    r.progress.advance(ClientStep.CHECK_CONSISTENCY)
    left = set(message.names)
    after = ConsistencyChecked(
        round=r,
        held=state.held,
        contributed={n: q for n, q in state.contributed.items() if n not in left},
        survivors=message,
        root=state.root,
    )
    return after, reply


def unmask(
    state: ConsistencyChecked, message: ConsentList
) -> tuple[SharesRevealed, Reveal]:
    """Count the consents to the same list (message 8), then reveal (message 9).

    Guarantees:
        For each node it is a share of the self seed or of the root, never both,
        and once per round. Of this node's contributions to masks it reveals those
        with nodes that dropped out, which the roots of these open as well.

    Raises:
        ProtocolError: The request is a second one, or has a consent of a node that is
            not on the list.
        QuorumError: There are fewer than ``threshold`` valid consents to this node's
            list.
    """
    r = state.round
    r.progress.require(ClientStep.UNMASK)
    survivors = set(state.survivors.names)
    require_subset((c.node for c in message.consents), survivors, rule="a survivor")
    _count_consents(state, message)
    seeds = {n: h.seed.hex() for n, h in state.held.items() if n in survivors}
    roots = {n: h.root.hex() for n, h in state.held.items() if n not in survivors}
    reply = Reveal(
        node=r.node,
        self_shares=seeds,
        root_shares=roots,
        contributions={n: q.hex() for n, q in state.contributed.items()},
        signature=UNSIGNED,
    ).signed(r.cohort.context, r.identity)
    r.progress.advance(ClientStep.UNMASK)
    return SharesRevealed(round=r, survivors=state.survivors, root=state.root), reply


def _check_keys(state: KeysAdvertised, message: KeyList) -> None:
    r = state.round
    entries = {a.node: a for a in message.advertisements}
    require_subset(entries, r.cohort.roster, rule="in the cohort")
    _check_size(r, len(entries), "advertised keys")
    if entries.get(r.node) != state.advertisement:
        raise ProtocolError(
            f"the key list of round {r.cohort.manifest.round_number} lacks the keys"
            f" that {r.node!r} advertised",
            code="own-entry-differs",
        )
    for name, entry in entries.items():
        r.cohort.check_kem_key(entry)
        if name != r.node:
            entry.verify(r.cohort.context, r.cohort.roster[name])


def _agree(state: KeysAdvertised, message: KeyList) -> dict[str, Agreed]:
    r = state.round
    secret = mask_secret(state.secrets.root, r.cohort.context, node=r.node)
    channel, mask = Agreement(state.secrets.channel), Agreement(secret)
    return {
        a.node: Agreed(
            channel=channel.with_peer(bytes.fromhex(a.channel_key)),
            mask=mask.with_peer(bytes.fromhex(a.mask_key)),
        )
        for a in message.advertisements
        if a.node != r.node
    }


def _split(
    state: KeysAdvertised, message: KeyList
) -> tuple[Mapping[int, bytes], Mapping[int, bytes]]:
    r = state.round
    places = [r.cohort.places[a.node] for a in message.advertisements]
    drawn = state.secrets
    seeds, roots = (
        split(secret, r.cohort.manifest.threshold, places=places, seed=seed)
        for secret, seed in zip(
            (drawn.seed, drawn.root), drawn.polynomials, strict=True
        )
    )
    return seeds, roots


def _check_heads(state: KeysShared, message: Ciphertexts) -> None:
    r = state.round
    heads = {h.node: h for h in message.heads.heads}
    require_subset(heads, {r.node, *state.agreed}, rule="in the key list")
    _check_size(r, len(heads), "nodes that shared")
    if heads.get(r.node) != state.head:
        raise ProtocolError(
            f"the list of shares of round {r.cohort.manifest.round_number} lacks the"
            f" head that {r.node!r} signed",
            code="own-entry-differs",
        )
    for name, head in heads.items():
        if head.view != state.head.view:
            raise VerificationError(
                f"{name!r} saw another key list: {head.view}, want {state.head.view}",
                code="key-list-differs",
            )
        if name != r.node:
            head.verify(r.cohort.context, r.cohort.roster[name])


def _split_messages(r: ClientRound, message: Ciphertexts) -> dict[str, bytes]:
    """Split what the others sealed for this node, by sender."""
    senders = [h.node for h in message.heads.heads if h.node != r.node]
    sizes = {name: r.cohort.message_size(name, r.node) for name in senders}
    return split_joined(message.messages, sizes)


def _check_size(r: ClientRound, count: int, what: str) -> None:
    if count < r.min_cohort:
        raise QuorumError(
            f"{count} {what} in round {r.cohort.manifest.round_number}, want at least"
            f" {r.min_cohort}",
            code="cohort-too-small",
        )


def _count_consents(state: ConsistencyChecked, message: ConsentList) -> None:
    r = state.round
    want = state.survivors.digest
    valid = 0
    for entry in message.consents:
        if valid == r.cohort.manifest.threshold:
            return
        if entry.survivors == want and _is_signed(entry, r):
            valid += 1
    if valid < r.cohort.manifest.threshold:
        raise QuorumError(
            f"{valid} valid consents to the survivor list of round"
            f" {r.cohort.manifest.round_number}, want {r.cohort.manifest.threshold}",
            code="consents-too-few",
        )


def _is_signed(entry: Consent, r: ClientRound) -> bool:
    try:
        entry.verify(r.cohort.context, r.cohort.roster[entry.node])
    except VerificationError:
        return False
    return True
