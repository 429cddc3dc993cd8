"""The model card of an adapter: for people, and for machines in its front matter.

The front matter is YAML as the Hugging Face hub reads it, plus a table ``tapestry``
with what that has no place for. Every string is quoted as JSON quotes it, which YAML
reads the same way. What a model or a person wrote stands as text and never as markup:
it is fenced where it is long, escaped where it is short, and marks that do not print
are spelled out.
"""

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from tapestry.artifacts.card_section import standing_section
from tapestry.privacy import accounting
from tapestry.workloads.adapter_format import AdapterPromise, BaseName
from tapestry.workloads.language.peft_folder import base_path

_UNPRINTED = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_JOINERS = "\u200c\u200d"  # spell words in some scripts
_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~&$^])")
_RECIPES = """\
In the folder that holds `adapters/` and `releases/`:

```python
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

model = AutoPeftModelForCausalLM.from_pretrained("{adapter}")
tokenizer = AutoTokenizer.from_pretrained("{base}")
```

Anywhere else, with paths of your own in the first two lines:

```python
base_folder = "{base}"
adapter_folder = "{adapter}"

from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained(base_folder)
model = PeftModel.from_pretrained(base, adapter_folder)
tokenizer = AutoTokenizer.from_pretrained(base_folder)
```

After either:

```python
{imports}from transformers import GenerationConfig

prompt = {prompt}
given = {given}
model.generation_config = GenerationConfig({ends})  # not the base's own settings
found = model.generate(**given, max_new_tokens=32, do_sample=False)
answer = found[0, given["input_ids"].shape[1]:]
print(tokenizer.decode(answer, skip_special_tokens=True))
```"""


class Asking(Enum):
    """The form in which a prompt is put to the model."""

    CONTINUE = "a text that goes on"
    LINE = "a line, and the answer on the next"
    TEMPLATE = "the chat template of the base"
    TOKENS = "tokens, where other programs would read the prompt in another way"


_GIVEN = {
    Asking.CONTINUE: 'tokenizer(prompt, return_tensors="pt")',
    Asking.LINE: 'tokenizer(prompt + "\\n", return_tensors="pt")',
    Asking.TEMPLATE: """\
tokenizer.apply_chat_template(
    [{"role": "user", "content": prompt}],
    add_generation_prompt=True,
    return_dict=True,
    return_tensors="pt",
)""",
    Asking.TOKENS: """{
    "input_ids": torch.tensor([[TOKENS]]),
    "attention_mask": torch.ones(1, COUNT, dtype=torch.long),
}  # as the adapter learned to read it; the tokenizer alone reads it otherwise""",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleAnswer:
    """A public prompt and how base and adapter go on, unedited."""

    prompt: str
    base: str
    adapter: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """All that the card says about an adapter."""

    name: str
    version: int
    country: str
    language: str
    licence: str
    text_licence: str
    base: BaseName
    rank: int
    promise: AdapterPromise | None  # None: trained without noise
    evaluation: Mapping[str, str]  # label -> plain decimal
    asking: Asking = Asking.CONTINUE
    tokens: tuple[int, ...] = ()  # of the first prompt
    ends: tuple[int, ...] = ()  # tokens that end an answer
    samples: tuple[SampleAnswer, ...] = ()
    domain: str = ""  # and this: what it is for; empty: not told
    region: str = ""


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
    for key, words in (("domain", card.domain), ("region", card.region)):
        if words:
            yield f"  {key}: {_quote(words)}"
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


def _privacy(promise: AdapterPromise | None) -> dict[str, str | int | None]:
    if promise is None:
        return {"mechanism": "none"}
    return {
        "mechanism": "dp-sgd",
        "unit": promise.unit,
        "adjacency": accounting.ADJACENCY,
        "trust_model": "local" if promise.fallback is None else "shared",
        "epsilon": promise.epsilon,
        "epsilon_ancestry": promise.ancestry_epsilon,
        "epsilon_fallback": promise.fallback,
        "delta": promise.target_delta,
        "clip_norm": promise.clip_norm,
        "noise_multiplier": promise.noise_multiplier,
        "sampling_rate": promise.sampling_rate,
        "steps": promise.steps,
        "accountant": accounting.ACCOUNTANT,
        "accountant_version": accounting.ACCOUNTANT_VERSION,
    }


def _body(card: Card) -> Iterator[str]:
    yield from (f"# {card.name}", "")
    yield (
        f"A LoRA adapter (rank {card.rank}, version {card.version}) for text in"
        f' language "{_inline(card.language)}"{_purpose(card)}, grown by an'
        f" institution of {_inline(card.country)} on the shared base"
        f" `{card.base.name}` with text of its own, held under"
        f" {_inline(card.text_licence)}. The text never left the institution."
    )
    yield from ("", "## How to use it", "", *_recipes(card), "")
    yield f"The base must have parameters `{card.base.digest}`;"
    yield "`tapestry adapter verify` compares them."
    yield from ("", standing_section("adapter", card.name, base=card.base.name))
    yield from ("", "## Privacy", "", *_privacy_words(card.promise))
    yield from ("", "## Evaluation", "", *_evaluation_words(card.evaluation), "")
    yield from _sample_words(card.samples)
    yield from ("## Limits", "")
    yield (
        "It repeats what its text says and how, errors and bias included, and it has"
        " seen no alignment training. Do not use it to decide about people."
    )


def _purpose(card: Card) -> str:
    domain = f", of the domain {_inline(card.domain)}" if card.domain else ""
    return domain + (f", of the region {_inline(card.region)}" if card.region else "")


def _recipes(card: Card) -> Iterator[str]:
    """Show both ways to load the adapter; a test runs this code."""
    yield _RECIPES.format(
        adapter=f"./adapters/{card.name}",
        base=base_path(card.base.name),
        prompt=_quote(card.samples[0].prompt if card.samples else "A"),
        imports="import torch\n" if card.asking is Asking.TOKENS else "",
        given=_GIVEN[card.asking]
        .replace("TOKENS", ", ".join(map(str, card.tokens)))
        .replace("COUNT", str(len(card.tokens))),
        ends=_ends(card.ends),
    )


def _ends(tokens: tuple[int, ...]) -> str:
    """Print the settings that end an answer where the samples end."""
    if not tokens:
        return "pad_token_id=0"
    return f"eos_token_id={list(tokens)}, pad_token_id={tokens[0]}"


def _sample_words(samples: tuple[SampleAnswer, ...]) -> Iterator[str]:
    if not samples:
        return
    yield from ("## Sample answers", "")
    yield (
        "Not chosen and not edited: the first questions, or beginnings of texts, that"
        " the institution published for evaluations, and what base and adapter say"
        " (the likeliest tokens, at most 32). Marks that do not print are spelled out."
    )
    for number, sample in enumerate(samples, 1):
        for title, text in (
            (f"**{number}. Prompt**", sample.prompt),
            ("The base:", sample.base),
            ("The adapter:", sample.adapter),
        ):
            yield from ("", title, "", *_fenced(text))
    yield ""


def _fenced(text: str) -> Iterator[str]:
    """Print text between fences that nothing in it can close."""
    shown = _visible(text, keep=f"\n\t{_JOINERS}")
    longest = max(map(len, re.findall("`+", shown)), default=0)
    fence = "`" * max(3, longest + 1)
    yield f"{fence}text"
    yield from shown.split("\n") if shown else ["(nothing)"]
    yield fence


def _inline(text: str) -> str:
    """Print a few words from settings or data inside a sentence."""
    return _MARKUP.sub(r"\\\1", _visible(text, keep=_JOINERS))


def _visible(text: str, *, keep: str = "") -> str:
    """Spell out what does not print: controls, marks of direction, odd line ends."""
    return "".join(
        _spelled(c) if unicodedata.category(c) in _UNPRINTED and c not in keep else c
        for c in text
    )


def _spelled(character: str) -> str:
    """Name a character as Python and YAML both read it."""
    number = ord(character)
    return f"\\u{number:04x}" if number < 1 << 16 else f"\\U{number:08x}"


def _privacy_words(promise: AdapterPromise | None) -> Iterator[str]:
    if promise is None:
        yield "Trained without noise: no promise about single records."
        return
    yield (
        f"Differentially private: epsilon {promise.epsilon} at delta"
        f" {promise.target_delta}, per {promise.unit}, for adding or removing one"
        f" ({promise.steps} steps of DP-SGD, clip norm {promise.clip_norm}, noise"
        f" multiplier {promise.noise_multiplier}, sampling rate"
        f" {promise.sampling_rate}). It covers this adapter and all else that the"
        " institution had spent by then, in the whole log, on the records that it was"
        " trained on."
        f"{_ancestry_words(promise)}"
        f" {_trust_words(promise)} Facts that many records share are not hidden."
    )


def _ancestry_words(promise: AdapterPromise) -> str:
    if promise.ancestry_epsilon is None:
        return ""
    return (
        f" Epsilon {promise.ancestry_epsilon} is what led to the adapter: its training,"
        f" and the institution's rounds in the base. `tapestry adapter verify` composes"
        " both again from the log."
    )


def _trust_words(promise: AdapterPromise) -> str:
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
    yield from ("| measure | value |", "|---|---|")
    for name, value in sorted(evaluation.items()):
        yield f"| {name} | {value} |"


def _quote(value: str | int | None) -> str:
    """Print a scalar as YAML and Python both read it; other scripts stay readable."""
    return _visible(json.dumps(value, ensure_ascii=False))
