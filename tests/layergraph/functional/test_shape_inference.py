"""Shapes of symbolic calls with unknown lengths: those that stock Keras infers."""

import warnings
from collections.abc import Callable
from typing import Any

import keras
import layergraph
import numpy as np
import pytest
from layergraph import layers
from layergraph.errors import GraphError
from layergraph.functional import shape_inference
from layergraph.ops.table import OPERATIONS

# Both libraries have the same names, so one function builds a case in either.
CASES: dict[str, Callable[[Any, Any], Any]] = {
    "as many rows as the others": lambda api, i: api.layers.Add()([i((4,), 5), i((4,))]),
    "rows that equal a symbolic dimension": lambda api, i: api.layers.Add()([i((4,), 2), i((4,))]),
    "rows that equal the other symbolic dimension": lambda api, i: api.layers.Concatenate()([i((4,), 3), i((4,))]),
    "products of known rows": lambda api, i: api.layers.Dot(1)([i((4,), 3), i((4,))]),
    "attention over known rows": lambda api, i: api.layers.Attention()([i((6, 4), 2), i((3, 4))]),
    "queries of known rows": lambda api, i: api.layers.MultiHeadAttention(2, 2)(i((6, 4), 2), i((3, 4))),
    "states of unknown rows": lambda api, i: api.layers.LSTM(4)(i((6, 4), 3), initial_state=[i((4,)), i((4,))]),
    "an operation on known rows": lambda api, i: i((4,), 3) + i((4,)),
    "an operation on one row": lambda api, i: i((4,), 1) * i((4,)),
    "an operation on known steps": lambda api, i: i((10, 4)) * i((None, 4)),
    "known steps first": lambda api, i: api.layers.Concatenate()([i((10, 4)), i((None, 4))]),
    "unknown steps first": lambda api, i: api.layers.Concatenate()([i((None, 4)), i((10, 4))]),
    "steps joined": lambda api, i: api.layers.Concatenate(1)([i((10, 4)), i((None, 4))]),
    "steps that equal a symbolic dimension": lambda api, i: api.layers.Concatenate()([i((1031, 4)), i((None, 4))]),
    "sides known by turns": lambda api, i: api.layers.Add()([i((None, 9, 4)), i((8, None, 4))]),
    "units that equal a symbolic dimension": lambda api, i: api.layers.Dense(1031)(i((None, 4))),
    "parts of an unknown length": lambda api, i: api.layers.Reshape((-1, 16))(i((None, 8))),
    "an operation on parts": lambda api, i: api.ops.reshape(i((8,)), (-1, 16)),
    "a crop of many steps": lambda api, i: api.layers.Cropping1D(4000)(i((None, 8))),
    "a long crop of volumes": lambda api, i: api.layers.Cropping3D(((600, 600), (0, 1), (1, 0)))(
        i((None, None, None, 8))
    ),
    "a wide window": lambda api, i: api.layers.Conv1D(3, 2000, strides=3)(i((None, 8))),
    "a slice of an unknown length": lambda api, i: i((None, 8))[:, :10],
    "the end of an unknown length": lambda api, i: i((None, 8))[:, -1:],
    "a slice of a known length": lambda api, i: i((None, 8))[:, :, 2:5],
    "a step of an unknown length": lambda api, i: i((None, 8))[:, 5],
    "a stride of many steps": lambda api, i: api.layers.Conv1D(3, 5, strides=4000, padding="same")(i((None, 8))),
    "windows far apart": lambda api, i: api.layers.AveragePooling1D(1000, 2000)(i((None, 8))),
    "images within a sequence": lambda api, i: api.layers.TimeDistributed(api.layers.Conv2D(3, 3))(i((None, 8, 8, 3))),
    "steps against features": lambda api, i: api.layers.Dot((2, 2))([i((None, 8)), i((6, 8))]),
}


class _Ours:
    """This library's names that the cases use."""

    layers = layers

    class ops:  # noqa: N801 - Keras's name
        @staticmethod
        def reshape(x: Any, newshape: tuple[int, ...]) -> Any:
            from layergraph.ops.table import OPERATIONS

            return OPERATIONS["Reshape"](newshape=newshape)(x)


@pytest.mark.parametrize("case", CASES)
def test_shapes_are_those_of_keras(case: str) -> None:
    ours = CASES[case](_Ours, lambda shape, rows=None: layergraph.Input(shape, rows))
    theirs = CASES[case](keras, lambda shape, rows=None: keras.Input(shape, rows))
    assert tuple(ours.shape) == tuple(theirs.shape)


def _inner(*stack: Any) -> Any:
    x = y = layergraph.Input((None, 2))
    for layer in stack:
        y = layer(y)
    return layergraph.Model(x, y)


def _length(x: Any, axis: int = 1) -> Any:
    return OPERATIONS["GetItem"](name="item")(OPERATIONS["tf>Shape"](name="shape")(x), axis)


class _Ends(layergraph.Layer):
    """A custom layer that takes the steps after the first 5,000, and the last one behind them."""

    def call(self, inputs: Any) -> Any:
        return layergraph.ops.concatenate([inputs[:, 5000:], inputs[:, -1:]], axis=1)


def _cropped(rank: int, cropping: Any) -> Any:
    """Releases up to 2.6 allow a crop that leaves nothing."""
    return getattr(layers, f"Cropping{rank}D")(cropping, crop_rule="keras2")


#: Shapes of rows, calls that need long ones, and the shapes that TensorFlow infers.
LONG: dict[str, tuple[tuple[int | None, ...], Callable[[Any], Any], tuple[int | None, ...]]] = {
    "a crop of Keras 2": ((None, 4), _cropped(1, 5000), (None, None, 4)),
    "a crop longer than all lengths tried first": ((None, 4), _cropped(1, 30_000), (None, None, 4)),
    "a crop of images": ((None, 30, 4), _cropped(2, ((1100, 0), (0, 9))), (None, None, 21, 4)),
    "a crop of volumes": (
        (None, None, None, 64),
        _cropped(3, ((600, 600), (0, 1), (1, 0))),
        (None, None, None, None, 64),
    ),
    "a crop that leaves nothing": ((8, 4), _cropped(1, 5), (None, 0, 4)),
    "pools within a sequence": (
        (3, None, 2),
        lambda x: layers.TimeDistributed(_inner(*[layers.MaxPooling1D(64, padding="same") for _ in range(2)]))(x),
        (None, 3, None, 2),
    ),
    "a custom layer": ((None, 2), lambda x: _Ends()(x), (None, None, 2)),
    "volumes within a sequence": (
        (None, None, None, None, 1),
        lambda x: layers.TimeDistributed(layers.Conv3D(8, 3))(x),
        (None, None, None, None, None, 8),
    ),
    "an activation with weights": (
        (None, 2),
        lambda x: layers.Conv1D(4, 3000, activation=layers.PReLU(shared_axes=[1]))(x),
        (None, None, 4),
    ),
    "tf.slice": (
        (None, 2),
        lambda x: OPERATIONS["tf>Slice"](name="slice")(x, [0, 5000, 0], [-1, 10, -1]),
        (None, 10, 2),
    ),
    "tf.slice of a length that a shape gives": (
        (None, 2),
        lambda x: OPERATIONS["tf>Slice"](name="slice")(x, [0, 5000, 0], [-1, _length(x) - 50_000, -1]),
        (None, None, 2),
    ),
    "tf.space_to_depth": (
        (None, None, 1),
        lambda x: OPERATIONS["SpaceToDepth"](block_size=32)(x),
        (None, None, None, 1024),
    ),
    "positions beside a sequence": (
        (None, 4),
        lambda x: x + layers.Embedding(64, 4)(OPERATIONS["Arange"](name="range")(_length(x))),
        (None, None, 4),
    ),
    "a matrix of a side": ((None, 4), lambda x: OPERATIONS["tf>Eye"](name="eye")(_length(x)), (None, None)),
    "a place for each pixel": (
        (None, None, 4),
        lambda x: OPERATIONS["Arange"](name="range")(_length(x) * _length(x, 2)),
        (None,),
    ),
    "a shape of too many elements for int32": (
        (None, None, 64),
        lambda x: OPERATIONS["Reshape"](name="rows")(x, [_length(x, 0), _length(x) * _length(x, 2) * _length(x, 3)]),
        (None, None),
    ),
}


@pytest.mark.parametrize("case", LONG)
def test_lengths_are_long_enough(case: str) -> None:
    shape, call, expected = LONG[case]
    assert tuple(call(layergraph.Input(shape)).shape) == expected


def test_known_rows_run_with_rows_of_that_number_alone() -> None:
    x, y = layergraph.Input((4,), 3, name="x"), layergraph.Input((4,), name="y")
    model = layergraph.Model([x, y], layers.Add()([x, y]))
    rows = np.ones((3, 4), np.float32)
    assert not model.plan().batched
    (got,) = model.plan().run({"x": rows, "y": rows}).values()
    np.testing.assert_array_equal(got, 2 * rows)


def test_lengths_that_can_not_agree_are_refused_by_name() -> None:
    x, y = layergraph.Input((4,)), layergraph.Input((5,))
    with pytest.raises(GraphError, match=r"layer 'sum' \(Add\)"):
        layers.Add(name="sum")([x, y])


def test_calls_that_are_alike_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[str] = []
    run_on_meta = shape_inference._run_on_meta

    def counted(invocation: Any, *args: Any) -> Any:
        runs.append(invocation.layer.name)
        return run_on_meta(invocation, *args)

    monkeypatch.setattr(shape_inference, "_run_on_meta", counted)
    monkeypatch.setattr(shape_inference, "_remembered", shape_inference.CallCache(8))
    x = layergraph.Input((6,))
    for i in range(5):
        x = layers.Dense(6, "relu", name=f"d{i}")(x)
    assert runs == ["d0"]
    layers.Dense(6, "tanh", name="other function")(x)
    layers.Dense(6, "relu", dtype="float16", name="other type")(x)
    layers.Dense(6, "relu", name="other shape")(layergraph.Input((3, 6)))
    layers.Dense(6, "relu", name="other weights")(layergraph.Input((5,)))
    assert runs[1:] == ["other function", "other type", "other shape", "other weights"]


def test_a_nested_model_on_its_own_shapes_needs_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = layergraph.Input((4,))
    inner = layergraph.Model(entry, layers.Dense(3)(entry))
    monkeypatch.setattr(shape_inference, "_run_on_meta", None)
    assert inner(layergraph.Input((4,))).shape == (None, 3)


def test_a_nested_model_on_other_shapes_gives_other_shapes() -> None:
    def model(api: Any) -> Any:
        entry = api.Input((None, 4))
        inner = api.Model(entry, api.layers.Concatenate()([entry, api.layers.LSTM(2, return_sequences=True)(entry)]))
        middle_entry = api.Input((None, 4))
        middle = api.Model(middle_entry, inner(middle_entry))
        return middle(api.Input((7, 4), 5)), middle(api.layers.Masking()(api.Input((None, 4))))

    with warnings.catch_warnings():
        # Keras infers that the mask is lost, but it isn't in execution.
        warnings.filterwarnings("ignore", "Layer 'functional")
        theirs = model(keras)
    assert [tensor.shape for tensor in model(layergraph)] == [(5, 7, 6), (None, None, 6)]
    assert [tuple(tensor.shape) for tensor in theirs] == [(5, 7, 6), (None, None, 6)]
    assert model(layergraph)[1].mask_shape == (None, None)


def test_constants_take_shapes_of_tensors() -> None:
    """The shape is the call's first tensor here, but not its first argument."""
    x = layergraph.Input((None, 4))
    table = np.arange(4, dtype="float32")
    result = OPERATIONS["BroadcastTo"]()(table, shape=OPERATIONS["tf>Shape"]()(x))
    assert result.shape == (None, None, 4)
    (y,) = layergraph.Model(x, result).plan().run({x.name: np.zeros((2, 3, 4), "float32")}).values()
    np.testing.assert_array_equal(y, np.broadcast_to(table, (2, 3, 4)))
