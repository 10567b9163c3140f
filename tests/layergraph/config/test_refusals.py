"""Rejected input and its error texts: which thing, what was received, what was expected."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from layergraph import Input, Model, Sequential, layers
from layergraph.errors import ConfigError, DataError, GraphError, UnknownTensorError
from layergraph.layers import table
from layergraph.ops.table import OPERATIONS
from layergraph.regularizers import REGULARIZERS
from layergraph.training.losses import LOSSES
from layergraph.training.metrics.table import METRICS
from layergraph.training.optimizers.schedules import SCHEDULES
from layergraph.training.optimizers.table import OPTIMIZERS

#: The action, the type of its error, and a part of the text.
Case = tuple[Callable[[], Any], type[Exception], str]

ONES = np.ones((4, 3), "float32")


def dense() -> Model:
    x = Input((3,), name="x")
    return Model(x, layers.Dense(2, name="dense")(x), name="model")


def called_twice(first: tuple[int, ...] = (3,), second: tuple[int, ...] = (3,)) -> Any:
    layer = layers.ReLU(name="relu")
    layer(Input(first))
    layer(Input(second))
    return layer


def operation(kind: str, *args: Any, **options: Any) -> Any:
    """Applies an operation to arrays."""
    return OPERATIONS[kind](name="it", **options)(*args)


def compiled(**settings: Any) -> Model:
    model = dense()
    model.compile(**{"optimizer": "sgd", "loss": "mse", **settings})
    return model


def two_inputs() -> Model:
    x, y = Input((3,), name="x"), Input((3,), name="y")
    model = Model([x, y], layers.Dense(3)(layers.add([x, y])))
    model.compile("sgd", "mse")
    return model


FUNCTIONAL: dict[str, Case] = {
    "shape and batch_shape": (lambda: Input((3,), batch_shape=(None, 3)), ConfigError, "expected one of them"),
    "no shape": (lambda: Input(), ConfigError, "expected one of them"),
    "sparse": (
        lambda: table.LAYERS["InputLayer"](batch_shape=(None, 3), sparse=True),
        ConfigError,
        "sparse and ragged inputs are not supported",
    ),
    "iterated over": (lambda: list(Input((3,))), TypeError, "can't be iterated over"),
    "a truth value": (lambda: bool(Input((3,))), TypeError, "can't be used as a truth value"),
    "outputs that are none": (
        lambda: Model(Input((3,)), "y"),
        GraphError,
        "outputs hold ['y'], expected symbolic tensors",
    ),
    "no outputs": (lambda: Model(Input((3,)), []), GraphError, "outputs hold nothing"),
    "too many inputs": (lambda: dense()([Input((3,)), Input((3,))]), GraphError, "got 2 inputs, expected 1: ['x']"),
    "an input that is missing": (
        lambda: dense()({"y": Input((3,))}),
        GraphError,
        "inputs ['x'] are missing; got ['y']",
    ),
    "too few weights": (
        lambda: dense().layers[1].set_weights([]),
        GraphError,
        "layer 'dense': got 0 weights, expected 2",
    ),
    "an unknown last axis": (
        lambda: layers.Dense(2)(Input((None,))),
        GraphError,
        "every axis that its shape depends on must have a known length",
    ),
    "no features": (lambda: layers.Dense(2)(Input(())), GraphError, "expected (rows, ..., features)"),
    "a node from the end": (lambda: called_twice().get_output_at(-3), ValueError, "has only 2 inbound nodes"),
    "one of several tensors": (
        lambda: (lambda x: Model(x, layers.LSTM(2, return_state=True, name="r")(x)).plan(["r"]))(Input((3, 2))),
        UnknownTensorError,
        "the node has 3 outputs",
    ),
    "no layer in a stack": (lambda: Sequential([3]), GraphError, "got 3, expected a layer"),
    "an input in a stack": (
        lambda: Sequential([layers.ReLU(), Input((3,))]),
        GraphError,
        "an Input can only come first",
    ),
    "a name twice in a stack": (
        lambda: Sequential([layers.ReLU(name="a"), layers.ReLU(name="a")]),
        GraphError,
        "it has a layer named 'a' already",
    ),
    "an empty stack": (lambda: Sequential().pop(), GraphError, "has no layers"),
    "a stack without a graph": (lambda: Sequential([layers.ReLU()]).plan(), GraphError, "has no graph yet"),
    "a stack of several inputs": (
        lambda: Sequential([layers.ReLU()])([Input((3,)), Input((3,))]),
        GraphError,
        "got 2 inputs, expected 1",
    ),
    "an input of another shape": (
        lambda: dense().plan().run({"x": np.ones((2, 4), "float32")}),
        DataError,
        "input 'x': got shape (2, 4), expected (None, 3)",
    ),
    "an input of another rank": (
        lambda: dense().plan().run({"x": np.ones(3, "float32")}),
        DataError,
        "input 'x': got shape (3,)",
    ),
    "text for numbers": (
        lambda: dense().plan().run({"x": np.full((2, 3), "a")}),
        DataError,
        "input 'x': got <U1, expected",
    ),
    "fractions for integers": (
        lambda: (lambda x: Model(x, layers.Embedding(3, 2)(x)).plan().run({"ids": ONES}))(
            Input((3,), dtype="int32", name="ids")
        ),
        DataError,
        "input 'ids': got float32, expected int32",
    ),
    "an input that isn't there": (
        lambda: dense().plan().run({"y": ONES}),
        DataError,
        "input 'x' is missing; got ['y']",
    ),
}
LAYERS: dict[str, Case] = {
    "another implementation": (
        lambda: layers.LocallyConnected1D(2, 3, implementation=4),
        ConfigError,
        "option 'implementation' is 4, expected 1, 2 or 3",
    ),
    "padding": (
        lambda: layers.LocallyConnected1D(2, 3, padding="same"),
        ConfigError,
        "expected 'valid' with implementation 1",
    ),
    "unknown lengths": (
        lambda: layers.LocallyConnected1D(2, 3)(Input((None, 2))),
        GraphError,
        "expected known lengths of all axes but the batch axis",
    ),
    "no window": (
        lambda: layers.LocallyConnected1D(2, 5)(Input((4, 2))),
        GraphError,
        "expected at least the kernel size (5,)",
    ),
    "stacks in a list": (
        lambda: layers.StackedRNNCells([layers.StackedRNNCells([layers.GRUCell(2)])]),
        ConfigError,
        "a list of cells without stacks",
    ),
    "a cell without states": (lambda: layers.GRUCell(2)(Input((3,))), GraphError, "got no states"),
    "a mask of another shape": (
        lambda: layers.LSTM(2)(np.ones((2, 3, 4), "float32"), mask=np.ones((2, 4), bool)),
        GraphError,
        "got a mask of shape (2, 4), expected (rows, timesteps) = (2, 3)",
    ),
    "steps of no image": (
        lambda: layers.ConvLSTM2D(2, 2)(Input((3, 4, 2))),
        GraphError,
        "got an input of rank 3, expected 4",
    ),
    "weights of no count": (
        lambda: layers.CategoryEncoding(4, output_mode="one_hot")(Input((1,)), count_weights=Input((1,))),
        GraphError,
        "count_weights requires output_mode 'count', got 'one_hot'",
    ),
    "bins that nobody learnt": (
        lambda: layers.Discretization(num_bins=3)(ONES),
        DataError,
        "expected a layer adapted to data",
    ),
    "a sound of no channels": (
        lambda: layers.STFTSpectrogram()(Input((400,))),
        GraphError,
        "expected (rows, samples, channels)",
    ),
}
RANDOM_MATRIX = np.array([[1.0, 2.0], [2.0, 1.0]], "float32")
OPERATION_CASES: dict[str, Case] = {
    "unequal parts": (
        lambda: operation("Split", ONES, indices_or_sections=2, axis=1),
        GraphError,
        "can't split 3 elements into 2 equal parts",
    ),
    "an axis that is longer": (
        lambda: operation("Squeeze", ONES, axis=1),
        GraphError,
        "expected axes of length 1 of shape (4, 3)",
    ),
    "no such element": (
        lambda: operation("Take", ONES, np.array([3]), axis=1),
        DataError,
        "an index is out of range for 3 elements",
    ),
    "no positive matrix": (lambda: operation("Cholesky", RANDOM_MATRIX), DataError, "Cholesky: "),
    "too many between": (
        lambda: operation("Linspace", ONES, ONES, num=10**9),
        GraphError,
        "numbers per range",
    ),
    "a range without end": (
        lambda: operation("Arange", 0.0, 1e12, dtype="float32"),
        GraphError,
        "has too many elements",
    ),
    "one part": (lambda: operation("IFFT2", ONES), GraphError, "expected a pair of real and imaginary parts"),
}
TRAINING: dict[str, Case] = {
    "no rate of power": (
        lambda: OPTIMIZERS["Ftrl"](learning_rate_power=0.5),
        ConfigError,
        "option 'learning_rate_power' is 0.5, expected at most 0",
    ),
    "no sign alone": (lambda: OPTIMIZERS["Lion"](beta_1=0.0), ConfigError, "0 would be SignSGD"),
    "scaled twice": (
        lambda: OPTIMIZERS["LossScaleOptimizer"](OPTIMIZERS["LossScaleOptimizer"](OPTIMIZERS["SGD"]())),
        ConfigError,
        "expected an optimizer other than LossScaleOptimizer",
    ),
    "values and boundaries": (
        lambda: SCHEDULES["PiecewiseConstantDecay"]([1, 2], [0.1, 0.2]),
        ConfigError,
        "got 2 boundaries and 2 values, expected one value more",
    ),
    "no steps": (
        lambda: SCHEDULES["ExponentialDecay"](0.1, 0, 0.9),
        ConfigError,
        "expected a positive number of steps",
    ),
    "a power of no loss": (
        lambda: LOSSES["CategoricalGeneralizedCrossEntropy"](q=1.5),
        ConfigError,
        "option 'q' is 1.5, expected between 0 and 1",
    ),
    "labels of one": (lambda: METRICS["AUC"](num_labels=3), ConfigError, "option 'num_labels' is only for multi_label"),
    "no such class": (
        lambda: METRICS["IoU"](num_classes=2, target_class_ids=[2]),
        ConfigError,
        "option 'target_class_ids' is [2], expected classes from 0 to 1",
    ),
    "no weight of recall": (lambda: METRICS["FBetaScore"](beta=0.0), ConfigError, "expected a number above 0"),
    "no threshold": (
        lambda: METRICS["FBetaScore"](threshold=0.0),
        ConfigError,
        "expected a number above 0, at most 1",
    ),
    "three dimensions": (
        lambda: REGULARIZERS["OrthogonalRegularizer"]()(torch.ones(2, 2, 2)),
        ConfigError,
        "got shape (2, 2, 2), expected two dimensions",
    ),
    "a single number": (
        lambda: compiled().fit(ONES, np.float32(1), verbose=0),
        DataError,
        "expected an array with rows",
    ),
}
CASES = {
    f"{room}: {name}": case
    for room, cases in {
        "functional": FUNCTIONAL,
        "layers": LAYERS,
        "operations": OPERATION_CASES,
        "training": TRAINING,
    }.items()
    for name, case in cases.items()
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused(name: str) -> None:
    act, error, text = CASES[name]
    with pytest.raises(error, match=re.escape(text)):
        act()
