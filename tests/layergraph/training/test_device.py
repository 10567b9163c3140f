"""Training on a pretend device in place of a GPU: all tensors are on it, and numbers are equal."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from layergraph import Input as Entry
from layergraph import Model, layers
from layergraph.training.checkpoint import Checkpoints
from layergraph.training.optimizers.table import OPTIMIZERS
from pretend_device import DEVICE, PretendDevice

ROWS = 6
PROCESSOR = torch.device("cpu")


def dense() -> Model:
    x = Entry((5,))
    y = layers.Dense(4, activation="gelu", kernel_regularizer="l2", activity_regularizer="l1")(x)
    y = layers.BatchNormalization()(layers.Dropout(0.3)(layers.GaussianNoise(0.1)(y)))
    return Model(x, layers.Dense(3, activation="softmax", kernel_constraint="max_norm")(y))


def images() -> Model:
    x = Entry((8, 8, 3))
    y = layers.SeparableConv2D(4, 3, padding="same", activation="relu")(layers.Rescaling(0.5)(x))
    y = layers.MaxPooling2D()(layers.add([y, layers.Conv2D(4, 1)(x)]))
    y = layers.SpatialDropout2D(0.2)(layers.Conv2DTranspose(3, 2)(layers.UpSampling2D()(y)))
    return Model(x, layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling2D()(y)))


def words() -> Model:
    ids = Entry((7,), dtype="int32")
    y = layers.Embedding(9, 4, mask_zero=True)(ids)
    # Kernels for whole sequences only exist for CPU and GPU; with other activations, layers compute step by step.
    y = layers.Bidirectional(layers.LSTM(3, activation="relu", return_sequences=True, recurrent_dropout=0.2))(y)
    y = layers.LayerNormalization()(layers.MultiHeadAttention(2, 3)(y, y))
    return Model(ids, layers.Dense(3, activation="softmax")(layers.GRU(3, activation="relu")(y)))


MODELS: dict[str, Callable[[], Model]] = {"dense": dense, "images": images, "words": words}


@pytest.fixture(autouse=True)
def _randomness_of_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pretend device has no random generator."""
    monkeypatch.setattr(
        "layergraph.training.trainer.new_generator", lambda seed, device: torch.Generator().manual_seed(seed or 0)
    )


def rows(model: Model) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    (spec,) = model.input_specs
    shape = (ROWS, *(size or 1 for size in spec.shape[1:]))
    x = rng.integers(0, 9, shape) if "int" in spec.dtype else rng.standard_normal(shape)
    return x.astype(spec.dtype), rng.integers(0, 3, ROWS)


def trained(
    make: Callable[[], Model],
    device: torch.device,
    *,
    one_hot: bool = False,
    epochs: int = 2,
    checkpoints: Checkpoints | None = None,
    **settings: Any,
) -> tuple[dict[str, Any], list[np.ndarray]]:
    """The logs of some epochs, with evaluation, and the weights afterwards."""
    model = make()
    rng = np.random.default_rng(1)
    model.set_weights([rng.uniform(0.05, 0.5, w.shape).astype(w.dtype) for w in model.get_weights()])
    x, y = rows(model)
    y = np.eye(3, dtype="float32")[y] if one_hot else y
    model.compile(**{"optimizer": "adam", "loss": "sparse_categorical_crossentropy", **settings})
    options = {"batch_size": 4, "verbose": 0, "seed": 3, "validation_data": (x, y), "class_weight": {0: 2.0}}
    options |= {"epochs": epochs, "checkpoints": checkpoints}
    with PretendDevice() if device == DEVICE else nullcontext():
        history = model.to(device).fit(x, y, **options).history
        assert {weight.value.device for weight in model.weights} == {device}
        return history, model.get_weights()


def check(make: Callable[[], Model], device: torch.device = DEVICE, tolerance: float = 1e-6, **settings: Any) -> None:
    history, weights = trained(make, device, **settings)
    expected, expected_weights = trained(make, PROCESSOR, **settings)
    assert history.keys() == expected.keys()
    for name in history:
        np.testing.assert_allclose(history[name], expected[name], rtol=tolerance)
    for got, wanted in zip(weights, expected_weights, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=10 * tolerance, atol=tolerance)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_trains_there_to_the_same_numbers(name: str) -> None:
    check(MODELS[name], epochs=1, metrics=["accuracy", "sparse_top_k_categorical_accuracy"])


@pytest.mark.parametrize("name", sorted(OPTIMIZERS.keys() - {"LossScaleOptimizer", "MultiOptimizer"}))
def test_each_optimizer_steps_there(name: str) -> None:
    check(dense, optimizer=name)


@pytest.mark.parametrize("before", [DEVICE, PROCESSOR])
def test_a_run_goes_on_there_from_a_checkpoint(before: torch.device, tmp_path: Any) -> None:
    """Also from another device's checkpoint, which contains CPU tensors."""
    settings = {"metrics": ["auc", "categorical_accuracy"], "loss": "categorical_crossentropy"}
    whole, weights = trained(dense, PROCESSOR, one_hot=True, **settings)
    trained(dense, before, one_hot=True, epochs=1, checkpoints=Checkpoints(tmp_path), **settings)
    resumed, resumed_weights = trained(dense, DEVICE, one_hot=True, checkpoints=Checkpoints(tmp_path), **settings)
    np.testing.assert_allclose(resumed["loss"], whole["loss"], rtol=1e-6)
    np.testing.assert_allclose(resumed["auc"], whole["auc"], rtol=1e-6)
    for got, wanted in zip(resumed_weights, weights, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def test_tensors_of_both_devices_do_not_mix() -> None:
    """Otherwise the tests above would prove nothing."""
    with PretendDevice(), pytest.raises(RuntimeError, match="from elsewhere"):
        torch.zeros(2, device=DEVICE) + torch.zeros(2)


def without_drawing() -> Model:
    x = Entry((8, 8, 3))
    y = layers.BatchNormalization()(layers.Conv2D(4, 3, activation="relu")(x))
    y = layers.GRU(5)(layers.Bidirectional(layers.LSTM(4, return_sequences=True))(layers.Reshape((36, 4))(y)))
    return Model(x, layers.Dense(3, activation="softmax")(y))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_gives_the_processors_numbers() -> None:
    check(without_drawing, torch.device("cuda", 0), 1e-4, metrics=["accuracy"])
