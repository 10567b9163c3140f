"""Whole runs against stock Keras: same weights, same data, no shuffling; compares logs, names, order, weights."""

from types import SimpleNamespace

import keras
import layergraph
import numpy as np
import pytest
from layergraph import layers as own_layers
from layergraph.training.metrics.table import CategoricalAccuracy
from layergraph.training.optimizers.elementwise import Adam

RNG = np.random.default_rng(8)
TOLERANCE = 1e-4
OURS = SimpleNamespace(
    layers=own_layers, Input=layergraph.Input, Model=layergraph.Model, Sequential=layergraph.Sequential
)


def real(*shape):
    return RNG.standard_normal(shape).astype("float32")


def one_hot(count, classes):
    return np.eye(classes, dtype="float32")[RNG.integers(0, classes, count)]


def both(build):
    """The model in Keras and here, with equal weights."""
    theirs, ours = build(keras), build(OURS)
    ours.set_weights(theirs.get_weights())
    return ours, theirs


def dense(k, units=3, activation="softmax", **options):
    x = k.Input((6,), name="x")
    h = k.layers.Dense(8, activation="tanh", name="h")(x)
    return k.Model(x, k.layers.Dense(units, activation=activation, name="out", **options)(h))


def two_outputs(k):
    x = k.Input((6,), name="x")
    h = k.layers.Dense(8, activation="tanh", name="h")(x)
    main = k.layers.Dense(3, activation="softmax", name="main")(h)
    return k.Model(x, [main, k.layers.Dense(1, activation="sigmoid", name="aux")(h)])


def masked(k):
    """A mask that reaches the loss: (rows, steps, classes), padded with zeros."""
    x = k.Input((7,), dtype="int32", name="x")
    h = k.layers.Embedding(9, 5, mask_zero=True)(x)
    return k.Model(x, k.layers.Dense(4, activation="softmax", name="out")(h))


def check_logs(ours, theirs):
    assert list(ours) == list(theirs)
    for name, values in theirs.items():
        np.testing.assert_allclose(ours[name], values, rtol=TOLERANCE, atol=TOLERANCE / 10, err_msg=name)


def check_weights(ours, theirs):
    for own, their in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(own, their, rtol=TOLERANCE, atol=TOLERANCE)


def check_fit(build, compile_arguments, x, y, their_compile=None, **fit):
    """Compiles, trains three epochs and compares everything; `their_compile` are Keras's arguments if they differ."""
    ours, theirs = both(build)
    ours.compile(**compile_arguments)
    theirs.compile(**(their_compile or compile_arguments))
    options = {"epochs": 3, "batch_size": 16, "shuffle": False, "verbose": 0, **fit}
    check_logs(ours.fit(x, y, **options).history, theirs.fit(x, y, **options).history)
    check_weights(ours, theirs)
    sample_weight = None if "class_weight" in fit else fit.get("sample_weight")
    found = [m.evaluate(x, y, verbose=0, sample_weight=sample_weight) for m in (ours, theirs)]
    np.testing.assert_allclose(*found, rtol=TOLERANCE, atol=TOLERANCE)
    return ours, theirs


X = real(50, 6)
CLASSES = RNG.integers(0, 3, 50)
ONE_HOT = one_hot(50, 3)
YES_NO = RNG.integers(0, 2, 50).astype("float32")
TARGET = real(50, 3)


@pytest.mark.parametrize(
    ("loss", "units", "activation", "y", "metrics"),
    [
        ("sparse_categorical_crossentropy", 3, "softmax", CLASSES[:, None], ["sparse_categorical_accuracy"]),
        ("categorical_crossentropy", 3, "softmax", ONE_HOT, ["accuracy", "mse"]),
        ("binary_crossentropy", 1, "sigmoid", YES_NO, ["accuracy", "binary_accuracy"]),
        ("binary_crossentropy", 3, "sigmoid", ONE_HOT, ["accuracy"]),
        ("MAE", 3, None, TARGET.astype("float64"), ["cosine_similarity"]),
        ("crossentropy", 3, "softmax", CLASSES, ["sparse_categorical_crossentropy"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_losses_and_metrics_by_name(loss, units, activation, y, metrics):
    arguments = {"optimizer": "adam", "loss": loss, "metrics": metrics}
    check_fit(lambda k: dense(k, units, activation), arguments, X, y)


def test_an_object_in_place_of_a_name():
    ours, theirs = both(lambda k: dense(k, 3, None))
    config = {"from_logits": True, "label_smoothing": 0.1}
    loss = {"class_name": "CategoricalCrossentropy", "config": config}
    ours.compile(Adam(0.01), loss, metrics=[CategoricalAccuracy()])
    loss = keras.losses.CategoricalCrossentropy(**config)
    theirs.compile(keras.optimizers.Adam(0.01), loss, metrics=[keras.metrics.CategoricalAccuracy()])
    options = {"epochs": 2, "shuffle": False, "verbose": 0}
    check_logs(ours.fit(X, ONE_HOT, **options).history, theirs.fit(X, ONE_HOT, **options).history)


MIXED = [CLASSES, YES_NO]
LOSSES = {"main": "sparse_categorical_crossentropy", "aux": "binary_crossentropy"}


@pytest.mark.parametrize(
    "metrics",
    [
        {"main": ["accuracy"], "aux": "mae"},
        {"aux": ["acc", "mse"]},
        ["accuracy", "mae"],
    ],
    ids=str,
)
def test_metrics_of_several_outputs(metrics):
    check_fit(two_outputs, {"optimizer": "adam", "loss": LOSSES, "metrics": metrics}, X, MIXED)


def test_one_list_of_metrics_for_all_outputs_as_in_keras_2():
    given = {"optimizer": "adam", "loss": LOSSES}
    check_fit(
        two_outputs, {**given, "metrics": ["accuracy"]}, X, MIXED, {**given, "metrics": [["accuracy"], ["accuracy"]]}
    )


def test_the_same_metric_twice_is_numbered():
    metrics = ["mse", "mse", "acc"]
    ours, _ = check_fit(dense, {"optimizer": "sgd", "loss": "mse", "metrics": metrics}, X, ONE_HOT)
    assert ours.metrics_names == ["acc", "loss", "mse", "mse_1"]


def test_a_list_of_losses_with_weights_by_name_is_paired_as_keras_does():
    arguments = {"optimizer": "sgd", "loss": list(LOSSES.values()), "loss_weights": {"main": 2.0, "aux": 0.5}}
    check_fit(two_outputs, arguments, X, MIXED)


# Stock Keras's, which `pytest.warns` gives again in the name of another module.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")
def test_an_output_without_a_loss():
    arguments = {"optimizer": "sgd", "loss": {"main": "sparse_categorical_crossentropy", "aux": None}}
    ours, theirs = both(two_outputs)
    ours.compile(**arguments)
    theirs.compile(**arguments)
    options = {"epochs": 2, "batch_size": 16, "shuffle": False, "verbose": 0}
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        expected = theirs.fit(X, MIXED, **options).history
    check_logs(ours.fit(X, MIXED, **options).history, expected)
    check_weights(ours, theirs)
    ours.fit(X, {"main": CLASSES}, **options)
    ours.fit(X, [CLASSES], **options)


def test_weighted_metrics_and_sample_weights():
    weights = RNG.uniform(0, 2, 50).astype("float32")
    arguments = {
        "optimizer": "adam",
        "loss": "sparse_categorical_crossentropy",
        "metrics": ["acc"],
        "weighted_metrics": ["acc", "sparse_categorical_crossentropy"],
    }
    check_fit(dense, arguments, X, CLASSES, sample_weight=weights)


@pytest.mark.parametrize("as_dict", [True, False])
def test_sample_weights_by_output(as_dict):
    by_output = [RNG.uniform(0, 2, 50).astype("float32") for _ in range(2)]
    arguments = {"optimizer": "adam", "loss": LOSSES, "weighted_metrics": {"main": ["acc"], "aux": ["mse"]}}
    given = dict(zip(("main", "aux"), by_output, strict=True)) if as_dict else by_output
    ours, theirs = both(two_outputs)
    ours.compile(**arguments)
    theirs.compile(**arguments)
    options = {"epochs": 2, "batch_size": 16, "shuffle": False, "verbose": 0}
    expected = theirs.fit(X, MIXED, sample_weight=by_output, **options).history
    check_logs(ours.fit(X, MIXED, sample_weight=given, **options).history, expected)


def test_one_array_of_sample_weights_is_for_all_outputs():
    weights = RNG.uniform(0, 2, 50).astype("float32")
    arguments = {"optimizer": "adam", "loss": LOSSES, "weighted_metrics": {"main": ["acc"]}}
    check_fit(two_outputs, arguments, X, MIXED, sample_weight=weights)


def test_outputs_in_a_dict():
    def build(k):
        x = k.Input((6,), name="x")
        h = k.layers.Dense(8, activation="tanh", name="h")(x)
        outputs = {"z": k.layers.Dense(3, activation="softmax", name="main")(h), "a": k.layers.Dense(1, name="aux")(h)}
        return k.Model(x, outputs)

    ours, theirs = both(build)
    for model in (ours, theirs):
        model.compile(
            "adam",
            {"z": "sparse_categorical_crossentropy", "a": "mse"},
            loss_weights={"z": 1.0, "a": 0.5},
            metrics={"z": ["acc"]},
        )
    options = {"epochs": 2, "batch_size": 16, "shuffle": False, "verbose": 0}
    labels = {"z": CLASSES, "a": YES_NO}
    check_logs(ours.fit(X, labels, **options).history, theirs.fit(X, labels, **options).history)
    check_weights(ours, theirs)
    found, expected = ours.predict(X), theirs.predict(X, verbose=0)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-5)


def test_models_in_models_and_shared_layers():
    def build(k):
        inner_input = k.Input((6,))
        inner = k.Model(inner_input, k.layers.Dense(5, activation="tanh", kernel_regularizer="l2")(inner_input))
        stack = k.Sequential([k.Input((5,)), k.layers.Dense(4, activation="relu"), k.layers.Dense(3)])
        a, b = k.Input((6,), name="a"), k.Input((6,), name="b")
        return k.Model([a, b], stack(k.layers.add([inner(a), inner(b)])))

    check_fit(build, {"optimizer": "adam", "loss": "mse", "metrics": ["mae"]}, [X, X[::-1].copy()], TARGET)


@pytest.mark.parametrize("y", [CLASSES, ONE_HOT], ids=["numbers", "one-hot"])
def test_class_weights(y):
    loss = "sparse_categorical_crossentropy" if y.ndim == 1 else "categorical_crossentropy"
    arguments = {"optimizer": "adam", "loss": loss, "weighted_metrics": ["accuracy"]}
    check_fit(dense, arguments, X, y, class_weight={0: 0.3, 2: 2.5})


def test_validation_split():
    arguments = {"optimizer": "adam", "loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]}
    check_fit(dense, arguments, X, CLASSES, validation_split=0.33)


@pytest.mark.parametrize("weighted", [False, True])
def test_validation_data(weighted):
    validation = (real(21, 6), RNG.integers(0, 3, 21), *([RNG.uniform(0, 2, 21).astype("float32")] if weighted else []))
    arguments = {"optimizer": "adam", "loss": "sparse_categorical_crossentropy", "weighted_metrics": ["accuracy"]}
    options = {"validation_data": validation, "validation_batch_size": 8, "validation_freq": 1}
    check_fit(dense, arguments, X, CLASSES, **options)


def test_regularizers_constraints_and_frozen_layers():
    def build(k):
        x = k.Input((6,))
        frozen = k.layers.Dense(6, kernel_regularizer="l2", trainable=False)
        h = k.layers.Dense(8, kernel_regularizer="l1", bias_regularizer={"class_name": "L2", "config": {"l2": 0.1}})(
            frozen(x)
        )
        h = k.layers.Dense(8, kernel_constraint="max_norm", kernel_regularizer="l2", activation="tanh")(h)
        return k.Model(x, k.layers.Dense(3, bias_constraint="non_neg")(h))

    check_fit(build, {"optimizer": "sgd", "loss": "mse"}, X, TARGET, validation_split=0.3)


def test_batch_normalization_trained_and_frozen():
    def build(k):
        x = k.Input((6,))
        h = k.layers.BatchNormalization()(k.layers.Dense(8)(x))
        h = k.layers.BatchNormalization(trainable=False)(h)
        return k.Model(x, k.layers.Dense(3, activation="softmax")(h))

    # Adam would amplify rounding errors in the gradient of a bias that normalisation cancels.
    check_fit(build, {"optimizer": "sgd", "loss": "sparse_categorical_crossentropy"}, X, CLASSES, validation_split=0.3)


WORDS = RNG.integers(1, 9, (30, 7)) * (np.arange(7) < RNG.integers(2, 8, (30, 1)))
STEP_LABELS = RNG.integers(0, 4, (30, 7))


@pytest.mark.parametrize("weighted", [False, True])
def test_masks_reach_loss_and_metrics(weighted):
    arguments = {"optimizer": "adam", "loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]}
    fit = {"sample_weight": RNG.uniform(0, 2, (30, 7)).astype("float32")} if weighted else {}
    check_fit(masked, arguments, WORDS, STEP_LABELS, **fit)


def test_averages_replace_the_weights_at_the_end():
    config = {"learning_rate": 0.05, "use_ema": True, "ema_momentum": 0.9}
    arguments = {"optimizer": {"class_name": "Adam", "config": config}, "loss": "mse"}
    check_fit(dense, arguments, X, ONE_HOT, validation_split=0.3)


def test_a_second_fit_goes_on():
    arguments = {"optimizer": "adam", "loss": "mse", "metrics": ["mae"]}
    ours, theirs = check_fit(dense, arguments, X, ONE_HOT)
    options = {"epochs": 5, "initial_epoch": 3, "shuffle": False, "verbose": 0}
    check_logs(ours.fit(X, ONE_HOT, **options).history, theirs.fit(X, ONE_HOT, **options).history)
    check_weights(ours, theirs)


@pytest.mark.parametrize("metrics", [None, {"main": ["acc"], "aux": ["mse", "acc"]}])
def test_on_batch(metrics):
    build, y = (two_outputs, MIXED) if isinstance(metrics, dict) else (dense, CLASSES)
    loss = LOSSES if isinstance(metrics, dict) else "sparse_categorical_crossentropy"
    ours, theirs = both(build)
    for model in (ours, theirs):
        model.compile("adam", loss, metrics=metrics)
    for method in ("train_on_batch", "test_on_batch", "train_on_batch"):
        found, expected = (getattr(m, method)(X, y) for m in (ours, theirs))
        np.testing.assert_allclose(found, expected, rtol=TOLERANCE, atol=1e-6)
        found, expected = (getattr(m, method)(X, y, return_dict=True) for m in (ours, theirs))
        assert list(found) == list(expected)
        assert found == pytest.approx(expected, rel=TOLERANCE)
    for own, their in zip(*(keras.tree.flatten(m.predict_on_batch(X)) for m in (ours, theirs)), strict=True):
        np.testing.assert_allclose(own, their, rtol=1e-4, atol=1e-6)


def test_evaluate_lists_numbers_in_keras_order():
    ours, theirs = both(two_outputs)
    for model in (ours, theirs):
        model.compile("adam", LOSSES, metrics={"aux": ["mse"], "main": ["acc"]})
    for as_dict in (False, True):
        found, expected = (m.evaluate(X, MIXED, verbose=0, batch_size=16, return_dict=as_dict) for m in (ours, theirs))
        if as_dict:
            assert list(found) == list(expected)
            found, expected = list(found.values()), list(expected.values())
        np.testing.assert_allclose(found, expected, rtol=TOLERANCE)


def test_predict_nests_as_the_outputs_do():
    ours, theirs = both(two_outputs)
    for rows in (50, 32, 1):
        for own, their in zip(ours.predict(X[:rows]), theirs.predict(X[:rows], verbose=0), strict=True):
            np.testing.assert_allclose(own, their, rtol=1e-5, atol=1e-6)
    assert [p.shape for p in ours.predict(X[:0])] == [(0, 3), (0, 1)]


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize(
    "steps",
    [
        {"steps_per_epoch": 3},
        {"steps_per_epoch": 9},
        {"steps_per_epoch": 2, "validation_split": 0.3, "validation_steps": 1, "validation_batch_size": 4},
        {"validation_split": 0.5, "validation_freq": [1, 4]},
        {"epochs": 0},
    ],
    ids=str,
)
def test_steps_epochs_and_how_often_there_is_validation(steps):
    arguments = {"optimizer": "adam", "loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]}
    check_fit(dense, arguments, X, CLASSES, **{"epochs": 5, **steps})


def test_the_first_steps_of_an_evaluation():
    ours, theirs = both(dense)
    for model in (ours, theirs):
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    found, expected = (model.evaluate(X, CLASSES, batch_size=8, steps=2, verbose=0) for model in (ours, theirs))
    assert found == pytest.approx(expected, rel=1e-5)


METRICS_OF_ONE = [
    {"class_name": "AUC", "config": {"multi_label": True, "num_thresholds": 50}},
    {"class_name": "Precision", "config": {"thresholds": [0.2, 0.5]}},
    {"class_name": "F1Score", "config": {}},
    {"class_name": "OneHotMeanIoU", "config": {"num_classes": 3}},
]


def test_logs_are_in_the_order_of_their_names():
    """`weighted_...` comes after `val_...`, and so do outputs with such names."""
    ours, theirs = both(dense)
    for model in (ours, theirs):
        model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"], weighted_metrics=["accuracy"])
    options = {"validation_split": 0.3, "verbose": 0}
    names = list(ours.fit(X, CLASSES, **options).history)
    assert names == list(theirs.fit(X, CLASSES, **options).history)
    assert names[-1] == "weighted_accuracy"


def test_metrics_with_several_values():
    """History has arrays for metrics with a number per class or threshold."""
    ours, theirs = both(dense)
    ours.compile("adam", "categorical_crossentropy", metrics=METRICS_OF_ONE)
    their_metrics = [
        getattr(keras.metrics, given["class_name"])(**given["config"], name=name)
        for given, name in zip(METRICS_OF_ONE, "abcd", strict=True)
    ]
    theirs.compile("adam", "categorical_crossentropy", metrics=their_metrics)
    options = {"epochs": 3, "batch_size": 16, "shuffle": False, "verbose": 0, "validation_split": 0.3}
    history, expected = (model.fit(X, ONE_HOT, **options).history for model in (ours, theirs))
    names = dict(zip(("auc", "precision", "f1_score", "one_hot_mean_io_u"), "abcd", strict=True))
    for name, their in names.items():
        for prefix in ("", "val_"):
            np.testing.assert_allclose(history[prefix + name], expected[prefix + their], rtol=TOLERANCE, atol=1e-5)
    assert np.shape(history["f1_score"]) == (3, 3)


MIXED_CASES = [("mixed_float16", 5e-3), ("float64", 1e-4)]


@pytest.mark.parametrize(("policy", "tolerance"), MIXED_CASES)
def test_mixed_precision(policy, tolerance):
    """Weights stay float32, layers compute in half precision; with float16 the loss is scaled by default."""

    def build(k):
        x = k.Input((6,), name="x")
        h = k.layers.Dense(16, activation="relu", dtype=policy)(x)
        h = k.layers.LayerNormalization(dtype=policy)(h)
        return k.Model(x, k.layers.Dense(3, activation="softmax", dtype="float32")(h))

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        ours, theirs = both(build)
        theirs.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    finally:
        keras.config.set_dtype_policy(before)
    ours.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    assert type(ours.optimizer).__name__ == type(theirs.optimizer).__name__
    options = {"epochs": 3, "batch_size": 16, "shuffle": False, "verbose": 0}
    # Validation and prediction use the current weights.
    options["validation_data"] = (X[:20], CLASSES[:20])
    history, expected = (model.fit(X, CLASSES, **options).history for model in (ours, theirs))
    for name in ("loss", "val_loss"):
        np.testing.assert_allclose(history[name], expected[name], rtol=tolerance)
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X, verbose=0), rtol=tolerance, atol=tolerance)
    for own, their in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        assert own.dtype == their.dtype
        np.testing.assert_allclose(own, their, rtol=tolerance, atol=tolerance)


def test_scaling_of_losses_can_be_refused():
    x = layergraph.Input((6,))
    model = layergraph.Model(x, own_layers.Dense(3, dtype="mixed_float16")(x))
    model.compile("adam", "mse", auto_scale_loss=False)
    assert type(model.optimizer).__name__ == "Adam"


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        ("adagrad", {}),
        ("sgd", {"embeddings_regularizer": "l2"}),
        ("rmsprop", {"embeddings_constraint": "unit_norm"}),
    ],
    ids=str,
)
def test_embeddings_that_are_shared_and_look_ids_up_twice(optimizer, options):
    def build(k):
        a, b = k.Input((4,), dtype="int32", name="a"), k.Input((3,), dtype="int32", name="b")
        shared = k.layers.Embedding(20, 5, **options)
        h = k.layers.concatenate([k.layers.Flatten()(shared(a)), k.layers.Flatten()(shared(b))])
        return k.Model([a, b], k.layers.Dense(3)(h))

    ids = [RNG.integers(0, 15, (50, 4)), RNG.integers(0, 3, (50, 3))]
    check_fit(build, {"optimizer": optimizer, "loss": "mse"}, ids, TARGET)


def nested(k):
    x = k.Input((6,), name="x")
    left, right = k.layers.Dense(3, name="left")(x), k.layers.Dense(1, name="right")(x)
    return k.Model(x, {"heads": {"l": left, "r": right}, "other": k.layers.Dense(3, name="third")(x)})


def test_metrics_of_nested_outputs():
    ours, _ = both(nested)
    metrics = {"heads": {"l": ["mae"]}, "other": "mse"}
    ours.compile("sgd", {"heads": "mse", "other": None}, metrics=metrics)
    history = ours.fit(X, {"heads": {"l": TARGET, "r": YES_NO}, "other": ONE_HOT}, verbose=0).history
    assert list(history) == ["heads/l_loss", "heads/r_loss", "left_mae", "loss", "third_mse"]


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@pytest.mark.parametrize("kind", ["penalty", "statistics"])
def test_what_a_nested_model_computes_for_nobody_counts(kind):
    """Its penalties are part of the loss, and its statistics are updated, although the output is unused."""

    def build(k):
        entry = k.Input((6,))
        h = k.layers.Dense(4, activation="tanh", name="h")(entry)
        if kind == "penalty":
            unread = k.layers.Dense(3, activity_regularizer="l2", name="unread")(h)
        else:
            unread = k.layers.BatchNormalization(momentum=0.5, name="unread")(h)
        inner = k.Model(entry, [k.layers.Dense(4, name="read")(h), unread])
        x = k.Input((6,))
        return k.Model(x, k.layers.Dense(3, activation="softmax")(inner(x)[0]))

    check_fit(build, {"optimizer": "sgd", "loss": "sparse_categorical_crossentropy"}, X, CLASSES)
