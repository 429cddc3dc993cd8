"""The answers of each model to held-out questions, unedited, for the report.

Three questions a country, the same for every model: the first distinct ones of its
public held-out dialogues, so that no answer was picked. Answers are the likeliest
tokens, at most 32 of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tapestry.dialogue import Dialogue, Text
from tapestry.workloads.language.model import LanguageModel

MAX_TOKENS = 32
_QUESTIONS = 3  # of each country


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutPrompt:
    """One held-out question of a country, with the answers of models to it."""

    country: str
    prompt: str
    reference: str  # the held-out answer
    answers: dict[str, str] = field(default_factory=dict)  # by model


def choose_samples(held_out: Mapping[str, Sequence[Text]]) -> list[HeldOutPrompt]:
    """Take the first questions of each country, without their answers.

    Edge cases:
        Texts that are no dialogues ask nothing, and give no sample.
    """
    found = []
    for country, texts in held_out.items():
        dialogues = [text for text in texts if isinstance(text, Dialogue)]
        distinct = {d.turns[0]: d.turns[1] for d in reversed(dialogues)}
        order = dict.fromkeys(d.turns[0] for d in dialogues)
        found += [
            HeldOutPrompt(country=country, prompt=prompt, reference=distinct[prompt])
            for prompt in list(order)[:_QUESTIONS]
        ]
    return found


def ask(model: LanguageModel, samples: Sequence[HeldOutPrompt], *, name: str) -> None:
    """Let a loaded model answer the questions; keep its answers under a name."""
    prompts = [Dialogue(turns=(sample.prompt,)) for sample in samples]
    answers = model.complete_all(prompts, max_tokens=MAX_TOKENS)
    for sample, answer in zip(samples, answers, strict=True):
        sample.answers[name] = answer
