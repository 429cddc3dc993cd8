"""The language workload: a language model with what training asks of it."""

from collections.abc import Sequence
from functools import partial
from types import MappingProxyType

from tapestry.errors import ConfigError
from tapestry.protocol.round_manifest import Options, TrainingPlan
from tapestry.workloads.base import Example
from tapestry.workloads.language.architectures import check_architecture
from tapestry.workloads.language.bits_per_byte import BitsPerByte
from tapestry.workloads.language.dialogue import Text
from tapestry.workloads.language.lora_adapters import LoraAdapters
from tapestry.workloads.language.model import LanguageModel
from tapestry.workloads.language.options import LanguageOptions
from tapestry.workloads.language.record_statistics import Coverage
from tapestry.workloads.language.text_encoder import as_drawn
from tapestry.workloads.language.text_records import TextReader
from tapestry.workloads.language.tokens import TokenExample

PROBE = (  # public, of unequal length
    TokenExample(rows=((5, 4, 3, 2, 1, 2, 3, 4),)),
    TokenExample(rows=((1, 2, 3),)),
)


class LanguageWorkload(LanguageModel):
    """A language model that can be trained; implements ``workloads.base.Workload``."""

    name = "language"
    reader = TextReader()
    card_fields = MappingProxyType(
        {"library_name": "transformers", "pipeline_tag": "text-generation"}
    )

    @property
    def adapters(self) -> LoraAdapters:
        """The format of LoRA adapters."""
        return LoraAdapters(model=self)

    def least_options(self) -> Options:
        """Return the shortest sequences that a plan may have."""
        return LanguageOptions(sequence_length=8).to_options()

    def longest_row(self, options: Options) -> int:
        """Return the tokens of the longest sequence."""
        return LanguageOptions.of(options).sequence_length

    def check_plan(self, plan: TrainingPlan) -> None:
        """Refuse a plan whose sequences are longer than the model's positions.

        Raises:
            ConfigError: The sequences are longer, or an option is missing, unknown or
                out of range.
        """
        length = LanguageOptions.of(plan.options).sequence_length
        if length > self.positions:
            raise ConfigError(
                f"sequence_length {length} is above the {self.positions} positions of"
                " the model (max_position_embeddings); lower it",
                code="sequence-too-long",
            )

    def check_private(self) -> None:
        """Refuse an architecture whose gradients of single sequences are not tested."""
        check_architecture(self.module)

    def examples(self, records: Sequence[Text], options: Options) -> Sequence[Example]:
        """Encode texts as they are drawn; one too short for a loss has no rows."""
        length = LanguageOptions.of(options).sequence_length
        return as_drawn(records, partial(self.encode, sequence_length=length))

    def coverage(
        self, examples: Sequence[Example], options: Options, *, records: int
    ) -> Coverage:
        """Count the tokens that a training reads of some records."""
        length = LanguageOptions.of(options).sequence_length
        return Coverage.of(examples, sequence_length=length, records=records)

    def probe(self) -> Sequence[Example]:
        """Return two sequences of unequal length."""
        return PROBE

    def evaluation(self, options: Options) -> BitsPerByte:
        """Return bits per byte of text in windows of a plan's length."""
        length = LanguageOptions.of(options).sequence_length
        return BitsPerByte(model=self, sequence_length=length)
