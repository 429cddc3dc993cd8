"""The numbers of one run, as report.json holds them.

Everything but the title may be missing: a report of a run that ended early shows
what there is. Keys that are not known here stay in report.json and are not shown.
"""

import math
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tapestry.errors import ConfigError

Number = float | None


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)


class Country(_Part):
    """One institution and what it brought."""

    name: str
    language: str = "und"
    language_name: str = ""
    institution: str = ""
    records: int | None = None
    licence: str = ""

    @property
    def label(self) -> str:
        """What a reader calls it."""
        return self.language_name or self.name


class Dropped(_Part):
    """A node that did not finish a round."""

    name: str
    phase: str = ""


class Round(_Part):
    """What became of one round."""

    number: int
    outcome: str = ""
    included: list[str] = []
    dropped: list[str | Dropped] = []
    mean_norm: Number = None
    bits_per_byte: dict[str, Number] | Number = None

    def bits(self, country: str) -> Number:
        """The value after this round on one country's held-out text."""
        if isinstance(self.bits_per_byte, dict):
            return self.bits_per_byte.get(country)
        return None

    @property
    def dropped_names(self) -> list[str]:
        """Each node that dropped out, with the phase where it did."""
        return [
            d if isinstance(d, str) else f"{d.name} ({d.phase})" if d.phase else d.name
            for d in self.dropped
        ]


class Privacy(_Part):
    """The promise that the noise makes."""

    unit: str = ""
    adjacency: str = ""
    delta: Number = None
    noise_multiplier: Number = None
    clip_norm: Number = None
    statement: str = ""


class LogFacts(_Part):
    """The log as the members last cosigned it."""

    origin: str = ""
    size: int | None = None
    root: str = ""
    quorum: int | None = None
    cosignatures: list[str] = []


class SecAgg(_Part):
    """How the masked sum was set up."""

    n: int | None = None
    threshold: int | None = None
    max_colluding: int | None = None
    min_cohort: int | None = None
    length: int | None = None


class Sight(_Part):
    """One thing, and whether the coordinator could see it."""

    item: str
    seen: bool
    detail: str = ""


class Budget(_Part):
    """How many gradients of single examples each way of training used."""

    example_gradients_federated: Number = None
    example_gradients_central: Number = None


class Release(_Part):
    """A published base."""

    name: str
    digest: str = ""
    round: int | None = None


class Adapter(_Part):
    """A published adapter."""

    name: str
    country: str = ""
    epsilon: Number = None
    digest: str = ""


class Run(_Part):
    """All the numbers of one run."""

    title: str
    created: str = ""
    engine: str = ""
    base: str = ""
    seed: int | None = None
    countries: list[Country] = []
    bits_per_byte: dict[str, dict[str, Number]] = {}
    bits_per_byte_se: dict[str, dict[str, Number]] = {}
    rounds: list[Round] = []
    epsilon: dict[str, dict[str, Number]] = {}
    epsilon_limit: dict[str, Number] = {}
    privacy: Privacy = Field(default_factory=Privacy)
    bytes_out: dict[str, dict[str, int]] = {}
    seconds: dict[str, Number] = {}
    peak_rss_mb: Number = None
    log: LogFacts = Field(default_factory=LogFacts)
    secagg: SecAgg = Field(default_factory=SecAgg)
    coordinator_view: list[Sight] = []
    budget: Budget = Field(default_factory=Budget)
    software: dict[str, str] = {}
    releases: list[Release] = []
    adapters: list[Adapter] = []

    @property
    def final_base(self) -> str | None:
        """The newest released base that was measured."""
        numbers = [n for n in map(_release_number, self.bits_per_byte) if n is not None]
        return f"base-{max(numbers)}" if numbers else None

    def bits(self, model: str | None, country: str) -> Number:
        """One cell of the cross matrix."""
        return self.bits_per_byte.get(model or "", {}).get(country)

    def change(self, model: str | None, country: str) -> Number:
        """Relative change against the given base; below zero is better."""
        before, after = self.bits("given", country), self.bits(model, country)
        return (after - before) / before if before and after is not None else None

    def mean_bits(self, model: str | None) -> Number:
        """The mean over all countries, if each of them was measured."""
        values = [self.bits(model, c.name) for c in self.countries]
        known = [v for v in values if v is not None]
        return sum(known) / len(known) if known and len(known) == len(values) else None

    def mean_error(self, model: str) -> Number:
        """Standard error of the mean over countries, whose texts are independent."""
        errors = self.bits_per_byte_se.get(model, {})
        known = [e for c in self.countries if (e := errors.get(c.name)) is not None]
        if not known or len(known) != len(self.countries):
            return None
        return math.hypot(*known) / len(known)

    def spent(self, node: str) -> Number:
        """What a node spent: its ``total``, or else the sum, which bounds it."""
        runs = self.epsilon.get(node, {})
        if "total" in runs:
            return runs["total"]
        values = list(runs.values())
        known = [v for v in values if v is not None]
        return sum(known) if values and len(known) == len(values) else None

    def label(self, node: str) -> str:
        """What a reader calls a node: its name and its language."""
        known = (c.language_name for c in self.countries if c.name == node)
        language = next(known, "")
        return f"{node} ({language})" if language else node


def finite(value: Any) -> Any:
    """Replace numbers that JSON has no spelling for by null, at any depth."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def read(data: dict[str, Any]) -> Run:
    """Check what came from outside.

    Raises:
        ConfigError: A number or a name is not what the report needs.
    """
    try:
        return Run.model_validate(finite(data))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"report data, {where}: {first['msg']}") from None


def _release_number(model: str) -> int | None:
    prefix, _, number = model.partition("-")
    return int(number) if prefix == "base" and number.isdecimal() else None
