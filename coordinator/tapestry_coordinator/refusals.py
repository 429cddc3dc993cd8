"""Why nodes refuse, for the people who run a coordinator.

A node says a code and nothing else, signed, for the log. Here codes become words, and a
decision: whether waiting for another attempt makes sense.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from tapestry.errors import ProtocolError
from tapestry.protocol.messages import (
    BodyT,
    Kind,
    Message,
    Reason,
    Refusal,
    expect_body,
)
from tapestry.protocol.round_manifest import RoundManifest
from tapestry_governance.events.envelope import open_entry
from tapestry_governance.events.round_events import ContributionRefused

_HONEST = 2  # refusals that end a run, at least


def read_reply(reply: Message, want: type[BodyT]) -> BodyT:
    """Read the body of a reply that must be of one kind.

    Raises:
        ProtocolError: The node refuses, in words; or the reply is of another kind, or
            its body is not of that type.
    """
    if reply.kind is Kind.REFUSAL:
        reason = expect_body(reply, Refusal).reason
        raise ProtocolError(
            f"it refuses: {reason.words} ({reason.value})", code="request-refused"
        )
    return expect_body(reply, want)


def in_words(refused: Mapping[str, Reason], *, asked: int) -> str:
    """Say how many refused and why, the most frequent reason first.

    Edge cases:
        Nobody refused: an empty text.
    """
    counts = Counter(refused.values())
    order = sorted(counts, key=lambda reason: (-counts[reason], reason.value))
    return "; ".join(
        f"{counts[reason]} of {asked} nodes refused: {reason.words} ({reason.value})"
        for reason in order
    )


def end_the_run(refused: Mapping[str, Reason], manifest: RoundManifest) -> bool:
    """Whether so many refuse for good that no further attempt can succeed.

    Guarantees:
        Up to ``max_colluding`` nodes that lie cannot bring it about by themselves, nor
        can a single one.

    Args:
        refused: What nodes of the round signed.
        manifest: The round.
    """
    final = sum(reason.is_final for reason in refused.values())
    least = max(manifest.min_cohort, manifest.threshold)
    enough = max(_HONEST, manifest.max_colluding + 1)
    return final >= enough and len(manifest.participants) - final < least


def by_round(entries: Sequence[bytes], *, run_id: str) -> dict[int, dict[str, Reason]]:
    """Read from a log who refused which round of a run, and why."""
    found: dict[int, dict[str, Reason]] = {}
    for entry in entries:
        event = open_entry(entry).event
        said = event.body
        if isinstance(said, ContributionRefused) and said.run_id == run_id:
            found.setdefault(said.round_number, {})[event.actor] = said.reason
    return found
