"""Models of tf.keras 2.15 train on as they did there, where Keras 3 computes otherwise.

The cases, with what 2.15 made of them, are written by lab/fixtures/make_keras2_training.py.
"""

import json
from pathlib import Path

import layergraph
import numpy as np
import pytest
import torch
from layergraph import Input, Model, layers
from layergraph.config.keras_versions import generation_of
from layergraph.config.training_rules import KERAS3_RULES, tf_keras_training
from layergraph.functional.logits import keep_logits, logits_of
from layergraph.functional.lookups import Lookups
from layergraph.training.callbacks.table import callback
from layergraph.training.compile import Compiled
from layergraph.training.keras2_functions import binary_crossentropy
from layergraph.training.metrics.confusion import AUC
from layergraph.training.optimizers.elementwise import RMSprop
from layergraph.training.optimizers.legacy import LegacyRMSprop

FOLDER = Path(__file__).parents[2] / "fixtures" / "keras2_training"
CASES = sorted(path.stem for path in FOLDER.glob("*.json"))
#: 2.15 logs float32 sums.
TOLERANCE = 2e-5


def trained(name):
    """The largest difference from 2.15 in logs and weights, of a model that goes on by its rules."""
    case = json.loads((FOLDER / f"{name}.json").read_text())
    arrays = np.load(FOLDER / f"{name}.npz")
    model = layergraph.load_model(FOLDER / f"{name}.h5")
    if case["compile"]:
        model.compile(**case["compile"])
    x, y = ([arrays[key] for key in sorted(arrays.files) if key[0] == part and key[1:].isdigit()] for part in "xy")
    weights = arrays["weights"] if "weights" in arrays.files else None
    called = [callback({"class_name": kind, "config": options}) for kind, options in case["callbacks"].items()]
    given = (x if len(x) > 1 else x[0], y if len(y) > 1 else y[0])
    logs = model.fit(*given, verbose=0, sample_weight=weights, callbacks=called, **case["fit"]).history
    # Keras 3 logs a metric as its name is spelled.
    logs = {key.lower() if key[0].isupper() else key: values for key, values in logs.items()}
    after = [arrays[key] for key in sorted(arrays.files) if key.startswith("after")]
    pairs = [*((logs.get(key, []), values) for key, values in case["logs"].items())]
    pairs += zip(model.get_weights(), after, strict=True)
    return max(difference(own, expected) for own, expected in pairs)


def difference(own, expected):
    own, expected = np.asarray(own, np.float64), np.asarray(expected, np.float64)
    if own.shape != expected.shape:
        return np.inf
    return float(np.max(np.abs(own - expected) / (1 + np.abs(expected))))


@pytest.mark.parametrize("name", CASES)
def test_trains_on_as_in_keras_2(name):
    assert trained(name) < TOLERANCE


def loaded(name):
    arrays = np.load(FOLDER / f"{name}.npz")
    return layergraph.load_model(FOLDER / f"{name}.h5"), arrays


def test_saved_for_keras_3_it_trains_by_keras_3(tmp_path):
    """And saved for Keras 2 it stays a model of Keras 2."""
    model, _ = loaded("softmax_of_several")
    for generation, rules in ((2, model.training_rules), (3, KERAS3_RULES)):
        path = tmp_path / f"model_{generation}.h5"
        model.save(path, generation)
        assert layergraph.load_model(path).training_rules == rules
    assert model.training_rules != KERAS3_RULES


def test_compiled_anew_it_stays_a_model_of_keras_2():
    model, arrays = loaded("saturated_sigmoid")
    model.compile("sgd", "binary_crossentropy")
    # The logits are about 30; probabilities are clipped, whose crossentropy is 16 at most.
    assert model.evaluate(arrays["x0"], arrays["y0"], verbose=0) > 25


def test_predictions_that_are_certain_and_wrong_are_clipped_as_in_keras_2():
    """By 1e-7, which Keras 2 adds once more."""
    for certain, label in ((1.0, 0.0), (0.0, 1.0)):
        found = binary_crossentropy(torch.tensor([[label]]), torch.tensor([[certain]]))
        # Just below 1, float32 has steps of 2**-24.
        assert found.item() == pytest.approx(-np.log(2 * 2.0**-24 + 1e-7 if certain else 2e-7), rel=1e-5)


def test_class_weights_multiply_sample_weights():
    model, arrays = loaded("unreduced")
    model.compile("sgd", "mse", weighted_metrics=["mse"])
    x, y = arrays["x0"], np.array([[0.0], [1.0], [1.0], [0.0], [1.0], [0.0]], np.float32)
    given = np.linspace(0.5, 2.0, len(x), dtype=np.float32)
    both = model.fit(x, y, sample_weight=given, class_weight={0: 3.0, 1: 0.5}, shuffle=False, verbose=0).history
    again, _ = loaded("unreduced")
    again.compile("sgd", "mse", weighted_metrics=["mse"])
    product = given * np.where(y[:, 0] == 0, 3.0, 0.5).astype(np.float32)
    assert both == again.fit(x, y, sample_weight=product, shuffle=False, verbose=0).history


@pytest.mark.parametrize(
    ("version", "logits", "ranks", "is_new"),
    [
        ("2.15.0", "any", {4, 5}, True),
        ("2.11.0", "any", {4, 5}, True),
        ("2.10.0", "any", {4, 5}, False),
        ("2.6.0", "any", {4, 5}, False),
        ("2.4.0", "any", {4}, False),
        ("2.3.0-tf", "untold", {4}, False),
        ("2.2.4-tf", "untold", {4}, False),
        ("2.3.1", "untold", set(), False),
        ("2.2.4", "", set(), False),
        ("1.2.2", "", set(), False),
        ("3.10.0", "", set(), True),
    ],
)
def test_rules_of_earlier_releases(version, logits, ranks, is_new):
    rules = generation_of(version, {}, "tensorflow").training
    assert (rules.logits, rules.unbiased_ranks, rules.has_new_optimizers) == (logits, ranks, is_new)


def test_names_of_optimizers_mean_those_of_the_release():
    for rules, kind in (
        (tf_keras_training(10), LegacyRMSprop),
        (tf_keras_training(15), RMSprop),
        (KERAS3_RULES, RMSprop),
    ):
        for given in ("rmsprop", "RMSprop", {"class_name": "RMSprop", "config": {"learning_rate": 0.1}}):
            assert type(Compiled(["out"], rules=rules, optimizer=given).optimizer) is kind
    newer = {"class_name": "RMSprop", "config": {"learning_rate": 0.1, "weight_decay": 0.1}}
    assert type(Compiled(["out"], rules=tf_keras_training(10), optimizer=newer).optimizer) is RMSprop


def test_a_metric_given_for_several_outputs_has_a_state_for_each():
    compiled = Compiled(["a", "b"], rules=tf_keras_training(15), metrics=[AUC(), "mse"])
    (first, _), (second, _) = compiled.metrics(0), compiled.metrics(1)
    assert first is not second
    assert first.name == second.name == "auc"


def test_an_early_release_takes_logits_from_the_expected_activation_only():
    outputs = keep_logits(torch.full((2, 3), 1 / 3), torch.zeros(2, 3), "softmax", "untold")
    assert logits_of(outputs, "softmax", False) is not None
    assert logits_of(outputs, "softmax", True) is None
    assert logits_of(outputs, "sigmoid", False) is None
    assert logits_of(outputs * 1, "softmax", False) is None


def test_lookups_of_one_id_stay_apart():
    table = torch.ones(3, 1, requires_grad=True)
    lookups = Lookups()
    ids = torch.tensor([[0, 0], [2, 0]])
    (lookups.look_up(table, ids).sum() + 2 * lookups.look_up(table, ids).sum()).backward()
    gradient = lookups.gradient(table, None)
    assert table.grad is None
    assert sorted(gradient._values()[:, 0].tolist()) == [1, 1, 1, 1, 2, 2, 2, 2]
    assert gradient.to_dense()[:, 0].tolist() == [9, 0, 3]
    assert lookups.gradient(table, torch.ones(3, 1))[:, 0].tolist() == [10, 1, 4]


def test_statistics_of_a_model_for_each_timestep_move_twice_also_under_a_mask():
    """tf.keras runs the model once for the outputs and once for the mask, which the LSTM needs here."""
    entry = Input((2,))
    inner = Model(entry, layers.BatchNormalization(momentum=0.5, name="norm")(entry))
    words = Input((3,), dtype="int32")
    vectors = layers.Embedding(5, 2, mask_zero=True)(words)
    steps = layers.TimeDistributed(inner, step_rule="keras2")(vectors)
    model = Model(words, layers.LSTM(1)(steps))
    model.compile({"class_name": "SGD", "config": {"learning_rate": 0.0}}, "mse")
    rows = np.array([[1, 2, 3], [3, 4, 1]])
    model.fit(rows, np.zeros((2, 1)), verbose=0)
    moved = model.get_weights()[3]
    whole = model.get_weights()[0][rows].reshape(-1, 2).mean(0)
    np.testing.assert_allclose(moved, 0.75 * whole, rtol=1e-4)
