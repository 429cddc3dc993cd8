"""Loader of model folders that refuses what transformers would repair.

Transformers loads almost anything: it draws tensors that are missing, drops those that
it does not know, ties and unties, and says so in a log that few people read. Here each
of these is an error that names the tensor or the key.

Guarantees:
    The parameters of the module are the tensors of the folder, one to one by name and
    shape, finite, and equal to the file's values widened to float32. So the digest of
    the folder, which a reader without torch computes, is the digest of the model.
    What opens can be released: its settings and tokenizer were written once, into a
    temporary folder, and compared with the rules of a release and with the folder.

Edge cases:
    A file that holds an output layer equal to the embedding, buffers, or parameters
    under names of the past is refused: transformers would convert or drop them, and
    the digests of file and model would differ. Saved once more with transformers, as
    the message says, the model opens.
"""

import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tapestry.artifacts import model_folder
from tapestry.artifacts.model_folder import ModelFolder
from tapestry.artifacts.second_sources import contents
from tapestry.errors import (
    ConfigError,
    ForeignFileError,
    ResourceError,
    TapestryError,
    VerificationError,
)
from tapestry.workloads.language.tokenizer_checks import check_tokenizer

LOCAL = {"local_files_only": True, "trust_remote_code": False}
_REASON = 200  # characters of another library's message
_WRITTEN = frozenset({"dtype", "torch_dtype", "transformers_version", "_name_or_path"})
_ANEW = (
    "; if it is as its makers meant it, save it anew with transformers:"
    " module.save_pretrained(folder, save_original_format=False)"
)
# What transformers says about the machine or about what was checked, not the folder.
_HARMLESS = (
    "fast path is not available",  # slower kernels, the same values
    "but `tokenizer.json` is ByteLevel; loading `TokenizersBackend`",  # as it stands
)


def open_pretrained(directory: Path) -> tuple[nn.Module, Any]:
    """Load module and tokenizer of a local folder, without network or code from it.

    Raises:
        ConfigError: The folder is not a sound model: a file breaks a rule, a tensor is
            missing, unknown, of another shape or not finite, settings, tokenizer and
            tensors disagree, or transformers warns of anything.
        ForeignFileError: A file lies in the folder that is no part of a model.
        ResourceError: A file cannot be read, memory or a package is missing.
    """
    found = model_folder.read(directory)
    try:
        _check_tensors(_skeleton(found), found)
        _check_generation(found)
        with refusing("it does not load as a language model"):
            module, tokenizer = _load(found)
        _check_values(module, found)
        with refusing("the tokenizer does not work"):
            check_tokenizer(tokenizer, rows=_rows(module))
        _check_special(tokenizer, found)
        with refusing("a release of it cannot be written"):
            _check_release(module, tokenizer, found)
    except (ConfigError, VerificationError) as error:
        raise ConfigError(
            f"{directory} is not a sound model: {error}", code=error.code
        ) from error
    return module, tokenizer


def check_saved(directory: Path, module: nn.Module) -> None:
    """Require that a folder that was just written can be opened again.

    Raises:
        ConfigError: It breaks a rule, or its tensors are not the module's parameters.
        ForeignFileError: A file lies in it that is no part of a model.
    """
    found = model_folder.read(directory).shapes
    want = {name: tuple(p.shape) for name, p in module.named_parameters()}
    if found != want:
        strange = sorted(set(found.items()) ^ set(want.items()))
        raise ConfigError(
            f"{directory}: {strange[0][0]!r} is not saved as it is",
            code="tensor-differs",
        )


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Turn what a library raises or warns of inside into one refusal.

    Edge cases:
        Deprecations are dropped: they tell of one library's calls into another, not
        of the folder. Each warning counts every time, also one that transformers
        gives only once.

    Raises:
        ConfigError: Something was raised, or a warning given; quoted in one line.
        ResourceError: Memory or a package is missing.
    """
    with (
        _raising(what),
        _listening() as messages,
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        yield
    told = (UserWarning, RuntimeWarning)
    messages += [str(w.message) for w in caught if issubclass(w.category, told)]
    for message in messages:
        if not any(harmless in message for harmless in _HARMLESS):
            raise ConfigError(f"{what}: {_line(message)}", code="model-unreadable")


@contextmanager
def _raising(what: str) -> Iterator[None]:
    try:
        yield
    except TapestryError:
        raise
    except ImportError as error:
        raise ResourceError(
            f"{what}: {_line(error)}", code="package-missing"
        ) from error
    except MemoryError as error:
        message = f"{what}: {_line(error) or 'no memory'}"
        raise ResourceError(message, code="memory-too-small") from error
    except BaseException as error:  # transformers and peft raise anything
        is_panic = type(error).__name__ == "PanicException"  # of tokenizers, in Rust
        if not (is_panic or isinstance(error, Exception)):
            raise
        raise ConfigError(f"{what}: {_line(error)}", code="model-unreadable") from error


def check_complete(info: Mapping[str, Any]) -> None:
    """Refuse what transformers reports as drawn, dropped or not placed in loading.

    Raises:
        ConfigError: A list of it is not empty; the message names the first tensor.
    """
    for kind, keys in info.items():
        if keys:
            first = _line(min(map(str, keys)))
            raise ConfigError(
                f"{kind.replace('_', ' ')}: {first}", code="tensor-set-differs"
            )


def transformers_library() -> Any:
    """Import transformers, without its progress bars."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    return transformers


def _skeleton(found: ModelFolder) -> Any:
    """Build the module that a configuration describes, without memory for values."""
    transformers = transformers_library()
    names = transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if (kind := found.config["model_type"]) not in names:
        raise ConfigError(
            f"config.json: model_type is {kind[:80]!r}, which transformers"
            f" {transformers.__version__} does not know as a causal language model",
            code="model-type-unknown",
        )
    with refusing("config.json describes no language model"):
        config = transformers.AutoConfig.from_pretrained(str(found.folder), **LOCAL)
        _check_aliases(config, found)
        with torch.device("meta"):
            skeleton = transformers.AutoModelForCausalLM.from_config(
                config, trust_remote_code=False
            )
    if not getattr(skeleton, "_supports_sdpa", False):
        raise ConfigError(
            f"transformers has no sdpa attention for {type(skeleton).__name__}, and"
            " none other is used here; choose another model",
            code="attention-not-supported",
        )
    return skeleton


def _check_aliases(config: Any, found: ModelFolder) -> None:
    """Refuse a setting that stands under two names with two values."""
    for alias, name in type(config).attribute_map.items():
        one, other = found.config.get(alias), found.config.get(name)
        if one is not None and other is not None and one != other:
            raise ConfigError(
                f"config.json: {alias} is {_line(one)}, {name} is {_line(other)}, and"
                " they are one setting; remove the one that is not meant",
                code="model-setting-invalid",
            )


def _check_special(tokenizer: Any, found: ModelFolder) -> None:
    """Require the special tokens that their file names, which may not be read."""
    if not (found.folder / model_folder.SPECIAL).exists():
        return
    used = tokenizer.special_tokens_map
    named = model_folder.read_object(found.folder / model_folder.SPECIAL)
    for key, token in named.items():
        said = contents(token)
        if isinstance(said, str) and used.get(key) != said:
            raise ConfigError(
                f"{model_folder.SPECIAL}: {key} is {_line(said)!r}, in use is"
                f" {used.get(key)!r}; say the same in {model_folder.TOKENIZER}",
                code="tokenizer-files-differ",
            )


def _check_release(module: Any, tokenizer: Any, found: ModelFolder) -> None:
    """Write what a release holds beside its tensors, and check it as one."""
    try:
        with tempfile.TemporaryDirectory(prefix="tapestry-") as place:
            module.config.save_pretrained(place)
            module.generation_config.save_pretrained(place)
            tokenizer.save_pretrained(place)
            _check_written(Path(place), found)
    except OSError as error:
        said = error.strerror or _line(error)
        raise ResourceError(
            f"cannot write temporary files: {said}", code="file-unwritable"
        ) from error


def _check_written(place: Path, found: ModelFolder) -> None:
    try:
        model_folder.check_settings(place)
    except ForeignFileError as error:
        names = sorted(p.relative_to(place).as_posix() for p in place.rglob("*"))
        raise ConfigError(
            "transformers writes files that no release may hold:"
            f" {_line(', '.join(names))}",
            code="file-not-expected",
        ) from error
    written = model_folder.read_object(place / model_folder.CONFIG)
    if (key := _changed(found.config, written)) is not None:
        raise ConfigError(
            f"config.json: a release of it would say {key} otherwise; say it once, as"
            " transformers writes it",
            code="model-setting-invalid",
        )


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> str | None:
    """Find a setting that has another value after, at any depth; none is no value."""
    for key in sorted(before.keys() & after.keys() - _WRITTEN):
        one, other = before[key], after[key]
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            if (inner := _changed(one, other)) is not None:
                return f"{key}.{inner}"
        elif one is not None and other is not None and one != other:
            return key
    return None


def _load(found: ModelFolder) -> tuple[Any, Any]:
    transformers = transformers_library()
    folder = str(found.folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **LOCAL)
    module, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,
        attn_implementation="sdpa",
        use_safetensors=True,
        output_loading_info=True,
        **LOCAL,
    )
    check_complete(info)
    return module, tokenizer


def _check_generation(found: ModelFolder) -> None:
    """Refuse settings that a release could not be saved with."""
    if (found.folder / model_folder.GENERATION).exists():
        library = transformers_library().GenerationConfig
        with refusing(model_folder.GENERATION):
            library.from_pretrained(str(found.folder), local_files_only=True).validate(
                strict=True
            )


def _check_tensors(skeleton: Any, found: ModelFolder) -> None:
    """Compare what the configuration describes with what the file holds."""
    (named,) = found.config["architectures"]
    if type(skeleton).__name__ != named:
        raise ConfigError(
            f"config.json: architectures is {named!r}, model_type"
            f" {found.config['model_type']!r} is {type(skeleton).__name__}",
            code="model-type-differs",
        )
    want = {name: tuple(p.shape) for name, p in skeleton.named_parameters()}
    lacks = sorted(want.keys() - found.shapes.keys())
    strange = sorted(found.shapes.keys() - want.keys())
    if lacks or strange:
        raise ConfigError(
            _broken_tie(skeleton, lacks, strange) or _difference(lacks, strange),
            code="tensor-set-differs",
        )
    for name, shape in want.items():
        if found.shapes[name] != shape:
            raise ConfigError(
                f"{name!r} has shape {found.shapes[name]}, by config.json {shape}",
                code="tensor-shape-differs",
            )
    _check_tie(skeleton)


def _difference(lacks: list[str], strange: list[str]) -> str:
    if not strange:
        return f"the file lacks {_some(lacks)}, which config.json names; get it anew"
    if not lacks:
        return f"the file holds {_some(strange)}, unknown to config.json{_ANEW}"
    return (
        f"the file lacks {_some(lacks)} and holds {_some(strange)}, unknown to"
        f" config.json{_ANEW}"
    )


def _broken_tie(skeleton: Any, lacks: list[str], strange: list[str]) -> str | None:
    """Describe an output layer that only the file has, or only config.json."""
    aliases = dict(skeleton.named_parameters(remove_duplicate=False))
    extra = [name for name in strange if name in aliases]
    if extra and not lacks:
        return (
            f"config.json ties {extra[0]!r} to another tensor, and the file holds its"
            f" own; set tie_word_embeddings to what the model is{_ANEW}"
        )
    head = skeleton.get_output_embeddings()
    own = [name for name in lacks if aliases[name] is getattr(head, "weight", None)]
    if own and len(lacks) == 1 and not strange:
        return (
            f"the file lacks {own[0]!r}, which by config.json is not tied to the"
            " embedding; set tie_word_embeddings to what the model is"
        )
    return None


def _check_tie(skeleton: Any) -> None:
    """Refuse a class that ties otherwise than its configuration says."""
    head, embedding = skeleton.get_output_embeddings(), skeleton.get_input_embeddings()
    said = getattr(skeleton.config, "tie_word_embeddings", None)
    if head is None or said is None or (head.weight is embedding.weight) == said:
        return
    raise ConfigError(
        f"config.json: tie_word_embeddings is {str(said).lower()}, which"
        f" {type(skeleton).__name__} does not follow",
        code="model-setting-invalid",
    )


def _check_values(module: nn.Module, found: ModelFolder) -> None:
    """Read every value of the file and require that the module holds it."""
    parameters = dict(module.named_parameters())
    if strange := sorted(parameters.keys() ^ found.tensors.keys()):
        raise ConfigError(
            f"module and file differ in {strange[0]!r}", code="tensor-set-differs"
        )
    for name, parameter in parameters.items():
        values = found.tensors[name].values(name)
        if not np.isfinite(values).all():
            raise ConfigError(
                f"{name!r} holds NaN or infinity", code="tensor-not-finite"
            )
        if not np.array_equal(values, parameter.detach().cpu().numpy()):
            raise ConfigError(
                f"{name!r} is changed while it is loaded{_ANEW}", code="tensor-differs"
            )


def _rows(module: Any) -> int:
    """Count the tokens for which the embedding and the output have a row."""
    layers = (module.get_input_embeddings(), module.get_output_embeddings())
    return min(int(layer.weight.shape[0]) for layer in layers if layer is not None)


@contextmanager
def _listening() -> Iterator[list[str]]:
    """Collect what transformers logs as warning or error, and keep it from stderr."""
    from transformers.utils import logging as library

    messages: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    logger = library.get_logger("transformers")
    before = (logger.handlers, logger.level)
    logger.handlers = [Collector(level=logging.WARNING)]
    logger.setLevel(logging.WARNING)
    library.warning_once.cache_clear()
    try:
        yield messages
    finally:
        logger.handlers, level = before
        logger.setLevel(level)
        library.warning_once.cache_clear()


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 1} more tensors" if len(names) > 1 else ""
    return f"tensor {names[0][:_REASON]!r}{more}"


def _line(error: object) -> str:
    return " ".join(str(error).split())[:_REASON]
