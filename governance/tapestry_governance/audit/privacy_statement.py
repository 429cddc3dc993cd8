"""What a release or adapter promises about privacy, generated from the log.

The items are those that NIST SP 800-226 asks of a differential-privacy claim: unit,
adjacency, trust model, mechanism and its parameters, delta, epsilon, accountant, and
what is not covered. Nobody writes this page; an auditor gets the same one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from tapestry.errors import IncompleteError
from tapestry_governance.audit.privacy_accounts import Account, recompute
from tapestry_governance.events.envelope import Event
from tapestry_governance.events.types import (
    AdapterPublished,
    DpAccounted,
    ReleasePublished,
)

NOT_COVERED = (
    "That an institution took part, and how many records it declared: both are public.",
    "Several records about one person, unless the institution made one of them.",
    "Replacing a record instead of adding or removing one; that costs more.",
    "Records that an institution also used outside of this run and its accounting.",
    "An institution that lies about its data, its noise or its sampling.",
    "The last bits of Gaussian noise: it is drawn in floating point.",
    "How long a node takes to answer: that grows with what it drew from its records.",
)
DEFINITION = (
    "For any set of outcomes, its probability with one record of an institution is at"
    " most e to the power of epsilon times its probability without that record, plus"
    " delta; and the other way round."
)
_TRUST = {
    "local": "local: holds whatever others do",
    "shared": (
        "shared: holds while as many nodes of a sum as are counted on add their noise"
        " and keep it to themselves; the fallback holds whatever others do"
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Equal trainings of one node: how often, and with which mechanism."""

    times: int
    what: str  # rounds, or the adapter's name
    steps: int  # each time
    mechanism: str
    clip_norm: str | None = None  # None of what follows: without noise
    noise_multiplier: str | None = None
    own_multiplier: str | None = None  # the node's own part of that noise
    shares: int | None = None  # of how many nodes the noise is counted on
    sampling_rate: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePromise:
    """What holds for the records of one node; None where a training had no noise."""

    account: Account
    unit: str | None
    adjacency: str | None
    trust_model: str | None
    accountant: str | None
    accountant_version: str | None
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A release's or adapter's promises, node by node."""

    name: str
    kind: str
    run_id: str
    base: str | None  # the release that an adapter grew on; its statement holds, too
    promises: tuple[NodePromise, ...]
    not_covered: tuple[str, ...] = NOT_COVERED

    def to_json(self) -> dict[str, Any]:
        """Return the statement for machines."""
        return asdict(self)


def state_privacy(events: Iterable[Event], name: str) -> Statement:
    """Collect what the log says about the privacy of a release or adapter.

    Args:
        events: The verified log.
        name: As it was published; of an adapter the newest version.

    Raises:
        IncompleteError: The log publishes nothing of this name.
    """
    log = list(events)
    for at in reversed(range(len(log))):
        body, before = log[at].body, log[:at]
        if isinstance(body, ReleasePublished) and body.name == name:
            return _of_release(body, before)
        if isinstance(body, AdapterPublished) and body.name == name:
            return _of_adapter(body, before, actor=log[at].actor)
    known = {
        event.body.name
        for event in log
        if isinstance(event.body, ReleasePublished | AdapterPublished)
    }
    there = ", ".join(sorted(known)) or "nothing yet"
    raise IncompleteError(f"the log publishes no {name!r}; it publishes {there}")


def to_markdown(statement: Statement) -> str:
    """Print a statement as a page."""
    lines = [f"# Privacy of {statement.name}", ""]
    lines.append(
        f"{statement.kind.capitalize()} of run `{statement.run_id}`. Every number is"
        " from the federation's log; epsilon was composed again from it."
    )
    if any(p.account.recomputed is not None for p in statement.promises):
        lines += ["", DEFINITION]
    if statement.base is not None:
        lines += ["", f"It grew on `{statement.base}`, whose statement holds as well."]
    for promise in statement.promises:
        lines += ["", *_promise_lines(promise)]
    lines += ["", "## Not covered", ""]
    lines += [f"- {item}" for item in statement.not_covered]
    return "\n".join(lines) + "\n"


def _of_release(body: ReleasePublished, before: Sequence[Event]) -> Statement:
    spent = [
        event
        for event in before
        if isinstance(event.body, DpAccounted) and event.body.run_id == body.run_id
    ]
    return Statement(
        name=body.name,
        kind="base release",
        run_id=body.run_id,
        base=None,
        promises=_promises(spent),
    )


def _of_adapter(
    body: AdapterPublished, before: Sequence[Event], *, actor: str
) -> Statement:
    own = [
        event
        for event in before
        if isinstance(event.body, DpAccounted) and event.actor == actor
    ]
    runs = [
        event.body.run_id
        for event in own
        if isinstance(event.body, DpAccounted) and event.body.adapter == body.name
    ]
    run = runs[-1]  # the fold let nobody publish without accounting
    spent = [e for e in own if isinstance(e.body, DpAccounted) and e.body.run_id == run]
    return Statement(
        name=body.name,
        kind="adapter",
        run_id=run,
        base=body.base,
        promises=_promises(spent),
    )


def _promises(spent: Sequence[Event]) -> tuple[NodePromise, ...]:
    promises = []
    for account in recompute(spent):
        bodies = [
            event.body
            for event in spent
            if isinstance(event.body, DpAccounted) and event.actor == account.node
        ]
        last = bodies[-1].promise
        promises.append(
            NodePromise(
                account=account,
                unit=last.unit if last else None,
                adjacency=last.adjacency if last else None,
                trust_model=last.trust_model if last else None,
                accountant=last.accountant if last else None,
                accountant_version=last.accountant_version if last else None,
                parts=_parts(bodies),
            )
        )
    return tuple(promises)


def _parts(bodies: Sequence[DpAccounted]) -> tuple[Part, ...]:
    times: dict[Part, int] = {}
    for body in bodies:
        part = Part(
            times=1,
            what="rounds" if body.adapter is None else body.adapter,
            steps=body.steps,
            mechanism=body.loss.mechanism,
        )
        if (loss := body.promise) is not None:
            part = replace(
                part,
                clip_norm=loss.clip_norm,
                noise_multiplier=loss.noise_multiplier,
                own_multiplier=loss.own_multiplier,
                shares=loss.shares,
                sampling_rate=loss.sampling_rate,
            )
        times[part] = times.get(part, 0) + 1
    return tuple(replace(part, times=count) for part, count in times.items())


def _promise_lines(promise: NodePromise) -> list[str]:
    account = promise.account
    epsilon = "none: a part was trained without noise"
    if account.recomputed is not None:
        epsilon = f"{_shown(account.recomputed)} (reported {account.reported})"
    rows: list[tuple[str, object]] = [("epsilon", epsilon)]
    if promise.trust_model is not None:
        rows += [
            ("delta", account.target_delta or "none"),
            ("unit of privacy", promise.unit),
            ("adjacency", promise.adjacency),
            ("trust model", _TRUST[promise.trust_model]),
            ("accountant", f"{promise.accountant} {promise.accountant_version}"),
        ]
    if account.fallback_reported is not None:
        fallback = _shown(account.fallback_recomputed)
        rows.insert(1, ("fallback epsilon", f"{fallback}, if all others collude"))
    rows += [(part.what, _numbers(part)) for part in promise.parts]
    table = [f"| {key} | {value} |" for key, value in rows]
    return [f"## Records of {account.node}", "", "| | |", "|---|---|", *table]


def _numbers(part: Part) -> str:
    steps = f"{part.times} times {part.steps} steps"
    if part.shares is None:
        return f"{steps}, without noise"
    numbers = (
        f"{steps}, {part.mechanism}, sampling rate {part.sampling_rate}, clip norm"
        f" {part.clip_norm}, noise multiplier {part.noise_multiplier}"
    )
    if part.shares > 1:
        each = part.own_multiplier
        numbers += f" from the shares of {part.shares} nodes, {each} each"
    return numbers


def _shown(epsilon: float | None) -> str:
    return "none" if epsilon is None else f"{epsilon:.4f}"
