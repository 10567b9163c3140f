"""Callbacks, losses and metrics as Keras's objects and functions. The oracle is stock Keras."""

from __future__ import annotations

import inspect
import json

import numpy as np
import pytest
from layergraph.training.callbacks.table import CALLBACKS as SERVED
from layergraph.training.callbacks.table import callback as read_callback
from layerserve import InvalidArgument
from layerserve.training.compile_settings import callbacks_json, plain
from layerserve.training.keras_objects import CALLBACKS


@pytest.fixture
def keras(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    return pytest.importorskip("keras")


#: Arguments of Keras's callbacks, none of them a default.
ARGUMENTS = {
    "EarlyStopping": {
        **{"monitor": "val_accuracy", "min_delta": 0.5, "patience": 2, "verbose": 1, "mode": "max", "baseline": 0.25},
        **{"restore_best_weights": True, "start_from_epoch": 3},
    },
    "ReduceLROnPlateau": {
        **{"monitor": "loss", "factor": 0.5, "patience": 2, "verbose": 1, "mode": "min", "min_delta": 0.25},
        **{"cooldown": 3, "min_lr": 0.125},
    },
    "TerminateOnNaN": {"raise_error": True},
    "ModelCheckpoint": {
        **{"filepath": "best.keras", "monitor": "loss", "verbose": 1, "save_best_only": True, "mode": "min"},
        **{"save_weights_only": False, "save_freq": 7, "initial_value_threshold": 0.5},
    },
    "BackupAndRestore": {"backup_dir": "b", "save_freq": 5, "double_checkpoint": True, "delete_checkpoint": False},
    "CSVLogger": {"filename": "log.csv", "separator": ";", "append": True},
    "TensorBoard": {"log_dir": "events", "update_freq": 3},
    "SwapEMAWeights": {"swap_on_epoch": True},
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_callback_of_keras_is_what_it_was_made_of(keras, name):
    (sent,) = json.loads(callbacks_json(getattr(keras.callbacks, name)(**ARGUMENTS[name])))
    assert sent == {"class_name": name, "config": ARGUMENTS[name]}
    read_callback(sent)  # which the server reads


def test_a_callback_with_defaults_has_those(keras):
    for name in ("EarlyStopping", "ReduceLROnPlateau", "TerminateOnNaN", "SwapEMAWeights"):
        (sent,) = json.loads(callbacks_json([getattr(keras.callbacks, name)()]))
        defaults = {
            key: one.default
            for key, one in inspect.signature(getattr(keras.callbacks, name)).parameters.items()
            if one.default not in (None, inspect.Parameter.empty)
        }
        assert sent["config"] == defaults


def test_all_callbacks_of_the_server_are_known():
    assert {*CALLBACKS} == {*SERVED} - {"JSONLogger"}, "Keras has no JSONLogger"


def test_a_schedule_is_sent_and_a_function_is_not(keras):
    schedule = keras.optimizers.schedules.ExponentialDecay(0.5, 10, 0.25)
    (sent,) = json.loads(callbacks_json(keras.callbacks.LearningRateScheduler(schedule)))
    assert sent["config"]["schedule"]["class_name"] == "ExponentialDecay"
    with pytest.raises(
        InvalidArgument, match=r"LearningRateScheduler with a function, .* expected a schedule of keras"
    ):
        callbacks_json(keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate))


def test_what_a_run_has_anyway_is_left_out(keras):
    assert callbacks_json([keras.callbacks.History(), "TerminateOnNaN"]) == '["TerminateOnNaN"]'


def test_own_code_is_refused_with_what_to_write(keras):
    class Mine(keras.callbacks.EarlyStopping):
        pass

    for one in (Mine(), keras.callbacks.LambdaCallback(on_epoch_end=print), object()):
        with pytest.raises(InvalidArgument) as caught:
            callbacks_json([one])
        assert f"got {type(one).__name__}, whose code isn't sent to the server" in str(caught.value)
        assert "iterate over the run: for event in client.train(...)" in str(caught.value)


def old(name, **attributes):
    """A callback as tf.keras has it: with the function that it compares by in place of the mode."""
    made = type(name, (), {"__module__": "keras.src.callbacks"})()
    vars(made).update(attributes)
    return made


@pytest.mark.parametrize(("compares", "mode"), [(np.less, "min"), (np.greater, "max")])
def test_callbacks_of_keras_2_are_read(compares, mode):
    made = old("EarlyStopping", monitor="val_loss", min_delta=-0.5, patience=3, monitor_op=compares, baseline=None)
    (sent,) = json.loads(callbacks_json(made))
    assert sent["config"] == {"monitor": "val_loss", "min_delta": 0.5, "patience": 3, "mode": mode}


@pytest.mark.parametrize("name", ["mean_squared_error", "sparse_categorical_crossentropy", "MeanSquaredError"])
def test_losses_of_keras_may_be_functions_or_classes(keras, name):
    assert plain("loss", {"a": getattr(keras.losses, name), "b": "mae"}) == {"a": name, "b": "mae"}
    assert plain("metrics", [keras.metrics.categorical_accuracy]) == ["categorical_accuracy"]


def test_an_own_function_is_refused_by_name():
    def focal(truth, prediction):
        return 0

    with pytest.raises(InvalidArgument, match="loss: got focal, whose code isn't sent to the server, expected a name"):
        plain("loss", focal)
