"""Epsilon per node and run, recomputed from what nodes accounted for in the log.

A node reports, with every round and adapter, the parameters of its mechanism and the
epsilon of its run so far; where noise is shared also the fallback, what it comes to if
everybody else takes their noise out. Here the parameters are composed again; a report
below that is understated. A report above it is allowed: a node also counts rounds that
it spent on but that failed before the log heard of them.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain

from tapestry.encoding import decode_decimal
from tapestry.errors import ConfigError, RuleError
from tapestry.privacy.accounting import Composition, Steps, epsilon
from tapestry_governance.rules.round_records import AccountedLoss, AccountedSpending

Spending = Mapping[str, Iterable[AccountedSpending]]
"""What each node accounted for, by name; ``FederationState.spending`` is one."""

_TOLERANCE = 1e-4  # relative; between versions of the accountant


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What one node spent in one run, or in all of its runs together.

    ``run_id`` is None for all runs together; nobody reports that figure.
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
        """Whether a report is below what its own parameters cost."""
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
        spending: What each node accounted for, in the order of the log.
    """
    accounts = []
    for node in sorted(spending):
        by_run = _by_run(spending[node])
        runs = sorted(by_run)
        accounts += [_account(node, run, by_run[run]) for run in runs]
        if len(runs) > 1:
            everything = [body for run in runs for body in by_run[run]]
            accounts.append(_account(node, None, everything))
    return accounts


def check(spending: Spending, accounts: Iterable[Account]) -> None:
    """Demand that nobody understates.

    Guarantees:
        Checked are the last report of every run and every report that an adapter's
        card repeats.

    Args:
        spending: What each node accounted for, in the order of the log.
        accounts: What :func:`recompute` made of it.

    Raises:
        RuleError: A report is below what its own parameters cost.
    """
    for account in chain(accounts, _at_adapters(spending)):
        if account.is_understated:
            raise RuleError(
                f"{account.node} reports epsilon {account.reported} for run"
                f" {account.run_id}, its parameters cost {account.recomputed}"
            )


def _by_run(bodies: Iterable[AccountedSpending]) -> dict[str, list[AccountedSpending]]:
    by_run: dict[str, list[AccountedSpending]] = defaultdict(list)
    for body in bodies:
        by_run[body.run_id].append(body)
    return by_run


def _at_adapters(spending: Spending) -> Iterator[Account]:
    """Recompute each run as it stood when an adapter was accounted for."""
    for node in sorted(spending):
        for run, bodies in sorted(_by_run(spending[node]).items()):
            if any(body.adapter is not None for body in bodies):
                running = _RunningAccount(node, run)
                for body in bodies:
                    running.add(body)
                    if body.adapter is not None:
                        yield running.account(body)


class _RunningAccount:
    """One run of one node, account after account."""

    def __init__(self, node: str, run: str) -> None:
        """Start with nothing spent."""
        self._node, self._run = node, run
        self._rounds = self._adapters = self._steps = 0
        self._spent: Composition | None = Composition()  # None: nothing is promised
        self._fallback: Composition | None = Composition()
        self._counts_on_others = self._lacks_noise = False

    def add(self, body: AccountedSpending) -> None:
        """Count one more account in."""
        self._rounds += body.round_number is not None
        self._adapters += body.adapter is not None
        self._steps += body.steps
        loss = body.promise
        if loss is None:
            self._lacks_noise = True
            return
        self._counts_on_others |= loss.own_multiplier != loss.noise_multiplier
        self._spent = _added(self._spent, body.steps, loss, own=False)
        self._fallback = _added(self._fallback, body.steps, loss, own=True)

    def account(self, last: AccountedSpending) -> Account:
        """Return the run as it stands, at the delta that its last account names."""
        account = _unpromised(
            (self._node, self._run),
            counts=(self._rounds, self._adapters, self._steps),
            last=last.promise,
        )
        if self._lacks_noise or last.promise is None:
            return account
        delta = decode_decimal(last.promise.target_delta)
        fallback = self._fallback if self._counts_on_others else None
        return replace(
            account,
            target_delta=last.promise.target_delta,
            recomputed=_composed(self._spent, delta),
            fallback_reported=last.promise.epsilon_fallback,
            fallback_recomputed=_composed(fallback, delta),
        )


def _added(
    composition: Composition | None, steps: int, loss: AccountedLoss, *, own: bool
) -> Composition | None:
    """Add an account to a composition; None once its cost cannot be told."""
    if composition is None:
        return None
    try:
        composition.add(steps_of(steps, loss, own=own))
    except ConfigError:  # integer noise of a few grid steps
        return None
    return composition


def _composed(composition: Composition | None, target_delta: float) -> float | None:
    if composition is None:
        return None
    value = composition.epsilon(target_delta=target_delta)
    return None if math.isinf(value) else value


def _unpromised(
    spender: tuple[str, str | None],
    *,
    counts: tuple[int, int, int],
    last: AccountedLoss | None,
) -> Account:
    """Count what a node did; of privacy it has what the last account reports."""
    rounds, adapters, steps = counts
    node, run = spender
    return Account(
        node=node,
        run_id=run,
        rounds=rounds,
        adapters=adapters,
        steps=steps,
        target_delta=None,
        reported=None if run is None or last is None else last.epsilon_run,
        recomputed=None,
    )


def _account(node: str, run: str | None, bodies: list[AccountedSpending]) -> Account:
    account = _unpromised(
        (node, run),
        counts=(
            sum(body.round_number is not None for body in bodies),
            sum(body.adapter is not None for body in bodies),
            sum(body.steps for body in bodies),
        ),
        last=bodies[-1].promise,
    )
    promises = [body.promise for body in bodies if body.promise is not None]
    if len(promises) < len(bodies):
        return account
    steps = [body.steps for body in bodies]
    return _promised(account, list(zip(steps, promises, strict=True)))


def _promised(account: Account, spent: list[tuple[int, AccountedLoss]]) -> Account:
    """Recompute an account of trainings that all had noise."""
    target_delta = max((loss.target_delta for _, loss in spent), key=decode_decimal)
    last = spent[-1][1]
    if account.run_id is not None:  # a report speaks of the delta it names
        target_delta = last.target_delta
        account = replace(account, fallback_reported=last.epsilon_fallback)
    delta = decode_decimal(target_delta)
    shares = any(loss.own_multiplier != loss.noise_multiplier for _, loss in spent)
    return replace(
        account,
        target_delta=target_delta,
        recomputed=_epsilon(spent, delta),
        fallback_recomputed=_epsilon(spent, delta, own=True) if shares else None,
    )


def steps_of(steps: int, loss: AccountedLoss, *, own: bool = False) -> Steps:
    """Read the mechanism of an account; with ``own``, by the node's own noise alone."""
    noise = loss.own_multiplier if own else loss.noise_multiplier
    return Steps(
        noise_multiplier=decode_decimal(noise),
        sampling_rate=decode_decimal(loss.sampling_rate),
        steps=steps,
        coordinates=loss.coordinates,
        bound=decode_decimal(loss.bound),
    )


def _epsilon(
    spent: list[tuple[int, AccountedLoss]], target_delta: float, *, own: bool = False
) -> float | None:
    try:
        steps = [steps_of(count, loss, own=own) for count, loss in spent]
    except ConfigError:  # integer noise of a few grid steps
        return None
    value = epsilon(steps, target_delta=target_delta)
    return None if math.isinf(value) else value
