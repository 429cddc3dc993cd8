"""Checks of adapters and bases in folders, which load no torch, peft or model.

A folder is an adapter only if all of these hold:

1. Files: ``adapter_config.json``, ``adapter_model.safetensors``, ``README.md``, and
   perhaps a licence, a data statement and evaluation results; plain files only, each
   as the manifest says. ``tapestry/`` holds the manifest and proofs.
2. The weights are safetensors that our own parser accepts (``safetensors_reader``).
3. ``adapter_config.json`` is plain LoRA: every key known, and every one that could
   import code, change other weights or read further files at its harmless default.
4. Each tensor is factor A or B of a weight of the base, with the shape it must have.
5. The base is the one named in the weights' own metadata, by its identity.
6. Values are finite and not all zero.

The log's rules decide who may publish and at what cost (``replay``).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from tapestry.artifacts import adapter_folder, manifest, model_folder
from tapestry.artifacts.adapter_folder import CARD, CONFIG, WEIGHTS, AdapterFolder
from tapestry.artifacts.model_folder import ModelFolder
from tapestry.encoding import decode_digest
from tapestry.errors import IncompleteError, ProtocolError, VerificationError
from tapestry_governance.events import event_body
from tapestry_governance.events.model_events import AdapterPublished, ReleasePublished

_NAME: TypeAdapter[str] = TypeAdapter(event_body.Base)
_REQUIRED = frozenset({WEIGHTS, CONFIG, CARD})


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseShape:
    """The identity and tensor shapes of a base model, which an adapter must fit."""

    digest: str
    parameters_digest: str
    shapes: Mapping[str, tuple[int, ...]]
    manifest_digest: str | None = None  # of the manifest that its files match


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedAdapter:
    """An adapter that passed the checks of its folder."""

    base: str
    base_digest: str
    rank: int
    modules: int
    parameters: int
    manifest_digest: str
    held: AdapterFolder = field(repr=False, compare=False)  # what was checked


def check_folder(folder: Path) -> CheckedAdapter:
    """Run the checks that need nothing but the folder: 1, 2, 3 and 6.

    Raises:
        IncompleteError: The folder, or a file that must be there, is missing.
        ResourceError: A file cannot be read.
        VerificationError: A check fails; the message names file and rule.
        ForeignFileError: The folder holds files that are not part of it.
        ProtocolError: The manifest is not canonical.
    """
    _check_names(folder)
    found = adapter_folder.read(folder)
    if (known := found.manifest_digest) is None:
        raise IncompleteError(f"no manifest in {folder}", code="manifest-missing")
    base, base_digest = _claimed_base(found)
    return CheckedAdapter(
        base=base,
        base_digest=base_digest,
        rank=found.config.r,
        modules=len(found.modules),
        parameters=sum(prod(t.shape) for t in found.weights.tensors.values()),
        manifest_digest=known,
        held=found,
    )


def check_fit(adapter: CheckedAdapter, base: BaseShape) -> None:
    """Run the checks against the base: 4 and 5.

    Raises:
        VerificationError: The adapter is of another base, changes a module that this
            base lacks, or has a wrong shape.
    """
    if adapter.base_digest != base.digest:
        raise VerificationError(
            f"the adapter was trained on base {adapter.base_digest} ({adapter.base!r}),"
            f" and this base is {base.digest}; take the base that it was trained on",
            code="base-differs",
        )
    adapter.held.check_fit(base.shapes)


def check_entry(found: CheckedAdapter, entry: AdapterPublished) -> None:
    """Compare a folder with its entry in a verified log.

    Raises:
        VerificationError: The entry names another manifest or base.
    """
    for what, here, there in (
        ("manifest", found.manifest_digest, entry.manifest_digest),
        ("base", found.base, entry.base),
        ("base digest", found.base_digest, entry.base_digest),
    ):
        if here != there:
            raise VerificationError(
                f"adapter {entry.name}: {what} {here}, the log says {there}",
                code="adapter-entry-differs",
            )


def check_release(found: BaseShape, entry: ReleasePublished) -> None:
    """Compare a release with its entry in a verified log.

    Raises:
        VerificationError: The entry names another model, other parameters or another
            manifest.
    """
    if found.manifest_digest != entry.manifest_digest:
        raise VerificationError(
            f"{entry.name} was published with other files: manifest"
            f" {found.manifest_digest}, the log says {entry.manifest_digest}",
            code="manifest-differs",
        )
    if found.parameters_digest != entry.parameters_digest:
        raise VerificationError(
            f"{entry.name} was published with other parameters:"
            f" {found.parameters_digest}, the log says {entry.parameters_digest}",
            code="release-parameters-differ",
        )
    if found.digest != entry.model_digest:
        raise VerificationError(
            f"{entry.name} was published as another model: {found.digest}, the log says"
            f" {entry.model_digest}",
            code="release-model-differs",
        )


def read_base(folder: Path) -> BaseShape:
    """Read shapes and identity of a base; one with a manifest must match it.

    Each file is read once. A given base has no manifest, and what its settings mean is
    left to whoever loads it.

    Raises:
        IncompleteError: The folder has no safetensors, or shards without an index.
        ForeignFileError: A file of the folder is no part of a model, or not listed.
        ProtocolError: The manifest is not canonical.
        ResourceError: A file cannot be read.
        VerificationError: A file breaks a rule or is not as listed, or two hold the
            same tensor.
    """
    if not folder.is_dir():
        raise IncompleteError(
            f"no base model in {folder}; name the folder of one", code="base-missing"
        )
    return shape_of(model_folder.read_files(folder, keep=False))


def shape_of(found: ModelFolder) -> BaseShape:
    """Return shapes and identity of a base that was read."""
    described = found.manifest
    return BaseShape(
        digest=described.digest,
        parameters_digest=described.parameters,
        shapes=found.shapes,
        manifest_digest=found.manifest_digest,
    )


def _check_names(folder: Path) -> None:
    listed = manifest.read(folder)
    names = {file.name for file in listed.files}
    for name in sorted(names):
        if not adapter_folder.FILES.files.fullmatch(name):
            raise VerificationError(
                f"{name} does not belong into an adapter; publish it without",
                code="file-not-expected",
            )
    if missing := sorted(_REQUIRED - names):
        raise IncompleteError(
            f"{folder.name}: {missing[0]} is missing; get the adapter again",
            code="file-missing",
        )


def _claimed_base(found: AdapterFolder) -> tuple[str, str]:
    name = found.weights.metadata.get("base", "")
    digest = found.weights.metadata.get("base_digest", "")
    try:
        _NAME.validate_python(name, strict=True)  # it becomes part of a path
        decode_digest(digest)
    except (ProtocolError, ValidationError):
        raise VerificationError(
            f"{WEIGHTS}: its metadata names no base such as 'base-1' and its digest",
            code="base-name-missing",
        ) from None
    if found.config.base_model_name_or_path not in (name, f"./releases/{name}"):
        raise VerificationError(
            f"{CONFIG} names base {found.config.base_model_name_or_path!r},"
            f" the weights name {name!r}",
            code="base-name-differs",
        )
    return name, digest
