"""What a node's ledger tells the log, and what the log tells the ledger.

Reading this needs no machine-learning stack, so that an operator can look at budget
and receipts on any machine.
"""

from collections.abc import Iterator
from typing import Any

from tapestry.encoding import decode_fraction, encode_fraction
from tapestry.privacy import accounting
from tapestry.protocol.wire_messages import PrivacyPlan
from tapestry.settings import number
from tapestry_governance.audit.privacy_accounts import steps_of
from tapestry_governance.rules.federation_state import FederationState
from tapestry_node.budget.ledger import Ledger
from tapestry_node.budget.ledger_entries import Charge


def published_charges(
    state: FederationState, name: str, *, since: int = 0
) -> Iterator[Charge]:
    """Iterate over what the log says that a node spent, which its ledger must know.

    Args:
        state: The log, folded.
        name: The node.
        since: The index of the first entry that counts.
    """
    for said in state.spending_of(name, since=since):
        if said.epsilon_run is not None:
            yield Charge(
                purpose="adapter" if said.round_number is None else "round",
                run=said.run_id,
                number=said.round_number or said.version or 0,
                steps=steps_of(said),
                own_multiplier=decode_fraction(said.own_multiplier),
            )


def account_of(
    charge: Charge | None, plan: PrivacyPlan, *, ledger: Ledger
) -> dict[str, Any]:
    """The fields of a ``dp.accounted`` event that a charge and its promise fix.

    The epsilons are composed at the delta that the event names, which may be smaller
    than the ledger's.
    """
    fixed = {
        "unit": plan.unit,
        "adjacency": plan.adjacency,
        "clip_norm": plan.clip_norm,
        "target_delta": plan.target_delta,
        "accountant": accounting.ACCOUNTANT,
        "accountant_version": accounting.accountant_version(),
    }
    if charge is None:
        return {**fixed, **_NOTHING_PROMISED}
    delta, shared = number(plan.target_delta), ledger.shares_noise(charge.run)
    epsilon = ledger.spent_on(charge.run, target_delta=delta)
    fallback = ledger.spent_on(charge.run, target_delta=delta, fallback=True)
    steps, own = charge.steps, charge.own_multiplier
    integer = steps.coordinates > 0
    return {
        **fixed,
        "trust_model": "shared" if shared else "local",
        "mechanism": accounting.INTEGER_MECHANISM if integer else accounting.MECHANISM,
        "noise_multiplier": encode_fraction(steps.noise_multiplier),
        "own_multiplier": encode_fraction(own),
        "shares": round((steps.noise_multiplier / own) ** 2),
        "coordinates": steps.coordinates,
        "bound": encode_fraction(steps.bound),
        "sampling_rate": encode_fraction(steps.sampling_rate),
        "epsilon_run": encode_fraction(round(epsilon, 6)),
        "epsilon_fallback": encode_fraction(round(fallback, 6)) if shared else None,
    }


_NOTHING_PROMISED = {
    "trust_model": "local",
    "mechanism": "none",
    "noise_multiplier": "0",
    "own_multiplier": "0",
    "shares": 1,
    "coordinates": 0,
    "bound": "0",
    "sampling_rate": "1",
    "epsilon_run": None,
    "epsilon_fallback": None,
}
