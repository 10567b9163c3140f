"""Image and audio layers against stock Keras, and random layers in training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import layergraph
import numpy as np
import pytest
import torch
from layergraph import layers
from layergraph.errors import ConfigError, DataError, GraphError
from layergraph.layers.preprocessing import augmentation, augmentation_inference
from layergraph.layers.table import LAYERS
from model_oracles import check_model
from oracles import LayerCase, check_layer, keras, random_arrays
from tensorflow_numbers import TensorFlowCase, tensorflow_cases

IMAGE = (2, 7, 6, 3)
FIRST = {"data_format": "channels_first"}


def pixels(*shape: int, dtype: str = "float32") -> list[np.ndarray]:
    """Pixel values."""
    return [np.random.default_rng(0).uniform(0, 255, shape).astype(dtype)]


CASES = [
    LayerCase("Rescaling", {"scale": 1 / 255}, [IMAGE]),
    LayerCase("Rescaling", {"scale": [1.0, 2.0, 3.0], "offset": [0.0, -1.0, 1.0]}, [IMAGE]),
    LayerCase("Rescaling", {"scale": 1 / 127.5, "offset": -1}, [IMAGE], pixels(*IMAGE, dtype="uint8")),
    LayerCase("Rescaling", {"scale": 2.0, "dtype": "float64"}, [IMAGE], unknown_axes=True),
    LayerCase("Normalization", {}, [(3, 4)]),
    LayerCase("Normalization", {"axis": None}, [(3, 4)]),
    LayerCase("Normalization", {"axis": [1, -1]}, [IMAGE]),
    LayerCase("Normalization", {"axis": [-1, 1], "invert": True}, [IMAGE]),
    LayerCase("Normalization", {"axis": 1}, [(3, 4, 2)]),
    LayerCase("Normalization", {"mean": 3.0, "variance": 2.0}, [(3, 4)]),
    LayerCase("Normalization", {"mean": [1.0, 2.0, 3.0, 4.0], "variance": [1.0, 0.0, 2.0, 4.0]}, [(3, 4)]),
    LayerCase("Normalization", {"axis": None, "mean": 3.0, "variance": 2.0, "invert": True}, [(3, 4)]),
    LayerCase("Normalization", {"axis": [1, 2], "mean": [1.0, 2.0], "variance": [1.0, 2.0]}, [(3, 4, 2)]),
    LayerCase("Normalization", {}, [(3, 5, 4)], unknown_axes=True),
    LayerCase("Normalization", {}, [(3, 4)], [np.arange(12, dtype="int32").reshape(3, 4)]),
    *(
        LayerCase("Resizing", {"height": h, "width": w, "interpolation": kind, **options}, [IMAGE])
        for kind in ("bilinear", "nearest")
        for h, w in ((4, 9), (14, 3), (7, 6))
        for options in ({}, {"crop_to_aspect_ratio": True}, {"pad_to_aspect_ratio": True, "fill_value": 0.5})
    ),
    LayerCase("Resizing", {"height": 3, "width": 2, "antialias": True}, [IMAGE]),
    LayerCase("Resizing", {"height": 3, "width": 2, **FIRST}, [(2, 3, 7, 6)]),
    LayerCase("Resizing", {"height": 3, "width": 2}, [IMAGE], unknown_axes=True),
    LayerCase("Pipeline", {"layers": [keras.layers.Rescaling(2.0), keras.layers.RandomContrast(0.2)]}, [IMAGE]),
    LayerCase("CenterCrop", {"height": 4, "width": 3}, [IMAGE]),
    LayerCase("CenterCrop", {"height": 7, "width": 6}, [IMAGE]),
    LayerCase("CenterCrop", {"height": 9, "width": 5}, [IMAGE]),
    LayerCase("CenterCrop", {"height": 4, "width": 8}, [IMAGE]),
    LayerCase("CenterCrop", {"height": 4, "width": 3, **FIRST}, [(2, 3, 7, 6)]),
    LayerCase("AutoContrast", {}, [IMAGE], pixels(*IMAGE)),
    LayerCase("AutoContrast", {"value_range": [-1, 1]}, [IMAGE]),
    LayerCase("AutoContrast", {}, [IMAGE], [np.ones(IMAGE, "float32")]),
    *(
        LayerCase("STFTSpectrogram", {"mode": mode, "frame_length": 8}, [(2, 40, 2)])
        for mode in ("log", "magnitude", "psd", "real", "imag", "angle", "stft")
    ),
    LayerCase(
        "STFTSpectrogram", {"frame_length": 10, "frame_step": 3, "fft_length": 16, "padding": "same"}, [(2, 40, 2)]
    ),
    LayerCase("STFTSpectrogram", {"frame_length": 8, "expand_dims": True, "window": "hamming"}, [(2, 40, 2)]),
    LayerCase("STFTSpectrogram", {"frame_length": 8, "expand_dims": True, **FIRST}, [(2, 2, 40)]),
    LayerCase("STFTSpectrogram", {"frame_length": 8, "scaling": "spectrum", "periodic": True, **FIRST}, [(2, 2, 40)]),
    LayerCase("STFTSpectrogram", {"frame_length": 8, "window": None, "scaling": None}, [(2, 40, 1)]),
]

#: Required options of each random layer.
NEEDED: dict[str, dict[str, Any]] = {
    "MaxNumBoundingBoxes": {"max_number": 3},
    "RandomCrop": {"height": 7, "width": 6},
    "RandomTranslation": {"height_factor": 0.2, "width_factor": 0.2},
    "RandomZoom": {"height_factor": 0.2},
    "RandomBrightness": {"factor": 0.5},
    "RandomColorDegeneration": {"factor": 0.5},
    "RandomContrast": {"factor": 0.5},
    "RandomHue": {"factor": 0.5},
    "RandomRotation": {"factor": 0.5},
    "RandomSaturation": {"factor": 0.5},
    "RandomSharpness": {"factor": 0.5},
    "RandomPosterization": {"factor": 4},
    "RandomHeight": {"factor": 0.2},
    "RandomWidth": {"factor": 0.2},
}
RANDOM = {**augmentation.LAYERS, **augmentation_inference.LAYERS}
#: Stock Keras can't put Equalization into a graph.
IN_KERAS3 = [name for name in RANDOM if hasattr(keras.layers, name) and name != "Equalization"]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_layer_gives_keras_numbers(case: LayerCase) -> None:
    check_layer(case)


@pytest.mark.parametrize("name", IN_KERAS3)
def test_random_layers_let_images_pass_in_inference(name: str) -> None:
    check_layer(LayerCase(name, NEEDED.get(name, {}), [IMAGE], pixels(*IMAGE)))


def test_equalization_does_nothing_in_inference() -> None:
    (x,) = pixels(*IMAGE)
    np.testing.assert_array_equal(layers.Equalization()(x).numpy(), x)
    np.testing.assert_array_equal(keras.layers.Equalization()(x, training=False).numpy(), x)


FROM_TENSORFLOW = ("Resizing", "CenterCrop", "RandomCrop", "RandomHeight", "RandomWidth")

MEL = [
    {},
    {"power_to_db": False, "window": None},
    {"power_to_db": False, "mag_exp": 1.0, "window": "hamming", "sequence_length": 48},
    {"top_db": 20.0, "min_power": 1e-5, "ref_power": 2.0},
    {"min_freq": 100.0, "max_freq": 3000.0, "sampling_rate": 8000},
]


@pytest.mark.parametrize(
    "case",
    [
        LayerCase("MelSpectrogram", {"fft_length": 64, "sequence_stride": 16, "num_mel_bins": 8, **options}, [shape])
        for options in MEL
        for shape in ((2, 300), (2, 2, 300))
    ],
    ids=str,
)
def test_mel_spectrogram_gives_keras_numbers(case: LayerCase) -> None:
    # Not with `check_layer`: stock Keras infers wrong shapes for it.
    (x,) = random_arrays(case.shapes)
    ours = layers.MelSpectrogram(**case.config)(x).numpy()
    theirs = keras.ops.convert_to_numpy(keras.layers.MelSpectrogram(**case.config)(x))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-3 if case.config.get("power_to_db", True) else 1e-4)


def test_loudness_of_other_rows_keeps_rows_apart() -> None:
    x = layergraph.Input((300,))
    for decibels in (False, True):
        layer = layers.MelSpectrogram(fft_length=64, sequence_stride=16, power_to_db=decibels)
        assert layergraph.Model(x, layer(x)).plan().batched is not decibels


@pytest.mark.parametrize("case", [case for name in FROM_TENSORFLOW for case in tensorflow_cases(name)], ids=str)
def test_layer_gives_tensorflow_numbers(case: TensorFlowCase) -> None:
    if case.class_name in ("Resizing", "RandomCrop"):
        case.config["image_rule"] = "keras2"
    case.check()


def test_layers_in_files_keep_their_numbers(tmp_path: Path) -> None:
    def build(k: Any) -> tuple[list[Any], list[Any]]:
        image, sound, ids = k.Input((7, 6, 3)), k.Input((40, 1)), k.Input((4,), dtype="int32")
        make = k.layers
        embedding = make.ReversibleEmbedding(9, 4, tie_weights=False, logit_soft_cap=3.0)
        outputs = [
            make.Normalization(axis=[1, 3])(image),
            make.Normalization(mean=[1.0, 2.0, 3.0], variance=[1.0, 2.0, 3.0])(image),
            make.Rescaling([1.0, 2.0, 3.0])(image),
            make.Resizing(4, 3, crop_to_aspect_ratio=True)(image),
            make.CenterCrop(3, 3)(image),
            make.RandomFlip("vertical")(make.RandomRotation(0.1)(make.RandomZoom((-0.1, 0.2))(image))),
            make.Pipeline([make.Dense(4), make.RandomContrast(0.2), make.Dense(3), make.Rescaling(2.0)])(image),
            make.STFTSpectrogram(frame_length=8, mode="magnitude")(sound),
            embedding(embedding(ids), reverse=True),
        ]
        return [image, sound, ids], outputs

    ids = np.random.default_rng(0).integers(0, 9, (2, 4)).astype("int32")
    check_model(build, [*random_arrays([IMAGE, (2, 40, 1)]), ids], tmp_path)


def test_saved_layers_open_in_keras(tmp_path: Path) -> None:
    image = layergraph.Input((7, 6, 3), name="x")
    outputs = [
        layers.Normalization()(image),
        layers.Resizing(4, 3)(image),
        layers.Pipeline([layers.Normalization(), layers.Rescaling(2.0)])(image),
        *(LAYERS[name](**NEEDED.get(name, {}))(image) for name in IN_KERAS3),
    ]
    model = layergraph.Model(image, outputs)
    path = tmp_path / "model.keras"
    model.save(path)
    (x,) = random_arrays([IMAGE])
    expected = keras.models.load_model(path).predict_on_batch(x)
    for got, want in zip(model.plan().run({"x": x}).values(), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "case",
    [
        LayerCase("ReversibleEmbedding", {"input_dim": 9, "output_dim": 4, **options}, [(2, 3, 4)])
        for options in ({}, {"tie_weights": False}, {"logit_soft_cap": 0.5}, {"reverse_dtype": "float64"})
    ],
    ids=str,
)
def test_reversible_embedding_gives_keras_numbers(case: LayerCase) -> None:
    theirs, ours = keras.layers.ReversibleEmbedding(**case.config), layers.ReversibleEmbedding(**case.config)
    ids = np.array([[1, 2, 8]])
    theirs(ids)
    ours(ids)
    ours.set_weights(theirs.get_weights())
    (x,) = random_arrays(case.shapes)
    for arguments, given in (({}, ids), ({"reverse": True}, x)):
        got, want = ours(given, **arguments), theirs(given, **arguments)
        np.testing.assert_allclose(got.detach().numpy(), want.detach().numpy(), rtol=1e-5, atol=1e-6)


# Training.


def test_flips_happen_half_of_the_time() -> None:
    x = np.arange(4.0, dtype="float32").reshape(1, 2, 2, 1).repeat(400, 0)
    for mode, kinds in (("horizontal", 2), ("vertical", 2), ("horizontal_and_vertical", 4)):
        y = layers.RandomFlip(mode)(x, training=True).numpy().reshape(400, 4)
        found, counts = np.unique(y, axis=0, return_counts=True)
        assert len(found) == kinds
        assert counts.min() > 400 / kinds * 0.6
    assert torch.equal(layers.RandomFlip()(x, training=False), torch.from_numpy(x))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("RandomBrightness", {"factor": (0.1, 0.2), "value_range": (0, 1)}),
        ("RandomContrast", {"factor": 0.5, "value_range": (-10, 10)}),
        ("RandomContrast", {"factor": (0.5, 0.1), "value_range": (-10, 10)}),
        ("RandomBrightness", {"factor": 0.3, "value_range": (-1, 1)}),
        ("RandomInvert", {"factor": 0.5, "value_range": (0, 1)}),
        ("RandomGrayscale", {"factor": 0.5}),
    ],
)
def test_random_colours_are_distributed_as_keras_has_them(name: str, options: dict[str, Any]) -> None:
    (x,) = random_arrays([(1, 5, 5, 3)])
    x = x.clip(-1, 1).repeat(2000, 0)
    ours = LAYERS[name](**options)(x, training=True).numpy()
    theirs = keras.ops.convert_to_numpy(getattr(keras.layers, name)(**options)(x, training=True))
    for quantile in (0.1, 0.9):
        got, want = (np.quantile(y.reshape(2000, -1), quantile, axis=0) for y in (ours, theirs))
        np.testing.assert_allclose(got, want, atol=0.25)
    # An inverted image differs by up to 3 from its own, so means of 2,000 draws scatter by 0.05 from each other.
    np.testing.assert_allclose(ours.mean(0), theirs.mean(0), atol=0.2)


@pytest.mark.parametrize(
    ("fill_mode", "interpolation"),
    [("reflect", "bilinear"), ("wrap", "nearest"), ("constant", "bilinear"), ("nearest", "nearest")],
)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("RandomTranslation", {"height_factor": (0.25, 0.25), "width_factor": (-0.25, -0.25)}),
        ("RandomTranslation", {"height_factor": (0.1, 0.1), "width_factor": (0.0, 0.0)}),
        ("RandomRotation", {"factor": (0.25, 0.25)}),
        ("RandomRotation", {"factor": (0.05, 0.05)}),
        ("RandomZoom", {"height_factor": (0.3, 0.3)}),
        ("RandomZoom", {"height_factor": (-0.3, -0.3), "width_factor": (0.1, 0.1)}),
    ],
)
def test_movements_of_one_size_give_keras_images(
    name: str, options: dict[str, Any], fill_mode: str, interpolation: str
) -> None:
    (x,) = random_arrays([(1, 8, 8, 2)])
    options = {**options, "fill_mode": fill_mode, "interpolation": interpolation, "fill_value": 0.5}
    ours = LAYERS[name](**options)(x, training=True).numpy()
    theirs = keras.ops.convert_to_numpy(getattr(keras.layers, name)(**options)(x, training=True))
    # Exactly between two pixels, the result depends on rounding.
    off = np.abs(ours - theirs) > 1e-3
    assert off.mean() < (0.02 if interpolation == "bilinear" else 0.1)


def test_crops_are_boxes_of_the_image() -> None:
    x = np.arange(30.0, dtype="float32").reshape(1, 5, 6, 1)
    seen = {layers.RandomCrop(2, 3)(x, training=True).numpy().tobytes() for _ in range(200)}
    boxes = {x[:, i : i + 2, j : j + 3].tobytes() for i in range(4) for j in range(4)}
    assert seen <= boxes
    assert len(seen) > 12
    assert layers.RandomCrop(9, 9)(x, training=True).shape == (1, 9, 9, 1)


@pytest.mark.parametrize("name", sorted(augmentation_inference.LAYERS))
def test_changes_that_are_not_supported_say_so_in_training(name: str) -> None:
    with pytest.raises(GraphError, match="not supported in training"):
        LAYERS[name](**NEEDED.get(name, {}))(np.zeros(IMAGE, "float32"), training=True)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: layers.Resizing(0, 3), "option 'height' is 0"),
        (lambda: layers.Resizing(3, 3, interpolation="cubic"), "option 'interpolation'"),
        (lambda: layers.Resizing(3, 3, crop_to_aspect_ratio=True, pad_to_aspect_ratio=True), "both set"),
        (lambda: layers.CenterCrop(3, 3, data_format="first"), "option 'data_format'"),
        (lambda: layers.Rescaling("x"), "option 'scale'"),
        (lambda: layers.Normalization(mean=1.0), "got option 'mean' without 'variance', expected both"),
        (
            lambda: layers.Normalization(mean=[1.0, 2.0], variance=[1.0]),
            r"have shapes \(2,\) and \(1,\), expected equal shapes",
        ),
        (lambda: layers.Normalization(axis=None, mean=[1.0], variance=[1.0]), "has 1 axes"),
        (lambda: layers.RandomFlip("both"), "option 'mode'"),
        (lambda: layers.RandomRotation([1, 2, 3]), "option 'factor'"),
        (lambda: layers.RandomBrightness(0.5, value_range=3), "option 'value_range'"),
        (lambda: layers.RandomZoom(0.5, fill_mode="mirror"), "option 'fill_mode'"),
        (lambda: layers.STFTSpectrogram(frame_length=8, frame_step=9), "option 'frame_step'"),
        (lambda: layers.STFTSpectrogram(frame_length=8, fft_length=4), "option 'fft_length'"),
        (lambda: layers.STFTSpectrogram(window="kaiser"), "window is 'kaiser'"),
        (lambda: layers.MelSpectrogram(fft_length=8, sequence_length=16), "option 'sequence_length'"),
        (lambda: layers.MelSpectrogram(window="kaiser"), "option 'window'"),
        (lambda: layers.Pipeline("RandomFlip"), "expected a list of layers"),
        (lambda: layers.Pipeline([{"class_name": "Lambda", "config": {}}]), "expected a list of layers"),
    ],
)
def test_wrong_options_are_named(make: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()


def test_inputs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(GraphError, match="expected images of rank 4"):
        layers.Resizing(3, 3)(layergraph.Input((3,)))
    with pytest.raises(GraphError, match="axis is 5"):
        layers.Normalization(axis=5)(layergraph.Input((3,)))
    with pytest.raises(GraphError, match="expected more than 1024"):
        layers.MelSpectrogram()(layergraph.Input((100,)))
    with pytest.raises(DataError, match="at least one frame"):
        layers.STFTSpectrogram()(np.zeros((1, 10, 1), "float32"))


def test_words_may_be_in_capitals() -> None:
    made = layers.Resizing(3, 3, interpolation="BILINEAR")
    assert made.get_config()["interpolation"] == "bilinear"
    (image,) = pixels(*IMAGE)
    assert torch.equal(made(image), layers.Resizing(3, 3)(image))
    with pytest.raises(ConfigError, match="option 'interpolation' is 3"):
        layers.Resizing(3, 3, interpolation=3)


@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "mixed_float16", "float64"])
def test_normalization_by_given_numbers_has_the_dtype_of_its_policy(dtype, invert):
    x = np.array([[1.0, 2.0, 4.0]], "float32")
    options = {"mean": [1.0, 2.0, 3.0], "variance": [4.0, 1.0, 2.0], "invert": invert, "dtype": dtype}
    ours, theirs = layers.Normalization(**options)(x), keras.layers.Normalization(**options)(x)
    assert ours.dtype == theirs.dtype
    np.testing.assert_allclose(ours.double().numpy(), theirs.double().numpy(), rtol=1e-2)
