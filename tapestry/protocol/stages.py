"""The stages of a round: the one vocabulary of messages, deadlines, log and display.

The five stages of secure aggregation have the names of Bonawitz et al., "Practical
Secure Aggregation for Privacy-Preserving Machine Learning" (CCS 2017), figure 4. The
coordinator adds one stage before them and two after.
"""

from enum import StrEnum
from typing import Final


class RoundStage(StrEnum):
    """A stage of a round; the members are in the order in which a round takes them."""

    OPEN = "open"  # the manifest is logged and cosigned
    ADVERTISE_KEYS = "advertise_keys"  # nodes send two fresh public keys
    SHARE_KEYS = "share_keys"  # nodes send encrypted shares of their secrets
    COLLECT_MASKED_INPUTS = "collect_masked_inputs"  # nodes train, mask and upload
    CHECK_CONSISTENCY = "check_consistency"  # nodes sign the list of survivors
    UNMASK = "unmask"  # nodes reveal shares; the masks are taken off the sum
    EVALUATE = "evaluate"  # the acceptance gate measures the sum
    CLOSE = "close"  # the outcome is logged, and nodes apply the result


SECAGG_STAGES: Final = (
    RoundStage.ADVERTISE_KEYS,
    RoundStage.SHARE_KEYS,
    RoundStage.COLLECT_MASKED_INPUTS,
    RoundStage.CHECK_CONSISTENCY,
    RoundStage.UNMASK,
)
