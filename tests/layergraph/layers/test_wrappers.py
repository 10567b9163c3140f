"""TimeDistributed and Bidirectional against stock Keras."""

import itertools
from pathlib import Path
from typing import Any

import layergraph
import numpy as np
import pytest
from layergraph import layers
from layergraph.errors import ConfigError, GraphError
from model_oracles import check_model
from oracles import LayerCase, assert_close, check_layer, keras, perturb, random_arrays

K, ops = keras.layers, keras.ops
MODES = ["concat", "sum", "mul", "ave", None]
BIDIRECTIONAL = [
    *(
        LayerCase(
            "Bidirectional",
            {"layer": K.GRU(3, return_sequences=sequences, return_state=state), "merge_mode": mode},
            [(2, 5, 4)],
        )
        for mode in MODES
        for sequences, state in itertools.product((False, True), repeat=2)
    ),
    LayerCase("Bidirectional", {"layer": K.LSTM(3)}, [(2, 5, 4)], unknown_axes=True),
    LayerCase("Bidirectional", {"layer": K.SimpleRNN(3, return_state=True)}, [(2, 5, 4)]),
    LayerCase("Bidirectional", {"layer": K.LSTM(3, activation="relu", name="forward_x")}, [(2, 5, 4)]),
    LayerCase("Bidirectional", {"layer": K.LSTM(3), "backward_layer": K.GRU(3, go_backwards=True)}, [(2, 5, 4)]),
    LayerCase("Bidirectional", {"layer": K.RNN(K.GRUCell(3), return_sequences=True)}, [(2, 5, 4)]),
    LayerCase("Bidirectional", {"layer": K.GRU(3, reset_after=False), "dtype": "float64"}, [(2, 5, 4)]),
]
DISTRIBUTED = [
    LayerCase("TimeDistributed", {"layer": K.Dense(3, activation="relu")}, [(2, 5, 4)]),
    LayerCase("TimeDistributed", {"layer": K.Dense(3)}, [(2, 5, 4)], unknown_axes=True),
    LayerCase("TimeDistributed", {"layer": K.Dense(3)}, [(2, 5, 6, 4)]),
    LayerCase("TimeDistributed", {"layer": K.LSTM(3, return_sequences=True)}, [(2, 5, 6, 4)]),
    LayerCase("TimeDistributed", {"layer": K.Bidirectional(K.GRU(3))}, [(2, 5, 6, 4)]),
    LayerCase("TimeDistributed", {"layer": K.TimeDistributed(K.Dense(3))}, [(2, 5, 6, 4)]),
    LayerCase("TimeDistributed", {"layer": K.Softmax(axis=1)}, [(2, 5, 6, 4)]),
    LayerCase(
        "TimeDistributed",
        {"layer": K.Embedding(7, 3)},
        [(2, 3, 4)],
        inputs=[np.random.default_rng(0).integers(0, 7, (2, 3, 4)).astype("int32")],
    ),
]


@pytest.mark.parametrize("case", [*BIDIRECTIONAL, *DISTRIBUTED], ids=str)
def test_layer_gives_keras_numbers(case: LayerCase) -> None:
    check_layer(case)


def test_time_distributed_takes_a_model(tmp_path: Path) -> None:
    def build(k: Any) -> tuple[list[Any], list[Any]]:
        image = k.Input((4, 3))
        encoder = k.Model(image, k.layers.LSTM(3)(k.layers.Dense(2, activation="tanh")(image)))
        video = k.Input((5, 4, 3))
        return [video], [k.layers.TimeDistributed(encoder)(video)]

    check_model(build, random_arrays([(2, 5, 4, 3)]), tmp_path)


def test_time_distributed_builds_a_sequential_for_its_steps() -> None:
    x = layergraph.Input((5, 3), dtype="int32")
    y = layers.TimeDistributed(layergraph.Sequential([layers.Embedding(4, 2), layers.LSTM(3)]))(x)
    assert y.shape == (None, 5, 3)


def test_time_distributed_with_no_rows_gives_none() -> None:
    x = layergraph.Input((5, 4), name="x")
    model = layergraph.Model(x, layers.TimeDistributed(layers.Dense(3), name="y")(x))
    assert model.plan().run({"x": np.zeros((0, 5, 4), "float32")})["y"].shape == (0, 5, 3)


@pytest.mark.parametrize(("kind", "count"), [("SimpleRNN", 2), ("GRU", 2), ("LSTM", 4)])
@pytest.mark.parametrize("mode", ["concat", None])
def test_bidirectional_takes_states(kind: str, count: int, mode: str | None, tmp_path: Path) -> None:
    def build(k: Any) -> tuple[list[Any], list[Any]]:
        inputs = [k.Input((5, 4)), *(k.Input((3,)) for _ in range(count))]
        layer = getattr(k.layers, kind)(3, return_sequences=True, return_state=True)
        return inputs, k.layers.Bidirectional(layer, merge_mode=mode)(inputs[0], initial_state=inputs[1:])

    check_model(build, random_arrays([(2, 5, 4), *[(2, 3)] * count]), tmp_path)


@pytest.mark.parametrize("kind", ["SimpleRNN", "GRU", "LSTM"])
@pytest.mark.parametrize("sequences", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_bidirectional_takes_masks(kind: str, sequences: bool, mode: str | None) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 5, 4)).astype("float32")
    mask = np.array([[1, 1, 0, 1, 0], [0, 0, 0, 0, 0], [0, 1, 1, 1, 1]], bool)
    theirs = K.Bidirectional(getattr(K, kind)(3, return_sequences=sequences, return_state=True), merge_mode=mode)
    theirs.build(x.shape)
    perturb(theirs)
    ours = layers.Bidirectional(
        getattr(layers, kind)(3, return_sequences=sequences, return_state=True), merge_mode=mode
    )
    ours(x)
    ours.set_weights(theirs.get_weights())
    for got, want in zip(ours(x, mask=mask), keras.tree.flatten(theirs(x, mask=mask)), strict=True):
        assert_close(got.detach().numpy(), want)


def test_bidirectional_names_its_layers_as_keras_does() -> None:
    ours = layers.Bidirectional(layers.LSTM(3, name="reader"), name="both")
    theirs = K.Bidirectional(K.LSTM(3, name="reader"), name="both")
    for got, want in [
        (ours.forward_layer, theirs.forward_layer),
        (ours.backward_layer, theirs.backward_layer),
    ]:
        assert (got.name, got.go_backwards, got.zero_output_for_mask) == (
            want.name,
            want.go_backwards,
            want.zero_output_for_mask,
        )
    assert list(ours.sublayers) == ["forward_layer", "backward_layer"]


def test_bidirectional_keeps_its_own_copies() -> None:
    layer = layers.LSTM(3)
    both = layers.Bidirectional(layer)
    both(layergraph.Input((5, 4)))
    assert layer.weights == []
    assert len(both.weights) == 6
    stack = layers.Bidirectional(layers.RNN(layers.GRUCell(3)))
    stack(layergraph.Input((5, 4)))
    assert len(set(stack.weights)) == 6


def test_a_frozen_wrapper_freezes_what_is_in_it() -> None:
    for layer in (
        layers.TimeDistributed(layers.Dense(3), trainable=False),
        layers.Bidirectional(layers.GRU(3), trainable=False),
    ):
        layer(layergraph.Input((5, 4)))
        assert layer.weights
        assert not any(weight.trainable for weight in layer.weights)


STEPWISE = {
    "statistics": lambda k: k.layers.BatchNormalization(momentum=0.5),
    "statistics of a model": lambda k: k.Sequential(
        [k.Input((3,)), k.layers.Dense(4), k.layers.BatchNormalization(momentum=0.5)]
    ),
    "statistics that stay": lambda k: k.layers.BatchNormalization(momentum=0.5, trainable=False),
    "penalties of a model": lambda k: k.Sequential([k.Input((3,)), k.layers.Dense(4, activity_regularizer="l2")]),
}


def steps_apart() -> Any:
    """Rows whose timesteps have different means."""
    rng = np.random.default_rng(3)
    return rng.standard_normal((6, 4, 3)).astype("float32") + np.arange(4, dtype="float32")[:, None]


@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
@pytest.mark.parametrize("inner", STEPWISE)
def test_statistics_and_penalties_are_of_one_step_after_the_other(inner: str, masked: bool, tmp_path: Path) -> None:
    x = steps_apart()
    if masked:
        x *= (np.arange(4) < np.array([[3], [4], [2], [4], [3], [4]]))[..., None]
    y = np.ones((6, 2), "float32")
    entry = keras.Input((4, 3))
    h = keras.layers.Masking()(entry) if masked else entry
    h = keras.layers.TimeDistributed(STEPWISE[inner](keras))(h)
    theirs = keras.Model(entry, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling1D()(h)))
    theirs.compile(keras.optimizers.SGD(0.01), "mse")
    theirs.save(tmp_path / "model.keras")
    ours = layergraph.load_model(tmp_path / "model.keras")
    for _ in range(2):
        assert ours.train_on_batch(x, y) == pytest.approx(theirs.train_on_batch(x, y), rel=1e-5)
    assert ours.test_on_batch(x, y) == pytest.approx(theirs.test_on_batch(x, y), rel=1e-5)
    for own, their in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(own, their, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "inner",
    [
        lambda x: x - ops.mean(x, axis=0, keepdims=True),
        lambda x: ops.cumsum(K.Dense(2)(x), axis=0),
        lambda x: K.Softmax(axis=0)(K.Dense(2)(x)),
    ],
)
@pytest.mark.parametrize("steps", [5, None])
def test_what_mixes_rows_gets_those_of_one_step(inner: Any, steps: int | None, tmp_path: Path) -> None:
    step, x = keras.Input((4,)), keras.Input((steps, 4))
    stock = keras.Model(x, K.TimeDistributed(keras.Model(step, inner(step)))(x))
    stock.save(tmp_path / "model.keras")
    ours = layergraph.load_model(tmp_path / "model.keras")
    rows = np.random.default_rng(0).standard_normal((3, 5, 4)).astype("f4")
    assert_close(ours.predict_on_batch(rows), stock.predict_on_batch(rows))
    assert not ours.plan().batched
    # tf.keras computes all timesteps in one call, also where the number of rows is known.
    ours.layers[-1].step_rule = "keras2"
    flat = keras.Model(step, inner(step))
    flat.set_weights(stock.get_weights())
    together = flat.predict_on_batch(rows.reshape(15, 4)).reshape(3, 5, -1)
    assert_close(ours.predict_on_batch(rows), together)


def test_in_keras_2_statistics_are_of_all_steps_together(tmp_path: Path) -> None:
    x = steps_apart()
    entry = layergraph.Input((4, 3))
    layer = layers.TimeDistributed(layers.BatchNormalization(momentum=0.0), step_rule="keras2")
    model = layergraph.Model(entry, layer(entry))
    model.compile("sgd", "mse")
    model.save(tmp_path / "model.keras")
    again = layergraph.load_model(tmp_path / "model.keras")
    for one in (model, again):
        one.train_on_batch(x, x)
        np.testing.assert_allclose(one.get_weights()[2], x.mean((0, 1)), rtol=1e-5)


def test_in_keras_2_penalties_are_of_all_steps_together_and_of_a_model_twice() -> None:
    x = steps_apart()
    for inner, times in (
        (layers.Dense(2, activity_regularizer="l2"), 1),
        (layergraph.Sequential([layergraph.Input((3,)), layers.Dense(2, activity_regularizer="l2")]), 2),
    ):
        entry = layergraph.Input((4, 3))
        model = layergraph.Model(entry, layers.TimeDistributed(inner, step_rule="keras2")(entry))
        model.compile("sgd", "mse")
        y = model.predict(x)
        want = np.square(y).mean() + times * 0.01 * np.square(y).sum() / (6 * 4)
        assert model.test_on_batch(x, np.zeros_like(y)) == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": layers.Dense(3)}, "expected a recurrent layer"),
        ({"layer": layers.LSTM(3), "merge_mode": "add"}, "option 'merge_mode'"),
        ({"layer": layers.LSTM(3), "backward_layer": layers.LSTM(3)}, "have the same go_backwards"),
        (
            {"layer": layers.LSTM(3), "backward_layer": layers.LSTM(3, go_backwards=True, return_sequences=True)},
            "differ in return_sequences",
        ),
        ({"layer": "LSTM"}, "option 'layer'"),
    ],
)
def test_layers_that_do_not_go_together_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        layers.Bidirectional(**options)


def test_time_distributed_needs_steps() -> None:
    with pytest.raises(GraphError, match=r"expected a tensor \(rows, timesteps, ...\)"):
        layers.TimeDistributed(layers.Dense(3))(layergraph.Input((4,)))
    with pytest.raises(GraphError, match="got a mask of shape"):
        layers.TimeDistributed(layers.Dense(3))(
            layergraph.Input((5, 4)), mask=layergraph.Input(batch_shape=(None,), dtype="bool")
        )
