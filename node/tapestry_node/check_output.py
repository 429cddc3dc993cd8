"""The two ways in which ``tapestry node check`` shows what it found."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tapestry_node.budget.ledger import Balance
    from tapestry_node.inspection import Inspection, Price
    from tapestry_node.settings import NodeSettings


def check_as_json(
    settings: "NodeSettings",
    seen: "Inspection",
    balance: "Balance",
    *,
    refused: Sequence[str],
) -> dict[str, Any]:
    """Return everything as one JSON object."""
    return {
        "ready": not refused and not seen.missing,
        "name": settings.name,
        "federation": settings.federation,
        "base": settings.base,
        "min_cohort": settings.policy.min_cohort,
        "budget": asdict(balance),
        **seen.data.model_dump(include={"licence"}),
        "languages": list(seen.data.languages),
        "records": seen.records,
        "census": seen.summary.to_json() if seen.summary else None,
        "coverage": [each.to_json() for each in seen.coverage],
        "prices": [asdict(price) for price in seen.prices],
        "keys": seen.keys,
        "superlink": seen.superlink,
        "missing": list(seen.missing),
        "refused": list(refused),
    }


def check_as_lines(
    settings: "NodeSettings",
    seen: "Inspection",
    balance: "Balance",
    *,
    refused: Sequence[str],
) -> Iterator[str]:
    """Yield everything in lines; the last one says whether the node is ready."""
    yield f"node      {settings.name} of federation {settings.federation}"
    yield f"base      {settings.base}"
    yield f"policy    cohorts of {settings.policy.min_cohort} and more"
    yield from _records(seen)
    yield f"budget    epsilon {balance.spent:.4f} of {balance.limit:g} is spent"
    for price in seen.prices:
        yield f"price     {_price(price, limit=balance.limit)}"
    modes = ", ".join(f"{name} {mode}" for name, mode in seen.keys.items())
    yield f"keys      {modes}"
    yield f"transport {seen.superlink or 'none'}"
    for line in refused:
        yield f"refused   {line}"
    for line in seen.missing:
        yield f"missing   {line}"
    yield "not ready" if refused or seen.missing else "ready"


def _records(seen: "Inspection") -> Iterator[str]:
    described = f"licence {seen.data.licence}"
    if seen.data.languages:
        described = f"language {', '.join(seen.data.languages)}, {described}"
    if seen.summary is None:
        yield f"data      {_count(seen.records, 'record')}; {described}"
    for summary in filter(None, (seen.summary, *seen.coverage)):
        for label, text in summary.lines():
            rest = f"; {described}" if label == "data" else ""
            yield f"{label:<9} {text}{rest}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _price(price: "Price", *, limit: float) -> str:
    fits = "" if price.fits else ", which does not fit"
    return (
        f"{price.title}: epsilon {price.epsilon:.4f} ({_count(price.steps, 'step')},"
        f" sampling rate {price.sampling_rate:.4f}, noise multiplier"
        f" {price.noise_multiplier:g}); with what is spent {price.epsilon_after:.4f} of"
        f" {limit:g}{fits}"
    )
