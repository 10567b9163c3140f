"""Runs: invalid input, shuffling, mapped files, callbacks, progress, NaN, and compile arguments in files."""

import math

import keras
import numpy as np
import pytest
from layergraph import Input, Model, layers
from layergraph.config.compiled import compile_config
from layergraph.config.diagnostics import Diagnostics
from layergraph.config.keras_versions import generation_of
from layergraph.errors import ConfigError, DataError, NonFiniteLossError, NotCompiledError
from layergraph.training.callbacks.callback import Callback
from layergraph.training.compile import compile_arguments
from layergraph.training.optimizers.table import optimizer
from oracles import case_id

RNG = np.random.default_rng(2)
X = RNG.standard_normal((20, 4)).astype("float32")
CLASSES = RNG.integers(0, 3, 20)


def one_output(compiled=True, loss="sparse_categorical_crossentropy", **compile_options):
    x = Input((4,), name="x")
    model = Model(x, layers.Dense(3, activation="softmax", name="out")(x))
    if compiled:
        model.compile("sgd", loss, **compile_options)
    return model


def two_outputs(**compile_options):
    a, b = Input((4,), name="a"), Input((2,), name="b")
    h = layers.concatenate([a, b])
    model = Model([a, b], [layers.Dense(3, name="main")(h), layers.Dense(1, name="aux")(h)])
    model.compile(**{"optimizer": "sgd", "loss": "mse", **compile_options})
    return model


def weights_of(model):
    return np.concatenate([w.ravel() for w in model.get_weights()])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "adm"}, "unknown optimizer 'adm'; did you mean 'adam'"),
        ({"loss": "mes"}, "unknown loss 'mes'; did you mean"),
        ({"loss": {"mian": "mse"}}, "loss: unknown output 'mian'; did you mean 'main'"),
        ({"loss": ["mse"]}, r"loss: got a list of 1, expected one for each output: \['main', 'aux'\]"),
        ({"loss": {"main": "mse", "aux": "mea"}}, "unknown loss 'mea'"),
        ({"loss_weights": [1.0]}, "loss_weights: got a list of 1"),
        ({"loss_weights": 0.5}, "loss_weights is 0.5, expected a list or dict"),
        ({"loss_weights": [1.0, "a"]}, "expected numbers"),
        ({"loss_weights": {"main": 1.0, "axu": 2.0}}, "unknown output 'axu'; did you mean 'aux'"),
        ({"metrics": ["acuracy"]}, "unknown metric 'acuracy'; did you mean 'accuracy'"),
        ({"metrics": {"man": ["acc"]}}, "metrics: unknown output 'man'; did you mean 'main'"),
        ({"metrics": [["acc"], ["acc"], ["acc"]]}, "metrics: got a list of 3"),
        ({"weighted_metrics": {"aux": "msee"}}, "unknown metric 'msee'"),
    ],
    ids=str,
)
def test_compile_names_what_is_wrong(options, message):
    with pytest.raises(ConfigError, match=message):
        two_outputs(**options)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X, CLASSES[:-1], "different numbers of rows: input 'x' has 20, labels of output 'out' has 19"),
        (X[:0], CLASSES[:0], "data has no rows"),
        (X[:, :3], CLASSES, r"input 'x': got shape \(20, 3\), expected \(None, 4\)"),
        (X[..., None, None], CLASSES, r"input 'x': got shape \(20, 4, 1, 1\)"),
        (X.astype(str), CLASSES, "input 'x': got dtype <U"),
        ([[1.0, 2.0], [3.0]], CLASSES, "input 'x': rows have different lengths"),
        ({"z": X}, CLASSES, "inputs: unknown name 'z'"),
        (None, CLASSES, "input 'x' is missing"),
        ([X, X], CLASSES, "got 2 arrays, expected 1|got shape"),
        (X, None, "labels of output 'out' are missing"),
        (X, {"uot": CLASSES}, "labels: unknown name 'uot'; did you mean 'out'"),
        (X, CLASSES + 1, "labels of output 'out': row .* has class 3, expected 0 to 2"),
        (X, CLASSES - 1, "has class -1, expected 0 to 2"),
        (X, np.full(20, np.nan), "row 1 has class nan"),
        (X, np.eye(3)[CLASSES], r"got shape \(20, 3\), .* \(one-hot labels need categorical_crossentropy\)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_data_that_does_not_fit_is_refused_before_training(x, y, message):
    model = one_output()
    before = weights_of(model)
    with pytest.raises(DataError, match=message):
        model.fit(x, y, verbose=0)
    assert (weights_of(model) == before).all()


def test_refused_data_decides_nothing():
    model = one_output(loss="crossentropy", metrics=["accuracy"])
    with pytest.raises(DataError):
        model.fit(X, np.eye(4)[CLASSES], verbose=0)
    model.fit(X, CLASSES, verbose=0)
    assert type(model._ready().loss(0)).__name__ == "SparseCategoricalCrossentropy"
    assert type(model._ready().metrics(0)[0]).__name__ == "SparseCategoricalAccuracy"


@pytest.mark.parametrize(
    ("loss", "y", "message"),
    [
        ("categorical_crossentropy", CLASSES, r"\(class indices need sparse_categorical_crossentropy\)"),
        ("mse", X, r"got shape \(20, 4\), expected \(None, 3\)"),
        ("mse", X[:, :1], r"got shape \(20, 1\), expected \(None, 3\)"),
    ],
)
def test_labels_of_a_wrong_shape(loss, y, message):
    with pytest.raises(DataError, match=message):
        one_output(loss=loss).fit(X, y, verbose=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample_weight": np.ones(19)}, "sample_weight of output 'out' has 19"),
        ({"sample_weight": np.ones((20, 3))}, r"got shape \(20, 3\), expected"),
        ({"validation_split": 0.99}, "leaves rows on both sides"),
        ({"validation_split": 2.0}, "leaves rows on both sides"),
        ({"validation_data": X}, r"validation_data: got ndarray, expected \(x, y\)"),
        ({"validation_data": (X, CLASSES[:5])}, "different numbers of rows"),
        ({"validation_data": (X, CLASSES + 5)}, "has class"),
        ({"batch_size": 0}, "batch_size is 0, expected a positive integer"),
        ({"class_weight": {0: 1.0}, "sample_weight": np.ones(20)}, "can't be given together"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_options_of_fit_that_do_not_fit(options, message):
    with pytest.raises((DataError, ConfigError), match=message):
        one_output().fit(
            X, np.eye(3, dtype="float32")[CLASSES] if options.get("one_hot") else CLASSES, verbose=0, **options
        )


def test_class_weight_is_for_one_output():
    model = two_outputs()
    with pytest.raises(ConfigError, match="only for models with one output"):
        model.fit([X, X[:, :2]], [X[:, :3], X[:, :1]], class_weight={0: 1.0}, verbose=0)


@pytest.mark.parametrize("method", ["fit", "evaluate", "train_on_batch", "test_on_batch"])
def test_training_needs_compile(method):
    with pytest.raises(NotCompiledError, match=r"call compile\(optimizer=..., loss=...\)"):
        getattr(one_output(compiled=False), method)(X, CLASSES)


def test_training_needs_a_loss():
    with pytest.raises(NotCompiledError, match="compiled without a loss"):
        one_output(loss=None).fit(X, CLASSES, verbose=0)


def test_an_input_axis_of_one_is_added_or_dropped():
    x = Input((1,), name="x")
    model = Model(x, layers.Dense(1)(x))
    model.compile("sgd", "mse")
    for given in (X[:, 0], X[:, :1], X[:, :1, None]):
        assert model.predict(given).shape == (20, 1)
        model.fit(given, X[:, 1], verbose=0)


def test_the_seed_decides_the_order_and_layers_that_draw():
    def run(seed):
        x = Input((4,))
        model = Model(x, layers.Dense(3, activation="softmax")(layers.Dropout(0.5)(x)))
        model.set_weights([np.ones((4, 3)) * np.arange(3), np.zeros(3)])
        model.compile("adam", "sparse_categorical_crossentropy")
        model.fit(X, CLASSES, batch_size=8, epochs=2, verbose=0, seed=seed)
        return weights_of(model)

    assert (run(1) == run(1)).all()
    assert (run(1) != run(2)).any()


def test_shuffling_takes_each_row_once_an_epoch():
    x = Input((1,))
    kernel = layers.Dense(1, use_bias=False)
    model = Model(x, kernel(x))
    kernel.set_weights([np.ones((1, 1))])
    model.compile({"class_name": "SGD", "config": {"learning_rate": 0.0}}, "mae")
    data = np.arange(10, dtype="float32")[:, None]
    history = model.fit(data, np.zeros((10, 1)), batch_size=3, epochs=2, verbose=0, seed=0)
    assert history.history["loss"] == pytest.approx([4.5, 4.5])


@pytest.mark.parametrize("shuffle", [False, True])
def test_mapped_and_read_only_arrays_give_the_same_as_arrays_in_memory(tmp_path, shuffle):
    np.save(tmp_path / "x.npy", X.astype("float64"))
    np.save(tmp_path / "y.npy", CLASSES.astype("int16"))
    frozen = X.copy()
    frozen.flags.writeable = False
    results = []
    initial = one_output().get_weights()
    for x, y in [
        (X, CLASSES),
        (np.load(tmp_path / "x.npy", mmap_mode="r"), np.load(tmp_path / "y.npy", mmap_mode="r")),
        (frozen, CLASSES.astype("uint16")),
        (X[::-1][::-1], CLASSES.astype(">i4")),
    ]:
        model = one_output(metrics=["accuracy"])
        model.set_weights(initial)
        history = model.fit(x, y, epochs=2, batch_size=6, verbose=0, shuffle=shuffle, seed=3, validation_split=0.2)
        results.append((history.history, weights_of(model), model.predict(x)))
    for other in results[1:]:
        for name, values in results[0][0].items():
            assert other[0][name] == pytest.approx(values)
        assert (other[1] == results[0][1]).all()
        assert (other[2] == results[0][2]).all()


def test_a_callback_can_stop_the_run():
    class Stop(Callback):
        def on_train_batch_end(self, batch, logs=None):
            assert math.isfinite(logs["loss"])
            self.model.stop_training = batch == 1

    model = one_output()
    history = model.fit(X, CLASSES, batch_size=5, epochs=3, callbacks=Stop(), verbose=0)
    assert history.epoch == [0]
    history = model.fit(X, CLASSES, epochs=2, verbose=0)
    assert history.epoch == [0, 1]


def test_logs_that_a_callback_adds_are_kept():
    class Adds(Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["rate"] = 0.5

    class Sees(Callback):
        def on_epoch_end(self, epoch, logs=None):
            assert logs["rate"] == 0.5

    one_output().fit(X, CLASSES, verbose=0, callbacks=[Adds(), Sees()])


def nan_model():
    x = Input((4,))
    model = Model(x, layers.Dense(1)(x))
    model.compile({"class_name": "SGD", "config": {"learning_rate": 1e30}}, "mse")
    return model


def test_keras_goes_on_with_a_loss_that_is_no_number():
    history = nan_model().fit(X, X[:, :1], epochs=3, batch_size=10, verbose=0)
    assert not math.isfinite(history.history["loss"][-1])


def test_a_loss_that_is_no_number_can_end_the_run():
    with pytest.raises(NonFiniteLossError) as caught:
        nan_model().fit(X, X[:, :1], epochs=3, batch_size=10, verbose=0, shuffle=False, on_nan="stop")
    assert (caught.value.epoch, caught.value.step) == (1, 2)


def test_what_happens_then_is_one_of_two_words():
    with pytest.raises(ConfigError, match="on_nan: got 'panic', expected 'stop' or 'continue'"):
        nan_model().fit(X, X[:, :1], verbose=0, on_nan="panic")


@pytest.mark.parametrize("verbose", [1, 2, "auto"])
def test_progress_is_shown(capsys, verbose):
    model = one_output(metrics=["accuracy"])
    model.fit(X, CLASSES, batch_size=8, epochs=2, verbose=verbose, validation_split=0.2)
    shown = capsys.readouterr().out
    assert "Epoch 2/2" in shown
    assert "2/2" in shown
    assert all(f" - {name}: " in shown for name in ("accuracy", "loss", "val_accuracy", "val_loss"))
    model.evaluate(X, CLASSES, verbose=verbose)
    assert "1/1" in capsys.readouterr().out
    model.predict(X, verbose=0)
    assert capsys.readouterr().out == ""


def test_weights_record_no_gradients_outside_of_training():
    model = one_output()
    model.fit(X, CLASSES, verbose=0)
    assert not any(w.value.requires_grad for w in model.weights)
    with pytest.raises(DataError):
        model.fit(X, CLASSES + 1, verbose=0)
    assert not any(w.value.requires_grad for w in model.weights)


# Files.


def keras_two_outputs():
    a, b = keras.Input((4,), name="a"), keras.Input((2,), name="b")
    h = keras.layers.concatenate([a, b])
    return keras.Model([a, b], [keras.layers.Dense(3, name="main")(h), keras.layers.Dense(1, name="aux")(h)])


DATA = [X, X[:, :2]], [X[:, :3], X[:, :1]]
DECAY = keras.optimizers.schedules.PolynomialDecay(0.1, 10)
COMPILES = [
    {"optimizer": "adam", "loss": "mse", "metrics": [["mae"], ["mse", "acc"]]},
    {"optimizer": "rmsprop", "loss": {"main": "mae", "aux": "mse"}, "loss_weights": {"main": 1.0, "aux": 0.3}},
    {"optimizer": keras.optimizers.SGD(DECAY, momentum=0.9), "loss": ["mse", None]},
    {
        "optimizer": keras.optimizers.AdamW(0.01, use_ema=True),
        "loss": [keras.losses.Huber(delta=1.0), keras.losses.LogCosh()],
        "metrics": {"aux": [keras.metrics.MeanSquaredError(name="m")]},
        "weighted_metrics": {"main": ["mse"]},
    },
]


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@pytest.mark.parametrize("arguments", COMPILES, ids=lambda a: case_id(a["loss"]))
def test_a_half_trained_keras_model_goes_on_here(arguments):
    theirs = keras_two_outputs()
    theirs.compile(**arguments)
    options = {"epochs": 2, "batch_size": 8, "shuffle": False, "verbose": 0}
    theirs.fit(*DATA, **options)

    ours = two_outputs()
    ours.set_weights(theirs.get_weights())
    ours.compile_config = theirs.get_compile_config()
    ours.optimizer_state = [variable.numpy() for variable in theirs.optimizer.variables]
    assert ours.compiled
    history, expected = (model.fit(*DATA, **options).history for model in (ours, theirs))
    assert list(history) == list(expected)
    for name in expected:
        assert history[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-6), name


def test_training_config_of_keras_2():
    huber = {"class_name": "Huber", "config": {"delta": 2.0, "reduction": "auto", "fn": "huber"}}
    wrapped = {"name": "main_acc", "dtype": "float32", "fn": "categorical_accuracy"}
    config = {
        "loss": {"main": "mse", "aux": huber},
        "metrics": [[{"class_name": "MeanMetricWrapper", "config": wrapped}], []],
        "weighted_metrics": None,
        "loss_weights": [1.0, 0.2],
        "optimizer_config": {"class_name": "Custom>RMSprop", "config": {"learning_rate": 0.5, "jit_compile": True}},
    }
    read = compile_config(config, generation_of("2.15.0", {}), ["main", "aux"], Diagnostics())
    model = two_outputs(**compile_arguments(read))
    assert model.optimizer.rate() == 0.5
    history = model.fit(*DATA, verbose=0)
    assert list(history.history) == ["aux_loss", "loss", "main_acc", "main_loss"]


@pytest.mark.parametrize(
    ("scale", "found"),
    [
        (
            {
                "class_name": "DynamicLossScale",
                "config": {"initial_loss_scale": 32768.0, "increment_period": 500, "multiplier": 2.0},
            },
            {"initial_scale": 32768.0, "dynamic_growth_steps": 500},
        ),
        ({"class_name": "FixedLossScale", "config": {"loss_scale_value": 128.0}}, {"loss_scale_factor": 128.0}),
    ],
    ids=["dynamic", "fixed"],
)
def test_loss_scales_of_tensorflow_2_1_to_2_3(scale, found):
    """As `training_config` of TensorFlow 2.3.4 has them; later releases load them in this way."""
    inner = {"class_name": "SGD", "config": {"name": "SGD", "learning_rate": 0.25, "decay": 0.0, "momentum": 0.0}}
    config = {"class_name": "LossScaleOptimizer", "config": {"optimizer": inner, "loss_scale": scale}}
    read = compile_config({"loss": "mse", "optimizer_config": config}, generation_of("2.4.0", {}), ["x"], Diagnostics())
    made = optimizer(read["optimizer"])
    assert {name: getattr(made, name) for name in found} == found
    assert made.rate() == 0.25


def test_a_changed_rate_is_what_a_file_gets():
    model = one_output()
    model.optimizer.learning_rate = 0.25
    assert model.compile_config["optimizer"]["config"]["learning_rate"] == 0.25


def test_python_functions_train_but_cannot_be_saved():
    model = one_output(loss=lambda y, p: (p**2).mean(-1), metrics=[lambda y, p: p[:, 0]])
    assert np.isfinite(model.train_on_batch(X, CLASSES)).all()
    with pytest.raises(ConfigError, match="Python function and can't be saved"):
        _ = model.compile_config
