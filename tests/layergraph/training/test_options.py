"""Limits on sizes in training settings are checked before anything of that size is allocated."""

import tracemalloc

import pytest
from layergraph import Input, Model, layers
from layergraph.archive.json_text import JsonError, json_value
from layergraph.errors import ConfigError, DataError
from layergraph.training.callbacks.table import callback
from layergraph.training.compile import MOST_METRICS, Compiled
from layergraph.training.losses import loss
from layergraph.training.metrics.table import metric
from layergraph.training.optimizers.table import optimizer

OF = {"metric": metric, "callback": callback, "loss": loss, "optimizer": optimizer}


@pytest.mark.parametrize(
    ("kind", "class_name", "config", "text"),
    [
        ("metric", "AUC", {"num_thresholds": 2**27}, "expected an integer from 2 to 100000"),
        ("metric", "AUC", {"num_thresholds": 1}, "expected an integer from 2 to 100000"),
        ("metric", "AUC", {"thresholds": [0.5] * 10_001}, "expected at most 10000 items"),
        ("metric", "Precision", {"thresholds": [0.5] * 10_001}, "expected at most 10000 items"),
        ("metric", "PrecisionAtRecall", {"recall": 0.5, "num_thresholds": 2**30}, "an integer from 1 to 100000"),
        ("metric", "MeanIoU", {"num_classes": 10**6}, "expected an integer from 1 to 4096"),
        ("metric", "OneHotIoU", {"num_classes": 5000, "target_class_ids": [0]}, "expected an integer from 1 to 4096"),
        ("metric", "Accuracy", {"name": "n" * 1001}, "expected at most 1000 characters"),
        ("metric", "BinaryAccuracy", {"threshold": -1e39}, "expected a number in the range of float32"),
        ("loss", "Huber", {"delta": 1e39}, "expected a number in the range of float32"),
        ("loss", "CategoricalFocalCrossentropy", {"alpha": [0.5] * 100_001}, "expected at most 100000 items"),
        ("optimizer", "SGD", {"learning_rate": 1e308}, "expected a number in the range of float32"),
        ("optimizer", "SGD", {"clipnorm": 1e39}, "expected a number in the range of float32"),
        ("optimizer", "Muon", {"ns_steps": 10**9}, "expected an integer from 0 to 100"),
        ("optimizer", "Muon", {"exclude_layers": ["x"] * 1001}, "expected at most 1000 items"),
        ("callback", "EarlyStopping", {"monitor": "m" * 1001}, "expected at most 1000 characters"),
        ("callback", "CSVLogger", {"filename": "a", "separator": "\n" * 1000}, "expected one character"),
        ("callback", "CSVLogger", {"filename": "a", "separator": ""}, "expected one character"),
        ("callback", "CSVLogger", {"filename": "a", "separator": "\n"}, "expected one character"),
        ("callback", "CSVLogger", {"filename": "a\0b"}, "expected a path"),
        ("callback", "CSVLogger", {"filename": "a" * 1001}, "expected at most 1000 characters"),
        ("callback", "ModelCheckpoint", {"filepath": "{epoch:0999999999d}.keras"}, "has the format '0999999999d'"),
        ("callback", "ModelCheckpoint", {"filepath": "{loss:.100f}.keras"}, "has the format '.100f'"),
        ("callback", "ModelCheckpoint", {"filepath": "{loss:{epoch}}.keras"}, "has the format '{epoch}'"),
        ("callback", "ModelCheckpoint", {"filepath": "{loss.real}.keras"}, "expected the name of a log"),
    ],
)
def test_what_is_too_large_is_refused_before_anything_is_made(kind, class_name, config, text):
    tracemalloc.start()
    try:
        with pytest.raises(ConfigError) as caught:
            OF[kind]({"class_name": class_name, "config": config})
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()
    assert text in str(caught.value)


@pytest.mark.parametrize("form", ["", "02d", ".2f", "+.3e", "_>8", "^12.4g", ",d", "%", "s", "08.3f"])
def test_usual_formats_of_file_names_are_taken(form):
    given = {"class_name": "ModelCheckpoint", "config": {"filepath": f"m-{{epoch:{form}}}.keras"}}
    assert callback(given).filepath == f"m-{{epoch:{form}}}.keras"


@pytest.mark.parametrize(
    "schedule",
    [
        {"class_name": "ExponentialDecay", "config": {"decay_steps": 1e-300, "decay_rate": 0.5}},
        {"class_name": "ExponentialDecay", "config": {"decay_steps": 10, "decay_rate": 1e300}},
        {"class_name": "CosineDecay", "config": {"decay_steps": 1e300}},
    ],
)
def test_schedules_have_numbers_of_float32(schedule):
    schedule["config"]["initial_learning_rate"] = 0.1
    with pytest.raises(ConfigError, match="float32"):
        optimizer({"class_name": "SGD", "config": {"learning_rate": schedule}})


def test_all_metrics_together_have_a_limit():
    Compiled(["y"], loss="mse", metrics=["mse"] * MOST_METRICS)
    with pytest.raises(ConfigError, match="got 1002 for all outputs together, expected at most 1000"):
        Compiled(["y", "z"], loss="mse", metrics=["mse"] * 250, weighted_metrics=["mse"] * 251)


def test_the_best_k_are_of_as_many_classes_as_there_are():
    x = Input((2,))
    model = Model(x, layers.Dense(3)(x))
    model.compile("sgd", "mse", metrics=[metric({"class_name": "Precision", "config": {"top_k": 4}})])
    with pytest.raises(DataError, match=r"top_k is 4, expected at most 3"):
        model.fit([[1.0, 2.0]], [[0.0, 0.0, 1.0]], verbose=0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1, 2, 3, 4]", "has more than 3 values"),
        ("[[[1]]]", "is nested more than 2 deep"),
        ("[" * 100_000, "characters"),
        ('"a long text"', "has 13 characters, expected at most 12"),
        ("NaN", "has the value NaN"),
        ("1e999", "has the number 1e999"),
        ("{", "isn't valid JSON"),
    ],
)
def test_json_has_limits_of_its_own(text, said):
    with pytest.raises(JsonError) as caught:
        json_value(text, most=12, values=3, depth=2)
    assert said in str(caught.value)


def test_an_integer_has_at_most_forty_digits():
    assert json_value("9" * 40, most=50, values=1, depth=1) == 10**40 - 1
    with pytest.raises(JsonError, match="has an integer of 41 digits, expected at most 40"):
        json_value("9" * 41, most=50, values=1, depth=1)


@pytest.mark.parametrize(("text", "value"), [("[[1]]", [[1]]), ("0.5", 0.5), ('{"a":null}', {"a": None})])
def test_json_within_its_limits_is_read(text, value):
    assert json_value(text, most=12, values=3, depth=2) == value
