"""LoRA weights: trained, saved and merged as by stock Keras."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import layergraph
import numpy as np
import pytest
import torch
from layergraph import layers as own_layers
from layergraph.errors import ConfigError, GraphError
from layergraph.functional.call_context import CallContext
from layergraph.saving.lora import merged_weights
from layergraph.training.adapting import adapt, adaptable_paths
from layergraph.training.freezing import freeze

RNG = np.random.default_rng(7)
KINDS: dict[str, tuple[tuple[int, ...], Any]] = {
    "dense": ((6,), lambda k: k.Dense(5, activation="tanh", kernel_regularizer="l2", name="adapted")),
    "dense of steps": ((4, 6), lambda k: k.Dense(5, use_bias=False, name="adapted")),
    "einsum": ((5, 3), lambda k: k.EinsumDense("abc,cd->abd", (5, 4), bias_axes="d", name="adapted")),
    "einsum of heads": ((5, 6), lambda k: k.EinsumDense("abc,cde->abde", (5, 2, 3), bias_axes="de", name="adapted")),
    "einsum over its last axis": ((5, 6), lambda k: k.EinsumDense("abc,dc->abd", (5, 2), name="adapted")),
    "embedding": ((3,), lambda k: k.Embedding(7, 4, name="adapted")),
    "conv1d": ((6, 3), lambda k: k.Conv1D(4, 3, padding="causal", name="adapted")),
    "conv2d": ((6, 6, 3), lambda k: k.Conv2D(4, 3, strides=2, activation="relu", name="adapted")),
    "conv2d in groups": ((6, 6, 4), lambda k: k.Conv2D(4, 3, groups=2, name="adapted")),
    "conv3d": ((4, 4, 4, 3), lambda k: k.Conv3D(4, 2, dilation_rate=2, name="adapted")),
}
ADAM = {"class_name": "Adam", "config": {"learning_rate": 0.01}}
SGD = {
    "class_name": "SGD",
    "config": {
        **{"learning_rate": 0.05, "momentum": 0.9, "clipnorm": 0.5, "weight_decay": 0.01},
        **{"use_ema": True, "ema_momentum": 0.8},
    },
}
SCALED = {"class_name": "LossScaleOptimizer", "config": {"inner_optimizer": ADAM}}
FIT: dict[str, Any] = {"epochs": 2, "batch_size": 4, "shuffle": False, "verbose": 0}


def build(k: Any, layers: Any, kind: str) -> Any:
    shape, make = KINDS[kind]
    x = k.Input(shape, name="x")
    return k.Model(x, layers.Dense(2, name="out")(layers.Flatten(name="flat")(make(layers)(x))))


def data(kind: str) -> tuple[Any, Any]:
    shape = (12, *KINDS[kind][0])
    x = RNG.integers(0, 7, shape) if kind == "embedding" else RNG.standard_normal(shape).astype("float32")
    return x, RNG.standard_normal((12, 2)).astype("float32")


def both(kind: str, rank: int, alpha: int | None = None) -> tuple[Any, Any]:
    """Keras's model and ours with LoRA, with equal weights."""
    theirs, ours = build(keras, keras.layers, kind), build(layergraph, own_layers, kind)
    for model in (theirs, ours):
        model.get_layer("adapted").enable_lora(rank, lora_alpha=alpha)
    ours.set_weights(theirs.get_weights())
    return ours, theirs


def trained(kind: str = "dense", rank: int = 2, alpha: float | None = None, optimizer: Any = ADAM) -> Any:
    model = build(layergraph, own_layers, kind)
    model.get_layer("adapted").enable_lora(rank, lora_alpha=alpha)
    model.compile(optimizer, "mse")
    model.fit(*data(kind), **FIT)
    return model


@pytest.mark.parametrize(
    ("kind", "rank", "alpha", "optimizer"), [("dense", 2, None, ADAM), *((kind, 3, 5, SGD) for kind in KINDS)]
)
def test_trains_as_keras_does(kind: str, rank: int, alpha: int | None, optimizer: Any) -> None:
    ours, theirs = both(kind, rank, alpha)
    assert [w.shape for w in ours.trainable_weights] == [tuple(w.shape) for w in theirs.trainable_weights]
    assert ours.count_params() == theirs.count_params()
    x, y = data(kind)
    theirs.compile(keras.optimizers.deserialize(optimizer), "mse")
    ours.compile(optimizer, "mse")
    before = [weight.copy() for weight in ours.get_weights()]
    expected = theirs.fit(x, y, **FIT).history["loss"]
    assert ours.fit(x, y, **FIT).history["loss"] == pytest.approx(expected, rel=1e-5)
    for own, reference in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(own, reference, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(ours.get_layer("adapted").get_weights()[0], before[0])
    expected = theirs.predict(x, verbose=0)
    np.testing.assert_allclose(ours.predict(x), expected, atol=1e-5)
    # The plan that serves merges kernels, and merges them anew after training.
    np.testing.assert_allclose(ours.plan().run({"x": x})["out"], expected, atol=1e-5)
    ours.fit(x, y, **FIT)
    np.testing.assert_allclose(ours.plan().run({"x": x})["out"], ours.predict(x), atol=1e-6)


def test_a_plan_from_before_notices() -> None:
    model = build(layergraph, own_layers, "dense")
    x, y = data("dense")
    model.compile(ADAM, "mse")
    model.fit(x, y, **FIT)
    before = model.plan().run({"x": x})["out"]
    layer = model.get_layer("adapted")
    layer.enable_lora(2, b_initializer="ones")
    assert abs(model.plan().run({"x": x})["out"] - before).max() > 0.1
    np.testing.assert_allclose(model.predict(x), model.plan().run({"x": x})["out"], atol=1e-6)


def test_a_plan_that_ran_layer_by_layer_notices() -> None:
    model = build(layergraph, own_layers, "dense")
    x = torch.tensor(data("dense")[0])
    plan, context = model.plan(), CallContext(training=False)
    before, _ = plan.forward(context, [x])
    model.get_layer("adapted").enable_lora(2, b_initializer="ones")
    after, _ = plan.forward(context, [x])
    assert (after[0] - before[0]).abs().max() > 1e-3


def test_the_initial_weights_are_those_of_keras() -> None:
    layer = own_layers.Dense(300)
    layer(np.zeros((1, 400), "float32"))
    layer.enable_lora(16)
    _, _, a, b = layer.get_weights()
    limit = np.sqrt(6 / 400)
    assert (a.shape, b.shape, abs(b).max()) == ((400, 16), (16, 300), 0)
    assert 0.95 * limit < abs(a).max() <= limit


def test_an_argument_of_the_layer_enables_it_and_configs_keep_it() -> None:
    x = layergraph.Input((3,))
    model = layergraph.Model(x, own_layers.Dense(2, lora_rank=4, lora_alpha=8, name="adapted")(x))
    assert [w.shape for w in model.trainable_weights] == [(2,), (3, 4), (4, 2)]
    clone = layergraph.models.clone_model(model)
    lora = clone.get_layer("adapted").lora
    assert lora is not None
    assert (lora.rank, lora.alpha) == (4, 8)
    assert keras.Model.from_config(model.get_config()).get_layer("adapted").lora_rank == 4


@pytest.mark.parametrize(
    ("layer", "rank", "text"),
    [
        (lambda: own_layers.Dense(2, kernel_constraint="max_norm"), 2, "LoRA excludes a constraint of the kernel"),
        (lambda: own_layers.Embedding(3, 2, embeddings_constraint="max_norm"), 2, "a constraint of the embeddings"),
        (lambda: own_layers.Dense(2, lora_rank=1), 2, "has LoRA weights of rank 1 already"),
        (lambda: own_layers.Dense(2), 0, "rank is 0, expected a whole number from 1"),
        (lambda: own_layers.Dense(2), True, "rank is True, expected a whole number from 1"),
    ],
)
def test_what_keras_refuses_is_refused(layer: Any, rank: Any, text: str) -> None:
    made = layer()
    made(np.zeros((1, 3), "int32" if made.keras_class_name == "Embedding" else "float32"))
    with pytest.raises(ConfigError, match=text):
        made.enable_lora(rank)


def test_a_layer_that_is_not_built_is_refused() -> None:
    with pytest.raises(GraphError, match="isn't built yet"):
        own_layers.Dense(2).enable_lora(2)


# Files.


@pytest.mark.parametrize("kind", ["embedding", "conv2d"])
def test_a_keras_file_has_merged_kernels_for_keras_and_both_weights_for_us(kind: str, tmp_path: Path) -> None:
    model, (x, _) = trained(kind, alpha=3), data(kind)
    model.save(tmp_path / "m.keras")
    expected = model.predict(x)
    theirs = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(theirs.predict(x, verbose=0), expected, atol=1e-5)
    names = [weight.name for weight in theirs.get_layer("adapted").trainable_weights]
    assert [name for name in names if name.startswith("lora_")] == list(model.get_layer("adapted").lora_names)
    kept = layergraph.load_model(tmp_path / "m.keras", keep_lora=True)
    for own, reference in zip(kept.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(own, reference, atol=1e-6)
    plain = layergraph.load_model(tmp_path / "m.keras")
    assert len(plain.weights) == len(model.weights) - 2
    np.testing.assert_allclose(plain.predict(x), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["embedding", "conv2d"])
def test_an_h5_is_trained_on_by_keras(kind: str, tmp_path: Path) -> None:
    model, (x, y) = trained(kind), data(kind)
    model.save(tmp_path / "m.h5")
    theirs = keras.models.load_model(tmp_path / "m.h5", compile=False)
    np.testing.assert_allclose(theirs.predict(x, verbose=0), model.predict(x), atol=1e-5)
    kept = layergraph.load_model(tmp_path / "m.h5", keep_lora=True)
    for one in (theirs, kept):
        one.compile("sgd", "mse")
    expected = theirs.fit(x, y, **FIT).history["loss"]
    assert expected[-1] < expected[0]
    assert kept.fit(x, y, **FIT).history["loss"] == pytest.approx(expected, rel=1e-5)


def test_keras_own_h5_is_trained_on(tmp_path: Path) -> None:
    _, theirs = both("conv2d", 2, 5)
    theirs.get_layer("adapted").lora_kernel_b.assign(RNG.standard_normal((2, 4)))
    theirs.save(tmp_path / "m.h5")
    x, y = data("conv2d")
    kept = layergraph.load_model(tmp_path / "m.h5", keep_lora=True)
    for one in (theirs, kept):
        one.compile("sgd", "mse")
    expected = theirs.fit(x, y, **FIT).history["loss"]
    assert kept.fit(x, y, **FIT).history["loss"] == pytest.approx(expected, rel=1e-5)


def test_a_file_that_cannot_hold_them_is_refused(tmp_path: Path) -> None:
    model = trained(alpha=5)
    with pytest.raises(ConfigError, match=r"from an \.h5 Keras reads them as if alpha were the rank; merge them"):
        model.save(tmp_path / "m.h5")
    with pytest.raises(ConfigError, match="which Keras 2 doesn't have; merge them"):
        model.save(tmp_path / "m.h5", generation=2)
    with pytest.raises(ConfigError, match=r"format 'keras2_h5': .*; format 'keras3' can"):
        model.saved_format("keras2_h5")


@pytest.mark.parametrize(
    ("suffix", "generation", "optimizer"),
    [(".keras", 3, ADAM), (".h5", 3, SGD), (".h5", 2, SCALED)],
    ids=["keras", "h5", "keras2"],
)
def test_a_merged_file_is_an_ordinary_model(suffix: str, generation: int, optimizer: Any, tmp_path: Path) -> None:
    model, (x, y) = trained(alpha=5, optimizer=optimizer), data("dense")
    path, again = tmp_path / f"m{suffix}", tmp_path / "again.keras"
    model.save(again)
    with merged_weights(model):
        model.save(path, generation=generation)
        assert [w.name for w in model.get_layer("adapted").trainable_weights] == ["kernel", "bias"]
    expected = model.predict(x)
    plain = layergraph.load_model(path)
    assert plain.get_layer("adapted").get_config() == model_without_lora().get_config()
    np.testing.assert_allclose(plain.predict(x), expected, atol=1e-5)
    if generation == 3:
        theirs = keras.models.load_model(path, compile=False)
        assert not theirs.get_layer("adapted").lora_enabled
        np.testing.assert_allclose(theirs.predict(x, verbose=0), expected, atol=1e-5)
    # Training goes on as if nothing had been saved.
    kept = layergraph.load_model(again, keep_lora=True)
    assert model.fit(x, y, **FIT).history["loss"] == pytest.approx(kept.fit(x, y, **FIT).history["loss"], rel=1e-5)


def model_without_lora() -> Any:
    return build(layergraph, own_layers, "dense").get_layer("adapted")


@pytest.mark.parametrize(("suffix", "keras_wrote_it"), [(".keras", True), (".h5", False)])
def test_a_model_whose_lora_weights_were_merged_starts_with_a_new_state(
    keras_wrote_it: bool, suffix: str, tmp_path: Path
) -> None:
    """The file's state is that of the LoRA weights: such a model couldn't be saved or trained."""
    x, y = data("dense")
    if keras_wrote_it:
        _, model = both("dense", 2, 5)
        model.compile("adam", "mse")
        model.fit(x, y, **FIT)
    else:
        model = trained()
    model.save(tmp_path / f"m{suffix}")
    merged, fresh = (layergraph.load_model(tmp_path / f"m{suffix}") for _ in range(2))
    merged.save(tmp_path / f"again{suffix}")
    np.testing.assert_allclose(layergraph.load_model(tmp_path / f"again{suffix}").predict(x), merged.predict(x))
    fresh.compile(merged.optimizer.from_config(merged.optimizer.get_config()), "mse")
    assert merged.fit(x, y, **FIT).history["loss"] == pytest.approx(fresh.fit(x, y, **FIT).history["loss"])


# Patterns.


def of_attention() -> Any:
    x = layergraph.Input((4, 6), name="x")
    h = own_layers.MultiHeadAttention(2, 3, name="attention")(x, x)
    inner_x = layergraph.Input((4, 6), name="inner_x")
    inner = layergraph.Model(inner_x, own_layers.Dense(6, name="mixed")(inner_x), name="inner")
    model = layergraph.Model(x, own_layers.Dense(1, name="out")(own_layers.Flatten()(inner(h))))
    model.compile("adam", "mse")
    return model


def test_patterns_find_layers_inside_of_layers_and_models() -> None:
    model = of_attention()
    paths = [f"attention/{name}" for name in ("query", "key", "value", "attention_output")]
    assert set(adaptable_paths(model)) == {*paths, "inner/mixed", "out"}
    freeze(model, ["*"])
    assert adapt(model, ["*/query", "inner/*"], 2) == ["attention/query", "inner/mixed"]
    # As in Keras, biases of the layers are trained, too.
    names = [weight.name for weight in model.trainable_weights]
    assert names == ["bias", "lora_kernel_a", "lora_kernel_b"] * 2
    x = RNG.standard_normal((8, 4, 6)).astype("float32")
    before = model.predict(x)
    losses = model.fit(x, x[:, 0, :1], epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert abs(model.predict(x) - before).max() > 1e-4
    with merged_weights(model):
        assert model.trainable_weights == []


def test_slots_are_only_of_what_is_trained() -> None:
    model = of_attention()
    freeze(model, ["*"])
    adapt(model, ["out"], 2)
    model.optimizer.build(model.trainable_weights)
    shapes = [tuple(variable.numpy().shape) for variable in model.optimizer.variables]
    assert shapes == [(), (), (1,), (1,), (24, 2), (24, 2), (2, 1), (2, 1)]


def test_a_seed_determines_the_initial_weights() -> None:
    values = []
    for seed in (1, 1, 2):
        model = of_attention()
        adapt(model, ["out"], 2, seed=seed)
        values.append(model.get_layer("out").get_weights()[2])
    assert np.array_equal(values[0], values[1])
    assert not np.array_equal(values[0], values[2])


def test_a_pattern_without_such_a_layer_is_refused() -> None:
    with pytest.raises(ConfigError, match="lora: pattern 'flat' matches no Dense, EinsumDense, Embedding or"):
        adapt(build(layergraph, own_layers, "dense"), ["flat"], 2)


def test_weights_that_are_there_are_kept(tmp_path: Path) -> None:
    model = trained()
    model.save(tmp_path / "m.keras")
    kept = layergraph.load_model(tmp_path / "m.keras", keep_lora=True)
    adapt(kept, ["adapted"], 2)
    np.testing.assert_array_equal(kept.get_weights()[2], model.get_weights()[2])
    with pytest.raises(ConfigError, match="has LoRA weights of rank 2 and alpha 2 already, expected the same"):
        adapt(kept, ["adapted"], 3)


def test_a_layer_without_a_config_of_its_own_is_kept_by_no_file(tmp_path: Path) -> None:
    model = of_attention()
    adapt(model, ["*/query"], 2)
    with pytest.raises(ConfigError, match=r"layer 'query' \(EinsumDense\) has LoRA weights, but no config of its own"):
        model.save(tmp_path / "m.keras")
    with merged_weights(model):
        model.save(tmp_path / "m.keras")
    x = RNG.standard_normal((2, 4, 6)).astype("float32")
    theirs = keras.models.load_model(tmp_path / "m.keras", compile=False)
    np.testing.assert_allclose(theirs.predict(x, verbose=0), model.predict(x), atol=1e-5)
