"""What an error on a node becomes before it leaves: a code, and nothing else."""

import pytest

from tapestry.errors import (
    BudgetExhausted,
    ConfigError,
    InconsistentLog,
    PolicyError,
    ProtocolError,
    QuorumError,
    ResourceError,
    RuleError,
    VerificationError,
)
from tapestry.protocol.messages import Reason
from tapestry_node.refusal import Refused, reason_of


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Refused(Reason.BASE_MISMATCH, "x", code="x"), Reason.BASE_MISMATCH),
        (BudgetExhausted("x"), Reason.BUDGET_EXHAUSTED),
        (InconsistentLog("x"), Reason.INCONSISTENT_VIEW),
        (QuorumError("x"), Reason.QUORUM_MISSING),
        (VerificationError("x"), Reason.NOT_IN_LOG),
        (RuleError("x"), Reason.NOT_IN_LOG),
        (ProtocolError("x"), Reason.PROTOCOL),
        (PolicyError("x"), Reason.LOCAL_POLICY),
        (ConfigError("x"), Reason.MAINTENANCE),
        (ResourceError("x"), Reason.MAINTENANCE),
        (ValueError("x"), Reason.INTERNAL),
        (MemoryError("x"), Reason.INTERNAL),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_an_error_is_reduced_to_a_code(error: Exception, reason: Reason) -> None:
    assert reason_of(error) is reason
