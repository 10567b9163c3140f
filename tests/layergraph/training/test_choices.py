"""Rare options in training: error texts, and numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch
from layergraph import Input, Model, layers
from layergraph.errors import ConfigError, DataError
from layergraph.training import losses
from layergraph.training.callbacks.callback import Callback
from layergraph.training.callbacks.monitors import LearningRateScheduler
from layergraph.training.callbacks.table import callback
from layergraph.training.checkpoint import _without_arrays
from layergraph.training.compile import at_path
from layergraph.training.losses import LOSSES, weights_like
from layergraph.training.metrics import functions as metric_functions
from layergraph.training.metrics import table as metrics
from layergraph.training.metrics.table import METRICS
from layergraph.training.optimizers.table import OPTIMIZERS, optimizer

RNG = np.random.default_rng(0)
X, Y = RNG.random((12, 3), "float32"), RNG.random((12, 2), "float32")


def model(**compiled: Any) -> Model:
    x = Input((3,), name="x")
    made = Model(x, layers.Dense(2, name="y")(x))
    if compiled:
        made.compile(**{"optimizer": "sgd", "loss": "mse", **compiled})
    return made


def two(**compiled: Any) -> Model:
    x = Input((3,), name="x")
    made = Model(x, [layers.Dense(2, name="a")(x), layers.Dense(2, name="b")(x)])
    made.compile(**{"optimizer": "sgd", "loss": "mse", **compiled})
    return made


def several(*rules: str, **options: Any) -> Any:
    """Optimizers by regular expression."""
    given = {
        "class_name": "OptimizerMap",
        "config": {"default_optimizer": "sgd", "optimizer_map": dict.fromkeys(rules, "adam")},
    }
    return optimizer({"class_name": "MultiOptimizer", "config": {"optimizer_map": given, **options}})


LABELS, GUESSES = np.array([[0], [2]]), RNG.random((2, 4), "float32")
REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "labels of an output that has a loss": (
        lambda: two().fit(X, {"a": Y}),
        DataError,
        "labels of output 'b' are missing",
    ),
    "one array for two outputs": (
        lambda: two().fit(X, Y),
        DataError,
        r"labels: got one array, expected 2: \['a', 'b'\]",
    ),
    "three arrays for two outputs": (lambda: two().fit(X, [Y, Y, Y]), DataError, "labels: got 3 arrays, expected 2"),
    "weights of other outputs beside a list of losses": (
        lambda: two(loss=["mse", "mse"], loss_weights={"a": 1.0}).fit(X, [Y, Y]),
        ConfigError,
        r"loss_weights: got \['a'\], expected all of \['a', 'b'\]",
    ),
    "a nesting that ends too early": (
        lambda: at_path("metrics", [["mae"]], (1, 0)),
        ConfigError,
        "metrics: got a list of 1, expected the nesting of the outputs",
    ),
    "a class that predictions don't have": (
        lambda: model(metrics=[METRICS["Precision"](class_id=2, name="p")]).fit(X, Y),
        DataError,
        r"metric 'p': class_id is 2, expected a class of predictions \(None, 2\)",
    ),
    "a class under zero": (
        lambda: model(metrics=[METRICS["Recall"](class_id=-1, name="p")]).fit(X, Y),
        DataError,
        "class_id is -1",
    ),
    "more best classes than there are": (
        lambda: model(metrics=[METRICS["Precision"](top_k=3, name="p")]).fit(X, Y),
        DataError,
        "metric 'p': top_k is 3",
    ),
    "areas of labels in three axes": (
        lambda: METRICS["AUC"](multi_label=True, name="auc").check_shapes((None, 2, 2), (None, 2, 2)),
        DataError,
        r"metric 'auc': predictions have shape \(None, 2, 2\), expected \(rows, labels\)",
    ),
    "scores of three axes": (
        lambda: METRICS["F1Score"](name="f").check_shapes((None, 2, 2), (None, 2, 2)),
        DataError,
        r"metric 'f': labels have shape .*, expected \(rows, classes\) for both",
    ),
    "shares of variance in three axes": (
        lambda: METRICS["R2Score"](name="r").check_shapes((None, 2, 2), (None, 2, 2)),
        DataError,
        r"metric 'r': predictions have shape \(None, 2, 2\), expected \(rows, outputs\)",
    ),
    "an unknown curve": (lambda: METRICS["AUC"](curve="XY"), ConfigError, "expected 'ROC' or 'PR' or 'PRGAIN'"),
    "a mean with weights": (
        lambda: METRICS["Mean"](name="m").update(torch.ones(2), torch.ones(2), torch.ones(2)),
        ConfigError,
        "metric 'm' doesn't support sample weights",
    ),
    "a sum with weights": (
        lambda: METRICS["Sum"](name="s").update(torch.ones(2), torch.ones(2), torch.ones(2)),
        ConfigError,
        "metric 's' doesn't support sample weights",
    ),
    "a Python function in a file": (
        lambda: metrics.metric(lambda y_true, y_pred: y_pred).get_config(),
        ConfigError,
        "is a Python function and can't be saved; use a built-in metric",
    ),
    "axes that are no numbers": (
        lambda: LOSSES["Dice"](axis="all"),
        ConfigError,
        "expected an integer, a list of integers, or None",
    ),
    "the scale's own settings": (
        lambda: OPTIMIZERS["LossScaleOptimizer"].from_config({"inner_optimizer": "sgd", "weight_decay": 0.1}),
        ConfigError,
        "LossScaleOptimizer: got option 'weight_decay', expected it on the inner optimizer",
    ),
    "a weight that two expressions match": (
        lambda: several("y/.*", ".*kernel").optimizer_map["y/kernel"],
        ConfigError,
        r"OptimizerMap: weight 'y/kernel' matches \['y/\.\*', '\.\*kernel'\], expected at most one of them",
    ),
    "an expression that is none": (lambda: several("("), ConfigError, "expected optimizers by regular expression"),
    "too many expressions": (
        lambda: several(*(f"a{i}" for i in range(100_000))),
        ConfigError,
        "expected at most .* regular expressions",
    ),
    "a map that is none": (
        lambda: optimizer({"class_name": "MultiOptimizer", "config": {"optimizer_map": "sgd"}}),
        ConfigError,
        "expected an OptimizerMap",
    ),
    "expressions of Muon that are none": (
        lambda: OPTIMIZERS["Muon"](exclude_layers=["("]),
        ConfigError,
        "expected a list of regular expressions",
    ),
    "state of another length": (
        lambda: _built(several(".*kernel")).load([np.float32(0)]),
        DataError,
        "got 1 arrays of state, expected",
    ),
}


def _built(made: Any) -> Any:
    made.build(model().trainable_weights)
    return made


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_meaning_is_refused(name: str) -> None:
    make, kind, text = REFUSED[name]
    with pytest.raises(kind, match=text):
        make()


@pytest.mark.parametrize(
    ("labels", "predictions"),
    [((None, 2), (None, 2)), ((None,), (None, 1)), ((None, 1), (None,)), ((None, 2), (None, 2, 1))],
)
def test_shares_of_variance_take_shapes_with_an_axis_of_one(labels: Any, predictions: Any) -> None:
    metric = METRICS["R2Score"]()
    metric.check_shapes(labels, predictions)
    numbers = torch.arange(6.0) if 2 in labels else torch.arange(3.0)
    metric.reset()
    metric.update(*(numbers.reshape(-1, *shape[1:]) for shape in (labels, predictions)))
    assert float(metric.result()) == 1.0


def error(made: Model, output: int, labels: np.ndarray) -> float:
    return float(np.square(made.predict(X)[output] - labels).mean())


def test_an_output_without_a_loss_needs_no_labels() -> None:
    made = two(loss={"a": "mse"})
    assert made.evaluate(X, {"a": Y}, verbose=0) == pytest.approx(error(made, 0, Y), rel=1e-5)


def test_weights_of_losses_in_a_dict_go_by_sorted_names_beside_a_list() -> None:
    """As in Keras 3 for a list of losses with a dict of weights."""
    x = Input((3,), name="x")
    made = Model(x, [layers.Dense(2, name="second")(x), layers.Dense(2, name="first")(x)])
    made.compile("sgd", ["mse", "mse"], loss_weights={"second": 0.0, "first": 1.0})
    assert made.evaluate(X, [Y, 5 * Y], verbose=0)[0] == pytest.approx(error(made, 0, Y), rel=1e-5)
    made.compile("sgd", {"second": "mse", "first": "mse"}, loss_weights={"second": 0.0, "first": 1.0})
    assert made.evaluate(X, [Y, 5 * Y], verbose=0)[0] == pytest.approx(error(made, 1, 5 * Y), rel=1e-5)


def test_classes_that_are_ignored_need_not_exist() -> None:
    x = Input((3,))
    made = Model(x, layers.Dense(4, activation="softmax")(x))
    loss = LOSSES["SparseCategoricalCrossentropy"](ignore_class=-1)
    made.compile("sgd", loss)
    labels = RNG.integers(0, 4, 12)
    labels[[3, 7]] = -1
    theirs = keras.losses.SparseCategoricalCrossentropy(ignore_class=-1)
    expected = float(theirs(labels, made.predict(X)))
    assert made.evaluate(X, labels, batch_size=12, verbose=0) == pytest.approx(expected, rel=1e-5)
    labels[0] = -2
    with pytest.raises(DataError, match="row 1 has class -2, expected 0 to 3"):
        made.evaluate(X, labels, verbose=0)
    made.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(DataError, match="has class -"):
        made.evaluate(X, labels, verbose=0)


def test_best_classes_may_be_told_as_sorted_numbers() -> None:
    guesses = np.array([[3, 1, 2, 0], [2, 0, 1, 3]], "float32")
    for k, expected in ((1, [0, 1]), (2, [1, 1])):
        found = metric_functions.sparse_top_k_categorical_accuracy(
            torch.tensor([[1.0], [2.0]]), torch.from_numpy(guesses), k, from_sorted_ids=True
        )
        assert found.tolist() == expected


def test_weights_take_or_lose_axes_of_one() -> None:
    values = torch.zeros(4, 3)
    assert weights_like(values, torch.zeros(4, 3, 1)).shape == (4, 3)
    assert weights_like(values, torch.zeros(4)).shape == (4, 1)
    assert weights_like(values, torch.zeros(4, 3)).shape == (4, 3)
    assert weights_like(values, torch.zeros(4, 3, 2)).shape == (4, 3, 2)


def test_functions_of_the_table_are_their_classes() -> None:
    """Loss and metric functions are converted to the classes of the same name, and can be saved."""
    loss = losses.loss(LOSSES["MeanAbsoluteError"].function)
    assert type(loss) is LOSSES["MeanAbsoluteError"]
    own = losses.loss(lambda y_true, y_pred: y_pred)
    assert losses.loss(own) is own
    found = metrics.metric(METRICS["MeanAbsoluteError"].function)
    assert type(found) is METRICS["MeanAbsoluteError"]


def test_scalars_of_a_checkpoint_are_plain_numbers() -> None:
    kept = _without_arrays({"a": np.float32(0.5), "b": [np.int64(3), (True, None)], "c": torch.ones(2)})
    assert kept["a"] == 0.5
    assert type(kept["a"]) is float
    assert kept["b"] == [3, (True, None)]
    assert type(kept["b"][0]) is int
    assert kept["c"].tolist() == [1, 1]


def test_several_optimizers_go_on_from_a_state() -> None:
    """The states of all weights, with the number of steps."""

    def trained(steps: int, state: Any = None, weights: Any = None) -> tuple[Any, Model]:
        made = model(optimizer=several(".*kernel"))
        if weights is not None:
            made.set_weights(weights)
        if state is not None:
            made.optimizer.build(made.trainable_weights)
            made.optimizer.restore(state)
        if steps:
            made.fit(X, Y, epochs=steps, batch_size=12, shuffle=False, verbose=0)
        return made.optimizer, made

    start = model().get_weights()
    _, whole = trained(4, weights=start)
    first, half = trained(2, weights=start)
    again, rest = trained(2, state=first.state(), weights=half.get_weights())
    assert again.iterations == 4
    for one, other in zip(whole.get_weights(), rest.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (LearningRateScheduler(lambda epoch, rate: 0.5, verbose=1), "learning_rate set to 0.5"),
        ({"class_name": "ModelCheckpoint", "config": {"filepath": "m.keras", "verbose": 1}}, "model saved to "),
    ],
)
def test_callbacks_that_are_talkative(given: Any, said: str, tmp_path: Path, capsys: Any) -> None:
    made = given if isinstance(given, Callback) else callback(given, tmp_path)
    model(metrics=["mae"]).fit(X, Y, epochs=2, verbose=0, callbacks=[made])
    out = capsys.readouterr().out
    assert out.startswith("Epoch 1: ")
    assert out.count(said) == 2
    assert "Epoch 2: " in out


def test_an_early_stop_says_where_it_was_best(capsys: Any) -> None:
    config = {"monitor": "loss", "min_delta": 100.0, "patience": 1, "verbose": 1}
    stopping = callback({"class_name": "EarlyStopping", "config": config})
    made = model(metrics=["mae"])
    made.fit(X, Y, epochs=5, verbose=0, callbacks=[stopping])
    assert capsys.readouterr().out == "Epoch 2: early stopping; best epoch 1\n"
    quiet = callback({"class_name": "EarlyStopping", "config": {**config, "verbose": 0}})
    model(metrics=["mae"]).fit(X, Y, epochs=5, verbose=0, callbacks=[quiet])
    assert capsys.readouterr().out == ""


def strange(y_true: Any, y_pred: Any) -> Any:
    return y_pred.mean(-1)


class NoBatches(keras.utils.PyDataset):
    """A dataset without batches."""

    def __len__(self) -> int:
        return 0

    def __getitem__(self, index: int) -> Any:
        raise IndexError


def test_what_only_data_or_logs_show_is_refused_when_training_begins() -> None:
    made = model(metrics=[strange])
    with pytest.raises(ConfigError, match="mode 'auto' can't determine whether 'strange' should be large or small"):
        made.fit(
            X, Y, verbose=0, callbacks=[callback({"class_name": "EarlyStopping", "config": {"monitor": "strange"}})]
        )
    config = {"monitor": "strange", "mode": "max"}
    made.fit(X, Y, verbose=0, callbacks=[callback({"class_name": "EarlyStopping", "config": config})])
    with pytest.raises(DataError, match="the PyDataset has no batches"):
        made.fit(NoBatches(), verbose=0)
    x = Input((6, 3))
    speech = Model(x, layers.Dense(5)(x))
    speech.compile("sgd", "ctc")
    steps = RNG.random((2, 6, 3), "float32")
    with pytest.raises(DataError, match=r"got shape \(2, 3, 1\), expected \(rows, length\) for CTC"):
        speech.fit(steps, np.ones((2, 3, 1)), verbose=0)
    assert np.isfinite(speech.evaluate(steps, np.ones((2, 3)), verbose=0))


def test_validators_of_names_that_are_none() -> None:
    with pytest.raises(ConfigError, match="unknown loss 'mze'; did you mean"):
        losses.loss("mze")
    with pytest.raises(ConfigError, match="unknown metric 'mze'; did you mean"):
        metrics.metric("mze")
