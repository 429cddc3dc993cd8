"""Accounts of a node's spending, from its ledger to the log and back.

Reading this needs no machine-learning stack, so that an operator can look at budget
and receipts on any machine.
"""

import math
from collections.abc import Iterable, Iterator, Sequence

from tapestry.encoding import decode_decimal, encode_decimal
from tapestry.errors import ConfigError, PolicyError
from tapestry.privacy import accounting
from tapestry.protocol.round_manifest import PrivacyPlan
from tapestry_governance.audit.privacy_accounts import recompute, steps_of
from tapestry_governance.audit.privacy_statement import spent_on
from tapestry_governance.events.envelope import open_entry
from tapestry_governance.events.privacy_events import (
    BlockEpsilon,
    DpAccounted,
    PrivacyLoss,
    UnboundedLoss,
    Unit,
)
from tapestry_governance.rules.federation_state import FederationState
from tapestry_governance.rules.round_records import AccountedSpending
from tapestry_node.budget.ledger import Charge, Ledger
from tapestry_node.budget.ledger_entries import Key


def own_spending(accounts: Iterable[bytes]) -> list[AccountedSpending]:
    """Read a node's own signed accounts, also those that the log does not have yet."""
    bodies = (open_entry(entry).event.body for entry in accounts)
    said = (body for body in bodies if isinstance(body, DpAccounted))
    return [AccountedSpending.of(body, index=at) for at, body in enumerate(said)]


def published_charges(state: FederationState, name: str) -> Iterator[Charge]:
    """Iterate over the charges of a node in the log, oldest first."""
    charges = map(published_charge, state.spending_of(name))
    return (charge for charge in charges if charge is not None)


def key_of(said: AccountedSpending) -> Key:
    """Name what an account of the log is of."""
    if said.adapter is not None:
        return "adapter", said.adapter, said.version or 0
    return "round", said.run_id, said.round_number or 0


def published_charge(said: AccountedSpending) -> Charge | None:
    """Return the charge of an account in the log; None without noise."""
    if (loss := said.promise) is None:
        return None
    purpose, run, number = key_of(said)
    return Charge(
        purpose="adapter" if purpose == "adapter" else "round",
        run=run,
        number=number,
        steps=steps_of(said.steps, loss),
        own_multiplier=decode_decimal(loss.own_multiplier),
        blocks=tuple(each.block for each in loss.blocks),
    )


def check_cap(
    charge: Charge,
    *,
    ledger: Ledger,
    state: FederationState,
    name: str,
    target_delta: str,
) -> Charge:
    """Narrow a charge to what the log would account for, before anything is spent.

    Raises:
        BudgetExhausted: The institution's epsilon would pass the federation's cap.
        PolicyError: By the log, or by its own accounts, the institution trained
            without noise before.
    """
    bare = state.without_noise.get(name)
    if bare is not None or ledger.lacks_noise():
        where = f"entry {bare.index} of the log" if bare else "an account of its own"
        raise PolicyError(
            f"{charge.title} would be accounted for, but by {where} these records were"
            " trained on without noise, and no epsilon holds for them any more",
            code="training-without-noise",
        )
    cap = decode_decimal(state.policy.epsilon_cap)
    return ledger.check_cap(charge, target_delta=decode_decimal(target_delta), cap=cap)


def ancestry_epsilon(
    account: DpAccounted,
    release: str,
    *,
    state: FederationState,
    spending: Iterable[AccountedSpending],
) -> str | None:
    """Compose an adapter's account with the node's rounds that led to its release.

    ``spending`` is all of the node, the account among it. The log may lack some.

    Returns:
        The largest epsilon of a block; None where a part leaves no promise, or none
        that is finite.
    """
    base, adapter = state.release_named(release), account.adapter
    trained = None if adapter is None else (adapter, account.version or 0)
    spent = spent_on(spending, base, state=state, adapter=trained)
    found = [each.recomputed for each in recompute({"": spent})]
    known = [each for each in found if each is not None]
    bounded = len(known) == len(found) and math.isfinite(max(known))
    return _rounded_up(max(known)) if bounded else None


def _rounded_up(epsilon: float) -> str:
    return encode_decimal(math.ceil(epsilon * 10**6) / 10**6)


def loss_of(
    charge: Charge | None, plan: PrivacyPlan, *, spent: Sequence[Charge], unit: Unit
) -> UnboundedLoss | PrivacyLoss:
    """Account for a charge as a ``dp.accounted`` event does.

    ``spent`` are all charges up to it. The epsilons are composed at the delta that the
    event names, which may be smaller than the ledger's.

    Raises:
        ConfigError: There is noise and no charge for it, or a charge and no noise.
    """
    if charge is None and plan.noise == "none":
        return UnboundedLoss(mechanism="none")
    if plan.noise != "none" and unit not in (plan.unit, "person"):
        raise ConfigError(
            f"the plan promises something to each {plan.unit}, the data's unit is a"
            f" {unit}",
            code="unit-unsupported",
        )
    if charge is None or plan.noise == "none":
        raise ConfigError(
            f"noise {plan.noise!r} does not go with charge {charge}",
            code="privacy-terms-differ",
        )
    delta = decode_decimal(plan.target_delta)
    blocks = tuple(
        _block_epsilon(block, [c for c in spent if block in c.blocks], delta)
        for block in charge.blocks
    )
    shared = any(each.epsilon_fallback is not None for each in blocks)
    steps, own = charge.steps, charge.own_multiplier
    integer = steps.coordinates > 0
    return PrivacyLoss(
        mechanism=accounting.INTEGER_MECHANISM if integer else accounting.MECHANISM,
        unit=unit,
        adjacency=plan.adjacency,
        trust_model="shared" if shared else "local",
        clip_norm=plan.clip_norm,
        noise_multiplier=encode_decimal(steps.noise_multiplier),
        own_multiplier=encode_decimal(own),
        shares=round((steps.noise_multiplier / own) ** 2),
        coordinates=steps.coordinates,
        bound=encode_decimal(steps.bound),
        sampling_rate=encode_decimal(steps.sampling_rate),
        target_delta=plan.target_delta,
        blocks=blocks,
        segments=(),
        accountant=accounting.ACCOUNTANT,
        accountant_version=accounting.ACCOUNTANT_VERSION,
    )


def _block_epsilon(block: int, spent: Sequence[Charge], delta: float) -> BlockEpsilon:
    """Compose what a block paid for; with a fallback where noise is shared."""
    shared = any(each.fallback != each.steps for each in spent)
    epsilon = accounting.epsilon((c.steps for c in spent), target_delta=delta)
    fallback = accounting.epsilon((c.fallback for c in spent), target_delta=delta)
    return BlockEpsilon(
        block=block,
        epsilon=_rounded_up(epsilon),
        epsilon_fallback=_rounded_up(fallback) if shared else None,
    )
