"""Parameters, the flat vector in which they travel, and the stages of an update.

``Parameters`` maps a name to an array in the type in which it is stored
(``tensor_types``). A ``Layout`` fixes the order in which the trainable ones are laid
end to end in a float32 vector of length d. Everything here is NumPy, so that a
coordinator and an auditor need no machine-learning stack.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tapestry.encoding import canonical_json, digest
from tapestry.errors import ProtocolError
from tapestry.tensor_types import Stored, to_bytes, type_name

FloatVector = npt.NDArray[np.float32]
IntegerVector = npt.NDArray[np.int64]
RingVector = npt.NDArray[np.uint32]
Parameters = Mapping[str, Stored]
TensorRow = tuple[str, str, tuple[int, ...], str]  # name, type, shape, SHA-256 in hex


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Names and shapes of what is trained, in the order of the vector."""

    tensors: tuple[tuple[str, tuple[int, ...]], ...]

    @property
    def length(self) -> int:
        """The number of coordinates d."""
        return sum(math.prod(shape) for _, shape in self.tensors)

    @property
    def digest(self) -> str:
        """The digest of the layout that a manifest names."""
        return digest(canonical_json([[n, list(s)] for n, s in self.tensors]))

    def flatten(self, parameters: Parameters) -> FloatVector:
        """Lay arrays end to end; float32 of shape (d,).

        Raises:
            ProtocolError: A tensor is missing or has another shape.
        """
        vector = np.empty(self.length, dtype=np.float32)
        start = 0
        for name, shape in self.tensors:
            if name not in parameters or parameters[name].shape != shape:
                raise ProtocolError(
                    f"no tensor {name!r} of shape {shape}", code="tensor-shape-differs"
                )
            stop = start + math.prod(shape)
            vector[start:stop] = parameters[name].reshape(-1)
            start = stop
        return vector

    def split(self, vector: FloatVector) -> dict[str, FloatVector]:
        """Cut a vector of shape (d,) into named views; the inverse of flatten.

        Raises:
            ProtocolError: The vector has another length.
        """
        if vector.shape != (self.length,):
            raise ProtocolError(
                f"vector of shape {vector.shape}, want ({self.length},)",
                code="vector-length-differs",
            )
        views = {}
        start = 0
        for name, shape in self.tensors:
            stop = start + math.prod(shape)
            views[name] = vector[start:stop].reshape(shape)
            start = stop
        return views


@dataclass(frozen=True, slots=True, kw_only=True)
class Clipped:
    """An update of shape (d,) whose L2 norm is at most ``clip_norm``; private."""

    values: FloatVector
    clip_norm: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantized:
    """An update in Z_2^32, shape (d,); still private."""

    values: RingVector


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedVector:
    """A quantized update under its masks, shape (d,); uniform without them."""

    values: RingVector


def tensor_digests(
    parameters: Parameters, known: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Hash each tensor: SHA-256 (hex) of its little-endian bytes.

    Hashes that are ``known``, by name, are taken as they are.
    """
    known = known or {}
    return {
        name: known.get(name) or _tensor_digest(parameters[name])
        for name in sorted(parameters)
    }


def parameters_digest(
    parameters: Parameters, known: Mapping[str, str] | None = None
) -> str:
    """Name a set of parameters by type and value, whatever files hold them."""
    hashes = tensor_digests(parameters, known)
    return rows_digest(
        (name, type_name(parameters[name]), parameters[name].shape, inner)
        for name, inner in hashes.items()
    )


def rows_digest(rows: Iterable[TensorRow]) -> str:
    """Name parameters by ``[name, type, shape, SHA-256 of the bytes]`` of each tensor.

    The digest is that of the canonical JSON of these rows in order of name; the type is
    the one that safetensors names, F32, F16 or BF16.
    """
    return digest(
        canonical_json(
            [[n, kind, list(shape), h] for n, kind, shape, h in sorted(rows)]
        )
    )


def _tensor_digest(tensor: Stored) -> str:
    return hashlib.sha256(to_bytes(tensor)).hexdigest()
