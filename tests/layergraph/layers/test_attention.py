"""Attention and EinsumDense against stock Keras."""

import shutil
from pathlib import Path
from typing import Any

import layergraph
import numpy as np
import pytest
from layergraph import layers
from layergraph.errors import ConfigError, GraphError
from model_files import FIXTURES, check_fixture
from model_oracles import check_model, compare
from oracles import LayerCase, assert_close, check_layer, flat, keras, random_arrays

# Keras's projections warn that they drop masks, which attention has used already.
pytestmark = pytest.mark.filterwarnings(r"ignore:.*was passed an input with a mask attached to it:UserWarning")

QKV = [(2, 4, 6), (2, 4, 6), (2, 4, 6)]
CASES = [
    LayerCase("Attention", {}, QKV[:2]),
    LayerCase("Attention", {}, [(2, 4, 6), (2, 5, 3), (2, 5, 6)]),
    LayerCase("Attention", {"use_scale": True}, QKV),
    LayerCase("Attention", {"score_mode": "concat"}, QKV),
    LayerCase("Attention", {"score_mode": "concat", "use_scale": True, "dropout": 0.3}, QKV[:2]),
    LayerCase("Attention", {"use_scale": True}, QKV, call={"use_causal_mask": True}),
    LayerCase("Attention", {}, QKV, call={"return_attention_scores": True}),
    LayerCase("Attention", {"dtype": "float64"}, QKV),
    LayerCase("Attention", {}, QKV, unknown_axes=True),
    LayerCase("AdditiveAttention", {}, QKV[:2]),
    LayerCase("AdditiveAttention", {"dropout": 0.1}, [(2, 4, 6), (2, 5, 3), (2, 5, 6)]),
    LayerCase("AdditiveAttention", {"use_scale": False}, QKV),
    LayerCase(
        "AdditiveAttention", {}, QKV, call={"use_causal_mask": True, "return_attention_scores": True}, unknown_axes=True
    ),
    LayerCase("EinsumDense", {"equation": "ab,bc->ac", "output_shape": 5}, [(2, 6)]),
    LayerCase("EinsumDense", {"equation": "abc,cd->abd", "output_shape": [4, 5], "bias_axes": "d"}, [(2, 4, 6)]),
    LayerCase("EinsumDense", {"equation": "abc,cd->abd", "output_shape": [4, 5], "bias_axes": "bd"}, [(2, 4, 6)]),
    LayerCase("EinsumDense", {"equation": "abc,cde->abde", "output_shape": [4, 5, 2], "bias_axes": "d"}, [(2, 4, 6)]),
    LayerCase("EinsumDense", {"equation": "abcd,cde->abe", "output_shape": [4, 5], "bias_axes": "e"}, [(2, 4, 3, 6)]),
    LayerCase(
        "EinsumDense",
        {"equation": "...x,xy->...y", "output_shape": 5, "bias_axes": "y", "activation": "tanh"},
        [(2, 3, 3, 6)],
    ),
    LayerCase("EinsumDense", {"equation": "...bc,bcd->...d", "output_shape": 5, "bias_axes": "d"}, [(2, 3, 4, 6)]),
    LayerCase("EinsumDense", {"equation": "ab...,bc->ac...", "output_shape": 5, "bias_axes": "c"}, [(2, 3, 4, 6)]),
    LayerCase("EinsumDense", {"equation": "abc,cd->abd", "output_shape": [None, 5]}, [(2, 4, 6)], unknown_axes=True),
    LayerCase("EinsumDense", {"equation": "abc,bc->ab", "output_shape": 4, "dtype": "float64"}, [(2, 4, 6)]),
]

SMALL = {"num_heads": 2, "key_dim": 3}
GROUPS = {"head_dim": 3, "num_query_heads": 4, "num_key_value_heads": 2}
HEADS = [
    *(
        ("MultiHeadAttention", {**SMALL, **options}, call)
        for options, call in [
            ({}, {}),
            ({"value_dim": 5}, {}),
            ({"use_bias": False}, {"use_causal_mask": True}),
            ({"output_shape": 7}, {}),
            ({"output_shape": [2, 3]}, {"return_attention_scores": True}),
            ({"attention_axes": 1}, {}),
            ({"attention_axes": [-2]}, {"use_causal_mask": True}),
            ({"dropout": 0.2}, {"use_causal_mask": True}),
            ({"use_gate": True, "value_dim": 4}, {}),
            ({"sliding_window": 2}, {}),
            ({"sliding_window": 2}, {"use_causal_mask": True, "return_attention_scores": True}),
            ({"kernel_initializer": "he_normal", "kernel_regularizer": "l2", "bias_constraint": "max_norm"}, {}),
            ({"dtype": "float64"}, {}),
        ]
    ),
    *(
        ("GroupQueryAttention", {**GROUPS, **options}, call)
        for options, call in [
            ({}, {}),
            ({"num_key_value_heads": 1}, {"use_causal_mask": True}),
            ({"num_key_value_heads": 4, "use_bias": False}, {}),
            ({"dropout": 0.2}, {}),
            ({"use_gate": True}, {"return_attention_scores": True}),
            ({"sliding_window": 2}, {"use_causal_mask": True}),
            ({}, {"return_attention_scores": True, "use_causal_mask": True}),
        ]
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_layer_gives_keras_numbers(case: LayerCase) -> None:
    check_layer(case)


@pytest.mark.parametrize(
    ("name", "options", "call", "keys"), [(*case, bool(number % 2)) for number, case in enumerate(HEADS)], ids=str
)
def test_heads_give_keras_numbers(
    name: str, options: dict[str, Any], call: dict[str, Any], keys: bool, tmp_path: Path
) -> None:
    def build(k: Any) -> tuple[list[Any], list[Any]]:
        inputs = [k.Input((4, 6)), k.Input((5, 6)), *([k.Input((5, 3))] if keys else [])]
        named = {"key": inputs[2]} if keys else {}
        outputs = getattr(k.layers, name)(**options)(inputs[0], inputs[1], **named, **call)
        return inputs, list(outputs) if call.get("return_attention_scores") else [outputs]

    check_model(build, random_arrays([(2, 4, 6), (2, 5, 6), *([(2, 5, 3)] if keys else [])]), tmp_path)


@pytest.mark.parametrize(
    ("axes", "call"),
    [(None, {}), (1, {"return_attention_scores": True}), ([2], {}), ([1, 2], {}), ([-2], {})],
)
def test_heads_attend_over_chosen_axes(axes: Any, call: dict[str, Any], tmp_path: Path) -> None:
    def build(k: Any) -> tuple[list[Any], list[Any]]:
        x = k.Input((4, 5, 6))
        outputs = k.layers.MultiHeadAttention(**SMALL, attention_axes=axes)(x, x, **call)
        return [x], list(outputs) if call else [outputs]

    check_model(build, random_arrays([(2, 4, 5, 6)]), tmp_path)


MASK_CALLS = [
    {},
    {"use_causal_mask": True},
    {"return_attention_scores": True},
    {"return_attention_scores": True, "use_causal_mask": True},
]


NAMES = ("MultiHeadAttention", "GroupQueryAttention", "Attention", "AdditiveAttention")
MASKED = ("query", "value", "both", "one")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("call", "masked", "dropout"),
    [
        (call, MASKED[(number + shift) % 4], dropout)
        for number, call in enumerate(MASK_CALLS)
        for shift, dropout in ((0, 0.0), (1, 0.2))
    ],
    ids=str,
)
def test_masks_count_as_in_keras(name: str, call: dict[str, Any], dropout: float, masked: str, tmp_path: Path) -> None:
    options = {"MultiHeadAttention": SMALL, "GroupQueryAttention": GROUPS}.get(name, {})

    def build(k: Any) -> tuple[list[Any], list[Any]]:
        ids, others = k.Input((4,), dtype="int32"), k.Input((5,), dtype="int32")
        query = k.layers.Embedding(9, 6, mask_zero=masked != "value")(ids)
        value = query if masked == "one" else k.layers.Embedding(9, 6, mask_zero=masked != "query")(others)
        layer = getattr(k.layers, name)(**options, dropout=dropout)
        outputs = layer(query, value, **call) if options else layer([query, value], **call)
        several = call.get("return_attention_scores")
        attended = outputs[0] if several else outputs
        # An LSTM shows which mask is passed on.
        return [ids] if masked == "one" else [ids, others], [
            *(outputs if several else [outputs]),
            k.layers.LSTM(2)(attended),
        ]

    ids = np.array([[1, 2, 0, 3], [4, 0, 0, 0], [0, 0, 0, 0]], "int32")
    others = np.array([[1, 0, 2, 0, 5], [0, 0, 0, 0, 0], [3, 3, 0, 0, 0]], "int32")
    check_model(build, [ids] if masked == "one" else [ids, others], tmp_path)


@pytest.mark.parametrize("name", ["MultiHeadAttention", "GroupQueryAttention"])
@pytest.mark.parametrize(
    ("which", "dropout"),
    [("attention_mask", 0.0), ("attention_mask", 0.2), ("value_mask", 0.2), ("key_mask", 0.0), ("query_mask", 0.0)],
)
def test_masks_can_be_arguments(name: str, which: str, dropout: float, tmp_path: Path) -> None:
    options = SMALL if name == "MultiHeadAttention" else GROUPS
    shape = {"attention_mask": (4, 5), "query_mask": (4,)}.get(which, (5,))

    def build(k: Any) -> tuple[list[Any], list[Any]]:
        query, value, mask = k.Input((4, 6)), k.Input((5, 6)), k.Input(shape, dtype="bool")
        layer = getattr(k.layers, name)(**options, dropout=dropout)
        return [query, value, mask], [layer(query, value, **{which: mask})]

    mask = np.random.default_rng(0).integers(0, 2, (3, *shape)).astype(bool)
    mask[1] = False
    check_model(build, [*random_arrays([(3, 4, 6), (3, 5, 6)]), mask], tmp_path)


@pytest.mark.parametrize("name", ["MultiHeadAttention", "GroupQueryAttention"])
def test_a_constant_can_be_the_mask(name: str, tmp_path: Path) -> None:
    options = SMALL if name == "MultiHeadAttention" else GROUPS
    mask = keras.ops.convert_to_tensor(np.tri(4, 5, dtype=bool)[None])
    query, value = keras.Input((4, 6)), keras.Input((5, 6))
    model = keras.Model([query, value], getattr(keras.layers, name)(**options)(query, value, attention_mask=mask))
    model.save(tmp_path / "model.keras")
    arrays = random_arrays([(3, 4, 6), (3, 5, 6)])
    ours = layergraph.load_model(tmp_path / "model.keras")
    compare(ours, arrays, flat(model(arrays)), 1e-5)
    ours.save(tmp_path / "ours.keras")
    assert_close(keras.models.load_model(tmp_path / "ours.keras")(arrays).detach(), model(arrays).detach())


def test_a_querys_own_mask_goes_before_that_of_the_call(tmp_path: Path) -> None:
    ids, mask = keras.Input((5,), dtype="int32"), keras.Input((5,), dtype="bool")
    x = keras.layers.Embedding(7, 3, mask_zero=True)(ids)
    model = keras.Model([ids, mask], keras.layers.MultiHeadAttention(2, 2)(x, x, query_mask=mask))
    model.save(tmp_path / "model.keras")
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 3, (3, 5)).astype("int32"), rng.random((3, 5)) < 0.5]
    compare(layergraph.load_model(tmp_path / "model.keras"), arrays, flat(model(arrays)), 1e-5)


def test_saved_attention_opens_in_keras(tmp_path: Path) -> None:
    query, value = layergraph.Input((4, 6), name="q"), layergraph.Input((5, 6), name="v")
    outputs = [
        layers.MultiHeadAttention(**SMALL, use_gate=True)(query, value, use_causal_mask=True),
        layers.GroupQueryAttention(**GROUPS)(query, value),
        layers.AdditiveAttention()([query, value]),
        layers.EinsumDense("abc,cd->abd", (None, 3), bias_axes="d")(query),
    ]
    model = layergraph.Model([query, value], outputs)
    path = tmp_path / "model.keras"
    model.save(path)
    arrays = random_arrays([(2, 4, 6), (2, 5, 6)])
    expected = keras.models.load_model(path).predict_on_batch(arrays)
    results = model.plan().run(dict(zip("qv", arrays, strict=True)))
    for got, want in zip(results.values(), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_dropout_acts_on_weights_in_training() -> None:
    x = np.ones((1, 50, 4), "float32")
    for layer in (layers.MultiHeadAttention(1, 2, dropout=0.5), layers.GroupQueryAttention(2, 1, 1, dropout=0.5)):
        _, weights = layer(x, x, return_attention_scores=True, training=True)
        assert weights.sum(-1).allclose(weights.new_ones(1))
        rows = layer(x, x, training=True).detach().numpy()[0]
        assert len(np.unique(rows.round(6), axis=0)) > 5
    rows = layers.Attention(dropout=0.5)([x, x], training=True).numpy()[0]
    assert abs(rows.mean() - 1) < 0.1
    assert len(np.unique(rows)) > 5


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("MultiHeadAttention", {"num_heads": 0, "key_dim": 2}, "option 'num_heads' is 0"),
        ("MultiHeadAttention", {"num_heads": 2, "key_dim": "3"}, "option 'key_dim' is '3'"),
        ("MultiHeadAttention", {**SMALL, "dropout": 1.5}, "option 'dropout' is 1.5"),
        ("MultiHeadAttention", {**SMALL, "output_shape": [3, -1]}, "option 'output_shape'"),
        ("MultiHeadAttention", {**SMALL, "attention_axes": "1"}, "option 'attention_axes'"),
        ("MultiHeadAttention", {**SMALL, "sliding_window": 0}, "option 'sliding_window'"),
        ("GroupQueryAttention", {**GROUPS, "num_key_value_heads": 3}, "option 'num_query_heads' is 4"),
        ("Attention", {"score_mode": "cosine"}, "option 'score_mode' is 'cosine'"),
        ("AdditiveAttention", {"score_mode": "dot"}, "option 'score_mode'"),
        ("EinsumDense", {"equation": "ab,bc", "output_shape": 3}, "option 'equation'"),
        ("EinsumDense", {"equation": "ab,bc->aq", "output_shape": 3}, "whose output 'q' is in an operand"),
        ("EinsumDense", {"equation": "ab,bqc->ac", "output_shape": 3}, "whose kernel axis 'q'"),
        ("EinsumDense", {"equation": "aab,bc->ac", "output_shape": 3}, "repeats a letter"),
        ("EinsumDense", {"equation": "ab,bc->ac", "output_shape": 0}, "option 'output_shape'"),
    ],
)
def test_wrong_option_is_named(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        getattr(layers, name)(**options)


def test_inputs_that_do_not_fit_are_refused() -> None:
    x, y = layergraph.Input((4, 6)), layergraph.Input((5, 6))
    with pytest.raises(GraphError, match=r"expected a list \[query, value\]"):
        layers.Attention()(x)
    with pytest.raises(GraphError, match="expected equal numbers of keys and values"):
        layers.MultiHeadAttention(**SMALL)(x, x, key=y)
    with pytest.raises(GraphError, match="attention_axes"):
        layers.MultiHeadAttention(**SMALL, attention_axes=2)(x, x)
    with pytest.raises(GraphError, match="value None"):
        layers.MultiHeadAttention(**SMALL)(x)
    with pytest.raises(GraphError, match="expected shapes"):
        layers.GroupQueryAttention(**GROUPS)(layergraph.Input((4, 5, 6)), x)
    with pytest.raises(GraphError, match="expected one compatible with equation"):
        layers.EinsumDense("abc,cd->abd", (None, 3))(layergraph.Input((3,)))
    with pytest.raises(GraphError, match="expected one compatible with equation"):
        layers.EinsumDense("abc,cd->abd", (7, 3))(x)
    with pytest.raises(GraphError, match="bias_axes is 'q'"):
        layers.EinsumDense("abc,cd->abd", (None, 3), bias_axes="q")(x)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("values", "keys"), [(None, 4), (4, None)])
def test_values_of_an_unknown_number_have_known_keys(values: int | None, keys: int | None, masked: bool) -> None:
    """As allowed by tf.keras 2.15; the numbers are those of a model that knows both shapes."""

    def model(of_values: int | None, of_keys: int | None) -> Any:
        query = layergraph.Input((5, 3), name="q")
        value, key = layergraph.Input((of_values, 3), name="v"), layergraph.Input((of_keys, 3), name="k")
        told = layers.Masking()(value) if masked else value
        attended = layers.MultiHeadAttention(2, 2, name="heads")(query, told, key=key)
        return layergraph.Model([query, value, key], [layers.Attention()([query, told, key]), attended])

    some, known = model(values, keys), model(4, 4)
    assert [output.shape for output in some.outputs] == [(None, 5, 3), (None, 5, 3)]
    known.set_weights(some.get_weights())
    given = dict(zip("qvk", random_arrays([(2, 5, 3), (2, 4, 3), (2, 4, 3)]), strict=True))
    given["v"][0, 1:] = 0
    for got, want in zip(some.plan().run(given).values(), known.plan().run(given).values(), strict=True):
        assert_close(got, want)


def test_robust_masking_of_tf_keras_221(tmp_path: Path) -> None:
    """A large negative number takes the place of masked scores, so that a query with no key attends to all equally."""
    path = FIXTURES.parent / "tf_keras_attention.h5"
    model = check_fixture(path)
    for suffix in (".h5", ".keras"):
        model.save(tmp_path / f"again{suffix}")
        shutil.copy(path.with_suffix(".npz"), tmp_path / "again.npz")
        check_fixture(tmp_path / f"again{suffix}")
