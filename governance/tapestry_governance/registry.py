"""Adapters: what a folder must be to count as one, checked without running it.

Hard checks, all static; torch, peft and the base are not loaded:

1. Files: ``adapter_config.json``, ``adapter_model.safetensors``, ``README.md``, and
   perhaps a licence, a data statement and evaluation results; plain files only, each
   as the manifest says. ``tapestry/`` holds the manifest and proofs.
2. The weights are safetensors that our own parser accepts (``tensors``).
3. ``adapter_config.json`` is plain LoRA: every key known, and every one that could
   import code, change other weights or read further files at its harmless default.
4. Each tensor is factor A or B of a weight of the base, with the shape it must have.
5. The base is the one named in the weights' own metadata, by digest of its values.
6. Values are finite and not all zero.

Who may publish and what it cost are rules of the log (``fold``), not of the folder.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tapestry import manifest
from tapestry.encoding import decode_digest
from tapestry.errors import IncompleteError, ProtocolError, VerificationError
from tapestry.foreign import refuse
from tapestry.vector import parameters_digest
from tapestry_governance.events import AdapterPublished, ReleasePublished
from tapestry_governance.tensors import Limits, TensorFile, open_tensors

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
CARD = "README.md"
MAX_RANK = 256

_REQUIRED = frozenset({WEIGHTS, CONFIG, CARD})
_ALLOWED = re.compile(
    r"adapter_config\.json|adapter_model\.safetensors|README\.md|data_statement\.md"
    r"|LICENSE(\.[A-Za-z0-9-]{1,20})?|\.eval_results/[A-Za-z0-9_-]{1,60}\.yaml"
)
_PROOFS = frozenset({".json", ".entry", ".sig", ".tlog-proof", ".txt"})
_TENSOR = re.compile(r"base_model\.model\.([A-Za-z0-9_.]{1,300})\.lora_([AB])\.weight")
_BASE_LIMITS = Limits(header_bytes=16 << 20, file_bytes=1 << 42, tensors=100_000)
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
    alpha_pattern: Annotated[dict[str, int], Field(max_length=0)] = {}
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
    loftq_config: Annotated[dict[str, int], Field(max_length=0)] | None = None
    lora_bias: Literal[False] = False
    lora_ga_config: None = None
    megatron_config: None = None
    megatron_core: Literal["megatron.core"] | None = None
    modules_to_save: None = None
    monteclora_config: None = None
    qalora_group_size: int = 16
    rank_pattern: Annotated[dict[str, int], Field(max_length=0)] = {}
    revision: None = None
    target_parameters: None = None
    trainable_token_indices: None = None
    use_bdlora: None = None
    use_dora: Literal[False] = False
    use_qalora: Literal[False] = False
    velora_config: None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A base model as far as an adapter must fit it."""

    digest: str
    shapes: Mapping[str, tuple[int, ...]]
    manifest_digest: str | None = None  # if its files were held against one


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """What the checks found out about a folder."""

    base: str
    base_digest: str
    rank: int
    modules: int
    parameters: int
    manifest_digest: str


def check_folder(folder: Path, *, limits: Limits | None = None) -> Adapter:
    """Run the checks that need nothing but the folder: 1, 2, 3 and 6.

    Raises:
        IncompleteError: The folder, or a file that must be there, is missing.
        VerificationError: A check fails; the message names file and rule.
        ForeignFileError: It holds files that are not part of it.
        ProtocolError: The manifest is not canonical.
    """
    listed = _check_files(folder)
    config = read_config(folder / CONFIG)
    weights = open_tensors(folder / WEIGHTS, limits=limits)
    names = _pairs(weights)
    _check_targets(names, config)
    weights.check_finite()
    if all(weights.is_zero(f"base_model.model.{n}.lora_B.weight") for n in names):
        raise VerificationError(f"{WEIGHTS}: every factor B is zero")
    base, base_digest = _claimed_base(weights, config)
    return Adapter(
        base=base,
        base_digest=base_digest,
        rank=config.r,
        modules=len(names),
        parameters=sum(_count(t.shape) for t in weights.tensors.values()),
        manifest_digest=listed.digest,
    )


def check_fit(folder: Path, base: Base) -> None:
    """Run the checks against the base: 4 and 5.

    Raises:
        IncompleteError: A file is missing.
        VerificationError: Another base, a module it lacks, or a wrong shape.
    """
    config = read_config(folder / CONFIG)
    weights = open_tensors(folder / WEIGHTS)
    _, claimed = _claimed_base(weights, config)
    if claimed != base.digest:
        raise VerificationError(
            f"trained on base {claimed}, held against {base.digest}"
        )
    for module in _pairs(weights):
        shape = base.shapes.get(f"{module}.weight")
        if shape is None or len(shape) != 2:
            raise VerificationError(f"{WEIGHTS}: the base has no weight {module!r}")
        want = {"A": (config.r, shape[1]), "B": (shape[0], config.r)}
        for letter, expected in want.items():
            name = f"base_model.model.{module}.lora_{letter}.weight"
            if weights.tensors[name].shape != expected:
                raise VerificationError(
                    f"{WEIGHTS}: {name} has shape {weights.tensors[name].shape},"
                    f" the base needs {expected}"
                )


def check_entry(found: Adapter, entry: AdapterPublished) -> None:
    """Hold a folder against what was published in the log.

    Raises:
        VerificationError: The log says something else.
    """
    for what, here, there in (
        ("manifest", found.manifest_digest, entry.manifest_digest),
        ("base", found.base, entry.base),
        ("base digest", found.base_digest, entry.base_digest),
    ):
        if here != there:
            raise VerificationError(
                f"adapter {entry.name}: {what} {here}, the log says {there}"
            )


def check_base(folder: Path) -> Base:
    """Read a base; one with a manifest must be as that lists it, to the file.

    A given base may come without; nobody can say then which other files belong to it.

    Raises:
        IncompleteError: No safetensors there.
        VerificationError: A file is not as listed, or breaks a rule.
        ForeignFileError: It holds files that are not part of it.
    """
    if not (folder / manifest.FOLDER / manifest.FILE).exists():
        return read_base(folder)
    listed = manifest.read(folder)
    manifest.verify(folder, listed)
    return replace(read_base(folder), manifest_digest=listed.digest)


def check_release(found: Base, entry: ReleasePublished) -> None:
    """Hold a release against its entry in a verified log.

    Raises:
        VerificationError: Other parameters or other files than were published.
    """
    if found.manifest_digest != entry.manifest_digest:
        raise VerificationError(f"{entry.name} was published with other files")
    if found.digest != entry.parameters_digest:
        raise VerificationError(f"{entry.name} was published with other parameters")


def read_base(folder: Path) -> Base:
    """Read shapes and digest of a released base from its safetensors.

    Raises:
        IncompleteError: No safetensors there.
        VerificationError: A file breaks a rule, or two hold the same tensor.
    """
    files = [
        open_tensors(path, limits=_BASE_LIMITS)
        for path in sorted(folder.glob("*.safetensors"))
    ]
    if not files:
        raise IncompleteError(f"no base model in {folder}")
    where = {name: file for file in files for name in file.tensors}
    if len(where) != sum(len(file.tensors) for file in files):
        raise VerificationError(f"{folder.name}: a tensor is in two files")
    return Base(
        digest=parameters_digest(_Lazy(where)),
        shapes={name: file.tensors[name].shape for name, file in where.items()},
    )


def read_config(path: Path) -> Lora:
    """Read and check ``adapter_config.json``.

    Raises:
        IncompleteError: No such file.
        VerificationError: Too long, not JSON, an unknown key or a dangerous value.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise IncompleteError(f"cannot read {path}: {error.strerror}") from None
    if len(data) > _CONFIG_BYTES:
        raise VerificationError(f"{path.name} is over {_CONFIG_BYTES} bytes")
    try:
        json.loads(data, object_pairs_hook=_no_duplicates)
        return Lora.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise VerificationError(f"{path.name}: {where}: {first['msg']}") from None
    except (ValueError, RecursionError) as error:
        raise VerificationError(f"{path.name}: {error}") from None


class _Lazy(Mapping[str, Any]):
    """Tensors of some files, read when asked for, so that one at a time is held."""

    def __init__(self, where: Mapping[str, TensorFile]) -> None:
        self._where = where

    def __getitem__(self, name: str) -> Any:
        return self._where[name].values(name)

    def __iter__(self) -> Any:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)


def _check_files(folder: Path) -> manifest.Manifest:
    listed = manifest.read(folder)
    manifest.verify(folder, listed)
    names = {file.name for file in listed.files}
    for name in sorted(names):
        if not _ALLOWED.fullmatch(name):
            raise VerificationError(f"{name} does not belong into an adapter")
    if missing := sorted(_REQUIRED - names):
        raise IncompleteError(f"{folder.name}: {missing[0]} is missing")
    _check_proofs(folder / manifest.FOLDER)
    return listed


def _check_proofs(folder: Path) -> None:
    """Refuse links and programs next to the manifest, which does not list it."""
    links, foreign = [], []
    for path in folder.rglob("*"):
        name = f"{manifest.FOLDER}/{path.relative_to(folder).as_posix()}"
        if path.is_symlink():
            links.append(name)
        elif path.suffix not in _PROOFS or not path.is_file():
            foreign.append(f"{name}/" if path.is_dir() else name)
    if links or foreign:
        refuse(folder.parent.name, foreign=foreign, links=links)


def _pairs(weights: TensorFile) -> list[str]:
    """List the modules, each with its factors A and B and nothing else."""
    found: dict[str, set[str]] = {}
    for name in weights.tensors:
        match = _TENSOR.fullmatch(name)
        if match is None:
            raise VerificationError(f"{WEIGHTS}: {name[:120]!r} is no LoRA factor")
        found.setdefault(match[1], set()).add(match[2])
    for module, letters in found.items():
        if len(letters) != 2:
            raise VerificationError(f"{WEIGHTS}: {module} lacks one of its factors")
    return sorted(found)


def _check_targets(modules: Iterable[str], config: Lora) -> None:
    unused = set(config.target_modules)
    for module in modules:
        hits = {t for t in config.target_modules if f".{module}".endswith(f".{t}")}
        if not hits:
            raise VerificationError(f"{WEIGHTS}: {module} is not in target_modules")
        unused -= hits
    if unused:
        raise VerificationError(f"{CONFIG}: no factors for {min(unused)}")


def _claimed_base(weights: TensorFile, config: Lora) -> tuple[str, str]:
    name = weights.metadata.get("base", "")
    digest = weights.metadata.get("base_digest", "")
    try:
        decode_digest(digest)
    except ProtocolError:
        raise VerificationError(f"{WEIGHTS}: its metadata names no base") from None
    if config.base_model_name_or_path != name:
        raise VerificationError(
            f"{CONFIG} names base {config.base_model_name_or_path!r},"
            f" the weights name {name!r}"
        )
    return name, digest


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key occurs twice")
    return value


def _count(shape: tuple[int, ...]) -> int:
    size = 1
    for extent in shape:
        size *= extent
    return size
