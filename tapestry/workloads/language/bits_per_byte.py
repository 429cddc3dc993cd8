"""Bits per byte of public text: the score of a language model at the gate."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tapestry.inputs.faults import Faults, InputFault
from tapestry.protocol.round_manifest import Options
from tapestry.workloads.language.dialogue import Text
from tapestry.workloads.language.model import LanguageModel
from tapestry.workloads.language.text_rows import public_rows, public_texts
from tapestry.workloads.ratio_score import RatioScore


@dataclass(frozen=True, slots=True, kw_only=True)
class BitsPerByte:
    """Scores a model on text; implements ``workloads.base.Evaluation``."""

    model: LanguageModel
    sequence_length: int
    coarse: bool = False  # for figures; the acceptance gate scores exactly
    name: str = "bits_per_byte"
    suffix: str = ".jsonl"

    @property
    def settings(self) -> Options:
        """The length of the windows that text is cut into."""
        return {"sequence_length": self.sequence_length}

    def read(self, path: Path, faults: Faults) -> Sequence[Text]:
        """Read lines ``{"text": "..."}`` or ``{"messages": [...]}``."""
        return public_texts(path, faults)

    def check(self, path: Path, faults: Faults) -> Sequence[Text]:
        """Read a file again; a line that the model cannot read is a fault.

        The chat template may refuse a dialogue, a question may be longer than the model
        takes, or the tokenizer may lose something.
        """
        rows = public_rows(path, faults)
        for line, text in rows:
            if (rule := self.model.find_fault(text)) is not None:
                faults.add(
                    InputFault(path, rule, line=line, code="text-not-tokenizable")
                )
        return [text for _, text in rows]

    def evaluate(self, data: Sequence[Text]) -> RatioScore:
        """Measure the code length of texts and of the answers of dialogues."""
        return self.model.evaluate(
            data, sequence_length=self.sequence_length, coarse=self.coarse
        )
