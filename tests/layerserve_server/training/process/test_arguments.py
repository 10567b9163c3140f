"""What a run gives to `compile`, `fit` and `evaluate`, and what a forked process begins with."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from layergraph import Input, Model, layers, load_model, optimizers
from layergraph.errors import ConfigError
from layerserve.training.options.contract import View
from layerserve_server.datasets.data_file import DataFile
from layerserve_server.training.model import compile_model, evaluate_arguments, fit_arguments, prepare_model
from layerserve_server.training.program import warm
from layerserve_server.training.request import EVALUATION, DataArray, Role, RunRequest
from layerserve_server.training.run_folder.layout import CHILD_OUTPUT

RNG = np.random.default_rng(0)
ARRAYS = {role: RNG.random((10, 3), "float32") for role in (Role.X, Role.Y, Role.VALIDATION_X, Role.VALIDATION_Y)}
WEIGHTS = np.arange(10, dtype="float32")


def request(*roles: Role, **settings: Any) -> tuple[RunRequest, list[Any]]:
    """A request for such arrays, and these."""
    arrays = [WEIGHTS if role.use is Role.SAMPLE_WEIGHT else ARRAYS[role] for role in roles]
    names = {Role.X: "x", Role.VALIDATION_X: "x", Role.SAMPLE_WEIGHT: "", Role.VALIDATION_SAMPLE_WEIGHT: ""}
    data = tuple(
        DataArray(role, names.get(role, "y"), "float32", array.shape) for role, array in zip(roles, arrays, strict=True)
    )
    return RunRequest(model="m", version=1, data=data, **settings), arrays


def model() -> Model:
    x = Input((3,), name="x")
    made = Model(x, layers.Dense(3, name="y")(x))
    made.compile("sgd", "mse", metrics=["mae"])
    return made


def test_a_run_prints_nothing_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    """What it prints is its log, which callbacks share, and is limited."""
    given = request(Role.X, Role.Y, Role.VALIDATION_X, Role.VALIDATION_Y, epochs=2)
    made = model()
    made.fit(**fit_arguments(*given))
    logs = made.evaluate(**evaluate_arguments(*given))
    assert set(logs) == {"loss", "mae"}
    assert capsys.readouterr().out == ""


def test_an_evaluation_is_of_the_data_that_validates_if_there_is_some() -> None:
    made = model()
    given = request(Role.X, Role.Y, Role.VALIDATION_X, Role.VALIDATION_Y)
    logs = made.evaluate(**evaluate_arguments(*given))
    x, y = ARRAYS[Role.VALIDATION_X], ARRAYS[Role.VALIDATION_Y]
    assert logs["mae"] == pytest.approx(float(np.abs(made.predict(x) - y).mean()), rel=1e-5)
    logs = made.evaluate(**evaluate_arguments(*request(Role.X, Role.Y)))
    x, y = ARRAYS[Role.X], ARRAYS[Role.Y]
    assert logs["mae"] == pytest.approx(float(np.abs(made.predict(x) - y).mean()), rel=1e-5)
    logs = made.evaluate(**evaluate_arguments(*request(Role.X, Role.Y, validation_split=0.3)))
    assert logs["mae"] == pytest.approx(float(np.abs(made.predict(x[7:]) - y[7:]).mean()), rel=1e-5)


def test_an_evaluation_has_its_weights_and_its_batch_size() -> None:
    given = request(Role.X, Role.Y, Role.SAMPLE_WEIGHT, batch_size=7)
    arguments = evaluate_arguments(*given)
    assert (arguments["batch_size"], arguments["sample_weight"].tolist()) == (7, WEIGHTS.tolist())
    assert fit_arguments(*given)["sample_weight"].tolist() == WEIGHTS.tolist()
    arguments = evaluate_arguments(*request(Role.X, Role.Y, batch_size=7))
    assert (arguments["batch_size"], arguments["sample_weight"]) == (7, None)
    roles = (Role.X, Role.Y, Role.VALIDATION_X, Role.VALIDATION_Y, Role.VALIDATION_SAMPLE_WEIGHT)
    assert evaluate_arguments(*request(*roles))["sample_weight"].tolist() == WEIGHTS.tolist()
    assert fit_arguments(*request(*roles))["validation_data"][2].tolist() == WEIGHTS.tolist()


def test_rows_of_a_split_of_parquet_are_evaluated_in_the_order_of_the_file() -> None:
    """Losses of rows are written in the order in which rows are read."""
    given, arrays = request(Role.X, Role.Y, kind=EVALUATION, view=View({"a": 0.5, "b": 0.5}, "a", split_seed=3))
    plain = evaluate_arguments(given, arrays)["rows"].tolist()
    assert plain != sorted(plain)
    filed = replace(given, data=tuple(replace(one, file=DataFile("data", "a.parquet")) for one in given.data))
    assert evaluate_arguments(filed, arrays)["rows"].tolist() == sorted(plain)


def test_settings_of_a_run_arrive() -> None:
    settings = {
        "epochs": 3,
        "batch_size": 5,
        "shuffle": False,
        "seed": 9,
        "validation_split": 0.5,
        "on_nan": "continue",
    }
    arguments = fit_arguments(*request(Role.X, Role.Y, **settings))
    assert {name: arguments[name] for name in settings} == settings
    assert arguments["class_weight"] is None
    assert not {"steps_per_epoch", "validation_data"} & arguments.keys()
    more = {"steps_per_epoch": 4, "class_weight": {0: 2.0}}
    arguments = fit_arguments(*request(Role.X, Role.Y, **more))
    assert {name: arguments[name] for name in more} == more


def test_a_fork_has_random_numbers_an_environment_and_a_log_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a fork copies would be the same in all runs."""
    environment, streams, carried = {"OLD": "1"}, [], []
    monkeypatch.setattr(os, "setsid", lambda: carried.append("session"))
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(os, "dup2", lambda output, stream: streams.append(stream))
    monkeypatch.setattr(warm.main, "carry_out", carried.append)
    kept = random.getstate(), np.random.get_state()
    try:
        random.seed(3)
        np.random.seed(3)
        expected = random.random(), np.random.random()
        random.seed(3)
        np.random.seed(3)
        warm.train(str(tmp_path), {"NEW": "2"})
        assert random.random() != expected[0]
        assert np.random.random() != expected[1]
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
    assert carried == ["session", tmp_path]
    assert environment == {"NEW": "2"}
    assert streams == [1, 2]
    assert (tmp_path / CHILD_OUTPUT).exists()


def test_a_format_that_can_not_hold_the_result_is_refused_before_it_is_trained() -> None:
    roles, settings = (Role.X, Role.Y), {"format": "keras2_h5", "compile": {"optimizer": "muon", "loss": "mse"}}
    with pytest.raises(ConfigError, match="optimizer Muon isn't supported"):
        prepare_model(model(), request(*roles, **settings)[0])
    prepare_model(model(), request(*roles, **settings, kind=EVALUATION)[0])
    prepare_model(model(), request(*roles, **{**settings, "format": "keras3_h5"})[0])


class Compiled:
    compiled = True
    optimizer = "the file's, with its state"
    compile_problem = ""
    compile_config = {
        "optimizer": {},
        "loss": "mse",
        "loss_weights": [1.0],
        "metrics": ["mae"],
        "weighted_metrics": None,
    }

    def compile(self, **arguments):
        self.arguments = arguments


@pytest.mark.parametrize(
    ("settings", "arguments"),
    [
        ({"optimizer": "sgd"}, {"optimizer": "sgd", "loss": "mse", "loss_weights": [1.0], "metrics": ["mae"]}),
        ({"loss": "mae"}, {"optimizer": Compiled.optimizer, "loss": "mae"}),
        (
            {"metrics": ["mse"]},
            {"optimizer": Compiled.optimizer, "loss": "mse", "loss_weights": [1.0], "metrics": ["mse"]},
        ),
    ],
)
def test_what_the_request_leaves_out_is_as_in_the_file(settings, arguments):
    model = Compiled()
    compile_model(model, settings)
    assert model.arguments == arguments


def test_without_settings_the_file_is_not_compiled_anew():
    model = Compiled()
    compile_model(model, {})
    assert not hasattr(model, "arguments")


@pytest.fixture(name="custom")
def _custom(tmp_path):
    """A model from a file, half-trained with a loss and a metric that only its author has."""
    inputs = Input((2,))
    model = Model(inputs, layers.Dense(1)(inputs))
    model.compile(optimizers.Adam(0.125), "mse", metrics=["mae"])
    model.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0)
    model.save(tmp_path / "model.keras")
    model = load_model(tmp_path / "model.keras")
    model.compile_config = {**model.compile_config, "loss": "my_loss", "metrics": ["my_metric"]}
    return model


@pytest.mark.parametrize("optimizer", [{}, {"optimizer": "sgd"}])
def test_a_loss_of_the_request_replaces_one_that_only_its_author_has(custom, optimizer):
    compile_model(custom, {"loss": "mse", **optimizer})
    custom.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0)
    if not optimizer:
        assert (float(custom.optimizer.learning_rate), custom.optimizer.iterations) == (0.125, 2)


@pytest.mark.parametrize("settings", [{}, {"metrics": ["mae"]}, {"optimizer": "sgd"}])
def test_a_loss_that_only_its_author_has_is_named(custom, settings):
    start = "" if "optimizer" in settings else "the compile settings of the model file can't be used, give a loss: "
    with pytest.raises(ConfigError, match=f"^{start}unknown loss 'my_loss'"):
        compile_model(custom, settings)
