"""The safetensors parser accepts what is written and nothing that has two readings."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import save

from tapestry.artifacts.safetensors_reader import TensorLimits, read_tensors
from tapestry.errors import IncompleteError, TapestryError, VerificationError
from tests.support.refusals import refused

FLOATS = hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=5))


def _raw(header: object, data: bytes, *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(text) if length is None else length
    return size.to_bytes(8, "little") + text + data


def _entry(start: int, stop: int, **changes: object) -> dict[str, object]:
    entry: dict[str, object] = {"dtype": "F32", "shape": [(stop - start) // 4]}
    return {**entry, "data_offsets": [start, stop], **changes}


GOOD: Mapping[str, Any] = {"a": _entry(0, 8), "b": _entry(8, 12)}


@given(tensors=st.dictionaries(st.text(max_size=8), FLOATS, min_size=1, max_size=4))
def test_what_the_library_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, Any]
) -> None:
    tensors.pop("__metadata__", None)
    if not tensors:
        return
    path = tmp_path_factory.mktemp("t") / "x.safetensors"
    path.write_bytes(save(tensors, {"format": "pt"}))
    found = read_tensors(path)
    assert found.metadata == {"format": "pt"}
    assert set(found.tensors) == set(tensors)
    for name, value in tensors.items():
        np.testing.assert_array_equal(found.values(name), value)


def test_half_precision_is_widened_exactly(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    half = np.array([1.5, -0.25], dtype=np.float16)
    brain = np.array([1.5, -0.25], dtype=np.float32).view(np.uint32) >> 16
    header = {
        "h": _entry(0, 4, dtype="F16", shape=[2]),
        "b": _entry(4, 8, dtype="BF16", shape=[2]),
    }
    path.write_bytes(_raw(header, half.tobytes() + brain.astype("<u2").tobytes()))
    found = read_tensors(path)
    assert found.values("h").tolist() == found.values("b").tolist() == [1.5, -0.25]
    found.check_finite()


BAD: dict[str, tuple[bytes, str, str]] = {
    "pickle": (b"\x80\x04\x95" + b"\0" * 60, "tensor-header-invalid", "header of"),
    "zip": (
        b"PK\x03\x04" + b"\0" * 60,
        "tensor-header-invalid",
        "header of",
    ),
    "header bomb": (
        _raw(b"{}", b"", length=2**62),
        "tensor-header-invalid",
        "header of",
    ),
    "header over the cap": (
        _raw(b"{" + b" " * 4096 + b"}", b""),
        "tensor-header-invalid",
        "header of 4098",
    ),
    "nested bomb": (_raw(b'{"a":' + b"[" * 3000, b""), "json-invalid", ""),
    "no object": (_raw(b"[1]     ", b""), "json-invalid", ""),
    "leading space": (_raw(b" {}", b""), "json-invalid", ""),
    "no tensors": (_raw({}, b""), "tensor-count-invalid", "0 tensors"),
    "only metadata": (
        _raw({"__metadata__": {"a": "b"}}, b""),
        "tensor-count-invalid",
        "0 tensors",
    ),
    "odd metadata": (
        _raw({**GOOD, "__metadata__": {"a": 1}}, b"\0" * 12),
        "tensor-header-invalid",
        "metadata",
    ),
    "too many": (
        _raw({f"t{i}": _entry(4 * i, 4 * i + 4) for i in range(9)}, b"\0" * 36),
        "tensor-count-invalid",
        "9 tensors",
    ),
    "same name twice": (
        _raw(b'{"a":' + json.dumps(_entry(0, 4)).encode() * 1 + b',"a":1}', b"\0" * 4),
        "json-key-duplicated",
        "",
    ),
    "UTF-16": (
        _raw(b"{" + json.dumps(GOOD)[1:].encode("utf-16-le"), b""),
        "json-invalid",
        "",
    ),
    "UTF-16 from the start": (
        _raw(json.dumps(GOOD).encode("utf-16-le"), b"\0" * 12),
        "json-invalid",
        "",
    ),
    "UTF-32": (
        _raw(json.dumps(GOOD).encode("utf-32-le"), b"\0" * 12),
        "json-invalid",
        "",
    ),
    "Latin-1": (
        _raw(
            json.dumps({"\xe9": _entry(0, 4)}, ensure_ascii=False).encode("latin-1"),
            b"",
        ),
        "text-not-utf8",
        "",
    ),
    "half a surrogate": (
        _raw(json.dumps({"\ud800": _entry(0, 4)}).encode(), b"\0" * 4),
        "text-not-utf8",
        "",
    ),
    "half a surrogate in metadata": (
        _raw({**GOOD, "__metadata__": {"a": "\udfff"}}, b"\0" * 12),
        "text-not-utf8",
        "",
    ),
    "minus zero": (
        _raw(json.dumps(GOOD).replace("[0,", "[-0,").encode(), b"\0" * 12),
        "json-number-invalid",
        "-0",
    ),
    "overlap": (
        _raw({**GOOD, "b": _entry(4, 8)}, b"\0" * 8),
        "tensor-layout-invalid",
        "overlap at 'b'",
    ),
    "the same bytes twice": (
        _raw({**GOOD, "b": _entry(0, 8)}, b"\0" * 8),
        "tensor-layout-invalid",
        "overlap at 'b'",
    ),
    "hole": (
        _raw({**GOOD, "b": _entry(12, 16)}, b"\0" * 16),
        "tensor-layout-invalid",
        "hole at 'b'",
    ),
    "bytes left over": (
        _raw(GOOD, b"\0" * 16),
        "tensor-layout-invalid",
        "16 bytes of data, 12",
    ),
    "bytes missing": (
        _raw(GOOD, b"\0" * 8),
        "tensor-layout-invalid",
        "8 bytes of data, 12",
    ),
    "size and shape": (
        _raw({"a": _entry(0, 8, shape=[3])}, b"\0" * 8),
        "tensor-size-differs",
        "of 12 bytes",
    ),
    "overflow": (
        _raw({"a": _entry(0, 8, shape=[2**33, 2**31])}, b"\0" * 8),
        "tensor-size-differs",
        "tensor 'a'",
    ),
    "negative": (
        _raw({"a": _entry(0, 8, shape=[-2])}, b"\0" * 8),
        "tensor-entry-invalid",
        "'a' .* shape",
    ),
    "true as a size": (
        _raw({"a": _entry(0, 4, shape=[True])}, b"\0" * 4),
        "tensor-entry-invalid",
        "'a' .* shape",
    ),
    "fraction": (
        _raw({"a": _entry(0, 8, shape=[2.0])}, b"\0" * 8),
        "tensor-entry-invalid",
        "'a' .* shape",
    ),
    "deep shape": (
        _raw({"a": _entry(0, 4, shape=[1] * 9)}, b"\0" * 4),
        "tensor-entry-invalid",
        "'a' .* shape",
    ),
    "three offsets": (
        _raw({"a": _entry(0, 8, data_offsets=[0, 8, 9])}, b"\0" * 8),
        "tensor-entry-invalid",
        "'a' .* offsets",
    ),
    "offsets reversed": (
        _raw({"a": _entry(0, 8, data_offsets=[8, 0])}, b"\0" * 8),
        "tensor-size-differs",
        "8 to 0",
    ),
    "wide type": (
        _raw({"a": _entry(0, 8, dtype="F64")}, b"\0" * 8),
        "tensor-type-unsupported",
        "F64",
    ),
    "listed type": (
        _raw({"a": _entry(0, 8, dtype=["F32"])}, b"\0" * 8),
        "tensor-type-unsupported",
        "F32",
    ),
    "extra key": (
        _raw({"a": _entry(0, 8, code="x")}, b"\0" * 8),
        "tensor-entry-invalid",
        "'a' .* dtype",
    ),
    "empty": (b"", "file-size-invalid", "0 bytes"),
    "too large": (_raw(GOOD, b"\0" * 9000), "file-size-invalid", "9 to 8192"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_file_with_a_second_reading_is_refused(tmp_path: Path, case: str) -> None:
    content, code, value = BAD[case]
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    limits = TensorLimits(header_bytes=4097, file_bytes=8192, tensors=8)
    with refused(VerificationError, code, match=value or None) as caught:
        read_tensors(path, limits=limits)
    assert len(str(caught.value)) < 300


def test_the_control_for_the_bad_ones_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(_raw(GOOD, b"\0" * 12))
    assert read_tensors(path, limits=TensorLimits(tensors=8)).is_zero("a")


def _link(path: Path) -> None:
    path.symlink_to("/etc/hostname")


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (_link, "link-not-allowed"),
        (os.mkfifo, "file-not-plain"),
        (os.mkdir, "file-not-plain"),
    ],
)
def test_what_is_no_plain_file_is_refused(
    tmp_path: Path, make: Callable[[Path], None], code: str
) -> None:
    make(tmp_path / "x.safetensors")
    with refused(VerificationError, code, match=r"x\.safetensors"):
        read_tensors(tmp_path / "x.safetensors")


def test_a_missing_file_is_incomplete(tmp_path: Path) -> None:
    with refused(IncompleteError, "file-missing"):
        read_tensors(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("dtype", "bits"),
    [
        ("F32", 0x7FC00000),
        ("F32", 0xFF800000),
        ("F16", 0x7C00),
        ("F16", 0xFE00),
        ("BF16", 0x7F80),
        ("BF16", 0xFFC0),
    ],
)
def test_nan_and_infinity_are_found_in_every_type(
    tmp_path: Path, dtype: str, bits: int
) -> None:
    path = tmp_path / "x.safetensors"
    width = 4 if dtype == "F32" else 2
    data = b"\0" * width + bits.to_bytes(width, "little")
    header = {"a": {"dtype": dtype, "shape": [2], "data_offsets": [0, 2 * width]}}
    path.write_bytes(_raw(header, data))
    with refused(VerificationError, "tensor-not-finite"):
        read_tensors(path).check_finite()


@given(data=st.data())
def test_random_damage_raises_only_tapestry_errors(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(_raw(GOOD, b"\0" * 12))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("t") / "x.safetensors"
    path.write_bytes(bytes(content))
    try:
        found = read_tensors(path)
        for name in found.tensors:
            found.values(name)
    except TapestryError:
        pass
