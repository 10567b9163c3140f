"""Checkpoints: a run that was interrupted anywhere ends with the weights of an uninterrupted one."""

import errno
import json
import os
import random

import numpy as np
import pytest
import torch
from layergraph import Input, Model, layers
from layergraph.errors import CorruptFileError, DataError
from layergraph.training.callbacks.callback import Callback
from layergraph.training.callbacks.table import callback
from layergraph.training.checkpoint import Checkpoints
from synced import synced

RNG = np.random.default_rng(4)
X = RNG.standard_normal((40, 6)).astype("float32")
Y = RNG.integers(0, 3, 40)
FIT = {"batch_size": 8, "epochs": 4, "verbose": 0, "seed": 5, "validation_split": 0.2}
STEPS = 16
OPTIMIZERS = [
    ("Adam", {"use_ema": True, "gradient_accumulation_steps": 3}),
    ("Nadam", {"clipnorm": 0.5}),
    ("SGD", {"momentum": 0.9, "learning_rate": 0.5}),
    ("LossScaleOptimizer", {"inner_optimizer": "Adafactor", "dynamic_growth_steps": 5}),
]


def model(optimizer=("Adam", {}), metrics=("accuracy", "sparse_categorical_crossentropy")):
    x = Input((6,))
    h = layers.BatchNormalization()(layers.Dense(7, activation="relu")(x))
    h = layers.GaussianNoise(0.1)(layers.Dropout(0.3)(h))
    made = Model(x, layers.Dense(3, activation="softmax")(h))
    rng = np.random.default_rng(0)
    made.set_weights([rng.uniform(0.1, 1, w.shape).astype("float32") for w in made.weights])
    name, config = optimizer
    made.compile({"class_name": name, "config": config}, "sparse_categorical_crossentropy", metrics=list(metrics))
    return made


class Killed(Exception):
    pass


class KillAfter(Callback):
    """Interrupts a run after some batches; its counter isn't part of the run's state."""

    def __init__(self, batches):
        super().__init__()
        self.left = batches

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left < 0:
            raise Killed


def stoppers():
    return [
        callback({"class_name": "ReduceLROnPlateau", "config": {"monitor": "val_loss", "patience": 1, "factor": 0.5}}),
        callback({"class_name": "EarlyStopping", "config": {"monitor": "val_loss", "patience": 2, **BEST}}),
    ]


BEST = {"restore_best_weights": True}


def final(trained):
    state = [variable.numpy() for variable in trained.optimizer.variables]
    return [*trained.get_weights(), *state]


def check_same(run, unbroken):
    ours, expected = final(run), final(unbroken)
    assert len(ours) == len(expected)
    for one, other in zip(ours, expected, strict=True):
        assert (one == other).all()
    assert run.history.history == unbroken.history.history
    assert run.history.epoch == unbroken.history.epoch


@pytest.mark.parametrize(("optimizer", "every_steps"), [*zip(OPTIMIZERS, (1, 3, 3, 1), strict=True)])
def test_runs_broken_off_anywhere_end_the_same(tmp_path, optimizer, every_steps):
    adapts = optimizer[0] != "LossScaleOptimizer"
    unbroken = model(optimizer)
    unbroken.fit(X, Y, callbacks=stoppers() if adapts else [], **FIT)
    moments = random.Random(every_steps)
    for attempt in range(2):
        folder = tmp_path / str(attempt)
        for _ in range(50):
            run = model(optimizer)
            checkpoints = Checkpoints(folder, every_steps=every_steps)
            try:
                run.fit(
                    X,
                    Y,
                    callbacks=[*(stoppers() if adapts else []), KillAfter(moments.randrange(every_steps, 12))],
                    checkpoints=checkpoints,
                    **FIT,
                )
            except Killed:
                continue
            break
        check_same(run, unbroken)


def test_the_place_in_the_rows_is_kept_over_epochs(tmp_path):
    fit = {**FIT, "steps_per_epoch": 3, "epochs": 5}
    unbroken = model()
    unbroken.fit(X, Y, **fit)
    for _ in range(50):
        run = model()
        try:
            run.fit(X, Y, callbacks=[KillAfter(4)], checkpoints=Checkpoints(tmp_path, every_steps=1), **fit)
        except Killed:
            continue
        break
    check_same(run, unbroken)


class Logs(Callback):
    """Keeps the logs of batches and epochs, by their number; those of a batch that is repeated, again."""

    def on_train_begin(self, logs=None):
        self.seen = getattr(self, "seen", {})

    def on_train_batch_end(self, batch, logs=None):
        self.seen["batch", self.epoch, batch] = dict(logs)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_epoch_end(self, epoch, logs=None):
        self.seen["epoch", epoch] = dict(logs)


def two_outputs():
    x = Input((6,))
    made = Model(x, [layers.Dense(3, activation="softmax", name="a")(x), layers.Dense(1, name="b")(x)])
    rng = np.random.default_rng(0)
    made.set_weights([rng.uniform(0.1, 1, w.shape).astype("float32") for w in made.weights])
    losses = {"a": "sparse_categorical_crossentropy", "b": "mse"}
    made.compile("adam", losses, loss_weights={"a": 1.0, "b": 0.3}, metrics={"a": ["accuracy"], "b": ["mae"]})
    return made


@pytest.mark.parametrize("after", [3, 7])
def test_all_logs_of_a_run_that_was_broken_off_are_those_of_an_unbroken_one(tmp_path, after):
    """Those of each output, too, within an epoch that was half done."""
    labels, fit, unbroken = {"a": Y, "b": X[:, 0]}, {**FIT, "epochs": 2}, Logs()
    two_outputs().fit(X, labels, callbacks=[unbroken], **fit)
    checkpoints, logs = Checkpoints(tmp_path / "state", every_steps=1), Logs()
    with pytest.raises(Killed):
        two_outputs().fit(X, labels, callbacks=[logs, KillAfter(after)], checkpoints=checkpoints, **fit)
    two_outputs().fit(X, labels, callbacks=[logs], checkpoints=checkpoints, **fit)
    assert {"a_loss", "b_loss", "a_accuracy", "b_mae", "val_b_loss"} <= unbroken.seen["epoch", 1].keys()
    assert logs.seen.keys() == unbroken.seen.keys()
    for key, values in unbroken.seen.items():
        assert logs.seen[key] == pytest.approx(values, rel=1e-6), key


def test_files_of_callbacks_go_on_too(tmp_path):
    def files(folder):
        return [
            callback({"class_name": "CSVLogger", "config": {"filename": "logs.csv"}}, folder),
            callback({"class_name": "JSONLogger", "config": {"filename": "logs.jsonl"}}, folder),
            callback({"class_name": "ModelCheckpoint", "config": {"filepath": "{epoch}.keras"}}, folder),
        ]

    class KillAfterEpoch(Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 2:
                raise Killed

    metric = {"class_name": "F1Score", "config": {}}
    y = np.eye(3, dtype="float32")[Y]
    arguments = {"optimizer": "adam", "loss": "categorical_crossentropy", "metrics": [metric]}
    unbroken = model()
    unbroken.compile(**arguments)
    unbroken.fit(X, y, callbacks=files(tmp_path / "a"), **FIT)
    run = model()
    run.compile(**arguments)
    # Lines of the third epoch are written twice, since its checkpoint is missing.
    with pytest.raises(Killed):
        run.fit(X, y, callbacks=[*files(tmp_path / "b"), KillAfterEpoch()], checkpoints=Checkpoints(tmp_path), **FIT)
    run = model()
    run.compile(**arguments)
    run.fit(X, y, callbacks=files(tmp_path / "b"), checkpoints=Checkpoints(tmp_path), **FIT)
    for name in ("logs.csv", "logs.jsonl"):
        assert (tmp_path / "a" / name).read_text() == (tmp_path / "b" / name).read_text()
    lines = [json.loads(line) for line in (tmp_path / "b" / "logs.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1, 2, 3]
    assert len(lines[0]["f1_score"]) == 3
    assert {path.name for path in (tmp_path / "b").iterdir()} == {path.name for path in (tmp_path / "a").iterdir()}


def test_backup_and_restore(tmp_path):
    def backup(freq):
        config = {"backup_dir": "backup", "save_freq": freq}
        return callback({"class_name": "BackupAndRestore", "config": config}, tmp_path)

    unbroken = model()
    unbroken.fit(X, Y, **FIT)
    for freq in ("epoch", 3):
        with pytest.raises(Killed):
            model().fit(X, Y, callbacks=[backup(freq), KillAfter(9)], **FIT)
        assert list((tmp_path / "backup").iterdir())
        run = model()
        run.fit(X, Y, callbacks=[backup(freq)], **FIT)
        check_same(run, unbroken)
        assert not list((tmp_path / "backup").iterdir())


def test_a_run_that_ended_trains_no_more(tmp_path):
    run = model()
    run.fit(X, Y, checkpoints=Checkpoints(tmp_path), **FIT)
    again = model()
    history = again.fit(X, Y, checkpoints=Checkpoints(tmp_path), **FIT)
    assert history.epoch == [0, 1, 2, 3]
    check_same(again, run)


def test_a_random_seed_is_kept(tmp_path):
    fit = {**FIT, "seed": None}
    with pytest.raises(Killed):
        model().fit(X, Y, callbacks=[KillAfter(6)], checkpoints=Checkpoints(tmp_path, every_steps=1), **fit)
    seed = Checkpoints(tmp_path).read()["run"]["seed"]
    run, unbroken = model(), model()
    run.fit(X, Y, checkpoints=Checkpoints(tmp_path), **fit)
    unbroken.fit(X, Y, **{**FIT, "seed": seed})
    check_same(run, unbroken)


def test_when_checkpoints_are_due(tmp_path):
    steps = Checkpoints(tmp_path, every_steps=3)
    assert [steps.due_after_batch() for _ in range(3)] == [False, False, True]
    assert steps.due_after_epoch()
    steps.write({})
    assert not steps.due_after_batch()
    steps.ask()
    assert steps.due_after_batch()
    old = Checkpoints(tmp_path, every_seconds=1000.0)
    assert not old.due_after_batch()
    assert not old.due_after_epoch()
    assert Checkpoints(tmp_path, every_seconds=0.0).due_after_batch()
    assert not Checkpoints(tmp_path, every_epoch=False).due_after_epoch()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 6}, "seed is 5, expected 6"),
        ({"batch_size": 16}, "batch_size is 8, expected 16"),
        ({"shuffle": False}, "shuffle is True, expected False"),
        ({"validation_split": 0.5}, "rows is 32, expected 20"),
        ({"steps_per_epoch": 2}, "steps_per_epoch is None, expected 2"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, changed, message):
    model().fit(X, Y, checkpoints=Checkpoints(tmp_path), **{**FIT, "epochs": 1})
    with pytest.raises(DataError, match=message):
        model().fit(X, Y, checkpoints=Checkpoints(tmp_path), **{**FIT, **changed})


class Stopper(Callback):
    """Stops the run after a batch, counted across epochs, or after an epoch."""

    def __init__(self, batch=None, epoch=None):
        super().__init__()
        self.batch, self.epoch = batch, epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.model.optimizer.iterations == self.batch:
            self.model.stop_training = True

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.epoch:
            self.model.stop_training = True


class KillAtTheEnd(Callback):
    """Interrupts a run after all of its training."""

    def on_train_end(self, logs=None):
        raise Killed


@pytest.mark.parametrize(("stopper", "batches"), [({"batch": 6}, 6), ({"epoch": 1}, 8)], ids=["batch", "epoch"])
def test_a_run_that_was_stopped_stays_so(tmp_path, stopper, batches):
    """Only the checkpoint is left of it: a resumed run may have other callbacks."""
    with pytest.raises(Killed):
        model().fit(X, Y, callbacks=[Stopper(**stopper), KillAtTheEnd()], checkpoints=Checkpoints(tmp_path), **FIT)
    run, unbroken = model(), model()
    unbroken.fit(X, Y, callbacks=[Stopper(**stopper)], **FIT)
    run.fit(X, Y, checkpoints=Checkpoints(tmp_path), **FIT)
    check_same(run, unbroken)
    assert run.optimizer.iterations == batches
    assert run.history.epoch == [0, 1]


def test_a_run_goes_on_that_was_not_stopped(tmp_path):
    with pytest.raises(Killed):
        model().fit(X, Y, callbacks=[KillAfter(5)], checkpoints=Checkpoints(tmp_path), **FIT)
    run = model()
    run.stop_training = True
    run.fit(X, Y, checkpoints=Checkpoints(tmp_path), **FIT)
    assert run.optimizer.iterations == STEPS


class Trap:
    """Runs code of the file's author when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    "place", [lambda trap: trap, lambda trap: {"format": 1, "weights": [trap]}], ids=["all", "part"]
)
def test_a_checkpoint_never_runs_code(tmp_path, place):
    checkpoints = Checkpoints(tmp_path / "run")
    checkpoints.write({})
    torch.save(place(Trap(tmp_path / "trapped")), checkpoints.path)
    with pytest.raises(CorruptFileError, match="is no checkpoint, or is damaged"):
        checkpoints.read()
    assert not (tmp_path / "trapped").exists()
    # Without weights_only, the code does run.
    torch.load(checkpoints.path, weights_only=False)
    assert (tmp_path / "trapped").exists()


@pytest.mark.parametrize("state", [{"format": 2}, {}, [1]], ids=str)
def test_another_format_is_refused(tmp_path, state):
    torch.save(state, Checkpoints(tmp_path).path)
    with pytest.raises(CorruptFileError, match="is no checkpoint of format 1"):
        Checkpoints(tmp_path).read()


def test_a_checkpoint_is_on_the_disk_before_it_replaces_the_last(tmp_path, monkeypatch):
    """Otherwise a machine that loses power has neither: data, new name and folder are synced in this order."""
    events = synced(monkeypatch)
    Checkpoints(tmp_path).write({"value": np.arange(1000)})
    name, size = Checkpoints(tmp_path).path.name, Checkpoints(tmp_path).path.stat().st_size
    assert events == [("sync", size), ("replace", name), ("sync folder", tmp_path.stat().st_ino)]


def test_damaged_checkpoints_are_refused(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.write({"value": np.arange(1000)})
    assert (checkpoints.read()["value"] == np.arange(1000)).all()
    whole = checkpoints.path.read_bytes()
    for damaged in (whole[:100], whole[:-50], b"", whole[:800] + b"\x55" * 20 + whole[820:]):
        checkpoints.path.write_bytes(damaged)
        with pytest.raises(CorruptFileError, match="is no checkpoint, or is damaged"):
            checkpoints.read()
    checkpoints.discard()
    assert checkpoints.read() is None


def test_unfinished_files_are_cleared_away(tmp_path, monkeypatch):
    (tmp_path / ".training.ckpt.0123.tmp").write_bytes(b"torn")
    assert Checkpoints(tmp_path).read() is None
    assert not list(tmp_path.iterdir())

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        Checkpoints(tmp_path).write({"value": np.arange(1000)})
    assert not list(tmp_path.iterdir())
