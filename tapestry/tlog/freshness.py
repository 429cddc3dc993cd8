"""The age of a checkpoint, although some clocks of witnesses are wrong or lie.

Each cosignature says when it was made, and its maker may be mistaken or help the
coordinator. So no single time counts. Let f witnesses be faulty::

    cosigned at     10:58   11:00   11:01   11:02   12:00        f = 1
                            ^ known_by              ^ refused as a time
                                            ^ seen_at

* ``seen_at``, the (f+1)-th newest: some honest witness cosigned then or later. How
  old a checkpoint is counts from here, so f liars cannot freshen an old one.
* ``known_by``, the (f+1)-th oldest: some honest witness cosigned then or before.
  Whether a checkpoint is from the future is decided here, so f clocks that run ahead
  do not make it so.

f is how many witnesses the trust policy can do without: n - k for k of n. That is at
least the floor((n-1)/3) that ``witness_quorum`` guards against, and never so many that
waiting for honest clocks could block a checkpoint: when none is missing, f of them may
be fast and f slow, as long as n > 2f.

Only witnesses that the quorum counts date a checkpoint. Where groups must all have
cosigned, as members and outside witnesses, it is the first group alone, the members: an
outsider could otherwise freshen any checkpoint, or keep all of them from being fresh.

Edge cases:
    With fewer than 2f + 1 cosignatures the two times may cross, and one wrong clock
    can make the checkpoint look too old or too new: refused, never wrongly accepted.
    With no more than f (a policy of ``any``), all of them have to agree.
"""

from dataclasses import dataclass

from tapestry.errors import PolicyError
from tapestry.tlog.trust_policy import NONE, CosignedCheckpoint, TrustPolicy

MAX_AHEAD = 300  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Between which honest clocks a checkpoint was cosigned, in POSIX seconds."""

    known_by: int
    seen_at: int

    @classmethod
    def of(cls, opened: CosignedCheckpoint, trust: TrustPolicy) -> "Times":
        """Derive both times from the cosignatures.

        Raises:
            PolicyError: The checkpoint has no cosignature that dates it, which a policy
                without a quorum allows.
        """
        names = _timekeepers(trust)
        times = sorted(c.time for c in opened.cosignatures if c.witness in names)
        if not times:
            raise PolicyError(
                f"checkpoint of size {opened.checkpoint.size} has no cosignature, so"
                " its age is unknown",
                code="checkpoint-without-time",
            )
        skipped = min(tolerated(trust), len(times) - 1)
        return cls(known_by=times[skipped], seen_at=times[-1 - skipped])


def check_fresh(
    opened: CosignedCheckpoint,
    trust: TrustPolicy,
    *,
    now: int,
    limit: int,
    before: CosignedCheckpoint | None,
) -> None:
    """Refuse a checkpoint that is old, from the future, or older than the last one.

    ``now`` is in POSIX seconds, ``limit`` an age in seconds; ``before`` is the last
    checkpoint that was accepted.

    Raises:
        PolicyError: The checkpoint is older than the limit, ahead of this clock, or
            older than the one accepted before.
    """
    times, size = Times.of(opened, trust), opened.checkpoint.size
    age, ahead = now - times.seen_at, times.known_by - now
    if age > limit:
        raise PolicyError(
            f"checkpoint of size {size} is {age} s old, at most {limit} s are allowed",
            code="checkpoint-too-old",
        )
    if ahead > MAX_AHEAD:
        raise PolicyError(
            f"checkpoint of size {size} is {ahead} s ahead of this clock, at"
            f" most {MAX_AHEAD} s are allowed; check the clock",
            code="checkpoint-from-future",
        )
    if before is None:
        return
    behind = Times.of(before, trust).seen_at - times.known_by
    if behind > MAX_AHEAD:
        raise PolicyError(
            f"checkpoint of size {size} is {behind} s before the last one",
            code="checkpoint-before-last",
        )


def tolerated(trust: TrustPolicy) -> int:
    """Return how many of those that date it, whichever, a checkpoint can do without."""
    if trust.quorum == NONE:
        return 0
    needed = dict.fromkeys((witness.name for witness in trust.witnesses), 1)
    for group in trust.groups:  # in order of definition, so members come first
        cheapest = sorted(needed[name] for name in group.members)
        needed[group.name] = sum(cheapest[: len(cheapest) - group.threshold + 1])
    return needed[_dating(trust)] - 1


def _dating(trust: TrustPolicy) -> str:
    """Name the group that dates checkpoints: the first that must have cosigned."""
    groups, name = {group.name: group for group in trust.groups}, trust.quorum
    while name in groups and groups[name].threshold == len(groups[name].members):
        inner = [each for each in groups[name].members if each in groups]
        if not inner:
            break
        name = inner[0]
    return name


def _timekeepers(trust: TrustPolicy) -> set[str]:
    """Name the witnesses that date a checkpoint; all, if no quorum is wanted."""
    if trust.quorum == NONE:
        return {witness.name for witness in trust.witnesses}
    names = {_dating(trust)}
    for group in reversed(trust.groups):  # inner ones come first in a policy
        if group.name in names:
            names = names - {group.name} | {*group.members}
    return names
