"""LoRA adapters of a language model: a PEFT folder with a model card and samples."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tapestry.artifacts.adapter_folder import CARD
from tapestry.encoding import encode_decimal
from tapestry.errors import ResourceError
from tapestry.protocol.round_manifest import TrainingPlan
from tapestry.vectors import FloatVector
from tapestry.workloads.adapter_format import AdapterFacts
from tapestry.workloads.language import public_text, sample_answers, text_overlap
from tapestry.workloads.language.dialogue import Text
from tapestry.workloads.language.model import LanguageModel
from tapestry.workloads.language.model_card import Card, render
from tapestry.workloads.language.options import LanguageOptions
from tapestry.workloads.language.peft_folder import write_peft


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraAdapters:
    """Publishes adapters; implements ``workloads.adapter_format.AdapterFormat``."""

    model: LanguageModel

    def repeated(self, public: Sequence[Text], private: Iterable[Text]) -> list[int]:
        """Return the places of public texts that would publish a private one."""
        return text_overlap.repeated(public, private)

    def read_public(
        self, folder: Path, *, repeated: Callable[[Sequence[Text]], list[int]]
    ) -> list[Text]:
        """Read ``held-out.jsonl`` and try the model on it."""
        return public_text.read(folder, model=self.model, repeated=repeated)

    def write(
        self,
        folder: Path,
        update: FloatVector,
        *,
        plan: TrainingPlan,
        facts: AdapterFacts,
        public: Sequence[Text],
    ) -> dict[str, str]:
        """Write the PEFT folder and its card, with scores and answers to public text.

        Raises:
            ConfigError: The plan is not low-rank.
            ResourceError: The folder cannot be written.
        """
        card = self.card(update, plan=plan, facts=facts, public=public)
        write_peft(folder, update, model=self.model, plan=plan, base=facts.base)
        try:
            (folder / CARD).write_text(render(card), encoding="utf-8")
        except OSError as error:
            raise ResourceError(
                f"cannot write {folder}: {error.strerror}", code="file-unwritable"
            ) from error
        return dict(card.evaluation)

    def card(
        self,
        update: FloatVector,
        *,
        plan: TrainingPlan,
        facts: AdapterFacts,
        public: Sequence[Text],
    ) -> Card:
        """Measure an adapter on public text and describe it."""
        model = self.model
        return Card(
            name=facts.name,
            version=facts.version,
            country=facts.country,
            language=facts.language,
            domain=facts.domain,
            region=facts.region,
            licence=facts.licence,
            text_licence=facts.data.licence,
            base=facts.base,
            rank=plan.rank,
            promise=facts.promise,
            evaluation=score(model, update, public, plan=plan),
            asking=sample_answers.asking(model, public),
            tokens=sample_answers.first_tokens(model, public),
            ends=model.ends,
            samples=sample_answers.answer(model, update, public, plan=plan),
        )


def score(
    model: LanguageModel,
    update: FloatVector,
    texts: Sequence[Text],
    *,
    plan: TrainingPlan,
) -> dict[str, str]:
    """Bits per byte of public text, by the base and with the adapter.

    Edge cases:
        No text gives no score. The text must be public: the scores are published.
    """
    if not texts:
        return {}
    length = LanguageOptions.of(plan.options).sequence_length
    before = model.evaluate(texts, sequence_length=length)
    with model.moved(update, plan):
        after = model.evaluate(texts, sequence_length=length)
    return {
        "bits-per-byte/base": encode_decimal(round(before.score, 4)),
        "bits-per-byte/adapter": encode_decimal(round(after.score, 4)),
    }
