"""Answers in the shape of OpenAI's, with the lineage of what gave them.

An answer's own part of the lineage is its digest, over model, prompt and text; a
client that keeps the answer can compare. Nothing here remembers a prompt.
"""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tapestry.encoding import canonical_json, digest, encode_decimal
from tapestry_serve.engine import ScoredToken
from tapestry_serve.served_models import ServedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One finished continuation."""

    index: int
    text: str
    tokens: tuple[ScoredToken, ...]
    reason: str  # stop or length


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """The way tokens are drawn; a seed that no client named is the system's."""

    temperature: float
    top_p: float
    seed: int

    def described(self) -> dict[str, str]:
        """Describe it in a lineage, as strings."""
        return {
            "temperature": encode_decimal(self.temperature),
            "top_p": encode_decimal(self.top_p),
            "seed": str(self.seed),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """The fields that the parts of an answer have in common."""

    model: ServedModel
    kind: str  # chat.completion or text_completion
    prompt: Sequence[int]  # tokens
    drawing: Drawing
    id: str = field(default_factory=lambda: f"tapestry-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def head(self, *, chunk: bool = False) -> dict[str, Any]:
        """Return what each body and chunk begins with."""
        is_chat = self.kind == "chat.completion"
        return {
            "id": self.id,
            "object": f"{self.kind}.chunk" if chunk and is_chat else self.kind,
            "created": self.created,
            "model": self.model.id,
            "system_fingerprint": self.model.digest,
        }

    def lineage(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """Return the lineage of answers: the model's, and a digest of what was said."""
        return {
            **self.model.lineage,
            "model": self.model.id,
            "lineage_digest": self.model.digest,
            "verified": self.model.badge,
            "answer": self._digest([each.text for each in choices]),
            "sampling": self.drawing.described(),
        }

    def _digest(self, texts: Sequence[str]) -> str:
        prompt = digest(canonical_json(list(self.prompt)))
        shown = [digest(text.encode()) for text in texts]
        return digest(canonical_json([self.model.id, prompt, shown]))


def count_tokens(prompt: int, drawn: int) -> dict[str, int]:
    """Return the usage of a request."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": drawn,
        "total_tokens": prompt + drawn,
    }


def chat_logprobs(tokenizer: Any, tokens: Sequence[ScoredToken]) -> dict[str, Any]:
    """Print the log-probabilities of an answer's tokens as the chat route does."""

    def entry(token: int, logprob: float) -> dict[str, Any]:
        text = tokenizer.decode([token])
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    return {
        "content": [
            {
                **entry(each.token, each.logprob),
                "top_logprobs": [entry(*pair) for pair in each.alternatives],
            }
            for each in tokens
        ],
        "refusal": None,
    }


def text_logprobs(
    tokenizer: Any, tokens: Sequence[ScoredToken | int]
) -> dict[str, list[Any]]:
    """Print log-probabilities as the text route does; a bare token has none.

    Edge cases:
        Two tokens that print alike have one entry among the likeliest, with the higher
        log-probability.
    """
    found: dict[str, list[Any]] = {
        "tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": [],
    }  # fmt: skip
    offset = 0
    for each in tokens:
        number = each if isinstance(each, int) else each.token
        text = tokenizer.decode([number])
        found["tokens"].append(text)
        found["text_offset"].append(offset)
        offset += len(text)
        if isinstance(each, int):
            found["token_logprobs"].append(None)
            found["top_logprobs"].append(None)
            continue
        best: dict[str, float] = {}
        for token, logprob in each.alternatives:
            best.setdefault(tokenizer.decode([token]), logprob)
        found["token_logprobs"].append(each.logprob)
        found["top_logprobs"].append(best)
    return found
