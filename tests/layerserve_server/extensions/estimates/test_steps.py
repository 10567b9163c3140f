"""Steps of a run by its request, compared with those that `fit` makes."""

from __future__ import annotations

import numpy as np
import pytest
from layergraph import Input, Model, layers
from layergraph.training.callbacks.callback import Callback
from layerserve_server.extensions.estimates.steps import steps_of
from layerserve_server.training.model import fit_arguments
from layerserve_server.training.request import EVALUATION, DataArray, Role, RunRequest


def request(rows: int, **settings: object) -> RunRequest:
    data = (DataArray(Role.X, "x", "float32", (rows, 2)), DataArray(Role.Y, "y", "float32", (rows, 1)))
    return RunRequest("m", 1, data, compile={"optimizer": "sgd", "loss": "mse"}, **settings)  # type: ignore[arg-type]


class Counted(Callback):
    """Counts the steps, those with fewer rows than the batch size, and those of validation."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.steps, self.tests, self.epochs = size, 0, 0, 0

    def on_train_batch_end(self, batch, logs=None) -> None:
        self.steps += 1

    def on_test_batch_end(self, batch, logs=None) -> None:
        self.tests += 1

    def on_epoch_end(self, epoch, logs=None) -> None:
        self.epochs += 1


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": 4, "epochs": 3},
        {"batch_size": 5, "epochs": 3},
        {"batch_size": 5, "epochs": 2, "validation_split": 0.4},
        {"batch_size": 5, "epochs": 2, "validation_split": 0.3},
        # Epochs of 2 steps, 2 steps and the remaining one, and again from the beginning.
        {"batch_size": 5, "epochs": 5, "steps_per_epoch": 2},
        {"batch_size": 4, "epochs": 4, "steps_per_epoch": 100},
        {"batch_size": 100, "epochs": 2},
    ],
)
def test_steps_are_those_of_fit(settings):
    given = request(24, **settings)
    x = Input((2,), name="x")
    model = Model(x, layers.Dense(1, name="y")(x))
    model.compile("sgd", "mse")
    counted = Counted(given.batch_size)
    arrays = [np.zeros(array.shape, "float32") for array in given.data]
    model.fit(**fit_arguments(given, arrays), callbacks=[counted])
    steps = steps_of(given)
    assert steps.total == counted.steps
    assert steps.validation * given.epochs == counted.tests
    assert steps.per_epoch == counted.params["steps"] or given.steps_per_epoch == 100
    assert steps.rows == counted.params["rows"]


def test_an_evaluation_is_one_epoch():
    steps = steps_of(request(10, batch_size=4, kind=EVALUATION, epochs=7))
    assert (steps.per_epoch, steps.total, steps.short, steps.validation) == (3, 3, 1, 0)
