"""Types in which tensors are stored: float32, float16 and bfloat16.

NumPy has no bfloat16. A stored tensor of that type is an array of uint16 that holds the
bits; ``widen`` gives the float32 values of any of the three, exactly.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Stored = npt.NDArray[Any]
ARRAY_TYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}
_NAMES = {kind: name for name, kind in ARRAY_TYPES.items()}
_EXPONENT = np.uint16(0x7F80)  # of a bfloat16: all ones in NaN and infinity
_QUIET = np.uint16(0x7FC0)  # one NaN


def type_name(tensor: Stored) -> str:
    """Return the name that safetensors gives the type of a stored tensor.

    Raises:
        TypeError: The array has another type.
    """
    try:
        return _NAMES[tensor.dtype]
    except KeyError:
        raise TypeError(f"no tensor is stored as {tensor.dtype}") from None


def widen(tensor: Stored) -> npt.NDArray[np.float32]:
    """Return the values as float32; of a float32 tensor the array itself."""
    if type_name(tensor) == "BF16":
        return (tensor.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return tensor.astype(np.float32, copy=False)


def narrow(values: npt.NDArray[np.float32], name: str) -> Stored:
    """Round float32 values to a type, to the nearest and ties to even.

    Edge cases:
        A value beyond the type's range becomes infinite.
    """
    if name != "BF16":
        with np.errstate(over="ignore"):
            return values.astype(ARRAY_TYPES[name], copy=False)
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    rounded = ((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)).astype(np.uint16)
    rounded[np.isnan(values)] = _QUIET
    return rounded.reshape(values.shape)


def is_finite(tensor: Stored) -> bool:
    """Return True if no value is NaN or infinite."""
    if type_name(tensor) == "BF16":
        return not np.any((tensor & _EXPONENT) == _EXPONENT)
    return bool(np.isfinite(tensor).all())


def to_bytes(tensor: Stored) -> memoryview:
    """Return the tensor's little-endian bytes, without a copy where it lies so."""
    array = np.ascontiguousarray(tensor, dtype=ARRAY_TYPES[type_name(tensor)])
    return array.reshape(-1).view(np.uint8).data
