"""Checks of adapters and bases in folders, which load no torch, peft or model.

A folder is an adapter only if all of these hold:

1. Files: ``adapter_config.json``, ``adapter_model.safetensors``, ``README.md``, and
   perhaps a licence, a data statement and evaluation results; plain files only, each
   as the manifest says. ``tapestry/`` holds the manifest and proofs.
2. The weights are safetensors that our own parser accepts (``safetensors_reader``).
3. ``adapter_config.json`` is plain LoRA: every key known, and every one that could
   import code, change other weights or read further files at its harmless default.
4. Each tensor is factor A or B of a weight of the base, with the shape it must have.
5. The base is the one named in the weights' own metadata, by digest of its values.
6. Values are finite and not all zero.

The log's rules decide who may publish and at what cost (``replay``).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from tapestry.artifacts import adapter_folder, manifest, model_folder
from tapestry.artifacts.adapter_folder import CARD, CONFIG, WEIGHTS, AdapterFolder
from tapestry.artifacts.safetensors_reader import TensorFile
from tapestry.encoding import decode_digest
from tapestry.errors import IncompleteError, ProtocolError, VerificationError
from tapestry.vectors import parameters_digest
from tapestry_governance.events import event_body
from tapestry_governance.events.model_events import AdapterPublished, ReleasePublished

_NAME: TypeAdapter[str] = TypeAdapter(event_body.Base)
_REQUIRED = frozenset({WEIGHTS, CONFIG, CARD})


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseShape:
    """The digest and tensor shapes of a base model, which an adapter must fit."""

    digest: str
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


def check_folder(folder: Path) -> CheckedAdapter:
    """Run the checks that need nothing but the folder: 1, 2, 3 and 6.

    Raises:
        IncompleteError: The folder, or a file that must be there, is missing.
        VerificationError: A check fails; the message names file and rule.
        ForeignFileError: The folder holds files that are not part of it.
        ProtocolError: The manifest is not canonical.
    """
    listed = _check_files(folder)
    found = adapter_folder.read(folder)
    base, base_digest = _claimed_base(found)
    return CheckedAdapter(
        base=base,
        base_digest=base_digest,
        rank=found.config.r,
        modules=len(found.modules),
        parameters=sum(prod(t.shape) for t in found.weights.tensors.values()),
        manifest_digest=listed.digest,
    )


def check_fit(folder: Path, base: BaseShape) -> None:
    """Run the checks against the base: 4 and 5.

    Raises:
        IncompleteError: A file of the adapter is missing.
        VerificationError: The adapter is of another base, changes a module that this
            base lacks, or has a wrong shape.
    """
    found = adapter_folder.read(folder)
    name, claimed = _claimed_base(found)
    if claimed != base.digest:
        raise VerificationError(
            f"{folder.resolve().name} was trained on base {claimed} ({name!r}), and"
            f" this base is {base.digest}; take the base that it was trained on",
            code="base-differs",
        )
    found.check_fit(base.shapes)


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


def check_base(folder: Path) -> BaseShape:
    """Read a base; one with a manifest must have exactly the files that it lists.

    A given base may have no manifest, and then no other files of it are checked.

    Raises:
        IncompleteError: The folder has no safetensors.
        VerificationError: A file is not as listed, or breaks a rule.
        ForeignFileError: The folder holds files that are not part of it.
    """
    if not (folder / manifest.FOLDER / manifest.FILE).exists():
        return read_base(folder)
    listed = manifest.read(folder)
    manifest.verify(folder, listed)
    return replace(read_base(folder), manifest_digest=listed.digest)


def check_release(found: BaseShape, entry: ReleasePublished) -> None:
    """Compare a release with its entry in a verified log.

    Raises:
        VerificationError: The entry names other parameters or another manifest.
    """
    if found.manifest_digest != entry.manifest_digest:
        raise VerificationError(
            f"{entry.name} was published with other files: manifest"
            f" {found.manifest_digest}, the log says {entry.manifest_digest}",
            code="manifest-differs",
        )
    if found.digest != entry.parameters_digest:
        raise VerificationError(
            f"{entry.name} was published with other parameters: {found.digest}, the log"
            f" says {entry.parameters_digest}",
            code="release-parameters-differ",
        )


def read_base(folder: Path) -> BaseShape:
    """Read shapes and digest of a released base from its safetensors.

    Raises:
        IncompleteError: The folder has no safetensors, or shards without an index.
        ForeignFileError: A file of the folder is no part of a model.
        VerificationError: A file breaks a rule, or two hold the same tensor.
    """
    if not folder.is_dir():
        raise IncompleteError(
            f"no base model in {folder}; name the folder of one", code="base-missing"
        )
    model_folder.FILES.check(folder)
    where = model_folder.read_tensors(folder)
    return BaseShape(
        digest=parameters_digest(_Lazy(where)),
        shapes={name: file.tensors[name].shape for name, file in where.items()},
    )


class _Lazy(Mapping[str, Any]):
    """Tensors of some files, of which each is read when it is asked for."""

    def __init__(self, where: Mapping[str, TensorFile]) -> None:
        self._where = where

    def __getitem__(self, name: str) -> Any:
        return self._where[name].values(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)


def _check_files(folder: Path) -> manifest.Manifest:
    listed = manifest.read(folder)
    manifest.verify(folder, listed)
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
    adapter_folder.FILES.check(folder)  # also tapestry/, which the manifest leaves out
    return listed


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
