"""Reader of Hugging Face model folders, which runs and trusts nothing in them.

::

    config.json                     required; generation_config.json optional
    model.safetensors               or model-00001-of-00002.safetensors, … with
                                    model.safetensors.index.json
    tokenizer.json, …               the tokenizer's files, chat_template.jinja
    README.md, LICENSE, NOTICE, …   for people
    tapestry/                       manifest and proofs of a release

The list is closed; see ``closed_list``.

Guarantees:
    What ``read`` accepts has one reading: every file is plain and known, JSON is
    strict, each tensor lies in exactly one file, no setting leads to code or to files
    elsewhere, and what stands in two places is the same in both (``second_sources``,
    with its edge case).
    Each file is opened once and read once. What ``ModelFolder`` holds are the bytes
    that its identity names, and a folder with a manifest of a release holds exactly the
    files that the manifest lists. So whoever loads from a ``ModelFolder`` loads what
    was verified, whatever is written into the folder meanwhile.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from tapestry.artifacts import manifest
from tapestry.artifacts.closed_list import ClosedList
from tapestry.artifacts.manifest import File
from tapestry.artifacts.model_identity import (
    ModelContent,
    ModelManifest,
    describe_files,
    licence_in,
)
from tapestry.artifacts.safetensors_reader import TensorFile, TensorLimits, read_tensors
from tapestry.artifacts.second_sources import check_sources, decode_text
from tapestry.errors import (
    ConfigError,
    IncompleteError,
    ProtocolError,
    VerificationError,
)
from tapestry.inputs.plain_file import read_plain, reading
from tapestry.vectors import rows_digest

CONFIG = "config.json"
GENERATION = "generation_config.json"
TOKENIZER = "tokenizer_config.json"
SPECIAL = "special_tokens_map.json"
INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"
CARD = "README.md"
ENTRY, PROOF, POLICY = "release.entry", "release.tlog-proof", "trust-policy.txt"
FILES = ClosedList(
    what="a model",
    files=re.compile(
        r"config\.json|generation_config\.json|model\.safetensors(\.index\.json)?"
        r"|model-[0-9]{5}-of-[0-9]{5}\.safetensors"
        r"|tokenizer\.json|tokenizer_config\.json|special_tokens_map\.json"
        r"|added_tokens\.json|vocab\.json|vocab\.txt|merges\.txt|tokenizer\.model"
        r"|spiece\.model|sentencepiece\.bpe\.model|chat_template\.jinja|README\.md"
        r"|(LICEN[CS]E|NOTICE|Notice|COPYING|USE_POLICY)(-[A-Za-z0-9_]{1,20})?(\.(md|txt))?"
    ),
    proofs=frozenset({ENTRY, PROOF, POLICY}),
)
LIMITS = TensorLimits(header_bytes=16 << 20, file_bytes=1 << 42, tensors=100_000)

_SHARD = re.compile(r"model-[0-9]{5}-of-[0-9]{5}\.safetensors")
_SMALL = 4 << 20  # bytes of a file of settings
_LARGE = 1 << 28  # bytes of a vocabulary or index
_DEPTH = 64
_DIGITS = 400  # of a number; no double needs more
_VOCABULARIES = frozenset(
    {
        "tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model",
        "spiece.model", "sentencepiece.bpe.model", INDEX,
    }
)  # fmt: skip
_PRECISIONS = ("float32", "float16", "bfloat16", None)
_LAYERS = frozenset({"num_hidden_layers", "n_layer", "num_layers", "n_layers"})
_WANTED = {
    "model_type": "a name",
    "architectures": "the name of one class",
    "vocab_size": f"a number from 1 to {1 << 24}",
    "tie_word_embeddings": "true or false",
    "dtype": "float32, float16 or bfloat16",
    "torch_dtype": "float32, float16 or bfloat16",
}
_ATTENTION = frozenset({"eager", "sdpa"})
_IDS = re.compile(r"[a-z_]+_token_ids?|(begin_)?suppress_tokens")
_NUMBERS = frozenset(
    {
        "temperature", "top_p", "top_k", "min_p", "typical_p", "repetition_penalty",
        "length_penalty", "max_length", "max_new_tokens", "min_length",
        "min_new_tokens", "num_beams", "num_return_sequences",
    }
)  # fmt: skip
# Settings that load code or other files, or change how weights are read.
_FORBIDDEN = {
    CONFIG: (
        "auto_map",
        "quantization_config",
        "compression_config",
        "transformers_weights",
        "distributed_config",
        "kernel_config",
    ),
    GENERATION: ("auto_map", "custom_generate"),
    TOKENIZER: ("auto_map", "init_inputs", "fast_tokenizer_files"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFolder:
    """A folder that was read."""

    folder: Path
    settings: Mapping[str, bytes]  # files that are neither weights, index nor card
    licence: str | None  # that the card names
    tensors: Mapping[str, TensorFile]  # the file of each tensor, by tensor name
    manifest_digest: str | None  # of the release's manifest, which all files match

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors by name."""
        return {n: file.tensors[n].shape for n, file in self.tensors.items()}

    @property
    def manifest(self) -> ModelManifest:
        """The manifest whose digest is the model's identity."""
        return ModelManifest(
            parameters=rows_digest(
                (n, file.tensors[n].dtype, file.tensors[n].shape, file.hashes[n])
                for n, file in self.tensors.items()
            ),
            licence=self.licence,
            files=describe_files(self.settings),
        )

    @property
    def digest(self) -> str:
        """The model's identity."""
        return self.manifest.digest

    @property
    def content(self) -> ModelContent:
        """The model's tensors and settings files, if the values were kept."""
        return ModelContent(
            tensors={n: file.arrays[n] for n, file in self.tensors.items()},
            files=self.settings,
            licence=self.licence,
            hashes={n: file.hashes[n] for n, file in self.tensors.items()},
        )


def read(folder: Path) -> ModelFolder:
    """Read a folder whole, and check all but what its settings mean to a library.

    Raises:
        ConfigError: The folder is not a model folder, or a file in it breaks a rule;
            the message names the file and the tensor or key.
        ForeignFileError: A file, folder or link is there that has no place in it.
        ResourceError: A file cannot be read.
        VerificationError: A file is not as the folder's own manifest lists it.
    """
    try:
        _check_kind(folder)
        found = read_files(folder)
        settings = parse_settings(found.settings)
        config = settings[CONFIG]
        _check_config(config, len(found.tensors))
        _check_numbers(settings.get(GENERATION, {}))
        for name in (CONFIG, GENERATION):
            _check_ids(name, settings.get(name, {}), config["vocab_size"])
    except (VerificationError, IncompleteError, ProtocolError) as error:
        if error.code in manifest.DIFFERS:
            raise  # it is no longer the release that it was
        raise ConfigError(
            f"{folder} is not a sound model: {error}", code=error.code
        ) from None
    return found


def read_files(folder: Path, *, keep: bool = True) -> ModelFolder:
    """Read the files of a folder, whose settings may be those of any workload.

    Without ``keep`` the values of tensors are hashed and not held in memory.

    Raises:
        IncompleteError: The folder has no safetensors, or shards without an index.
        ForeignFileError: A file of the folder is no part of a model, or is not in the
            manifest.
        ProtocolError: The manifest is not canonical.
        ResourceError: A file cannot be read.
        VerificationError: A file breaks a rule, two hold the same tensor, or one is not
            as the manifest lists it.
    """
    small: dict[str, bytes] = {}
    weights: dict[str, TensorFile] = {}

    def take(name: str) -> File:
        path = folder / name
        if name.endswith(".safetensors"):
            found = weights[name] = read_tensors(path, limits=LIMITS, keep=keep)
            return File(name=name, size=found.size, content=found.content)
        small[name] = read_plain(path, limit=_limit(name))
        (described,) = describe_files({name: small[name]})
        return described

    known = manifest.read_folder(folder, FILES, take)
    return ModelFolder(
        folder=folder,
        settings={n: data for n, data in small.items() if n not in (INDEX, CARD)},
        licence=licence_in(small.get(CARD, b"")),
        tensors=_locate(folder, weights, small.get(INDEX)),
        manifest_digest=known,
    )


def read_settings(folder: Path) -> dict[str, bytes]:
    """Read the settings files alone: the tokenizer's and the model's, by name.

    Guarantees:
        No file of weights is opened, so nothing is said about the model's identity.

    Raises:
        ConfigError: The folder is not a model folder, or a file in it breaks a rule.
        ForeignFileError: A file, folder or link is there that has no place in it.
        ResourceError: A file cannot be read.
    """
    _check_kind(folder)
    names = [n for n in FILES.names(folder) if not n.endswith(".safetensors")]
    try:
        with reading(folder):
            found = {
                name: read_plain(folder / name, limit=_limit(name))
                for name in names
                if name not in (INDEX, CARD)
            }
        parse_settings(found)
    except VerificationError as error:
        raise ConfigError(
            f"{folder} is not a sound model: {error}", code=error.code
        ) from None
    return found


def parse_object(name: str, data: bytes) -> dict[str, Any]:
    """Parse a file of settings as strict JSON.

    Raises:
        VerificationError: The file is not a JSON object in UTF-8 without a byte-order
            mark, is nested too deep, has a key twice, or holds NaN, infinity or a
            number that a double cannot hold.
    """
    text = decode_text(name, data)
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_finite_integer,
        )
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # no lone surrogate
    except VerificationError as error:
        raise VerificationError(f"{name}: {error}", code=error.code) from None
    except UnicodeError:
        raise VerificationError(f"{name} is not UTF-8", code="text-not-utf8") from None
    except RecursionError:
        raise VerificationError(
            f"{name} is nested too deep", code="json-too-deep"
        ) from None
    except ValueError as error:
        raise VerificationError(
            f"{name} is not JSON: {str(error)[:80]}", code="json-invalid"
        ) from None
    if not isinstance(value, dict):
        raise VerificationError(f"{name} is not a JSON object", code="json-invalid")
    return value


def parse_settings(files: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    """Parse all files of settings, and compare what they say twice.

    Raises:
        VerificationError: A file breaks a rule, or two of them differ.
    """
    settings = {
        name: parse_object(name, data)
        for name, data in sorted(files.items())
        if name.endswith(".json")
    }
    for name, value in settings.items():
        _check_keys(name, value)
    check_sources(files, settings)
    return settings


def _limit(name: str) -> int:
    return _LARGE if name in _VOCABULARIES else _SMALL


def _check_kind(folder: Path) -> None:
    if not (folder / CONFIG).is_file():
        raise ConfigError(
            f"{folder} is not a model folder: it has no config.json; name a folder"
            " in the Hugging Face layout",
            code="model-config-missing",
        )
    if not any(folder.glob("*.safetensors")):
        raise ConfigError(
            f"{folder} has no safetensors file; convert the weights",
            code="weights-missing",
        )


def _locate(
    folder: Path, files: Mapping[str, TensorFile], index: bytes | None
) -> dict[str, TensorFile]:
    """Find the file of each tensor: one file, or shards as the index lists them."""
    if not files:
        raise IncompleteError(f"no base model in {folder}", code="weights-missing")
    if WEIGHTS not in files:
        return _locate_shards(files, index)
    if others := files.keys() - {WEIGHTS} | ({INDEX} if index is not None else set()):
        raise VerificationError(
            f"{min(others)} lies beside {WEIGHTS}, and only one of them is loaded",
            code="weights-ambiguous",
        )
    return dict.fromkeys(files[WEIGHTS].tensors, files[WEIGHTS])


def _locate_shards(
    files: Mapping[str, TensorFile], data: bytes | None
) -> dict[str, TensorFile]:
    index = _read_index(files.keys(), data)
    found: dict[str, TensorFile] = {}
    for shard, file in sorted(files.items()):
        for name in file.tensors:
            if name in found:
                raise VerificationError(
                    f"{_short(name)} is in two files, {found[name].name} and {shard}",
                    code="tensor-duplicated",
                )
            if index.get(name) != shard:
                raise VerificationError(
                    f"{_short(name)} is in {shard}, {INDEX} says"
                    f" {_short(index.get(name))}",
                    code="tensor-index-differs",
                )
            found[name] = file
    if missing := sorted(index.keys() - found.keys()):
        raise VerificationError(
            f"{_short(missing[0])} is not in {index[missing[0]]}",
            code="tensor-index-differs",
        )
    return found


def _read_index(present: Set[str], data: bytes | None) -> dict[str, str]:
    """Read which shard holds which tensor; the shards are those that are there."""
    if data is None:
        raise IncompleteError(
            f"{min(present)} needs {INDEX}, which is missing",
            code="tensor-index-missing",
        )
    index = parse_object(INDEX, data).get("weight_map")
    if not isinstance(index, dict):
        raise VerificationError(
            f"{INDEX} has no weight_map", code="tensor-index-invalid"
        )
    for name, shard in index.items():
        if not isinstance(shard, str) or not _SHARD.fullmatch(shard):
            raise VerificationError(
                f"{INDEX}: {_short(name)} is in {_short(shard)}, which is not the name"
                " of a shard in this folder",
                code="tensor-index-invalid",
            )
        if shard not in present:
            raise IncompleteError(
                f"{shard} is missing, {INDEX} names it", code="weights-missing"
            )
    if stray := sorted(present - set(index.values())):
        raise VerificationError(
            f"{stray[0]} is not in {INDEX}", code="tensor-index-differs"
        )
    return index


def _check_keys(file: str, value: Mapping[str, Any]) -> None:
    """Refuse settings that lead to code or to other files, at any depth."""
    forbidden = _FORBIDDEN.get(file, ())
    for key, item in _walk(value) if forbidden else ():
        if key in forbidden and item is not None:
            raise VerificationError(
                f"{file}: {key} is not supported; it names code, files or a format of"
                " weights that is not plain safetensors",
                code="model-setting-forbidden",
            )
        if file == TOKENIZER and key.endswith("_file") and item is not None:
            raise VerificationError(
                f"{file}: {key} names a file, {_short(item)}; remove the key",
                code="model-setting-forbidden",
            )
        implementation = key.endswith(("attn_implementation", "experts_implementation"))
        if implementation and isinstance(item, str) and item not in _ATTENTION:
            raise VerificationError(
                f"{file}: {key} is {_short(item)}, want sdpa",
                code="model-setting-forbidden",
            )


def _check_config(config: Mapping[str, Any], tensors: int) -> None:
    """Require the keys that all models have, and values that can be true."""
    names = config.get("architectures")
    tied = config.get("tie_word_embeddings", True)
    checks = {
        "model_type": isinstance(config.get("model_type"), str),
        "architectures": isinstance(names, list)
        and len(names) == 1
        and isinstance(names[0], str),
        "vocab_size": _is_count(config.get("vocab_size"), 1 << 24),
        "tie_word_embeddings": isinstance(tied, bool),
        "dtype": config.get("dtype") in _PRECISIONS,
        "torch_dtype": config.get("torch_dtype") in _PRECISIONS,
    }
    for key, holds in checks.items():
        if not holds:
            raise _invalid(CONFIG, key, config.get(key), f"want {_WANTED[key]}")
    for key in _LAYERS & config.keys():
        if not _is_count(config[key], tensors):
            rule = f"and the weights hold {tensors} tensors"
            raise _invalid(CONFIG, key, config[key], rule)


def _is_count(value: Any, limit: int) -> bool:
    return type(value) is int and 1 <= value <= limit


def _check_ids(file: str, value: Mapping[str, Any], vocabulary: int) -> None:
    """Require that special tokens are numbers of the vocabulary."""
    for key, item in value.items():
        if not _IDS.fullmatch(key) or item is None:
            continue
        for token in item if isinstance(item, list) else [item]:
            if type(token) is not int or not 0 <= token < vocabulary:
                raise _invalid(file, key, token, f"want 0 to {vocabulary - 1}")


def _check_numbers(generation: Mapping[str, Any]) -> None:
    for key in sorted(_NUMBERS & generation.keys()):
        item = generation[key]
        if isinstance(item, bool) or not isinstance(item, (int, float, type(None))):
            raise _invalid(GENERATION, key, item, "want a number")


def _walk(value: Any, depth: int = 0) -> Iterator[tuple[str, Any]]:
    if depth > _DEPTH:
        raise VerificationError(f"nested over {_DEPTH} levels", code="json-too-deep")
    if isinstance(value, dict):
        yield from value.items()
        value = list(value.values())
    for item in value if isinstance(value, list) else ():
        yield from _walk(item, depth + 1)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        keys = sorted(key for key, _ in pairs)
        twice = next(a for a, b in pairwise(keys) if a == b)
        raise VerificationError(
            f"{_short(twice)} occurs twice", code="json-key-duplicated"
        )
    return value


def _refuse_constant(text: str) -> None:
    raise VerificationError(f"{text} is not JSON", code="json-number-invalid")


def _finite(text: str) -> float:
    value = float(text) if len(text) <= _DIGITS else math.inf
    if not math.isfinite(value):
        raise VerificationError(
            f"{text[:20]} is larger than a double can hold", code="json-number-invalid"
        )
    return value


def _finite_integer(text: str) -> int:
    _finite(text)
    return int(text)


def _short(value: Any) -> str:
    return repr(value)[:120]


def _invalid(file: str, key: str, value: Any, rule: str) -> VerificationError:
    return VerificationError(
        f"{file}: {key} is {_short(value)}, {rule}", code="model-setting-invalid"
    )
