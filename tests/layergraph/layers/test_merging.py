"""Merging layers against stock Keras."""

import layergraph
import numpy as np
import pytest
from layergraph import layers
from layergraph.errors import ConfigError, GraphError
from oracles import LayerCase, assert_close, check_layer, keras, random_arrays

ELEMENTWISE = ["Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"]
SHAPES = [
    [(2, 3), (2, 3)],
    [(2, 3, 4), (2, 3, 4)],
    [(2, 3, 4), (2, 1, 4)],
    [(2, 3, 4), (2, 4)],
    [(2, 4), (2, 5, 3, 4)],
    [(2, 1, 4), (2, 5, 1)],
]
CASES = [
    *(LayerCase(name, {}, shapes) for name in ELEMENTWISE for shapes in SHAPES),
    *(LayerCase(name, {}, [(2, 3, 4)] * 2, unknown_axes=True) for name in ELEMENTWISE),
    *(LayerCase(name, {}, [(2, 3), (2, 3), (2, 3), (2, 1)]) for name in ELEMENTWISE if name != "Subtract"),
    LayerCase("Add", {"dtype": "float64"}, [(2, 3), (2, 3)]),
    LayerCase("Concatenate", {}, [(2, 3), (2, 4)]),
    LayerCase("Concatenate", {"axis": 1}, [(2, 3, 4), (2, 5, 4), (2, 1, 4)]),
    LayerCase("Concatenate", {"axis": -2}, [(2, 3, 4), (2, 5, 4)]),
    LayerCase("Concatenate", {"axis": 3}, [(2, 3, 4, 1), (2, 3, 4, 2)]),
    LayerCase("Concatenate", {}, [(2, 3, 4), (2, 3, 2)], unknown_axes=True),
    LayerCase("Concatenate", {"axis": 1}, [(2, 3, 4), (2, 6, 4)], unknown_axes=True),
    LayerCase("Dot", {"axes": 1}, [(2, 3), (2, 3)]),
    LayerCase("Dot", {"axes": -1}, [(2, 3), (2, 3)]),
    LayerCase("Dot", {"axes": -1, "normalize": True}, [(2, 3), (2, 3)]),
    LayerCase("Dot", {"axes": (1, 2)}, [(2, 3, 5), (2, 4, 3)]),
    LayerCase("Dot", {"axes": [2, 1]}, [(2, 3, 5), (2, 5, 4)]),
    LayerCase("Dot", {"axes": 1, "normalize": True}, [(2, 3, 5), (2, 3, 4)]),
    LayerCase("Dot", {"axes": 2}, [(2, 3, 5), (2, 4, 5)]),
    LayerCase("Dot", {"axes": (1, 2)}, [(2, 3), (2, 4, 3)]),
    LayerCase("Dot", {"axes": (2, 1)}, [(2, 4, 3), (2, 3)]),
    LayerCase("Dot", {"axes": (1, 3)}, [(2, 3, 4), (2, 5, 6, 3)]),
    LayerCase("Dot", {"axes": (2, 2), "normalize": True}, [(2, 4, 3, 2), (2, 5, 3)]),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_layer_gives_keras_numbers(case: LayerCase) -> None:
    check_layer(case)


def test_integers_stay_integers() -> None:
    a, b = (np.array([[1, -2], [3, 4]], "int32") * factor for factor in (1, 3))
    for name in ELEMENTWISE:
        got = getattr(layers, name)()([a, b]).numpy()
        want = getattr(keras.layers, name)()([a, b]).numpy()
        assert got.dtype == want.dtype
        assert_close(got, want)


@pytest.mark.parametrize("name", ["add", "subtract", "multiply", "average", "maximum", "minimum", "concatenate"])
def test_function_calls_its_layer(name: str) -> None:
    arrays = random_arrays([(2, 3), (2, 3)])
    tensors = [layergraph.Input((3,), name="a"), layergraph.Input((3,), name="b")]
    made = getattr(layers, name)(tensors, name="merged")
    model = layergraph.Model(tensors, made)
    want = getattr(keras.layers, name)(arrays)
    assert_close(model.plan().run(dict(zip("ab", arrays, strict=True)))["merged"], want)


def test_dot_and_concatenate_functions_take_axes() -> None:
    a, b = layergraph.Input((3, 4)), layergraph.Input((5, 4))
    assert layers.dot([a, b], axes=2, normalize=True).shape == (None, 3, 5)
    assert layers.dot([a, b]).shape == (None, 3, 5)
    assert layers.concatenate([a, b], axis=1).shape == (None, 8, 4)


@pytest.mark.parametrize("policy", ["float16", "mixed_float16", "mixed_bfloat16"])
def test_dot_of_unit_lengths_in_half_precision(policy: str) -> None:
    """1e7, the largest inverse length, is no number of float16."""
    arrays = random_arrays([(2, 3), (2, 3)])
    want, got = (dot(axes=1, normalize=True, dtype=policy)(arrays) for dot in (keras.layers.Dot, layers.Dot))
    assert got.dtype == want.dtype
    assert_close(got.float().numpy(), want.float(), 1e-2)


def test_an_unknown_length_fits_a_known_one() -> None:
    x, y = layergraph.Input((None, 4)), layergraph.Input((5, 4))
    theirs = keras.Input((None, 4)), keras.Input((5, 4))
    for name in ["Add", "Concatenate"]:
        assert getattr(layers, name)()([x, y]).shape == tuple(getattr(keras.layers, name)()(theirs).shape)
    assert layers.Dot(axes=1)([x, y]).shape == (None, 4, 4)
    assert layers.add([x, layergraph.Input(batch_shape=(7, None, 4))]).shape == (7, None, 4)


@pytest.mark.parametrize(
    ("layer", "shapes", "message"),
    [
        (layers.Subtract(), [(3,), (3,), (3,)], "called on 2 tensors, got 3"),
        (layers.Dot(axes=1), [(3,)], "called on 2 tensors, got 1"),
        (layers.Add(), [(3,), (4,)], "can't be called on shapes"),
        (layers.Concatenate(axis=1), [(3, 4), (3, 5)], "can't be called on shapes"),
        (layers.Concatenate(), [(3, 4), (3,)], "expected equal ranks"),
        (layers.Dot(axes=1), [(3,), (4,)], r"expected equal lengths along axes \[1, 1\]"),
        (layers.Dot(axes=0), [(3,), (3,)], "other than the batch axis"),
        (layers.Dot(axes=(1, 2)), [(3,), (3,)], "other than the batch axis"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(layer: layers.Layer, shapes: list, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        layer([layergraph.Input(shape) for shape in shapes])


@pytest.mark.parametrize("name", [*ELEMENTWISE, "Concatenate"])
def test_a_single_tensor_is_refused(name: str) -> None:
    with pytest.raises(GraphError, match="called on a list of tensors"):
        getattr(layers, name)()(layergraph.Input((3,)))


@pytest.mark.parametrize("axes", ["last", (1, 2, 3), 1.5])
def test_dot_refuses_wrong_axes(axes: object) -> None:
    with pytest.raises(ConfigError, match="Dot: option 'axes'"):
        layers.Dot(axes=axes)


def test_an_unknown_length_beside_masks_may_be_the_known_one() -> None:
    def model(k) -> object:
        inputs = [k.Input((2, 4)), k.Input((2, 4)), k.Input((None, 4))]
        return k.Model(inputs, k.layers.Maximum()([inputs[0], k.layers.Masking(0.5)(inputs[1]), inputs[2]]))

    theirs, ours = model(keras), model(layergraph)
    arrays = random_arrays([(3, 2, 4)] * 3)
    arrays[1][0, 1] = 0.5
    got = ours.plan().run(dict(zip(ours.input_names, arrays, strict=True)))
    assert_close(next(iter(got.values())), theirs.predict_on_batch(arrays))


def test_the_mask_rule_is_not_saved() -> None:
    config = layers.Add(mask_rule="keras2").get_config()
    assert "mask_rule" not in config
    assert keras.layers.Add.from_config(config)
