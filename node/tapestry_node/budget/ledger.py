"""The privacy ledger: what an institution promises its records and has spent of it.

One ledger per institution and dataset. Whatever leaves the node and was computed
from the records is charged here first: rounds, adapters, evaluations.

    reserve  before training: does it fit next to all that is spent or reserved?
    spend    before anything leaves: from now on it counts, come what may
    release  a reservation whose result never left and never will

Its entries are those of the node's state (``node_state``), next to the upload marks: a
round's charge is spent in one transaction with its mark, by ``NodeState.take_upload``.

Guarantees:
    When ``spend`` returns, the charge is on disk (SQLite, WAL, synchronous=FULL) and
    in the mirror. The spent epsilon never exceeds the limit in force when it was
    reserved, and never decreases. Two processes may share a ledger. Only after a backup
    was restored it may be over the limit: what may have been spent counts as spent.

Edge cases:
    A charge is named by purpose, run and number. Charging it again changes nothing. A
    round whose charge is spent is never trained for again, whether or not it left. If
    the database *and* its mirror are restored together, only the federation's log
    still knows; ``require`` compares.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from tapestry.encoding import decode_decimal, decode_digest, encode_decimal
from tapestry.errors import (
    BudgetExhausted,
    ConfigError,
    ProtocolError,
    VerificationError,
)
from tapestry.privacy import accounting
from tapestry_node.budget.ledger_entries import Charge, ChargeRecord
from tapestry_node.node_state import NodeState
from tapestry_node.state_entries import Sign, StateReplay

__all__ = ["Balance", "Charge", "ChargeRecord", "Ledger", "PrivacyPromise"]

_FORMAT = "tapestry-budget/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyPromise:
    """The privacy guarantee that an institution gives its records, from its policy.

    Raises:
        ConfigError: Epsilon or delta is out of range, or delta not below 1/records.
    """

    dataset: str  # digest of the declared data
    records: int
    epsilon: float
    fallback_epsilon: float  # with the node's own share of noise alone
    delta: float
    unit: str = "record"
    adjacency: str = accounting.ADJACENCY
    place: str = "the data"  # where the records lie, for messages

    def __post_init__(self) -> None:
        if self.records < 1:
            raise ConfigError(
                f"{self.records} records is not a dataset", code="records-missing"
            )
        accounting.check_epsilon(self.epsilon)
        accounting.check_epsilon(self.fallback_epsilon)
        if self.fallback_epsilon < self.epsilon:
            raise ConfigError(
                f"a fallback epsilon of {self.fallback_epsilon:g} is below the limit of"
                f" {self.epsilon:g}; it must be at least that",
                code="epsilon-out-of-range",
            )
        accounting.check_delta(self.delta, records=self.records)
        if self.unit != "record" or self.adjacency != accounting.ADJACENCY:
            raise ConfigError(
                f"no accounting for {self.unit} under {self.adjacency}",
                code="unit-unsupported",
            )
        try:
            decode_digest(self.dataset)
        except ProtocolError as error:
            raise ConfigError(f"dataset is {error}", code="digest-malformed") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """Epsilon at ``delta``: spent for good, with reservations, and allowed.

    ``fallback`` is spent if all other nodes take out the noise that they share; without
    shared noise it equals ``spent``.
    """

    spent: float
    committed: float
    limit: float
    fallback: float
    fallback_limit: float
    delta: float
    unit: str
    adjacency: str
    by_run: dict[str, float]  # spent by each run or adapter, as if it were alone


class Ledger:
    """The budget of one dataset; open it with ``open``.

    Each method raises what the methods of ``NodeState`` raise.
    """

    def __init__(self, state: NodeState, terms: PrivacyPromise) -> None:
        """Take a ledger's place and terms; use ``open`` or ``look`` instead."""
        self._state, self._terms = state, terms

    @classmethod
    def open(cls, state: NodeState, terms: PrivacyPromise) -> Self:
        """Open the ledger of a dataset, or start one.

        Of the ``terms`` a changed limit is noted, anything else refused.

        Raises:
            ConfigError: Dataset, delta, unit or adjacency differ from the ledger's.
        """
        ledger = cls(state, terms)
        with state.writing() as replay:
            ledger._agree(replay)
        return ledger

    @classmethod
    def view(cls, state: NodeState, terms: PrivacyPromise) -> Self:
        """Open the ledger of a dataset to read it, started or not; nothing is noted.

        Raises:
            ConfigError: Dataset, delta, unit or adjacency differ from the ledger's.
        """
        ledger, held = cls(state, terms), state.reading().terms
        if held is not None:
            ledger._compare(held)
        return ledger

    @classmethod
    def look(cls, state: NodeState, *, epsilon: float, fallback_epsilon: float) -> Self:
        """Open a ledger to read it under these limits, whatever became of its data.

        Raises:
            ConfigError: The ledger was never started.
        """
        held = state.reading().terms
        if held is None:
            raise ConfigError(
                f"{state.path} has no ledger; the node never ran", code="ledger-missing"
            )
        terms = PrivacyPromise(
            dataset=held["dataset"],
            records=1,
            epsilon=epsilon,
            fallback_epsilon=fallback_epsilon,
            delta=0.5,
        )
        return cls(state, replace(terms, delta=decode_decimal(held["delta"])))

    def reserve(self, charge: Charge) -> None:
        """Set budget aside before the work starts.

        Raises:
            BudgetExhausted: The charge does not fit; the message says what is left.
            PolicyError: The same name was charged with other steps.
        """
        with self._state.writing() as replay:
            if replay.is_charged(charge):
                return
            charges = [row.charge for row in replay.rows.values()]
            self._check_fits(charges, charge)
            replay.append({"type": "reserve", **charge.body()})

    def check(self, charge: Charge) -> None:
        """Refuse what ``reserve`` would refuse, and reserve nothing.

        Raises:
            BudgetExhausted: The charge does not fit.
            PolicyError: The same name was charged with other steps.
        """
        replay = self._state.reading()
        if not replay.is_charged(charge):
            self._check_fits([row.charge for row in replay.rows.values()], charge)

    def check_cap(self, charge: Charge, *, target_delta: float, cap: float) -> None:
        """Check all charges with one more against the federation's cap.

        Without this check the log would refuse the account of what was spent already.

        Raises:
            BudgetExhausted: They would pass the cap, or promise nothing at all.
        """
        rows = [row.charge for row in self.rows()]
        mine = [each for each in rows if each.key != charge.key] + [charge]
        after = accounting.epsilon((c.steps for c in mine), target_delta=target_delta)
        if not after <= cap:
            raise BudgetExhausted(
                f"{charge.title} would bring epsilon to {after:.3f} at delta"
                f" {target_delta:g}, over the federation's cap of {cap:g}",
                code="epsilon-above-cap",
            )
        last = accounting.epsilon((c.fallback for c in mine), target_delta=target_delta)
        if last == math.inf:
            raise BudgetExhausted(
                f"{charge.title} has no finite fallback epsilon; take more noise",
                code="epsilon-unreachable",
            )

    def spend(self, charge: Charge, sign: Sign) -> bytes:
        """Count a reserved charge as spent, and return its account, in the outbox.

        Both are durable when this returns.

        Raises:
            PolicyError: It was not reserved, or with other steps.
        """
        with self._state.writing() as replay:
            replay.spend(charge)
            return replay.account(charge.key, sign)

    def release(self, charge: Charge) -> None:
        """Give a reservation back; what is spent stays spent, without an error."""
        with self._state.writing() as replay:
            row = replay.rows.get(charge.key)
            if row is not None and row.state == "reserved":
                replay.append({"type": "release", **charge.body()})

    def rows(self) -> list[ChargeRecord]:
        """Return everything reserved or spent, oldest first."""
        return list(self._state.reading().rows.values())

    def balance(self, rows: Sequence[ChargeRecord] | None = None) -> Balance:
        """Compute what is spent and what is left, at the ledger's delta.

        With ``rows``, of these, and the state is not read.
        """
        rows = self.rows() if rows is None else rows
        spent = [row for row in rows if row.state == "spent"]
        runs = sorted({row.charge.run for row in spent})
        return Balance(
            spent=self._epsilon(row.charge.steps for row in spent),
            committed=self._epsilon(row.charge.steps for row in rows),
            limit=self._terms.epsilon,
            fallback=self._epsilon(row.charge.fallback for row in spent),
            fallback_limit=self._terms.fallback_epsilon,
            delta=self._terms.delta,
            unit=self._terms.unit,
            adjacency=self._terms.adjacency,
            by_run={
                run: self._epsilon(r.charge.steps for r in spent if r.charge.run == run)
                for run in runs
            },
        )

    def to_json(self) -> dict[str, Any]:
        """Return balance and charges for programs; an infinite epsilon is null."""
        rows = self.rows()
        charges = [
            {**row.charge.body(), "state": row.state, "time": row.time.isoformat()}
            for row in rows
        ]
        balance = asdict(self.balance(rows))
        del balance["by_run"]
        said = {k: None if v == math.inf else v for k, v in balance.items()}
        return {**said, "charges": charges}

    def lacks_noise(self) -> bool:
        """Return true if something was trained without noise: nothing holds then."""
        replay = self._state.reading()
        return any(key not in replay.rows for key in replay.accounted)

    def rounds_left(
        self, charge: Charge, rows: Sequence[ChargeRecord] | None = None
    ) -> int:
        """Count how many more charges like this one fit, beside all or some rows."""
        rows = self.rows() if rows is None else rows
        return self._left([row.charge for row in rows], charge)

    def require(self, published: Iterable[Charge]) -> None:
        """Compare with what the federation's log says that this node spent.

        A state that was restored by command is compared when it has caught up.

        Raises:
            VerificationError: The log holds a charge that the ledger does not: both
                it and its mirror were restored from before that charge.
        """
        if self._state.restored is not None:
            return
        rows = {row.charge.key: row for row in self.rows()}
        for charge in published:
            row = rows.get(charge.key)
            spent = row is not None and row.state == "spent"
            if row is None or not spent or row.charge.body() != charge.body():
                raise VerificationError(
                    f"the log says that {charge.title} was spent; this ledger"
                    " does not: it was restored from before that",
                    code="ledger-restored",
                )

    def _agree(self, replay: StateReplay) -> None:
        """Start the ledger, or see that it was started on the same terms."""
        if replay.terms is None:
            replay.append({"type": "open", **self._fixed})
        else:
            self._compare(replay.terms)
        limits = {
            "epsilon": encode_decimal(self._terms.epsilon),
            "fallback_epsilon": encode_decimal(self._terms.fallback_epsilon),
        }
        if replay.limits != tuple(limits.values()):
            replay.append({"type": "limit", **limits})

    @property
    def _fixed(self) -> dict[str, str]:
        return {
            "format": _FORMAT,
            "dataset": self._terms.dataset,
            "delta": encode_decimal(self._terms.delta),
            "unit": self._terms.unit,
            "adjacency": self._terms.adjacency,
        }

    def _compare(self, terms: dict[str, str]) -> None:
        """See that the ledger was started on the same terms."""
        for name, value in self._fixed.items():
            held = terms.get(name)
            if held != value and name == "dataset":
                raise ConfigError(
                    f"{self._terms.place} was changed: its dataset is {value}, that of"
                    f" {self._state.path} is {held}; put the data back as it was, since"
                    " only records that were never in it may have another ledger",
                    code="dataset-differs",
                )
            if held != value:
                raise ConfigError(
                    f"{name} is {value}, the ledger's is {held}",
                    code="ledger-setting-differs",
                )

    def _epsilon(self, steps: Iterable[accounting.Steps]) -> float:
        return accounting.epsilon(steps, target_delta=self._terms.delta)

    def _check_fits(self, charges: list[Charge], charge: Charge) -> None:
        after = self._epsilon(each.steps for each in [*charges, charge])
        fallback = self._epsilon(each.fallback for each in [*charges, charge])
        for name, value, limit in (
            ("epsilon", after, self._terms.epsilon),
            ("the fallback epsilon", fallback, self._terms.fallback_epsilon),
        ):
            if not value <= limit:
                spent = self._epsilon(each.steps for each in charges)
                raise BudgetExhausted(
                    f"{charge.title} would bring {name} to {value:.3f}, over the limit"
                    f" of {limit:g}; {spent:.3f} is spent or reserved, and"
                    f" {self._left(charges, charge)} of this kind fit",
                    code="budget-exhausted",
                )

    def _left(self, charges: list[Charge], charge: Charge) -> int:
        left = accounting.rounds_left(
            [each.steps for each in charges],
            charge.steps,
            limit_epsilon=self._terms.epsilon,
            target_delta=self._terms.delta,
        )
        if all(each.fallback == each.steps for each in [*charges, charge]):
            return left
        last = accounting.rounds_left(
            [each.fallback for each in charges],
            charge.fallback,
            limit_epsilon=self._terms.fallback_epsilon,
            target_delta=self._terms.delta,
        )
        return min(left, last)
