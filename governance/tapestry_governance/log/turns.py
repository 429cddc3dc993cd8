"""The witnesses that count, by the log itself, and the notes by which they changed."""

from collections.abc import Iterable
from dataclasses import dataclass

from tapestry.tlog.trust_policy import TrustPolicy
from tapestry.tlog.turn import Trust, turn_to
from tapestry_governance.rules.federation_state import FederationState

MAX_NOTES = 64  # turns that travel in one message


@dataclass(frozen=True, slots=True)
class Turns:
    """The trust policy that a party began with, and those that the log names later.

    Guarantees:
        Until the log changes its witnesses, the policy from outside counts. Then a
        checkpoint counts if the witnesses in force at the last accepted one have
        cosigned it, and those in force in the log that it covers.
    """

    founding: TrustPolicy

    def in_force(self, state: FederationState | None, size: int) -> TrustPolicy:
        """Return the policy in force in the log of the first ``size`` entries."""
        if state is None or len(state.trusted) < 2:
            return self.founding
        found = state.trusted_at(max(size, state.trusted[0].size))
        return self.founding if found is state.trusted[0] else found.policy

    def to_accept(
        self, state: FederationState | None, size: int, *, since: int
    ) -> Trust:
        """Return what a checkpoint must meet, after one of ``since`` entries."""
        now = self.in_force(state, size)
        return turn_to(now, before=self.in_force(state, min(since, size)))

    def sizes(self, state: FederationState, published: Iterable[int]) -> list[int]:
        """Return at which of some sizes, in order, other witnesses came into force."""
        found, last = list[int](), self.founding
        for size in published if len(state.trusted) > 1 else ():
            if (policy := self.in_force(state, size)) != last:
                found.append(size)
                last = policy
        return found
