"""Loader of model folders that refuses what transformers would repair.

Transformers loads almost anything: it draws tensors that are missing, drops those that
it does not know, ties and unties, and says so in a log that few people read. Here each
of these is an error that names the tensor or the key.

Guarantees:
    The parameters of the module are the tensors of the folder, one to one by name and
    shape, finite, and equal to the file's values widened to float32. So the identity of
    the folder, which a reader without torch computes, is that of the model.
    Transformers never opens the folder: it gets the tensors that were hashed, and a
    private copy of the settings files that were hashed.

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tapestry.artifacts import model_folder
from tapestry.artifacts.model_folder import ModelFolder
from tapestry.artifacts.model_identity import ModelContent
from tapestry.artifacts.second_sources import contents
from tapestry.errors import (
    ConfigError,
    ResourceError,
    TapestryError,
    VerificationError,
)
from tapestry.storage import durable_files
from tapestry.workloads.device_memory import device_memory
from tapestry.workloads.hardware import Machine
from tapestry.workloads.language import memory_estimate
from tapestry.workloads.language.architecture_names import ARCHITECTURES
from tapestry.workloads.language.tokenizer_checks import check_tokenizer
from tapestry.workloads.stored_weights import keep_stored, place

LOCAL = {"local_files_only": True, "trust_remote_code": False}
_REASON = 200  # characters of another library's message
_ANEW = (
    "; if it is as its makers meant it, save it anew with transformers:"
    " module.save_pretrained(folder, save_original_format=False)"
)
# What transformers says about the machine or about what was checked, not the folder.
_HARMLESS = (
    "fast path is not available",  # slower kernels, the same values
    "but `tokenizer.json` is ByteLevel; loading `TokenizersBackend`",  # as it stands
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pretrained:
    """A loaded model."""

    module: nn.Module
    tokenizer: Any
    given: ModelContent


def open_pretrained(found: ModelFolder, machine: Machine) -> Pretrained:
    """Load module and tokenizer of a folder that was read, without code from it.

    Guarantees:
        The module's parameters are the arrays that were read. Those in another type
        than float32 are widened: once, where the machine has memory enough or the
        architecture is none of ``architectures.ARCHITECTURES``; else at each use.

    Raises:
        ConfigError: The folder is not a sound model: a file breaks a rule, a tensor is
            missing, unknown, of another shape or not finite, settings, tokenizer and
            tensors disagree, or transformers warns of anything.
        ResourceError: Memory, the device or a package is missing.
    """
    try:
        with private_copy(found.settings) as folder:
            return _open(found, folder, machine)
    except (ConfigError, VerificationError) as error:
        raise ConfigError(
            f"{found.folder} is not a sound model: {error}", code=error.code
        ) from error


@contextmanager
def private_copy(files: Mapping[str, bytes]) -> Iterator[Path]:
    """Write files into a folder that no other account can read or write.

    Libraries read settings by path; from here they read what was verified.

    Raises:
        ResourceError: There is no room for it.
    """
    with tempfile.TemporaryDirectory(prefix="tapestry-") as folder:
        for name, data in files.items():
            durable_files.create_file(Path(folder) / name, data)
        yield Path(folder)


def _open(found: ModelFolder, folder: Path, machine: Machine) -> Pretrained:
    settings = model_folder.parse_settings(found.settings)
    config = settings[model_folder.CONFIG]
    skeleton = _skeleton(config, folder)
    _check_tensors(skeleton, config, found)
    _check_generation(settings, folder)
    for file in {each.name: each for each in found.tensors.values()}.values():
        file.check_finite()
    given = found.content
    with refusing("it does not load as a language model"):
        module, tokenizer = _load(skeleton, given, folder)
        _settle(module, given, machine)
    with refusing("the tokenizer does not work"):
        check_tokenizer(tokenizer, rows=_rows(module))
    _check_special(tokenizer, settings)
    return Pretrained(module=module, tokenizer=tokenizer, given=given)


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


def _skeleton(described: Mapping[str, Any], folder: Path) -> Any:
    """Build the module that a configuration describes, without memory for values."""
    transformers = transformers_library()
    names = transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if (kind := described["model_type"]) not in names:
        raise ConfigError(
            f"config.json: model_type is {kind[:80]!r}, which transformers"
            f" {transformers.__version__} does not know as a causal language model",
            code="model-type-unknown",
        )
    with refusing("config.json describes no language model"):
        config = transformers.AutoConfig.from_pretrained(str(folder), **LOCAL)
        _check_aliases(config, described)
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


def _check_aliases(config: Any, described: Mapping[str, Any]) -> None:
    """Refuse a setting that stands under two names with two values."""
    for alias, name in type(config).attribute_map.items():
        one, other = described.get(alias), described.get(name)
        if one is not None and other is not None and one != other:
            raise ConfigError(
                f"config.json: {alias} is {_line(one)}, {name} is {_line(other)}, and"
                " they are one setting; remove the one that is not meant",
                code="model-setting-invalid",
            )


def _check_special(tokenizer: Any, settings: Mapping[str, Mapping[str, Any]]) -> None:
    """Require the special tokens that their file names, which may not be read."""
    used = tokenizer.special_tokens_map
    for key, token in settings.get(model_folder.SPECIAL, {}).items():
        said = contents(token)
        if isinstance(said, str) and used.get(key) != said:
            raise ConfigError(
                f"{model_folder.SPECIAL}: {key} is {_line(said)!r}, in use is"
                f" {used.get(key)!r}; say the same in {model_folder.TOKENIZER}",
                code="tokenizer-files-differ",
            )


def _load(skeleton: Any, given: ModelContent, folder: Path) -> tuple[Any, Any]:
    """Build the module, its values still to come, and the tokenizer.

    transformers places one stand-in for each tensor, of hardly any memory. What it
    would convert, permute or copy lies elsewhere or has other strides afterwards, and
    is refused.
    """
    transformers = transformers_library()
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), **LOCAL)
    stand_ins = {n: _stand_in(tensor.shape) for n, tensor in given.tensors.items()}
    module, info = type(skeleton).from_pretrained(
        None,
        config=transformers.AutoConfig.from_pretrained(str(folder), **LOCAL),
        state_dict=dict(stand_ins),
        dtype=torch.float32,
        attn_implementation="sdpa",
        use_safetensors=True,
        output_loading_info=True,
        **LOCAL,
    )
    check_complete(info)
    _check_placed(module, stand_ins)
    if model_folder.GENERATION in given.files:
        library = transformers.GenerationConfig
        module.generation_config = library.from_pretrained(
            str(folder), local_files_only=True
        )
    return module, tokenizer


def _stand_in(shape: tuple[int, ...]) -> torch.Tensor:
    """Return a tensor whose elements overlap, with strides by which no two axes merge.

    Strides 1, 2, … reach over as many elements as the axes together, and an axis that
    was cut in parts and permuted cannot be put together again without a copy.
    """
    strides = range(1, len(shape) + 1)
    reach = sum(n * stride for n, stride in zip(shape, strides, strict=True))
    return torch.zeros(1 + reach).as_strided(shape, tuple(strides))


def _settle(module: Any, given: ModelContent, machine: Machine) -> None:
    """Give a module its values, on the device where it computes."""
    estimate = memory_estimate.of_tensors(given.tensors)
    is_tested = getattr(module.config, "model_type", None) in ARCHITECTURES
    if is_tested and not estimate.fits_widened(device_memory(machine)):
        keep_stored(module)
    own = dict(module.named_parameters())
    place(module, own, given.tensors, device=torch.device(machine.device))
    module.to(machine.device)


def _check_generation(settings: Mapping[str, object], folder: Path) -> None:
    """Refuse settings of generation that transformers itself finds at fault."""
    if model_folder.GENERATION in settings:
        library = transformers_library().GenerationConfig
        with refusing(model_folder.GENERATION):
            library.from_pretrained(str(folder), local_files_only=True).validate(
                strict=True
            )


def _check_tensors(
    skeleton: Any, described: Mapping[str, Any], found: ModelFolder
) -> None:
    """Compare what the configuration describes with what the file holds."""
    (named,) = described["architectures"]
    if type(skeleton).__name__ != named:
        raise ConfigError(
            f"config.json: architectures is {named!r}, model_type"
            f" {described['model_type']!r} is {type(skeleton).__name__}",
            code="model-type-differs",
        )
    want = {name: tuple(p.shape) for name, p in skeleton.named_parameters()}
    shapes = found.shapes
    lacks = sorted(want.keys() - shapes.keys())
    strange = sorted(shapes.keys() - want.keys())
    if lacks or strange:
        raise ConfigError(
            _broken_tie(skeleton, lacks, strange) or _difference(lacks, strange),
            code="tensor-set-differs",
        )
    for name, shape in want.items():
        if shapes[name] != shape:
            raise ConfigError(
                f"{name!r} has shape {shapes[name]}, by config.json {shape}",
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


def _check_placed(module: Any, given: Mapping[str, torch.Tensor]) -> None:
    """Require that each tensor that was given is a parameter, as it is.

    Edge cases:
        Where the output layer is tied, transformers pads its bias, by nothing, which
        copies it; the bias gets its value by name as all others.
    """
    parameters = dict(module.named_parameters())
    bias = getattr(module.get_output_embeddings(), "bias", None)
    if strange := sorted(parameters.keys() ^ given.keys()):
        raise ConfigError(
            f"module and file differ in {strange[0]!r}", code="tensor-set-differs"
        )
    for name, parameter in parameters.items():
        want = given[name]
        if id(parameter) == id(bias) and parameter.shape == want.shape:
            continue
        if (parameter.data_ptr(), parameter.stride()) != (
            want.data_ptr(),
            want.stride(),
        ):
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
    before = (logger.handlers, logger.level, logger.propagate)
    logger.handlers = [Collector(level=logging.WARNING)]
    logger.propagate = False
    logger.setLevel(logging.WARNING)
    library.warning_once.cache_clear()
    try:
        yield messages
    finally:
        logger.handlers, level, logger.propagate = before
        logger.setLevel(level)
        library.warning_once.cache_clear()


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 1} more tensors" if len(names) > 1 else ""
    return f"tensor {names[0][:_REASON]!r}{more}"


def _line(error: object) -> str:
    return " ".join(str(error).split())[:_REASON]
