"""Weights and optimizer state of a checkpoint, in a model that is published, evaluated or trained otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from layergraph import Input, Model, layers
from layergraph.errors import DataError
from layergraph.training.checkpoint import Checkpoints, read_whole
from layergraph.training.freezing import freeze, unfreeze
from layergraph.training.restored_model import finished_model, restore_model, trained_places

RNG = np.random.default_rng(4)
X = RNG.standard_normal((24, 4)).astype("float32")
Y = RNG.integers(0, 3, 24)
FIT: dict[str, Any] = {"batch_size": 8, "verbose": 0, "seed": 5}
OPTIMIZERS = [
    ("Adam", {"use_ema": True, "ema_momentum": 0.5, "gradient_accumulation_steps": 2}),
    ("SGD", {"momentum": 0.9, "learning_rate": 0.1}),
    ("LossScaleOptimizer", {"inner_optimizer": "Adafactor", "dynamic_growth_steps": 2}),
]


def model(optimizer: tuple[str, dict[str, Any]] = ("Adam", {}), units: int = 5) -> Model:
    x = Input((4,))
    hidden = layers.Dense(units, name="first")(x)
    made = Model(x, layers.Dense(3, activation="softmax", name="last")(layers.BatchNormalization(name="norm")(hidden)))
    rng = np.random.default_rng(0)
    made.set_weights([rng.uniform(0.1, 1, w.shape).astype("float32") for w in made.weights])
    name, config = optimizer
    made.compile({"class_name": name, "config": config}, "sparse_categorical_crossentropy")
    return made


def trained(folder: Path, epochs: int, made: Model) -> dict[str, Any]:
    """Trains, and returns the state after the last epoch."""
    made.fit(X, Y, epochs=epochs, checkpoints=Checkpoints(folder), **FIT)
    return read_whole(folder / "training.ckpt")


def numbers(made: Model) -> list[np.ndarray[Any, Any]]:
    assert made.optimizer is not None
    return [*made.get_weights(), *(variable.numpy() for variable in made.optimizer.variables)]


def assert_same(one: Model, other: Model) -> None:
    for got, expected in zip(numbers(one), numbers(other), strict=True):
        assert got.tobytes() == expected.tobytes()


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda optimizer: optimizer[0])
def test_the_model_of_a_checkpoint_is_that_of_the_run_that_stopped_there(
    tmp_path: Path, optimizer: tuple[str, dict[str, Any]]
) -> None:
    stopped, found = model(optimizer), model(optimizer)
    state = trained(tmp_path, 2, stopped)
    finished_model(found, state)
    assert_same(found, stopped)
    # And so does what is trained further.
    for one in (stopped, found):
        one.fit(X, Y, epochs=1, **FIT)
    assert_same(found, stopped)


def test_averages_are_what_the_run_ends_with_and_not_what_goes_on(tmp_path: Path) -> None:
    stopped, found = model(OPTIMIZERS[0]), model(OPTIMIZERS[0])
    state = trained(tmp_path, 2, stopped)
    assert restore_model(found, state) == []
    assert any((one != other).any() for one, other in zip(found.get_weights(), stopped.get_weights(), strict=True))
    assert found.optimizer is not None
    found.optimizer.finalize()
    assert_same(found, stopped)


def test_another_optimizer_starts_without_state_and_says_so(tmp_path: Path) -> None:
    state, found = trained(tmp_path, 1, model()), model(("SGD", {"momentum": 0.9}))
    assert restore_model(found, state) == [
        "the state of the optimizer starts anew: the checkpoint has that of Adam, this run has SGD"
    ]
    assert found.optimizer is not None
    assert found.optimizer.iterations == 0
    np.testing.assert_array_equal(found.get_weights()[0], state["weights"][0])
    found.fit(X, Y, epochs=1, **FIT)


def test_options_that_need_other_state_start_without_state(tmp_path: Path) -> None:
    state, found = trained(tmp_path, 1, model()), model(("Adam", {"amsgrad": True}))
    (text,) = restore_model(found, state)
    assert text == "the state of the optimizer starts anew: Adam has other state with its options here"
    # Averages that don't exist don't replace the weights.
    averaging = model(("Adam", {"use_ema": True}))
    finished_model(averaging, state)
    np.testing.assert_array_equal(averaging.get_weights()[0], state["weights"][0])


@pytest.mark.parametrize("scheduled", [False, True])
@pytest.mark.parametrize("keep", [True, False])
def test_the_rate_is_the_checkpoints_unless_it_is_to_stay(tmp_path: Path, scheduled: bool, keep: bool) -> None:
    state = trained(tmp_path, 1, model(("Adam", {"learning_rate": 0.125})))
    schedule = {"initial_learning_rate": 0.5, "decay_steps": 3, "decay_rate": 0.5}
    rate = {"class_name": "ExponentialDecay", "config": schedule} if scheduled else 0.5
    found = model(("Adam", {"learning_rate": rate}))
    assert found.optimizer is not None
    assert restore_model(found, state, keep_rate=keep) == []
    # The schedule counts on: three steps are done.
    own = 0.25 if scheduled else 0.5
    assert found.optimizer.rate() == pytest.approx(own if keep else 0.125)
    assert found.optimizer.iterations == 3


def test_weights_that_only_one_of_the_two_trains_are_named(tmp_path: Path) -> None:
    first = model(("Adam", {"use_ema": True}))
    freeze(first, ["first"])
    state = trained(tmp_path, 2, first)
    found = model(("Adam", {"use_ema": True}))
    freeze(found, ["last"])
    assert restore_model(found, state) == [
        "the state of the optimizer starts anew for weights that the checkpoint's run didn't train: "
        "first/kernel, first/bias",
        "the state of the optimizer isn't used for weights that this run doesn't train: last/kernel, last/bias",
    ]
    # The average of a weight that wasn't trained starts with the weight, not with zeros, which would replace it.
    kernel = found.get_weights()[0]
    found.fit(X, Y, epochs=1, **FIT)
    assert np.abs(found.get_weights()[0] - kernel).max() < 0.05
    assert found.optimizer is not None
    assert found.optimizer.iterations == 9
    unfreeze(found, ["*"])
    assert trained_places(found) == [0, 1, 2, 3, 6, 7]


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    state = trained(tmp_path, 1, model())
    with pytest.raises(DataError, match=r"weight 'first/kernel' has shape \(4, 5\), expected \(4, 6\)"):
        restore_model(model(units=6), state)
    x = Input((4,))
    other = Model(x, layers.Dense(3)(x))
    other.compile("adam", "mse")
    with pytest.raises(DataError, match="the checkpoint has 8 weights, the model has 2"):
        restore_model(other, state)
