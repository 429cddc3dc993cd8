"""Comparison of settings that a model folder holds in two places.

Tokenizers are stored in up to seven files and rotary settings under up to three keys.
Each library takes one of the places, not each the same; transformers drops the others.

Edge cases:
    ``tokenizer.model`` and other binary vocabularies beside ``tokenizer.json`` are not
    compared: nothing here reads them, and a release does not carry them on.
"""

import re
from collections.abc import Mapping
from typing import Any

from tapestry.errors import VerificationError

Settings = Mapping[str, Mapping[str, Any]]  # of the folder's JSON files, by file name

CONFIG = "config.json"
TEMPLATE = "chat_template.jinja"
_FAST = "tokenizer.json"
_TOKENIZER = "tokenizer_config.json"
_SPECIAL = "special_tokens_map.json"
_ROTARY = ("rope_parameters", "rope_scaling")
_SYNONYMS = (("torch_dtype", "dtype"), ("rope_scaling", "rope_parameters"))
_VERSION = re.compile(r"#version:.*")


def check_sources(files: Mapping[str, bytes], settings: Settings) -> None:
    """Compare the settings that a folder holds in two places.

    ``settings`` are those of the files that are JSON, parsed.

    Raises:
        VerificationError: Two places differ; the message names both, and the key.
    """
    _check_config(settings.get(CONFIG, {}))
    _check_template(files, settings.get(_TOKENIZER, {}))
    _check_special(settings)
    if _FAST in settings:
        _check_added(settings)
        _check_vocabulary(files, settings)


def contents(token: Any) -> Any:
    """Return the spelling of a special token, or of a list of them."""
    if isinstance(token, Mapping):
        return token.get("content")
    return [contents(each) for each in token] if isinstance(token, list) else token


def _check_config(config: Mapping[str, Any], *, place: str = "") -> None:
    for old, new in _SYNONYMS:
        _same(config.get(old), config.get(new), f"{place}{old}", f"{place}{new}")
    for name in _ROTARY:
        rotary = config.get(name)
        if isinstance(rotary, Mapping):
            _check_rotary(config, rotary, place=place, name=name)
    for name, part in config.items():
        if isinstance(part, Mapping) and name not in _ROTARY:
            _check_config(part, place=f"{place}{name}.")


def _check_rotary(
    config: Mapping[str, Any], rotary: Mapping[str, Any], *, place: str, name: str
) -> None:
    where = f"{place}{name}"
    old, new = rotary.get("type"), rotary.get("rope_type")
    _same(old, new, f"{where}.type", f"{where}.rope_type")
    for key in sorted(rotary.keys() & config.keys()):
        _same(config[key], rotary[key], f"{place}{key}", f"{where}.{key}")
    layers = [part for part in rotary.values() if isinstance(part, Mapping)]
    for key in sorted({key for part in layers for key in part} & config.keys()):
        known = [part.get(key) for part in layers]  # one of them is what stands above
        if config[key] not in known:
            _same(config[key], known[0], f"{place}{key}", f"{where}.*.{key}")


def _same(one: Any, other: Any, first: str, second: str) -> None:
    if one is None or other is None or one == other:
        return
    raise _differing(f"{CONFIG}: {first} is {_short(one)}, {second} is {_short(other)}")


def _check_template(files: Mapping[str, bytes], tokenizer: Mapping[str, Any]) -> None:
    template = tokenizer.get("chat_template")
    if template is not None and not isinstance(template, str):
        raise VerificationError(
            f"{_TOKENIZER}: chat_template is {_short(template)}, want one template as"
            " text; a release holds one, so keep the one that is meant",
            code="model-setting-invalid",
        )
    if TEMPLATE not in files:
        return
    own = decode_text(TEMPLATE, files[TEMPLATE])
    if template is not None and own.removesuffix("\n") != template.removesuffix("\n"):
        raise _differing(f"{TEMPLATE} is not the chat_template of {_TOKENIZER}")


def _check_special(settings: Settings) -> None:
    named, tokenizer = settings.get(_SPECIAL, {}), settings.get(_TOKENIZER, {})
    for key, token in named.items():
        one, other = contents(token), contents(tokenizer.get(key))
        if one is not None and other is not None and one != other:
            raise _differing(
                f"{_SPECIAL}: {key} is {_short(one)}, {_TOKENIZER} says {_short(other)}"
            )


def _check_added(settings: Settings) -> None:
    """Compare the two other lists of added tokens with that of ``tokenizer.json``."""
    known = _added(settings[_FAST])
    decoder = settings.get(_TOKENIZER, {}).get("added_tokens_decoder") or {}
    if not isinstance(decoder, Mapping):
        raise VerificationError(
            f"{_TOKENIZER}: added_tokens_decoder is no object",
            code="model-setting-invalid",
        )
    lists = {
        "added_tokens.json": list(settings.get("added_tokens.json", {}).items()),
        f"{_TOKENIZER} (added_tokens_decoder)": [
            (contents(token), int(number) if number.isdecimal() else number)
            for number, token in decoder.items()
        ],
    }
    vocabulary = _vocabulary(settings[_FAST])
    for file, tokens in lists.items():
        for token, number in tokens:
            if not isinstance(token, str):
                raise VerificationError(
                    f"{file}: {_short(token)} is no token", code="model-setting-invalid"
                )
            listed = known.get(token, vocabulary.get(token))
            if listed != number:
                raise _differing(
                    f"{file}: token {_short(token)} is number {_short(number)}, in"
                    f" {_FAST} {_short(listed)}"
                )


def _check_vocabulary(files: Mapping[str, bytes], settings: Settings) -> None:
    """Compare ``vocab.json`` and ``merges.txt`` with ``tokenizer.json``."""
    fast = settings[_FAST]
    if "vocab.json" in settings:
        given, known, added = settings["vocab.json"], _vocabulary(fast), _added(fast)
        strange = [t for t, n in given.items() if n not in (known.get(t), added.get(t))]
        lacking = [t for t in known if t not in given and t not in added]
        if strange or lacking:
            token = min(strange or lacking)
            raise _differing(
                f"vocab.json: token {_short(token)} is number"
                f" {_short(given.get(token))}, in {_FAST}"
                f" {_short(known.get(token, added.get(token)))}"
            )
    merges = _model(fast).get("merges")
    if "merges.txt" in files and _merges(files["merges.txt"]) != [
        each if isinstance(each, str) else " ".join(map(str, each))
        for each in merges or ()
    ]:
        raise _differing(f"merges.txt has not the merges of {_FAST}")


def _merges(data: bytes) -> list[str]:
    lines = decode_text("merges.txt", data).split("\n")
    first, *rest = (line.removesuffix("\r") for line in lines)
    return [line for line in ([] if _VERSION.match(first) else [first]) + rest if line]


def decode_text(name: str, data: bytes) -> str:
    """Decode a file of UTF-8.

    Raises:
        VerificationError: The file is not UTF-8.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise VerificationError(f"{name} is not UTF-8", code="text-not-utf8") from None


def _model(fast: Mapping[str, Any]) -> Mapping[str, Any]:
    model = fast.get("model")
    return model if isinstance(model, Mapping) else {}


def _vocabulary(fast: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return token -> number; a Unigram model lists its pieces in that order."""
    tokens = _model(fast).get("vocab")
    if isinstance(tokens, list):
        pairs = enumerate(tokens)
        return {
            p[0]: n
            for n, p in pairs
            if isinstance(p, list) and p and isinstance(p[0], str)
        }
    return tokens if isinstance(tokens, Mapping) else {}


def _added(fast: Mapping[str, Any]) -> dict[str, Any]:
    tokens = fast.get("added_tokens")
    listed = tokens if isinstance(tokens, list) else []
    found = [each for each in listed if isinstance(each, Mapping)]
    return {
        t["content"]: t.get("id") for t in found if isinstance(t.get("content"), str)
    }


def _short(value: Any) -> str:
    return repr(value)[:80]


def _differing(said: str) -> VerificationError:
    return VerificationError(
        f"{said}; keep what the model's makers meant, and remove the other",
        code="model-sources-differ",
    )
