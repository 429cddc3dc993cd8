"""From shares to seeds: what the coordinator learns at the end of a round.

Each recovered secret is held against what its owner published before: the seed of a
self mask against its commitment, a mask key against the public key. If it does not
match, other sets of shares are tried, and the wrong ones are named.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tapestry.errors import VerificationError
from tapestry.protocol.secagg_messages import HeadList, KeyList, Reveal
from tapestry.secagg.client_states import Cohort
from tapestry.secagg.key_schedule import commitment, public_key
from tapestry.secagg.shamir import recover_checked


@dataclass(frozen=True, slots=True, kw_only=True)
class InconsistentShare:
    """A share that does not lie on its dealer's polynomial: one of the two lied."""

    dealer: str
    reporter: str


def recover_round(
    cohort: Cohort, keys: KeyList, *, heads: HeadList, reveals: Sequence[Reveal]
) -> tuple[dict[str, str], dict[str, str], tuple[InconsistentShare, ...]]:
    """Recover the seeds of the survivors and the mask keys of those that dropped out.

    Args:
        cohort: The manifest, read.
        keys: The key list.
        heads: The commitments.
        reveals: At least ``threshold``, each with shares of the same secrets.

    Returns:
        Seeds by name, mask keys by name, and the shares that were found wrong.

    Raises:
        VerificationError: A node, named, dealt shares of nothing it committed to.
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
            raise VerificationError(f"{dealer!r} dealt shares of nothing") from None
        faults += [
            InconsistentShare(dealer=dealer, reporter=names[p - 1]) for p in wrong
        ]
        found[dealer] = secret.hex()
    return found
