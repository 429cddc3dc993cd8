"""Epsilon per institution and block, recomputed from its accounts in the log.

An institution reports, with every round and adapter, the parameters of its mechanism
and the epsilon of all that it spent so far, over all runs; where noise is shared also
the fallback, which is the epsilon if all other nodes take their noise out. Here the
parameters are composed again, in the order of the numbers that the institution gave its
accounts and not in that of the log; a report below that is understated. A report above
it is allowed: it also counts accounts that the log lacks. Their number is known, since
numbers are given without gaps, and what is stated is the larger of the two.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

from tapestry.encoding import decode_decimal
from tapestry.errors import ConfigError, RuleError
from tapestry.privacy.accounting import Composition, Steps
from tapestry_governance.events.privacy_events import BlockEpsilon
from tapestry_governance.rules.federation_state import FederationState
from tapestry_governance.rules.round_records import AccountedLoss, AccountedSpending

Spending = Mapping[str, Iterable[AccountedSpending]]
"""The accounts of each node, by name; ``FederationState.spending`` is one."""

_TOLERANCE = 1e-4  # relative; between versions of the accountant


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The spending of one node on one block.

    Without noise nothing is promised: ``recomputed`` and ``target_delta`` are None. A
    cost is infinite where the noise is so little that no bound on it can be told. The
    fallback is None, since it does not apply, unless a part counts on others' noise.
    ``epsilon`` and ``epsilon_fallback`` are what is stated: the larger of the report
    and the cost.
    """

    node: str
    block: int
    rounds: int
    adapters: int
    steps: int
    unlogged: int  # accounts that the log lacks
    target_delta: str | None
    reported: str | None
    recomputed: float | None
    fallback_reported: str | None = None
    fallback_recomputed: float | None = None
    unit: str = "record"

    @property
    def epsilon(self) -> float | None:
        """The epsilon that holds by the log and by the institution's word."""
        return larger(self.recomputed, self.reported)

    @property
    def epsilon_fallback(self) -> float | None:
        """The epsilon that holds if all other members collude; None as above."""
        return larger(self.fallback_recomputed, self.fallback_reported)

    @property
    def is_above(self) -> bool:
        """True if a report is above what the accounts in the log cost."""
        return any(
            cost is not None and stated is not None and stated > cost * (1 + _TOLERANCE)
            for cost, stated in (
                (self.recomputed, self.epsilon),
                (self.fallback_recomputed, self.epsilon_fallback),
            )
        )

    @property
    def is_understated(self) -> bool:
        """True if a report is below what its own parameters cost."""
        if self.reported is None or self.recomputed is None:
            return False
        if _is_below(self.reported, self.recomputed):
            return True
        return self.fallback_recomputed is not None and (
            self.fallback_reported is None
            or _is_below(self.fallback_reported, self.fallback_recomputed)
        )


def larger(recomputed: float | None, reported: str | None) -> float | None:
    """Return the larger of a cost and a report; None where the cost does not apply."""
    if recomputed is None or reported is None:
        return recomputed
    return max(recomputed, decode_decimal(reported))


def _is_below(reported: str, recomputed: float) -> bool:
    return decode_decimal(reported) < recomputed * (1 - _TOLERANCE)


def in_words(epsilon: float | None) -> float | str | None:
    """Return an epsilon for machines; JSON has no word for one that is infinite."""
    return "infinite" if epsilon == math.inf else epsilon


def shown(epsilon: float | None) -> str:
    """Print an epsilon, or ``none`` where nothing is promised."""
    if epsilon is None:
        return "none"
    return "infinite" if epsilon == math.inf else f"{epsilon:.4f}"


def recompute(spending: Spending) -> list[Account]:
    """Recompute what every node spent on each block, in order of node and block.

    Composed is at the smallest delta of a node's accounts, all runs and adapters
    together: an account at a larger one does not make the whole look small. The report
    is that of the highest number, or None where it is at another delta.
    """
    return _accounts(spending, checks=False)


def check(spending: Spending) -> list[Account]:
    """Recompute as above, and demand that no report is below what its parameters cost.

    Guarantees:
        Every report is compared with the composition of all accounts up to its number,
        in one pass. Of equal reports in a row the last is compared: fewer accounts cost
        less.

    Raises:
        RuleError: A report is below what its own parameters cost.
    """
    return _accounts(spending, checks=True)


def check_new(before: FederationState | None, after: FederationState) -> None:
    """Demand as much of the accounts that came between two states of a log.

    Who appends or cosigns entries calls this first, so that no log gets an account that
    no audit would take. An account that comes late is counted by those that follow it
    in number, and these are compared again.

    Raises:
        RuleError: A report is below what the accounts up to it cost.
    """
    if before is not None and before.spending is after.spending:
        return
    size = 0 if before is None else before.size
    for node, spent in after.spending.items():
        fresh = spent.while_newest(lambda each: each.index >= size)
        if fresh:
            _compose(node, _ordered(spent), first=min(each.number for each in fresh))


def _ordered(spent: Iterable[AccountedSpending]) -> list[AccountedSpending]:
    return sorted(spent, key=lambda body: body.number)


def _accounts(spending: Spending, *, checks: bool) -> list[Account]:
    found: list[Account] = []
    for node in sorted(spending):
        bodies = _ordered(spending[node])
        found += _accounts_of(
            bodies, _compose(node, bodies, first=0 if checks else None)
        )
    return found


def _compose(
    node: str, bodies: Sequence[AccountedSpending], *, first: int | None
) -> list["_RunningAccount"]:
    """Compose accounts in order; compare the reports from a number on, or none."""
    running = [_RunningAccount(node, block) for block in _blocks(bodies)]
    for body, following in zip_longest(bodies, bodies[1:]):
        said, then = _reports(body), _reports(following)
        loss = body.promise
        if loss is None:
            first = None  # no report is allowed from there on
        is_checked = loss is not None and first is not None and body.number >= first
        for each in running:
            each.add(body, said.get(each.block))
            if is_checked and loss and said.get(each.block) != then.get(each.block):
                _check_report(each.account(loss.target_delta), body.index)
    return running


def _accounts_of(
    bodies: Sequence[AccountedSpending], running: Sequence["_RunningAccount"]
) -> list[Account]:
    delta = _smallest_delta(bodies)
    unlogged = bodies[-1].number - len(bodies) if bodies else 0
    found = [replace(each.account(delta), unlogged=unlogged) for each in running]
    last = next((b.promise for b in reversed(bodies) if b.promise), None)
    if last is None or last.target_delta == delta:
        return found
    return [replace(each, reported=None, fallback_reported=None) for each in found]


def _reports(body: AccountedSpending | None) -> dict[int, tuple[str, BlockEpsilon]]:
    """Return what an account reports, with its delta, by block."""
    if body is None or body.promise is None:
        return {}
    delta = body.promise.target_delta
    return {each.block: (delta, each) for each in body.promise.blocks}


def _check_report(account: Account, index: int) -> None:
    if account.is_understated:
        raise RuleError(
            f"{account.node} reports epsilon {account.reported} for block"
            f" {account.block} in entry {index}, its parameters cost"
            f" {account.recomputed}; fallback {account.fallback_reported}, cost"
            f" {account.fallback_recomputed}",
            code="epsilon-understated",
        )


def steps_of(steps: int, loss: AccountedLoss, *, own: bool = False) -> Steps:
    """Read the mechanism of an account; with ``own``, by the node's own noise alone.

    Raises:
        ConfigError: The integer noise is only a few steps of its grid.
    """
    noise = loss.own_multiplier if own else loss.noise_multiplier
    return Steps(
        noise_multiplier=decode_decimal(noise),
        sampling_rate=decode_decimal(loss.sampling_rate),
        steps=steps,
        coordinates=loss.coordinates,
        bound=decode_decimal(loss.bound),
    )


def _blocks(bodies: Iterable[AccountedSpending]) -> list[int]:
    """List the blocks that accounts name; block 1 where none of them has a promise."""
    found = {each.block for b in bodies if b.promise for each in b.promise.blocks}
    return sorted(found) or [1]


def _smallest_delta(bodies: Iterable[AccountedSpending]) -> str:
    deltas = (body.promise.target_delta for body in bodies if body.promise)
    return min(deltas, key=decode_decimal, default="0")


class _RunningAccount:
    """The spending of one node on one block, account after account."""

    def __init__(self, node: str, block: int) -> None:
        self._node, self.block = node, block
        self._rounds = self._adapters = self._steps = 0
        self._lacks_noise = self._counts_on_others = False
        self._is_untold = False  # the cost of a part cannot be told
        self._unit = "record"
        self._spent, self._fallback = Composition(), Composition()
        self.report: BlockEpsilon | None = None  # the last one

    def add(
        self, body: AccountedSpending, said: tuple[str, BlockEpsilon] | None
    ) -> None:
        """Count one more account in; one without noise spends on every block."""
        loss = body.promise
        if loss is not None:
            if said is None:
                return
            self.report, self._unit = said[1], loss.unit
        self._rounds += body.round_number is not None
        self._adapters += body.adapter is not None
        self._steps += body.steps
        if loss is None:
            self._lacks_noise, self.report = True, None
            return
        self._counts_on_others |= loss.own_multiplier != loss.noise_multiplier
        try:
            self._spent.add(steps_of(body.steps, loss))
            self._fallback.add(steps_of(body.steps, loss, own=True))
        except ConfigError:  # integer noise of a few grid steps
            self._is_untold = True

    def account(self, target_delta: str) -> Account:
        """Return the account as it stands, composed at a delta."""
        account = Account(
            node=self._node,
            block=self.block,
            rounds=self._rounds,
            adapters=self._adapters,
            steps=self._steps,
            unlogged=0,
            target_delta=None,
            reported=None,
            recomputed=None,
            unit=self._unit,
        )
        said = self.report
        if self._lacks_noise or said is None:
            return account
        others = self._counts_on_others
        return replace(
            account,
            target_delta=target_delta,
            reported=said.epsilon,
            recomputed=self._composed(self._spent, target_delta),
            fallback_reported=said.epsilon_fallback,
            fallback_recomputed=(
                self._composed(self._fallback, target_delta) if others else None
            ),
        )

    def _composed(self, composition: Composition, target_delta: str) -> float:
        if self._is_untold:
            return math.inf
        return composition.epsilon(target_delta=decode_decimal(target_delta))
