"""Random tensors for custom layers: Keras's shapes, types and distributions, drawn from the generator of the call."""

from __future__ import annotations

from typing import Any

import keras
import layergraph
import numpy as np
import pytest
import torch
from layergraph import random
from layergraph.errors import ConfigError

DRAWN: dict[str, tuple[Any, ...]] = {
    "normal": ((20_000,), 1.0, 2.0),
    "truncated_normal": ((20_000,), 1.0, 2.0),
    "uniform": ((20_000,), -1.0, 3.0),
    "randint": ((20_000,), -2, 5),
}


@pytest.mark.parametrize("name", DRAWN)
def test_it_draws_from_keras_s_distribution(name: str) -> None:
    torch.manual_seed(0)
    ours = getattr(random, name)(*DRAWN[name], seed=random.SeedGenerator(3))
    theirs = getattr(keras.random, name)(*DRAWN[name], seed=3)
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    wanted = theirs.double().numpy()
    assert np.quantile(ours.double().numpy(), [0, 0.1, 0.5, 0.9, 1]) == pytest.approx(
        np.quantile(wanted, [0, 0.1, 0.5, 0.9, 1]), abs=0.15 if name != "normal" else 1.5
    )
    assert float(ours.double().mean()) == pytest.approx(wanted.mean(), abs=0.1)


def test_dropout_categorical_and_shuffle() -> None:
    x = torch.ones(1000, 4)
    dropped = random.dropout(x, 0.25, noise_shape=(None, 1))
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    assert bool((dropped == dropped[:, :1]).all())
    assert float((dropped == 0).float().mean()) == pytest.approx(0.25, abs=0.06)
    assert random.dropout(x, 0.0) is x
    logits = torch.log(torch.tensor([[0.1, 0.9], [0.5, 0.5]]))
    chosen = random.categorical(logits, 5000)
    assert chosen.dtype is torch.int32
    assert chosen.double().mean(1).tolist() == pytest.approx([0.9, 0.5], abs=0.05)
    rows = torch.arange(50).reshape(25, 2)
    assert random.shuffle(rows).sort(0).values.tolist() == rows.tolist()
    assert random.shuffle(rows).tolist() != rows.tolist()
    assert random.uniform((3,), 0, 5, dtype="int32").dtype is torch.int32
    with pytest.raises(ConfigError, match="seed is 'a', expected an integer or None"):
        random.SeedGenerator("a")  # type: ignore[arg-type]


class Noisy(layergraph.layers.Layer):
    """Noise in training, as in Keras's guide."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seed_generator = random.SeedGenerator(1)

    def call(self, x: Any, training: Any = None) -> Any:
        return x + random.normal(layergraph.ops.shape(x), seed=self.seed_generator) if training else x


def test_a_training_run_repeats_its_numbers() -> None:
    def trained(seed: int) -> list[float]:
        torch.manual_seed(seed)
        inputs = layergraph.Input((None, 3))
        hidden = layergraph.layers.GlobalAveragePooling1D()(Noisy()(inputs))
        model = layergraph.Model(inputs, layergraph.layers.Dense(1, kernel_initializer="ones")(hidden))
        model.compile("sgd", "mse")
        fitted = model.fit(np.ones((8, 5, 3), "f4"), np.ones((8, 1), "f4"), epochs=2, seed=7, verbose=0)
        losses: list[float] = fitted.history["loss"]
        return losses

    assert trained(0) == trained(1)
