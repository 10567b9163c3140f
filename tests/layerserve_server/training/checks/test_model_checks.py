"""Requests of training are tried in a process of their own, which may cost what it likes."""

from __future__ import annotations

import resource
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from layergraph import Input, Model, layers
from layerserve.values.table_files.table import Selection
from layerserve_server.datasets import reader
from layerserve_server.datasets.data_file import DataFile
from layerserve_server.datasets.description import described_arrays
from layerserve_server.errors import (
    CallCancelledError,
    ForbiddenPathError,
    InvalidRequestError,
    InvalidTensorError,
    NotCompiledError,
    TooLargeError,
    UnavailableError,
    VersionFailedError,
)
from layerserve_server.jobs import failures, table
from layerserve_server.jobs import jobs as jobs_module
from layerserve_server.jobs.jobs import Jobs
from layerserve_server.jobs.limits import JobLimits
from layerserve_server.training.checks.model_checks import check, larger_is_better
from layerserve_server.training.request import DataArray, Role, RunRequest

SETTINGS = {"optimizer": "sgd", "loss": "mse"}
DATA = (DataArray(Role.X, "x", "float32", (6, 4)), DataArray(Role.Y, "y", "float32", (6, 3)))
GOOD = RunRequest("m", 1, DATA, compile=SETTINGS)
LIMITS = JobLimits(20.0, 1 << 30)


@pytest.fixture
def path(tmp_path):
    """The file of a small model."""
    x = Input((4,), name="x")
    file = tmp_path / "model.keras"
    # A name that regular expressions may take for ever to match.
    Model(x, layers.Dense(3, name="y")(layers.Dense(2, name="h" * 40)(x))).save(file)
    return file


@pytest.fixture
def try_it(jobs, path):
    """Tries a request on the small model."""

    def dry_run(request, seconds=20.0, memory_bytes=2 << 30):
        check(jobs.with_limits(seconds, memory_bytes), path, request, 15)

    return dry_run


def test_a_dry_run_ends_with_its_caller(jobs, path):
    made, answers = jobs.with_limits(), iter([False] * 2)
    with pytest.raises(CallCancelledError):
        check(made, path, for_ever(), 15, lambda: next(answers, True))
    for _ in range(jobs_module.MAX_QUEUED):
        assert made._slots.acquire(blocking=False)
    with pytest.raises(CallCancelledError):
        check(made, path, GOOD, 15, lambda: True)


def test_text_of_a_closed_vocabulary_passes(jobs, tmp_path):
    """The text of a dry run isn't in the vocabulary: that shows only with the data."""
    text = Input((1,), dtype="string", name="x")
    words = layers.StringLookup(vocabulary=["a", "b"], num_oov_indices=0, output_mode="one_hot")(text)
    path = tmp_path / "model.keras"
    Model(text, layers.Dense(3, name="y")(words)).save(path)
    data = (DataArray(Role.X, "x", "string", (6, 1)), DATA[1])
    check(jobs, path, replace(GOOD, data=data), 15)
    with pytest.raises(InvalidRequestError, match="unknown loss"):
        check(jobs, path, replace(compiled(loss="msee"), data=data), 15)


def for_ever():
    """A request whose dry run doesn't end."""
    return compiled(optimizer=named("Muon", exclude_layers=["^((h+)+)+$"]))


def named(class_name, **config):
    return {"class_name": class_name, "config": config}


def compiled(**changes):
    return replace(GOOD, compile={**SETTINGS, **changes})


def watched_by(class_name, **config):
    return replace(GOOD, callbacks=(named(class_name, **config),))


def test_a_good_request_passes(try_it):
    try_it(GOOD)
    try_it(replace(GOOD, callbacks=("TerminateOnNaN", named("CSVLogger", filename="a.csv"))))


@pytest.mark.parametrize(
    ("request_", "error", "text"),
    [
        (compiled(loss="msee"), InvalidRequestError, "unknown loss 'msee'"),
        (replace(GOOD, compile={}), NotCompiledError, "neither the request nor the model file"),
        (replace(GOOD, data=(DATA[0], replace(DATA[1], shape=(6, 2)))), InvalidTensorError, "got shape (6, 2)"),
        (watched_by("ModelCheckpoint", filepath="{epoch:0999999999d}.keras"), InvalidRequestError, "has the format"),
        (watched_by("CSVLogger", filename="a.csv", separator="\n" * 1000), InvalidRequestError, "one character"),
        (watched_by("CSVLogger", filename="a" * 300), InvalidRequestError, "File name too long"),
        (replace(GOOD, lora={"rank": 2, "layers": ["z*"]}), InvalidRequestError, "lora: pattern 'z*' matches no"),
        (compiled(metrics=[named("AUC", num_thresholds=2**27)]), InvalidRequestError, "'num_thresholds' is 134217728"),
        (compiled(metrics=[named("MeanIoU", num_classes=10**6)]), InvalidRequestError, "'num_classes' is 1000000"),
        (compiled(optimizer=named("SGD", learning_rate=1e308)), InvalidRequestError, "'learning_rate' is 1e+308"),
        (compiled(loss=named("CosineSimilarity", axis=7)), InvalidRequestError, "IndexError: Dimension out of range"),
    ],
)
def test_what_cannot_be_trained_with_is_refused_by_name(try_it, request_, error, text):
    with pytest.raises(error) as caught:
        try_it(request_)
    assert text in str(caught.value)


def test_what_takes_too_much_memory_costs_the_server_none(try_it):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wide = replace(GOOD, data=(DATA[0], replace(DATA[1], shape=(6, 2**30))))
    with pytest.raises(TooLargeError, match=r"one step with two rows takes more than \d+ bytes"):
        try_it(wide)
    # In kilobytes.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024


def test_what_takes_too_long_is_ended(try_it):
    with pytest.raises(TooLargeError, match="takes more than 1 seconds of processor time"):
        try_it(for_ever(), seconds=1.0)


def test_an_error_that_nothing_foresaw_is_logged_and_names_itself(caplog):
    reply = failures.reply_of(KeyError("internal"))
    with pytest.raises(InvalidRequestError, match="a job fails with KeyError; see the server's log"):
        failures.check(reply, table.CHECK_TRAINING, "a job")
    assert "KeyError: 'internal'" in caplog.records[-1].exception


@pytest.mark.parametrize("content", [b"no model", None])
def test_a_file_that_was_replaced_or_deleted_meanwhile_is_named(jobs, tmp_path, caplog, content):
    if content is not None:
        (tmp_path / "model.keras").write_bytes(content)
    with pytest.raises(VersionFailedError, match=r"^one step with two rows fails: model\.keras: "):
        check(jobs, tmp_path / "model.keras", GOOD, 15)
    with pytest.raises(VersionFailedError, match=r"^compiling the model fails: model\.keras: "):
        larger_is_better(jobs, tmp_path / "model.keras", GOOD, 15)
    assert not caplog.records


def test_a_process_that_cannot_be_started_is_unavailable(monkeypatch):
    monkeypatch.setattr(jobs_module, "PROGRAM", "no.such.module")
    with pytest.raises(UnavailableError):
        Jobs().run(table.CHECK_TRAINING, {}, LIMITS)


def test_a_job_of_a_function_that_is_missing_fails(jobs):
    with pytest.raises(InvalidRequestError, match="fails with ModuleNotFoundError"):
        jobs.run(replace(table.CONVERT, function="no_such_module:f", failure=InvalidRequestError), {}, LIMITS)


def test_files_are_looked_at_in_a_child(jobs, tmp_path):
    values = np.arange(12, dtype=np.float32).reshape(6, 2)
    np.save(tmp_path / "x.npy", values)
    np.savez_compressed(tmp_path / "packed.npz", y=values)
    plain, packed = DataFile(str(tmp_path), "x.npy"), DataFile(str(tmp_path), "packed.npz")
    wanted = [(plain, Selection()), (packed, Selection(key="y"))]
    assert described_arrays(jobs, wanted) == reader.describe_all(wanted)
    (tmp_path / "short.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:-1])
    (tmp_path / "link.npy").symlink_to(tmp_path / "x.npy")
    for name, error, text in (
        ("short.npy", InvalidTensorError, "the file is shorter than its array: got 47 bytes, expected 48"),
        ("link.npy", ForbiddenPathError, "is a symbolic link"),
        ("none.npy", InvalidRequestError, "No such file"),
    ):
        with pytest.raises(error, match=text):
            described_arrays(jobs, [(plain, Selection()), (replace(plain, path=name), Selection())])


def test_a_file_of_many_members_costs_the_child_only(jobs, tmp_path):
    with zipfile.ZipFile(tmp_path / "many.npz", "w") as archive:
        for number in range(20_000):
            archive.writestr(f"{number}.npy", b"")
    with pytest.raises(TooLargeError, match="reading the data files takes more than 8388608 bytes of memory"):
        described_arrays(jobs.with_limits(20.0, 1 << 23), [(DataFile(str(tmp_path), "many.npz"), Selection(key="1"))])
