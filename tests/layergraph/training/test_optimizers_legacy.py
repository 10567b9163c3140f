"""Optimizers of tf.keras 2.15's files: rows of embeddings, states and configs that Keras 3 lacks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch
from layergraph import Input, Model, layers
from layergraph.config.options import keras_object
from layergraph.errors import ConfigError, DataError
from layergraph.functional.weight import Weight
from layergraph.training.optimizers.legacy import LEGACY
from layergraph.training.optimizers.table import optimizer
from layergraph.training.shareable import check_shareable

FIXTURES = Path(__file__).parents[2] / "fixtures"

LEGACY_ROWS: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {}),
    ("SGD", {"momentum": 0.9}),
    ("SGD", {"momentum": 0.9, "nesterov": True, "clipnorm": 0.5}),
    ("RMSprop", {"epsilon": 1e-2}),
    ("RMSprop", {"epsilon": 1e-2, "centered": True}),
    ("RMSprop", {"epsilon": 1e-2, "centered": True, "momentum": 0.5}),
    ("RMSprop", {"epsilon": 1e-2, "momentum": 0.5, "global_clipnorm": 0.5}),
    ("Adam", {"epsilon": 1e-2}),
    ("Adam", {"amsgrad": True, "clipvalue": 0.4}),
    ("Adamax", {}),
    ("Nadam", {"epsilon": 1e-2}),
    ("Adagrad", {"epsilon": 1e-2}),
    ("Adadelta", {"epsilon": 1e-2}),
    ("Ftrl", {"beta": 0.1, "l1_regularization_strength": 0.1}),
]


def weights(*shapes: tuple[int, ...]) -> list[Weight]:
    return [Weight("layer", f"w{i}", shape, "float32", lambda s, d: torch.zeros(s)) for i, shape in enumerate(shapes)]


@pytest.mark.parametrize("scaled", ["", "dynamic", "fixed"])
@pytest.mark.parametrize(("name", "options"), LEGACY_ROWS, ids=str)
def test_rows_of_an_embedding(name: str, options: dict[str, Any], scaled: str) -> None:
    """Weights after each step of tf.keras 2.15: lab/fixtures/make_legacy_rows.py."""
    index = LEGACY_ROWS.index((name, options))
    stored = np.load(FIXTURES / "legacy_rows.npz")
    config = json.loads(str(stored[f"{index}/config"]))
    assert all(config[option] == pytest.approx(value) for option, value in options.items())
    ours = optimizer({"class_name": name, "config": config})
    if scaled:
        around = {"inner_optimizer": ours, "initial_scale": 8, "dynamic": scaled == "dynamic"}
        ours = optimizer({"class_name": "LossScaleOptimizer", "config": around})
    assert ours.takes_rows
    table, other = weights(stored["first/0"].shape, stored["first/1"].shape)
    table.assign(stored["first/0"])
    other.assign(stored["first/1"])
    ours.build([table, other])
    scale = 8.0 if scaled else 1.0
    for step in range(4):
        ids, values = torch.tensor(stored[f"ids/{step}"]), torch.tensor(stored[f"values/{step}"])
        rows = torch.sparse_coo_tensor(ids[None], values * scale, tuple(table.shape), check_invariants=False)
        ours.apply([rows, torch.tensor(stored[f"other/{step}"]) * scale])
        for i, weight in enumerate((table, other)):
            np.testing.assert_allclose(weight.numpy(), stored[f"{index}/after/{step}/{i}"], rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("options", [{"weight_decay": 0.1}, {"use_ema": True}, {"gradient_accumulation_steps": 2}])
def test_with_options_of_keras_3_that_move_all_rows_gradients_must_be_whole(options: dict[str, Any]) -> None:
    ours = optimizer({"class_name": "SGD", "config": {"learning_rate": 0.5, "decay": 0.0, **options}})
    assert type(ours) is LEGACY["SGD"]
    assert not ours.takes_rows


def test_every_legacy_optimizer_has_a_case() -> None:
    assert {name for name, _ in LEGACY_ROWS} == set(LEGACY)


@pytest.mark.parametrize("name", sorted(LEGACY))
def test_written_out_again_they_are_keras_3s(name: str) -> None:
    ours = optimizer({"class_name": name, "config": {"learning_rate": 0.5, "decay": 0.0}})
    assert type(ours) is LEGACY[name]
    theirs = keras.optimizers.deserialize(keras_object("keras.optimizers", ours))
    assert type(theirs).__name__ == name
    assert type(optimizer(keras_object("keras.optimizers", ours))).__name__ == name


@pytest.mark.parametrize("value", [{"class_name": "SGD", "config": 3}, {"class_name": 3, "config": {}}, {"config": {}}])
def test_what_is_no_optimizer_is_refused_also_where_legacy_ones_are_meant(value: Any) -> None:
    with pytest.raises(ConfigError, match="optimizer"):
        optimizer(value, legacy=True)


def test_momenta_that_sgd_does_not_use() -> None:
    """Keras 2.15 saves them without momentum, too."""
    ours = optimizer({"class_name": "Custom>SGD", "config": {"learning_rate": 0.5, "is_legacy_optimizer": False}})
    ours.build(weights((2, 3), (3,)))
    ours.load([np.array(5), np.ones((2, 3), "float32"), np.ones(3, "float32")])
    assert ours.iterations == 5
    assert len(ours.variables) == 2


INNER = {"class_name": "Adam", "config": {"name": "Adam", "learning_rate": 0.25, "is_legacy_optimizer": False}}


def test_a_loss_scale_of_2_15_begins_anew() -> None:
    config = {"inner_optimizer": INNER, "dynamic": True, "initial_scale": 64.0, "dynamic_growth_steps": 4}
    ours = optimizer({"class_name": "LossScaleOptimizerV3", "config": config})
    ours.build(weights((3,)))
    ours.load([np.array(6), np.full(3, 0.5, "float32"), np.full(3, 0.25, "float32")])
    assert ours.iterations == 6
    assert float(ours.scaled(torch.tensor(1.0))) == 64.0
    ours.apply([torch.full((3,), 64.0)])
    assert ours.iterations == 7


def test_a_loss_scale_that_never_changes_is_the_inner_optimizers() -> None:
    config = {"inner_optimizer": INNER, "dynamic": False, "initial_scale": 64.0, "dynamic_growth_steps": None}
    ours = optimizer({"class_name": "LossScaleOptimizerV3", "config": config})
    assert type(ours).__name__ == "Adam"
    assert ours.get_config()["loss_scale_factor"] == 64.0
    with pytest.raises(ConfigError, match="expected"):
        optimizer({"class_name": "LossScaleOptimizer", "config": {"dynamic": False, "inner_optimizer": INNER}})


def test_decay_goes_on_top_of_a_schedule() -> None:
    schedule = {
        "class_name": "ExponentialDecay",
        "config": {"initial_learning_rate": 0.5, "decay_steps": 1, "decay_rate": 0.5},
    }
    ours = optimizer({"class_name": "SGD", "config": {"learning_rate": schedule, "decay": 0.5}})
    ours.build(weights((1,)))
    rates = []
    for _ in range(3):
        rates.append(ours.rate())
        ours.apply([torch.ones(1)])
    assert rates == pytest.approx([0.5, 0.25 / 1.5, 0.125 / 2])
    # Keras 3 can't express it.
    assert keras_object("keras.optimizers", ours)["config"]["learning_rate"]["class_name"] == "ExponentialDecay"


@pytest.mark.parametrize(("options", "refused"), [({"momentum": 0.5}, True), ({"momentum": 0.0}, False)])
def test_several_workers_do_not_know_the_rows(options: dict[str, float], refused: bool) -> None:
    ids = Input((3,), dtype="int32")
    model = Model(ids, layers.Dense(1)(layers.Flatten()(layers.Embedding(5, 2)(ids))))
    model.compile({"class_name": "SGD", "config": {"learning_rate": 0.1, "decay": 0.0, **options}}, "mse")
    if not refused:
        check_shareable(model)
        return
    with pytest.raises(ConfigError, match="depends on which rows of embeddings"):
        check_shareable(model)


def test_a_decaying_rate_can_be_changed_and_is_written_as_a_schedule() -> None:
    """As with ReduceLROnPlateau in 2.15: the number changes, and decays as before."""
    ours = optimizer({"class_name": "SGD", "config": {"learning_rate": 0.5, "decay": 0.5}})
    ours.build(weights((1,)))
    ours.apply([torch.ones(1)])
    ours.learning_rate = 0.25
    assert ours.rate() == pytest.approx(0.25 / 1.5)
    state = ours.state()
    theirs = keras.optimizers.deserialize(keras_object("keras.optimizers", ours))
    assert theirs._learning_rate.get_config()["decay_rate"] == 0.5
    assert len(ours.variables) == 1
    again = optimizer({"class_name": "SGD", "config": {"learning_rate": 0.5, "decay": 0.5}})
    again.build(weights((1,)))
    again.restore(state)
    assert again.rate() == ours.rate()
    with pytest.raises(ConfigError, match="option 'decay' is 'x', expected a number"):
        optimizer({"class_name": "SGD", "config": {"learning_rate": 0.5, "decay": "x"}})


def test_states_of_keras_by_itself() -> None:
    """Keras 2.3.1 has a placeholder for each velocity that Adam doesn't keep; up to 2.2 some have no iteration."""
    ours = optimizer({"class_name": "Adam", "config": {"learning_rate": 0.5, "decay": 0.0, "amsgrad": False}})
    ours.build(weights((2, 3), (3,)))
    moments = [np.full(shape, value, "float32") for value in (1, 2) for shape in ((2, 3), (3,))]
    ours.load([np.array(5), *moments, *[np.zeros(1, "float32")] * 2])
    assert ours.iterations == 5
    assert [float(variable.numpy().max()) for variable in ours.keras2_variables()[1:]] == [1, 1, 2, 2]
    ours = optimizer({"class_name": "RMSprop", "config": {"lr": 0.5, "decay": 0.0}})
    ours.build(weights((2, 3), (3,)))
    ours.load(moments[:2])
    assert ours.iterations == 0
    assert [float(variable.numpy().max()) for variable in ours.keras2_variables()[1:]] == [1, 1]
    with pytest.raises(DataError, match="arrays of state"):
        ours.load([*moments, *moments])


def test_a_nadam_of_keras_by_itself_is_a_legacy_one() -> None:
    ours = optimizer({"class_name": "Nadam", "config": {"learning_rate": 0.5, "schedule_decay": 0.01}})
    assert type(ours) is LEGACY["Nadam"]
    assert ours.momentum_decay == 0.01
