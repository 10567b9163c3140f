"""Callbacks that write files, compared with stock Keras's."""

import csv
import json
import sys

import keras
import numpy as np
import pytest
from layergraph import Input, Model, layers, load_model
from layergraph.errors import ConfigError
from layergraph.training.callbacks.table import CALLBACKS, callback

RNG = np.random.default_rng(2)
X = RNG.standard_normal((24, 5)).astype("float32")
Y = np.eye(3, dtype="float32")[RNG.integers(0, 3, 24)]
FIT = {"batch_size": 8, "epochs": 4, "shuffle": False, "verbose": 0, "validation_split": 0.3}


def models():
    x = keras.Input((5,))
    theirs = keras.Model(x, keras.layers.Dense(3, activation="softmax")(x))
    x = Input((5,))
    ours = Model(x, layers.Dense(3, activation="softmax")(x))
    ours.set_weights(theirs.get_weights())
    theirs.compile("sgd", "categorical_crossentropy", metrics=["acc", keras.metrics.F1Score()])
    ours.compile("sgd", "categorical_crossentropy", metrics=["acc", {"class_name": "F1Score", "config": {}}])
    return ours, theirs


@pytest.mark.parametrize("validated", [True, False])
def test_csv(tmp_path, validated):
    ours, theirs = models()
    fit = FIT if validated else {**FIT, "validation_split": 0.0}
    ours.fit(X, Y, callbacks=CALLBACKS["CSVLogger"](tmp_path / "ours.csv", separator=";"), **fit)
    theirs.fit(X, Y, callbacks=keras.callbacks.CSVLogger(tmp_path / "theirs.csv", separator=";"), **fit)
    rows, expected = (
        list(csv.reader((tmp_path / name).read_text().splitlines(), delimiter=";"))
        for name in ("ours.csv", "theirs.csv")
    )
    assert rows[0] == expected[0]
    for row, other in zip(rows[1:], expected[1:], strict=True):
        for cell, value in zip(row, other, strict=True):
            assert cell.startswith('"[') == value.startswith('"[')
            assert numbers(cell) == pytest.approx(numbers(value), rel=1e-4, abs=1e-5)


def numbers(cell):
    return [float(part) for part in cell.strip('"[]').split(", ")] if cell != "NA" else [-1.0]


def test_csv_that_is_appended_to(tmp_path):
    ours, _ = models()
    for append in (False, True, True):
        ours.fit(X, Y, callbacks=CALLBACKS["CSVLogger"](tmp_path / "logs.csv", append=append), **{**FIT, "epochs": 2})
    lines = (tmp_path / "logs.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["epoch", "0", "1", "0", "1", "0", "1"]


def test_json_lines(tmp_path):
    ours, _ = models()
    history = ours.fit(X, Y, callbacks=CALLBACKS["JSONLogger"](tmp_path / "logs.jsonl"), **FIT)
    lines = [json.loads(line) for line in (tmp_path / "logs.jsonl").read_text().splitlines()]
    assert [line.pop("epoch") for line in lines] == [0, 1, 2, 3]
    assert list(lines[0]) == list(history.history)
    assert lines[2]["val_loss"] == history.history["val_loss"][2]
    ours.compile({"class_name": "SGD", "config": {"learning_rate": 1e38}}, "mse")
    ours.fit(X, Y * 3e38, callbacks=CALLBACKS["JSONLogger"](tmp_path / "nan.jsonl"), **FIT)
    assert json.loads((tmp_path / "nan.jsonl").read_text().splitlines()[1])["loss"] is None


@pytest.mark.parametrize(
    "options",
    [
        {"filepath": "m-{epoch:02d}-{val_acc:.2f}.keras"},
        {"filepath": "best.keras", "save_best_only": True, "monitor": "val_loss"},
        {"filepath": "best-{epoch}.keras", "save_best_only": True, "monitor": "val_acc"},
        {"filepath": "m-{epoch}.keras", "save_best_only": True, "initial_value_threshold": 0.0},
        {"filepath": "sub/m-{epoch}-{batch}.keras", "save_freq": 5},
        {"filepath": "m-{epoch}.weights.h5", "save_weights_only": True},
    ],
    ids=str,
)
def test_model_checkpoints(tmp_path, options):
    ours, theirs = models()
    config = {**options}
    ours.fit(X, Y, callbacks=callback({"class_name": "ModelCheckpoint", "config": config}, tmp_path / "ours"), **FIT)
    given = {**options, "filepath": str(tmp_path / "theirs" / options["filepath"])}
    theirs.fit(X, Y, callbacks=keras.callbacks.ModelCheckpoint(**given), **FIT)
    names = [
        sorted(str(path.relative_to(tmp_path / who)) for path in (tmp_path / who).rglob("m*.*"))
        for who in ("ours", "theirs")
    ]
    assert names[0] == names[1]
    if "save_freq" in options:
        # Keras calls hooks of batches in a thread, while the next step is already changing the weights.
        return
    for name in names[0]:
        found, expected = (tmp_path / who / name for who in ("ours", "theirs"))
        if options.get("save_weights_only"):
            one, other = models()[1], models()[1]
            one.load_weights(found)
            other.load_weights(expected)
        else:
            one, other = load_model(found), keras.saving.load_model(expected)
        for weight, their in zip(one.get_weights(), other.get_weights(), strict=True):
            np.testing.assert_allclose(weight, their, rtol=1e-4, atol=1e-5)


def test_a_model_that_is_saved_in_an_epoch_has_the_weights_of_that_step(tmp_path):
    ours, again = models()[0], models()[0]
    again.set_weights(ours.get_weights())
    ours.fit(
        X, Y, callbacks=CALLBACKS["ModelCheckpoint"](tmp_path / "{batch}.keras", save_freq=2), **{**FIT, "epochs": 1}
    )
    for start in (0, 8):
        rows = slice(start, min(start + 8, int(24 * 0.7)))
        again.train_on_batch(X[rows], Y[rows])
    for weight, other in zip(load_model(tmp_path / "2.keras").get_weights(), again.get_weights(), strict=True):
        assert (weight == other).all()


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("ModelCheckpoint", {"filepath": "m.pt"}, "expected an ending of .keras"),
        ("ModelCheckpoint", {"filepath": "m.keras", "save_weights_only": True}, "expected an ending of .weights.h5"),
        (
            "ModelCheckpoint",
            {"filepath": "{epoch.__class__}.keras"},
            "names 'epoch.__class__'",
        ),
        ("ModelCheckpoint", {"filepath": "{epoch.keras"}, "option 'filepath' is"),
        ("ModelCheckpoint", {"filepath": "m.keras", "save_freq": 0}, "expected a positive integer"),
        ("ModelCheckpoint", {"filepath": "/etc/m.keras"}, "expected a relative path"),
        ("ModelCheckpoint", {"filepath": "../m.keras"}, "expected a relative path"),
        ("CSVLogger", {"filename": "a/../../b.csv"}, "expected a relative path"),
        ("CSVLogger", {"filename": ""}, "expected a path"),
        ("BackupAndRestore", {"backup_dir": "/tmp/x"}, "expected a relative path"),
        ("TensorBoard", {"log_dir": "..", "update_freq": 2}, "expected a relative path"),
        ("CSVLoger", {"filename": "a"}, "did you mean 'CSVLogger'"),
    ],
)
def test_what_is_wrong_is_said_before(tmp_path, name, config, message):
    with pytest.raises(ConfigError, match=message):
        callback({"class_name": name, "config": config}, tmp_path)


def test_a_log_that_there_is_not_in_a_path(tmp_path):
    ours, _ = models()
    with pytest.raises(ConfigError, match="'val_los' is no log"):
        ours.fit(X, Y, callbacks=CALLBACKS["ModelCheckpoint"](tmp_path / "{val_los}.keras"), **FIT)
    options = {"monitor": "val_los", "save_best_only": True}
    with pytest.raises(ConfigError, match="unknown log 'val_los'"):
        ours.fit(X, Y, callbacks=CALLBACKS["ModelCheckpoint"](tmp_path / "m.keras", **options), **FIT)


def test_tensorboard_events(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    ours, _ = models()
    history = ours.fit(X, Y, callbacks=CALLBACKS["TensorBoard"](tmp_path, update_freq=2), **FIT).history
    read = {}
    for kind in ("train", "validation"):
        events = EventAccumulator(str(tmp_path / kind))
        events.Reload()
        for tag in events.Tags()["scalars"]:
            read[kind, tag] = [(event.step, event.value) for event in events.Scalars(tag)]
    assert set(read) == {
        *(("train", tag) for tag in ("epoch_loss", "epoch_acc", "epoch_learning_rate", "batch_loss", "batch_acc")),
        *(("validation", tag) for tag in ("epoch_loss", "epoch_acc")),
    }
    assert read["validation", "epoch_loss"] == [(i, pytest.approx(v)) for i, v in enumerate(history["val_loss"])]
    assert [step for step, _ in read["train", "batch_loss"]] == [2, 4, 6, 8]


def test_tensorboard_that_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match="pip install tensorboard"):
        models()[0].fit(X, Y, callbacks=CALLBACKS["TensorBoard"](tmp_path), **FIT)
