"""Callbacks with logs of consecutive epochs, compared with stock Keras's: ties, NaN, infinity, several runs."""

import random
import warnings

import keras
import numpy as np
import pytest
from layergraph.config.training_rules import KERAS3_RULES
from layergraph.errors import ConfigError, NonFiniteLossError
from layergraph.training.callbacks.table import CALLBACKS, callback
from layergraph.training.optimizers.table import optimizer

INF, NAN = float("inf"), float("nan")
#: Some values are ties in float32 but not in float64, some aren't finite.
VALUES = (
    1.0,
    1.0 + 1e-9,
    1.0 + 2e-7,
    0.5,
    0.3,
    0.1 + 0.2,
    0.30000001,
    0.95,
    1.05,
    -1.0,
    0.0,
    -0.0,
    NAN,
    INF,
    -INF,
    1e39,
)
RUNS = 25


class Trained:
    """The parts of a model that callbacks use; its weights are the index of the epoch."""

    metrics = ()
    training_rules = KERAS3_RULES

    def __init__(self, own_optimizer):
        self.optimizer = own_optimizer
        self.stop_training = False
        self.epoch = 0
        self.restored = None
        self.saved = []

    def get_weights(self):
        return [np.array(self.epoch)]

    def set_weights(self, weights):
        self.restored = int(weights[0])

    def save(self, path, overwrite=True):
        self.saved.append((self.epoch, str(path)))

    def log_direction(self, name):
        return "down"


def pair(name, options, rate=0.1):
    """Our callback and Keras's, each with its model."""
    ours, theirs = CALLBACKS[name](**options), getattr(keras.callbacks, name)(**options)
    mine, other = Trained(optimizer("sgd")), Trained(keras.optimizers.SGD(rate))
    mine.optimizer.learning_rate = rate
    ours.set_params({"logs": ["loss"], "epochs": 100})
    ours.set_model(mine)
    theirs.set_model(other)
    return (ours, mine), (theirs, other)


def run(one, model, values):
    """Passes the logs of all epochs until training is stopped."""
    model.restored = None
    model.stop_training = False
    one.on_train_begin({})
    shown = []
    for epoch, value in enumerate(values):
        model.epoch = epoch
        one.on_epoch_begin(epoch, {})
        logs = {"loss": value}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            one.on_epoch_end(epoch, logs)
        shown.append(logs)
        if model.stop_training:
            break
    one.on_train_end({})
    return shown


def sequences(seed):
    draw = random.Random(seed)
    for _ in range(RUNS):
        few = draw.sample(VALUES, draw.randint(2, 6))
        yield [draw.choice(few) for _ in range(14)]


@pytest.mark.parametrize(
    "options",
    [
        {"patience": 0},
        {"patience": 2, "restore_best_weights": True},
        {"patience": 2, "mode": "max", "restore_best_weights": True},
        {"patience": 3, "baseline": 0.5, "restore_best_weights": True},
        {"patience": 3, "baseline": 0.3, "min_delta": 0.05, "mode": "max", "restore_best_weights": True},
        {"patience": 2, "min_delta": -0.05, "restore_best_weights": True},
        {"patience": 1, "start_from_epoch": 3, "restore_best_weights": True},
        {"patience": 50, "restore_best_weights": True},
    ],
    ids=str,
)
def test_early_stopping(options):
    (ours, mine), (theirs, other) = pair("EarlyStopping", {"monitor": "loss", "mode": "min", **options})
    stopped = 0
    # A short run after each, which may end before the callback has looked at anything.
    for values in (part for whole in sequences(1) for part in (whole, whole[:2])):
        assert len(run(ours, mine, values)) == len(run(theirs, other, values)), values
        assert (mine.stop_training, mine.restored) == (other.stop_training, other.restored), values
        for name in ("wait", "best_epoch", "stopped_epoch"):
            assert getattr(ours, name) == getattr(theirs, name), (name, values)
        np.testing.assert_equal(ours.best, theirs.best)
        stopped += mine.stop_training
    assert (stopped > 0) == (options["patience"] < 50)


@pytest.mark.parametrize(
    "options",
    [
        {"patience": 1, "factor": 0.5},
        {"patience": 0, "factor": 0.5, "min_lr": 0.3},
        {"patience": 1, "factor": 0.1, "min_lr": 0.7, "cooldown": 1},
        {"patience": 1, "factor": 0.9, "min_lr": 0.1, "cooldown": 2, "min_delta": 0.0},
        {"patience": 2, "factor": 0.5, "mode": "max", "min_delta": -0.01},
        {"patience": 1, "factor": 0.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("rate", [0.7, 0.1])
def test_rates_on_a_plateau_are_those_of_float32(options, rate):
    reduced = 0
    for values in sequences(2):
        given = {"monitor": "loss", "mode": "min", **options}
        (ours, mine), (theirs, other) = pair("ReduceLROnPlateau", given, rate)
        own, their = run(ours, mine, values), run(theirs, other, values)
        assert [logs["learning_rate"] for logs in own] == [logs["learning_rate"] for logs in their], values
        assert (ours.wait, ours.cooling) == (theirs.wait, theirs.cooldown_counter), values
        reduced += own[0]["learning_rate"] != own[-1]["learning_rate"]
    assert reduced > 0 or rate <= options.get("min_lr", 0.0)


def test_a_rate_at_its_floor_is_not_reduced_again(capsys):
    # As float32, 0.7 is less than 0.7.
    (ours, mine), _ = pair("ReduceLROnPlateau", {"monitor": "loss", "patience": 1, "min_lr": 0.7, "verbose": 1}, 0.8)
    run(ours, mine, [1.0] * 6)
    assert capsys.readouterr().out.count("reduced to") == 1


@pytest.mark.parametrize(
    "options",
    [{}, {"mode": "max"}, {"initial_value_threshold": 0.5}, {"initial_value_threshold": 0.3, "mode": "max"}],
    ids=str,
)
def test_the_best_file_of_several_runs(tmp_path, options):
    given = {"filepath": str(tmp_path / "m-{epoch}.keras"), "monitor": "loss", "mode": "min", "save_best_only": True}
    (ours, mine), (theirs, other) = pair("ModelCheckpoint", {**given, **options})
    for values in sequences(3):
        run(ours, mine, values)
        run(theirs, other, values)
        assert mine.saved == other.saved, values
    assert mine.saved


def test_files_by_batches_of_several_runs(tmp_path):
    given = {"filepath": str(tmp_path / "m-{epoch}-{batch}.keras"), "save_freq": 4}
    (ours, mine), (theirs, other) = pair("ModelCheckpoint", given)
    for one in (ours, theirs):
        for _ in range(3):
            one.on_train_begin({})
            one.on_epoch_begin(0, {})
            for batch in range(6):
                one.on_train_batch_end(batch, {"loss": 1.0})
    assert mine.saved == other.saved
    assert len(mine.saved) == 4


def test_a_whole_model_may_be_an_h5_file():
    assert callback({"class_name": "ModelCheckpoint", "config": {"filepath": "m.h5"}}).filepath == "m.h5"


@pytest.mark.parametrize("name", ["EarlyStopping", "ReduceLROnPlateau"])
def test_a_log_of_several_numbers_cannot_be_watched(name):
    (ours, mine), _ = pair(name, {"monitor": "loss", "mode": "min"})
    with pytest.raises(ConfigError, match="log 'loss' is 3 numbers, expected one"):
        run(ours, mine, [np.ones(3), np.ones(3)])


@pytest.mark.parametrize("rate", [0.1, 0.7])
def test_scheduled_rates_are_those_of_float32(rate):
    schedule = {"schedule": lambda epoch, now: float(now) * 0.9}
    (ours, mine), (theirs, other) = pair("LearningRateScheduler", schedule, rate)
    values = [1.0] * 5
    own, their = run(ours, mine, values), run(theirs, other, values)
    assert [logs["learning_rate"] for logs in own] == [logs["learning_rate"] for logs in their]


@pytest.mark.parametrize("options", [{}, {"append": True}, {"separator": ";"}], ids=str)
def test_rows_of_csv(tmp_path, options):
    logs = [
        {"loss": 0.1, "f1": np.array([0.5, 1.0], np.float32), "val_loss": NAN},
        {"loss": INF, "f1": np.array([0.25, 0.0], np.float32), "more": 1.0},
        {"loss": 1, "text": "a;b,c"},
    ]
    texts = []
    for who, make in (("ours", CALLBACKS["CSVLogger"]), ("theirs", keras.callbacks.CSVLogger)):
        path = tmp_path / f"{who}.csv"
        path.write_text("epoch,before\r\n")
        logger = make(str(path), **options)
        for _ in range(2):
            logger.set_params({})
            logger.on_train_begin({})
            for epoch, given in enumerate(logs):
                logger.on_epoch_end(epoch, given)
            logger.on_train_end({})
        texts.append(path.read_bytes())
    assert texts[0] == texts[1]


def test_a_loss_that_is_no_number_may_be_an_error():
    one = callback({"class_name": "TerminateOnNaN", "config": {"raise_error": True}})
    one.on_epoch_begin(2)
    one.on_train_batch_end(0, {"loss": 1.0})
    with pytest.raises(NonFiniteLossError, match="loss is inf in step 5 of epoch 3"):
        one.on_train_batch_end(4, {"loss": INF})
