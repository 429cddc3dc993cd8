"""The privacy statement of a release or adapter, generated from the log.

The items are those that NIST SP 800-226 asks of a differential-privacy claim: unit,
adjacency, trust model, mechanism and its parameters, delta, epsilon, accountant, and
the limits of the claim. The page has no source but the log, so each auditor generates
the same one.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tapestry.errors import IncompleteError, ResourceError
from tapestry_governance.audit.privacy_accounts import (
    Account,
    in_words,
    recompute,
    shown,
)
from tapestry_governance.rules.federation_state import FederationState
from tapestry_governance.rules.round_records import (
    AccountedSpending,
    Departure,
    ReleaseRecord,
)

NOT_COVERED = (
    "That an institution took part, and how many records it declared: both are public.",
    "Several records about one person where the unit of privacy is a record.",
    "A person whom a row mentions, and whose key it does not have.",
    "Replacing a record or person instead of adding or removing one; that costs more.",
    "That nobody of a new block is in an older one: only the institution can tell.",
    "Records that an institution also used outside of this run and its accounting.",
    "An institution that lies about its data, its noise or its sampling.",
    "The last bits of Gaussian noise: it is drawn in floating point.",
    "How long a node takes to answer: that grows with what it drew from its records.",
)
DEFINITION = (
    "For any set of outcomes, its probability with one record of an institution, or all"
    " rows of one person where the unit is a person, is at most e to the power of"
    " epsilon times its probability without, plus delta; and the other way round."
)
_TERMS = ("clip_norm", "noise_multiplier", "own_multiplier", "shares", "sampling_rate")
_SAID = ("unit", "adjacency", "trust_model", "accountant", "accountant_version")
_TRUST = {
    "local": "local: holds whatever others do",
    "shared": (
        "shared: holds while as many nodes of a sum as are counted on add their noise"
        " and keep it to themselves; the fallback holds whatever others do"
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Equal trainings of one node, with their number and mechanism."""

    times: int
    what: str  # rounds, or the adapter's name
    steps: int  # each time
    mechanism: str
    clip_norm: str | None  # this and all below: None without noise
    noise_multiplier: str | None
    own_multiplier: str | None  # the node's own part of that noise
    shares: int | None  # the number of nodes whose noise is counted on
    sampling_rate: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePromise:
    """The promise for the records of one node; None where a training had no noise."""

    account: Account  # of what led to the object; reports are of all that was spent
    total: Account  # of all that the node spent, in the whole log
    unit: str | None
    adjacency: str | None
    trust_model: str | None
    accountant: str | None
    accountant_version: str | None
    parts: tuple[Part, ...]

    @property
    def epsilon(self) -> float | None:
        """The epsilon of what led to the object.

        It is recomputed where the log has every account of the node. Where it lacks
        one, that may have led to the object, too, and all that was spent is stated.
        """
        return self.total.epsilon if self._lacks_accounts else self.account.recomputed

    @property
    def epsilon_fallback(self) -> float | None:
        """The same if all other members collude; None where that does not apply."""
        if self._lacks_accounts:
            return self.total.epsilon_fallback
        return self.account.fallback_recomputed

    @property
    def _lacks_accounts(self) -> bool:
        return self.total.unlogged > 0 and self.account.recomputed is not None

    def to_line(self) -> str:
        """Print the two epsilons, or that there are none, as one line."""
        node, block = self.account.node, self.account.block
        whose = node if block == 1 else f"{node}, block {block}"
        said = _brief(self.epsilon, self.epsilon_fallback, self.account.target_delta)
        total = self.total
        whole = _brief(total.epsilon, total.epsilon_fallback, total.target_delta)
        line = f"{whose}: {said}; in the whole log {whole}"
        return f"{line}; {_lacking(total)}" if total.unlogged else line

    def to_row(self) -> dict[str, Any]:
        """Return the two epsilons for machines; null where nothing is promised."""
        account, total = self.account, self.total
        return {
            "node": account.node,
            "block": account.block,
            "epsilon": in_words(self.epsilon),
            "epsilon_fallback": in_words(self.epsilon_fallback),
            "target_delta": account.target_delta,
            "total_epsilon": in_words(total.epsilon),
            "total_epsilon_fallback": in_words(total.epsilon_fallback),
            "total_target_delta": total.target_delta,
            "unlogged": total.unlogged,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class WithdrawnUnits:
    """Units that an institution withdrew after they were trained on."""

    node: str
    unit: str
    units: int  # or more; declarations round down

    def to_line(self) -> str:
        """Say how many were withdrawn."""
        return (
            f"{self.node} withdrew {self.units} or more (unit: {self.unit}) since they"
            " may have been trained on. What was learned from them is still in it,"
            " within the bounds above."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A release's or adapter's promises, node by node."""

    name: str
    kind: str
    runs: tuple[str, ...]  # whose rounds led to it
    unknown: tuple[str, ...]  # those whose base has a history that is not in the log
    base: str | None  # the release that an adapter grew on; its statement holds, too
    promises: tuple[NodePromise, ...]
    withdrawn: tuple[WithdrawnUnits, ...]  # of those whose records led to it
    not_covered: tuple[str, ...] = NOT_COVERED

    @property
    def warning(self) -> str:
        """A sentence on what is not counted; empty where everything is."""
        if not self.unknown:
            return ""
        runs = ", ".join(f"`{run}`" for run in self.unknown)
        return (
            f"The history of the base that {runs} began with is not in this log: what"
            " was spent on it before is not counted here."
        )

    def to_json(self) -> dict[str, Any]:
        """Return the statement for machines."""
        said = asdict(self)
        for each, promise in zip(said["promises"], self.promises, strict=True):
            each["epsilon"] = in_words(promise.epsilon)
            each["epsilon_fallback"] = in_words(promise.epsilon_fallback)
            for account in (each["account"], each["total"]):
                for name in ("recomputed", "fallback_recomputed"):
                    account[name] = in_words(account[name])
        return said


def state_privacy(state: FederationState, name: str) -> Statement:
    """Collect the privacy statement of a release or adapter from the log.

    Of an adapter the newest version is taken.

    Raises:
        IncompleteError: The log publishes nothing of this name.
    """
    if name not in state.published:
        there = ", ".join(state.published) or "nothing yet"
        message = f"the log publishes no {name!r}; it publishes {there}"
        raise IncompleteError(message, code="name-not-published")
    adapter = state.adapters.get(name)
    release = state.release_named(name if adapter is None else adapter.base)
    nodes = state.spending if adapter is None else (state.publishers[name],)
    trained = None if adapter is None else (name, adapter.version)
    spent = {
        node: spent_on(state.spending_of(node), release, state=state, adapter=trained)
        for node in nodes
    }
    return Statement(
        name=name,
        kind="base release" if adapter is None else "adapter",
        runs=tuple(sorted(release.ancestry)),
        unknown=tuple(sorted(r for r in release.ancestry if r in state.unknown_bases)),
        base=None if adapter is None else adapter.base,
        promises=_promises({node: said for node, said in spent.items() if said}, state),
        withdrawn=tuple(_withdrawn(state, spent)),
    )


def _withdrawn(
    state: FederationState, spent: Mapping[str, list[AccountedSpending]]
) -> Iterator[WithdrawnUnits]:
    """Yield what nodes withdrew since the first training that led to an object."""
    for node, accounts in spent.items():
        left: tuple[Departure, ...] = state.departures.get(node, ())
        first = min((each.index for each in accounts), default=state.size)
        units = sum(each.units for each in left if each.index > first)
        if units:
            unit = state.data[node].unit
            yield WithdrawnUnits(node=node, unit=unit, units=units)


def spent_on(
    spending: Iterable[AccountedSpending],
    release: ReleaseRecord,
    *,
    state: FederationState,
    adapter: tuple[str, int] | None,
) -> list[AccountedSpending]:
    """List a node's accounts of what led to a release, or to an adapter on it.

    They are those of the rounds that were opened before the release, and of the
    adapter's versions up to its own, whenever the log got them.
    """
    ordered = sorted(spending, key=lambda each: each.number)
    return [each for each in ordered if _led_to(each, release, state, adapter=adapter)]


def _led_to(
    account: AccountedSpending,
    release: ReleaseRecord,
    state: FederationState,
    *,
    adapter: tuple[str, int] | None,
) -> bool:
    if account.adapter is not None:
        name, version = adapter or ("", 0)
        return account.adapter == name and (account.version or 0) <= version
    key = (account.run_id, account.round_number or 0, account.attempt or 0)
    opened = state.rounds[key].opened  # of a round that the account's rule knows
    return account.run_id in release.ancestry and opened < release.index


def to_markdown(statement: Statement) -> str:
    """Print a statement as a page."""
    lines = [f"# Privacy of {statement.name}", ""]
    lines.append(
        f"{statement.kind.capitalize()}, from the rounds of"
        f" {', '.join(f'`{run}`' for run in statement.runs)}. Every number is from the"
        " federation's log; epsilon was composed again from it, over all of these"
        " rounds, rejected and aborted ones included. Where an institution reports"
        " more, or the log lacks one of its accounts, its report is stated."
    )
    if statement.unknown:
        lines += ["", statement.warning]
    if any(p.account.recomputed is not None for p in statement.promises):
        lines += ["", DEFINITION]
    if statement.base is not None:
        lines += ["", f"It grew on `{statement.base}`, whose statement holds as well."]
    for promise in statement.promises:
        lines += ["", *_promise_lines(promise)]
    if statement.withdrawn:
        lines += ["", "## Withdrawn data", ""]
        lines += [f"- {each.to_line()}" for each in statement.withdrawn]
    lines += ["", "## Not covered", ""]
    lines += [f"- {item}" for item in statement.not_covered]
    return "\n".join(lines) + "\n"


def write_statements(state: FederationState, folder: Path) -> list[str]:
    """Write ``NAME.md`` and ``NAME.json`` for each release and adapter of a log.

    The folder is made if need be. Returns the names, releases first.

    Raises:
        ResourceError: A file cannot be written.
    """
    names = [*state.releases, *state.adapters]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            statement = state_privacy(state, name)
            page = json.dumps(statement.to_json(), indent=2) + "\n"
            (folder / f"{name}.json").write_text(page, encoding="utf-8")
            (folder / f"{name}.md").write_text(to_markdown(statement), encoding="utf-8")
    except OSError as error:
        message = f"cannot write {folder}: {error.strerror}"
        raise ResourceError(message, code="file-unwritable") from error
    return names


def _promises(
    spent: Mapping[str, list[AccountedSpending]], state: FederationState
) -> tuple[NodePromise, ...]:
    promises = []
    whole = {node: state.spending[node] for node in spent}
    totals = {(each.node, each.block): each for each in recompute(whole)}
    for account in recompute(spent):
        total = totals[account.node, account.block]
        bodies = [each for each in spent[account.node] if _is_on(each, account.block)]
        said = {name: getattr(bodies[-1].promise, name, None) for name in _SAID}
        promises.append(
            NodePromise(account=account, total=total, parts=_parts(bodies), **said)
        )
    return tuple(promises)


def _is_on(account: AccountedSpending, block: int) -> bool:
    """Return whether an account is of a block; one without noise is of all."""
    blocks = account.promise.blocks if account.promise else ()
    return not blocks or any(each.block == block for each in blocks)


def _parts(bodies: Sequence[AccountedSpending]) -> tuple[Part, ...]:
    times: dict[Part, int] = {}
    for body in bodies:
        part = Part(
            times=1,
            what="rounds" if body.adapter is None else body.adapter,
            steps=body.steps,
            mechanism=body.mechanism,
            **{name: getattr(body.promise, name, None) for name in _TERMS},
        )
        times[part] = times.get(part, 0) + 1
    return tuple(replace(part, times=count) for part, count in times.items())


def _promise_lines(promise: NodePromise) -> list[str]:
    account, total = promise.account, promise.total
    epsilon = everything = "none: a part was trained without noise"
    if promise.epsilon is not None:
        epsilon = shown(promise.epsilon)
        if total.unlogged:
            epsilon += f" ({_lacking(total)})"
    if total.epsilon is not None:
        everything = f"{shown(total.epsilon)} at delta {total.target_delta}"
        if total.reported is not None:
            everything += f" (reported {total.reported}"
            everything += f", composed {shown(total.recomputed)})"
    rows: list[tuple[str, object]] = [
        ("epsilon", epsilon),
        ("epsilon of all that it spent, in the whole log", everything),
    ]
    if promise.trust_model is not None:
        rows += [
            ("delta", account.target_delta or "none"),
            ("unit of privacy", promise.unit),
            ("adjacency", promise.adjacency),
            ("trust model", _TRUST[promise.trust_model]),
            ("accountant", f"{promise.accountant} {promise.accountant_version}"),
        ]
    if promise.epsilon_fallback is not None:
        fallback = shown(promise.epsilon_fallback)
        rows.insert(1, ("fallback epsilon", f"{fallback}, if all others collude"))
    rows += [(part.what, _numbers(part)) for part in promise.parts]
    table = [f"| {key} | {value} |" for key, value in rows]
    title = f"## Records of {account.node}"
    title += f", block {account.block}" if account.block > 1 else ""
    return [title, "", "| | |", "|---|---|", *table]


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


def _lacking(total: Account) -> str:
    """Say that the log lacks accounts of an institution, and whether it counts them."""
    lacks = f"the log lacks {total.unlogged} of its accounts"
    counted = "its report counts them" if total.reported else "no report counts them"
    return f"{lacks}, {counted}"


def _brief(epsilon: float | None, fallback: float | None, delta: str | None) -> str:
    if epsilon is None:
        return "no promise"
    said = f"epsilon {shown(epsilon)} at delta {delta}"
    if fallback is not None:
        said += f" ({shown(fallback)} if all others collude)"
    return said
