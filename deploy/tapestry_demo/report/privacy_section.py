"""The section on privacy: the promise in words, the bound, and each node's loss."""

from collections.abc import Sequence

from tapestry.html import numbers
from tapestry.html.markup import (
    Cell,
    Child,
    Markup,
    element,
    joined,
    paragraphs,
    table,
)
from tapestry_demo.report import names, odds
from tapestry_demo.report.data import RunFigures
from tapestry_governance.audit.privacy_statement import DEFINITION
from tapestry_governance.events.privacy_events import DpAccounted

_COMPARED = (0.1, 1.0, 3.0, 8.0)  # privacy losses that many publications use
_FALSE_ALARMS = 0.001  # of an attack in the example
_LOCAL_TRUST = (
    "Each node adds all of the noise itself, so this holds against every observer,"
    " other institutions and the coordinator included, and even if the secure"
    " aggregation failed."
)
_SHARED_TRUST = (
    "The nodes share the noise, so this holds while as many of them as are counted on"
    " add their part and keep it to themselves, and while the secure aggregation hides"
    " the single uploads."
)


def promise_in_words(spent: Sequence[DpAccounted]) -> str:
    """State the promise that the accounts of a log make.

    Returns:
        The definition of differential privacy and what it relies on; empty where there
        is no account, or one without a bound.
    """
    losses = [body.promise for body in spent]
    promises = [loss for loss in losses if loss is not None]
    if not promises or len(promises) < len(losses):
        return ""
    is_local = all(loss.trust_model == "local" for loss in promises)
    return f"{DEFINITION} {_LOCAL_TRUST if is_local else _SHARED_TRUST}"


def privacy(run: RunFigures) -> Markup:
    """Draw the bound and how to read it, each institution's loss, and the terms."""
    return joined(
        element("h2", {"id": "privacy"}, "What can be learned about one record"),
        _reading(run),
        _spent(run),
        _terms(run),
    )


def _reading(run: RunFigures) -> Markup:
    worst, unit = run.worst_epsilon, run.privacy.unit or "record"
    if worst is None:
        return paragraphs(
            "At least one institution trained without noise, or its loss is not known. "
            f"So nothing is proven about what can be learned about a single {unit}."
        )
    delta = run.privacy.delta or 0.0
    found = odds.detected(_FALSE_ALARMS, worst, delta=delta)
    plus = ", plus δ" if delta else ""
    told = [
        (
            "Noise was added to what left each institution. What it guarantees is a "
            "bound on a comparison: two worlds differ only in whether one particular "
            f"{unit} was used, and an observer looks at everything that was published. "
            "The observer may know every other record and have any computing power."
        ),
        (
            "The bound is a number called ε (epsilon). Whatever the observer looks "
            "for, the probability to find it in one world is at most e to the power of "
            f"ε times the probability in the other{plus}. Here the largest is "
            f"ε\u00a0=\u00a0{numbers.epsilon(worst)}, a factor of "
            f"{numbers.factor(odds.factor(worst))}. For example, an attack that "
            f"wrongly takes {numbers.chance(_FALSE_ALARMS)} of the unused {unit}s for "
            f"used ones recognizes at most {numbers.likely(found)} of the used ones."
        ),
    ]
    if delta:
        told.append(
            f"The second number, δ (delta), is {numbers.chance(delta)} here: beyond "
            f"the factor, probabilities may differ by this much.{_delta_of(run, delta)}"
        )
    told.append(
        f"The bound is for one {unit} and for noise that was drawn as the log says; "
        "for those it is proven and not measured. This run attacked nothing, so it "
        "says nothing about how near a real attack comes."
    )
    return joined(paragraphs(*told), _scale(worst, delta, unit))


def _delta_of(run: RunFigures, delta: float) -> str:
    most = max(c.records for c in run.countries)
    if delta * most < 1:
        return (
            f" It should be well below one in the number of records; the largest "
            f"institution declared {numbers.whole(most)} or more."
        )
    return (
        " That is not small enough: the largest institution declared "
        f"{numbers.whole(most)} records or more, so one of them may be revealed."
    )


def _scale(worst: float, delta: float, unit: str) -> Markup:
    """Draw this run's loss among others, with what each of them allows."""
    rows: list[list[Child | Cell]] = []
    for value in sorted({*_COMPARED, worst}):
        here = value == worst
        cells = [
            f"ε\u00a0=\u00a0{numbers.epsilon(value) if here else numbers.short(value)}",
            numbers.factor(odds.factor(value)),
            numbers.likely(odds.right_guess(value, delta=delta)),
            odds.verdict(odds.right_guess(value, delta=delta)),
        ]
        first = f"{cells[0]} (this run)" if here else cells[0]
        kind = "here" if here else ""
        rows.append([Cell(kind, first), *(Cell(kind, cell) for cell in cells[1:])])
    header = ["Privacy loss", "Probabilities differ by a factor of at most"]
    header += [
        "A right guess, at most, where a coin gives 50.0\u00a0%",
        "The promise is",
    ]
    caption = (
        f"How to read ε: what the worst case allows about one {unit}"
        f"{f' at δ = {numbers.chance(delta)}' if delta else ''}. Called weak from "
        "a right guess of 95.0\u00a0% up, moderate from 75.0\u00a0%, strong below."
    )
    return table(caption, header, rows)


def _spent(run: RunFigures) -> Markup:
    rows: list[list[Child | Cell]] = []
    for node in run.nodes(run.epsilon):
        total = run.spent(node)
        bound = "no bound" if total is None else numbers.factor(odds.factor(total))
        limit = numbers.short(run.epsilon_limit.get(node))
        first = names.country(run, node)
        rows.append([first, numbers.epsilon(total), bound, limit])
    header = ["Institution", "ε spent", "Factor, at most", "ε agreed, at most"]
    caption = f"What each institution spent of what it had agreed to.{_over(run)}"
    return table(caption, header, rows)


def _over(run: RunFigures) -> str:
    """Name the nodes that spent more than was agreed; empty if there are none."""
    over = [
        names.place(node)
        for node in run.nodes(run.epsilon)
        if (limit := run.epsilon_limit.get(node)) is not None
        and ((spent := run.spent(node)) is None or spent > limit)
    ]
    return f" More than agreed: {numbers.enumerated(over)}." if over else ""


def _terms(run: RunFigures) -> Markup:
    promise = run.privacy
    noise, clip, delta = promise.noise_multiplier, promise.clip_norm, promise.delta
    adjacency = {"add-remove": "one is added or removed"}.get(
        promise.adjacency, promise.adjacency
    )
    facts = [
        f"unit of privacy: one {promise.unit}" if promise.unit else "",
        f"neighbouring data: {adjacency}" if adjacency else "",
        "" if delta is None else f"δ: {numbers.chance(delta)}",
        "" if noise is None else f"noise multiplier: {numbers.short(noise)}",
        "" if clip is None else f"gradients clipped to norm {numbers.short(clip)}",
    ]
    told = numbers.capital("; ".join(fact for fact in facts if fact))
    return joined(
        paragraphs(promise.statement) if promise.statement else "",
        element("p", {"class": "note"}, f"{told}.") if told else "",
    )
