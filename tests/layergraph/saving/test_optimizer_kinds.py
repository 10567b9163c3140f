"""Keras 2's legacy optimizers and the newer ones of the same names: which compute the same, and how they are saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import layergraph
import numpy as np
import pytest
import torch
from layergraph import Input, Model, layers
from layergraph.errors import ConfigError
from layergraph.functional.weight import Weight
from layergraph.saving.keras2.compile import Keras2Compile, keras2_state
from layergraph.saving.keras2.releases import Release
from layergraph.saving.optimizer_kinds import differences
from layergraph.training.optimizers.legacy import LEGACY
from layergraph.training.optimizers.optimizer import Optimizer
from layergraph.training.optimizers.table import OPTIMIZERS, optimizer

#: Name -> options with which it is tested.
KINDS: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {}),
    ("SGD", {"momentum": 0.9}),
    ("SGD", {"momentum": 0.9, "nesterov": True}),
    ("SGD", {"clipnorm": 0.5}),
    ("RMSprop", {}),
    ("RMSprop", {"momentum": 0.5}),
    ("RMSprop", {"centered": True}),
    ("RMSprop", {"centered": True, "momentum": 0.5}),
    ("Adam", {}),
    ("Adam", {"amsgrad": True}),
    ("Adam", {"clipvalue": 0.2}),
    ("Adam", {"global_clipnorm": 0.3}),
    ("Adamax", {}),
    ("Nadam", {}),
    ("Adagrad", {}),
    ("Adagrad", {"initial_accumulator_value": 0.0}),
    ("Adagrad", {"epsilon": 1e-3}),
    ("Adadelta", {}),
    ("Ftrl", {}),
    ("Ftrl", {"beta": 0.3, "l1_regularization_strength": 0.05, "l2_shrinkage_regularization_strength": 0.1}),
]


def embedded(rows: bool) -> Model:
    """A small model; with `rows` one with an embedding."""
    if not rows:
        x = Input((3,), name="x")
        return Model(x, layers.Dense(1, name="y")(x))
    ids = Input((3,), dtype="int32", name="ids")
    return Model(ids, layers.Dense(1, name="y")(layers.Flatten()(layers.Embedding(5, 2, name="words")(ids))))


def legacy(name: str, **options: Any) -> Optimizer:
    made = optimizer({"class_name": name, "config": {"learning_rate": 0.05, "decay": 0.0, **options}})
    assert isinstance(made, Optimizer)
    return made


def moved(made: Optimizer, rows: bool) -> np.ndarray[Any, Any]:
    """Two weights after some steps; only some rows of the first have gradients, some of them twice."""
    random = np.random.default_rng(3)

    def real(*shape: int) -> torch.Tensor:
        size = 10 ** random.uniform(-4, 0.5, (shape[0], *[1] * (len(shape) - 1)))
        return torch.tensor((random.standard_normal(shape) * size).astype("float32"))

    weights = [
        Weight("layer", f"w{i}", shape, "float32", lambda s, d: torch.zeros(s))
        for i, shape in enumerate([(6, 3), (3,)])
    ]
    for weight in weights:
        weight.assign(real(*weight.shape).numpy())
    made.build(weights)
    for _ in range(8):
        ids, values, other = torch.tensor(random.integers(0, 4, 5)), real(5, 3), real(3)
        gradient = torch.sparse_coo_tensor(ids[None], values, (6, 3), check_invariants=False)
        made.apply([gradient if rows and made.takes_rows else gradient.to_dense(), other])
    return np.concatenate([weight.numpy().ravel() for weight in weights])


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize(("name", "options"), KINDS, ids=str)
def test_they_differ_where_their_steps_do(name: str, options: dict[str, Any], rows: bool) -> None:
    """`make_legacy_rows.py` and stock Keras confirm each of them."""
    one, other = legacy(name, **options), OPTIMIZERS[name].from_config({"learning_rate": 0.05, **options})
    assert isinstance(other, Optimizer)
    model = embedded(rows)
    found = differences(one, model)
    assert bool(found) == bool(differences(other, model))
    apart = float(np.abs(moved(one, rows) - moved(other, rows)).max())
    assert apart > 1e-7 if found else apart < 3e-6, (apart, found)


def test_every_legacy_optimizer_is_tried() -> None:
    assert {name for name, _ in KINDS} == set(LEGACY)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize(
    ("made", "rows", "named"),
    [
        (legacy("RMSprop"), False, "RMSprop .* epsilon outside"),
        (legacy("Nadam"), False, "Nadam .* exponent"),
        (legacy("SGD", momentum=0.5), True, "SGD .* rows of an Embedding"),
        (legacy("Adam", clipnorm=0.5), True, "Adam .* 'clipnorm' clips"),
        (
            legacy(
                "SGD",
                decay=0.5,
                learning_rate={
                    "class_name": "ExponentialDecay",
                    "config": {"initial_learning_rate": 0.5, "decay_steps": 1, "decay_rate": 0.5},
                },
            ),
            False,
            "'decay' is applied in addition to a schedule",
        ),
    ],
    ids=["RMSprop", "Nadam", "SGD", "Adam", "decay"],
)
def test_keras_3_gets_none_that_computes_otherwise(
    made: Optimizer, rows: bool, named: str, suffix: str, tmp_path: Path
) -> None:
    for given in (made, {"class_name": "LossScaleOptimizer", "config": {"inner_optimizer": made}}):
        model = embedded(rows)
        model.compile(given, "mse")
        with pytest.raises(ConfigError, match=f"{named}.*compile the model with an optimizer of Keras 3, or save"):
            model.save(tmp_path / f"m{suffix}", generation=3)
    assert not list(tmp_path.iterdir())
    model.save(tmp_path / "m.h5", generation=2)
    model.compile("adam", "mse")
    model.save(tmp_path / f"m{suffix}", generation=3)


def early(model: Model, minor: int = 4) -> Keras2Compile:
    return Keras2Compile(model, Release(minor))


@pytest.mark.parametrize("rows", [False, True])
def test_releases_without_new_optimizers_get_the_legacy_one_that_computes_alike(rows: bool) -> None:
    model = embedded(rows)
    model.compile(OPTIMIZERS["Adam"].from_config({"learning_rate": 0.5, "amsgrad": True}), "mse")
    writer = early(model)
    written = writer.training_config()["optimizer_config"]
    assert not writer.unsupported
    assert written["class_name"] == "Adam"
    assert set(written["config"]) == {"name", "learning_rate", "decay", "beta_1", "beta_2", "epsilon", "amsgrad"}
    assert early(model, 11).training_config()["optimizer_config"]["class_name"] == "Custom>Adam"


@pytest.mark.parametrize(
    ("name", "minor", "keys"),
    [
        ("Adam", 3, {"learning_rate", "decay", "beta_1", "beta_2", "epsilon", "amsgrad"}),
        ("Adam", 2, {"lr", "decay", "beta_1", "beta_2", "epsilon", "amsgrad"}),
        ("RMSprop", 3, {"learning_rate", "decay", "rho", "epsilon"}),
        ("Adagrad", 3, {"learning_rate", "decay", "epsilon"}),
        ("Nadam", 3, {"learning_rate", "schedule_decay", "beta_1", "beta_2", "epsilon"}),
    ],
)
def test_keras_by_itself_gets_its_own_words(name: str, minor: int, keys: set[str]) -> None:
    model = embedded(False)
    model.compile(legacy(name), "mse")
    release = Release(minor, in_tensorflow=False)
    writer = Keras2Compile(model, release)
    assert set(writer.training_config()["optimizer_config"]["config"]) == keys
    assert not writer.unsupported
    model.optimizer.build(model.trainable_weights)
    placeholders = [variable.name for variable in keras2_state(model.optimizer, release) if "vhat" in variable.name]
    assert placeholders == (["vhat_0", "vhat_1"] if name == "Adam" else [])


def test_a_file_for_a_version_that_no_release_has_is_for_the_last_one() -> None:
    assert Release.of("2." + "1" * 5000) == Release.of("2.x")
    assert Release.of("2.4.0") == Release(4)


def test_a_decay_of_a_new_optimizer_is_written_as_a_schedule() -> None:
    """Keras 2's new optimizers have no `decay`, but files may say otherwise."""
    config = {"learning_rate": 0.5, "decay": 0.25, "is_legacy_optimizer": False}
    model = embedded(False)
    model.compile({"class_name": "Adam", "config": config}, "mse")
    writer = early(model, 11)
    rate = writer.training_config()["optimizer_config"]["config"]["learning_rate"]
    assert rate["class_name"] == "InverseTimeDecay"
    config_of_rate = {"initial_learning_rate": 0.5, "decay_steps": 1, "decay_rate": 0.25, "staircase": False}
    assert rate["config"].items() >= config_of_rate.items()
    assert not writer.unsupported
    schedule = {"initial_learning_rate": 0.5, "decay_steps": 1, "decay_rate": 0.5}
    config["learning_rate"] = {"class_name": "ExponentialDecay", "config": schedule}
    model.compile({"class_name": "Adam", "config": config}, "mse")
    writer = early(model, 11)
    writer.training_config()
    assert writer.unsupported == ["option 'decay' with a schedule of optimizer Adam isn't supported"]


def test_averages_that_nobody_takes_are_no_obstacle() -> None:
    """RMSprop of 2.15 has an option for how often they would replace the weights."""
    model = embedded(False)
    model.compile({"class_name": "RMSprop", "config": {"momentum": 0.5, "ema_overwrite_frequency": 100}}, "mse")
    writer = early(model)
    writer.training_config()
    assert not writer.unsupported


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("rmsprop", r"its optimizer RMSprop computes differently \(the legacy one adds epsilon"),
        ("nadam", r"its optimizer Nadam computes differently \(the legacy one has the exponent 0.004"),
        ("adamw", r"optimizer AdamW isn't supported"),
        ("lion", r"optimizer Lion isn't supported"),
        ({"class_name": "Adam", "config": {"weight_decay": 0.1}}, r"option 'weight_decay' of optimizer Adam"),
        ({"class_name": "SGD", "config": {"use_ema": True}}, r"option 'use_ema' of optimizer SGD"),
    ],
)
def test_releases_without_new_optimizers_get_no_other(given: Any, named: str) -> None:
    model = embedded(False)
    model.compile(given, "mse")
    writer = early(model)
    writer.training_config()
    with pytest.raises(AssertionError, match=named):
        assert not writer.unsupported, writer.unsupported


def test_the_state_of_a_new_optimizer_has_the_legacy_order(tmp_path: Path) -> None:
    model = embedded(False)
    model.compile("sgd", "mse")
    model.save(tmp_path / "first.h5", generation=2)
    with h5py.File(tmp_path / "first.h5", "r+") as file:
        file.attrs["keras_version"] = file["model_weights"].attrs["keras_version"] = b"2.4.0"
        del file.attrs["training_config"], file["optimizer_weights"]
    model = layergraph.load_model(tmp_path / "first.h5")
    model.compile("adam", "mse")
    random = np.random.default_rng(5)
    x, y = random.standard_normal((8, 3)).astype("float32"), random.standard_normal((8, 1)).astype("float32")
    model.fit(x, y, epochs=2, verbose=0)
    model.save(tmp_path / "home.h5")
    with h5py.File(tmp_path / "home.h5") as file:
        names = [name.decode() for name in file["optimizer_weights"].attrs["weight_names"]]
        assert json.loads(file.attrs["training_config"])["optimizer_config"]["class_name"] == "Adam"
        # h5py 2 returns str for other texts, which Keras up to 2.3 can't decode.
        assert all(h5py.check_string_dtype(file.attrs.get_id(name).dtype).encoding == "ascii" for name in file.attrs)
    assert names[0] == "iter:0"
    assert [name.split("_")[-1] for name in names[1:]] == ["momentum:0"] * 2 + ["velocity:0"] * 2
    again = layergraph.load_model(tmp_path / "home.h5")
    want = model.fit(x, y, epochs=2, verbose=0).history["loss"]
    assert again.fit(x, y, epochs=2, verbose=0).history["loss"] == pytest.approx(want, rel=1e-6)
