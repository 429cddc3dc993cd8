"""Reader of adapter folders as PEFT writes them, which runs and trusts nothing in them.

A folder is plain LoRA: every setting is known, and every one that could import code,
change other weights or read further files is at its harmless default; each tensor is
factor A or B of a linear module, each module has both, and values are finite and not
all zero.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tapestry.artifacts.closed_list import ClosedList
from tapestry.artifacts.safetensors_reader import TensorFile, TensorLimits, open_tensors
from tapestry.errors import IncompleteError, VerificationError
from tapestry.inputs.plain_file import read_plain
from tapestry.vectors import FloatVector

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
CARD = "README.md"
MAX_RANK = 256
FILES = ClosedList(
    what="an adapter",
    files=re.compile(
        r"adapter_config\.json|adapter_model\.safetensors|README\.md|data_statement\.md"
        r"|LICENSE(\.[A-Za-z0-9-]{1,20})?|\.eval_results/[A-Za-z0-9_-]{1,60}\.yaml"
    ),
    folders=frozenset({".eval_results"}),
)

_TENSOR = re.compile(r"base_model\.model\.([A-Za-z0-9_.]{1,300})\.lora_([AB])\.weight")
_CONFIG_BYTES = 1 << 16

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
    """A folder that passed; values are read from its file on demand."""

    config: Lora
    weights: TensorFile
    modules: tuple[str, ...]

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
    """Check settings and factors, also each value; other files are not looked at.

    Raises:
        IncompleteError: The settings or the weights are missing.
        VerificationError: A setting or tensor breaks a rule; the message names it.
    """
    config = read_config(folder / CONFIG)
    weights = open_tensors(folder / WEIGHTS, limits=limits)
    modules = _pairs(weights)
    _check_targets(modules, config)
    weights.check_finite()
    if all(weights.is_zero(_factor(module, "B")) for module in modules):
        raise VerificationError(
            f"{WEIGHTS}: every factor B is zero", code="adapter-all-zero"
        )
    return AdapterFolder(config=config, weights=weights, modules=tuple(modules))


def read_config(path: Path) -> Lora:
    """Read and check ``adapter_config.json``.

    Raises:
        IncompleteError: The file is missing or cannot be opened.
        VerificationError: The file is not a plain file, is over 64 KiB or is not JSON,
            or a key is unknown or has a value that is not allowed.
    """
    try:
        data = read_plain(path, limit=_CONFIG_BYTES)
    except OSError as error:
        raise IncompleteError(
            f"cannot read {path}: {error.strerror}", code="file-missing"
        ) from None
    try:
        json.loads(data, object_pairs_hook=_no_duplicates)
        return Lora.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise VerificationError(
            f"{path.name}: {where}: {first['msg']}", code="adapter-config-invalid"
        ) from None
    except (ValueError, RecursionError) as error:
        raise VerificationError(
            f"{path.name}: {error}", code="adapter-config-invalid"
        ) from None


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
