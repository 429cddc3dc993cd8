"""Seeds and keys from shares, and the dealers and reporters of wrong ones.

The coordinator's last step of a round, with identifiable abort. Each recovered secret
is compared with what its owner published before: the seed of a self mask with its
commitment, a mask key with the public key. If they differ, other sets of shares are
tried, and the shares that do not fit are named.

A share is sealed for its receiver, so one that does not fit was either dealt wrong or
reported wrong, and no signature tells which. Counting does: with as many correct
reporters as the manifest counts on, a dealer's secret is found whatever the others
say. If it is not found, the dealer lied.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tapestry.errors import VerificationError
from tapestry.protocol.secagg_messages import HeadList, KeyList, Reveal
from tapestry.secagg.client_states import Cohort
from tapestry.secagg.key_schedule import commitment, public_key
from tapestry.secagg.shamir import recover_checked

_SEARCHED = 16  # cohorts up to this size are searched for t good shares, see shamir


@dataclass(frozen=True, slots=True, kw_only=True)
class InconsistentShare:
    """A share that does not lie on its dealer's polynomial: one of the two lied."""

    dealer: str
    reporter: str


def recover_round(
    cohort: Cohort, keys: KeyList, *, heads: HeadList, reveals: Sequence[Reveal]
) -> tuple[dict[str, str], dict[str, str], tuple[InconsistentShare, ...]]:
    """Recover the seeds of the survivors and the mask keys of those that dropped out.

    Returns:
        Seeds by name, mask keys by name (32 bytes in hex), and the shares that were
        found wrong.

    Raises:
        QuorumError: There are fewer reveals than ``threshold``.
        VerificationError: No set of shares gives the secret that a dealer, named, had
            committed to.
    """
    committed = {h.node: h.commitment for h in heads.heads}
    advertised = {a.node: a.mask_key for a in keys.advertisements}

    def is_seed(name: str, seed: bytes) -> bool:
        return commitment(seed, cohort.context, node=name).hex() == committed[name]

    def is_mask_key(name: str, secret: bytes) -> bool:
        return public_key(secret).hex() == advertised[name]

    faults: list[InconsistentShare] = []
    seeds = _recover(
        cohort,
        {r.node: r.self_shares for r in reveals},
        matches=is_seed,
        faults=faults,
    )
    secrets = _recover(
        cohort,
        {r.node: r.mask_shares for r in reveals},
        matches=is_mask_key,
        faults=faults,
    )
    return seeds, secrets, tuple(faults)


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
        {n for r in reveals for n in (*r.self_shares, *r.mask_shares)}
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
        "mask_shares": only(reveal.mask_shares),
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
