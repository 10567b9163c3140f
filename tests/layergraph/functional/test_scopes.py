"""Paths of weights equal those in a new model of stock Keras: optimizers' patterns match against them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import layergraph
import pytest
from keras import layers


def functional(shape: tuple[int, ...], *stack: Any) -> keras.Model:
    inputs = tensor = keras.Input(shape)
    for layer in stack:
        tensor = layer(tensor, tensor) if "Attention" in type(layer).__name__ else layer(tensor)
    return keras.Model(inputs, tensor)


def nested() -> keras.Model:
    inner = keras.Sequential([keras.Input((3,)), layers.Dense(2), layers.LayerNormalization()], name="inner")
    return functional((5, 3), layers.TimeDistributed(inner), layers.TimeDistributed(functional((2,), layers.Dense(2))))


MODELS: dict[str, Callable[[], keras.Model]] = {
    "recurrent": lambda: functional(
        (5, 3),
        layers.LSTM(2, return_sequences=True),
        layers.GRU(2, return_sequences=True),
        layers.RNN([layers.LSTMCell(2), layers.GRUCell(2)], return_sequences=True),
        layers.SimpleRNN(2),
    ),
    "wrapped": lambda: functional(
        (5, 3),
        layers.Bidirectional(layers.RNN(layers.GRUCell(2), return_sequences=True)),
        layers.TimeDistributed(layers.Dense(3)),
        layers.SpectralNormalization(layers.Conv1D(2, 2)),
        layers.Bidirectional(layers.LSTM(2)),
    ),
    "convolutional": lambda: functional((4, 5, 5, 2), layers.ConvLSTM2D(2, 2), layers.SeparableConv2D(2, 2)),
    "attention": lambda: functional((4, 6), layers.MultiHeadAttention(2, 3), layers.GroupQueryAttention(2, 2, 1)),
    "sequential": lambda: keras.Sequential(
        [keras.Input((5, 3)), layers.Bidirectional(layers.GRU(2)), layers.BatchNormalization()], name="top"
    ),
    "nested": nested,
}


@pytest.mark.parametrize("name", MODELS)
def test_paths(name, tmp_path):
    theirs = MODELS[name]()
    theirs.save(tmp_path / "model.keras")
    ours = layergraph.load_model(tmp_path / "model.keras")
    assert [weight.path for weight in ours.weights] == [weight.path for weight in theirs.weights]


def test_a_layer_inside_of_several_keeps_the_path_of_its_first_building():
    layer = layergraph.layers.Dense(2)
    layer(layergraph.Input((3,)))
    stack = layergraph.Sequential([layergraph.Input((3,)), layer], name="stack")
    assert [weight.path for weight in stack.weights] == [f"{layer.name}/kernel", f"{layer.name}/bias"]
