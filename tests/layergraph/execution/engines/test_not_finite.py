"""NaN and infinities at any position, in the operations for which ONNX Runtime is expected to keep them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops
from layergraph import load_model
from layergraph.execution.engines.exported_graph import ExportedGraph
from layergraph.execution.engines.onnx.not_finite import KEEPING
from layergraph.execution.engines.table import ENGINES
from layergraph.execution.tuning.agreement import difference

pytest.importorskip("onnxruntime")

#: More than two vectors of eight numbers, and a remainder.
WIDE = 21
CASES: dict[str, Callable[[Any], Any]] = {
    name: layers.Activation(name)
    for name in ("elu", "leaky_relu", "relu", "selu", "sigmoid", "silu", "softmax", "softplus", "softsign", "tanh")
} | {
    "dense": layers.Dense(WIDE),
    "dense relu": lambda x: layers.Dense(3)(layers.Dense(WIDE, activation="relu")(x)),
    "steps": lambda x: layers.Flatten()(layers.Dense(9, activation="tanh")(layers.Reshape((3, 7))(x))),
    "normalised": lambda x: layers.BatchNormalization()(layers.BatchNormalization()(x)),
    "normalised within": layers.LayerNormalization(),
    "normalised by size": layers.RMSNormalization(),
    "clipped": lambda x: layers.Activation("hard_silu")(ops.clip(x, -1.0, 2.0)),
    "scaled": layers.Rescaling(0.5, offset=3.0),
    "sums": lambda x: layers.Concatenate()([layers.Add()([x, x]), layers.Subtract()([x, 2 * x]), x * x]),
    "averages": lambda x: ops.stack([ops.mean(x, axis=1), ops.sum(x, axis=1)], axis=1),
    "quotient": lambda x: x / (ops.square(x) + 1.0),
    "pieces": lambda x: layers.Concatenate()([x[:, 3:], x[:, :3]]),
    "image": lambda x: layers.Conv2D(WIDE, 3, padding="same", activation="relu")(image(x)),
    "strides": lambda x: layers.Conv2D(8, 3, strides=2, padding="same", activation="silu")(image(x)),
    "image, wide": lambda x: layers.Conv2D(16, 1, activation="relu6")(layers.Conv2D(16, 1)(image(x))),
    "transposed": lambda x: layers.Conv2DTranspose(9, 2, strides=2)(image(x)),
    "dilated": lambda x: layers.Conv1D(9, 2, dilation_rate=2, activation="tanh")(layers.Reshape((7, 3))(x)),
    "residual": lambda x: layers.ReLU()(layers.Add()([image(x), layers.Conv2D(1, 3, padding="same")(image(x))])),
    "depthwise": lambda x: layers.ReLU(6.0)(layers.BatchNormalization()(layers.DepthwiseConv2D(2)(image(x)))),
    "averages of an image": lambda x: layers.AveragePooling2D(2)(layers.ZeroPadding2D(1)(image(x))),
    "average of an image": lambda x: layers.GlobalAveragePooling2D()(layers.Conv2D(9, 2)(image(x))),
}


def image(x: Any) -> Any:
    return layers.Reshape((7, 3, 1))(x)


def plan_of(name: str, tmp_path: Any) -> Any:
    keras.utils.set_random_seed(1)
    entry = keras.Input((WIDE,))
    keras.Model(entry, CASES[name](entry)).save(tmp_path / "model.keras")
    return load_model(tmp_path / "model.keras").plan()


#: Case -> the kinds of operations in its graph, noted by the test of it.
SEEN: dict[str, set[str]] = {}


@pytest.mark.parametrize("name", CASES)
def test_it_is_kept_wherever_it_is(name: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def noting(source: ExportedGraph) -> Any:
        SEEN[name] = source.kinds
        return ENGINES["onnxruntime"](source)

    monkeypatch.setattr("layergraph.execution.tuning.tuner.ENGINES", {"onnxruntime": noting})
    plan = plan_of(name, tmp_path)
    (choice,) = plan.tune(engines=("onnxruntime",), pin=True).choices
    assert choice.tuned is not None
    assert not choice.tuned.finite
    for value, place in itertools.product((np.nan, np.inf, -np.inf), range(WIDE)):
        rows = np.random.default_rng(place).standard_normal((3, WIDE)).astype("float32")
        rows[place % 3, place] = value
        assert difference(list(choice.tuned.run([rows])), plan.run_eagerly([rows])) < 1e-4


def test_every_operation_has_a_case() -> None:
    if SEEN.keys() != CASES.keys():
        pytest.skip("some cases weren't run before it")
    assert set().union(*SEEN.values()) >= KEEPING


@pytest.mark.parametrize("layer", [layers.LSTM(3), layers.GRU(3), layers.GlobalMaxPooling1D()])
def test_layers_that_lose_it_get_none(layer: Any, tmp_path: Any) -> None:
    entry = keras.Input((4, 2))
    keras.Model(entry, layer(entry)).save(tmp_path / "model.keras")
    plan = load_model(tmp_path / "model.keras").plan()
    (choice,) = plan.tune(engines=("onnxruntime",), pin=True).choices
    assert choice.tuned is not None
    assert choice.tuned.finite
    (got,) = plan.run({plan.input_specs[0].name: np.full((1, 4, 2), np.nan, "float32")}).values()
    assert np.isnan(got).all()
