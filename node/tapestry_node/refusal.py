"""How a node refuses: an error with the reason code that leaves the node."""

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
    """The node refuses; ``reason`` is all that anybody else learns."""

    def __init__(self, reason: Reason, detail: str) -> None:
        """Keep the code for the wire and the detail for the operator."""
        super().__init__(
            f"{reason.value}: {detail}", code=reason.value.replace("_", "-")
        )
        self.reason, self.detail = reason, detail


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
