"""Reshaping, padding, cropping and up-sampling against stock Keras; TensorFlow for kernels that torch lacks."""

import layergraph
import numpy as np
import pytest
import torch
from layergraph.errors import ConfigError, DataError, GraphError
from layergraph.layers.table import LAYERS
from oracles import LayerCase, check_layer
from tensorflow_numbers import TensorFlowCase, tensorflow_cases

IMAGES = [(2, 4, 5, 3)]
TOKENS = [np.arange(24, dtype="int32").reshape(2, 3, 4)]

CASES = [
    LayerCase("Flatten", {}, IMAGES),
    LayerCase("Flatten", {}, IMAGES, unknown_axes=True),
    LayerCase("Flatten", {"data_format": "channels_first"}, IMAGES),
    LayerCase("Flatten", {"data_format": "channels_first"}, [(3, 4)]),
    LayerCase("Flatten", {}, [(3,)], [np.arange(3, dtype="float32")]),
    LayerCase("Flatten", {}, [(2, 3, 4)], TOKENS),
    LayerCase("Reshape", {"target_shape": (10, 6)}, IMAGES),
    LayerCase("Reshape", {"target_shape": (-1,)}, IMAGES),
    LayerCase("Reshape", {"target_shape": (2, -1, 5)}, IMAGES),
    LayerCase("Reshape", {"target_shape": (-1, 6)}, IMAGES, unknown_axes=True),
    LayerCase("Reshape", {"target_shape": (-1, 20)}, IMAGES, unknown_axes=True),
    LayerCase("Reshape", {"target_shape": (3, 20)}, IMAGES, unknown_axes=True),
    LayerCase("Reshape", {"target_shape": ()}, [(2, 1, 1)]),
    LayerCase("Reshape", {"target_shape": (4, 3)}, [(2, 3, 4)], TOKENS),
    LayerCase("Permute", {"dims": (2, 1)}, [(2, 4, 5)]),
    LayerCase("Permute", {"dims": (3, 1, 2)}, IMAGES, unknown_axes=True),
    LayerCase("Permute", {"dims": (2, 1)}, [(2, 3, 4)], TOKENS),
    LayerCase("RepeatVector", {"n": 3}, [(2, 4)]),
    LayerCase("RepeatVector", {"n": 2}, [(2, 3)], [np.arange(6, dtype="int32").reshape(2, 3)]),
    LayerCase("UpSampling1D", {}, [(2, 5, 3)], unknown_axes=True),
    LayerCase("UpSampling1D", {"size": 3}, [(2, 3, 4)], TOKENS),
    LayerCase("UpSampling2D", {}, IMAGES),
    LayerCase("UpSampling2D", {"size": (1, 3), "interpolation": "NEAREST"}, IMAGES, unknown_axes=True),
    LayerCase("UpSampling2D", {"size": (3, 2), "interpolation": "bilinear"}, IMAGES),
    LayerCase("UpSampling2D", {"size": 2, "interpolation": "bilinear"}, IMAGES, unknown_axes=True),
    LayerCase("UpSampling2D", {"size": (2, 4), "data_format": "channels_first"}, IMAGES),
    LayerCase("UpSampling2D", {"interpolation": "bilinear", "data_format": "channels_first"}, IMAGES),
    LayerCase("UpSampling3D", {"size": (1, 2, 3)}, [(2, 2, 3, 4, 2)]),
    LayerCase("UpSampling3D", {"data_format": "channels_first"}, [(1, 2, 3, 4, 2)]),
]


def random_borders(count: int, seed: int) -> list[LayerCase]:
    """Padding and cropping given as one number, one per axis or a pair per axis, in both layouts."""
    rng = np.random.default_rng(seed)
    cases = []
    for _ in range(count):
        rank = int(rng.integers(1, 4))
        kind = str(rng.choice(["ZeroPadding", "Cropping"]))
        name = "padding" if kind == "ZeroPadding" else "cropping"
        pairs = [[int(n) for n in rng.integers(0, 3, 2)] for _ in range(rank)]
        border: object = pairs[0] if rank == 1 else pairs
        form = rng.integers(3)
        if form == 0:
            border = pairs[0][0]
        elif form == 1 and rank > 1 and kind == "Cropping":
            border = [pair[0] for pair in pairs]
        lengths = [int(n) for n in rng.integers(5, 8, rank)]
        config: dict[str, object] = {name: border}
        first = bool(rng.random() < 0.4) and (rank > 1 or kind == "ZeroPadding")
        if first:
            config["data_format"] = "channels_first"
        shape = (2, 3, *lengths) if first else (2, *lengths, 3)
        cases.append(LayerCase(f"{kind}{rank}D", config, [shape], unknown_axes=not first and bool(rng.random() < 0.3)))
    return cases


@pytest.mark.parametrize("case", CASES, ids=str)
def test_layer_gives_keras_numbers(case: LayerCase) -> None:
    check_layer(case)


@pytest.mark.parametrize("case", random_borders(20, seed=4), ids=str)
def test_random_borders_give_keras_numbers(case: LayerCase) -> None:
    check_layer(case)


@pytest.mark.parametrize("case", tensorflow_cases("UpSampling"), ids=str)
def test_layer_gives_tensorflow_numbers(case: TensorFlowCase) -> None:
    case.check()


@pytest.mark.parametrize(
    ("class_name", "options", "said"),
    [
        ("Reshape", {"target_shape": (-1, -1)}, "option 'target_shape' is \\(-1, -1\\)"),
        ("Reshape", {"target_shape": (-2, 3)}, "option 'target_shape'"),
        ("Reshape", {"target_shape": "12"}, "option 'target_shape'"),
        ("Permute", {"dims": (0, 1)}, "option 'dims'"),
        ("Permute", {"dims": (1, 3)}, "option 'dims' is \\[1, 3\\], expected each of 1 to 2 once"),
        ("RepeatVector", {"n": 0}, "option 'n' is 0"),
        ("RepeatVector", {"n": 1.5}, "option 'n' is 1.5"),
        ("ZeroPadding1D", {"padding": (1, 2, 3)}, "option 'padding'"),
        ("ZeroPadding2D", {"padding": ((1, 2), (3,))}, "option 'padding'"),
        ("ZeroPadding2D", {"padding": -1}, "option 'padding' is -1"),
        ("Cropping3D", {"cropping": (1, 2)}, "option 'cropping'"),
        ("UpSampling1D", {"size": 0}, "option 'size' is 0"),
        ("UpSampling2D", {"interpolation": "cubic"}, "option 'interpolation' is 'cubic', expected one of nearest"),
    ],
)
def test_wrong_option_is_named(class_name: str, options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=f"{class_name}: {said}"):
        LAYERS[class_name](**options)


@pytest.mark.parametrize(
    ("class_name", "options", "shape", "said"),
    [
        ("Reshape", {"target_shape": (7,)}, (3, 4), r"can't reshape rows of shape \(3, 4\) to \(7,\)"),
        ("Reshape", {"target_shape": (-1, 5)}, (3, 4), r"can't reshape rows of shape \(3, 4\) to \(-1, 5\)"),
        ("Permute", {"dims": (2, 1)}, (3, 4, 5), "rank 4, expected 3"),
        ("RepeatVector", {"n": 2}, (3, 4), "rank 3, expected 2"),
        ("ZeroPadding2D", {}, (3, 4), "rank 3, expected 4"),
        ("Cropping1D", {"cropping": 2}, (4, 3), "axis 1 of the input is 4 long, expected at least 5"),
        ("UpSampling2D", {}, (3, 4), "rank 3, expected 4"),
    ],
)
def test_input_that_does_not_fit_is_refused(
    class_name: str, options: dict[str, object], shape: tuple[int, ...], said: str
) -> None:
    with pytest.raises(GraphError, match=said):
        LAYERS[class_name](**options)(layergraph.Input(shape))


def test_second_call_of_a_reshape_is_checked_too() -> None:
    layer = LAYERS["Reshape"]((6,))
    layer(layergraph.Input((2, 3)))
    with pytest.raises(GraphError, match="can't reshape rows"):
        layer(layergraph.Input((2, 4)))


@pytest.mark.parametrize("target", [(3, -1), (7, 3)])
def test_data_that_can_not_be_reshaped_is_refused(target: tuple[int, ...]) -> None:
    x = layergraph.Input((None, 4))
    plan = layergraph.Model(x, LAYERS["Reshape"](target)(x)).plan()
    with pytest.raises(DataError, match=r"can't reshape rows of shape \(5, 4\) to"):
        plan.run({plan.input_specs[0].name: np.zeros((2, 5, 4), "float32")})


@pytest.mark.parametrize(
    ("class_name", "options"),
    [
        ("Flatten", {}),
        ("Reshape", {"target_shape": (-1, 2)}),
        ("Permute", {"dims": (2, 3, 1)}),
        ("ZeroPadding2D", {}),
        ("Cropping2D", {"cropping": 1}),
        ("UpSampling2D", {}),
        ("UpSampling2D", {"interpolation": "bicubic"}),
        ("UpSampling2D", {"interpolation": "bilinear"}),
    ],
)
def test_no_rows_give_no_rows(class_name: str, options: dict[str, object]) -> None:
    x = layergraph.Input((4, 4, 2))
    y = LAYERS[class_name](**options)(x)
    plan = layergraph.Model(x, y).plan()
    (result,) = plan.run({plan.input_specs[0].name: np.zeros((0, 4, 4, 2), "float32")}).values()
    assert result.shape == (0, *y.shape[1:])


def test_permuting_and_repeating_copy_nothing() -> None:
    x = torch.randn(2, 3, 4)
    assert LAYERS["Permute"]((2, 1))(x).data_ptr() == x.data_ptr()
    vector = torch.randn(2, 3)
    assert LAYERS["RepeatVector"](5)(vector).data_ptr() == vector.data_ptr()


def test_what_serving_keeps_can_be_trained_with() -> None:
    x = layergraph.Input((3, 7, 2))
    layer = LAYERS["UpSampling2D"](interpolation="lanczos3")
    plan = layergraph.Model(x, layer(x)).plan()
    plan.run({plan.input_specs[0].name: np.zeros((1, 3, 7, 2), "float32")})
    given = torch.ones((1, 3, 7, 2), requires_grad=True)
    layer.forward(None, None, given * 2).sum().backward()
    assert given.grad is not None


def test_multi_backend_keras_has_pixels_at_corners() -> None:
    x = np.array([[0.0, 1.0], [2.0, 4.0]], "float32").reshape(1, 2, 2, 1)
    layer = layergraph.layers.UpSampling2D((1, 2), interpolation="bilinear", image_rule="corner")
    np.testing.assert_allclose(layer(x).numpy()[0, :, :, 0], [[0.0, 0.5, 1.0, 1.0], [2.0, 3.0, 4.0, 4.0]])
    assert "image_rule" not in layer.get_config()
