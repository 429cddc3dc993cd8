"""What the log says that a node did; its own memory must know all of it.

Reading this needs no machine-learning stack, so that an operator can look at budget
and receipts on any machine.
"""

from collections.abc import Iterator

from tapestry.encoding import decode_decimal
from tapestry_governance.audit.privacy_accounts import steps_of
from tapestry_governance.events.envelope import open_entry
from tapestry_governance.events.types import ContributionCommitted, DpAccounted
from tapestry_governance.log.mirror import LogMirror
from tapestry_node.budget.ledger_entries import Charge


def published_charges(view: LogMirror, name: str) -> Iterator[Charge]:
    """What the log says that a node spent; its ledger must know all of it."""
    for entry in view.entries(0, view.size):
        event = open_entry(entry).event
        said = event.body
        if event.actor != name or not isinstance(said, DpAccounted):
            continue
        if (loss := said.promise) is not None:
            yield Charge(
                purpose="adapter" if said.round_number is None else "round",
                run=said.run_id,
                number=said.round_number or said.version or 0,
                steps=steps_of(said.steps, loss),
                own_multiplier=decode_decimal(loss.own_multiplier),
            )


def committed_rounds(view: LogMirror, name: str) -> Iterator[tuple[str, int]]:
    """Run and number of each round that a node uploaded for, by the log."""
    for entry in view.entries(0, view.size):
        event = open_entry(entry).event
        if event.actor == name and isinstance(event.body, ContributionCommitted):
            yield event.body.run_id, event.body.round_number
