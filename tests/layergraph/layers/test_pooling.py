"""Pooling against stock Keras, and against TensorFlow where Keras on torch counts padding."""

import layergraph
import numpy as np
import pytest
import torch
from layergraph.errors import ConfigError, DataError, GraphError
from layergraph.layers.table import LAYERS
from oracles import LayerCase, check_layer, keras
from tensorflow_numbers import TensorFlowCase, tensorflow_cases

SHAPES = {1: (2, 9, 3), 2: (2, 8, 7, 3), 3: (1, 5, 6, 7, 2)}

CASES = [
    LayerCase(f"{kind}Pooling{rank}D", options, [shape])
    for rank, shape in SHAPES.items()
    for kind, options in [
        ("Max", {}),
        ("Max", {"pool_size": 3, "strides": 1, "padding": "same"}),
        ("Max", {"pool_size": 2, "strides": 1, "padding": "same"}),
        ("Max", {"pool_size": 2, "strides": 3, "padding": "same"}),
        ("Max", {"pool_size": 1, "strides": 3, "padding": "same"}),
        ("Average", {"pool_size": 2}),
        ("Average", {"pool_size": 3, "strides": 1, "padding": "same"}),
        ("Average", {"pool_size": 2, "strides": 1, "padding": "same"}),
        ("Average", {"pool_size": 2, "strides": 3, "padding": "same"}),
        ("GlobalMax", {}),
        ("GlobalMax", {"keepdims": True, "data_format": "channels_first"}),
        ("GlobalAverage", {}),
        ("GlobalAverage", {"keepdims": True}),
        ("GlobalAverage", {"data_format": "channels_first"}),
        ("AdaptiveMax", {"output_size": 2}),
        ("AdaptiveMax", {"output_size": 3, "data_format": "channels_first"}),
        ("AdaptiveAverage", {"output_size": 4}),
        ("AdaptiveAverage", {"output_size": 3, "data_format": "channels_first"}),
    ]
]
CASES += [
    LayerCase("MaxPooling1D", {}, [(2, 9, 3)], unknown_axes=True),
    LayerCase("AveragePooling2D", {"pool_size": (1, 3)}, [(2, 8, 7, 3)], unknown_axes=True),
    LayerCase("GlobalAveragePooling2D", {}, [(1, 8, 7, 3)], unknown_axes=True),
    LayerCase("GlobalMaxPooling1D", {"keepdims": True}, [(2, 9, 3)], unknown_axes=True),
    LayerCase("AdaptiveAveragePooling2D", {"output_size": [2, 3]}, [(2, 8, 7, 3)]),
    LayerCase("AdaptiveMaxPooling3D", {"output_size": [1, 2, 3]}, [(2, 5, 6, 7, 3)]),
    LayerCase("MaxPooling2D", {}, [(2, 3, 2, 1)], [np.arange(12, dtype="int32").reshape(2, 3, 2, 1)]),
    LayerCase("MaxPooling3D", {"pool_size": 5, "padding": "same"}, [(1, 3, 2, 4, 2)]),
    LayerCase("MaxPooling2D", {"pool_size": 7, "strides": 1, "padding": "same"}, [(1, 3, 2, 2)]),
    LayerCase("GlobalMaxPooling1D", {}, [(2, 6, 1)], [np.arange(12, dtype="int32").reshape(2, 6, 1)]),
    LayerCase("GlobalAveragePooling1D", {}, [(2, 6, 1)], [np.arange(12, dtype="int32").reshape(2, 6, 1)]),
    LayerCase("GlobalMaxPooling2D", {}, [(1, 2, 2, 2)], [np.full((1, 2, 2, 2), np.nan, "float32")]),
]


def random_cases(count: int, seed: int) -> list[LayerCase]:
    """Max and average pooling with random options, except where Keras on torch counts padding."""
    rng = np.random.default_rng(seed)
    cases = []
    while len(cases) < count:
        rank = int(rng.integers(1, 4))
        kind = str(rng.choice(["Max", "Average"]))
        config = {
            "pool_size": [int(n) for n in rng.integers(1, 5, rank)],
            "strides": [int(n) for n in rng.integers(1, 4, rank)] if rng.random() < 0.7 else None,
            "padding": str(rng.choice(["valid", "same"])),
        }
        if kind == "Average" and config["padding"] == "same" and max(config["pool_size"]) > 2:
            continue
        lengths = [int(n) for n in rng.integers(5, 10, rank)]
        if rng.random() < 0.3:
            shape, config["data_format"] = (2, 3, *lengths), "channels_first"
        else:
            shape = (int(rng.integers(1, 4)), *lengths, 3)
        unknown = "data_format" not in config and rng.random() < 0.3
        cases.append(LayerCase(f"{kind}Pooling{rank}D", config, [shape], unknown_axes=bool(unknown)))
    return cases


@pytest.mark.parametrize("case", CASES, ids=str)
def test_layer_gives_keras_numbers(case: LayerCase) -> None:
    check_layer(case)


@pytest.mark.parametrize("case", random_cases(20, seed=3), ids=str)
def test_random_options_give_keras_numbers(case: LayerCase) -> None:
    check_layer(case)


@pytest.mark.parametrize("case", tensorflow_cases("Pooling"), ids=str)
def test_layer_gives_tensorflow_numbers(case: TensorFlowCase) -> None:
    case.check()


def test_padding_does_not_count_in_a_mean() -> None:
    layer = LAYERS["AveragePooling1D"](3, strides=2, padding="same")
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(1, 4, 1)
    assert layer(x).flatten().tolist() == [2.0, 3.5]


@pytest.mark.parametrize("options", [{}, {"keepdims": True}, {"data_format": "channels_first"}])
def test_masked_steps_do_not_count_in_a_mean(options: dict[str, object]) -> None:
    x = np.random.default_rng(0).standard_normal((3, 4, 4)).astype("float32")
    mask = np.array([[1, 1, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]], dtype=bool)
    expected = keras.layers.GlobalAveragePooling1D(**options)(x, mask=mask)
    got = LAYERS["GlobalAveragePooling1D"](**options)(x, mask=mask)
    np.testing.assert_allclose(got.numpy(), keras.ops.convert_to_numpy(expected), rtol=1e-6)


@pytest.mark.parametrize(
    ("class_name", "options", "said"),
    [
        ("MaxPooling1D", {"pool_size": 0}, "option 'pool_size' is 0"),
        ("MaxPooling2D", {"pool_size": [2]}, "option 'pool_size'"),
        ("AveragePooling2D", {"strides": 0}, "option 'strides' is 0"),
        ("AveragePooling1D", {"padding": "causal"}, "option 'padding' is 'causal'"),
        ("GlobalMaxPooling2D", {"keepdims": "yes"}, "option 'keepdims' is 'yes'"),
        ("AdaptiveMaxPooling2D", {"output_size": [2, 2, 2]}, "option 'output_size'"),
        ("AdaptiveMaxPooling2D", {}, "option 'output_size' is missing"),
    ],
)
def test_wrong_option_is_named(class_name: str, options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=f"{class_name}: {said}"):
        LAYERS[class_name](**options)


def test_input_that_does_not_fit_is_refused() -> None:
    with pytest.raises(GraphError, match="rank 3, expected 4"):
        LAYERS["MaxPooling2D"](2)(layergraph.Input((5, 5)))
    with pytest.raises(GraphError, match="axis 1 of the input is 2 long, expected at least 3"):
        LAYERS["MaxPooling1D"](3)(layergraph.Input((2, 5)))


@pytest.mark.parametrize(
    ("class_name", "options"),
    [("MaxPooling1D", {}), ("GlobalMaxPooling1D", {}), ("AdaptiveAveragePooling1D", {"output_size": 2})],
)
def test_data_without_steps_is_refused(class_name: str, options: dict[str, object]) -> None:
    x = layergraph.Input((None, 2))
    plan = layergraph.Model(x, LAYERS[class_name](**options)(x)).plan()
    with pytest.raises(DataError, match="axis 1 of the input is 0 long"):
        plan.run({plan.input_specs[0].name: np.zeros((2, 0, 2), "float32")})


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_mean_of_no_steps_is_nan(rank: int) -> None:
    """As in Keras, where one of no steps isn't an error."""
    layer = f"GlobalAveragePooling{rank}D"
    rows = np.zeros((2, 0, *[3] * (rank - 1), 2), "float32")
    x = layergraph.Input((None,) * rank + (2,))
    plan = layergraph.Model(x, LAYERS[layer]()(x)).plan()
    (result,) = plan.run({plan.input_specs[0].name: rows}).values()
    np.testing.assert_array_equal(result, keras.ops.convert_to_numpy(getattr(keras.layers, layer)()(rows)))
    assert result.shape == (2, 2)


@pytest.mark.parametrize("kind", ["Max", "Average", "GlobalMax", "GlobalAverage"])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_no_rows_give_no_rows(kind: str, rank: int) -> None:
    shape = SHAPES[rank][1:]
    x = layergraph.Input(shape)
    y = LAYERS[f"{kind}Pooling{rank}D"]()(x)
    plan = layergraph.Model(x, y).plan()
    (result,) = plan.run({plan.input_specs[0].name: np.zeros((0, *shape), "float32")}).values()
    assert result.shape == (0, *y.shape[1:])


def test_images_stay_channels_last_in_memory() -> None:
    for name in ("MaxPooling1D", "MaxPooling2D", "AveragePooling2D"):
        layer = LAYERS[name](3, strides=2, padding="same")
        assert layer(torch.zeros(2, *[8] * layer.rank, 3)).is_contiguous(), name
