"""The request of a trial: a few batches of each kind, otherwise as the run's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from layerserve.training.options.contract import View
from layerserve.values.table_files.table import Selection
from layerserve_server.datasets.data_file import DataFile
from layerserve_server.extensions.estimates import random_rows
from layerserve_server.extensions.estimates.random_rows import trial_request, write_rows
from layerserve_server.training.request import Budget, DataArray, Role, RunRequest
from layerserve_server.training.run_folder.data import array_file

FILE = DataFile("d", "f.npz", stamp=(1, 2))
X = DataArray(Role.X, "x", "float32", (1003, 5), FILE, Selection(("x",)), mapped=True)
Y = DataArray(Role.Y, "y", "int64", (1003, 1))
REQUEST = RunRequest("m", 1, (X, Y), epochs=9, batch_size=10, budget=Budget(max_seconds=5.0, max_disk_bytes=9))


def shapes(request: RunRequest) -> dict[str, tuple[int, ...]]:
    return {array.role.value: array.shape for array in request.data}


def test_the_last_batch_has_as_many_rows_as_that_of_the_run() -> None:
    trial = trial_request(REQUEST)
    rows = 10 * random_rows.MAX_BATCHES + 3
    assert shapes(trial) == {"x": (rows, 5), "y": (rows, 1)}
    assert (trial.epochs, trial.batch_size, trial.budget) == (2, 10, Budget())
    assert trial.data[0] == DataArray(Role.X, "x", "float32", (rows, 5)), "it is a file of the trial"
    assert trial_request(replace(REQUEST, epochs=1)).epochs == 1


def test_few_rows_are_taken_whole() -> None:
    few = tuple(replace(array, shape=(37, *array.shape[1:])) for array in REQUEST.data)
    assert shapes(trial_request(replace(REQUEST, data=few))) == {"x": (37, 5), "y": (37, 1)}


def test_epochs_of_fewer_steps() -> None:
    trial = trial_request(replace(REQUEST, steps_per_epoch=4))
    assert shapes(trial)["x"] == (43, 5)
    assert trial.steps_per_epoch is None, "the rows are those of the steps"


def test_large_rows_are_fewer_but_not_below_two_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    row_bytes = 5 * 4 + 8
    monkeypatch.setattr(random_rows, "MAX_BYTES", 7 * 10 * row_bytes)
    assert shapes(trial_request(REQUEST))["x"] == (73, 5)
    monkeypatch.setattr(random_rows, "MAX_BYTES", 1)
    assert shapes(trial_request(REQUEST))["x"] == (23, 5)


@pytest.mark.parametrize(
    ("given", "rows"),
    [
        ({"validation_split": 0.2}, 81),
        ({"view": View(splits={"a": 0.8, "b": 0.2}, split="a", validate_on="b")}, 81),
    ],
)
def test_validation_has_data_of_its_own(given: dict[str, object], rows: int) -> None:
    trial = trial_request(replace(REQUEST, **given))
    found = shapes(trial)
    # Of 1003 rows, 802 are for training and 201 for validation.
    kept = 10 * random_rows.MAX_BATCHES + 2
    assert (found["x"], found["y"]) == ((kept, 5), (kept, 1))
    assert found["validation_x"][0] == found["validation_y"][0] == rows
    assert (trial.validation_split, trial.view) == (0.0, View()), "the rows are split already"


def test_rows_are_of_their_types(tmp_path) -> None:
    weights = DataArray(Role.SAMPLE_WEIGHT, "", "float32", (1003,))
    trial = trial_request(replace(REQUEST, data=(X, Y, weights), steps_per_epoch=1))
    write_rows(tmp_path, trial, {1: 7})
    x, y, weight = (np.load(array_file(tmp_path, index)) for index in range(3))
    assert (x.shape, x.dtype.name) == ((13, 5), "float32")
    assert ((x >= 0) & (x < 1)).all()
    assert len(np.unique(x)) > 50
    assert set(y.ravel().tolist()) <= set(range(7))
    assert (weight == 1).all()
