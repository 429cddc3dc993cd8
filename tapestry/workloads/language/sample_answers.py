"""Sample answers of an adapter and its base, for the card: public prompts, unedited.

The prompts are the questions of the first dialogues, or the beginnings of the first
texts, that the institution published for evaluations; nothing is chosen by its answer.
No record is at hand here.
"""

from collections.abc import Iterator, Sequence

from tapestry.protocol.round_manifest import TrainingPlan
from tapestry.vectors import FloatVector
from tapestry.workloads.language.dialogue import Dialogue, Text
from tapestry.workloads.language.model import LanguageModel
from tapestry.workloads.language.model_card import Asking, SampleAnswer
from tapestry.workloads.language.text_overlap import beginning

COUNT = 3
MAX_TOKENS = 32


def answer(
    model: LanguageModel,
    update: FloatVector,
    texts: Sequence[Text],
    *,
    plan: TrainingPlan,
) -> tuple[SampleAnswer, ...]:
    """Let base and adapter answer or continue the first prompts, greedily."""
    prompts = prompts_of(texts)
    before = model.complete_all(prompts, max_tokens=MAX_TOKENS)
    with model.moved(update, plan):
        after = model.complete_all(prompts, max_tokens=MAX_TOKENS)
    words = (p if isinstance(p, str) else p.turns[0] for p in prompts)
    rows = zip(words, before, after, strict=True)
    return tuple(SampleAnswer(prompt=p, base=b, adapter=a) for p, b, a in rows)


def asking(model: LanguageModel, texts: Sequence[Text]) -> Asking:
    """Say how to put the first prompt of ``prompts_of`` to the model.

    A reader's code tokenizes it as one text. Where that gives other tokens than those
    that the samples answer, or may on another day, the tokens themselves are put.
    """
    prompts = prompts_of(texts)
    if prompts and model.whole_tokens(prompts[0]) != model.prompt_tokens(prompts[0]):
        return Asking.TOKENS
    if not any(isinstance(prompt, Dialogue) for prompt in prompts):
        return Asking.CONTINUE
    return Asking.TEMPLATE if model.has_chat_template else Asking.LINE


def first_tokens(model: LanguageModel, texts: Sequence[Text]) -> tuple[int, ...]:
    """Tokenize the first prompt of ``prompts_of``; nothing where there is none."""
    prompts = prompts_of(texts)
    return model.prompt_tokens(prompts[0]) if prompts else ()


def prompts_of(texts: Sequence[Text]) -> list[Text]:
    """Take the first distinct questions; without any, the beginnings of texts."""
    dialogues = [text for text in texts if isinstance(text, Dialogue)]
    questions = (Dialogue(turns=each.turns[:1]) for each in dialogues)
    beginnings = (beginning(text) for text in texts if isinstance(text, str))
    found: Iterator[Text] = questions if dialogues else filter(None, beginnings)
    return list(dict.fromkeys(found))[:COUNT]
