"""Which models have independent rows, so that a server may join the rows of several requests."""

import numpy as np
import pytest
from keras import Input, Model, layers, ops
from layergraph import load_model
from layergraph.errors import DataError


def _model(function, shape):
    entry = Input(shape)
    return Model(entry, function(entry))


MIXING = {
    "mean over rows": (lambda x: x - ops.mean(x, axis=0, keepdims=True), [(4,)]),
    "rows turned round": (lambda x: ops.flip(x, 0), [(4,)]),
    "softmax over rows": (lambda x: ops.softmax(x, 0), [(4,)]),
    "rows after rows": (lambda x, y: layers.Concatenate(axis=0)([x, y]), [(4,), (4,)]),
    "softmax over the axis before the last of two": (lambda x: layers.Softmax(axis=-2)(x), [(4,)]),
    "rows made of rows": (lambda x: ops.reshape(x, (-1, 2)), [(4,)]),
    "norm of single numbers": (lambda x: layers.UnitNormalization()(x), [()]),
    "softmax of single numbers": (lambda x: layers.Softmax()(x), [()]),
    "softmax of single numbers as an activation": (lambda x: layers.Activation("softmax")(x), [()]),
    "a model that takes inputs without their last axis": (
        lambda x: _model(lambda y: y - ops.max(y), (4,))(x),
        [(4, 1)],
    ),
    "single numbers after others": (lambda x, y: layers.Concatenate()([x, y]), [(), ()]),
}
UNMERGED = {
    "plain arithmetic": (lambda x: x * 2 + 1, [(4,)]),
    "mean within a row": (lambda x: ops.mean(x, axis=1), [(4,)]),
    "einsum": (lambda x, y: ops.einsum("bij,bjk->bik", x, y), [(4, 5), (5, None)]),
    "dot along the steps": (lambda x, y: layers.Dot(axes=1)([x, y]), [(4, 5), (4, 6)]),
    "side by side": (lambda x, y: layers.Concatenate(axis=1)([x, y]), [(4, 3), (2, 3)]),
    "reshape": (lambda x: ops.reshape(x, (ops.shape(x)[0], 2, 2)), [(4,)]),
    "softmax over two axes": (lambda x: layers.Softmax(axis=[1, 2])(x), [(4, 3)]),
    "sums of single numbers": (lambda x, y: layers.Activation("relu")(layers.Add()([x, y])), [(), ()]),
    "a model that takes rows without their last axis": (lambda x: _model(layers.Dense(2), (4,))(x), [(4, 1)]),
    "scaled single numbers": (lambda x: layers.Rescaling(2.0)(x), [()]),
    "training overruled by predict": (lambda x: layers.BatchNormalization()(x, training=True), [(4,)]),
}


def _batched(case, tmp_path):
    function, shapes = case
    inputs = [Input(shape) for shape in shapes]
    Model(inputs, function(*inputs)).save(tmp_path / "model.keras")
    return load_model(tmp_path / "model.keras").plan().batched


@pytest.mark.parametrize("name", MIXING)
def test_rows_that_mix_are_not_joined(name, tmp_path):
    assert not _batched(MIXING[name], tmp_path)


@pytest.mark.parametrize("name", UNMERGED)
def test_rows_that_stay_apart_are_joined(name, tmp_path):
    assert _batched(UNMERGED[name], tmp_path)


def test_open_lengths_that_dont_fit_one_another_are_refused(tmp_path):
    one, two = Input((None, 3), name="one"), Input((None, 3), name="two")
    Model([one, two], layers.Add()([one, two])).save(tmp_path / "model.keras")
    arrays = {"one": np.zeros((2, 4, 3), "float32"), "two": np.zeros((2, 5, 3), "float32")}
    with pytest.raises(DataError, match=r"'one': \(2, 4, 3\), 'two': \(2, 5, 3\)"):
        load_model(tmp_path / "model.keras").plan().run(arrays)


def test_inputs_of_different_rows_are_refused(tmp_path):
    one, two = Input((3,), name="one"), Input((3,), name="two")
    Model([one, two], layers.Add()([one, two])).save(tmp_path / "model.keras")
    arrays = {"one": np.zeros((2, 3), "float32"), "two": np.zeros((5, 3), "float32")}
    with pytest.raises(DataError, match=r"'one': \(2, 3\), 'two': \(5, 3\)"):
        load_model(tmp_path / "model.keras").plan().run(arrays)


@pytest.mark.parametrize(("entry", "axis", "shape"), [((None, 3), 1, (2, 0, 3)), ((4, 3), None, (0, 4, 3))])
def test_nothing_to_take_the_largest_of_is_refused(tmp_path, entry, axis, shape):
    """torch raises IndexError for an empty maximum."""
    x = Input(entry)
    Model(x, ops.max(x, axis=axis)).save(tmp_path / "model.keras")
    plan = load_model(tmp_path / "model.keras").plan()
    with pytest.raises(DataError, match="don't fit the model"):
        plan.run({plan.input_specs[0].name: np.zeros(shape, "float32")})
