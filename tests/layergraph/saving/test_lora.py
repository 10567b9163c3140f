"""LoRA weights of an `.h5` against stock Keras, which merges them into kernels in a `.keras` only."""

from __future__ import annotations

import keras
import layergraph
import numpy as np
import pytest
from layergraph.errors import ModelFileError

ADAPTED = {
    "dense": ((3,), lambda: keras.layers.Dense(4)),
    "dense without bias": ((3,), lambda: keras.layers.Dense(4, use_bias=False)),
    "einsum": ((5, 3), lambda: keras.layers.EinsumDense("abc,cd->abd", (None, 4), bias_axes="d")),
    "embedding": ((3,), lambda: keras.layers.Embedding(7, 4)),
    "conv1d": ((6, 3), lambda: keras.layers.Conv1D(4, 3)),
    "conv2d": ((6, 6, 3), lambda: keras.layers.Conv2D(4, 3)),
    "conv3d": ((4, 4, 4, 3), lambda: keras.layers.Conv3D(4, 3)),
}


def randomise(model: keras.Model) -> None:
    random = np.random.default_rng(1)
    for weight in model.weights:
        weight.assign(random.normal(scale=0.3, size=weight.shape))


def same(path, model, x):
    expected = model.predict(x, verbose=0)
    np.testing.assert_allclose(layergraph.load_model(path).predict(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("suffix", "alpha"), [(".h5", 5), (".keras", None)])
@pytest.mark.parametrize("kind", ADAPTED)
def test_merged_into_the_kernel(tmp_path, kind, alpha, suffix):
    shape, make = ADAPTED[kind]
    x, layer = keras.Input(shape), make()
    model = keras.Model(x, keras.layers.Dense(2)(layer(x)))
    layer.enable_lora(2, **({} if alpha is None else {"lora_alpha": alpha}))
    randomise(model)
    model.save(tmp_path / f"model{suffix}")
    random = np.random.default_rng(0)
    same(tmp_path / f"model{suffix}", model, random.integers(0, 7, (2, *shape)))


def test_of_several_layers_of_a_nested_model(tmp_path):
    """Keras writes all trainable weights of the nested model first: the kernels come last, in a row."""
    inner_x = keras.Input((4,))
    adapted = [keras.layers.Dense(4, name=name) for name in ("b", "a")]
    plain = keras.layers.Dense(4, name="plain")
    inner = keras.Model(inner_x, adapted[1](plain(adapted[0](inner_x))), name="inner")
    x = keras.Input((4,))
    model = keras.Model(x, keras.layers.Dense(2, name="answer")(inner(x)))
    for layer in adapted:
        layer.enable_lora(3, lora_alpha=2)
    randomise(model)
    model.save(tmp_path / "model.h5")
    same(tmp_path / "model.h5", model, np.random.default_rng(0).normal(size=(3, 4)))


@pytest.mark.filterwarnings("ignore:Layer InputLayer does not have")
@pytest.mark.parametrize("mode", ["int8", "int4"])
@pytest.mark.parametrize("kind", ["dense", "embedding"])
def test_quantized_kernels_have_it_merged_in_a_keras_file_only(tmp_path, kind, mode):
    shape, make = ADAPTED[kind]
    x, layer = keras.Input(shape), make()
    model = keras.Model(x, keras.layers.Dense(2)(layer(x)))
    layer.enable_lora(2)
    randomise(model)
    model.quantize(mode)
    for suffix in (".keras", ".h5"):
        model.save(tmp_path / f"model{suffix}")
    # Keras rounds the merged kernel anew, so its model differs from the one that it saved.
    saved = keras.saving.load_model(tmp_path / "model.keras")
    same(tmp_path / "model.keras", saved, np.random.default_rng(0).integers(0, 7, (2, *shape)))
    with pytest.raises(ModelFileError, match=f"{layer.name}.* has LoRA weights beside a quantized kernel"):
        layergraph.load_model(tmp_path / "model.h5")
