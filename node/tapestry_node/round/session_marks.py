"""The mark of a node's session: at which step of which round it is, and in which file.

It is an entry of the node's state, beside the marks of uploads and consents. Only the
file that the last one names is taken up after a restart.
"""

from dataclasses import asdict, dataclass
from typing import Any, Self

from tapestry.errors import VerificationError
from tapestry.protocol.round_manifest import RoundManifest
from tapestry.protocol.stages import SECAGG_STAGES, RoundStage
from tapestry_governance.rules.federation_state import FederationState, round_key


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionMark:
    """The step of a round whose reply left last, or was about to."""

    run: str
    round_number: int
    attempt: int
    stage: str
    digest: str  # of the sealed file
    changed: str  # when the file system saw it come there

    @property
    def key(self) -> tuple[str, int, int]:
        """Run, round and attempt."""
        return self.run, self.round_number, self.attempt

    def follows(self, before: Self | None) -> bool:
        """Return whether it is the next step, or the first one where there is none."""
        if before is None:
            return _step(self.stage) == 0
        return self.key == before.key and _step(self.stage) == _step(before.stage) + 1

    def body(self) -> dict[str, Any]:
        """The fields of an entry."""
        return asdict(self)

    @classmethod
    def parse(cls, fields: dict[str, Any]) -> Self:
        """Read the fields that ``body`` wrote."""
        return cls(**fields)


def _step(stage: str) -> int:
    return SECAGG_STAGES.index(RoundStage(stage))


def has_uploaded(stage: str) -> bool:
    """Return whether a masked vector may have left at a stage."""
    return _step(stage) >= _step(RoundStage.COLLECT_MASKED_INPUTS)


def round_of(mark: SessionMark, state: FederationState | None) -> RoundManifest:
    """Return the plan of a session's round, if the log still waits for its end here.

    Raises:
        VerificationError: It is not the log's last round, or has ended. A round that
            was closed counts where the node has done its part, until its result comes.
    """
    newest = state.newest if state is not None else None
    if state is not None and newest is not None and round_key(newest) == mark.key:
        awaits_result = mark.stage == RoundStage.UNMASK and state.was_closed
        if state.open_round is not None or awaits_result:
            return newest
    raise VerificationError(
        f"round {mark.round_number} of {mark.run!r} is not open any more",
        code="round-not-open",
    )
