"""Optimizers and schedules against stock Keras: weights and state after given gradients."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import pytest
import torch
from layergraph.constraints import MaxNorm
from layergraph.errors import ConfigError, DataError
from layergraph.functional.weight import Weight
from layergraph.training.optimizers.schedules import SCHEDULES, learning_rate
from layergraph.training.optimizers.table import OPTIMIZERS, optimizer

FIXTURES = Path(__file__).parents[2] / "fixtures"
STEPS = 12
RNG = np.random.default_rng(11)
SHAPES = [(4, 3), (3,), (2, 2, 3)]
CASES = [
    ("SGD", {}),
    ("SGD", {"learning_rate": 0.1, "momentum": 0.9}),
    ("SGD", {"learning_rate": 0.1, "momentum": 0.8, "nesterov": True, "weight_decay": 0.1}),
    ("RMSprop", {}),
    ("RMSprop", {"learning_rate": 0.05, "rho": 0.8, "momentum": 0.9}),
    ("RMSprop", {"learning_rate": 0.05, "centered": True}),
    ("RMSprop", {"learning_rate": 0.05, "centered": True, "momentum": 0.5, "epsilon": 1e-3}),
    ("Adam", {}),
    ("Adam", {"learning_rate": 0.05, "amsgrad": True, "beta_1": 0.8, "beta_2": 0.9, "epsilon": 1e-2}),
    ("Adam", {"learning_rate": 0.05, "weight_decay": 0.1}),
    ("AdamW", {"learning_rate": 0.05}),
    ("AdamW", {"learning_rate": 0.05, "weight_decay": 0.3, "amsgrad": True}),
    ("Adamax", {"learning_rate": 0.05}),
    ("Adagrad", {"learning_rate": 0.05}),
    ("Adagrad", {"learning_rate": 0.05, "initial_accumulator_value": 0.0}),
    ("Adadelta", {"learning_rate": 0.5}),
    ("Nadam", {"learning_rate": 0.05}),
    ("Nadam", {"learning_rate": 0.05, "beta_1": 0.7, "gradient_accumulation_steps": 2}),
    ("Adafactor", {"learning_rate": 0.5}),
    ("Adafactor", {"learning_rate": 0.5, "relative_step": False, "clip_threshold": 0.5, "beta_2_decay": -0.5}),
    ("Adafactor", {"learning_rate": {"class_name": "CosineDecay", "config": (0.5, 20)}, "weight_decay": 0.1}),
    ("Lamb", {"learning_rate": 0.05}),
    ("Lamb", {"learning_rate": 0.05, "weight_decay": 0.1, "beta_1": 0.5, "epsilon": 1e-3}),
    ("Muon", {"learning_rate": 0.05}),
    ("Muon", {"learning_rate": 0.05, "nesterov": False, "rms_rate": None, "ns_steps": 3, "weight_decay": None}),
    ("Muon", {"learning_rate": 0.05, "exclude_layers": ["w0"], "adam_weight_decay": 0.2, "adam_lr_ratio": 0.5}),
    ("ScheduleFreeAdamW", {"learning_rate": 0.05}),
    ("ScheduleFreeAdamW", {"learning_rate": 0.05, "warmup_steps": 5, "weight_decay": 0.1, "beta_1": 0.8}),
    ("LossScaleOptimizer", {"inner_optimizer": "Adam", "dynamic_growth_steps": 4}),
    ("LossScaleOptimizer", {"inner_optimizer": "RMSprop", "initial_scale": 256.0}),
    ("MultiOptimizer", {".*w1": ("Adam", {"learning_rate": 0.05}), ".*w[02]": ("SGD", {"momentum": 0.9})}),
    (
        "MultiOptimizer",
        {"dense/none": ("Adam", {"use_ema": True}), ".*w0": ("RMSprop", {"use_ema": True, "ema_momentum": 0.8})},
    ),
    ("Lion", {"learning_rate": 0.01}),
    ("Ftrl", {"learning_rate": 0.05}),
    (
        "Ftrl",
        {
            "learning_rate": 0.05,
            "learning_rate_power": -0.7,
            "l1_regularization_strength": 0.1,
            "l2_regularization_strength": 0.2,
            "l2_shrinkage_regularization_strength": 0.05,
            "beta": 0.1,
        },
    ),
    *[
        ("Adam", {"learning_rate": 0.05, **shared})
        for shared in (
            {"clipnorm": 0.5},
            {"clipvalue": 0.3},
            {"global_clipnorm": 0.7},
            {"global_clipnorm": 100.0},
            {"use_ema": True, "ema_momentum": 0.8},
            {"use_ema": True, "ema_momentum": 0.8, "ema_overwrite_frequency": 5},
            {"loss_scale_factor": 8.0, "clipnorm": 0.5},
            {"gradient_accumulation_steps": 3, "clipnorm": 0.5, "weight_decay": 0.1},
            {"gradient_accumulation_steps": 2, "use_ema": True, "ema_momentum": 0.7},
        )
    ],
    ("SGD", {"learning_rate": {"class_name": "ExponentialDecay", "config": (0.3, 4, 0.5)}, "weight_decay": 0.1}),
    (
        "Adam",
        {
            "learning_rate": {"class_name": "PiecewiseConstantDecay", "config": ([3, 6], [0.1, 0.05, 0.01])},
            "gradient_accumulation_steps": 2,
        },
    ),
]


@dataclass
class Pair:
    """Equal weights in Keras and here."""

    ours: list[Weight]
    theirs: list[keras.Variable]


def pair(constrained=False):
    rng = np.random.default_rng(1)
    ours, theirs = [], []
    for index, shape in enumerate(SHAPES):
        value = rng.standard_normal(shape).astype("float32")
        limit = MaxNorm(1.0) if constrained else None
        weight = Weight("dense", f"w{index}", shape, "float32", lambda s, d: torch.zeros(s), constraint=limit)
        weight.assign(value)
        variable = keras.Variable(value.copy(), name=f"w{index}")
        variable.constraint = keras.constraints.MaxNorm(1.0) if constrained else None
        ours.append(weight)
        theirs.append(variable)
    return Pair(ours, theirs)


def made(name, options):
    """Both optimizers; a schedule is given by class and positional arguments."""
    given = dict(options)
    if name == "LossScaleOptimizer":
        theirs = {**given, "inner_optimizer": getattr(keras.optimizers, given["inner_optimizer"])(0.05)}
        inner = {"class_name": given["inner_optimizer"], "config": {"learning_rate": 0.05}}
        ours = optimizer({"class_name": name, "config": {**given, "inner_optimizer": inner}})
        return ours, keras.optimizers.LossScaleOptimizer(**theirs)
    if name == "MultiOptimizer":
        inner = {pattern: getattr(keras.optimizers, kind)(**config) for pattern, (kind, config) in given.items()}
        theirs = keras.optimizers.OptimizerMap(keras.optimizers.Adagrad(0.05), inner)
        theirs = keras.optimizers.MultiOptimizer(theirs, loss_scale_factor=4.0)
        return optimizer(keras.saving.serialize_keras_object(theirs)), theirs
    rate = given.get("learning_rate")
    if not isinstance(rate, dict):
        return optimizer({"class_name": name, "config": given}), getattr(keras.optimizers, name)(**given)
    theirs = getattr(keras.optimizers.schedules, rate["class_name"])(*rate["config"])
    ours = SCHEDULES[rate["class_name"]](*rate["config"])
    return (
        OPTIMIZERS[name](**{**given, "learning_rate": ours}),
        getattr(keras.optimizers, name)(**{**given, "learning_rate": theirs}),
    )


def run(ours, theirs, weights, steps=STEPS, missing=(), seed=5):
    rng = np.random.default_rng(seed)
    ours.build(weights.ours)
    if not theirs.built:
        theirs.build(weights.theirs)
    for step in range(steps):
        gradients = [(rng.standard_normal(s) * rng.uniform(0.1, 3)).astype("float32") for s in SHAPES]
        dropped = [None if i in missing and step % 2 else g for i, g in enumerate(gradients)]
        ours.apply([None if g is None else torch.tensor(g) for g in dropped])
        theirs.apply([None if g is None else torch.tensor(g) for g in dropped], weights.theirs)


def take_over(ours, weights):
    """Copies Keras's weights to ours, and builds `ours`."""
    for own, their in zip(weights.ours, weights.theirs, strict=True):
        own.assign(their.numpy())
    ours.build(weights.ours)


def check(ours, theirs, weights, tolerance=2e-5):
    for own, their in zip(weights.ours, weights.theirs, strict=True):
        np.testing.assert_allclose(own.numpy(), their.numpy(), rtol=tolerance, atol=tolerance)
    assert len(ours.variables) == len(theirs.variables)
    for own, their in zip(ours.variables, theirs.variables, strict=True):
        # Keras doesn't name Nadam's product.
        assert own.name == "u_product" or own.name.rsplit("_", 1)[-1] == their.name.rsplit("_", 1)[-1]
        np.testing.assert_allclose(own.numpy(), their.numpy(), rtol=1e-4, atol=1e-5, err_msg=own.name)


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_weights_and_state(name, options):
    weights = pair()
    ours, theirs = made(name, options)
    run(ours, theirs, weights)
    check(ours, theirs, weights)
    theirs.finalize_variable_values(weights.theirs)
    ours.finalize()
    check(ours, theirs, weights)


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name not in ("LossScaleOptimizer", "MultiOptimizer")])
def test_an_optimizer_has_keras_name_until_it_is_given_one(name):
    # Keras numbers the names that it gives in one process.
    assert OPTIMIZERS[name]().get_config()["name"] == re.sub(r"_\d+$", "", getattr(keras.optimizers, name)().name)
    assert OPTIMIZERS[name](name="mine").get_config()["name"] == "mine"


def test_every_optimizer_and_schedule_has_a_case():
    assert {name for name, _ in CASES} == set(OPTIMIZERS)
    assert {name for name, _ in SCHEDULE_CASES} == set(SCHEDULES)


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}, {"use_ema": True}, {"gradient_accumulation_steps": 3}])
def test_weights_without_a_gradient_rest(options):
    weights = pair(constrained=True)
    ours, theirs = made("Adam", {"learning_rate": 0.05, **options})
    run(ours, theirs, weights, missing=(1,))
    check(ours, theirs, weights)


def test_constraints_are_applied_after_each_update():
    weights = pair(constrained=True)
    ours, theirs = made("SGD", {"learning_rate": 0.3, "use_ema": True})
    run(ours, theirs, weights)
    check(ours, theirs, weights)
    assert np.linalg.norm(weights.ours[0].numpy(), axis=0).max() <= 1.0 + 1e-6


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("Ftrl", {"learning_rate": 0.0}),
        ("Ftrl", {"learning_rate": {"class_name": "PolynomialDecay", "config": (0.0, 3, 0.05)}, "beta": 0.5}),
        ("Adam", {"beta_1": 1.0}),
        ("Adamax", {"beta_1": 1.0}),
        ("Muon", {"adam_beta_1": 1.0}),
    ],
    ids=str,
)
def test_a_division_by_zero_gives_keras_numbers(name, options):
    weights = pair()
    ours, theirs = made(name, options)
    run(ours, theirs, weights, steps=4)
    check(ours, theirs, weights)
    assert any(np.isnan(weight.numpy()).any() for weight in weights.ours)


def test_exclusion_from_weight_decay():
    weights = pair()
    ours, theirs = made("AdamW", {"learning_rate": 0.05, "weight_decay": 0.5})
    ours.build(weights.ours)
    ours.exclude_from_weight_decay(var_list=[weights.ours[0]], var_names=["w2"])
    theirs.exclude_from_weight_decay(var_list=[weights.theirs[0]], var_names=["w2"])
    run(ours, theirs, weights)
    check(ours, theirs, weights)


def test_a_changed_rate_counts_from_the_next_step():
    weights = pair()
    ours, theirs = made("SGD", {"learning_rate": 0.1, "momentum": 0.9})
    run(ours, theirs, weights, steps=3)
    ours.learning_rate = 0.01
    theirs.learning_rate = 0.01
    run(ours, theirs, weights, steps=3, seed=6)
    check(ours, theirs, weights)


@pytest.mark.parametrize(("name", "options"), [case for case in CASES if len(case[1]) > 1], ids=str)
def test_a_saved_state_goes_on_where_keras_stopped(name, options):
    weights = pair()
    ours, theirs = made(name, options)
    run(made(name, options)[0], theirs, weights, steps=5)
    take_over(ours, weights)
    ours.load([variable.numpy() for variable in theirs.variables])
    run(ours, theirs, weights, steps=5, seed=9)
    check(ours, theirs, weights)


def test_averages_beside_a_schedule_are_no_momenta_of_keras_2():
    weights = pair()
    schedule = {"class_name": "ExponentialDecay", "config": (0.1, 3, 0.8)}
    options = {"learning_rate": schedule, "use_ema": True, "ema_momentum": 0.5}
    ours, theirs = made("SGD", options)
    run(made("SGD", options)[0], theirs, weights, steps=3)
    take_over(ours, weights)
    state = [variable.numpy() for variable in theirs.variables]
    # As 2.15 saves it: averages, then unused momenta.
    for arrays in (state, [*state, *[np.ones(shape, "float32") for shape in SHAPES]]):
        ours.load(arrays)
        check(ours, theirs, weights)


def test_a_state_from_before_keras_3_10_has_averages_and_accumulators_by_turns():
    weights = pair()
    options = {"use_ema": True, "gradient_accumulation_steps": 2}
    ours, theirs = made("Adam", options)
    run(made("Adam", options)[0], theirs, weights, steps=5)
    take_over(ours, weights)
    state = [variable.numpy() for variable in theirs.variables]
    each = len(SHAPES)
    averages, accumulators = state[2 : 2 + each], state[2 + each : 2 + 2 * each]
    turns = [array for both in zip(averages, accumulators, strict=True) for array in both]
    ours.load([*state[:2], *turns, *state[2 + 2 * each :]])
    run(ours, theirs, weights, steps=5, seed=9)
    check(ours, theirs, weights)


def test_a_state_that_does_not_fit_is_refused_and_changes_nothing():
    weights = pair()
    ours, theirs = made("Adam", {})
    run(ours, theirs, weights, steps=2)
    state = [variable.numpy() for variable in ours.variables]
    with pytest.raises(DataError, match="got 4 arrays of state, expected 8"):
        ours.load(state[:4])
    with pytest.raises(DataError, match=r"dense_w2_velocity has shape \(5,\), expected \(2, 2, 3\)"):
        ours.load([np.zeros_like(a) for a in state[:-1]] + [np.zeros(5)])
    for before, after in zip(state, ours.variables, strict=True):
        assert (before == after.numpy()).all()


def test_a_step_that_is_not_finite_is_left_out_and_halves_the_scale():
    weights = pair()
    ours, theirs = made("LossScaleOptimizer", {"inner_optimizer": "SGD", "dynamic_growth_steps": 3})
    for step in range(9):
        gradients = [np.full(shape, 1.0 if step % 4 else np.inf, "float32") for shape in SHAPES]
        for optimizer_, variables in ((ours, weights.ours), (theirs, weights.theirs)):
            optimizer_.build(variables) if not step else None
            given = [torch.tensor(gradient) for gradient in gradients]
            optimizer_.apply(given) if optimizer_ is ours else optimizer_.apply(given, variables)
        assert float(ours.scaled(torch.tensor(1.0))) == float(theirs.scale_loss(torch.tensor(1.0)))
    assert ours.iterations == 6
    check(ours, theirs, weights)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SGD", {"learning_rate": 0.1}),
        ("RMSprop", {"learning_rate": 0.05, "rho": 0.8}),
        ("Adagrad", {"learning_rate": 0.1}),
    ],
)
def test_gradients_of_some_rows_do_what_whole_ones_do(name, options):
    whole, of_rows = pair().ours, pair().ours
    first, second = (made(name, options)[0] for _ in range(2))
    first.build(whole)
    second.build(of_rows)
    assert second.takes_rows
    rng = np.random.default_rng(2)
    for _ in range(STEPS):
        rows = torch.tensor(rng.integers(0, 3, (1, 5)))
        values = torch.tensor(rng.standard_normal((5, 3)).astype("float32"))
        gradient = torch.sparse_coo_tensor(rows, values, (4, 3), check_invariants=True)
        others = [torch.tensor(rng.standard_normal(shape).astype("float32")) for shape in SHAPES[1:]]
        first.apply([gradient.to_dense(), *others])
        second.apply([gradient, *others])
    for one, other in zip(whole, of_rows, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-6, atol=1e-7)
    for variable, other in zip(first.variables, second.variables, strict=True):
        np.testing.assert_allclose(variable.numpy(), other.numpy(), rtol=1e-6, atol=1e-7)


def test_where_all_rows_move_gradients_must_be_whole():
    assert not made("Adam", {})[0].takes_rows
    assert not made("SGD", {"momentum": 0.9})[0].takes_rows
    assert not made("SGD", {"weight_decay": 0.1})[0].takes_rows
    assert not made("RMSprop", {"use_ema": True})[0].takes_rows
    assert not made("RMSprop", {"clipnorm": 1.0})[0].takes_rows


LEGACY_CASES = [
    ("SGD", {"momentum": 0.9, "nesterov": True}),
    ("RMSprop", {"epsilon": 1e-2}),
    ("RMSprop", {"epsilon": 1e-2, "centered": True}),
    ("RMSprop", {"epsilon": 1e-2, "centered": True, "momentum": 0.5}),
    ("Adam", {"amsgrad": True, "epsilon": 1e-2}),
    ("Adamax", {}),
    ("Nadam", {"epsilon": 1e-2}),
    ("Adagrad", {"epsilon": 1e-2}),
    ("Adadelta", {}),
    ("Ftrl", {"beta": 0.1, "l1_regularization_strength": 0.1}),
    ("SGD", {"decay": 0.3}),
]


@pytest.mark.parametrize(("name", "options"), LEGACY_CASES, ids=str)
def test_legacy_optimizers_of_keras_2_go_on(name, options):
    """Weights and state after 4 and after 7 steps of tf.keras 2.15: lab/fixtures/make_legacy_optimizers.py."""
    index = LEGACY_CASES.index((name, options))
    stored = np.load(FIXTURES / "legacy_optimizers.npz")
    config = json.loads(str(stored[f"{index}/config"]))
    assert all(config[option] == pytest.approx(value) for option, value in options.items())
    ours = optimizer({"class_name": name, "config": config})
    weights = [
        Weight("dense", f"w{i}", shape, "float32", lambda s, d: torch.zeros(s)) for i, shape in enumerate(SHAPES)
    ]
    for i, weight in enumerate(weights):
        weight.assign(stored[f"{index}/before/{i}"])
    ours.build(weights)
    ours.load([stored[f"{index}/state/{i}"] for i in range(int(stored[f"{index}/arrays"]))])
    assert ours.iterations == 4
    for step in range(3):
        ours.apply([torch.tensor(stored[f"gradients/{step}/{i}"]) for i in range(len(SHAPES))])
    for i, weight in enumerate(weights):
        np.testing.assert_allclose(weight.numpy(), stored[f"{index}/after/{i}"], rtol=2e-5, atol=2e-5)


def test_keras_2_state_has_no_rate():
    weights = pair()
    ours, _ = made("Adam", {"learning_rate": 0.3})
    ours.build(weights.ours)
    state = [variable.numpy() for variable in ours.variables]
    ours.load([np.array(7, "int64"), *state[2:]])
    assert ours.iterations == 7
    assert ours.learning_rate == 0.3


def test_the_state_of_an_optimizer_that_never_stepped():
    ours, theirs = made("Adam", {"learning_rate": 0.25})
    ours.build(pair().ours)
    ours.learning_rate = 0.5
    ours.load([variable.numpy() for variable in theirs.variables])
    assert (ours.iterations, ours.learning_rate) == (0, 0.25)


def _without_origin(config):
    """The config of a wrapper names the inner optimizer's class, which depends on Keras's backend."""
    if "optimizer_map" in config:
        inside = config["optimizer_map"]["config"]
        named = {"default": inside["default_optimizer"], **inside["optimizer_map"]}
        return {name: (item["class_name"], {**item["config"], "name": None}) for name, item in named.items()}
    if "inner_optimizer" not in config:
        return config
    inner = config["inner_optimizer"]
    return {**config, "inner_optimizer": inner["class_name"], **inner["config"]}


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_config_is_read_by_both(name):
    shared = {"use_ema": True, "clipnorm": 0.5}
    inner = keras.optimizers.Adam(**shared)
    options = {
        "LossScaleOptimizer": {"inner_optimizer": inner},
        "MultiOptimizer": {"optimizer_map": keras.optimizers.OptimizerMap(keras.optimizers.SGD(0.5), {"d/.*": inner})},
    }.get(name, shared)
    theirs = getattr(keras.optimizers, name)(**options)
    ours = optimizer(keras.optimizers.serialize(theirs))
    assert type(ours).__name__ == name
    again = getattr(keras.optimizers, name).from_config(ours.get_config()).get_config()
    expected = _without_origin(theirs.get_config())
    assert again.pop("exclude_layers", None) == expected.pop("exclude_layers", None)
    assert _without_origin(again) == (expected if name == "MultiOptimizer" else pytest.approx(expected))
    assert set(ours.get_config()) == set(theirs.get_config())


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_a_schedule_without_a_name_as_2_15_writes_it(name):
    config = next(config for case, config in SCHEDULE_CASES if case == name)
    made = SCHEDULES[name](*config)
    again = learning_rate({"class_name": name, "config": {**made.get_config(), "name": None}})
    assert again.get_config() == made.get_config()


def test_a_schedule_in_the_config():
    theirs = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.1, 100, warmup_target=0.2, warmup_steps=5))
    ours = optimizer(keras.optimizers.serialize(theirs))
    assert ours.rate() == pytest.approx(0.1)
    assert keras.optimizers.Adam.from_config(ours.get_config()).get_config() == theirs.get_config()


def test_keras_2_configs():
    ours = optimizer({"class_name": "Custom>Adam", "config": {"learning_rate": 0.1, "jit_compile": True}})
    assert ours.rate() == 0.1
    legacy = optimizer({"class_name": "SGD", "config": {"lr": 0.5, "decay": 0.1, "momentum": 0.0}})
    legacy.iterations = 5
    assert legacy.rate() == pytest.approx(0.5 / 1.5)


@pytest.mark.parametrize("given", ["adam", "Adam", "ADAM", OPTIMIZERS["Adam"], {"class_name": "adam", "config": {}}])
def test_names_classes_and_dicts(given):
    assert type(optimizer(given)).__name__ == "Adam"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("adm", "unknown optimizer 'adm'; did you mean 'adam'"),
        ({"class_name": "Adam", "config": {"beta1": 0.9}}, "did you mean 'beta_1'"),
        ({"class_name": "Adam", "config": {"learning_rate": "fast"}}, "option 'learning_rate' is 'fast'"),
        ({"class_name": "Adam", "config": {"learning_rate": {"class_name": "Cosine"}}}, "unknown schedule 'Cosine'"),
        ({"class_name": "Adam", "config": {"clipnorm": 1, "clipvalue": 1}}, "got clipnorm and clipvalue"),
        ({"class_name": "Adam", "config": {"gradient_accumulation_steps": 1}}, "expected 2 or more"),
        ({"class_name": "SGD", "config": {"momentum": 2}}, "expected a number from 0 to 1"),
    ],
)
def test_what_is_wrong_is_named(given, message):
    with pytest.raises(ConfigError, match=message):
        optimizer(given)


SCHEDULE_CASES = [
    ("ExponentialDecay", (0.1, 10, 0.9)),
    ("ExponentialDecay", (0.1, 10, 0.9, True)),
    ("InverseTimeDecay", (0.1, 10, 0.5)),
    ("InverseTimeDecay", (0.1, 10, 0.5, True)),
    ("PolynomialDecay", (0.1, 20)),
    ("PolynomialDecay", (0.1, 10, 0.01, 2.0, True)),
    ("PiecewiseConstantDecay", ([5, 10, 20], [0.4, 0.3, 0.2, 0.1])),
    ("CosineDecay", (0.1, 20)),
    ("CosineDecay", (0.1, 20, 0.1, "CosineDecay", 0.5, 7)),
    ("CosineDecayRestarts", (0.1, 7)),
    ("CosineDecayRestarts", (0.1, 5, 1.0, 0.8, 0.1)),
    ("CosineDecayRestarts", (0.1, 4, 1.5, 0.9)),
]


@pytest.mark.parametrize(("name", "arguments"), SCHEDULE_CASES, ids=str)
def test_schedules(name, arguments):
    ours = SCHEDULES[name](*arguments)
    theirs = getattr(keras.optimizers.schedules, name)(*arguments)
    for step in range(45):
        assert ours(step) == pytest.approx(float(theirs(torch.tensor(step))), rel=1e-5, abs=1e-7), step
    serialised = keras.optimizers.schedules.serialize(theirs)
    assert learning_rate(serialised).get_config() == ours.get_config()


@pytest.mark.parametrize("name", sorted(OPTIMIZERS.keys() - {"LossScaleOptimizer", "MultiOptimizer"}))
def test_what_wraps_optimizers_is_as_they_are(name):
    """For the loop, which rows of embeddings it takes, and for callbacks, which set rates and average weights."""
    inner = OPTIMIZERS[name].from_config({"use_ema": True})
    scaled = OPTIMIZERS["LossScaleOptimizer"].from_config({"inner_optimizer": inner})
    given = {"class_name": "OptimizerMap", "config": {"default_optimizer": inner}}
    several = optimizer({"class_name": "MultiOptimizer", "config": {"optimizer_map": given}})
    for wrapper in (scaled, several):
        (held,) = wrapper.averaging
        assert wrapper.takes_rows == held.takes_rows
        assert wrapper.rate() == pytest.approx(held.rate())
    assert (scaled.leaves_others, scaled.reads_lookups) == (inner.leaves_others, inner.reads_lookups)
    scaled.learning_rate = 0.25
    assert inner.learning_rate == scaled.learning_rate == 0.25
