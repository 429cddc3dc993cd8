"""The figures of a finished run: the content of report.json, and of the page.

A number that is not known is null, and a dash on the page.
"""

import math
import re
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tapestry.html.numbers import LEAST

Number = float | None
Figures = dict[str, dict[str, Number]]  # by model, by country


SUSPECT = 0.001  # a fair test shows a smaller p-value once in a thousand runs


class _Part(BaseModel):
    """A part of the figures.

    Guarantees:
        Its numbers are finite and its text is valid UTF-8, so every part can be
        written to a file: what cannot is replaced when the part is made.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _replace_unwritable(cls, data: Any) -> Any:
        return writable(data)


class Country(_Part):
    """One institution, with its language and the amount of its text."""

    name: str
    language: str
    language_name: str
    institution: str
    records: int  # as declared: rounded down
    licence: str


class Model(_Part):
    """The pretrained model that the run started from."""

    name: str
    parameters: int
    licence: str = ""


class PromptAnswers(_Part):
    """A held-out prompt, with the unedited answer of each model."""

    country: str
    prompt: str
    reference: str
    answers: dict[str, str]


class UploadTest(_Part):
    """A statistical test of all uploads, as the coordinator received them."""

    uploads: int
    bytes: int
    p_value: float

    @property
    def is_suspect(self) -> bool:
        """The uploads do not look like uniform bytes, as masked ones must."""
        return self.p_value < SUSPECT


class Search(_Part):
    """The result of a search for pieces of private text in all that was sent."""

    searched: int = 0
    found: int = 0


class DroppedNode(_Part):
    """A node that did not finish a round."""

    name: str
    stage: str


class RoundFigures(_Part):
    """The outcome of one round."""

    number: int
    outcome: str
    included: list[str]
    dropped: list[DroppedNode]
    mean_norm: Number
    bits_per_byte: dict[str, Number]


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

    origin: str
    size: int
    root: str
    quorum: int | None
    cosignatures: list[str]
    verdict: str

    @property
    def has_quorum(self) -> bool:
        """As many members signed as are needed."""
        return len(self.cosignatures) >= (self.quorum or 1)


class SecAgg(_Part):
    """The parameters of the masked sum."""

    n: int
    threshold: int
    max_colluding: int
    min_cohort: int
    length: int


class Sight(_Part):
    """One thing that the coordinator saw or did not see; None: that is in doubt."""

    item: str
    seen: bool | None
    detail: str


class Budget(_Part):
    """The numbers of single-example gradients that each way of training used."""

    example_gradients_federated: int
    example_gradients_central: int | None  # None: there was no such training


class Release(_Part):
    """A published base."""

    name: str
    digest: str
    round: int


class Decision(_Part):
    """A release or a proposal, and the members' votes on it."""

    what: str
    standing: str
    yes: int
    needed: int
    votes: dict[str, str]  # by member
    decided: int | None  # index of the deciding vote


class AdapterFigures(_Part):
    """A published adapter."""

    name: str
    country: str
    epsilon: Number
    digest: str


class RunFigures(_Part):
    """All the numbers of one run."""

    title: str
    created: str
    engine: str
    base: str
    model: Model
    countries: list[Country]
    measure: Literal["answers"] = "answers"
    bits_per_byte: Figures
    bits_per_byte_se: Figures
    samples: list[PromptAnswers]
    references: bool
    rounds: list[RoundFigures]
    epsilon: Figures  # by node, the ``total`` of all that it spent
    epsilon_after_rounds: dict[str, Number] = {}  # by node, before its adapter
    epsilon_limit: dict[str, Number]
    privacy: Privacy
    bytes_out: dict[str, dict[str, int]]
    seconds: dict[str, float]
    peak_rss_mb: float
    log: LogFacts
    secagg: SecAgg
    coordinator_view: list[Sight]
    upload_test: UploadTest | None = None
    private_text: Search = Field(default_factory=Search)
    budget: Budget
    software: dict[str, str]
    releases: list[Release]
    adapters: list[AdapterFigures]
    decisions: list[Decision] = []

    @property
    def is_in_doubt(self) -> bool:
        """The test of the uploads found that masks may not have hidden them."""
        return self.upload_test is not None and self.upload_test.is_suspect

    @property
    def sights(self) -> list[Sight]:
        """The coordinator's view; uploads in doubt put what it did not see in doubt."""
        if not self.is_in_doubt:
            return self.coordinator_view
        return [
            s if s.seen else s.model_copy(update={"seen": None})
            for s in self.coordinator_view
        ]

    @property
    def gains(self) -> dict[str, float]:
        """The gain of the newest shared model for each country, where it is known."""
        found = {c.name: self.gain(self.final_base, c.name) for c in self.countries}
        return {name: gain for name, gain in found.items() if gain is not None}

    @property
    def final_base(self) -> str | None:
        """The newest released base that was measured."""
        numbers = [n for n in map(release_number, self.bits_per_byte) if n is not None]
        return f"base-{max(numbers)}" if numbers else None

    def in_order(self, models: Iterable[str]) -> list[str]:
        """Sort models: the given one, shared ones, adapters, and then all others."""
        own = [c.name for c in self.countries]

        def place(model: str) -> tuple[int, int, str]:
            number = release_number(model)
            if model == "given":
                return 0, 0, model
            if number is not None:
                return 1, number, model
            prefix, _, rest = model.partition("-")
            if prefix == "adapter":
                return 2, own.index(rest) if rest in own else len(own), model
            return 3, 0, model

        return sorted(models, key=place)

    def nodes(self, found: Iterable[str]) -> list[str]:
        """Sort nodes by the order of their countries, and then all others by name."""
        own = [c.name for c in self.countries]
        known = [name for name in own if name in set(found)]
        return known + sorted(set(found) - set(own))

    def bits(self, model: str | None, country: str) -> Number:
        """Return one cell of the cross matrix."""
        return self.bits_per_byte.get(model or "", {}).get(country)

    def gain(self, model: str | None, country: str) -> Number:
        """Return the share of bits saved against the given base; above 0 is better."""
        before, after = self.bits("given", country), self.bits(model, country)
        return (before - after) / before if before and after is not None else None

    def is_clear(self, model: str | None, country: str) -> bool:
        """Return whether a change exceeds two standard errors, or none are known."""
        before, after = self.bits("given", country), self.bits(model, country)
        error = self.bits_per_byte_se.get(model or "", {}).get(country)
        if before is None or after is None:
            return False
        return error is None or abs(after - before) > 2 * error

    def change(self, country: str) -> str:
        """Name the change of the newest shared model for one country."""
        gain = self.gain(self.final_base, country)
        if gain is None:
            return "not measured"
        if abs(gain) < LEAST or not self.is_clear(self.final_base, country):
            return "not clearly changed"
        return "better" if gain > 0 else "worse"

    def mean_bits(self, model: str | None) -> Number:
        """Return the mean over all countries, if each of them was measured."""
        values = [self.bits(model, c.name) for c in self.countries]
        known = [v for v in values if v is not None]
        return sum(known) / len(known) if known and len(known) == len(values) else None

    def mean_error(self, model: str) -> Number:
        """Return the standard error of that mean, as the texts are independent."""
        errors = self.bits_per_byte_se.get(model, {})
        known = [e for c in self.countries if (e := errors.get(c.name)) is not None]
        if not known or len(known) != len(self.countries):
            return None
        return math.hypot(*known) / len(known)

    def spent(self, node: str) -> Number:
        """Return the loss of a node; None without a bound."""
        return self.epsilon.get(node, {}).get("total")

    @property
    def worst_epsilon(self) -> Number:
        """The largest loss of any node; None unless every node has a bound.

        A node that is in a sum and has no account has no bound.
        """
        summed = {name for r in self.rounds for name in r.included}
        spent = [self.spent(node) for node in {*self.epsilon, *summed}]
        known = [v for v in spent if v is not None]
        return max(known) if known and len(known) == len(spent) else None


def writable(value: Any) -> Any:
    """Replace what no file can hold, at any depth.

    A number without a spelling in JSON becomes null, and half of a surrogate pair,
    which UTF-8 cannot spell, becomes the replacement character.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {writable(str(key)): writable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [writable(item) for item in value]
    return value


def release_number(model: str) -> int | None:
    """Return N of ``base-N``; None for any other model."""
    prefix, _, number = model.partition("-")
    known = prefix == "base" and re.fullmatch("[0-9]{1,9}", number)
    return int(number) if known else None
