"""Seeds and keys from shares, and the dealers and reporters of wrong ones.

The coordinator's last step of a round, with identifiable abort. Each recovered secret
is compared with what its owner published before: the seed of a self mask with its
commitment, a root with the public keys that follow from it. If they differ, other sets
of shares are tried, and the shares that do not fit are named.

A share is sealed for its receiver, so one that does not fit was either dealt wrong or
reported wrong, and no signature tells which. Counting does: with as many correct
reporters as the manifest counts on, a dealer's secret is found whatever the others
say. If it is not found, the dealer lied.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from tapestry.errors import VerificationError
from tapestry.protocol.secagg_messages import (
    HeadList,
    KeyList,
    Reveal,
)
from tapestry.secagg.client_states import Cohort
from tapestry.secagg.contribution_proof import show
from tapestry.secagg.key_schedule import commitment
from tapestry.secagg.pair_messages import PairMessages
from tapestry.secagg.shamir import recover_checked
from tapestry.secagg.share_channel import ShareChannel, is_root, own_keys

_SEARCHED = 16  # cohorts up to this size are searched for t good shares, see shamir


@dataclass(frozen=True, slots=True, kw_only=True)
class InconsistentShare:
    """A share that does not lie on its dealer's polynomial: one of the two lied."""

    dealer: str
    reporter: str


def recover_round(
    cohort: Cohort, keys: KeyList, *, heads: HeadList, reveals: Sequence[Reveal]
) -> tuple[dict[str, str], dict[str, str], tuple[InconsistentShare, ...]]:
    """Recover the seeds of the survivors and the roots of those that dropped out.

    Returns:
        Seeds by name, roots by name (32 bytes in hex), and the shares that were
        found wrong.

    Raises:
        QuorumError: There are fewer reveals than ``threshold``.
        VerificationError: No set of shares gives the secret that a dealer, named, had
            committed to.
    """
    committed = {h.node: h.commitment for h in heads.heads}
    advertised = {a.node: a for a in keys.advertisements}

    def is_seed(name: str, seed: bytes) -> bool:
        return commitment(seed, cohort.context, node=name).hex() == committed[name]

    def is_own_root(name: str, root: bytes) -> bool:
        return is_root(root, cohort, advertised[name])

    faults: list[InconsistentShare] = []
    seeds = _recover(
        cohort,
        {r.node: r.self_shares for r in reveals},
        matches=is_seed,
        faults=faults,
    )
    roots = _recover(
        cohort,
        {r.node: r.root_shares for r in reveals},
        matches=is_own_root,
        faults=faults,
    )
    return seeds, roots, tuple(faults)


Contributed = Mapping[str, Mapping[str, bytes]]
"""By lost node, by survivor: what one of the two contributed to their mask."""


def recover_contributions(
    cohort: Cohort,
    sent: Mapping[str, PairMessages],
    *,
    roots: Mapping[str, str],
    revealed: Mapping[str, Mapping[str, str]],
    view: bytes,
) -> tuple[Contributed, tuple[str, ...]]:
    """Find the contributions to masks of survivors with nodes that dropped out.

    Those of the latter follow from their roots. A survivor has revealed its own, or
    they are opened with keys that follow from these roots. Each is compared with what
    its maker had committed to.

    Guarantees:
        A node that is named sent a message, signed, that does not hold what it had
        committed to in it. That a survivor revealed nothing fails nothing.

    Args:
        cohort: That of the round.
        sent: The messages of each node to the others.
        roots: Those of the nodes that dropped out.
        revealed: By survivor what it revealed, compared with its commitments before,
            by lost node; nothing of one that did not answer.
        view: The digest of the key list.

    Returns:
        The contributions; and the nodes whose contribution is not the one that they
        committed to.
    """
    if not cohort.hybrid:
        return {}, ()
    found: dict[str, dict[str, bytes]] = {name: {} for name in roots}
    liars = set()
    for dropped, secret in roots.items():
        root = bytes.fromhex(secret)
        keys = own_keys(root, cohort, node=dropped)
        for node, own in revealed.items():
            if dropped in own:
                found[dropped][node] = bytes.fromhex(own[dropped])
                continue
            from_dropped = cohort.contributes(dropped, node)
            ends = (dropped, node) if from_dropped else (node, dropped)
            channel = ShareChannel(
                cohort=cohort, sender=ends[0], receiver=ends[1], view=view
            )
            data = sent[ends[0]].to[ends[1]]
            if from_dropped:
                derived = channel.own_contribution(root)
                made = derived if channel.has_committed(derived, data) else None
            else:
                made = channel.recover_contribution(data, keys)
            if made is None:
                liars.add(ends[0])
            else:
                found[dropped][node] = made
    return found, tuple(sorted(liars))


def show_contributions(
    cohort: Cohort,
    sent: Mapping[str, PairMessages],
    *,
    contributed: Contributed,
    lost: Collection[str],
    survivors: Sequence[str],
) -> dict[str, str]:
    """Show what each survivor contributed to its masks with lost nodes (message 10)."""
    shown = {}
    for node in survivors if cohort.hybrid else ():
        commitments = sent[node].commitments
        made = {
            place: contributed[name][node]
            for place, name in enumerate(commitments)
            if name in lost
        }
        if made:
            proof = show([*commitments.values()], [*made], [*made.values()])
            shown[node] = (sent[node].hashed + proof).hex()
    return shown


def bad_dealers(
    cohort: Cohort, keys: KeyList, *, heads: HeadList, reveals: Sequence[Reveal]
) -> tuple[str, ...]:
    """Name the dealers whose shares do not give what they had committed to.

    Guarantees:
        While at most ``max_colluding`` nodes lie (one, where it is 0), only liars are
        named.

    Edge cases:
        With too few reveals to tell a bad dealer from a bad reporter, none is named.
    """
    manifest = cohort.manifest
    liars = max(1, manifest.max_colluding)
    spare = liars if len(manifest.participants) <= _SEARCHED else 2 * liars
    if len(reveals) < manifest.threshold + spare:
        return ()
    named = []
    for dealer in sorted(
        {n for r in reveals for n in (*r.self_shares, *r.root_shares)}
    ):
        dealt = [_of_dealer(reveal, dealer) for reveal in reveals]
        try:
            recover_round(cohort, keys, heads=heads, reveals=dealt)
        except VerificationError:
            named.append(dealer)
    return tuple(named)


def _of_dealer(reveal: Reveal, dealer: str) -> Reveal:
    """Keep the shares of one dealer."""

    def only(shares: Mapping[str, str]) -> dict[str, str]:
        return {name: share for name, share in shares.items() if name == dealer}

    shares = {
        "self_shares": only(reveal.self_shares),
        "root_shares": only(reveal.root_shares),
    }
    return reveal.model_copy(update=shares)


def _recover(
    cohort: Cohort,
    shares: Mapping[str, Mapping[str, str]],
    *,
    matches: Callable[[str, bytes], bool],
    faults: list[InconsistentShare],
) -> dict[str, str]:
    """Recover one secret per dealer, appending to ``faults``."""
    names = list(cohort.roster)
    found = {}
    for dealer in sorted(next(iter(shares.values()))):
        points = {
            cohort.places[reporter]: bytes.fromhex(row[dealer])
            for reporter, row in shares.items()
        }

        def accept(secret: bytes, *, dealer: str = dealer) -> bool:
            return matches(dealer, secret)

        try:
            secret, wrong = recover_checked(
                points,
                cohort.manifest.threshold,
                accept=accept,
                suspects=[cohort.places[fault.reporter] for fault in faults],
            )
        except VerificationError:
            raise VerificationError(
                f"no {cohort.manifest.threshold} of {len(points)} revealed shares give"
                f" the secret that {dealer!r} committed to in round"
                f" {cohort.manifest.round_number}",
                code="secret-not-recovered",
            ) from None
        faults += [
            InconsistentShare(dealer=dealer, reporter=names[p - 1]) for p in wrong
        ]
        found[dealer] = secret.hex()
    return found
