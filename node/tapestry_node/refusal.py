"""Refusals of a node: an error, the reason that leaves the node, and objections."""

from dataclasses import dataclass
from typing import Self

from tapestry.errors import (
    BudgetExhausted,
    InconsistentLog,
    PolicyError,
    ProtocolError,
    QuorumError,
    RuleError,
    TapestryError,
    VerificationError,
)
from tapestry.protocol.messages import Reason


class Refused(PolicyError):
    """A refusal: ``reason`` alone leaves the node; code and detail stay in its log."""

    def __init__(self, reason: Reason, detail: str, *, code: str) -> None:
        """Keep the reason for the wire, and rule and detail for the operator."""
        super().__init__(f"{reason.value}: {detail}", code=code)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True, slots=True)
class Objection:
    """A rule that keeps a node from joining: its code, and a line for the operator."""

    code: str
    detail: str

    @classmethod
    def of(cls, error: TapestryError, *, place: str = "", remedy: str = "") -> Self:
        """Put the line together from an error, its place and a further remedy."""
        said = error.detail if isinstance(error, Refused) else str(error)
        return cls(code=error.code, detail=" ".join(f"{place}{said}{remedy}".split()))

    def __str__(self) -> str:
        return f"{self.detail} [{self.code}]"


_REASONS: tuple[tuple[type[Exception], Reason], ...] = (
    (BudgetExhausted, Reason.BUDGET_EXHAUSTED),
    (InconsistentLog, Reason.INCONSISTENT_VIEW),
    (QuorumError, Reason.QUORUM_MISSING),
    (VerificationError, Reason.NOT_IN_LOG),
    (RuleError, Reason.NOT_IN_LOG),
    (ProtocolError, Reason.PROTOCOL),
    (PolicyError, Reason.LOCAL_POLICY),
    (TapestryError, Reason.MAINTENANCE),
)


def reason_of(error: Exception) -> Reason:
    """Reduce an error to the only thing that may leave the node."""
    if isinstance(error, Refused):
        return error.reason
    for kind, reason in _REASONS:
        if isinstance(error, kind):
            return reason
    return Reason.INTERNAL
