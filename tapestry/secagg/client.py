"""The node's half of TSA-1.

One state type per step; each function takes the state and a message and returns the
next state and the reply. Functions are named after the stages of a round::

    advertise_keys -> KeysAdvertised
    --share_keys--> KeysShared
    --receive_shares--> MasksReady --mask_input--> InputMasked
    --check_consistency--> ConsistencyChecked
    --unmask--> SharesRevealed

All randomness of a round is drawn in ``advertise_keys``; what follows is determined by
it and by the messages. A message that breaks a rule raises one error and leaves
everything as it was. Secrets live in memory only: a node that restarts has dropped out.

Guarantees:
    The coordinator together with up to n_C nodes learns the sum over the survivors,
    of whom at least two are honest, and nothing else about a node's update. No state
    sends twice: see ``ClientProgress``. There is no upload without a ``Reservation``.

Not protected: availability, and the honesty of what other nodes put in. Python cannot
wipe memory; secrets are dropped with the state that holds them.
"""

import secrets
from collections.abc import Mapping

from tapestry.encoding import canonical_json, decode_digest, digest
from tapestry.errors import ProtocolError, QuorumError, VerificationError
from tapestry.keys import SigningKey
from tapestry.protocol.round_manifest import RoundManifest
from tapestry.protocol.secagg_messages import (
    SHARE_BYTES,
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
    channel_key,
    commitment,
    pair_key,
    public_key,
    seal,
    self_key,
    unseal,
)
from tapestry.secagg.masks import Mask, Random, add_masks
from tapestry.secagg.requirements import (
    ClientProgress,
    ClientStep,
    Marks,
    Requirements,
    Reservation,
    check_manifest,
    issue_reservation,
)
from tapestry.secagg.shamir import decode_share, split
from tapestry.vectors import MaskedVector, Quantized


def advertise_keys(
    manifest: RoundManifest,
    identity: SigningKey,
    *,
    terms: Requirements,
    random: Random = secrets.token_bytes,
) -> tuple[KeysAdvertised, Advertisement]:
    """Take part in a round (message 0), and advertise two fresh keys (message 1).

    The caller has authenticated the manifest: it is in the cosigned log, signed by
    the coordinator.

    Raises:
        ProtocolError: The manifest breaks a rule, or this node is not in it.
        PolicyError: The node's own terms refuse it.
    """
    cohort = Cohort.of(manifest)
    own = [name for name, key in cohort.roster.items() if key == identity.verify_key]
    if not own:
        raise ProtocolError(f"{identity.name!r} is not in the cohort")
    min_cohort = check_manifest(manifest, terms)  # last, since it may reserve budget
    state = ClientRound(
        cohort=cohort,
        node=own[0],
        identity=identity,
        min_cohort=min_cohort,
        progress=ClientProgress(),
    )
    drawn = Secrets(
        channel=random(32),
        mask=random(32),
        seed=random(32),
        polynomials=(random(32), random(32)),
    )
    message = Advertisement(
        node=state.node,
        channel_key=public_key(drawn.channel).hex(),
        mask_key=public_key(drawn.mask).hex(),
        signature=UNSIGNED,
    ).signed(cohort.context, identity)
    return KeysAdvertised(round=state, secrets=drawn, advertisement=message), message


def share_keys(
    state: KeysAdvertised, message: KeyList
) -> tuple[KeysShared, ShareMessage]:
    """Check everybody's keys (message 2) and seal shares for them (message 3).

    Raises:
        ProtocolError: A stranger, a small cohort, a key of low order, an own entry
            that was changed or left out, or a message out of order.
        VerificationError: A bad signature.
    """
    r = state.round
    r.progress.require(ClientStep.SHARE_KEYS)
    _check_keys(state, message)
    context, places = r.cohort.context, r.cohort.places
    agreed = _agree(state, message)
    view = decode_digest(message.digest)
    seed_shares, mask_shares = _split(state, message)
    ciphertexts = {}
    for name, (channel, _) in agreed.items():
        key = channel_key(channel, context, sender=r.node, receiver=name, view=view)
        plaintext = seed_shares[places[name]] + mask_shares[places[name]]
        ciphertexts[name] = seal(
            key, plaintext, context=context, sender=r.node, receiver=name
        ).hex()
    head = ShareHead(
        node=r.node,
        view="sha256:" + view.hex(),
        commitment=commitment(state.secrets.seed, context, node=r.node).hex(),
        ciphertexts=digest(canonical_json(ciphertexts)),
        signature=UNSIGNED,
    ).signed(context, r.identity)
    place = places[r.node]
    after = KeysShared(
        round=r,
        secrets=state.secrets,
        view=view,
        agreed=agreed,
        head=head,
        own=HeldShares(seed=seed_shares[place], mask=mask_shares[place]),
    )
    r.progress.advance(ClientStep.SHARE_KEYS)
    return after, ShareMessage(head=head, ciphertexts=ciphertexts)


def receive_shares(state: KeysShared, message: Ciphertexts) -> MasksReady:
    """Open the shares of the others (message 4) and fix the masks.

    Raises:
        ProtocolError: Too few sharers, a stranger, an own head that was changed or
            left out, a ciphertext missing or not opening, a malformed share, or a
            message out of order.
        VerificationError: A bad signature, or a node that saw other keys.
    """
    r = state.round
    r.progress.require(ClientStep.RECEIVE_SHARES)
    _check_heads(state, message)
    context = r.cohort.context
    held = {r.node: state.own}
    for name, ciphertext in message.ciphertexts.items():
        held[name] = _open(state, name, bytes.fromhex(ciphertext))
    view = message.heads.digest
    bound = decode_digest(view)
    masks = [Mask(self_key(state.secrets.seed, context, node=r.node))]
    for name in message.ciphertexts:
        names = (r.node, name)
        shared = state.agreed[name][1]
        key = pair_key(shared, context, names=names, view=bound)
        masks.append(Mask(key, negative=name < r.node))
    r.progress.advance(ClientStep.RECEIVE_SHARES)
    return MasksReady(round=r, masks=tuple(masks), held=held, view=view)


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
        What leaves is uniform in Z_2^32 to whoever lacks the masks. The vector is
        masked in place: the plain one is gone, and memory does not grow.

    Raises:
        ProtocolError: No reservation for this round, or one that was used.
        ValueError: The update has another length than the round: a bug.
    """
    r = state.round
    if update.values.shape != (r.cohort.manifest.length,):
        raise ValueError(
            f"{update.values.shape} coordinates, want {r.cohort.manifest.length}"
        )
    if reservation.context != r.cohort.context:
        raise ProtocolError("the reservation is for another round")
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
    after = InputMasked(round=r, held=state.held, view=state.view, root=head.root)
    return after, Upload(head=head, chunks=chunks)


def check_consistency(
    state: InputMasked, message: SurvivorList
) -> tuple[ConsistencyChecked, Consent]:
    """Check whose uploads are to be summed (message 6) and sign the list (message 7).

    Raises:
        ProtocolError: This node is not on the list or with another upload; too few
            survivors; a stranger; other sharers; a second list.
    """
    r = state.round
    r.progress.require(ClientStep.CHECK_CONSISTENCY)
    if message.view != state.view:
        raise ProtocolError("the survivors shared with another set of nodes")
    require_subset(message.names, state.held, rule="among the nodes that shared")
    _check_size(r, len(message.survivors), "survivors")
    own = [s.root for s in message.survivors if s.node == r.node]
    if own != [state.root]:
        raise ProtocolError("the survivor list lacks this node's upload")
    reply = Consent(node=r.node, survivors=message.digest, signature=UNSIGNED).signed(
        r.cohort.context, r.identity
    )
    r.progress.advance(ClientStep.CHECK_CONSISTENCY)
    after = ConsistencyChecked(
        round=r, held=state.held, survivors=message, root=state.root
    )
    return after, reply


def unmask(
    state: ConsistencyChecked, message: ConsentList
) -> tuple[SharesRevealed, Reveal]:
    """See that enough consented to the same list (message 8), then reveal (message 9).

    Guarantees:
        For each node it is a share of the self seed or of the mask key, never both,
        and once per round.

    Raises:
        ProtocolError: A second request, or a consent of a node not on the list.
        QuorumError: Fewer than ``threshold`` valid consents to this node's list.
    """
    r = state.round
    r.progress.require(ClientStep.UNMASK)
    survivors = set(state.survivors.names)
    require_subset((c.node for c in message.consents), survivors, rule="a survivor")
    _count_consents(state, message)
    seeds = {n: h.seed.hex() for n, h in state.held.items() if n in survivors}
    masks = {n: h.mask.hex() for n, h in state.held.items() if n not in survivors}
    reply = Reveal(
        node=r.node, self_shares=seeds, mask_shares=masks, signature=UNSIGNED
    ).signed(r.cohort.context, r.identity)
    r.progress.advance(ClientStep.UNMASK)
    return SharesRevealed(round=r, survivors=state.survivors, root=state.root), reply


def _check_keys(state: KeysAdvertised, message: KeyList) -> None:
    r = state.round
    entries = {a.node: a for a in message.advertisements}
    require_subset(entries, r.cohort.roster, rule="in the cohort")
    _check_size(r, len(entries), "advertised keys")
    if entries.get(r.node) != state.advertisement:
        raise ProtocolError("the key list lacks this node's own keys")
    for name, entry in entries.items():
        if name != r.node:
            entry.verify(r.cohort.context, r.cohort.roster[name])


def _agree(state: KeysAdvertised, message: KeyList) -> dict[str, tuple[bytes, bytes]]:
    channel, mask = Agreement(state.secrets.channel), Agreement(state.secrets.mask)
    return {
        a.node: (
            channel.with_peer(bytes.fromhex(a.channel_key)),
            mask.with_peer(bytes.fromhex(a.mask_key)),
        )
        for a in message.advertisements
        if a.node != state.round.node
    }


def _split(
    state: KeysAdvertised, message: KeyList
) -> tuple[Mapping[int, bytes], Mapping[int, bytes]]:
    r = state.round
    places = [r.cohort.places[a.node] for a in message.advertisements]
    drawn = state.secrets
    seeds, masks = (
        split(secret, r.cohort.manifest.threshold, places=places, seed=seed)
        for secret, seed in zip(
            (drawn.seed, drawn.mask), drawn.polynomials, strict=True
        )
    )
    return seeds, masks


def _check_heads(state: KeysShared, message: Ciphertexts) -> None:
    r = state.round
    heads = {h.node: h for h in message.heads.heads}
    require_subset(heads, {r.node, *state.agreed}, rule="in the key list")
    _check_size(r, len(heads), "nodes that shared")
    if heads.get(r.node) != state.head:
        raise ProtocolError("the list of shares lacks this node's own")
    if message.ciphertexts.keys() != heads.keys() - {r.node}:
        raise ProtocolError("not one ciphertext from each of the others")
    for name, head in heads.items():
        if head.view != state.head.view:
            raise VerificationError(f"{name!r} saw another key list")
        if name != r.node:
            head.verify(r.cohort.context, r.cohort.roster[name])


def _open(state: KeysShared, name: str, ciphertext: bytes) -> HeldShares:
    r = state.round
    channel, context = state.agreed[name][0], r.cohort.context
    key = channel_key(channel, context, sender=name, receiver=r.node, view=state.view)
    plaintext = unseal(key, ciphertext, context=context, sender=name, receiver=r.node)
    seed, mask = plaintext[:SHARE_BYTES], plaintext[SHARE_BYTES:]
    decode_share(seed)
    decode_share(mask)
    return HeldShares(seed=seed, mask=mask)


def _check_size(r: ClientRound, count: int, what: str) -> None:
    if count < r.min_cohort:
        raise QuorumError(f"{count} {what}, want at least {r.min_cohort}")


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
        raise QuorumError(f"{valid} valid consents, want {r.cohort.manifest.threshold}")


def _is_signed(entry: Consent, r: ClientRound) -> bool:
    try:
        entry.verify(r.cohort.context, r.cohort.roster[entry.node])
    except VerificationError:
        return False
    return True
