"""LoRA weights of an `.h5` against stock Keras, which merges them into kernels in a `.keras` only."""

from __future__ import annotations

import keras
import layergraph
import numpy as np
import pytest
from layergraph.errors import ConfigError

ADAPTED = {
    "dense": ((3,), lambda: keras.layers.Dense(4)),
    "dense without bias": ((3,), lambda: keras.layers.Dense(4, use_bias=False)),
    "einsum": ((5, 3), lambda: keras.layers.EinsumDense("abc,cd->abd", (None, 4), bias_axes="d")),
    "einsum of three axes": ((5, 3), lambda: keras.layers.EinsumDense("abc,cde->abde", (None, 2, 4), bias_axes="de")),
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
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("first", ["lora", "quantized"])
@pytest.mark.parametrize("kind", ["dense", "dense without bias", "einsum", "einsum of three axes", "embedding"])
def test_beside_quantized_kernels(tmp_path, kind, first, mode, frozen):
    shape, make = ADAPTED[kind]
    x, layer = keras.Input(shape), make()
    model = keras.Model(x, keras.layers.Dense(2)(layer(x)))
    if first == "lora":
        layer.enable_lora(2, lora_alpha=5)
        randomise(model)
    model.quantize(mode)
    if first == "quantized":
        layer.enable_lora(2, lora_alpha=5)
    name = "embeddings" if kind == "embedding" else "kernel"
    for part in (f"lora_{name}_a", f"lora_{name}_b"):
        weight = getattr(layer, part)
        weight.assign(np.random.default_rng(2).normal(size=weight.shape))
    layer.trainable = not frozen
    data = np.random.default_rng(0).integers(0, 7, (2, *shape))
    model.save(tmp_path / "model.h5")
    same(tmp_path / "model.h5", model, data)
    model.save(tmp_path / "model.keras")
    # Keras rounds the merged kernel anew, so its model differs from the one that it saved.
    same(tmp_path / "model.keras", keras.saving.load_model(tmp_path / "model.keras"), data)


@pytest.mark.filterwarnings("ignore:Layer InputLayer does not have")
def test_beside_quantized_kernels_are_trained_and_saved(tmp_path):
    x, layer = keras.Input((3,)), keras.layers.Dense(4)
    model = keras.Model(x, keras.layers.Dense(2)(layer(x)))
    layer.enable_lora(2)
    randomise(model)
    model.quantize("int8")
    model.compile("sgd", "mse")
    model.save(tmp_path / "model.h5")
    ours = layergraph.load_model(tmp_path / "model.h5")
    random = np.random.default_rng(0)
    data, answers = random.normal(size=(6, 3)).astype("float32"), random.normal(size=(6, 2)).astype("float32")
    for one in (model, ours):
        one.fit(data, answers, batch_size=2, epochs=2, shuffle=False, verbose=0)
    np.testing.assert_allclose(ours.predict(data), model.predict(data, verbose=0), atol=1e-5, rtol=1e-5)
    ours.save(tmp_path / "trained.h5")
    same(tmp_path / "trained.h5", keras.saving.load_model(tmp_path / "trained.h5"), data)
    with pytest.raises(ConfigError, match=r"LoRA weights beside a quantized kernel.*use \.h5"):
        ours.save(tmp_path / "trained.keras")


@pytest.mark.filterwarnings("ignore:Layer InputLayer does not have")
def test_beside_quantized_kernels_and_others_in_one_nested_model(tmp_path):
    inner_x = keras.Input((4,))
    adapted = [keras.layers.Dense(4, name=name) for name in ("whole", "rounded")]
    inner = keras.Model(inner_x, adapted[1](adapted[0](inner_x)), name="inner")
    x = keras.Input((4,))
    model = keras.Model(x, keras.layers.Dense(2, name="answer")(inner(x)))
    for layer in adapted:
        layer.enable_lora(3)
    randomise(model)
    adapted[1].quantize("int8")
    model.save(tmp_path / "model.h5")
    same(tmp_path / "model.h5", model, np.random.default_rng(0).normal(size=(3, 4)))


@pytest.mark.filterwarnings("ignore:Layer InputLayer does not have")
def test_refused_beside_kernels_of_float8(tmp_path):
    x = keras.Input((3,))
    model = keras.Model(x, keras.layers.Dense(4, name="dense")(x))
    model.quantize("float8")
    model.save(tmp_path / "model.keras")
    ours = layergraph.load_model(tmp_path / "model.keras")
    with pytest.raises(ConfigError, match="quantized by float8 take no LoRA weights"):
        ours.get_layer("dense").enable_lora(2)
