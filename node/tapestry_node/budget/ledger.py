"""The privacy ledger: what an institution promises its records and has spent of it.

One ledger per institution and dataset. Whatever leaves the node and was computed
from the records is charged here first: rounds, adapters, evaluations.

    reserve  before training: does it fit next to all that is spent or reserved?
    spend    before anything leaves: from now on it counts, come what may
    release  a reservation whose result never left and never will

Entries are only ever appended, each names the digest of the one before, and the
number and digest of the last one are mirrored outside the database. A database
restored from a backup is behind that mirror, and is refused.

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
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from tapestry.encoding import decode_decimal, decode_digest, digest, encode_decimal
from tapestry.errors import (
    BudgetExhausted,
    ConfigError,
    PolicyError,
    ProtocolError,
    VerificationError,
)
from tapestry.privacy import accounting
from tapestry.storage.sqlite_database import Database, Schema, open_database
from tapestry_node.budget.ledger_entries import (
    Charge,
    ChargeRecord,
    HeadFile,
    LedgerReplay,
)

__all__ = ["Balance", "Charge", "ChargeRecord", "HeadFile", "Ledger", "PrivacyPromise"]

_FORMAT = "tapestry-budget/1"
_SCHEMA = Schema(
    application="TpLe",
    version=1,
    tables="CREATE TABLE entries (number INTEGER PRIMARY KEY, body BLOB NOT NULL);",
)


def _now() -> datetime:
    return datetime.now(UTC)


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

    Each method raises ``VerificationError`` if the database was restored, cut or
    changed, ``ResourceError`` if it cannot be read or written, and ``ConfigError`` if
    the clock runs before the last entry.
    """

    def __init__(
        self,
        path: Path,
        terms: PrivacyPromise,
        *,
        mirror: HeadFile,
        clock: Callable[[], datetime] = _now,
        readonly: bool = False,
    ) -> None:
        """Take a ledger's place and terms; use ``open`` or ``look`` instead."""
        self._path, self._terms, self._readonly = path, terms, readonly
        self._mirror, self._clock = mirror, clock

    @classmethod
    def open(
        cls,
        path: Path,
        terms: PrivacyPromise,
        *,
        mirror: HeadFile | None = None,
        clock: Callable[[], datetime] = _now,
    ) -> Self:
        """Open the ledger of a dataset, or start one.

        Of the ``terms`` a changed limit is noted, anything else refused. ``mirror``
        keeps the last entry's digest as well, by default beside the database.

        Raises:
            ConfigError: Dataset, delta, unit or adjacency differ from the ledger's.
        """
        mirror = mirror or HeadFile(path.with_name(path.name + ".mirror"))
        ledger = cls(path, terms, mirror=mirror, clock=clock)
        with ledger._writing() as book:
            ledger._agree(book)
        return ledger

    @classmethod
    def look(cls, path: Path, *, epsilon: float, fallback_epsilon: float) -> Self:
        """Open a ledger to read it under these limits, whatever became of its data.

        Raises:
            ConfigError: The ledger was never started.
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
        ledger._terms = replace(terms, dataset=held["dataset"], delta=delta)
        return ledger

    def reserve(self, charge: Charge) -> None:
        """Set budget aside before the work starts.

        Raises:
            BudgetExhausted: The charge does not fit; the message says what is left.
            PolicyError: The same name was charged with other steps.
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
            BudgetExhausted: The charge does not fit.
            PolicyError: The same name was charged with other steps.
        """
        with self._reading() as book:
            if not self._known(book, charge):
                self._check_fits([row.charge for row in book.rows.values()], charge)

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

    def spend(self, charge: Charge) -> None:
        """Count a reserved charge as spent; durable when this returns.

        Raises:
            PolicyError: It was not reserved, or with other steps.
        """
        with self._writing() as book:
            if not self._known(book, charge):
                raise PolicyError(
                    f"{charge.title} was not reserved", code="charge-not-reserved"
                )
            if book.rows[charge.key].state == "reserved":
                book.append({"type": "spend", **charge.body()})

    def release(self, charge: Charge) -> None:
        """Give a reservation back; what is spent stays spent, without an error."""
        with self._writing() as book:
            row = book.rows.get(charge.key)
            if row is not None and row.state == "reserved":
                book.append({"type": "release", **charge.body()})

    def rows(self) -> list[ChargeRecord]:
        """Return everything reserved or spent, oldest first."""
        with self._reading() as book:
            return list(book.rows.values())

    def balance(self) -> Balance:
        """Compute what is spent and what is left, at the ledger's delta."""
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

    def spent(self, *, target_delta: float, fallback: bool = False) -> float:
        """Compute the epsilon of all that was spent, at a delta."""
        mine = [row.charge for row in self.rows() if row.state == "spent"]
        steps = [charge.fallback if fallback else charge.steps for charge in mine]
        return accounting.epsilon(steps, target_delta=target_delta)

    def shares_noise(self) -> bool:
        """Return true if the epsilon counts on the noise of others."""
        return any(
            row.charge.fallback != row.charge.steps
            for row in self.rows()
            if row.state == "spent"
        )

    def rounds_left(self, charge: Charge) -> int:
        """Count how many more charges like this one fit."""
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
            spent = row is not None and row.state == "spent"
            if row is None or not spent or row.charge.body() != charge.body():
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
                    " records that were never in it may have another ledger",
                    code="dataset-differs",
                )
            if held != value:
                raise ConfigError(
                    f"{name} is {value}, the ledger's is {held}",
                    code="ledger-setting-differs",
                )
        limits = {
            "epsilon": encode_decimal(self._terms.epsilon),
            "fallback_epsilon": encode_decimal(self._terms.fallback_epsilon),
        }
        if book.limits != tuple(limits.values()):
            book.append({"type": "limit", **limits})

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
