"""Bits per byte of public text: how a language model is held to its gate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tapestry.inputs.faults import Faults, InputFault
from tapestry.inputs.text_reader import read_rows
from tapestry.protocol.wire_messages import Options
from tapestry.workloads.language.code_length import CodeLength
from tapestry.workloads.language.dialogue import Text
from tapestry.workloads.language.model import LanguageModel
from tapestry.workloads.language.text_rows import public_texts, text_of_row


@dataclass(frozen=True, slots=True, kw_only=True)
class BitsPerByte:
    """Scores a model on text; implements ``workloads.base.EvaluationKind``."""

    model: LanguageModel
    sequence_length: int
    name: str = "bits_per_byte"
    suffix: str = ".jsonl"

    @property
    def settings(self) -> Options:
        """The length of the windows that text is cut into."""
        return {"sequence_length": self.sequence_length}

    def read(self, path: Path, faults: Faults) -> Sequence[Text]:
        """Read lines ``{"text": "..."}`` or ``{"messages": [...]}``."""
        return public_texts(path, faults)

    def check(self, path: Path, faults: Faults) -> None:
        """Find the lines that the model cannot read.

        The chat template may refuse a dialogue, a question may be longer than the model
        takes, or the tokenizer may lose something.
        """
        for line, row in read_rows(path, faults):
            if (rule := self.model.find_fault(text_of_row(row))) is not None:
                faults.add(InputFault(path, rule, line=line))

    def evaluate(self, data: Sequence[Text]) -> CodeLength:
        """Measure the code length of texts and of the answers of dialogues."""
        return self.model.evaluate(data, sequence_length=self.sequence_length)

    def from_json(self, plain: Mapping[str, Any]) -> CodeLength:
        """Read what ``CodeLength.to_json`` returned."""
        return CodeLength.from_json(plain)
