"""Writer of model folders: one file of tensors, and settings files as they were given.

No library has a part in it, so members with other versions of one write equal bytes.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from tapestry.artifacts.manifest import File
from tapestry.artifacts.model_folder import CARD, WEIGHTS
from tapestry.artifacts.model_identity import ModelContent, describe_files
from tapestry.artifacts.safetensors_writer import encode_tensors, write_tensors
from tapestry.encoding import digest_all
from tapestry.storage import durable_files


def describe_model(content: ModelContent, *, card: bytes | None) -> tuple[File, ...]:
    """List the files that ``write_model`` would write, without writing them."""
    pieces = list(encode_tensors(content.tensors))
    weights = File(name=WEIGHTS, size=_size(pieces), content=digest_all(pieces))
    files = (*describe_files(_texts(content, card)), weights)
    return tuple(sorted(files, key=lambda file: file.name))


def write_model(folder: Path, content: ModelContent, *, card: bytes | None) -> None:
    """Write a model into a folder, which is made.

    Raises:
        ResourceError: The disk is full, or the folder cannot be written.
    """
    write_tensors(folder / WEIGHTS, content.tensors)
    for name, data in _texts(content, card).items():
        durable_files.replace_file(folder / name, data)


def _texts(content: ModelContent, card: bytes | None) -> Mapping[str, bytes]:
    return {**content.files, **({} if card is None else {CARD: card})}


def _size(pieces: Iterable[bytes | memoryview]) -> int:
    return sum(len(piece) for piece in pieces)
