"""Compile arguments in files of each generation; `compare_round_trips` tests them with real Keras releases."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import keras
import layergraph
import numpy as np
import pytest
from compiled_models import images, recommender, rows, tabular, text
from layergraph import optimizers
from layergraph.config.compiled import compile_config
from layergraph.config.diagnostics import Diagnostics
from layergraph.config.keras_versions import generation_of
from layergraph.errors import ConfigError
from layergraph.saving.compile_object import compile_object
from layergraph.saving.keras2.compile import Keras2Compile
from layergraph.saving.keras2.releases import Release
from layergraph.training import losses
from layergraph.training.metrics import table as metrics

#: Case -> its model, and what 2.15 wrote into an `.h5` and a `.keras`; by `make_compiled_settings.py`.
SETTINGS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "fixtures" / "compiled_settings.json").read_text())
BUILDERS = {build.__name__: build for build in (images, recommender, tabular)}


@cache
def built(name: str) -> Any:
    return BUILDERS[name](layergraph)


def as_filed(case: str, container: str, model: Any = None) -> Any:
    """The case's model as if it had been loaded from such a file."""
    about = SETTINGS[case]
    model = BUILDERS[about["model"]](layergraph) if model is None else model
    raw, problems = about[container], Diagnostics()
    model.compile_config = compile_config(raw, generation_of("2.15.0", {}), model.output_names, problems)
    assert not problems
    return model


def writer(model: Any) -> Keras2Compile:
    return Keras2Compile(model)


def resolved(value: Any, make: Any) -> Any:
    """A structure with classes and options in place of names and functions."""
    if isinstance(value, list):
        return [resolved(item, make) for item in value]
    if isinstance(value, dict) and "class_name" not in value:
        return {key: resolved(item, make) for key, item in value.items()}
    if value is None or metrics.by_shapes(value):
        return value
    made = make(value)
    return type(made).__name__, {k: v for k, v in made.get_config().items() if v is not None}


def assert_same_optimizer(got: dict[str, Any], want: dict[str, Any]) -> None:
    assert got["class_name"] == want["class_name"]
    # In the module keras.optimizers.experimental, some newer classes are found first.
    assert got.get("module") in (want.get("module"), str(want.get("module")).removesuffix(".experimental"))
    got, want = got["config"], want["config"]
    assert set(got) - {"name"} == set(want) - {"name"}
    for key, value in want.items():
        if key == "inner_optimizer":
            assert_same_optimizer(got[key], value)
        elif isinstance(value, dict):
            assert got[key]["module"] == value["module"]
            # Here, schedules without a name have their class's name.
            assert {**got[key]["config"], "name": None} == {**value["config"], "name": None}
        elif key != "name":
            assert got[key] == (pytest.approx(value) if isinstance(value, float) else value), key


@pytest.mark.parametrize("container", ["h5", "keras"])
@pytest.mark.parametrize("case", sorted(SETTINGS))
def test_what_2_15_wrote_is_written_again(case: str, container: str) -> None:
    want = SETTINGS[case][container]
    model = as_filed(case, container, built(SETTINGS[case]["model"]))
    written = writer(model)
    got = written.training_config() if container == "h5" else written.compile_config()
    assert not written.unsupported
    assert got["loss_weights"] == want["loss_weights"]
    assert resolved(got["loss"], losses.loss) == resolved(want["loss"], losses.loss)
    for key in ("metrics", "weighted_metrics"):
        assert resolved(got[key], metrics.metric) == resolved(want[key], metrics.metric)
    if container == "h5":
        assert_same_optimizer(got["optimizer_config"], want["optimizer_config"])
    elif isinstance(want["optimizer"], dict):
        assert_same_optimizer(got["optimizer"], want["optimizer"])
    else:
        assert got["optimizer"]["class_name"].lower() == want["optimizer"]


@pytest.mark.parametrize("case", ["tabular-names", "recommender-dict"])
def test_names_of_a_keras_file_go_into_an_h5(case: str, tmp_path: Path) -> None:
    model = as_filed(case, "keras")
    model.keras_version = "2.15.0"
    model.save(tmp_path / "m.h5", generation=2)
    with h5py.File(tmp_path / "m.h5") as file:
        written = json.loads(file.attrs["training_config"])
        state = file["optimizer_weights"].attrs["weight_names"]
    assert_same_optimizer(written["optimizer_config"], SETTINGS[case]["h5"]["optimizer_config"])
    assert resolved(written["metrics"], metrics.metric) == resolved(SETTINGS[case]["h5"]["metrics"], metrics.metric)
    assert state[0] == b"iteration:0"
    assert len(state) == 1 + 2 * len(model.trainable_weights)


@pytest.mark.parametrize(
    "nesting", [lambda click, rating: {"click": click, "rating": rating}, lambda *both: list(both)]
)
def test_names_of_outputs_before_those_of_metrics_are_not_repeated(nesting: Any) -> None:
    model = recommender(layergraph)
    areas = [{"class_name": "AUC", "config": {"name": "click_area"}}]
    config = {"optimizer_config": {"class_name": "SGD", "config": {"decay": 0.0}}, "loss": "mse"}
    for version, name in (("2.15.0", "click_area"), ("3.15.0", "click_click_area")):
        given = {**config, "metrics": nesting(areas, ["mae"])}
        model.compile_config = compile_config(given, generation_of(version, {}), model.output_names, Diagnostics())
        assert name in model.metrics_names


def test_names_of_metrics_in_a_file_stay_names_but_those_of_functions_alone() -> None:
    given = {"optimizer": "sgd", "loss": "mse", "metrics": ["AUC", "mae", "tversky"]}
    written = compile_config(given, generation_of("3.15.0", {}), ["main"], Diagnostics())
    assert written is not None
    wrapped = {"class_name": "MeanMetricWrapper", "config": {"name": "tversky", "fn": "tversky"}}
    assert written["metrics"] == ["AUC", "mae", wrapped]


def test_overlaps_count_in_floats_in_keras_2() -> None:
    model = images(layergraph)
    model.compile("sgd", "mse", metrics=[made_metric("OneHotMeanIoU", num_classes=3)])
    assert compile_object(model)["metrics"][0]["config"]["dtype"] == "int32"
    (((written,),),) = [writer(model).training_config()["metrics"]]
    assert written["config"]["dtype"] == "float32"


def test_one_list_of_metrics_is_for_all_outputs_of_keras_2() -> None:
    model = recommender(layergraph)
    given = {"optimizer_config": {"class_name": "SGD", "config": {}}, "loss": "mse", "metrics": ["mae", "mse"]}
    for version, logged in (
        ("2.4.0", {"click": ["mae", "mse"], "rating": ["mae", "mse"]}),
        ("3.15.0", {"click": ["mae"]}),
    ):
        model.compile_config = compile_config(given, generation_of(version, {}), model.output_names, Diagnostics())
        assert {f"click_{name}" for name in logged["click"]} == {n for n in model.metrics_names if "click_m" in n}


def test_weights_in_a_dict_beside_losses_in_a_list_go_by_name_in_keras_2() -> None:
    x = layergraph.Input((3,), name="x")
    model = layergraph.Model(x, [layergraph.layers.Dense(1, name=name)(x) for name in ("z", "a")])
    given = {"optimizer": "sgd", "loss": ["mae", "mse"], "loss_weights": {"a": 0.5, "z": 2.0}}
    for version, weights in (("2.15.0", [2.0, 0.5]), ("3.15.0", [0.5, 2.0])):
        model.compile_config = compile_config(given, generation_of(version, {}), model.output_names, Diagnostics())
        assert model.compilation.loss_weights == weights


@pytest.mark.parametrize(
    "arguments",
    [
        {"loss": "mse", "metrics": ["mae"]},
        {"loss": {"class_name": "Huber", "config": {"delta": 0.5}}, "weighted_metrics": ["mae", "mse", "mape"]},
        {"loss": "mse", "loss_weights": [0.5, 2.0]},
        {"loss": {"click": "mae", "rating": "mse"}, "loss_weights": [0.5, 2.0]},
        {"loss": "mse", "metrics": "mae"},
    ],
    ids=str,
)
def test_stock_keras_3_trains_what_one_word_says_of_several_outputs(arguments: dict[str, Any], tmp_path: Path) -> None:
    model = recommender(layergraph)
    model.compile("sgd", **arguments)
    model.save(tmp_path / "m.keras")
    theirs = keras.models.load_model(tmp_path / "m.keras")
    x, y = rows(model)
    fit = {"batch_size": 7, "shuffle": False, "verbose": 0}
    want, got = model.fit(x, y, **fit).history, theirs.fit(x, y, **fit).history
    assert set(want) == set(got)
    assert all(got[name] == pytest.approx(want[name], rel=1e-4) for name in want)


def test_stock_keras_3_trains_with_one_metric(tmp_path: Path) -> None:
    model = tabular(layergraph)
    model.compile("sgd", "mse", metrics="mae")
    model.save(tmp_path / "m.keras")
    assert keras.models.load_model(tmp_path / "m.keras").get_compile_config()["metrics"] == ["mae"]


@pytest.mark.parametrize(("minor", "prefix"), [(4, ""), (5, "click_")])
def test_releases_that_repeat_names_of_outputs_get_none(minor: int, prefix: str) -> None:
    model = recommender(layergraph)
    model.compile("sgd", "mse", metrics={"click": ["acc", made_metric("AUC", name="area")]})
    written = Keras2Compile(model, Release(minor)).training_config()["metrics"]
    assert [metric["config"]["name"] for metric in written[0]] == [f"{prefix}acc", f"{prefix}area"]


def test_tensorflow_1_gets_words() -> None:
    """It names logs by metric names, and doesn't resolve names of classes. It lacks newer names."""
    model = recommender(layergraph)
    model.compile("sgd", "huber", metrics={"click": ["acc", "AUC"], "rating": "root_mean_squared_error"})
    written = Keras2Compile(model, Release(2)).training_config()
    assert written["loss"] == "huber_loss"
    root = written["metrics"].pop("rating")
    assert written["metrics"] == {"click": ["acc", "AUC"]}
    assert (root["class_name"], root["config"]["name"]) == ("RootMeanSquaredError", "root_mean_squared_error")
    assert written["sample_weight_mode"] is None
    model.compile("sgd", "MeanSquaredError")
    assert Keras2Compile(model, Release(2)).training_config()["loss"] == "mean_squared_error"


@pytest.mark.parametrize(
    ("arguments", "minor", "named"),
    [
        ({"loss": "binary_focal_crossentropy"}, 7, "loss BinaryFocalCrossentropy"),
        ({"metrics": [{"class_name": "F1Score", "config": {}}]}, 12, r"metric 'f1_score' \(F1Score\)"),
        (
            {"loss": {"class_name": "SparseCategoricalCrossentropy", "config": {"ignore_class": 1}}},
            9,
            "option 'ignore_class' of loss SparseCategoricalCrossentropy",
        ),
        (
            {"metrics": [{"class_name": "MeanIoU", "config": {"num_classes": 2, "ignore_class": 1}}]},
            9,
            "option 'ignore_class' of metric MeanIoU",
        ),
        (
            {
                "optimizer": {
                    "class_name": "SGD",
                    "config": {
                        "learning_rate": {
                            "class_name": "CosineDecay",
                            "config": {"initial_learning_rate": 0.0, "decay_steps": 9, "warmup_target": 0.1},
                        }
                    },
                }
            },
            12,
            "option 'warmup_target' of schedule CosineDecay",
        ),
        ({"optimizer": "lion"}, 12, "optimizer Lion"),
        ({"optimizer": {"class_name": "LossScaleOptimizer", "config": {"inner_optimizer": "adam"}}}, 3, "LossScale"),
    ],
    ids=str,
)
def test_what_a_release_lacks_is_refused_by_name(arguments: dict[str, Any], minor: int, named: str) -> None:
    model = tabular(layergraph)
    model.compile(**{"optimizer": "sgd", "loss": "mse", **arguments})
    for release, refused in ((minor, True), (15, False)):
        written = Keras2Compile(model, Release(release))
        written.training_config()
        assert bool(written.unsupported) is refused
        if refused:
            assert re.search(rf"{named}.* isn't supported", written.unsupported[0])


def made_metric(kind: str, **options: Any) -> Any:
    return metrics.metric({"class_name": kind, "config": options})


def test_accuracy_is_that_of_the_labels_which_the_loss_takes() -> None:
    model = images(layergraph)
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["acc"])
    (((metric,),),) = [writer(model).training_config()["metrics"]]
    assert metric["class_name"] == "SparseCategoricalAccuracy"
    assert metric["config"]["name"] == "acc"
    model.compile("sgd", "categorical_crossentropy", metrics=["acc"])
    (((metric,),),) = [writer(model).training_config()["metrics"]]
    assert metric["class_name"] == "CategoricalAccuracy"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"optimizer": "muon"}, "optimizer Muon"),
        (
            {"optimizer": {"class_name": "Adam", "config": {"gradient_accumulation_steps": 2}}},
            "option 'gradient_accumulation_steps' of optimizer Adam",
        ),
        ({"loss": "dice"}, "loss Dice"),
        ({"loss": {"class_name": "MeanSquaredError", "config": {"reduction": "mean_with_sample_weight"}}}, "reduction"),
        (
            {"loss": {"class_name": "SparseCategoricalCrossentropy", "config": {"axis": 1}}},
            "option 'axis' of loss SparseCategoricalCrossentropy",
        ),
        ({"metrics": [{"class_name": "PearsonCorrelation", "config": {}}]}, r"metric 'pearson_correlation'"),
    ],
)
def test_what_keras_2_lacks_is_refused_by_name(arguments: dict[str, Any], named: str, tmp_path: Path) -> None:
    model = tabular(layergraph)
    model.compile(**{"optimizer": "sgd", "loss": "mse", **arguments})
    with pytest.raises(ConfigError, match=rf"{named}.* isn't supported.*save it for Keras 3"):
        model.save(tmp_path / "m.h5", generation=2)
    assert not list(tmp_path.iterdir())
    model.save(tmp_path / "m.h5", generation=3)


def test_scaled_losses_of_keras_3_are_optimizers_in_keras_2() -> None:
    model = tabular(layergraph)
    model.compile({"class_name": "SGD", "config": {"loss_scale_factor": 8.0}}, "mse")
    written = writer(model).training_config()["optimizer_config"]
    assert written["class_name"] == "LossScaleOptimizerV3"
    assert written["config"]["dynamic"] is False
    assert written["config"]["initial_scale"] == 8.0
    assert "loss_scale_factor" not in written["config"]["inner_optimizer"]["config"]


@pytest.mark.parametrize("legacy", sorted(case for case in SETTINGS if "legacy" in case and "scaled" not in case))
def test_a_legacy_optimizer_goes_on_from_an_h5(legacy: str, tmp_path: Path) -> None:
    model = as_filed(legacy, "h5")
    x, y = rows(model)
    model.fit(x, y, batch_size=7, shuffle=False, verbose=0)
    model.save(tmp_path / "m.h5", generation=2)
    again = layergraph.load_model(tmp_path / "m.h5")
    assert again.optimizer.legacy
    want = model.fit(x, y, batch_size=7, shuffle=False, verbose=0).history["loss"]
    assert again.fit(x, y, batch_size=7, shuffle=False, verbose=0).history["loss"] == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_plain_sgd_has_momenta_in_keras_2(suffix: str, tmp_path: Path) -> None:
    """Without them it loads no iteration either, and schedules restart."""
    model = tabular(layergraph)
    schedule = {"initial_learning_rate": 0.5, "decay_steps": 1, "decay_rate": 0.5}
    rate = {"class_name": "ExponentialDecay", "config": schedule}
    model.compile({"class_name": "SGD", "config": {"learning_rate": rate}}, "mse")
    model.fit(*rows(model), epochs=1, verbose=0)
    model.save(tmp_path / f"m{suffix}", generation=2)
    with layergraph.archive.open_archive(tmp_path / f"m{suffix}") as archive:
        assert len(archive.optimizer_weights) == 1 + len(model.trainable_weights)
    assert layergraph.load_model(tmp_path / f"m{suffix}").optimizer.iterations == 1


def test_words_of_keras_2_are_objects_in_keras_3() -> None:
    model = tabular(layergraph)
    model.compile("sgd", "huber_loss", metrics=["logcosh", "mse", "acc"])
    written = compile_object(model)
    assert written["loss"]["class_name"] == "Huber"
    assert [m if isinstance(m, str) else m["class_name"] for m in written["metrics"]] == ["LogCoshError", "mse", "acc"]
    assert written["metrics"][0]["config"]["name"] == "logcosh"


@pytest.mark.parametrize(
    ("build", "loss", "kind"),
    [
        (images, "sparse_categorical_crossentropy", "SparseCategoricalCrossentropy"),
        (images, "categorical_crossentropy", "CategoricalCrossentropy"),
        (text, "binary_crossentropy", "BinaryCrossentropy"),
    ],
    ids=["classes", "one-hot", "binary"],
)
def test_crossentropies_that_shapes_decide_are_written_as_what_they_are(build: Any, loss: str, kind: str) -> None:
    """tf.keras 2.15 resolves "crossentropy" and "ce" like "accuracy"; Keras 3 has no such metrics."""
    model = build(layergraph)
    model.compile("sgd", loss, metrics=["acc", "ce"], weighted_metrics=["crossentropy"])
    for trained in (False, True):
        if trained and loss != "categorical_crossentropy":
            model.fit(*rows(model), epochs=1, verbose=0)
        accuracy, entropy = compile_object(model)["metrics"]
        if not trained:
            assert accuracy == "acc"
        assert (entropy["class_name"], entropy["config"]["name"]) == (kind, "ce")
        assert compile_object(model)["weighted_metrics"][0]["config"]["name"] == "crossentropy"
        ((_, entropy),) = writer(model).training_config()["metrics"]
        assert (entropy["class_name"], entropy["config"]["name"]) == (kind, "ce")
        assert writer(model).compile_config()["metrics"] == ["acc", "ce"]


def test_crossentropies_of_several_outputs_are_listed_by_output() -> None:
    model = recommender(layergraph)
    model.compile("sgd", "mse", metrics={"click": ["ce", "AUC"]})
    (entropy, area), none = compile_object(model)["metrics"]
    assert (entropy["class_name"], area["class_name"], none) == ("BinaryCrossentropy", "AUC", [])


def test_an_untrained_file_of_2_15_is_written_for_keras_3_in_its_words() -> None:
    model = as_filed("tabular-objects", "h5")
    written = compile_object(model)
    assert "jit_compile" not in written["optimizer"]["config"]
    assert "is_legacy_optimizer" not in written["optimizer"]["config"]
    assert written["loss"]["config"]["reduction"] == "sum_over_batch_size"
    assert np.isclose(written["optimizer"]["config"]["learning_rate"]["config"]["initial_learning_rate"], 0.02)


@pytest.mark.parametrize("generation", [2, 3])
@pytest.mark.parametrize("ending", [".keras", ".h5"])
@pytest.mark.parametrize("unknown", ["optimizer", "loss", "metrics"])
def test_settings_that_cannot_be_used_are_left_out(unknown: str, ending: str, generation: int, tmp_path: Path) -> None:
    """A function or class that only the file's author has: the model is served, and can be saved in another format."""
    model = tabular(layergraph)
    expected = model.get_weights()
    settings = {"optimizer": "sgd", "loss": "mse", "metrics": ["mae"]}
    model.compile_config = {**settings, unknown: ["my_own"] if unknown == "metrics" else "my_own"}
    assert "my_own" in model.compile_problem
    model.save(tmp_path / f"again{ending}", generation=generation)
    again = layergraph.load_model(tmp_path / f"again{ending}")
    assert not again.compiled
    assert all(map(np.array_equal, again.get_weights(), expected))
    model.compile("sgd", "mse")
    model.save(tmp_path / f"again{ending}", generation=generation)
    assert layergraph.load_model(tmp_path / f"again{ending}").compiled


def test_an_optimizer_keeps_its_name() -> None:
    model = BUILDERS[SETTINGS["tabular-names"]["model"]](layergraph)
    model.compile(optimizer=optimizers.SGD(0.1, name="mine"), loss="mse")
    assert writer(model).training_config()["optimizer_config"]["config"]["name"] == "mine"
