"""The search space of a sweep: which values a dimension has, and what becomes of them in the request of a trial."""

import pytest
from layerserve_server.errors import InvalidRequestError
from layerserve_server.extensions.sweeps.space import Dimension, check_space, combinations, with_settings
from layerserve_server.training.request import RunRequest

BASE = RunRequest("m", 1, (), {"optimizer": "adam", "loss_weights": {"a": 1.0, "b": [1, 2]}, "metrics": ["mae"]})


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"batch_size": 16}, {"batch_size": 16}),
        ({"batch_size": 16.0}, {"batch_size": 16}),
        ({"shuffle": False}, {"shuffle": False}),
        ({"freeze": "block*"}, {"freeze": ("block*",)}),
        ({"freeze": ["a", "b"], "seed": 3}, {"freeze": ("a", "b"), "seed": 3}),
    ],
)
def test_options_of_the_loop(settings, expected):
    request = with_settings(BASE, settings)
    assert {name: getattr(request, name) for name in expected} == expected
    assert request.compile == BASE.compile


def test_parts_of_compile_settings():
    settings = {"optimizer.learning_rate": 0.1, "optimizer.beta_1": 0.5, "loss_weights.b.1": 7}
    request = with_settings(BASE, settings)
    assert request.compile == {
        "optimizer": {"class_name": "adam", "config": {"learning_rate": 0.1, "beta_1": 0.5}},
        "loss_weights": {"a": 1.0, "b": [1, 7]},
        "metrics": ["mae"],
    }
    assert BASE.compile["optimizer"] == "adam"
    nested = {"class_name": "Adam", "config": {"learning_rate": {"class_name": "CosineDecay", "config": {}}}}
    changed = with_settings(RunRequest("m", 1, (), {"optimizer": nested}), {"optimizer.learning_rate.alpha": 0.2})
    assert changed.compile["optimizer"]["config"]["learning_rate"] == {
        "class_name": "CosineDecay",
        "config": {"alpha": 0.2},
    }
    assert nested["config"]["learning_rate"]["config"] == {}


def test_a_whole_compile_setting():
    assert with_settings(BASE, {"optimizer": {"class_name": "SGD", "config": {}}}).compile["optimizer"] == {
        "class_name": "SGD",
        "config": {},
    }


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"batch_sise": 1}, "unknown dimension 'batch_sise'; did you mean 'batch_size'"),
        ({"publish": True}, "'publish' can't differ between trials"),
        ({"monitor": "loss"}, "can't differ"),
        ({"batch_size": 0}, "expected a whole number from 1"),
        ({"batch_size": 1.5}, "expected a whole number"),
        ({"batch_size": "16"}, "got '16', expected a whole number"),
        ({"batch_size": True}, "expected a whole number"),
        ({"batch_size": 2**40}, "expected a whole number"),
        ({"shuffle": 1}, "got 1, expected true or false"),
        ({"freeze": [1]}, "expected a pattern or a list"),
        ({"batch_size.x": 1}, "'batch_size' has no parts"),
        ({"loss.delta": 1.0}, "requires `loss`, which the request doesn't set; set it, also where the model"),
        ({"metrics.3": "mse"}, "'3' is no part of"),
        ({"metrics.name": "mse"}, "'name' is no part of"),
    ],
)
def test_settings_that_are_refused(settings, text):
    with pytest.raises(InvalidRequestError, match=text):
        with_settings(BASE, settings)


@pytest.mark.parametrize(
    ("dimension", "grid"),
    [
        (Dimension("seed", (4, 2)), (4, 2)),
        (Dimension("seed", low=2, high=5, integer=True), (2, 3, 4, 5)),
        (Dimension("seed", low=2, high=5, step=2, integer=True), (2, 4)),
        (Dimension("x", low=0.1, high=0.3, step=0.1), (0.1, 0.2, 0.3)),
        (Dimension("x", low=0.1, high=0.3), ()),
        (Dimension("x", low=1, high=3, log=True, integer=True), ()),
    ],
)
def test_values_of_a_grid(dimension, grid):
    assert tuple(map(dimension.at, range(dimension.grid_size))) == grid


def test_combinations_are_counted_not_made():
    wide = [Dimension("seed", low=0, high=2**50, integer=True), Dimension("batch_size", (1, 2))]
    assert combinations(wide) == 2 * (2**50 + 1)
    with pytest.raises(InvalidRequestError, match="with too many"):
        check_space(wide, BASE, grid=True)
    check_space(wide, BASE, grid=False)
    with pytest.raises(InvalidRequestError, match="got a grid of 250000 combinations"):
        check_space([Dimension(name, tuple(range(1, 501))) for name in ("seed", "batch_size")], BASE, grid=True)


@pytest.mark.parametrize(
    ("dimensions", "text"),
    [
        ((), "got 0, expected 1 to 50"),
        ((Dimension("seed", (1,)), Dimension("seed", (2,))), "sets the same setting as 'seed'"),
        ((Dimension("optimizer", ("sgd",)), Dimension("optimizer.beta_1", (1,))), "sets the same setting"),
        ((Dimension("optimizer.beta_1", (1,)), Dimension("optimizer", ("sgd",))), "sets the same setting"),
        ((Dimension("x" * 300, (1,)),), "got a name of 300 characters"),
        ((Dimension("seed", tuple(range(1001))),), "got 1001 values"),
        ((Dimension("seed", low=float("nan"), high=1),), "expected finite numbers"),
        ((Dimension("seed", low=2, high=1),), "low up to high"),
        ((Dimension("seed", low=0, high=1, log=True),), "expected a low above 0"),
        ((Dimension("seed", low=0, high=1.5, integer=True),), "aren't whole"),
        ((Dimension("seed", low=0, high=1e300),), "above 2"),
        ((Dimension("optimizer.learning_rate", low=0, high=1, step=5e-324),), "too small for the range"),
        ((Dimension("optimizer.learning_rate", low=0.1, high=1, step=1e-300),), "too small for the range"),
        ((Dimension("batch_size", (8, 0)),), "expected a whole number from 1"),
        ((Dimension("batch_size", low=0, high=8, integer=True),), "expected a whole number from 1"),
    ],
)
def test_spaces_that_are_refused(dimensions, text):
    for grid in (False, True):
        with pytest.raises(InvalidRequestError, match=text):
            check_space(dimensions, BASE, grid=grid)
