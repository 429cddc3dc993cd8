"""Refusals of nodes: their reasons in words, and the decision to end a run.

A node signs the code of a reason for the log, and nothing else.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence

from tapestry.errors import ProtocolError
from tapestry.protocol.messages import (
    BodyT,
    Identity,
    Kind,
    Message,
    Reason,
    Refusal,
    expect_body,
)
from tapestry.protocol.round_manifest import RoundManifest
from tapestry_governance.events.envelope import Event
from tapestry_governance.events.round_events import (
    ContributionCommitted,
    ContributionRefused,
)

_logger = logging.getLogger(__name__)
_LEAST = 2  # final refusals that may end a run


def read_reply(reply: Message, want: type[BodyT]) -> BodyT:
    """Read the body of a reply that must be of one kind.

    Raises:
        ProtocolError: The node refuses, for the reason in the message; or the reply
            is of another kind, or its body is not of that type.
    """
    if reply.kind is Kind.REFUSAL:
        reason = expect_body(reply, Refusal).reason
        raise ProtocolError(
            f"it refuses: {reason.words} ({reason.value})", code="request-refused"
        )
    return expect_body(reply, want)


def is_at_fault(name: str, said: Identity) -> bool:
    """Say whether a node can do nothing, and log why: it is asked nothing then."""
    if said.refuses is not None:
        text = "node %s refuses everything: %s [%s]"
        _logger.warning(text, name, said.refuses.words, said.refuses)
    return said.refuses is not None


def latest(events: Sequence[Event]) -> dict[str, ContributionRefused]:
    """Find the members that refused the last round that they were asked for."""
    found: dict[str, ContributionRefused] = {}
    for event in events:
        if isinstance(event.body, ContributionRefused):
            found[event.actor] = event.body
        elif isinstance(event.body, ContributionCommitted):
            found.pop(event.actor, None)
    return found


def in_words(refused: Mapping[str, Reason], *, asked: int) -> str:
    """Describe the reasons and their counts, the most frequent first.

    Edge cases:
        The text is empty if no node refused.
    """
    counts = Counter(refused.values())
    order = sorted(counts, key=lambda reason: (-counts[reason], reason.value))
    return "; ".join(
        f"{counts[reason]} of {asked} nodes refused: {reason.words} ({reason.value})"
        for reason in order
    )


def end_the_run(refused: Mapping[str, Reason], manifest: RoundManifest) -> bool:
    """Return whether so many refuse for good that no further attempt can succeed.

    Guarantees:
        Up to ``max_colluding`` lying nodes cannot end a run by themselves, nor can a
        single one.

    Edge cases:
        A node that holds another base may catch up; if all do, no other node can help.
    """
    if lacks_base(refused, manifest):
        return True
    final = sum(reason.is_final for reason in refused.values())
    least = max(manifest.min_cohort, manifest.threshold)
    enough = max(_LEAST, manifest.max_colluding + 1)
    return final >= enough and len(manifest.participants) - final < least


def lacks_base(refused: Mapping[str, Reason], manifest: RoundManifest) -> bool:
    """Return whether no node of a round holds its base, by the word of all."""
    names = {each.name for each in manifest.participants}
    lacking = {n for n, why in refused.items() if why is Reason.BASE_MISMATCH}
    return lacking >= names and len(names) >= max(_LEAST, manifest.max_colluding + 1)


def by_round(events: Sequence[Event], *, run_id: str) -> dict[int, dict[str, Reason]]:
    """Find the refusals of a run among events: reasons by round and node."""
    found: dict[int, dict[str, Reason]] = {}
    for event in events:
        said = event.body
        if isinstance(said, ContributionRefused) and said.run_id == run_id:
            found.setdefault(said.round_number, {})[event.actor] = said.reason
    return found
