"""Checks that a tokenizer belongs to a model: numbers, text, chat template."""

from typing import Any

from tapestry.errors import ConfigError
from tapestry.workloads.language.chat_template import ChatTemplate

_PROBE = "The red house has 3 doors and 12 windows."


def check_tokenizer(tokenizer: Any, *, rows: int) -> None:
    """Require that a tokenizer reads plain text and names no token beyond ``rows``.

    Raises:
        ConfigError: It has no tokens, or more than the model; plain text gives none,
            only the unknown one, or another text when turned back; or its chat
            template is not one (``ChatTemplate.check``).
    """
    _check_vocabulary(tokenizer, rows)
    _check_text(tokenizer, rows)
    ChatTemplate(tokenizer).check(rows=rows)


def _check_vocabulary(tokenizer: Any, rows: int) -> None:
    vocabulary = tokenizer.get_vocab()
    if not vocabulary:
        raise ConfigError(
            "the tokenizer is missing or has no tokens", code="tokenizer-missing"
        )
    token, last = max(vocabulary.items(), key=lambda item: item[1])
    if max(last, len(tokenizer) - 1) >= rows:
        raise ConfigError(
            f"the tokenizer has token {token!r} as number {last} and"
            f" {len(tokenizer)} tokens, the embedding has {rows} rows",
            code="token-out-of-range",
        )
    for number in tokenizer.all_special_ids:
        if number is None or not 0 <= number < rows:
            raise ConfigError(
                f"special token number {number} of the tokenizer, the embedding has"
                f" {rows} rows",
                code="token-out-of-range",
            )


def _check_text(tokenizer: Any, rows: int) -> None:
    tokens = tokenizer(_PROBE, add_special_tokens=False, verbose=False)["input_ids"]
    _check_numbers(tokenizer(_PROBE, verbose=False)["input_ids"], rows)
    if not tokens:
        raise ConfigError(
            "the tokenizer makes no tokens of plain text", code="tokenizer-useless"
        )
    unknown = tokenizer.unk_token_id
    known = [token for token in tokens if token != unknown]
    if not known:
        raise ConfigError(
            "the tokenizer knows no word of plain text", code="tokenizer-useless"
        )
    back = tokenizer.decode(tokens, skip_special_tokens=True)
    if len(known) == len(tokens) and _letters(back) != _letters(_PROBE):
        raise ConfigError(
            f"the tokenizer turns {_PROBE!r} into tokens that say {back[:60]!r}",
            code="tokenizer-loses-text",
        )


def _check_numbers(tokens: list[int], rows: int) -> None:
    for token in tokens:
        if not 0 <= token < rows:
            raise ConfigError(
                f"the tokenizer makes token number {token} of plain text, the embedding"
                f" has {rows} rows",
                code="token-out-of-range",
            )


def _letters(text: str) -> str:
    return "".join(each for each in text.casefold() if each.isalnum())
