"""The two ways in which ``tapestry node check`` shows what it found."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tapestry_node.budget.ledger import Balance
    from tapestry_node.data.record_statistics import Coverage, Lengths
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
        **asdict(seen),
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
    for each in seen.coverage:
        yield f"tokens    {_coverage(each)}"
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
    census = seen.census
    yield (
        f"data      {_count(census.records, 'record')} in"
        f" {_count(census.files, 'file')} of {census.bytes} bytes; language"
        f" {seen.language}, licence {seen.licence}"
    )
    yield f"length    {_lengths(census.characters)} characters"
    for count, what in (
        (census.joined, "records joined from several rows with one id"),
        (census.duplicates, "records that repeat another one exactly"),
        (census.like_ids, "ids that differ from another one in case only"),
        (census.empty, "files without a visible text"),
        (census.invisible, "texts left out, since nothing in them is visible"),
    ):
        if count:
            yield f"note      {count} {what}"


def _coverage(coverage: "Coverage") -> str:
    return (
        f"{_lengths(coverage.tokens)}; in sequences of {coverage.sequence_length},"
        f" {_count(coverage.cut, 'record')} cut, {coverage.without_loss} too short"
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _lengths(lengths: "Lengths | None") -> str:
    if lengths is None:
        return "none"
    return f"{lengths.shortest} to {lengths.longest}, median {lengths.median}"


def _price(price: "Price", *, limit: float) -> str:
    fits = "" if price.fits else ", which does not fit"
    return (
        f"{price.title}: epsilon {price.epsilon:.4f} ({_count(price.steps, 'step')},"
        f" sampling rate {price.sampling_rate:.4f}, noise multiplier"
        f" {price.noise_multiplier:g}); with what is spent {price.epsilon_after:.4f} of"
        f" {limit:g}{fits}"
    )
