"""Writer of safetensors files in one spelling, whoever writes them.

Tensors stand without a gap, the wider types first and then in order of name, so that
each lies where its type can be read; the header is JSON without spaces and is padded
with spaces to a multiple of eight bytes. Equal tensors give equal bytes on every
machine and under every version of every library, so that each member of a federation
can tell the digest of a file that it never wrote.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from tapestry.storage import durable_files
from tapestry.tensor_types import to_bytes, type_name
from tapestry.vectors import Parameters

PLAIN = {"format": "pt"}  # the metadata that transformers asks for


def encode_tensors(
    tensors: Parameters, metadata: Mapping[str, str] | None = None
) -> Iterator[bytes | memoryview]:
    """Yield a file piece by piece: its header, then each tensor."""
    header: dict[str, object] = {"__metadata__": dict(metadata or PLAIN)}
    start = 0
    names = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    for name in names:
        tensor = tensors[name]
        header[name] = {
            "dtype": type_name(tensor),
            "shape": list(tensor.shape),
            "data_offsets": [start, start + tensor.nbytes],
        }
        start += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in names:
        yield to_bytes(tensors[name])


def write_tensors(
    path: Path, tensors: Parameters, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a file, durably and in one step.

    Raises:
        ResourceError: The disk is full, or the folder cannot be written.
    """
    durable_files.replace_file(path, *encode_tensors(tensors, metadata))
