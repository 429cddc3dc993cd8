"""Accounts in a node's state that no log would take, for tests of the state alone."""

from collections.abc import Sequence

from tapestry_node.budget.ledger import Charge


def unsigned(number: int, spent: Sequence[Charge]) -> bytes:
    """Return the account of a number; what is spent does not matter."""
    return b"account %d of %d" % (number, len(spent))
