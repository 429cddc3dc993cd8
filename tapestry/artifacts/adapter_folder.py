"""Reader of adapter folders as PEFT writes them, which runs and trusts nothing in them.

A folder is plain LoRA: every setting is known, and every one that could import code,
change other weights or read further files is at its harmless default; each tensor is
factor A or B of a linear module, each module has both, and values are finite and not
all zero.

Guarantees:
    Each file is opened once and read once, so whoever loads from an ``AdapterFolder``
    loads the bytes that were checked. A folder with a manifest holds exactly the files
    that the manifest lists.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tapestry.artifacts import manifest
from tapestry.artifacts.closed_list import ClosedList
from tapestry.artifacts.manifest import File
from tapestry.artifacts.model_identity import describe_files
from tapestry.artifacts.safetensors_reader import TensorFile, TensorLimits, read_tensors
from tapestry.errors import IncompleteError, VerificationError
from tapestry.inputs.plain_file import read_plain
from tapestry.schema import first_fault
from tapestry.vectors import FloatVector

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
CARD = "README.md"
PUBLISHED, ACCOUNTED = "published.entry", "accounted.entry"
MAX_RANK = 256
FILES = ClosedList(
    what="an adapter",
    files=re.compile(
        r"adapter_config\.json|adapter_model\.safetensors|README\.md|data_statement\.md"
        r"|LICENSE(\.[A-Za-z0-9-]{1,20})?|\.eval_results/[A-Za-z0-9_-]{1,60}\.yaml"
    ),
    folders=frozenset({".eval_results"}),
    proofs=frozenset({PUBLISHED, ACCOUNTED}),
)

_TENSOR = re.compile(r"base_model\.model\.([A-Za-z0-9_.]{1,300})\.lora_([AB])\.weight")
_CONFIG_BYTES = 1 << 16
_TEXT_BYTES = 4 << 20  # of a card, statement or licence

Module = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.]{1,100}$")]


class Lora(BaseModel):
    """``adapter_config.json`` as PEFT writes it for plain LoRA.

    A key with one possible value is there because PEFT writes it; another value
    could import code, touch other weights, or change what the tensors mean.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    peft_type: Literal["LORA"]
    r: Annotated[int, Field(ge=1, le=MAX_RANK)]
    lora_alpha: Annotated[float, Field(gt=0, le=4096)]
    target_modules: Annotated[tuple[Module, ...], Field(min_length=1, max_length=1000)]
    inference_mode: Literal[True]
    base_model_name_or_path: Annotated[str, Field(max_length=300)] | None
    task_type: Literal["CAUSAL_LM"] | None
    lora_dropout: Annotated[float, Field(ge=0, le=1)] = 0.0
    peft_version: Annotated[str, Field(pattern=r"^[0-9A-Za-z.+-]{1,40}$")] = ""
    init_lora_weights: bool | Literal["gaussian"] = True
    use_rslora: bool = False
    bias: Literal["none"] = "none"
    fan_in_fan_out: Literal[False] = False
    alora_invocation_tokens: None = None
    alpha_pattern: Annotated[dict[Module, int], Field(max_length=0)] = {}
    arrow_config: None = None
    auto_mapping: None = None
    corda_config: None = None
    ensure_weight_tying: Literal[False] = False
    eva_config: None = None
    exclude_modules: None = None
    kasa_config: None = None
    layer_replication: None = None
    layers_pattern: None = None
    layers_to_transform: None = None
    loftq_config: Annotated[dict[Module, int], Field(max_length=0)] | None = None
    lora_bias: Literal[False] = False
    lora_ga_config: None = None
    megatron_config: None = None
    megatron_core: Literal["megatron.core"] | None = None
    modules_to_save: None = None
    monteclora_config: None = None
    qalora_group_size: int = 16
    rank_pattern: Annotated[dict[Module, int], Field(max_length=0)] = {}
    revision: None = None
    target_parameters: None = None
    trainable_token_indices: None = None
    use_bdlora: None = None
    use_dora: Literal[False] = False
    use_qalora: Literal[False] = False
    velora_config: None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFolder:
    """A folder that passed."""

    files: Mapping[str, bytes]  # all but the weights
    config: Lora
    weights: TensorFile
    modules: tuple[str, ...]
    manifest_digest: str | None  # that all files match; None: it has no manifest

    def factor(self, module: str, letter: str) -> FloatVector:
        """Read a factor of a module, A of shape (rank, in) or B of (out, rank)."""
        return self.weights.values(_factor(module, letter))

    def check_fit(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Require that each factor fits a weight of the base.

        Raises:
            VerificationError: The base lacks a module, or a factor has a wrong shape.
        """
        for module in self.modules:
            shape = shapes.get(f"{module}.weight")
            if shape is None or len(shape) != 2:
                raise VerificationError(
                    f"{WEIGHTS}: the base has no weight {module!r}",
                    code="adapter-shape-mismatch",
                )
            want = {"A": (self.config.r, shape[1]), "B": (shape[0], self.config.r)}
            for letter, expected in want.items():
                name = _factor(module, letter)
                found = self.weights.tensors[name].shape
                if found != expected:
                    raise VerificationError(
                        f"{WEIGHTS}: {name} has shape {found}, the base needs"
                        f" {expected}",
                        code="adapter-shape-mismatch",
                    )


def read(folder: Path, *, limits: TensorLimits | None = None) -> AdapterFolder:
    """Read a folder whole, and check settings and factors, also each value.

    Raises:
        ForeignFileError: A file, folder or link is there that has no place in it.
        IncompleteError: The settings or the weights are missing.
        ProtocolError: The manifest is not canonical.
        ResourceError: A file cannot be read.
        VerificationError: A setting or tensor breaks a rule, or a file is not as the
            manifest lists it; the message names it.
    """
    files: dict[str, bytes] = {}
    weights: TensorFile | None = None

    def take(name: str) -> File:
        nonlocal weights
        if name == WEIGHTS:
            weights = read_tensors(folder / name, limits=limits)
            return File(name=name, size=weights.size, content=weights.content)
        files[name] = read_plain(folder / name, limit=_limit(name))
        (described,) = describe_files({name: files[name]})
        return described

    known = manifest.read_folder(folder, FILES, take)
    if CONFIG not in files:
        raise IncompleteError(f"no file {folder / CONFIG}", code="file-missing")
    config = read_config(files[CONFIG])
    if weights is None:
        raise IncompleteError(f"no file {folder / WEIGHTS}", code="file-missing")
    modules = _pairs(weights)
    _check_targets(modules, config)
    weights.check_finite()
    if all(weights.is_zero(_factor(module, "B")) for module in modules):
        raise VerificationError(
            f"{WEIGHTS}: every factor B is zero", code="adapter-all-zero"
        )
    return AdapterFolder(
        files=files,
        config=config,
        weights=weights,
        modules=tuple(modules),
        manifest_digest=known,
    )


def read_config(data: bytes) -> Lora:
    """Read and check ``adapter_config.json``.

    Raises:
        VerificationError: The file is not JSON, or a key is unknown or has a value that
            is not allowed.
    """
    try:
        json.loads(data, object_pairs_hook=_no_duplicates)
        return Lora.model_validate_json(data)
    except ValidationError as error:
        raise VerificationError(
            f"{CONFIG}: {first_fault(error)}", code="adapter-config-invalid"
        ) from None
    except (ValueError, RecursionError) as error:
        raise VerificationError(
            f"{CONFIG}: {error}", code="adapter-config-invalid"
        ) from None


def _limit(name: str) -> int:
    return _CONFIG_BYTES if name == CONFIG else _TEXT_BYTES


def _pairs(weights: TensorFile) -> list[str]:
    """List the modules, each with its factors A and B and nothing else."""
    found: dict[str, set[str]] = {}
    for name in weights.tensors:
        match = _TENSOR.fullmatch(name)
        if match is None:
            raise VerificationError(
                f"{WEIGHTS}: {name[:120]!r} is no LoRA factor A or B",
                code="adapter-tensor-unknown",
            )
        found.setdefault(match[1], set()).add(match[2])
    for module, letters in found.items():
        if len(letters) != 2:
            raise VerificationError(
                f"{WEIGHTS}: {module} lacks one of its factors",
                code="adapter-factor-missing",
            )
    return sorted(found)


def _check_targets(modules: Iterable[str], config: Lora) -> None:
    unused = set(config.target_modules)
    for module in modules:
        hits = {t for t in config.target_modules if f".{module}".endswith(f".{t}")}
        if not hits:
            raise VerificationError(
                f"{WEIGHTS}: {module} is not in target_modules",
                code="adapter-targets-differ",
            )
        unused -= hits
    if unused:
        raise VerificationError(
            f"{CONFIG}: no factors for {min(unused)}", code="adapter-targets-differ"
        )


def _factor(module: str, letter: str) -> str:
    return f"base_model.model.{module}.lora_{letter}.weight"


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key occurs twice")
    return value
