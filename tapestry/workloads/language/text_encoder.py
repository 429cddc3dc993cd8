"""Texts and dialogues as the examples of a training, by a tokenizer alone."""

from collections.abc import Callable, Sequence
from typing import Any

from tapestry.workloads.language.chat_template import ChatTemplate
from tapestry.workloads.language.dialogue import Dialogue, Text
from tapestry.workloads.language.tokens import TokenExample, start_tokens, windows
from tapestry.workloads.lazy_sequence import LazyExamples


class TextEncoder:
    """Turns texts into tokens, and these into windows; needs no model."""

    def __init__(self, tokenizer: Any) -> None:
        """Take a Hugging Face tokenizer; it is not changed."""
        self.start = start_tokens(tokenizer)
        self.template = ChatTemplate(tokenizer)

    def encode(
        self, texts: Sequence[Text], *, sequence_length: int
    ) -> list[TokenExample]:
        """Turn each text into one example; a text too short for a loss gives none."""
        examples = []
        for tokens in self.tokenize(texts):
            if sequences := windows(tokens, sequence_length):
                examples.append(TokenExample(rows=tuple(sequences)))
        return examples

    def tokenize(self, texts: Sequence[Text]) -> list[list[int]]:
        """Turn each text or dialogue into signed tokens."""
        plain = [text for text in texts if isinstance(text, str)]
        dialogues = [text for text in texts if isinstance(text, Dialogue)]
        rows = {
            str: iter(self.plain(plain)),
            Dialogue: iter(self.template.encode(dialogues)),
        }
        return [next(rows[type(text)]) for text in texts]

    def plain(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenize texts; an empty one gives no tokens."""
        return [
            [*self.start, *row] if row else []
            for row in self.template.text.encode(texts)
        ]


def as_drawn(
    records: Sequence[Text], encode: Callable[[Sequence[Text]], list[TokenExample]]
) -> LazyExamples:
    """Encode each record when it is drawn; one too short for a loss has no rows."""

    def example(place: int) -> TokenExample:
        found = encode([records[place]])
        return found[0] if found else TokenExample(rows=())

    return LazyExamples(len(records), example)
