"""What the log is told about a charge: the body of a ``dp.accounted`` event."""

from dataclasses import dataclass
from typing import Literal

from tapestry.encoding import decode_fraction, encode_fraction
from tapestry.privacy import accounting
from tapestry.protocol.round_manifest import PrivacyPlan, RoundManifest
from tapestry_governance.events.types import DpAccounted
from tapestry_node.budget.ledger import Ledger
from tapestry_node.budget.ledger_entries import Charge

Mechanism = Literal["none", "poisson-subsampled-gaussian", "poisson-subsampled-skellam"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountSubject:
    """The training that an account is about: a round, or a version of an adapter."""

    run_id: str
    steps: int
    round_number: int | None = None
    attempt: int | None = None
    adapter: str | None = None
    version: int | None = None

    @classmethod
    def of_round(cls, manifest: RoundManifest) -> "AccountSubject":
        """Name the training of a round."""
        return cls(
            run_id=manifest.run_id,
            steps=manifest.training.steps,
            round_number=manifest.round_number,
            attempt=manifest.attempt,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _AccountFigures:
    """The figures of an account; by default those of a training without a promise."""

    trust_model: Literal["local", "shared"] = "local"
    mechanism: Mechanism = "none"
    noise_multiplier: str = "0"
    own_multiplier: str = "0"
    shares: int = 1
    coordinates: int = 0
    bound: str = "0"
    sampling_rate: str = "1"
    epsilon_run: str | None = None
    epsilon_fallback: str | None = None


def account_of(
    subject: AccountSubject,
    charge: Charge | None,
    plan: PrivacyPlan,
    *,
    ledger: Ledger,
) -> DpAccounted:
    """Write the account of a training.

    The epsilons are composed at the delta that the event names, which may be smaller
    than the ledger's.

    Args:
        subject: The training.
        charge: What the ledger charged for it; None where nothing is promised.
        plan: The promise of each record.
        ledger: Holds what else the run was charged for.
    """
    figures = _figures(charge, plan, ledger) if charge else _AccountFigures()
    return DpAccounted(
        run_id=subject.run_id,
        round_number=subject.round_number,
        attempt=subject.attempt,
        adapter=subject.adapter,
        version=subject.version,
        steps=subject.steps,
        unit=plan.unit,
        adjacency=plan.adjacency,
        clip_norm=plan.clip_norm,
        target_delta=plan.target_delta,
        accountant=accounting.ACCOUNTANT,
        accountant_version=accounting.accountant_version(),
        trust_model=figures.trust_model,
        mechanism=figures.mechanism,
        noise_multiplier=figures.noise_multiplier,
        own_multiplier=figures.own_multiplier,
        shares=figures.shares,
        coordinates=figures.coordinates,
        bound=figures.bound,
        sampling_rate=figures.sampling_rate,
        epsilon_run=figures.epsilon_run,
        epsilon_fallback=figures.epsilon_fallback,
    )


def _figures(charge: Charge, plan: PrivacyPlan, ledger: Ledger) -> _AccountFigures:
    delta, shared = decode_fraction(plan.target_delta), ledger.shares_noise(charge.run)
    epsilon = ledger.spent_on(charge.run, target_delta=delta)
    fallback = ledger.spent_on(charge.run, target_delta=delta, fallback=True)
    steps, own = charge.steps, charge.own_multiplier
    integer = steps.coordinates > 0
    return _AccountFigures(
        trust_model="shared" if shared else "local",
        mechanism=accounting.INTEGER_MECHANISM if integer else accounting.MECHANISM,
        noise_multiplier=encode_fraction(steps.noise_multiplier),
        own_multiplier=encode_fraction(own),
        shares=round((steps.noise_multiplier / own) ** 2),
        coordinates=steps.coordinates,
        bound=encode_fraction(steps.bound),
        sampling_rate=encode_fraction(steps.sampling_rate),
        epsilon_run=encode_fraction(round(epsilon, 6)),
        epsilon_fallback=encode_fraction(round(fallback, 6)) if shared else None,
    )
