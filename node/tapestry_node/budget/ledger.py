"""The privacy ledger: what an institution promises its records and has spent of it.

One ledger per institution. Whatever leaves the node and was computed from the records
is charged here first: rounds, adapters, evaluations.

    fit      which blocks can pay? Those that cannot are left out of the training
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
    Every block has the whole limit to spend, and pays for each training whose charge
    names it, whether or not one of its units was drawn.

Edge cases:
    Single records are one block for ever. Units with a key come in blocks, one with
    each version of the data that brings new ones (governance/decisions/0024).
    A charge is named by purpose, run and number. Charging it again changes nothing. A
    round whose charge is spent is never trained for again, whether or not it left. If
    the database *and* its mirror are restored together, only the federation's log
    still knows; ``require`` compares.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from tapestry.encoding import decode_decimal, encode_decimal
from tapestry.errors import (
    BudgetExhausted,
    ConfigError,
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

    records: int  # of the largest block
    epsilon: float
    fallback_epsilon: float  # with the node's own share of noise alone
    delta: float
    unit: str = "record"
    key: str = ""  # the column or field that names the person; none of single records
    adjacency: str = accounting.ADJACENCY

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
        is_known = self.unit in ("record", "person")
        if not is_known or self.adjacency != accounting.ADJACENCY:
            raise ConfigError(
                f"no accounting for {self.unit} under {self.adjacency}",
                code="unit-unsupported",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockBalance:
    """Epsilon of one block: spent for good, and with reservations.

    ``fallback`` is spent if all other nodes take out the noise that they share; without
    shared noise it equals ``spent``.
    """

    block: int
    spent: float
    committed: float
    fallback: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """Epsilon at ``delta`` of each block, and the limits that hold for each.

    ``spent``, ``committed`` and ``fallback`` are those of the block with the most.
    """

    spent: float
    committed: float
    limit: float
    fallback: float
    fallback_limit: float
    blocks: tuple[BlockBalance, ...]
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
            ConfigError: Delta, unit, key or adjacency differ from the ledger's.
        """
        ledger = cls(state, terms)
        with state.writing() as replay:
            ledger._agree(replay)
        return ledger

    @classmethod
    def view(cls, state: NodeState, terms: PrivacyPromise) -> Self:
        """Open the ledger of a dataset to read it, started or not; nothing is noted.

        Raises:
            ConfigError: Delta, unit or adjacency differ from the ledger's.
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
            for block in charge.blocks:
                if (fault := self._fault(charges, charge, block)) is not None:
                    raise fault
            replay.append({"type": "reserve", **charge.body()})

    def known(self, charge: Charge) -> Charge:
        """Return a charge on the blocks that it was reserved or spent on, if it was."""
        row = self._state.reading().rows.get(charge.key)
        return row.charge if row and row.charge.is_like(charge) else charge

    def fit(self, charge: Charge) -> Charge:
        """Narrow a charge to the blocks that can pay for it, and reserve nothing.

        Edge cases:
            What was charged already keeps its blocks.

        Raises:
            BudgetExhausted: No block can pay for it.
            PolicyError: The same name was charged with other steps.
        """
        rows = self._state.reading().rows
        if charge.key in rows:
            return self.known(charge)
        charges = [row.charge for row in rows.values()]
        return _narrow(charge, lambda block: self._fault(charges, charge, block))

    def check_cap(self, charge: Charge, *, target_delta: float, cap: float) -> Charge:
        """Narrow a charge to the blocks that stay within the federation's cap.

        Without this check the log would refuse the account of what was spent already.

        Raises:
            BudgetExhausted: Each block would pass the cap, or promise nothing at all.
        """
        rows = [row.charge for row in self.rows()]
        mine = [each for each in rows if each.key != charge.key] + [charge]

        def fault(block: int) -> BudgetExhausted | None:
            own = _on(mine, block)
            steps = (each.steps for each in own)
            after = accounting.epsilon(steps, target_delta=target_delta)
            if not after <= cap:
                return BudgetExhausted(
                    f"{charge.title} would bring epsilon to {after:.3f} at delta"
                    f" {target_delta:g}, over the federation's cap of {cap:g}",
                    code="epsilon-above-cap",
                )
            last = (each.fallback for each in own)
            if accounting.epsilon(last, target_delta=target_delta) == math.inf:
                return BudgetExhausted(
                    f"{charge.title} has no finite fallback epsilon; take more noise",
                    code="epsilon-unreachable",
                )
            return None

        return _narrow(charge, fault)

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
        every = [row.charge for row in rows]
        spent = [row.charge for row in rows if row.state == "spent"]
        runs = sorted({charge.run for charge in spent})
        blocks = [
            BlockBalance(
                block=block,
                spent=self._epsilon(each.steps for each in _on(spent, block)),
                committed=self._epsilon(each.steps for each in _on(every, block)),
                fallback=self._epsilon(each.fallback for each in _on(spent, block)),
            )
            for block in _blocks(every)
        ]
        return Balance(
            spent=max(each.spent for each in blocks),
            committed=max(each.committed for each in blocks),
            limit=self._terms.epsilon,
            fallback=max(each.fallback for each in blocks),
            fallback_limit=self._terms.fallback_epsilon,
            blocks=tuple(blocks),
            delta=self._terms.delta,
            unit=self._terms.unit,
            adjacency=self._terms.adjacency,
            by_run={
                run: self._largest([each for each in spent if each.run == run])
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
        blocks = [
            {key: None if value == math.inf else value for key, value in each.items()}
            for each in balance["blocks"]
        ]
        return {**said, "blocks": blocks, "charges": charges}

    def lacks_noise(self) -> bool:
        """Return true if something was trained without noise: nothing holds then."""
        replay = self._state.reading()
        return any(key not in replay.rows for key in replay.accounted)

    def rounds_left(
        self, charge: Charge, rows: Sequence[ChargeRecord] | None = None
    ) -> int:
        """Count how many more charges like this one fit, beside all or some rows.

        Of the blocks that it names the one with the most left counts: the others are
        left out when they cannot pay.
        """
        rows = self.rows() if rows is None else rows
        charges = [row.charge for row in rows]
        return max(self._left(charges, charge, block) for block in charge.blocks)

    def paying(self, like: Charge, blocks: Iterable[int]) -> tuple[int, ...]:
        """Return which of some blocks can pay for one more charge."""
        charges = [row.charge for row in self.rows()]
        return tuple(
            block for block in blocks if self._fault(charges, like, block) is None
        )

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
            "unit": self._terms.unit,
            "key": self._terms.key,
            "delta": encode_decimal(self._terms.delta),
            "adjacency": self._terms.adjacency,
        }

    def _compare(self, terms: dict[str, str]) -> None:
        """See that the ledger was started on the same terms."""
        for name, value in self._fixed.items():
            held = terms.get(name)
            if held != value and name == "key":
                raise ConfigError(
                    f"the persons' key is the column {value!r}, that of the ledger is"
                    f" {held!r}: persons are known by its values, and other ones would"
                    " have fresh budgets; export the same keys under the old name",
                    code="ledger-setting-differs",
                )
            if held != value:
                raise ConfigError(
                    f"{name} is {value}, the ledger's is {held}",
                    code="ledger-setting-differs",
                )

    def _epsilon(self, steps: Iterable[accounting.Steps]) -> float:
        return accounting.epsilon(steps, target_delta=self._terms.delta)

    def _largest(self, charges: Sequence[Charge]) -> float:
        delta = self._terms.delta
        return largest_epsilon(charges, _blocks(charges), target_delta=delta)

    def _fault(
        self, charges: Sequence[Charge], charge: Charge, block: int
    ) -> BudgetExhausted | None:
        """Return why a block cannot pay for a charge beside others, or None."""
        own = _on(charges, block)
        after = self._epsilon(each.steps for each in [*own, charge])
        fallback = self._epsilon(each.fallback for each in [*own, charge])
        for name, value, limit in (
            ("epsilon", after, self._terms.epsilon),
            ("the fallback epsilon", fallback, self._terms.fallback_epsilon),
        ):
            if not value <= limit:
                spent = self._epsilon(each.steps for each in own)
                where = f" of block {block}" if block > 1 else ""
                return BudgetExhausted(
                    f"{charge.title} would bring {name}{where} to {value:.3f}, over the"
                    f" limit of {limit:g}; {spent:.3f} is spent or reserved, and"
                    f" {self._left(charges, charge, block)} of this kind fit",
                    code="budget-exhausted",
                )
        return None

    def _left(self, charges: Sequence[Charge], charge: Charge, block: int) -> int:
        charges = _on(charges, block)
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


def largest_epsilon(
    charges: Sequence[Charge], blocks: Iterable[int], *, target_delta: float
) -> float:
    """Return what the one of some blocks that paid most has paid."""
    return max(
        accounting.epsilon(
            (each.steps for each in _on(charges, block)), target_delta=target_delta
        )
        for block in blocks
    )


def _on(charges: Iterable[Charge], block: int) -> list[Charge]:
    """Return the charges that a block pays for."""
    return [each for each in charges if block in each.blocks]


def _blocks(charges: Iterable[Charge]) -> list[int]:
    """Return the blocks that charges name; block 1 where there are none."""
    return sorted({block for each in charges for block in each.blocks}) or [1]


def _narrow(charge: Charge, fault: Callable[[int], BudgetExhausted | None]) -> Charge:
    """Leave out the blocks with a fault; raise that of the newest if all have one."""
    faults = {block: fault(block) for block in charge.blocks}
    fitting = tuple(block for block, each in faults.items() if each is None)
    if not fitting and (last := faults[charge.blocks[-1]]) is not None:
        raise last
    return replace(charge, blocks=fitting)
