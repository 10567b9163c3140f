from __future__ import annotations

import json

import numpy as np
import pytest
from layerserve import InvalidArgument
from layerserve.training.compile_settings import callbacks_json, class_weight_json, lora_json
from layerserve.training.options.contract import COMPILE
from layerserve.training.options.option import fill
from layerserve.v1.training_pb2 import TrainSpec


def compile_settings(**given):
    spec = TrainSpec()
    fill(spec, COMPILE, given)
    return spec.compile


class Schedule:
    def get_config(self):
        return {"initial_learning_rate": np.float32(0.5), "decay_steps": np.int64(10)}


class Adam:
    def get_config(self):
        return {"learning_rate": Schedule(), "betas": (0.9, 0.99), "weights": np.array([1.0, 2.0]), "clip": None}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("adam", "adam"),
        (
            {"class_name": "SGD", "config": {"learning_rate": 0.1}},
            {"class_name": "SGD", "config": {"learning_rate": 0.1}},
        ),
        (["mse", "mae"], ["mse", "mae"]),
        ({"main": "mse", "aux": None}, {"main": "mse", "aux": None}),
        ([1.0, 0.2], [1.0, 0.2]),
        ([], []),
        ([["accuracy"], []], [["accuracy"], []]),
        (
            Adam(),
            {
                "class_name": "Adam",
                "config": {
                    "learning_rate": {
                        "class_name": "Schedule",
                        "config": {"initial_learning_rate": 0.5, "decay_steps": 10},
                    },
                    "betas": [0.9, 0.99],
                    "weights": [1.0, 2.0],
                    "clip": None,
                },
            },
        ),
    ],
)
def test_what_compile_takes_travels_as_json(value, expected):
    assert json.loads(compile_settings(loss=value).loss) == expected


def test_what_is_not_given_is_left_to_the_file():
    settings = compile_settings(optimizer="sgd", weighted_metrics=[])
    assert (settings.optimizer, settings.loss, settings.metrics, settings.weighted_metrics) == ('"sgd"', "", "", "[]")


@pytest.mark.parametrize("value", [lambda a, b: 0, Adam, object(), ["mse", print]])
def test_what_cannot_travel_is_refused(value):
    with pytest.raises(InvalidArgument, match=r"loss: got .*, expected a name, a serialized object"):
        compile_settings(loss=value)


def test_an_optimizer_of_keras_is_serialised_as_keras_does(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras")
    optimizer = keras.optimizers.RMSprop(learning_rate=keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5))
    sent = json.loads(compile_settings(optimizer=optimizer).optimizer)
    again = keras.optimizers.deserialize(sent)
    assert again.get_config() == optimizer.get_config()


def test_a_tensor_in_a_config_of_keras_travels_as_a_list(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras")
    sent = json.loads(compile_settings(metrics=[keras.metrics.AUC(label_weights=[0.25, 0.75])]).metrics)
    assert sent[0]["config"]["label_weights"] == [0.25, 0.75]


class TensorOfTensorFlow:
    """Unlike arrays and torch's tensors, it has no `tolist`."""

    def __array__(self, dtype=None, copy=None):
        return np.array([0.25, 0.75])


def test_a_tensor_without_tolist_travels_as_a_list():
    assert json.loads(compile_settings(loss_weights=TensorOfTensorFlow()).loss_weights) == [0.25, 0.75]


def test_class_weights_travel_by_index():
    assert json.loads(class_weight_json({0: 1, np.int64(1): np.float32(2.5)})) == {"0": 1.0, "1": 2.5}
    assert class_weight_json(None) == ""


@pytest.mark.parametrize("value", [[1, 2], {"a": 1}, {0: "x"}, {0: float("nan")}])
def test_class_weights_that_are_none_are_refused(value):
    with pytest.raises(InvalidArgument, match="class_weight"):
        class_weight_json(value)


def test_what_is_not_given_is_not_sent():
    assert lora_json(None) == callbacks_json(None) == ""
    assert json.loads(lora_json({"rank": np.int64(4), "alpha": np.float32(0.5)})) == {"rank": 4, "alpha": 0.5}
