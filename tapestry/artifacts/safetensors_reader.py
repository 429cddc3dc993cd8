"""Strict reader of safetensors files, without a machine-learning stack.

A file is ``u64 little-endian n``, ``n`` bytes of JSON, then the tensors' bytes::

    {"__metadata__": {"format": "pt"},
     "name": {"dtype": "F32", "shape": [4, 96], "data_offsets": [0, 1536]}, …}

Guarantees:
    What is accepted has one reading: a plain file, a header in UTF-8 with no duplicate
    name, no half of a surrogate pair and no ``-0``, tensors that fill the data area
    from the first byte to the last without overlap or hole, sizes that follow from
    shapes, 16- or 32-bit floats only. No more than the header is held in memory before
    all of that is known. A file is opened once and read once: the values are the bytes
    that were hashed, whatever becomes of the file later.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, cast

import numpy as np

from tapestry.errors import IncompleteError, VerificationError
from tapestry.inputs.plain_file import open_plain
from tapestry.tensor_types import ARRAY_TYPES, is_finite, widen
from tapestry.vectors import FloatVector, Parameters

_MAX_DIMENSIONS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorLimits:
    """Caps on a file; the defaults suit adapters."""

    header_bytes: int = 1 << 20
    file_bytes: int = 1 << 30
    tensors: int = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """The place, type and shape of a tensor in its file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int  # from the beginning of the data area
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorFile:
    """A file that was read."""

    name: str
    metadata: Mapping[str, str]
    tensors: Mapping[str, Tensor]
    size: int
    content: str  # digest of the whole file
    hashes: Mapping[str, str]  # SHA-256 (hex) of each tensor's bytes
    arrays: Parameters  # as they are stored; empty unless they were to be kept

    def values(self, name: str) -> FloatVector:
        """Return the values of one tensor as float32."""
        return widen(self.arrays[name])

    def check_finite(self) -> None:
        """Check that every value is finite.

        Raises:
            VerificationError: A value is NaN or infinite.
        """
        for name, array in self.arrays.items():
            if not is_finite(array):
                raise VerificationError(
                    f"{self.name}: {name!r} holds NaN or infinity",
                    code="tensor-not-finite",
                )

    def is_zero(self, name: str) -> bool:
        """Say whether all values of a tensor are zero."""
        return not np.any(self.arrays[name])


def read_tensors(
    path: Path, *, limits: TensorLimits | None = None, keep: bool = True
) -> TensorFile:
    """Read and check a safetensors file.

    Without ``keep`` the values are hashed and not held in memory.

    Raises:
        IncompleteError: The file does not exist.
        VerificationError: The file is not a plain file, its header breaks a rule, or it
            gets shorter while it is read.
    """
    limits = limits or TensorLimits()
    with _open(path) as file:
        size, prefix, header = _read_header(file, path.name, limits)
        metadata, tensors = _read_entries(path.name, header, size, limits)
        whole = hashlib.sha256(prefix + header)
        hashes, arrays = {}, {}
        for tensor in sorted(tensors, key=lambda t: (t.start, t.size)):
            data = _read_exactly(file, tensor.size, path.name)
            whole.update(data)
            hashes[tensor.name] = hashlib.sha256(data).hexdigest()
            if keep:
                flat = np.frombuffer(data, dtype=ARRAY_TYPES[tensor.dtype])
                arrays[tensor.name] = flat.reshape(tensor.shape)
    return TensorFile(
        name=path.name,
        metadata=metadata,
        tensors={t.name: t for t in sorted(tensors, key=lambda t: t.name)},
        size=size,
        content=f"sha256:{whole.hexdigest()}",
        hashes=hashes,
        arrays=arrays,
    )


def read_header(path: Path, *, limits: TensorLimits) -> tuple[Tensor, ...]:
    """Read the names, types and shapes of a file's tensors, and none of their values.

    Raises:
        IncompleteError: The file does not exist.
        VerificationError: The file is not a plain file, or its header breaks a rule.
    """
    with _open(path) as file:
        size, _, header = _read_header(file, path.name, limits)
        return tuple(_read_entries(path.name, header, size, limits)[1])


def _read_entries(
    file: str, header: bytes, size: int, limits: TensorLimits
) -> tuple[dict[str, str], list[Tensor]]:
    value = _parse(file, header)
    metadata = value.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(
        isinstance(text, str) for text in metadata.values()
    ):
        raise VerificationError(
            f"{file}: metadata is not text", code="tensor-header-invalid"
        )
    if not 0 < len(value) <= limits.tensors:
        raise VerificationError(
            f"{file}: {len(value)} tensors, want 1 to {limits.tensors}",
            code="tensor-count-invalid",
        )
    tensors = [_tensor(file, name, entry) for name, entry in value.items()]
    _check_filled(file, tensors, size - 8 - len(header))
    return metadata, tensors


def _open(path: Path) -> BufferedReader:
    try:
        return cast("BufferedReader", open_plain(path))
    except FileNotFoundError:
        raise IncompleteError(f"no file {path}", code="file-missing") from None
    except OSError as error:
        raise VerificationError(
            f"cannot open {path.name}: {error.strerror}", code="file-unreadable"
        ) from None


def _read_header(
    file: BufferedReader, name: str, limits: TensorLimits
) -> tuple[int, bytes, bytes]:
    """Read the header and its length, which are returned with the file's size."""
    size = os.fstat(file.fileno()).st_size
    if not 8 < size <= limits.file_bytes:
        raise VerificationError(
            f"{name} has {size} bytes, want 9 to {limits.file_bytes}",
            code="file-size-invalid",
        )
    prefix = bytes(_read_exactly(file, 8, name))
    length = int.from_bytes(prefix, "little")
    if not 2 <= length <= min(limits.header_bytes, size - 8):
        raise VerificationError(
            f"{name}: header of {length} bytes, at most"
            f" {min(limits.header_bytes, size - 8)} fit",
            code="tensor-header-invalid",
        )
    return size, prefix, bytes(_read_exactly(file, length, name))


def _read_exactly(file: BufferedReader, size: int, name: str) -> memoryview:
    """Read bytes into memory of their own, which lies as any tensor needs it."""
    data = np.empty(size, dtype=np.uint8)
    if file.readinto(data.data) != size:
        raise VerificationError(f"{name} changed while being read", code="file-changed")
    data.flags.writeable = False
    return data.data


def _parse(file: str, header: bytes) -> dict[str, Any]:
    if not header.startswith(b"{"):
        raise VerificationError(
            f"{file} is not safetensors: its header is no JSON",
            code="json-invalid",
        )
    try:
        value = json.loads(
            header.decode("utf-8"),  # of bytes, json would guess the encoding
            object_pairs_hook=_no_duplicates,
            parse_int=_no_negative_zero,
        )
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except VerificationError as error:
        raise VerificationError(f"{file}: {error}", code=error.code) from None
    except UnicodeError:
        raise VerificationError(
            f"{file}: its header is not UTF-8", code="text-not-utf8"
        ) from None
    except (ValueError, RecursionError):
        raise VerificationError(
            f"{file} is not safetensors: bad JSON", code="json-invalid"
        ) from None
    if not isinstance(value, dict):
        raise VerificationError(
            f"{file} is not safetensors: its header is no object", code="json-invalid"
        )
    return value


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise VerificationError(
            "a name occurs twice in JSON", code="json-key-duplicated"
        )
    return value


def _no_negative_zero(text: str) -> int:
    """Read an integer; ``-0`` is a second spelling of 0, which others refuse."""
    if text == "-0":
        raise VerificationError("-0 in JSON, want 0", code="json-number-invalid")
    return int(text)


def _tensor(file: str, name: str, entry: Any) -> Tensor:
    """Read one entry of the header."""
    where = f"{file}: tensor {name[:100]!r}"
    if not isinstance(entry, dict) or entry.keys() != {
        "dtype",
        "shape",
        "data_offsets",
    }:
        raise VerificationError(
            f"{where} is not dtype, shape and data_offsets", code="tensor-entry-invalid"
        )
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ARRAY_TYPES:
        raise VerificationError(
            f"{where} is {str(dtype)[:20]}, want F32, F16 or BF16",
            code="tensor-type-unsupported",
        )
    if not _counts(shape) or len(shape) > _MAX_DIMENSIONS:
        raise VerificationError(
            f"{where} has no plain shape", code="tensor-entry-invalid"
        )
    if not _counts(offsets) or len(offsets) != 2:
        raise VerificationError(
            f"{where} has no plain offsets", code="tensor-entry-invalid"
        )
    size = math.prod(shape) * ARRAY_TYPES[dtype].itemsize
    if offsets[1] - offsets[0] != size:
        raise VerificationError(
            f"{where} of {size} bytes lies at {offsets[0]} to {offsets[1]}",
            code="tensor-size-differs",
        )
    return Tensor(
        name=name, dtype=dtype, shape=tuple(shape), start=offsets[0], size=size
    )


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(
        type(item) is int and 0 <= item < 2**48 for item in value
    )


def _check_filled(file: str, tensors: list[Tensor], size: int) -> None:
    """Require that the tensors fill the data area, each byte once."""
    position = 0
    for tensor in sorted(tensors, key=lambda t: (t.start, t.size)):
        if tensor.start != position:
            kind = "overlap" if tensor.start < position else "leave a hole"
            raise VerificationError(
                f"{file}: tensors {kind} at {tensor.name[:100]!r}",
                code="tensor-layout-invalid",
            )
        position += tensor.size
    if position != size:
        raise VerificationError(
            f"{file}: {size} bytes of data, {position} are described",
            code="tensor-layout-invalid",
        )
