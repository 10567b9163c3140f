"""Steps of models equal the whole sequence; the models are built here, and the oracle is `Model.plan`."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch
from layergraph import Input, Layer, Model, load_model, ops
from layergraph import layers as k
from layergraph.errors import DataError
from layergraph.functional.nest import flatten
from layergraph.functional.tensor import Tensor
from layergraph.stepping.stepper import Stepper

FIXTURES = Path(__file__).parents[2] / "fixtures" / "stateful"
TIMESTEPS = 7
#: Ends of the steps: of one timestep, and of several.
CUTS = (0, 1, 3, TIMESTEPS)


def sequence(*features: int | None, timesteps: int | None = None) -> Tensor:
    return Input((timesteps, *(features or (4,))), name="x")


def ids() -> Tensor:
    return Input((None,), dtype="int32", name="x")


def masked() -> tuple[Tensor, Tensor]:
    x = sequence()
    return x, k.Masking()(x)


class Leaky(Layer):
    """A custom cell that doesn't begin with zeros."""

    def __init__(self, units: int, **options: Any) -> None:
        super().__init__(**options)
        self.units = units
        self.state_size = units

    def build(self, shape: Any) -> None:
        self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel")

    def get_initial_state(self, batch_size: int) -> list[torch.Tensor]:
        return [torch.full((batch_size, self.units), 0.5)]

    def call(self, inputs: Any, states: Any) -> Any:
        after = 0.9 * states[0] + ops.tanh(ops.matmul(inputs, self.kernel))
        return 2 * after, [after]


def stacked_cells() -> Model:
    x, y = masked()
    return Model(x, k.RNN([Leaky(3), k.LSTMCell(2)], return_state=True)(y))


def of_a_mask_input() -> Model:
    x, mask = sequence(), Input((None,), dtype="bool", name="mask")
    return Model([x, mask], k.LSTM(3, return_sequences=True)(x, mask=mask))


def shared() -> Model:
    x = sequence()
    layer = k.GRU(4, return_sequences=True)
    return Model(x, layer(layer(x)))


def nested_twice() -> Model:
    x, y = sequence(timesteps=TIMESTEPS), sequence(timesteps=TIMESTEPS)
    inner = Model(y, k.LSTM(4, return_sequences=True)(k.Dense(3)(y)), name="inner")
    return Model(x, k.Dense(1)(inner(inner(x))[:, -1]))


def convolutions() -> Model:
    x = sequence()
    y = k.Conv1D(4, 3, padding="causal", dilation_rate=2, activation="relu")(k.Conv1D(4, 2, padding="causal")(x))
    return Model(x, k.Dense(2)(k.Add()([x, y])))


def pointwise() -> Model:
    x = sequence(5, 4, 2, timesteps=TIMESTEPS)
    y = k.TimeDistributed(k.Flatten())(k.TimeDistributed(k.Conv2D(2, 3))(x))
    y = k.Reshape((TIMESTEPS, 4, 3))(k.LayerNormalization()(y))
    y = k.BatchNormalization()(k.Dropout(0.5)(k.Reshape((TIMESTEPS, 12))(y)))
    return Model(x, k.SimpleRNN(3)(ops.softmax(y * 2.0, axis=-1)))


def two_inputs() -> Model:
    x, other = sequence(timesteps=TIMESTEPS), Input((3,), name="static")
    begin = k.Dense(5, activation="tanh")(other)
    y = k.GRU(5, return_sequences=True)(x)
    return Model([x, other], {"last": k.Concatenate()([y[:, -1], begin]), "each": k.Dense(1)(y)})


def stateful() -> Model:
    x = Input(batch_shape=(3, TIMESTEPS, 4), name="x")
    return Model(x, k.Dense(1)(k.LSTM(5, stateful=True)(x)))


MODELS: dict[str, Callable[[], Model]] = {
    "lstm": lambda: Model(x := sequence(timesteps=TIMESTEPS), k.Dense(2)(k.LSTM(5)(k.TimeDistributed(k.Dense(3))(x)))),
    "masked": lambda: Model((pair := masked())[0], k.GRU(5, return_sequences=True)(pair[1])),
    "masked, zero output": lambda: Model(
        (pair := masked())[0], k.LSTM(3, return_sequences=True, zero_output_for_mask=True)(pair[1])
    ),
    "masked ids": lambda: Model(
        x := ids(), k.GRU(3)(k.LSTM(4, return_sequences=True)(k.Embedding(6, 4, mask_zero=True)(x)))
    ),
    "mask as an input": of_a_mask_input,
    "stacked and custom cells": stacked_cells,
    "shared layer": shared,
    "nested model": nested_twice,
    "causal convolutions": convolutions,
    "separable convolution": lambda: Model(x := sequence(), k.SeparableConv1D(4, 3, padding="causal")(x)),
    "ConvLSTM1D": lambda: Model(x := sequence(9, 2), k.ConvLSTM1D(3, 3, return_state=True)(x)),
    "ConvLSTM2D": lambda: Model(x := sequence(6, 6, 2), k.ConvLSTM2D(3, 3, strides=2, return_sequences=True)(x)),
    "layers of a timestep": pointwise,
    "an input without timesteps": two_inputs,
    "stateful": stateful,
    "mixed precision": lambda: Model(x := sequence(), k.LSTM(4, dtype="mixed_bfloat16")(x)),
}


def arrays_of(model: Model, rows: int = 3) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    arrays = {}
    for spec in model.input_specs:
        shape = [rows if axis == 0 else size or TIMESTEPS for axis, size in enumerate(spec.shape)]
        if spec.dtype == "float32":
            arrays[spec.name] = rng.standard_normal(shape).astype("float32")
            arrays[spec.name][0, 0] = arrays[spec.name][1, -1] = arrays[spec.name][2, 2] = 0
        else:
            arrays[spec.name] = rng.integers(0, 2 if spec.dtype == "bool" else 4, shape).astype(spec.dtype)
            arrays[spec.name][0, :2] = arrays[spec.name][1, -1] = 0
    return arrays


def parts(stepper: Stepper, arrays: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {name: array[:, start:end] if name in stepper.timed_inputs else array for name, array in arrays.items()}
        for start, end in pairwise(CUTS)
    ]


def joined(stepper: Stepper, steps: list[Any]) -> list[np.ndarray]:
    outputs = zip(*[flatten(step) for step in steps], strict=True)
    return [
        np.concatenate(own, 1) if spec.name in stepper.timed_outputs else own[-1]
        for spec, own in zip(stepper.output_specs, outputs, strict=True)
    ]


def assert_same(got: list[np.ndarray], whole: list[np.ndarray], tolerance: float = 1e-6) -> None:
    for a, b in zip(got, whole, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1, np.abs(b).max()))


@pytest.mark.parametrize("name", MODELS)
def test_steps_are_the_whole_sequence(name):
    model = MODELS[name]()
    arrays = arrays_of(model)
    whole = list(model.plan().run(arrays).values())
    stepper = model.stepper()
    assert_same(joined(stepper, [stepper.step(part) for part in parts(stepper, arrays)]), whole)
    assert [tuple(a.shape) for a in stepper.states.values()] == [(3, *spec.shape) for spec in stepper.state_specs]


def test_rows_of_different_sequences_are_computed_together():
    model = MODELS["lstm"]()
    stepper = model.stepper()
    arrays = arrays_of(model)["x"]
    _, ahead = stepper.advance({"x": arrays[:1, :5]}, stepper.initial_states(1))
    both = {name: np.concatenate([ahead[name], first]) for name, first in stepper.initial_states(1).items()}
    together, _ = stepper.advance({"x": np.concatenate([arrays[:1, 5:6], arrays[1:2, :1]])}, both)
    first, _ = stepper.advance({"x": arrays[:1, 5:6]}, ahead)
    second, _ = stepper.advance({"x": arrays[1:2, :1]}, stepper.initial_states(1))
    name = stepper.output_specs[0].name
    assert_same([together[name]], [np.concatenate([first[name], second[name]])])


def test_an_engine_computes_the_steps():
    model = MODELS["causal convolutions"]()
    stepper = model.stepper()
    tuning = stepper.model.plan().tune(engines=("onnxruntime",), rows=(1,), pin=True)
    assert [choice.engine for choice in tuning.choices] == ["onnxruntime"]
    arrays = arrays_of(model)
    whole = list(model.plan().run(arrays).values())
    for _ in range(2):  # The first time, eager torch computes new lengths.
        stepper.reset()
        assert_same(joined(stepper, [stepper.step(part) for part in parts(stepper, arrays)]), whole, 1e-5)


def test_the_weights_are_those_of_the_model():
    model = MODELS["lstm"]()
    stepper = model.stepper()
    arrays = arrays_of(model)
    model.set_weights([w * 0.5 for w in model.get_weights()])
    steps = [stepper.step(part) for part in parts(stepper, arrays)]
    assert_same(joined(stepper, steps), list(model.plan().run(arrays).values()))
    assert all(len(layer.inbound_nodes) == 1 for layer in model.layers)


def test_stock_keras_opens_the_step_model(tmp_path):
    stepper = MODELS["causal convolutions"]().stepper()
    stepper.model.save(tmp_path / "step.keras")
    x, states = np.ones((2, 3, 4), "float32"), stepper.initial_states(2)
    theirs = keras.models.load_model(tmp_path / "step.keras")([x, *states.values()])
    outputs, after = stepper.advance({"x": x}, states)
    name = stepper.output_specs[0].name
    assert_same([theirs[name].detach().numpy()], [outputs[name]])
    for spec in stepper.state_specs:
        assert_same([theirs[spec.next_name].detach().numpy()], [after[spec.name]])


def captioning() -> Model:
    x, image = sequence(timesteps=TIMESTEPS), Input((6,), name="image")
    begin = k.Dense(5)(image)
    y = k.LSTM(5, return_sequences=True)(x, initial_state=[begin, k.Dense(5)(begin)])
    return Model([x, image], k.Multiply()([y, k.Reshape((1, 5))(begin)]))


def decoder() -> Model:
    given, x = Input((None, 3), name="given"), sequence()
    _, *states = k.LSTM(5, return_state=True)(given)
    return Model([given, x], k.LSTM(5, return_sequences=True)(x, initial_state=states))


@pytest.mark.parametrize(("build", "first"), [(captioning, "image"), (decoder, "given")])
def test_what_initial_states_come_from_is_given_in_the_first_step_alone(build, first):
    model = build()
    arrays = arrays_of(model)
    stepper = model.stepper()
    assert stepper.first_inputs == (first,)
    begin, *rest = parts(stepper, arrays)
    steps = [stepper.step(begin), *(stepper.step({"x": part["x"]}) for part in rest)]
    assert_same(joined(stepper, steps), list(model.plan().run(arrays).values()))
    stepper.reset()
    with pytest.raises(DataError, match=f"input '{first}' is missing"):
        stepper.step({"x": arrays["x"]})


def test_rows_stay_those_of_the_first_step():
    stepper = MODELS["lstm"]().stepper()
    stepper.step(np.zeros((2, 1, 4), "float32"))
    with pytest.raises(DataError, match="got 3 rows, expected 2 as in the step before; `reset` begins anew"):
        stepper.step(np.zeros((3, 1, 4), "float32"))
    stepper.reset()
    assert stepper.states == {}
    assert stepper.step(np.zeros((3, 1, 4), "float32")).shape == (3, 2)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 0, 4), "float32"), "input 'x': got no timestep, expected at least one"),
        (np.zeros((2, 1, 5), "float32"), r"input 'x': got shape \(2, 1, 5\), expected \(None, None, 4\)"),
        (np.float32(1), r"input 'x': got a number, expected \(rows, timesteps, ...\)"),
        ({}, "input 'x' is missing"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_and_states_stay(array, message):
    stepper = MODELS["lstm"]().stepper()
    stepper.step(np.ones((2, 1, 4), "float32"))
    before = stepper.states
    with pytest.raises(DataError, match=message):
        stepper.step(array)
    assert all(after is before[name] for name, after in stepper.states.items())


@pytest.mark.parametrize("file", ["2.7.h5", "3.3.keras"])
def test_batches_of_a_stateful_model_are_its_steps(file):
    stepper = load_model(FIXTURES / file).stepper()
    expected = np.load((FIXTURES / file).with_suffix(".npz"))
    for batch in range(4):
        inputs = {name: expected[f"{name}/{batch}"] for name in ("x", "images")}
        np.testing.assert_allclose(stepper.step(inputs), expected[f"out/{batch}"], rtol=1e-5, atol=1e-5)
