"""Who dealt bad shares, when the masks of a round do not come off.

A share is sealed for its receiver, so one that does not fit was either dealt wrong
or reported wrong, and no signature tells which. Counting does: with as many good
reporters as the manifest counts on, a dealer's secret is found whatever the others
say. If it is not found, the dealer lied.
"""

from collections.abc import Mapping, Sequence

from tapestry.errors import VerificationError
from tapestry.protocol.secagg_messages import HeadList, KeyList, Reveal
from tapestry.secagg.client_states import Cohort
from tapestry.secagg.recovery import recover_round

_SEARCHED = 16  # cohorts up to this size are searched for t good shares, see sharing


def bad_dealers(
    cohort: Cohort, keys: KeyList, *, heads: HeadList, reveals: Sequence[Reveal]
) -> tuple[str, ...]:
    """Name those who dealt shares of nothing they had committed to.

    Guarantees:
        While at most ``max_colluding`` nodes lie (one, where it is 0), only liars are
        named.

    Edge cases:
        With too few reveals to tell a bad dealer from a bad reporter nobody is named.
    """
    manifest = cohort.manifest
    liars = max(1, manifest.max_colluding)
    spare = liars if len(manifest.participants) <= _SEARCHED else 2 * liars
    if len(reveals) < manifest.threshold + spare:
        return ()
    dealers = sorted({n for r in reveals for n in (*r.self_shares, *r.mask_shares)})
    return tuple(
        name
        for name in dealers
        if not _fits(cohort, keys, heads=heads, reveals=[_of(r, name) for r in reveals])
    )


def _fits(
    cohort: Cohort, keys: KeyList, *, heads: HeadList, reveals: Sequence[Reveal]
) -> bool:
    try:
        recover_round(cohort, keys, heads=heads, reveals=reveals)
    except VerificationError:
        return False
    return True


def _of(reveal: Reveal, dealer: str) -> Reveal:
    """Keep the shares of one dealer."""
    shares = {
        "self_shares": _only(reveal.self_shares, dealer),
        "mask_shares": _only(reveal.mask_shares, dealer),
    }
    return reveal.model_copy(update=shares)


def _only(shares: Mapping[str, str], dealer: str) -> dict[str, str]:
    return {name: share for name, share in shares.items() if name == dealer}
