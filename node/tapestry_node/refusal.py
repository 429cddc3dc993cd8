"""Refusals of a node: an error, the reason that leaves the node, and objections."""

import logging
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
from tapestry.inputs.faults import TRACEBACK, unforeseen, wants_traceback
from tapestry.inputs.private_data import frames_of
from tapestry.protocol.messages import Kind, Reason

_logger = logging.getLogger(__name__)


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


def log_refusal(name: str, kind: Kind, error: Exception) -> Objection:
    """Write the cause of a refusal to the node's own log; return it for its status.

    Guarantees:
        Only errors of ours are told in full. Another one may quote a record: of it only
        type and place are, and the lines of code where the operator asked for
        tracebacks.
    """
    if isinstance(error, TapestryError):
        said = "%s: refused %s: %s [%s]; the reply says %s"
        reason = reason_of(error).value
        _logger.warning(said, name, kind, error, error.code, reason)
        return Objection.of(error)
    found = Objection("internal", f"internal error: {unforeseen(error)}")
    _logger.error(
        "%s: refused %s: %s; %s=1 shows the traceback",
        *(name, kind, found.detail, TRACEBACK),
    )
    if wants_traceback():
        _logger.error("%s", frames_of(error))
    return found
