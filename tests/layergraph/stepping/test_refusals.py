"""Models that can't be stepped are refused with the layer and the reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from layergraph import Input, Model, ops
from layergraph import layers as k
from layergraph.errors import NotSteppableError
from layergraph.functional.tensor import Tensor

TIMESTEPS = 8

#: What is called on the outputs of a recurrent layer; the reason.
LAYERS: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "bidirectional": (k.Bidirectional(k.LSTM(2)), "reads the timesteps in both directions"),
    "backwards": (k.GRU(2, go_backwards=True), r"reads the timesteps backwards \(go_backwards=True\)"),
    "attention": (lambda x: k.Attention(name="n")([x, x]), "attends to all timesteps"),
    "causal attention": (
        lambda x: k.MultiHeadAttention(1, 2, name="n")(x, x, use_causal_mask=True),
        "attends to all timesteps",
    ),
    "global pooling": (k.GlobalAveragePooling1D(), "pools over the timesteps"),
    "pooling": (k.MaxPooling1D(2, strides=1, padding="same"), "pools over the timesteps"),
    "convolution": (k.Conv1D(2, 3, padding="same"), "is a convolution over timesteps that isn't causal"),
    "strides": (k.Conv1D(2, 3, padding="causal", strides=2), "is a convolution over time with strides 2, expected 1"),
    "normalization": (k.LayerNormalization(axis=1), "normalizes over the timesteps"),
    "weights of timesteps": (k.BatchNormalization(axis=1), "normalizes over the timesteps"),
    "flatten": (k.Flatten(), "flattens the timesteps"),
    "reshape": (k.Reshape((4, 6)), "reshapes the timesteps"),
    "permute": (k.Permute((2, 1)), "moves the timesteps to another axis"),
    "padding": (k.ZeroPadding1D(1), "changes the number of timesteps"),
    "first timestep": (lambda x: x[:, 0], "looks at other timesteps, or at their positions"),
    "cumulative sum": (lambda x: ops.cumsum(x, axis=1), "looks at other timesteps, or at their positions"),
    "rows": (lambda x: ops.mean(x, axis=0, keepdims=True), "computes with several rows together"),
    "random": (lambda x: k.Dropout(0.5, name="n")(x, training=True), "(computes with several rows|looks at other)"),
}


def remembered(x: Tensor) -> Tensor:
    return k.LSTM(3, return_sequences=True, name="memory")(x)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_that_looks_at_other_timesteps_is_named(name):
    layer, reason = LAYERS[name]
    x = Input((TIMESTEPS, 4))
    made = layer(remembered(x))
    with pytest.raises(NotSteppableError, match=reason) as refused:
        Model(x, made).stepper()
    assert refused.value.layer == made.history.layer.name
    assert refused.value.class_name == type(made.history.layer).__name__


def test_a_layer_in_a_nested_model_is_named_by_its_path():
    x, y = Input((TIMESTEPS, 4)), Input((TIMESTEPS, 3))
    inner = Model(y, k.GlobalMaxPooling1D(name="pool")(y), name="inner")
    with pytest.raises(NotSteppableError) as refused:
        Model(x, inner(remembered(x))).stepper()
    assert refused.value.layer == "inner/pool"


def test_a_layer_with_states_is_named_by_its_path():
    x, y = Input((TIMESTEPS, 4)), Input((TIMESTEPS, 4))
    activation = k.Softmax(axis=0)
    inner = Model(y, k.Conv1D(4, 2, padding="causal", activation=activation, name="conv")(y), name="inner")
    with pytest.raises(NotSteppableError, match="computes with several rows together") as refused:
        Model(x, inner(x)).stepper()
    assert (refused.value.layer, refused.value.class_name) == ("inner/conv", "Conv1D")


def test_a_layer_that_would_change_nothing_yet_is_refused():
    # Kernels of zeros: the outputs would be the same, until the model is trained.
    x = Input((None, 4))
    made = k.Conv1D(3, 3, padding="same", kernel_initializer="zeros", name="new")(remembered(x))
    with pytest.raises(NotSteppableError, match="layer 'new'"):
        Model(x, made).stepper()


@pytest.mark.parametrize(
    ("build", "layer", "reason"),
    [
        (lambda x: k.Dense(2)(x), "", "no layer keeps a state between timesteps"),
        (lambda x: k.Bidirectional(k.LSTM(2), name="b")(x), "b", "reads the timesteps in both directions"),
        (lambda x: k.LSTM(2)(k.RepeatVector(3, name="r")(k.LSTM(2)(x))), "r", "makes a fixed number of timesteps"),
        (lambda x: k.GRU(2, name="g")(x, initial_state=k.GRU(2)(x)), "g", "begins with states that depend on all"),
        (
            lambda x: k.Add(name="a")([k.LSTM(3, return_sequences=True)(x), k.Reshape((1, 3))(k.LSTM(3)(x))]),
            "a",
            "joins each timestep with a result of the whole sequence",
        ),
    ],
)
def test_models_without_steps(build, layer, reason):
    x = Input((TIMESTEPS, 4))
    with pytest.raises(NotSteppableError, match=reason) as refused:
        Model(x, build(x)).stepper()
    assert refused.value.layer == layer


def test_a_state_of_unknown_size_is_refused():
    x = Input((None, None, 5, 2))
    with pytest.raises(NotSteppableError, match=r"'images' .* would have shape .* expected known lengths"):
        Model(x, k.ConvLSTM2D(2, 3, name="images")(x)).stepper()


def test_a_stateful_layer_that_is_called_twice_is_refused():
    x = Input(batch_shape=(2, 3, 4))
    layer = k.LSTM(4, stateful=True, return_sequences=True, name="memory")
    with pytest.raises(NotSteppableError, match="is called 2 times with stateful=True: in Keras, they share one state"):
        Model(x, layer(layer(x))).stepper()


def test_a_decoder_that_attends_to_the_encoder_needs_all_of_it_in_each_step():
    given, x = Input((None, 4), name="given"), Input((None, 4), name="x")
    whole, *states = k.LSTM(4, return_sequences=True, return_state=True, name="encoder")(given)
    y = k.LSTM(4, return_sequences=True)(x, initial_state=states)
    with pytest.raises(NotSteppableError, match=r"'encoder' .* makes what every step needs") as refused:
        Model([given, x], k.Attention()([y, whole])).stepper()
    assert refused.value.layer == "encoder"
