"""Sample answers of an adapter and its base, for the card: public prompts, unedited.

The prompts are the beginnings of the first texts that the institution published for
evaluations; nothing is chosen by its answer. No record is at hand here.
"""

from collections.abc import Iterator, Sequence

from tapestry.vector import FloatVector
from tapestry.workloads.language import LanguageModel
from tapestry_node.adapting import AdapterPlan
from tapestry_node.card import Sample

COUNT = 3
MAX_TOKENS = 32
_WORDS = 12  # of a prompt, at most
_CHARACTERS = 80  # the same, where nobody puts spaces


def answer(
    model: LanguageModel,
    update: FloatVector,
    texts: Sequence[str],
    *,
    plan: AdapterPlan,
) -> tuple[Sample, ...]:
    """Let base and adapter continue the first prompts, greedily.

    Args:
        model: The base, with its parameters loaded.
        update: The adapter.
        texts: Public text; the answers are published.
        plan: How the adapter was trained.
    """
    prompts = list(prompts_of(texts))
    before = _complete(model, prompts)
    with model.moved(update, plan.training):
        after = _complete(model, prompts)
    rows = zip(prompts, before, after, strict=True)
    return tuple(Sample(prompt=p, base=b, adapter=a) for p, b, a in rows)


def prompts_of(texts: Sequence[str]) -> Iterator[str]:
    """Take the beginnings of the first texts, half of each at most, no two the same."""
    seen: set[str] = set()
    for text in texts:
        prompt = _beginning(text)
        if prompt and prompt not in seen:
            seen.add(prompt)
            yield prompt
        if len(seen) == COUNT:
            return


def _beginning(text: str) -> str:
    words = text.split()
    short = " ".join(words[: max(1, min(_WORDS, len(words) // 2))])
    return short[:_CHARACTERS]


def _complete(model: LanguageModel, prompts: Sequence[str]) -> list[str]:
    return [model.complete(prompt, max_tokens=MAX_TOKENS) for prompt in prompts]
