"""What the institution agreed to, what is spent; refuses the rest.

One ledger per institution and dataset. Whatever leaves the node and was computed
from the records is charged here first: rounds, adapters, evaluations.

    reserve  before training: does it fit next to all that is spent or reserved?
    spend    before anything leaves: from now on it counts, come what may
    release  a reservation whose result never left and never will

Entries are only ever appended, each names the digest of the one before, and the
number and digest of the last one are mirrored outside the database. A database
restored from a backup is behind its mirror, and is refused.

Guarantees:
    When ``spend`` returns, the charge is on disk (SQLite, WAL, synchronous=FULL) and
    in the mirror. The spent epsilon never exceeds the limit in force when it was
    reserved, and never decreases. Two processes may share a ledger.

Edge cases:
    A charge is named by purpose, run and number. Charging it again changes nothing:
    a node that crashed between spending and sending may do the work again, because
    at most one upload per round ever leaves (``state.db``, high-water mark). If the
    database *and* its mirror are restored together, only the federation's log still
    knows; ``require`` compares.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from tapestry.encoding import (
    decode_decimal,
    digest,
    encode_decimal,
)
from tapestry.errors import (
    BudgetExhausted,
    ConfigError,
    PolicyError,
    VerificationError,
)
from tapestry.privacy import accounting
from tapestry.storage.sqlite_database import Database, Schema, open_database
from tapestry_node.budget.ledger_entries import (
    Charge,
    ChargeRecord,
    HeadFile,
    HeadStore,
    LedgerReplay,
)
from tapestry_node.budget.terms import Balance, PrivacyPromise

__all__ = [
    "Balance",
    "Charge",
    "ChargeRecord",
    "HeadFile",
    "HeadStore",
    "Ledger",
    "PrivacyPromise",
]

_FORMAT = "tapestry-budget/1"
_SCHEMA = Schema(
    application="TpLe",
    version=1,
    tables="CREATE TABLE entries (number INTEGER PRIMARY KEY, body BLOB NOT NULL);",
)


def _now() -> datetime:
    return datetime.now(UTC)


class Ledger:
    """The budget of one dataset; open it with ``open``."""

    def __init__(
        self,
        path: Path,
        terms: PrivacyPromise,
        *,
        mirror: HeadStore,
        clock: Callable[[], datetime] = _now,
        readonly: bool = False,
    ) -> None:
        """Take a ledger's place and terms; use ``open`` or ``look`` instead."""
        self._path = path
        self._readonly = readonly
        self._terms = terms
        self._mirror = mirror
        self._clock = clock

    @classmethod
    def open(
        cls,
        path: Path,
        terms: PrivacyPromise,
        *,
        mirror: HeadStore | None = None,
        clock: Callable[[], datetime] = _now,
    ) -> Self:
        """Open the ledger of a dataset, or start one.

        Args:
            path: The SQLite database.
            terms: The promise; a changed limit is noted, anything else refused.
            mirror: Where the last entry is kept as well; a file beside the database
                unless given.
            clock: What time it is.

        Raises:
            ConfigError: Another dataset, delta, unit or adjacency than the ledger's;
                a clock that runs before the last entry.
            VerificationError: The database was restored, cut or changed.
            ResourceError: The database cannot be read or written.
        """
        mirror = mirror or HeadFile(path.with_name(path.name + ".mirror"))
        ledger = cls(path, terms, mirror=mirror, clock=clock)
        with ledger._writing() as book:
            ledger._agree(book)
        return ledger

    @classmethod
    def look(cls, path: Path, *, epsilon: float, fallback_epsilon: float) -> Self:
        """Open a ledger to read it, whatever became of its data.

        Args:
            path: The SQLite database.
            epsilon: The limit.
            fallback_epsilon: The limit under shared noise.

        Raises:
            ConfigError: It was never started; as ``open``.
            VerificationError, ResourceError: As ``open``.
        """
        never = f"{path} was never started; the node never ran"
        with suppress(OSError):  # what cannot be looked at, cannot be read either
            if path.is_file() and path.stat().st_size == 0:  # SQLite would begin it
                raise ConfigError(never, code="ledger-missing")
        mirror = HeadFile(path.with_name(path.name + ".mirror"))
        terms = PrivacyPromise(
            dataset=digest(b""),
            records=1,
            epsilon=epsilon,
            fallback_epsilon=fallback_epsilon,
            delta=0.5,
        )
        ledger = cls(path, terms, mirror=mirror, readonly=True)
        with ledger._reading() as book:
            held = book.terms
        if held is None:
            raise ConfigError(never, code="ledger-missing")
        delta = decode_decimal(held["delta"])
        terms = replace(terms, dataset=held["dataset"], delta=delta)
        return cls(path, terms, mirror=mirror, readonly=True)

    def reserve(self, charge: Charge) -> None:
        """Set budget aside before the work starts.

        Raises:
            BudgetExhausted: It does not fit; says what is left, and for how many.
            PolicyError: The same name was charged with other steps.
            ConfigError, VerificationError, ResourceError: As ``open``.
        """
        with self._writing() as book:
            if self._known(book, charge):
                return
            charges = [row.charge for row in book.rows.values()]
            self._check_fits(charges, charge)
            book.append({"type": "reserve", **charge.body()})

    def check(self, charge: Charge) -> None:
        """Refuse what ``reserve`` would refuse, and reserve nothing.

        Raises:
            BudgetExhausted, PolicyError: As ``reserve``.
            ConfigError, VerificationError, ResourceError: As ``open``.
        """
        with self._reading() as book:
            if not self._known(book, charge):
                self._check_fits([row.charge for row in book.rows.values()], charge)

    def check_run(self, charge: Charge, *, target_delta: float, cap: float) -> None:
        """Hold a run with one more charge against what its federation allows.

        Otherwise the log would refuse the account of what was spent already.

        Raises:
            BudgetExhausted: The run would pass the cap, or promise nothing at all.
        """
        rows = [row.charge for row in self.rows() if row.charge.run == charge.run]
        mine = [each for each in rows if each.key != charge.key] + [charge]
        after = accounting.epsilon((c.steps for c in mine), target_delta=target_delta)
        if not after <= cap:
            raise BudgetExhausted(
                f"{charge.title} would bring the run's epsilon to {after:.3f} at delta"
                f" {target_delta:g}, over the federation's cap of {cap:g}",
                code="epsilon-above-cap",
            )
        last = accounting.epsilon((c.fallback for c in mine), target_delta=target_delta)
        if last == math.inf:
            raise BudgetExhausted(
                f"{charge.title} has no finite fallback epsilon",
                code="epsilon-unreachable",
            )

    def spend(self, charge: Charge) -> None:
        """Count a reserved charge as spent; durable when this returns.

        Raises:
            PolicyError: It was not reserved, or with other steps.
            ConfigError, VerificationError, ResourceError: As ``open``.
        """
        with self._writing() as book:
            if not self._known(book, charge):
                raise PolicyError(
                    f"{charge.title} was not reserved", code="charge-not-reserved"
                )
            if book.rows[charge.key].state == "reserved":
                book.append({"type": "spend", **charge.body()})

    def release(self, charge: Charge) -> None:
        """Give a reservation back; what is spent stays spent, without an error.

        Raises:
            ConfigError, VerificationError, ResourceError: As ``open``.
        """
        with self._writing() as book:
            row = book.rows.get(charge.key)
            if row is not None and row.state == "reserved":
                book.append({"type": "release", **charge.body()})

    def rows(self) -> list[ChargeRecord]:
        """Everything reserved or spent, oldest first."""
        with self._reading() as book:
            return list(book.rows.values())

    def balance(self) -> Balance:
        """What is spent and what is left, at the ledger's delta."""
        rows = self.rows()
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

    def spent_on(
        self, run: str, *, target_delta: float, fallback: bool = False
    ) -> float:
        """Epsilon that a run spent, as if it were alone, at a delta of its own."""
        rows = self.rows()
        mine = [r.charge for r in rows if r.state == "spent" and r.charge.run == run]
        steps = [charge.fallback if fallback else charge.steps for charge in mine]
        return accounting.epsilon(steps, target_delta=target_delta)

    def shares_noise(self, run: str) -> bool:
        """Whether what a run spent counts on the noise of others."""
        return any(
            row.charge.run == run and row.charge.fallback != row.charge.steps
            for row in self.rows()
        )

    def rounds_left(self, charge: Charge) -> int:
        """How many more charges like this one fit."""
        return self._left([row.charge for row in self.rows()], charge)

    def require(self, published: Iterable[Charge]) -> None:
        """Compare with what the federation's log says that this node spent.

        Raises:
            VerificationError: The log holds a charge that the ledger does not: both
                it and its mirror were restored from before that charge.
        """
        rows = {row.charge.key: row for row in self.rows()}
        for charge in published:
            row = rows.get(charge.key)
            known = row is not None and row.charge.body() == charge.body()
            if not known or row is None or row.state != "spent":
                raise VerificationError(
                    f"the log says that {charge.title} was spent; this ledger"
                    " does not: it was restored from before that",
                    code="ledger-restored",
                )

    def _agree(self, book: LedgerReplay) -> None:
        """Start the ledger, or see that it was started on the same terms."""
        fixed = {
            "format": _FORMAT,
            "dataset": self._terms.dataset,
            "delta": encode_decimal(self._terms.delta),
            "unit": self._terms.unit,
            "adjacency": self._terms.adjacency,
        }
        if book.terms is None:
            book.append({"type": "open", **fixed})
        for name, value in fixed.items():
            held = (book.terms or {}).get(name)
            if held != value and name == "dataset":
                raise ConfigError(
                    f"{self._terms.place} was changed: its dataset is {value}, that of"
                    f" {self._path} is {held}; put the data back as it was, since only"
                    " records that were never in it may have a ledger of their own",
                    code="dataset-differs",
                )
            if held != value:
                raise ConfigError(
                    f"{name} is {value}, the ledger's is {held}",
                    code="ledger-setting-differs",
                )
        epsilon = encode_decimal(self._terms.epsilon)
        fallback = encode_decimal(self._terms.fallback_epsilon)
        if book.limits != (epsilon, fallback):
            book.append(
                {"type": "limit", "epsilon": epsilon, "fallback_epsilon": fallback}
            )

    def _known(self, book: LedgerReplay, charge: Charge) -> bool:
        row = book.rows.get(charge.key)
        if row is not None and row.charge.body() != charge.body():
            raise PolicyError(
                f"{charge.title} was charged before with other steps",
                code="charge-differs",
            )
        return row is not None

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

    @contextmanager
    def _writing(self) -> Iterator[LedgerReplay]:
        with self._opened() as database:
            with database.transaction():
                book = self._read(database)
                before = book.number
                yield book
            if book.number > before or self._mirror.latest() is None:
                self._mirror.record(book.number, book.head)

    @contextmanager
    def _reading(self) -> Iterator[LedgerReplay]:
        with self._opened(readonly=self._readonly) as database:
            yield self._read(database)

    @contextmanager
    def _opened(self, *, readonly: bool = False) -> Iterator[Database]:
        """Open the database for one operation; each entry is checked by its digest."""
        opened = open_database(self._path, _SCHEMA, readonly=readonly, check=False)
        with closing(opened) as database, database.errors():
            yield database

    def _read(self, database: Database) -> LedgerReplay:
        book = LedgerReplay(database, self._clock())
        book.load(mirrored=self._mirror.latest(), name=str(self._path))
        return book
