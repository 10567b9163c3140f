"""Masks through entire models: where stock Keras passes them on, and how it uses them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import layergraph
import numpy as np
import pytest
from layergraph import layers
from layergraph.ops.table import OPERATIONS
from model_oracles import check_model, compare
from oracles import assert_close, keras

# Keras warns of layers that drop masks.
pytestmark = pytest.mark.filterwarnings("ignore:.*does not support masking.*:UserWarning")

IDS = np.array([[1, 2, 0, 0, 3], [3, 0, 4, 0, 0], [0, 0, 0, 0, 0]], "int32")
OTHER_IDS = np.array([[0, 2, 1, 0, 0], [3, 0, 0, 0, 1], [1, 1, 1, 1, 2]], "int32")
FEATURES = np.where(IDS[..., None] == 0, 0, np.random.default_rng(0).standard_normal((3, 5, 4))).astype("float32")


class Sources:
    """Two masked tensors of ids, one without a mask, and a masked one of features; all (rows, timesteps, 4)."""

    def __init__(self, k: Any) -> None:
        self.k = k
        self.inputs = [k.Input((None,), dtype="int32"), k.Input((None,), dtype="int32"), k.Input((None, 4))]
        first, second, features = self.inputs
        self.a = k.layers.Embedding(10, 4, mask_zero=True)(first)
        self.b = k.layers.Embedding(10, 4, mask_zero=True)(second)
        self.plain = k.layers.Embedding(10, 4)(second)
        self.m = k.layers.Masking()(features)


ARRAYS = [IDS, OTHER_IDS, FEATURES]
MODELS: dict[str, Callable[[Any, Sources], Any]] = {
    "lstm": lambda k, s: k.LSTM(3)(s.a),
    "lstm with states": lambda k, s: k.LSTM(3, return_state=True, return_sequences=True)(s.a),
    "gru after masking": lambda k, s: k.GRU(3, return_sequences=True)(s.m),
    "backwards": lambda k, s: k.GRU(3, go_backwards=True, return_sequences=True)(s.a),
    "lstm after lstm": lambda k, s: k.LSTM(3)(k.LSTM(3, return_sequences=True)(s.a)),
    "zeros for masked steps": lambda k, s: k.LSTM(3, return_sequences=True, zero_output_for_mask=True)(s.a),
    "no torch loop": lambda k, s: k.LSTM(3, activation="relu", return_sequences=True)(s.a),
    "stack": lambda k, s: k.RNN([k.LSTMCell(3), k.GRUCell(2)], return_sequences=True)(s.a),
    "bidirectional": lambda k, s: k.Bidirectional(k.LSTM(3, return_sequences=True))(s.a),
    "bidirectional twice": lambda k, s: k.Bidirectional(k.LSTM(3))(
        k.Bidirectional(k.GRU(2, return_sequences=True))(s.m)
    ),
    "bidirectional without merging": lambda k, s: [
        k.LSTM(2)(y) for y in k.Bidirectional(k.LSTM(3, return_sequences=True), merge_mode=None)(s.a)
    ],
    "bidirectional with states": lambda k, s: k.Bidirectional(k.LSTM(3, return_sequences=True, return_state=True))(s.a),
    "time distributed": lambda k, s: k.LSTM(3)(k.TimeDistributed(k.Dense(2))(s.a)),
    "dense": lambda k, s: k.LSTM(3)(k.Dense(2)(s.a)),
    "what spectral normalisation gives": lambda k, s: k.LSTM(3)(k.SpectralNormalization(k.Dense(2))(s.a)),
    "dropout": lambda k, s: k.LSTM(3)(k.Dropout(0.5)(s.a)),
    "activations": lambda k, s: k.LSTM(3)(k.ELU()(k.PReLU(shared_axes=[1])(k.Activation("tanh")(s.a)))),
    **{
        f"{name} of two": lambda k, s, name=name: [
            getattr(k, name)()([s.a, s.b]),
            k.LSTM(3)(getattr(k, name)()([s.a, s.b])),
        ]
        for name in ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate")
    },
    **{
        f"{name} with one unmasked": lambda k, s, name=name: [
            getattr(k, name)()([s.plain, s.a, s.m]),
            k.LSTM(3)(getattr(k, name)()([s.a, s.plain])),
        ]
        for name in ("Add", "Multiply", "Average", "Maximum", "Minimum", "Concatenate")
    },
    "concatenate steps": lambda k, s: k.LSTM(3)(k.Concatenate(axis=1)([s.a, s.m, s.plain])),
    "states beside a mask": lambda k, s: k.LSTM(3, return_sequences=True)(
        s.a, initial_state=k.LSTM(3, return_state=True)(s.b)[1:]
    ),
    "attention by hand": lambda k, s: k.LSTM(3)(k.multiply([k.Dense(1, activation="tanh")(s.a), s.b])),
    "ranks": lambda k, s: k.LSTM(3)(k.add([s.a, k.LSTM(4)(s.b)])),
}


@pytest.mark.parametrize("name", MODELS)
def test_masks_flow_as_in_keras(name: str, tmp_path: Path) -> None:
    def build(k: Any) -> tuple[list[Any], list[Any]]:
        sources = Sources(k)
        made = MODELS[name](k.layers, sources)
        # So that every input is used.
        rest = [k.layers.Dense(1)(tensor) for tensor in (sources.a, sources.b, sources.m)]
        return sources.inputs, [*(made if isinstance(made, (list, tuple)) else [made]), *rest]

    check_model(build, ARRAYS, tmp_path)


def test_a_mask_that_a_model_is_given_goes_before_the_one_that_comes_along(tmp_path: Path) -> None:
    def build(k: Any) -> tuple[list[Any], list[Any]]:
        of, ids, mask = k.layers, k.Input((5,), dtype="int32"), k.Input((5,), dtype="bool")
        x = of.Embedding(10, 4, mask_zero=True)(ids)
        one, two, three = (k.Input((5, 4)) for _ in range(3))
        whole = k.Model(one, of.LSTM(3, return_sequences=True)(one))
        outer = k.Model(two, whole(two))
        joined = k.Model([two, three], of.Concatenate()([of.LSTM(3, return_sequences=True)(t) for t in (two, three)]))
        stack = k.Sequential([k.Input((5, 4)), of.Dense(3), of.GRU(3, return_sequences=True)])
        plain = of.Dense(4)(of.Flatten()(x))
        made = [
            whole(x),
            whole(x, mask=mask),
            whole(of.RepeatVector(5)(plain), mask=mask),
            outer(x, mask=mask),
            stack(x, mask=mask),
            joined([x, of.RepeatVector(5)(plain)], mask=[mask, None]),
        ]
        return [ids, mask], [of.LSTM(2)(y) for y in made]

    check_model(build, [IDS, OTHER_IDS % 2 == 0], tmp_path)


# Which tensors have masks.


def test_shapes_of_masks_are_known() -> None:
    s = Sources(layergraph)
    assert s.a.mask_shape == (None, None)
    assert s.plain.mask_shape is None
    assert s.m.mask_shape == (None, None)
    assert layers.LSTM(3)(s.a).mask_shape is None
    y, h, _ = layers.LSTM(3, return_sequences=True, return_state=True)(s.a)
    assert (y.mask_shape, h.mask_shape) == ((None, None), None)
    assert layers.add([s.a, s.plain]).mask_shape is None
    assert layers.concatenate([s.a, s.plain]).mask_shape == (None, None)
    assert layers.Dot(axes=2)([s.a, s.b]).mask_shape is None
    assert layers.TimeDistributed(layers.Dense(2))(s.a).mask_shape == (None, None)


@pytest.mark.parametrize(
    ("name", "with_plain", "expected"),
    [
        ("Add", False, (IDS != 0) & (OTHER_IDS != 0)),
        ("Add", True, IDS != 0),
        ("Concatenate", False, (IDS != 0) & (OTHER_IDS != 0)),
        ("Concatenate", True, IDS != 0),
    ],
)
def test_keras2_merges_masks_with_and(name: str, with_plain: bool, expected: np.ndarray) -> None:
    s = Sources(layergraph)
    merged = getattr(layers, name)(mask_rule="keras2")([s.a, s.plain if with_plain else s.b])
    _, mask = (
        layergraph.Model(s.inputs[:2], merged)
        .plan()
        .forward(
            layergraph.functional.call_context.CallContext(),
            [__import__("torch").from_numpy(ids) for ids in (IDS, OTHER_IDS)],
        )
    )
    np.testing.assert_array_equal(mask[0].numpy(), expected)


def test_keras2_holds_the_mask_beside_states() -> None:
    state = np.zeros((3, 2), "float32")
    results = []
    for rule, explicit in (("keras2", False), ("keras3", False), ("keras3", True)):
        ids, start = layergraph.Input((5,), dtype="int32", name="ids"), layergraph.Input((2,), name="start")
        x = layers.Embedding(10, 4, mask_zero=True, embeddings_initializer="ones")(ids)
        mask = {"mask": OPERATIONS["NotEqual"]()(ids, 0)} if explicit else {}
        layer = layers.GRU(2, mask_rule=rule, kernel_initializer="ones", recurrent_initializer="ones", name="y")
        model = layergraph.Model([ids, start], layer(x, initial_state=start, **mask))
        results.append(model.plan().run({"ids": IDS, "start": state})["y"])
    assert not np.allclose(results[0], results[1])
    np.testing.assert_allclose(results[0], results[2])


def test_keras2_files_keep_the_masks_of_keras2() -> None:
    folder = Path(__file__).parents[2] / "fixtures"
    with np.load(folder / "keras2_masks.npz") as arrays:
        expected = [arrays[f"out{i}"] for i in range(len(arrays) - 2)]
        compare(layergraph.load_model(folder / "keras2_masks.h5"), [arrays["x"], arrays["y"]], expected, 1e-5)


@pytest.mark.parametrize("written", [None, "model.keras", "model.h5"])
def test_keras2_files_say_that_no_mask_goes_in(written: str | None, tmp_path: Path) -> None:
    folder = Path(__file__).parents[2] / "fixtures"
    with np.load(folder / "keras2_unmasked.npz") as arrays:
        expected = [arrays[f"out{i}"] for i in range(len(arrays) - 1)]
        model, ids = layergraph.load_model(folder / "keras2_unmasked.h5"), arrays["ids"]
    if written is not None:
        model.save(tmp_path / written)
        model = layergraph.load_model(tmp_path / written)
    compare(model, [ids], expected, 1e-5)


def test_keras3_is_handed_tensors_without_masks(tmp_path: Path) -> None:
    folder = Path(__file__).parents[2] / "fixtures"
    with np.load(folder / "keras2_unmasked.npz") as arrays:
        expected = [arrays[f"out{i}"] for i in range(len(arrays) - 1)]
        layergraph.load_model(folder / "keras2_unmasked.h5").save(tmp_path / "model.keras")
        got = keras.models.load_model(tmp_path / "model.keras").predict_on_batch(arrays["ids"])
    for index, (ours, want) in enumerate(zip(got, expected, strict=True)):
        # Keras 3 combines masks differently in the model of two inputs.
        if index != 12:
            np.testing.assert_allclose(ours, want, rtol=1e-5, atol=1e-5)


def test_a_mask_that_a_layer_is_given_goes_before_the_one_that_comes_along() -> None:
    given = np.array([[True] * 5, [True, True, False, False, False], [False, True, True, True, True]])

    def build(k: Any) -> Any:
        sources = Sources(k)
        return k.Model(sources.inputs[0], k.layers.LSTM(3)(sources.a, mask=given))

    theirs, ours = build(keras), build(layergraph)
    ours.set_weights(theirs.get_weights())
    assert_close(ours.predict(IDS), theirs.predict_on_batch(IDS))
