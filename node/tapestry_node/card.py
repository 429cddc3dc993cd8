"""The model card of an adapter: for people, and for machines in its front matter.

The front matter is YAML as the Hugging Face hub reads it, plus a table ``tapestry``
with what that has no place for. Every string is quoted as JSON quotes it, which YAML
reads the same way.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tapestry.privacy import accounting
from tapestry.workloads.adapters import BaseName


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """The privacy of an adapter; decimals as in the log. None: nothing is promised."""

    epsilon: str | None
    fallback: str | None  # if all others collude; None: the same
    target_delta: str
    clip_norm: str
    noise_multiplier: str
    sampling_rate: str
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What is told about an adapter."""

    name: str
    version: int
    country: str
    language: str
    licence: str
    text_licence: str
    base: BaseName
    rank: int
    promise: Promise
    evaluation: Mapping[str, str]  # label -> plain decimal


def render(card: Card) -> str:
    """Print the card as Markdown with YAML in front; the same card, the same text."""
    return "\n".join(["---", *_front(card), "---", "", *_body(card), ""])


def _front(card: Card) -> Iterator[str]:
    yield f"language: {_quote(card.language)}"
    yield f"license: {_quote(card.licence.lower())}"
    yield "library_name: peft"
    yield f"base_model: {_quote(card.base.name)}"
    yield "base_model_relation: adapter"
    yield "pipeline_tag: text-generation"
    yield "tags: [lora, tapestry, differential-privacy]"
    yield "tapestry:"
    yield f"  adapter: {_quote(card.name)}"
    yield f"  version: {card.version}"
    yield f"  country: {_quote(card.country)}"
    yield f"  base: {_quote(card.base.name)}"
    yield f"  base_digest: {_quote(card.base.digest)}"
    yield f"  rank: {card.rank}"
    yield f"  text_licence: {_quote(card.text_licence)}"
    yield "  privacy:"
    for name, value in _privacy(card.promise).items():
        yield f"    {name}: {_quote(value)}"
    yield "  evaluation:" if card.evaluation else "  evaluation: {}"
    for name, value in sorted(card.evaluation.items()):
        yield f"    {_quote(name)}: {_quote(value)}"


def _privacy(promise: Promise) -> dict[str, str | int | None]:
    if promise.epsilon is None:
        return {"mechanism": "none", "epsilon": None}
    return {
        "mechanism": "dp-sgd",
        "unit": "record",
        "adjacency": accounting.ADJACENCY,
        "trust_model": "local" if promise.fallback is None else "shared",
        "epsilon": promise.epsilon,
        "epsilon_fallback": promise.fallback,
        "delta": promise.target_delta,
        "clip_norm": promise.clip_norm,
        "noise_multiplier": promise.noise_multiplier,
        "sampling_rate": promise.sampling_rate,
        "steps": promise.steps,
        "accountant": accounting.ACCOUNTANT,
        "accountant_version": accounting.accountant_version(),
    }


def _body(card: Card) -> Iterator[str]:
    yield f"# {card.name}"
    yield ""
    yield (
        f"A LoRA adapter (rank {card.rank}, version {card.version}) for"
        f" {card.language}, grown by an institution of {card.country} on the shared"
        f" base `{card.base.name}` with text of its own, held under"
        f" {card.text_licence}. The text never left the institution."
    )
    yield ""
    yield "```python"
    yield "from peft import PeftModel"
    yield "from transformers import AutoModelForCausalLM"
    yield ""
    yield f'base = AutoModelForCausalLM.from_pretrained("releases/{card.base.name}")'
    yield f'model = PeftModel.from_pretrained(base, "adapters/{card.name}")'
    yield "```"
    yield ""
    yield f"The base must have parameters `{card.base.digest}`;"
    yield "`tapestry adapter verify` compares them."
    yield ""
    yield "## Privacy"
    yield ""
    yield from _privacy_words(card.promise)
    yield ""
    yield "## Evaluation"
    yield ""
    yield from _evaluation_words(card.evaluation)
    yield ""
    yield "## Limits"
    yield ""
    yield (
        "It repeats what its text says and how, errors and bias included, and it has"
        " seen no alignment training. Do not use it to decide about people."
    )


def _privacy_words(promise: Promise) -> Iterator[str]:
    if promise.epsilon is None:
        yield "Trained without noise: no promise about single records."
        return
    yield (
        f"Differentially private: epsilon {promise.epsilon} at delta"
        f" {promise.target_delta}, per record, for adding or removing one"
        f" ({promise.steps} steps of DP-SGD, clip norm {promise.clip_norm}, noise"
        f" multiplier {promise.noise_multiplier}, sampling rate"
        f" {promise.sampling_rate}). It covers this adapter and what the institution's"
        " records gave to the base in this run; the log has the parts."
        f" {_trust_words(promise)} Facts that many records share are not hidden."
    )


def _trust_words(promise: Promise) -> str:
    if promise.fallback is None:
        return "It trusts nobody outside the institution."
    return (
        "It counts on noise that institutions shared in the rounds; if all others"
        f" collude, epsilon {promise.fallback} is left."
    )


def _evaluation_words(evaluation: Mapping[str, str]) -> Iterator[str]:
    if not evaluation:
        yield "None recorded."
        return
    yield "| measure | value |"
    yield "|---|---|"
    for name, value in sorted(evaluation.items()):
        yield f"| {name} | {value} |"


def _quote(value: str | int | None) -> str:
    return json.dumps(value, ensure_ascii=False)
