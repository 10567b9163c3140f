"""Training in bfloat16: the numbers of stock Keras's policy "mixed_bfloat16", in files without it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import layergraph
import numpy as np
import pytest
import torch
from layergraph import layers as own_layers
from layergraph.errors import ConfigError

RNG = np.random.default_rng(5)
IMAGES = RNG.standard_normal((32, 8, 8, 3)).astype("float32")
WORDS = RNG.integers(0, 9, (32, 5))
LABELS = RNG.integers(0, 3, 32)
FIT: dict[str, Any] = {"epochs": 4, "batch_size": 8, "shuffle": False, "verbose": 0}


def build(k: Any, layers: Any) -> Any:
    inner_x = k.Input((8, 8, 3), name="inner_x")
    h = layers.Conv2D(8, 3, activation="relu", name="conv")(inner_x)
    h = layers.BatchNormalization(name="norm")(h)
    inner = k.Model(inner_x, layers.GlobalAveragePooling2D(name="pool")(h), name="inner")
    image, words = k.Input((8, 8, 3), name="image"), k.Input((5,), dtype="int32", name="words")
    text = layers.LayerNormalization(name="scaled")(layers.Embedding(9, 8, name="table")(words))
    text = layers.GlobalAveragePooling1D(name="mean")(text)
    h = layers.Dense(16, activation="tanh", name="mixed")(layers.Concatenate(name="join")([inner(image), text]))
    return k.Model([image, words], layers.Dense(3, activation="softmax", dtype="float32", name="out")(h))


@pytest.fixture
def mixed_policy() -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    keras.config.set_dtype_policy(before)


def compiled(weights: Any = None) -> Any:
    model = build(layergraph, own_layers)
    if weights is not None:
        model.set_weights(weights)
    model.compile({"class_name": "Adam", "config": {"learning_rate": 0.01}}, "sparse_categorical_crossentropy")
    return model


def fitted(model: Any) -> list[float]:
    losses: list[float] = model.fit([IMAGES, WORDS], LABELS, **FIT).history["loss"]
    return losses


@pytest.mark.usefixtures("mixed_policy")
def test_trains_as_keras_does() -> None:
    theirs = build(keras, keras.layers)
    ours, exact = compiled(theirs.get_weights()), compiled(theirs.get_weights())
    ours.compute_in("mixed_bfloat16")
    theirs.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    before = ours.predict([IMAGES, WORDS])
    expected = theirs.predict([IMAGES, WORDS], verbose=0)
    np.testing.assert_allclose(before, expected, atol=4e-3)
    losses, reference = fitted(ours), fitted(theirs)
    assert losses == pytest.approx(reference, rel=1e-2)
    # It is another precision, not float32's.
    assert losses != pytest.approx(fitted(exact), rel=1e-6)
    assert {weight.value.dtype for weight in ours.weights} == {torch.float32}


def test_inner_tensors_have_the_dtypes_of_keras() -> None:
    model = compiled()
    model.compute_in("mixed_bfloat16")
    dtypes = {layer.name: layer.get_output_at(0).dtype for layer in model.layers}
    assert dtypes.pop("image") == "float32"
    assert dtypes.pop("words") == "int32"
    assert set(dtypes.values()) == {"bfloat16"}
    model.compute_in("float32")
    assert {layer.get_output_at(0).dtype for layer in model.layers} == {"float32", "int32"}


def test_a_file_has_the_policies_of_its_layers(tmp_path: Path) -> None:
    model = compiled()
    model.compute_in("mixed_bfloat16")
    fitted(model)
    model.save(tmp_path / "m.keras")
    assert {layer.dtype_policy.name for layer in model.walk_layers() if layer.own_weights} == {"mixed_bfloat16"}
    plain = layergraph.load_model(tmp_path / "m.keras")
    assert {layer.dtype_policy.name for layer in plain.walk_layers()} == {"float32"}
    theirs = keras.models.load_model(tmp_path / "m.keras")
    expected = theirs.predict([IMAGES, WORDS], verbose=0)
    np.testing.assert_allclose(plain.predict([IMAGES, WORDS]), expected, atol=1e-5)
    np.testing.assert_allclose(model.predict([IMAGES, WORDS]), expected, atol=2e-2)


def test_a_model_in_bfloat16_is_trained_in_float32() -> None:
    model, exact = compiled(), compiled()
    exact.set_weights(model.get_weights())
    model.compute_in("mixed_bfloat16")
    model.compute_in("float32")
    assert fitted(model) == fitted(exact)


@pytest.mark.parametrize("policy", ["float16", "mixed_float16", "int8_from_float32", 3])
def test_other_policies_are_refused(policy: Any) -> None:
    with pytest.raises(ConfigError, match="expected 'float32' or 'mixed_bfloat16'"):
        compiled().compute_in(policy)


def test_frozen_outputs_and_lora_work_in_it() -> None:
    model = compiled()
    model.compute_in("mixed_bfloat16")
    model.get_layer("inner").trainable = False
    model.get_layer("mixed").enable_lora(2)
    again = compiled()
    again.compute_in("mixed_bfloat16")
    again.get_layer("inner").trainable = False
    again.get_layer("mixed").enable_lora(2)
    again.set_weights(model.get_weights())
    losses = fitted(model)
    kept = again.fit([IMAGES, WORDS], LABELS, **FIT, cache_frozen=True).history["loss"]
    assert kept == losses
    assert losses[-1] < losses[0]
