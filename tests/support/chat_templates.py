"""Chat templates, and tokenizers with two tokens that a text could try to spell."""

import json
from typing import Any

import transformers
from tokenizers import Tokenizer

from tapestry.workloads.language.base_models import byte_tokenizer

MARKED = (
    "{% for m in messages %}<|s|>{{ m.role }}\n{{ m.content }}<|e|>{% endfor %}"
    "{% if add_generation_prompt %}<|s|>assistant\n{% endif %}"
)


def marked(*, special: bool, model: Any = None) -> Any:
    """Build a tokenizer with two marks, 259 and 260, that are special or only added."""
    value = json.loads(byte_tokenizer().backend_tokenizer.to_str())
    for number, mark in ((259, "<|s|>"), (260, "<|e|>")):
        token = {**value["added_tokens"][-1], "content": mark, "id": number}
        value["added_tokens"].append({**token, "special": special})
    value["model"] = model or value["model"]
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(value))
    )
    tokenizer.chat_template = MARKED
    return tokenizer


CHATML = (
    "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
