"""Epsilon per node and run, recomputed from what nodes accounted for in the log.

A node reports, with every round and adapter, the parameters of its mechanism and the
epsilon of its run so far; where noise is shared also the fallback, which is the epsilon
if all other nodes take their noise out. Here the parameters are composed again; a
report below that is understated. A report above it is allowed: a node also counts
rounds that it spent on but that failed before an entry of the log named them.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain

from tapestry.encoding import decode_decimal
from tapestry.errors import ConfigError, RuleError
from tapestry.privacy.accounting import Composition, Steps, epsilon
from tapestry_governance.rules.round_records import AccountedLoss, AccountedSpending

Spending = Mapping[str, Iterable[AccountedSpending]]
"""The accounts of each node, by name; ``FederationState.spending`` is one."""

_TOLERANCE = 1e-4  # relative; between versions of the accountant


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The spending of one node in one run, or in all of its runs together.

    ``run_id`` is None for all runs together, a figure that no report has.
    Without noise nothing is promised: ``recomputed`` and ``target_delta`` are None.
    ``recomputed`` is None, too, where the noise is so little that its cost cannot be
    told. The fallback is None unless a part counts on the noise of others.
    """

    node: str
    run_id: str | None
    rounds: int
    adapters: int
    steps: int
    target_delta: str | None
    reported: str | None
    recomputed: float | None
    fallback_reported: str | None = None
    fallback_recomputed: float | None = None

    @property
    def is_understated(self) -> bool:
        """True if a report is below what its own parameters cost."""
        if self.run_id is None or self.reported is None:
            return False
        if _is_below(self.reported, self.recomputed):
            return True
        if self.fallback_reported is None:
            return self.fallback_recomputed is not None
        return _is_below(self.fallback_reported, self.fallback_recomputed)


def _is_below(reported: str, recomputed: float | None) -> bool:
    if recomputed is None:
        return True
    return decode_decimal(reported) < recomputed * (1 - _TOLERANCE)


def recompute(spending: Spending) -> list[Account]:
    """Recompute what every node spent, by run, in order of node and run.

    Where a node has several runs, a line for all of them together follows: records
    that took part in each are protected by that figure, not by the single ones.

    Args:
        spending: The accounts of each node, in the order of the log.
    """
    accounts = []
    for node in sorted(spending):
        by_run = sorted(_by_run(spending[node]).items())
        accounts += [_account(node, run, bodies) for run, bodies in by_run]
        if len(by_run) > 1:
            bodies = [body for _, bodies in by_run for body in bodies]
            accounts.append(_account(node, None, bodies))
    return accounts


def check(spending: Spending, accounts: Iterable[Account]) -> None:
    """Demand that no report is below what its parameters cost.

    Guarantees:
        Checked are the last report of every run and every report that an adapter's
        card repeats.

    Args:
        spending: The accounts of each node, in the order of the log.
        accounts: The result of :func:`recompute`.

    Raises:
        RuleError: A report is below what its own parameters cost.
    """
    for account in chain(accounts, _at_adapters(spending)):
        if account.is_understated:
            raise RuleError(
                f"{account.node} reports epsilon {account.reported} for run"
                f" {account.run_id}, its parameters cost {account.recomputed};"
                f" fallback {account.fallback_reported}, cost"
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


def _by_run(bodies: Iterable[AccountedSpending]) -> dict[str, list[AccountedSpending]]:
    by_run: dict[str, list[AccountedSpending]] = defaultdict(list)
    for body in bodies:
        by_run[body.run_id].append(body)
    return by_run


def _account(node: str, run: str | None, bodies: list[AccountedSpending]) -> Account:
    total = _RunningAccount(node, run, compose=_AtOnce)
    for body in bodies:
        total.add(body)
    return total.account()


def _at_adapters(spending: Spending) -> Iterator[Account]:
    """Recompute each run as it stood when an adapter was accounted for."""
    for node in sorted(spending):
        for run, bodies in sorted(_by_run(spending[node]).items()):
            if any(body.adapter is not None for body in bodies):
                running = _RunningAccount(node, run, compose=Composition)
                for body in bodies:
                    running.add(body)
                    if body.adapter is not None:
                        yield running.account()


class _AtOnce:
    """Steps that are composed once, after the last: equal lists are computed once."""

    def __init__(self) -> None:
        self._steps: list[Steps] = []

    def add(self, steps: Steps) -> None:
        self._steps.append(steps)

    def epsilon(self, *, target_delta: float) -> float:
        return epsilon(self._steps, target_delta=target_delta)


_Composed = Composition | _AtOnce


class _RunningAccount:
    """The spending of one node in one run, or in all of them, account after account."""

    def __init__(
        self, node: str, run: str | None, *, compose: Callable[[], _Composed]
    ) -> None:
        self._node, self._run = node, run
        self._rounds = self._adapters = self._steps = 0
        self._last: AccountedLoss | None = None
        self._largest_delta = "0"
        self._lacks_noise = self._counts_on_others = False
        self._spent: _Composed | None = compose()  # None: its cost cannot be told
        self._fallback: _Composed | None = compose()

    def add(self, body: AccountedSpending) -> None:
        """Count one more account in."""
        self._rounds += body.round_number is not None
        self._adapters += body.adapter is not None
        self._steps += body.steps
        loss = self._last = body.promise
        if loss is None:
            self._lacks_noise = True
            return
        deltas = (self._largest_delta, loss.target_delta)
        self._largest_delta = max(deltas, key=decode_decimal)
        whole = own = _accountable(body.steps, loss, own=False)
        if loss.own_multiplier != loss.noise_multiplier:
            self._counts_on_others = True
            own = _accountable(body.steps, loss, own=True)
        self._spent = _added(self._spent, whole)
        self._fallback = _added(self._fallback, own)

    def account(self) -> Account:
        """Return the account as it stands.

        A run is composed at the delta of its last report, all runs at the largest.
        """
        last = self._last
        account = Account(
            node=self._node,
            run_id=self._run,
            rounds=self._rounds,
            adapters=self._adapters,
            steps=self._steps,
            target_delta=None,
            reported=None if self._run is None or last is None else last.epsilon_run,
            recomputed=None,
        )
        if self._lacks_noise or last is None:
            return account
        target_delta = self._largest_delta if self._run is None else last.target_delta
        delta = decode_decimal(target_delta)
        fallback = self._fallback if self._counts_on_others else None
        return replace(
            account,
            target_delta=target_delta,
            recomputed=_composed(self._spent, delta),
            fallback_reported=None if self._run is None else last.epsilon_fallback,
            fallback_recomputed=_composed(fallback, delta),
        )


def _accountable(steps: int, loss: AccountedLoss, *, own: bool) -> Steps | None:
    try:
        return steps_of(steps, loss, own=own)
    except ConfigError:  # integer noise of a few grid steps
        return None


def _added(composition: _Composed | None, steps: Steps | None) -> _Composed | None:
    """Add steps to a composition; None once the cost of any cannot be told."""
    if composition is None or steps is None:
        return None
    composition.add(steps)
    return composition


def _composed(composition: _Composed | None, target_delta: float) -> float | None:
    if composition is None:
        return None
    value = composition.epsilon(target_delta=target_delta)
    return None if math.isinf(value) else value
