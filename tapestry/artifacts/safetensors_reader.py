"""Read safetensors without trusting them and without a machine-learning stack.

A file is ``u64 little-endian n``, ``n`` bytes of JSON, then the tensors' bytes::

    {"__metadata__": {"format": "pt"},
     "name": {"dtype": "F32", "shape": [4, 96], "data_offsets": [0, 1536]}, …}

Guarantees:
    What is accepted has one reading: a plain file, a header in UTF-8 with no duplicate
    name, no half of a surrogate pair and no ``-0``, tensors that fill the data area
    from the first byte to the last without overlap or hole, sizes that follow from
    shapes, 16- or 32-bit floats only. No more than the header is
    held in memory before all of that is known.
"""

import json
import math
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tapestry.errors import IncompleteError, VerificationError
from tapestry.vectors import FloatVector

_WIDTHS = {"F32": 4, "F16": 2, "BF16": 2}
_MAX_DIMENSIONS = 8
_CHUNK = 1 << 22  # values looked at together
_EXPONENT = np.uint16(0x7F80)  # of a bfloat16: all ones in NaN and infinity


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorLimits:
    """Caps on a file; the defaults suit adapters."""

    header_bytes: int = 1 << 20
    file_bytes: int = 1 << 30
    tensors: int = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """Where a tensor lies in its file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int  # from the beginning of the file
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorFile:
    """A file whose header holds; values are read on demand."""

    path: Path
    metadata: Mapping[str, str]
    tensors: Mapping[str, Tensor]

    def values(self, name: str) -> FloatVector:
        """Read one tensor as float32."""
        tensor = self.tensors[name]
        parts = [_widen(part, tensor.dtype) for part in self._raw(tensor)]
        flat = np.concatenate(parts) if parts else np.empty(0, dtype=np.float32)
        return flat.reshape(tensor.shape)

    def check_finite(self) -> None:
        """Look at every value.

        Raises:
            VerificationError: A value is NaN or infinite.
        """
        for tensor in self.tensors.values():
            for part in self._raw(tensor):
                if not _finite(part, tensor.dtype):
                    raise VerificationError(
                        f"{self.path.name}: {tensor.name} holds NaN or infinity"
                    )

    def is_zero(self, name: str) -> bool:
        """Say whether all values of a tensor are zero."""
        return not any(np.any(part) for part in self._raw(self.tensors[name]))

    def _raw(self, tensor: Tensor) -> Iterator[npt.NDArray[Any]]:
        dtype = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}[tensor.dtype]
        width = _WIDTHS[tensor.dtype]
        with self.path.open("rb") as file:
            file.seek(tensor.start)
            left = tensor.size
            while left:
                data = file.read(min(left, _CHUNK * width))
                if not data or len(data) % width:
                    raise VerificationError(
                        f"{self.path.name} changed while being read"
                    )
                left -= len(data)
                yield np.frombuffer(data, dtype=dtype)


def open_tensors(path: Path, *, limits: TensorLimits | None = None) -> TensorFile:
    """Read and check the header of a safetensors file.

    Raises:
        IncompleteError: No such file.
        VerificationError: Not a plain file, or the header breaks a rule.
    """
    limits = limits or TensorLimits()
    size, header = _read_header(path, limits)
    value = _parse(path.name, header)
    metadata = value.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(
        isinstance(text, str) for text in metadata.values()
    ):
        raise VerificationError(f"{path.name}: metadata is not text")
    if not 0 < len(value) <= limits.tensors:
        raise VerificationError(
            f"{path.name}: {len(value)} tensors, want 1 to {limits.tensors}"
        )
    origin = 8 + len(header)
    tensors = [_tensor(path.name, name, entry) for name, entry in value.items()]
    _check_filled(path.name, tensors, size - origin)
    return TensorFile(
        path=path,
        metadata=metadata,
        tensors={
            t.name: Tensor(
                name=t.name,
                dtype=t.dtype,
                shape=t.shape,
                start=origin + t.start,
                size=t.size,
            )
            for t in sorted(tensors, key=lambda t: t.name)
        },
    )


def _read_header(path: Path, limits: TensorLimits) -> tuple[int, bytes]:
    with os.fdopen(_open_plain(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if not 8 < size <= limits.file_bytes:
            raise VerificationError(
                f"{path.name} has {size} bytes, want 9 to {limits.file_bytes}"
            )
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(limits.header_bytes, size - 8):
            raise VerificationError(
                f"{path.name}: header of {length} bytes, at most"
                f" {min(limits.header_bytes, size - 8)} fit"
            )
        return size, file.read(length)


def _open_plain(path: Path) -> int:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise IncompleteError(f"no file {path}") from None
    except OSError as error:
        raise VerificationError(f"cannot open {path.name}: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise VerificationError(f"{path.name} is no plain file")
    return handle


def _parse(file: str, header: bytes) -> dict[str, Any]:
    if not header.startswith(b"{"):
        raise VerificationError(f"{file} is not safetensors: its header is no JSON")
    try:
        value = json.loads(
            header.decode("utf-8"),  # of bytes, json would guess the encoding
            object_pairs_hook=_no_duplicates,
            parse_int=_no_negative_zero,
        )
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except VerificationError as error:
        raise VerificationError(f"{file}: {error}") from None
    except UnicodeError:
        raise VerificationError(f"{file}: its header is not UTF-8") from None
    except (ValueError, RecursionError):
        raise VerificationError(f"{file} is not safetensors: bad JSON") from None
    if not isinstance(value, dict):
        raise VerificationError(f"{file} is not safetensors: its header is no object")
    return value


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise VerificationError("a name occurs twice in JSON")
    return value


def _no_negative_zero(text: str) -> int:
    """Read an integer; ``-0`` is a second spelling of 0, which others refuse."""
    if text == "-0":
        raise VerificationError("-0 in JSON, want 0")
    return int(text)


def _tensor(file: str, name: str, entry: Any) -> Tensor:
    """Read one entry of the header; ``start`` counts from the data area."""
    where = f"{file}: tensor {name[:100]!r}"
    if not isinstance(entry, dict) or entry.keys() != {
        "dtype",
        "shape",
        "data_offsets",
    }:
        raise VerificationError(f"{where} is not dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _WIDTHS:
        raise VerificationError(f"{where} is {str(dtype)[:20]}, want F32, F16 or BF16")
    if not _counts(shape) or len(shape) > _MAX_DIMENSIONS:
        raise VerificationError(f"{where} has no plain shape")
    if not _counts(offsets) or len(offsets) != 2:
        raise VerificationError(f"{where} has no plain offsets")
    size = math.prod(shape) * _WIDTHS[dtype]
    if offsets[1] - offsets[0] != size:
        raise VerificationError(
            f"{where} of {size} bytes lies at {offsets[0]} to {offsets[1]}"
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
            raise VerificationError(f"{file}: tensors {kind} at {tensor.name[:100]!r}")
        position += tensor.size
    if position != size:
        raise VerificationError(
            f"{file}: {size} bytes of data, {position} are described"
        )


def _widen(part: npt.NDArray[Any], dtype: str) -> FloatVector:
    if dtype == "BF16":
        return (part.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return part.astype(np.float32)


def _finite(part: npt.NDArray[Any], dtype: str) -> bool:
    if dtype == "BF16":
        return not np.any((part & _EXPONENT) == _EXPONENT)
    return bool(np.isfinite(part).all())
