"""The memory that a language model needs, from its headers, before it is loaded.

Bytes of a process that trains a low-rank update privately::

    libraries                     Python, torch, transformers and what a node holds
    tensors, as they are stored   once: the module shares the replica's arrays
    widened                       float32 copies, if all of it takes a quarter of the
                                  memory at most; else one matrix at a time
    step                          what a physical batch keeps for its backward pass

Measured against real processes in ``benchmarks/RESULTS.md``; the figures of a step are
of layers as Llama has them: attention, and a gated unit of three matrices.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tapestry.artifacts import safetensors_reader
from tapestry.artifacts.model_folder import CONFIG, LIMITS, parse_object
from tapestry.errors import ResourceError, TapestryError
from tapestry.inputs.plain_file import read_plain
from tapestry.tensor_types import ARRAY_TYPES, type_name
from tapestry.vectors import Parameters
from tapestry.workloads.language.architecture_names import ARCHITECTURES

LIBRARIES = 700_000_000  # bytes
_FLOAT = 4
_CONFIG = 4 << 20  # bytes of config.json
_MOST = 1 << 24  # of a size in it
_SPARE = 4  # of the machine's memory, a widened model takes one part in so many
_LEAST = 8  # tokens of the shortest sequence that a plan may have
_LOGITS = 5  # float32 values for each token of the vocabulary: logits, loss, gradients


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
    """The sizes of a model, in bytes but for the last three."""

    stored: int  # all tensors
    widened: int  # float32 copies of those in another type
    largest: int  # the largest tensor, as float32
    stays: bool = True  # in its stored type, where copies do not fit
    vocabulary: int = 0  # tokens
    width: int = 0  # float32 values that a layer hands on, for each token
    layers: int = 0
    kept: int = 0  # float32 values that a layer keeps for its backward pass, a token

    def fits_widened(self, memory: int | None) -> bool:
        """Return true if float32 copies may be held in so much memory."""
        whole = LIBRARIES + self.stored + self.widened
        return memory is None or not self.widened or _SPARE * whole <= memory

    def held(self, memory: int | None) -> int:
        """Return the bytes of the model and its libraries."""
        is_wide = self.fits_widened(memory) or not self.stays
        rest = self.widened if is_wide else self.largest
        return LIBRARIES + self.stored + rest

    def step(self, tokens: int, *, recomputed: bool) -> int:
        """Return the bytes of a step on so many tokens at once, beside the model.

        Where activations are recomputed, a layer keeps its input alone.
        """
        layers = self.layers * self.kept
        if recomputed:
            layers = self.layers * self.width + self.kept
        return _FLOAT * tokens * (layers + _LOGITS * self.vocabulary)

    def check(self, what: str, *, memory: int | None) -> None:
        """Refuse a model of which no step fits into memory.

        Raises:
            ResourceError: Model and least step need more bytes than there are.
        """
        needed = self.held(memory) + self.step(_LEAST, recomputed=True)
        if memory is not None and needed > memory:
            raise ResourceError(
                f"{what} takes about {needed / 1e9:.1f} GB, of which"
                f" {self.stored / 1e9:.1f} are its tensors; there are"
                f" {memory / 1e9:.1f} GB: take a smaller base or a larger machine",
                code="memory-too-small",
            )


def of_tensors(tensors: Parameters) -> MemoryEstimate:
    """Estimate the memory of tensors that are held, without that of a step."""
    return _sum((type_name(each), each.size) for each in tensors.values())


def of_folder(folder: Path) -> MemoryEstimate | None:
    """Estimate from headers and configuration; None if they cannot be read."""
    try:
        headers = [
            safetensors_reader.read_header(path, limits=LIMITS)
            for path in sorted(folder.glob("*.safetensors"))
        ]
        config = parse_object(CONFIG, read_plain(folder / CONFIG, limit=_CONFIG))
    except (TapestryError, OSError):
        return None
    sizes = [(t.dtype, math.prod(t.shape)) for file in headers for t in file]
    return _sum(sizes, config)


def _sum(
    sizes: Iterable[tuple[str, int]], config: dict[str, Any] | None = None
) -> MemoryEstimate:
    """Add up tensors by type and number of values."""
    stored = widened = largest = 0
    for kind, count in sizes:
        stored += count * ARRAY_TYPES[kind].itemsize
        widened += 0 if kind == "F32" else _FLOAT * count
        largest = max(largest, _FLOAT * count)
    return MemoryEstimate(
        stored=stored,
        widened=widened,
        largest=largest,
        stays=config is None or config.get("model_type") in ARCHITECTURES,
        **_layers(config or {}),
    )


def _layers(config: dict[str, Any]) -> dict[str, int]:
    """Read the sizes of layers, 0 where they have another name or are no numbers."""

    def number(name: str, default: int = 0) -> int:
        found = config.get(name)
        return found if type(found) is int and 0 <= found <= _MOST else default

    width, heads = number("hidden_size"), number("num_attention_heads", 1)
    head = number("head_dim", width // max(1, heads))
    keys = head * number("num_key_value_heads", heads)
    return {
        "vocabulary": number("vocab_size"),
        "width": width,
        "layers": number("num_hidden_layers"),
        "kept": 10 * width + 4 * keys + 4 * number("intermediate_size"),
    }
