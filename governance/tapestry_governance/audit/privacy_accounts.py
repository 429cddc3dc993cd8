"""Epsilon per node and run, recomputed from what nodes accounted for in the log.

A node reports, with every round and adapter, the parameters of its mechanism and the
epsilon of its run so far; where noise is shared also the fallback, what it comes to if
everybody else takes their noise out. Here the parameters are composed again; a report
below that is understated. A report above it is allowed: a node also counts rounds that
it spent on but that failed before the log heard of them.
"""

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import groupby

from tapestry.encoding import decode_decimal
from tapestry.errors import ConfigError, RuleError
from tapestry.privacy.accounting import Steps, epsilon
from tapestry_governance.events.envelope import Event
from tapestry_governance.events.types import DpAccounted, PrivacyLoss

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


def recompute(events: Iterable[Event]) -> list[Account]:
    """Recompute what every node spent, by run, in order of node and run.

    Where a node has several runs, a line for all of them together follows: records
    that took part in each are protected by that figure, not by the single ones.
    """
    spent: dict[tuple[str, str], list[DpAccounted]] = defaultdict(list)
    for event in events:
        if isinstance(event.body, DpAccounted):
            spent[event.actor, event.body.run_id].append(event.body)
    accounts = []
    for node, keys in groupby(sorted(spent), key=lambda key: key[0]):
        runs = [key[1] for key in keys]
        accounts += [_account(node, run, spent[node, run]) for run in runs]
        if len(runs) > 1:
            everything = [body for run in runs for body in spent[node, run]]
            accounts.append(_account(node, None, everything))
    return accounts


def check(events: Iterable[Event], accounts: Iterable[Account]) -> None:
    """Demand that nobody understates.

    Guarantees:
        Checked are the last report of every run and every report that an adapter's
        card repeats.

    Args:
        events: The whole log.
        accounts: What :func:`recompute` made of it.

    Raises:
        RuleError: A report is below what its own parameters cost.
    """
    for account in [*accounts, *_at_adapters(events)]:
        if account.is_understated:
            raise RuleError(
                f"{account.node} reports epsilon {account.reported} for run"
                f" {account.run_id}, its parameters cost {account.recomputed}"
            )


def _at_adapters(events: Iterable[Event]) -> list[Account]:
    """Recompute each run as it stood when an adapter was accounted for."""
    spent: dict[tuple[str, str], list[DpAccounted]] = defaultdict(list)
    accounts = []
    for event in events:
        if not isinstance(event.body, DpAccounted):
            continue
        body = event.body
        spent[event.actor, body.run_id].append(body)
        if body.adapter is not None:
            run = spent[event.actor, body.run_id]
            accounts.append(_account(event.actor, body.run_id, list(run)))
    return accounts


def _account(node: str, run: str | None, bodies: list[DpAccounted]) -> Account:
    account = Account(
        node=node,
        run_id=run,
        rounds=sum(body.round_number is not None for body in bodies),
        adapters=sum(body.adapter is not None for body in bodies),
        steps=sum(body.steps for body in bodies),
        target_delta=None,
        reported=None,
        recomputed=None,
    )
    promises = [body.promise for body in bodies if body.promise is not None]
    if len(promises) < len(bodies):
        last = bodies[-1].promise if run is not None else None
        return account if last is None else replace(account, reported=last.epsilon_run)
    steps = [body.steps for body in bodies]
    return _promised(account, list(zip(steps, promises, strict=True)))


def _promised(account: Account, spent: list[tuple[int, PrivacyLoss]]) -> Account:
    """Recompute an account of trainings that all had noise."""
    target_delta = max((loss.target_delta for _, loss in spent), key=decode_decimal)
    last = spent[-1][1]
    if account.run_id is not None:  # a report speaks of the delta it names
        target_delta = last.target_delta
        account = replace(
            account,
            reported=last.epsilon_run,
            fallback_reported=last.epsilon_fallback,
        )
    delta = decode_decimal(target_delta)
    shares = any(loss.own_multiplier != loss.noise_multiplier for _, loss in spent)
    return replace(
        account,
        target_delta=target_delta,
        recomputed=_epsilon(spent, delta),
        fallback_recomputed=_epsilon(spent, delta, own=True) if shares else None,
    )


def steps_of(steps: int, loss: PrivacyLoss, *, own: bool = False) -> Steps:
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
    spent: list[tuple[int, PrivacyLoss]], target_delta: float, *, own: bool = False
) -> float | None:
    try:
        steps = [steps_of(count, loss, own=own) for count, loss in spent]
    except ConfigError:  # integer noise of a few grid steps
        return None
    value = epsilon(steps, target_delta=target_delta)
    return None if math.isinf(value) else value
