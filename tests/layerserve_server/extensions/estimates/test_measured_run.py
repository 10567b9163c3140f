"""Trials execute the first steps of a run in a process of their own, and leave nothing behind."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from layergraph import Input, Model, layers
from layerserve_server.errors import BusyError, CallCancelledError, InvalidRequestError
from layerserve_server.extensions.estimates import measured_run
from layerserve_server.extensions.estimates.measured_run import MeasuredRuns
from layerserve_server.repository.layout import FoundVersion
from layerserve_server.training.proc_files import descendants_of
from layerserve_server.training.request import EVALUATION, DataArray, Role, RunRequest
from layerserve_server.training.run_folder.computing import LOCK
from left_folders import left_behind

#: Ids of words, and classes: random numbers of any size would be refused.
DATA = (
    DataArray(Role.X, "x", "float32", (70, 5)),
    DataArray(Role.Y, "y", "int64", (70, 1)),
    DataArray(Role.SAMPLE_WEIGHT, "", "float32", (70,)),
)
COMPILE = {"optimizer": "adam", "loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]}
REQUEST = RunRequest(
    *("m", 1, DATA),
    compile=COMPILE,
    epochs=9,
    batch_size=8,
    nice=0,
    validation_split=0.2,
    freeze=("y",),
    publish="best",
    callbacks=({"class_name": "CSVLogger", "config": {"filename": "a.csv"}},),
)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    x = Input((5,), name="x")
    words = layers.Flatten()(layers.Embedding(50, 4)(x))
    path = tmp_path_factory.mktemp("model") / "model.keras"
    Model(x, layers.Dense(3, activation="softmax", name="y")(words)).save(path)
    # As of a repository that is given by a relative path.
    return FoundVersion("m", 1, Path(os.path.relpath(path)), (1, 2, path.stat().st_size, 3, 4))


@pytest.fixture
def tried(jobs, base, tmp_path):
    folder = tmp_path / "runs"

    def trial(request=REQUEST, **options):
        try:
            return MeasuredRuns(jobs, folder, 20.0)(request, base, **options)
        finally:
            assert [path.name for path in folder.iterdir()] == [LOCK]

    return trial


def test_a_trial_shows_what_a_run_takes(tried, monkeypatch):
    monkeypatch.setattr(measured_run, "TRIAL_SECONDS", 1e9)
    trial = tried()
    laps = [lap.what for lap in trial.laps]
    # 56 rows to train with, 14 to validate with, and two epochs.
    epoch = ["step"] * 7 + ["around tests"] + ["test"] * 2 + ["around tests", "end of epoch"]
    assert laps == epoch * 2
    assert [lap.saved for lap in trial.laps[:3]] == [False, False, True]
    assert all(lap.seconds > 0 for lap in trial.laps)
    assert (trial.trainable, trial.non_trainable) == (200, 63)
    assert trial.memory > 50 << 20
    assert min(trial.start, trial.finish) > 0
    assert trial.checkpoint > 200 * 3 * 4
    assert trial.best > 263 * 4
    assert trial.largest_file > 0
    assert trial.event > 100


def test_an_evaluation_is_tried_and_ends_early(tried, monkeypatch):
    monkeypatch.setattr(measured_run, "TRIAL_SECONDS", 1e-6)
    trial = tried(replace(REQUEST, kind=EVALUATION, publish=False, callbacks=None, validation_split=0.0))
    assert [lap.what for lap in trial.laps] == ["step"]
    assert trial.checkpoint == 0


def test_a_trial_ends_early_but_with_an_epoch(tried, monkeypatch):
    monkeypatch.setattr(measured_run, "TRIAL_SECONDS", 1e-6)
    laps = [lap.what for lap in tried().laps]
    assert laps.count("step") == 1
    assert laps[-1] == "end of epoch"


def test_where_random_rows_are_refused_zeros_are_tried(jobs, tmp_path):
    """The loss of class indices is resolved by the data, so that its number of classes isn't known before."""
    x = Input((2,), name="x")
    Model(x, layers.Dense(2, activation="softmax", name="y")(layers.CategoryEncoding(1)(x))).save(tmp_path / "m.keras")
    base = FoundVersion("m", 1, tmp_path / "m.keras", (1, 2, 3, 3, 4))
    data = (DataArray(Role.X, "x", "int32", (8, 2)), DataArray(Role.Y, "y", "float32", (8, 2)))
    request = RunRequest("m", 1, data, compile={"optimizer": "sgd", "loss": "mse"}, nice=0)
    assert MeasuredRuns(jobs, tmp_path, 20.0)(request, base).laps


def test_a_trial_that_fails_is_refused_with_its_reason(tried):
    callbacks = ({"class_name": "CSVLogger", "config": {"filename": "a" * 300}},)
    with pytest.raises(InvalidRequestError, match=r"a trial of the run fails: .*File name too long"):
        tried(replace(REQUEST, callbacks=callbacks))


def test_a_trial_ends_with_its_caller(jobs, base, tmp_path):
    answers = iter([False] * 2)  # The trial itself may take half a second only.
    with pytest.raises(CallCancelledError):
        MeasuredRuns(jobs, tmp_path, 20.0)(replace(REQUEST, epochs=1000), base, lambda: next(answers, True))
    deadline = time.monotonic() + 10
    # Only the parent is left, without the trial's process, which is in a session of its own.
    while len(descendants_of(jobs._warm._process.pid)) > 0 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert descendants_of(jobs._warm._process.pid) == []
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]


def test_one_trial_at_a_time(jobs, base, tmp_path):
    tries = MeasuredRuns(jobs, tmp_path, 20.0)
    assert tries._slots.acquire(blocking=False)
    with pytest.raises(BusyError, match="another run is being estimated"):
        tries(REQUEST, base)


def test_what_a_killed_server_has_left_is_removed(tried, jobs, base, tmp_path):
    left = left_behind(tmp_path)
    assert MeasuredRuns(jobs, tmp_path, 20.0)(REQUEST, base).laps
    assert not left.exists()
