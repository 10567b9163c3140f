"""Convolutions against stock Keras, and against TensorFlow where Keras on torch differs from it."""

import keras
import layergraph
import numpy as np
import pytest
import torch
from layergraph.errors import ConfigError, DataError, GraphError
from layergraph.layers.table import LAYERS
from oracles import LayerCase, check_layer
from tensorflow_numbers import TensorFlowCase, tensorflow_cases

LENGTHS = {1: (9,), 2: (8, 7), 3: (5, 6, 4)}
TRAINED = {
    "kernel_initializer": "he_normal",
    "bias_initializer": {"class_name": "Constant", "config": {"value": 0.3}},
    "kernel_regularizer": "l2",
    "bias_regularizer": "l1",
    "activity_regularizer": "l1",
    "kernel_constraint": "max_norm",
    "bias_constraint": "non_neg",
}
DEPTHWISE = {key.replace("kernel", "depthwise"): value for key, value in TRAINED.items()}
SEPARABLE = DEPTHWISE | {
    "pointwise_initializer": "he_uniform",
    "pointwise_regularizer": "l2",
    "pointwise_constraint": "unit_norm",
}

CASES = [
    LayerCase("Conv1D", {"filters": 3, "kernel_size": 3, **TRAINED}, [(2, 9, 2)]),
    LayerCase("Conv1D", {"filters": 3, "kernel_size": 3, "padding": "CAUSAL", "strides": 2}, [(2, 8, 2)]),
    LayerCase("Conv1D", {"filters": 4, "kernel_size": 2, "padding": "causal", "dilation_rate": 3}, [(1, 9, 2)]),
    LayerCase(
        "Conv1D",
        {"filters": 4, "kernel_size": 2, "padding": "causal", "data_format": "channels_first", "groups": 2},
        [(2, 4, 9)],
    ),
    LayerCase("Conv1D", {"filters": 3, "kernel_size": [4], "activation": "softmax"}, [(2, 9, 2)], unknown_axes=True),
    LayerCase("Conv2D", {"filters": 3, "kernel_size": (3, 2), "activation": "relu", **TRAINED}, [(2, 8, 7, 2)]),
    LayerCase("Conv2D", {"filters": 3, "kernel_size": 4, "padding": "same", "strides": (2, 3)}, [(2, 9, 8, 1)]),
    LayerCase("Conv2D", {"filters": 3, "kernel_size": 5, "padding": "same"}, [(1, 3, 3, 2)], unknown_axes=True),
    LayerCase(
        "Conv2D",
        {"filters": 3, "kernel_size": 3, "data_format": "channels_first", "activation": "softmax"},
        [(2, 2, 8, 7)],
    ),
    LayerCase("Conv2D", {"filters": 3, "kernel_size": 3, "use_bias": False}, [(2, 8, 7, 2)]),
    LayerCase("Conv3D", {"filters": 3, "kernel_size": (3, 1, 2), **TRAINED}, [(1, 5, 6, 4, 2)]),
    LayerCase("DepthwiseConv1D", {"kernel_size": 3, "depth_multiplier": 2, **DEPTHWISE}, [(2, 9, 3)]),
    LayerCase("DepthwiseConv2D", {"kernel_size": 3, "activation": "relu6", **DEPTHWISE}, [(2, 8, 7, 3)]),
    LayerCase("SeparableConv1D", {"filters": 4, "kernel_size": 3, **SEPARABLE}, [(2, 9, 3)]),
    LayerCase("SeparableConv2D", {"filters": 4, "kernel_size": 3, "depth_multiplier": 2, **SEPARABLE}, [(2, 8, 7, 3)]),
    LayerCase("Conv1DTranspose", {"filters": 4, "kernel_size": 3, **TRAINED}, [(2, 9, 3)]),
    LayerCase("Conv2DTranspose", {"filters": 4, "kernel_size": 3, "strides": 2, **TRAINED}, [(2, 8, 7, 3)]),
    LayerCase("Conv3DTranspose", {"filters": 4, "kernel_size": 2, "strides": 3, **TRAINED}, [(1, 3, 4, 2, 3)]),
]


def random_cases(count: int, seed: int) -> list[LayerCase]:
    """Convolutions of all kinds with random options and shapes that Keras supports."""
    rng = np.random.default_rng(seed)
    names = [name for name in LAYERS if "Conv" in name and not name.startswith(("ConvLSTM", "InputLayer"))]
    return [_random_case(rng, str(rng.choice(names))) for _ in range(count)]


def _random_case(rng: np.random.Generator, name: str) -> LayerCase:
    rank = int(name[name.index("D") - 1]) if not name.startswith("Depthwise") else int(name[-2])
    one_each = rng.random() < 0.5

    def several(low: int, high: int) -> int | list[int]:
        return [int(n) for n in rng.integers(low, high, rank)] if one_each else int(rng.integers(low, high))

    groups = int(rng.choice([1, 1, 2])) if name in ("Conv1D", "Conv2D", "Conv3D") else 1
    channels = groups * int(rng.integers(1, 4))
    config: dict[str, object] = {
        "kernel_size": several(1, 4),
        "padding": str(rng.choice(["valid", "same", "causal"] if name == "Conv1D" else ["valid", "same"])),
        "activation": str(rng.choice(["linear", "relu", "tanh", "sigmoid"])),
        "use_bias": bool(rng.random() < 0.7),
    }
    strided = rng.random() < 0.6
    # Unequal strides of depthwise kernels are supported by torch only; Keras on TensorFlow rejects them.
    config["strides" if strided else "dilation_rate"] = several(1, 4) if strided else several(1, 3)
    if "Depthwise" not in name:
        config["filters"] = groups * int(rng.integers(1, 4))
    if "Depthwise" in name or "Separable" in name:
        config["depth_multiplier"] = int(rng.integers(1, 4))
    if groups > 1:
        config["groups"] = groups
    if "Transpose" in name and strided and rng.random() < 0.5:
        strides = config["strides"]
        config["output_padding"] = [s - 1 for s in strides] if isinstance(strides, list) else int(strides) - 1
    lengths = [int(n) for n in rng.integers(7, 11, rank)] if rank < 3 else [int(n) for n in rng.integers(5, 8, rank)]
    rows = int(rng.integers(1, 4))
    if rng.random() < 0.3:
        return LayerCase(name, config | {"data_format": "channels_first"}, [(rows, channels, *lengths)])
    return LayerCase(name, config, [(rows, *lengths, channels)], unknown_axes=bool(rng.random() < 0.3))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_layer_gives_keras_numbers(case: LayerCase) -> None:
    check_layer(case)


@pytest.mark.parametrize("case", random_cases(30, seed=2), ids=str)
def test_random_options_give_keras_numbers(case: LayerCase) -> None:
    check_layer(case)


@pytest.mark.parametrize("case", tensorflow_cases("Conv"), ids=str)
def test_layer_gives_tensorflow_numbers(case: TensorFlowCase) -> None:
    case.check()


@pytest.mark.parametrize("policy", ["float64", "float16", "mixed_float16", "mixed_bfloat16"])
def test_layer_computes_in_the_type_of_its_policy(policy: str) -> None:
    tolerance = 1e-5 if policy == "float64" else 2e-2
    for name, options in (("Conv2D", {"filters": 3}), ("SeparableConv2D", {"filters": 3}), ("DepthwiseConv2D", {})):
        check_layer(LayerCase(name, {"kernel_size": 2, "dtype": policy, **options}, [(2, 5, 4, 3)]), tolerance)


@pytest.mark.parametrize(
    ("class_name", "options", "said"),
    [
        ("Conv2D", {"filters": 2, "kernel_size": 0}, "option 'kernel_size' is 0"),
        ("Conv2D", {"filters": 2, "kernel_size": [3, 3, 3]}, "option 'kernel_size'"),
        ("Conv2D", {"filters": 0, "kernel_size": 3}, "option 'filters' is 0"),
        ("Conv2D", {"filters": 2, "kernel_size": 3, "strides": -1}, "option 'strides' is -1"),
        ("Conv2D", {"filters": 2, "kernel_size": 3, "strides": 2, "dilation_rate": 2}, "option 'strides'"),
        ("Conv2D", {"filters": 3, "kernel_size": 3, "groups": 2}, "option 'groups' is 2"),
        ("Conv2D", {"filters": 3, "kernel_size": 3, "padding": "causal"}, "option 'padding' is 'causal'"),
        ("Conv1D", {"filters": 3, "kernel_size": 3, "padding": "full"}, "option 'padding' is 'full'"),
        ("Conv1D", {"filters": 3, "kernel_size": 3, "data_format": "NHWC"}, "option 'data_format' is 'NHWC'"),
        ("Conv1D", {"kernel_size": 3}, "option 'filters' is missing"),
        ("DepthwiseConv2D", {"kernel_size": 3, "depth_multiplier": 0}, "option 'depth_multiplier' is 0"),
        ("DepthwiseConv1D", {"kernel_size": 3, "padding": "causal"}, "option 'padding' is 'causal'"),
        ("Conv2DTranspose", {"filters": 3, "kernel_size": 3, "output_padding": 1}, "option 'output_padding' is"),
        ("Conv2DTranspose", {"filters": 3, "kernel_size": 3, "strides": 2, "dilation_rate": 2}, "option 'strides'"),
    ],
)
def test_wrong_option_is_named(class_name: str, options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=f"{class_name}: {said}"):
        LAYERS[class_name](**options)


@pytest.mark.parametrize(
    ("class_name", "options", "shape", "said"),
    [
        ("Conv2D", {"filters": 2, "kernel_size": 3}, (5, 5), "rank 3, expected 4"),
        ("Conv2D", {"filters": 2, "kernel_size": 3}, (5, 5, None), "expected a known number of channels"),
        ("Conv2D", {"filters": 2, "kernel_size": 3, "groups": 2}, (5, 5, 3), "expected a multiple of groups"),
        ("Conv2D", {"filters": 2, "kernel_size": 6}, (7, 5, 3), "axis 2 of the input is 5 long, expected at least 6"),
        ("SeparableConv1D", {"filters": 2, "kernel_size": 6}, (5, 3), "axis 1 of the input is 5 long"),
        ("Conv1DTranspose", {"filters": 2, "kernel_size": 6}, (5, 3, 2), "rank 4, expected 3"),
        ("Conv1DTranspose", {"filters": 2, "kernel_size": 6}, (0, 3), "axis 1 of the input is 0 long, expected"),
    ],
)
def test_input_that_does_not_fit_is_refused(
    class_name: str, options: dict[str, object], shape: tuple[int | None, ...], said: str
) -> None:
    with pytest.raises(GraphError, match=said):
        LAYERS[class_name](**options)(layergraph.Input(shape))


def test_a_kernel_that_does_not_fit_is_refused_before_its_activation_is_built() -> None:
    layer = LAYERS["Conv1D"](4, 5, activation=LAYERS["PReLU"]())
    with pytest.raises(GraphError, match="axis 1 of the input is 3 long, expected at least 5"):
        layer(layergraph.Input((3, 2)))


def test_data_shorter_than_a_window_is_refused() -> None:
    x = layergraph.Input((None, 2))
    plan = layergraph.Model(x, LAYERS["Conv1D"](3, 5)(x)).plan()
    with pytest.raises(DataError, match="axis 1 of the input is 4 long, expected at least 5"):
        plan.run({plan.input_specs[0].name: np.zeros((2, 4, 2), "float32")})


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_no_rows_give_no_rows(padding: str) -> None:
    x = layergraph.Input((8, 8, 2))
    y = LAYERS["Conv2D"](3, 3, strides=2, padding=padding)(x)
    y = LAYERS["SeparableConv2D"](3, 2)(LAYERS["Conv2DTranspose"](3, 3)(y))
    plan = layergraph.Model(x, y).plan()
    (result,) = plan.run({plan.input_specs[0].name: np.zeros((0, 8, 8, 2), "float32")}).values()
    assert result.shape == (0, *y.shape[1:])


@pytest.mark.parametrize(
    ("class_name", "shape"), [("Conv1D", (2, 9, 3)), ("Conv2D", (2, 9, 8, 3)), ("Conv3D", (2, 5, 4, 6, 3))]
)
def test_images_stay_channels_last_in_memory(class_name: str, shape: tuple[int, ...]) -> None:
    layer = LAYERS[class_name](4, 3, padding="same", strides=2)
    assert layer(torch.zeros(shape)).is_contiguous()


def test_axes_before_the_window_are_rows_as_in_keras_2() -> None:
    layer = LAYERS["Conv2D"](4, 3)
    x = torch.randn(2, 3, 6, 5, 2)
    expected = torch.stack([layer(part) for part in x])
    torch.testing.assert_close(layer(x), expected)


def test_integers_are_taken_as_numbers() -> None:
    layer = LAYERS["Conv2D"](4, 3)
    x = torch.arange(32).reshape(1, 4, 4, 2)
    torch.testing.assert_close(layer(x.to(torch.uint8)), layer(x.float()))


@pytest.mark.parametrize("class_name", ["Conv1D", "SeparableConv1D", "DepthwiseConv1D", "Conv1DTranspose"])
def test_activation_may_be_a_layer_with_weights(class_name: str) -> None:
    options = {"kernel_size": 3} | ({} if class_name == "DepthwiseConv1D" else {"filters": 4})
    check_layer(LayerCase(class_name, options | {"activation": keras.layers.PReLU()}, [(2, 7, 3)]))
    shared = {"activation": keras.layers.PReLU(shared_axes=[1])}
    check_layer(LayerCase(class_name, options | shared, [(2, 7, 3)], unknown_axes=True))


def test_arguments_stand_in_keras_order() -> None:
    ours = LAYERS["Conv2D"](4, (3, 2), 2, "same", "channels_first", 1, 2, "relu").get_config()
    theirs = keras.layers.Conv2D(4, (3, 2), 2, "same", "channels_first", 1, 2, "relu").get_config()
    for name in ("filters", "kernel_size", "strides", "padding", "data_format", "dilation_rate", "groups"):
        assert np.array_equal(ours[name], theirs[name]), name
