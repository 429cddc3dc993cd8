"""Layouts, flat vectors and the digests that name parameters."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.errors import ProtocolError
from tapestry.vectors import Layout, parameters_digest, tensor_digests
from tests.support.refusals import refused

SHAPES = st.lists(
    st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple),
    min_size=1,
    max_size=5,
)


def _layout(shapes: list[tuple[int, ...]]) -> Layout:
    return Layout(tensors=tuple((f"t{i}", shape) for i, shape in enumerate(shapes)))


def _values(layout: Layout) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(1)
    return {
        name: generator.standard_normal(shape).astype(np.float32)
        for name, shape in layout.tensors
    }


@given(SHAPES)
def test_split_is_the_inverse_of_flatten(shapes: list[tuple[int, ...]]) -> None:
    layout = _layout(shapes)
    values = _values(layout)
    flat = layout.flatten(values)
    assert flat.shape == (layout.length,)
    pieces = layout.split(flat)
    assert list(pieces) == [name for name, _ in layout.tensors]
    assert all(np.array_equal(pieces[name], values[name]) for name in values)
    assert np.array_equal(layout.flatten(pieces), flat)


def test_a_split_copies_nothing() -> None:
    layout = _layout([(2, 3), (4,)])
    flat = np.zeros(10, dtype=np.float32)
    layout.split(flat)["t1"][0] = 5
    assert flat[6] == 5


def test_the_order_of_tensors_is_part_of_the_layout() -> None:
    one = Layout(tensors=(("a", (2,)), ("b", (2,))))
    other = Layout(tensors=(("b", (2,)), ("a", (2,))))
    assert one.length == other.length
    assert one.digest != other.digest


@pytest.mark.parametrize(
    "values",
    [
        {"t0": np.zeros((2, 2), dtype=np.float32)},
        {
            "t0": np.zeros((2, 2), dtype=np.float32),
            "t1": np.zeros((4,), dtype=np.float32),
        },
    ],
    ids=["missing", "shape"],
)
def test_other_tensors_than_the_layouts_are_refused(
    values: dict[str, np.ndarray],
) -> None:
    with refused(ProtocolError, "tensor-shape-differs"):
        _layout([(2, 2), (3,)]).flatten(values)


def test_a_vector_of_another_length_is_refused() -> None:
    with refused(ProtocolError, "vector-length-differs"):
        _layout([(2, 2)]).split(np.zeros(5, dtype=np.float32))


def test_parameters_are_named_by_name_shape_and_value() -> None:
    values = {
        "b": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a": np.zeros(1, dtype=np.float32),
    }
    name = parameters_digest(values)
    assert parameters_digest(dict(reversed(values.items()))) == name
    turned = {**values, "b": values["b"].reshape(3, 2)}
    moved = {**values, "b": values["b"] + np.float32(1e-6)}
    renamed = {"c": values["b"], "a": values["a"]}
    negative = {**values, "a": -values["a"]}
    for other in (turned, moved, renamed, negative):
        assert parameters_digest(other) != name


def test_a_view_has_the_digest_of_its_copy() -> None:
    wide = np.arange(12, dtype=np.float32).reshape(3, 4)
    view = wide[:, ::2]
    assert tensor_digests({"x": view}) == tensor_digests({"x": view.copy()})


def test_a_known_hash_is_taken_without_computing_it() -> None:
    values = {"x": np.zeros(3, dtype=np.float32), "y": np.ones(3, dtype=np.float32)}
    true = tensor_digests(values)
    assert parameters_digest(values, true) == parameters_digest(values)
    assert tensor_digests(values, {"x": "taken"}) == {"x": "taken", "y": true["y"]}
