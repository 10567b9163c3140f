"""Training on iterables of batches: PyDataset, DataLoader and generators, compared with stock Keras."""

from __future__ import annotations

import itertools
import warnings

import keras
import numpy as np
import pytest
import torch
from layergraph import Input, Model, layers
from layergraph.errors import ConfigError, DataError
from layergraph.training.checkpoint import Checkpoints
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

RNG = np.random.default_rng(5)
X = RNG.standard_normal((10, 3)).astype("float32")
Y = RNG.standard_normal((10, 2)).astype("float32")
W = RNG.random(10).astype("float32")
#: Batches of different sizes.
PARTS = [slice(0, 4), slice(4, 5), slice(5, 8), slice(8, 10)]


def models():
    x = keras.Input((3,))
    theirs = keras.Model(x, keras.layers.Dense(2)(keras.layers.Dense(5, activation="tanh")(x)))
    x = Input((3,))
    ours = Model(x, layers.Dense(2)(layers.Dense(5, activation="tanh")(x)))
    weights = [np.random.default_rng(0).standard_normal(w.shape).astype("float32") for w in ours.get_weights()]
    for model in (ours, theirs):
        model.set_weights(weights)
        model.compile("adam", "mse", metrics=["mae"], weighted_metrics=["mse"])
    return ours, theirs


class Dataset(keras.utils.PyDataset):
    """Records its calls."""

    def __init__(self, weights=False, parts=PARTS):
        super().__init__()
        self.parts = parts
        self.weights = weights
        self.asked = []

    def __len__(self):
        return len(self.parts)

    def __getitem__(self, number):
        self.asked.append(number)
        rows = self.parts[number]
        return (X[rows], Y[rows], W[rows]) if self.weights else (X[rows], Y[rows])

    def on_epoch_begin(self):
        self.asked.append("begin")

    def on_epoch_end(self):
        self.asked.append("end")


class Sequence:
    """Like Keras 2's keras.utils.Sequence, which is no class of Keras 3."""

    def __len__(self):
        return len(PARTS)

    def __getitem__(self, number):
        return X[PARTS[number]], Y[PARTS[number]]

    def on_epoch_end(self):
        pass


def loader(size=4):
    return DataLoader(TensorDataset(torch.tensor(X), torch.tensor(Y)), batch_size=size)


def for_ever():
    for number in itertools.count():
        yield X[PARTS[number % 4]], Y[PARTS[number % 4]]


def same(own, their, ours, theirs):
    assert list(own.history) == list(their.history)
    for name, values in their.history.items():
        np.testing.assert_allclose(own.history[name], values, rtol=1e-4, atol=1e-6, err_msg=name)
    for mine, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("data", "options"),
    [
        (Dataset, {"epochs": 3}),
        (lambda: Dataset(weights=True), {"epochs": 2}),
        (Dataset, {"epochs": 4, "steps_per_epoch": 3}),
        (loader, {"epochs": 3}),
        (for_ever, {"epochs": 3, "steps_per_epoch": 3}),
        (lambda: (batch for batch in itertools.islice(for_ever(), 5)), {"epochs": 1}),
    ],
)
def test_the_same_run_as_keras(data, options):
    ours, theirs = models()
    own = ours.fit(data(), shuffle=False, verbose=0, **options)
    with warnings.catch_warnings():
        # If the data runs out, the epoch ends.
        warnings.simplefilter("ignore")
        their = theirs.fit(data(), shuffle=False, verbose=0, **options)
    same(own, their, ours, theirs)


@pytest.mark.parametrize(
    ("data", "options"),
    [(loader, {}), (for_ever, {"validation_steps": 2}), (lambda: Dataset(weights=True), {})],
)
def test_validation_data_of_the_same_kinds(data, options):
    ours, theirs = models()
    fit = {"epochs": 1, "batch_size": 4, "shuffle": False, "verbose": 0, **options}
    own = ours.fit(X, Y, validation_data=data(), **fit)
    their = theirs.fit(X, Y, validation_data=data(), **fit)
    same(own, their, ours, theirs)


@pytest.mark.parametrize(
    ("data", "steps"),
    [(Dataset, 2), (lambda: Dataset(weights=True), None), (loader, None), (for_ever, 5)],
)
def test_prediction(data, steps):
    """Of inputs alone: labels and weights are left out."""
    ours, theirs = models()
    np.testing.assert_allclose(
        ours.predict(data(), steps=steps), theirs.predict(data(), steps=steps, verbose=0), rtol=1e-5, atol=1e-6
    )


def test_prediction_of_inputs_alone_and_of_the_first_batches():
    ours, theirs = models()
    alone = ours.predict(X[part] for part in PARTS)
    np.testing.assert_allclose(alone, ours.predict(X), rtol=1e-5, atol=1e-6)
    first = [model.predict(X, 4, 0, 2) for model in (ours, theirs)]
    np.testing.assert_allclose(*first, rtol=1e-5, atol=1e-6)
    assert len(first[0]) == 8
    taken = []
    ours.predict((taken.append(number) or batch for number, batch in enumerate(for_ever())), steps=2)
    assert taken == [0, 1]
    data = Dataset()
    ours.predict(data)
    assert data.asked == ["begin", 0, 1, 2, 3, "end"]


def test_what_prediction_refuses():
    ours, _ = models()
    with pytest.raises(DataError, match="a generator gives no batch"):
        ours.predict(iter(()))
    with pytest.raises(DataError, match="a generator gave tuple of 4 items, expected batches"):
        ours.predict(iter([(1, 2, 3, 4)]))
    with pytest.raises(DataError, match=r"got shape \(10, 2\), expected \(None, 3\)"):
        ours.predict(iter([X[:, :2]]))


@pytest.mark.parametrize("steps", [0, -1, 1.5, True])
def test_numbers_of_batches_are_checked(steps):
    ours, _ = models()
    for asked, name in (
        (lambda: ours.predict(X, steps=steps), "steps"),
        (lambda: ours.evaluate(X, Y, steps=steps), "steps"),
        (lambda: ours.fit(X, Y, steps_per_epoch=steps), "steps_per_epoch"),
        (lambda: ours.fit(X, Y, validation_split=0.5, validation_steps=steps), "validation_steps"),
    ):
        with pytest.raises(ConfigError, match=f"^{name} is {steps}, expected a positive integer"):
            asked()


def test_hooks_and_batches_come_in_keras_order():
    asked = []
    for model in models():
        training, validation = Dataset(), Dataset(parts=PARTS[:2])
        model.fit(training, validation_data=validation, epochs=2, shuffle=False, verbose=0)
        asked.append((training.asked, validation.asked))
    assert asked[0][0] == asked[1][0]
    # Before training, ours also checks the validation data; Keras ends an epoch before each evaluation.
    assert asked[0][1] == ["begin", 0, "end", *["begin", 0, 1, "end"] * 2]
    assert asked[1][1] == ["end", "begin", 0, 1, "end"] * 2


def test_a_datasets_batches_are_shuffled_and_its_rows_are_not():
    ours, _ = models()
    data = Dataset()
    ours.fit(data, epochs=6, seed=1, verbose=0)
    begun = [place for place, what in enumerate(data.asked) if what == "begin"]
    # After reading the first batch.
    epochs = [data.asked[place + 1 : place + 5] for place in begun[1:]]
    assert all(sorted(numbers) == [0, 1, 2, 3] for numbers in epochs)
    assert len({tuple(numbers) for numbers in epochs}) > 1


def test_a_sequence_of_keras_2_is_a_dataset():
    ours, theirs = models()
    same(
        ours.fit(Sequence(), epochs=2, shuffle=False, verbose=0),
        theirs.fit(Dataset(), epochs=2, shuffle=False, verbose=0),
        ours,
        theirs,
    )


def test_class_weights_of_a_dataset():
    labels = RNG.integers(0, 2, 10)

    class Labelled(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, number):
            rows = slice(5 * number, 5 * number + 5)
            return X[rows], labels[rows]

    ours, theirs = models()
    theirs = keras.Model(theirs.inputs, theirs.outputs)
    for model in (ours, theirs):
        model.compile("sgd", "sparse_categorical_crossentropy")
    fit = {"epochs": 2, "class_weight": {0: 1.0, 1: 3.0}, "shuffle": False, "verbose": 0}
    same(ours.fit(Labelled(), **fit), theirs.fit(Labelled(), **fit), ours, theirs)
    with pytest.raises(ConfigError, match="class_weight: got a generator"):
        ours.fit(for_ever(), steps_per_epoch=1, class_weight={0: 1.0}, verbose=0)


def test_a_run_on_a_dataset_goes_on_where_it_was_broken_off(tmp_path):
    class Broken(Dataset):
        def __getitem__(self, number):
            if len([one for one in self.asked if isinstance(one, int)]) == 7:
                raise KeyboardInterrupt
            return super().__getitem__(number)

    whole, _ = models()
    whole.fit(Dataset(), epochs=3, seed=3, verbose=0)
    parts, _ = models()
    checkpoints = Checkpoints(tmp_path, every_steps=1)
    with pytest.raises(KeyboardInterrupt):
        parts.fit(Broken(), epochs=3, seed=3, checkpoints=checkpoints, verbose=0)
    again, _ = models()
    again.fit(Dataset(), epochs=3, seed=3, checkpoints=checkpoints, verbose=0)
    assert all((a == b).all() for a, b in zip(whole.get_weights(), again.get_weights(), strict=True))
    with pytest.raises(ConfigError, match="checkpoints: got a generator, expected arrays or a PyDataset"):
        again.fit(for_ever(), steps_per_epoch=2, checkpoints=Checkpoints(tmp_path / "other"), verbose=0)


def test_a_generator_is_asked_for_no_more_than_is_trained_on():
    taken = []

    def counted():
        for number, batch in enumerate(for_ever()):
            taken.append(number)
            yield batch

    ours, _ = models()
    ours.fit(counted(), epochs=2, steps_per_epoch=3, verbose=0)
    assert taken == list(range(6))


def test_data_that_runs_out_is_told():
    ours, _ = models()
    with pytest.raises(DataError, match="the data has no batch left for epoch 2"):
        ours.fit(itertools.islice(for_ever(), 5), epochs=3, verbose=0)
    with pytest.raises(DataError, match="a generator has no batch left"):
        ours.fit(X, Y, epochs=2, validation_data=itertools.islice(for_ever(), 2), verbose=0)
    with pytest.raises(DataError, match="a generator gives no batch"):
        ours.fit(iter(()), verbose=0)


class Endless:
    """An object that NumPy would convert item by item without end."""

    def __len__(self):
        return 2**40

    def __getitem__(self, number):
        raise AssertionError("was asked for an item")


class Rows(IterableDataset):
    def __iter__(self):
        return iter([torch.tensor(X[:2]), torch.tensor(X[2:4])])


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"x": Endless(), "y": Y}, DataError, "got Endless, expected an array, a list or dict of arrays, or batches"),
        ({"x": [Endless()], "y": Y}, DataError, "got Endless, expected an array"),
        ({"x": X, "y": Endless()}, DataError, "got Endless"),
        ({"x": X, "y": Y, "validation_data": Endless()}, DataError, r"got Endless, expected \(x, y\)"),
        ({"x": TensorDataset(torch.tensor(X))}, DataError, "DataLoader, which also makes batches of a torch Dataset"),
        ({"x": Dataset(), "y": Y}, DataError, "y: expected None with a PyDataset"),
        ({"x": loader(), "sample_weight": W}, DataError, "sample_weight: expected None with a DataLoader"),
        ({"x": for_ever(), "validation_split": 0.5}, DataError, "validation_split: expected None with a generator"),
        ({"x": iter([(1, 2, 3, 4)])}, DataError, "a generator gave tuple of 4 items, expected batches"),
        ({"x": iter([None])}, DataError, "a generator gave NoneType of no items"),
        ({"x": iter([(X[:, :2], Y)])}, DataError, r"got shape \(10, 2\), expected \(None, 3\)"),
        ({"x": DataLoader(Rows(), batch_size=None)}, DataError, "labels of output"),
    ],
)
def test_what_is_not_taken_is_refused_by_name(arguments, error, text):
    ours, _ = models()
    before = ours.get_weights()
    with pytest.raises(error, match=text):
        ours.fit(**{"verbose": 0, **arguments})
    assert all((a == b).all() for a, b in zip(before, ours.get_weights(), strict=True))


def test_a_loader_without_a_length_ends_where_its_batches_do():
    class Both(IterableDataset):
        def __iter__(self):
            return iter([(X[part], Y[part]) for part in PARTS])

    ours, theirs = models()
    own = ours.fit(DataLoader(Both(), batch_size=None), epochs=2, verbose=0)
    same(own, theirs.fit(Dataset(), epochs=2, shuffle=False, verbose=0), ours, theirs)


@pytest.mark.parametrize("given", [memoryview(X[:, 0].copy()), range(10), [float(x) for x in X[:, 0]]], ids=type)
def test_other_array_likes_are_still_arrays(given):
    x = Input((1,))
    model = Model(x, layers.Dense(1)(x))
    model.compile("sgd", "mse")
    assert len(model.fit(given, Y[:, 0], verbose=0).history["loss"]) == 1


def test_progress_of_unknown_length(capsys):
    ours, _ = models()
    ours.fit(itertools.islice(for_ever(), 5), verbose=1)
    assert "5/Unknown" in capsys.readouterr().out
    ours.fit(itertools.islice(for_ever(), 5), verbose=2)
    assert "5/5 - " in capsys.readouterr().out


@pytest.mark.parametrize(
    "given",
    [
        [{"class_name": "EarlyStopping", "config": {"monitor": "loss", "patience": 1, "min_delta": 1e9}}],
        {"class_name": "EarlyStopping", "config": {"monitor": "loss", "patience": 1, "min_delta": 1e9}},
        ("TerminateOnNaN", {"class_name": "EarlyStopping", "config": {"monitor": "loss", "min_delta": 1e9}}),
    ],
    ids=["list", "one", "tuple"],
)
def test_callbacks_may_be_given_as_in_a_request(given):
    ours, _ = models()
    assert len(ours.fit(X, Y, epochs=9, callbacks=given, verbose=0).epoch) == 2
    assert ours.evaluate(X, Y, callbacks="TerminateOnNaN", verbose=0)
    with pytest.raises(ConfigError, match="unknown callback 'EarlyStoping'"):
        ours.fit(X, Y, callbacks=["EarlyStoping"], verbose=0)


def test_workers_share_no_batches():
    ours, _ = models()
    for arguments in ({"x": Dataset()}, {"x": X, "y": Y, "validation_data": Dataset()}):
        with pytest.raises(ConfigError, match="workers: got batches, expected arrays"):
            ours.fit(**arguments, workers=object(), verbose=0)
