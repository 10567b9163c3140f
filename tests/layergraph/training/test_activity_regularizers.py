"""Activity regularization of every kind of layer, against stock Keras."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import layergraph
import numpy as np
import pytest
from layergraph import layers
from layergraph.errors import ConfigError
from oracles import keras, perturb

K = keras.layers


def penalty() -> Any:
    return keras.regularizers.L1L2(0.02, 0.03)


def two(layer: Any) -> Callable[[Any], Any]:
    return lambda x: layer([x, K.Dense(x.shape[-1])(x)])


#: Input -> a layer that gets sequences (rows, 6, 4). All of these compute by the same code.
PLAIN: dict[str, Callable[[Any], Any]] = {
    "Activation": lambda x: K.Activation("tanh", activity_regularizer=penalty())(x),
    "LeakyReLU": lambda x: K.LeakyReLU(activity_regularizer=penalty())(x),
    "PReLU": lambda x: K.PReLU(activity_regularizer=penalty())(x),
    "Softmax": lambda x: K.Softmax(activity_regularizer=penalty())(x),
    "Identity": lambda x: K.Identity(activity_regularizer="l1")(x),
    "LayerNormalization": lambda x: K.LayerNormalization(activity_regularizer=penalty())(x),
    "GroupNormalization": lambda x: K.GroupNormalization(2, activity_regularizer=penalty())(x),
    "UnitNormalization": lambda x: K.UnitNormalization(activity_regularizer=penalty())(x),
    "Dropout": lambda x: K.Dropout(0.0, activity_regularizer=penalty())(x),
    "GaussianNoise": lambda x: K.GaussianNoise(0.0, activity_regularizer=penalty())(x),
    "Rescaling": lambda x: K.Rescaling(0.5, 0.1, activity_regularizer=penalty())(x),
    "Add": two(K.Add(activity_regularizer=penalty())),
    "Concatenate": two(K.Concatenate(activity_regularizer=penalty())),
    "Dot": two(K.Dot(-1, activity_regularizer=penalty())),
    "Maximum": two(K.Maximum(activity_regularizer=penalty())),
    "MaxPooling1D": lambda x: K.MaxPooling1D(activity_regularizer=penalty())(x),
    "AveragePooling1D": lambda x: K.AveragePooling1D(2, activity_regularizer=penalty())(x),
    "GlobalMaxPooling1D": lambda x: K.GlobalMaxPooling1D(keepdims=True, activity_regularizer=penalty())(x),
    "Flatten": lambda x: K.RepeatVector(2, activity_regularizer=penalty())(
        K.Flatten(activity_regularizer=penalty())(x)
    ),
    "Reshape": lambda x: K.Reshape((4, 6), activity_regularizer=penalty())(x),
    "Permute": lambda x: K.Permute((2, 1), activity_regularizer=penalty())(x),
    "ZeroPadding1D": lambda x: K.ZeroPadding1D(activity_regularizer=penalty())(x),
    "Cropping1D": lambda x: K.Cropping1D(activity_regularizer=penalty())(x),
    "UpSampling1D": lambda x: K.UpSampling1D(activity_regularizer=penalty())(x),
    "Attention with scores": lambda x: K.Attention(activity_regularizer=penalty())(
        [x, x], return_attention_scores=True
    )[0],
}


def each(x: Any) -> Any:
    """The steps' means of every plain layer, side by side: an error in the penalty of one shows in the loss."""
    return K.Concatenate()([K.RepeatVector(2)(K.GlobalAveragePooling1D()(apply(x))) for apply in PLAIN.values()])


#: Input -> layers that compute in another way, or whose calls are joined with others.
LAYERS: dict[str, Callable[[Any], Any]] = {
    "every plain layer": each,
    "Masking": lambda x: K.Masking(activity_regularizer=penalty())(x),
    "BatchNormalization": lambda x: K.BatchNormalization(activity_regularizer=penalty())(x),
    "SpectralNormalization": lambda x: K.SpectralNormalization(
        K.Dense(3, activity_regularizer="l2"), activity_regularizer=penalty()
    )(x),
    "MaxPooling1D after a rectifier": lambda x: K.MaxPooling1D(activity_regularizer=penalty())(
        K.ReLU(activity_regularizer=penalty())(K.Conv1D(3, 2)(x))
    ),
    "MultiHeadAttention": lambda x: K.MultiHeadAttention(2, 3, activity_regularizer=penalty())(x, x),
    "GroupQueryAttention": lambda x: K.GroupQueryAttention(2, 2, 1, activity_regularizer=penalty())(x, x),
    "TimeDistributed": lambda x: K.TimeDistributed(
        K.Dense(3, activity_regularizer="l2"), activity_regularizer=penalty()
    )(x),
    "Bidirectional": lambda x: K.Bidirectional(
        K.GRU(3, return_sequences=True, activity_regularizer="l2"), activity_regularizer=penalty()
    )(x),
    "a cell": lambda x: K.RNN(K.LSTMCell(3, activity_regularizer=penalty()), return_sequences=True)(x),
    "a cell, unrolled": lambda x: K.RNN(
        K.GRUCell(3, activity_regularizer=penalty()), return_sequences=True, unroll=True
    )(x),
    "a cell, masked": lambda x: K.RNN(K.GRUCell(3, activity_regularizer=penalty()), return_sequences=True)(
        K.Masking(0.5)(x)
    ),
    "cells of a stack": lambda x: K.RNN(
        [K.GRUCell(3, activity_regularizer="l1"), K.LSTMCell(2), K.LSTMCell(3, activity_regularizer="l2")],
        return_sequences=True,
    )(x),
    "both directions of a cell": lambda x: K.Bidirectional(
        K.RNN(K.GRUCell(3, activity_regularizer=penalty()), return_sequences=True)
    )(x),
    "steps of a cell": lambda x: K.Reshape((6, 3))(
        K.TimeDistributed(K.RNN(K.GRUCell(3, activity_regularizer=penalty())))(K.Reshape((6, 2, 2))(x))
    ),
    "an activation": lambda x: K.Dense(3, activation=K.LeakyReLU(0.1, activity_regularizer=penalty()))(x),
    "an activation of steps": lambda x: K.Reshape((6, 6))(
        K.TimeDistributed(K.Conv1D(3, 2, activation=K.ELU(activity_regularizer="l1"), padding="same"))(
            K.Reshape((6, 2, 2))(x)
        )
    ),
    "in half precision": lambda x: K.Activation("tanh", dtype="mixed_bfloat16", activity_regularizer="l1")(x),
    "of whole numbers": lambda x: K.Add()(
        [
            x,
            K.Embedding(3, 4)(
                K.CategoryEncoding(3, "one_hot", dtype="int32", activity_regularizer="l2")(x[:, :, 0] > 0)
            )[:, :, 0],
        ]
    ),
}


def trained(made: Any, folder: Path) -> tuple[Any, Any]:
    """The layers followed by a loss, in Keras, and loaded from its file here."""
    entry = keras.Input((6, 4))
    h = made(entry)
    h = K.GlobalAveragePooling1D()(h)
    theirs = keras.Model(entry, K.Dense(2)(h))
    perturb(theirs)
    theirs.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse", metrics=["mae"])
    theirs.save(folder / "theirs.keras")
    return theirs, layergraph.load_model(folder / "theirs.keras")


def data() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5, 6, 4)).astype("float32")
    x[1, 3:] = x[4, 1:] = 0.5
    return x, rng.standard_normal((5, 2)).astype("float32")


@pytest.mark.parametrize("kind", LAYERS)
def test_every_layer_takes_one(kind: str, tmp_path: Path) -> None:
    theirs, ours = trained(LAYERS[kind], tmp_path)
    x, y = data()
    tolerance = 2e-3 if kind == "in half precision" else 2e-5
    for _ in range(2):
        assert ours.train_on_batch(x, y) == pytest.approx(theirs.train_on_batch(x, y), rel=tolerance)
    assert ours.test_on_batch(x, y) == pytest.approx(theirs.test_on_batch(x, y), rel=tolerance)
    for own, their in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(own, their, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(ours.predict_on_batch(x), theirs.predict_on_batch(x), rtol=tolerance, atol=tolerance)
    ours.save(tmp_path / "ours.keras")
    again = keras.models.load_model(tmp_path / "ours.keras")
    assert again.test_on_batch(x, y)[0] == pytest.approx(ours.test_on_batch(x, y)[0], rel=tolerance)


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("ActivityRegularization", (0.1,)),
        ("Discretization", ([0.5],)),
        ("SpatialDropout1D", (0.5,)),
        ("SpatialDropout2D", (0.5,)),
    ],
)
def test_layers_for_which_keras_has_none_refuse_it(kind: str, given: tuple[Any, ...]) -> None:
    with pytest.raises((TypeError, ValueError)):
        getattr(keras.layers, kind)(*given, activity_regularizer="l2")
    with pytest.raises(ConfigError, match="option 'activity_regularizer' is 'l2', expected None"):
        getattr(layers, kind)(*given, activity_regularizer="l2")


def test_it_is_loss_enough_to_train(tmp_path: Path) -> None:
    entry = keras.Input((6, 4))
    theirs = keras.Model(entry, K.Activation("relu", activity_regularizer="l2")(K.Dense(3)(entry)))
    theirs.compile("adam")
    theirs.save(tmp_path / "model.keras")
    ours = layergraph.load_model(tmp_path / "model.keras")
    x, y = data()
    history = ours.fit(x, y, epochs=2, batch_size=2, shuffle=False, verbose=0).history
    assert history["loss"] == pytest.approx(
        theirs.fit(x, y, epochs=2, batch_size=2, shuffle=False, verbose=0).history["loss"], rel=1e-5
    )
