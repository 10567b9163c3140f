"""Rarely used options of operations: NumPy's numbers, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from keras.src.quantizers.quantizers import fake_quant_with_min_max_vars
from layergraph.errors import ConfigError, DataError, GraphError
from layergraph.functional.nest import flatten
from layergraph.ops.table import OPERATIONS
from oracles import keras

RNG = np.random.default_rng(0)
X = RNG.uniform(0.1, 0.9, (2, 3, 4)).astype("float32")
N = RNG.integers(-3, 4, (2, 3, 4)).astype("int32")
IMAGES = RNG.uniform(0, 1, (2, 5, 6, 3)).astype("float32")


def made(name: str, *args: Any, **options: Any) -> list[np.ndarray]:
    """Result of an operation on arrays. Options of the call are given as `call`."""
    call = options.pop("call", {})
    return [each.detach().numpy() for each in flatten(OPERATIONS[name](**options)(*args, **call))]


def check(found: list[np.ndarray], *expected: Any, tolerance: float = 1e-6) -> None:
    assert len(found) == len(expected)
    for got, want in zip(found, expected, strict=True):
        assert got.shape == np.shape(want)
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


Made = Callable[[], tuple[list[np.ndarray], Any]]
PAIR = np.array([2.0, -3.0, 0.5], "float32")
MATRIX = RNG.standard_normal((3, 4)).astype("float32")
ENDS = np.array([[-np.inf, np.nan, 1, np.inf], [np.inf, 1, np.nan, -np.inf]], "float32")
BYTES = np.array([0, 100, 255], "uint8")
WIDE = np.array([-300.7, -1.5, 0.4, 1.5, 300.7], "float32")

AS_NUMPY: dict[str, Made] = {
    "pad by one number": lambda: (made("Pad", MATRIX, pad_width=2), np.pad(MATRIX, 2)),
    "pad all axes alike": lambda: (made("Pad", MATRIX, pad_width=(1, 2)), np.pad(MATRIX, (1, 2))),
    "pad each axis": lambda: (
        made("Pad", MATRIX, pad_width=((1, 2), (0, 3)), mode="edge"),
        np.pad(MATRIX, ((1, 2), (0, 3)), mode="edge"),
    ),
    "reflect": lambda: (made("Pad", MATRIX, pad_width=2, mode="reflect"), np.pad(MATRIX, 2, mode="reflect")),
    "symmetric": lambda: (made("Pad", MATRIX, pad_width=3, mode="symmetric"), np.pad(MATRIX, 3, mode="symmetric")),
    "least squares": lambda: (
        made("Lstsq", MATRIX.T, X[0, 0], rcond=1e-5),
        np.linalg.lstsq(MATRIX.T, X[0, 0], rcond=1e-5)[0],
    ),
    "least squares without small values": lambda: (
        made("Lstsq", np.diag([1.0, 1e-3]).astype("float32"), np.array([2.0, 3.0], "float32"), rcond=0.1),
        [2.0, 0.0],
    ),
    "saturated to truth": lambda: (made("SaturateCast", WIDE, dtype="bool"), np.clip(WIDE, 0, 1).astype(bool)),
    "saturated to bytes": lambda: (made("SaturateCast", WIDE, dtype="uint8"), [0, 0, 0, 1, 255]),
    "saturated to signed bytes": lambda: (made("SaturateCast", WIDE, dtype="int8"), [-128, -1, 0, 1, 127]),
    "transformed along other axes": lambda: (
        made("FFT2", [torch.tensor(X), torch.tensor(X)], axes=[0, 1])[:1],
        np.fft.fft2(X + 1j * X, axes=(0, 1)).real,
    ),
    "saturated pixels": lambda: (made("tf>AdjustBrightness", BYTES, call={"delta": 0.5}), [127, 227, 255]),
    "saturated black": lambda: (made("tf>AdjustBrightness", BYTES, call={"delta": -0.5}), [0, 0, 127]),
    "clipped by arrays": lambda: (
        made("Clip", MATRIX, x_min=[-0.5, -0.1, 0, 0], x_max=0.2),
        np.clip(MATRIX, [-0.5, -0.1, 0, 0], 0.2),
    ),
    "clipped by an array above": lambda: (
        made("Clip", MATRIX, x_min=-1.0, x_max=[0.5, 0.1, 0, 0]),
        np.clip(MATRIX, -1.0, [0.5, 0.1, 0, 0]),
    ),
    "taken of all": lambda: (made("Take", MATRIX, [0, -1, 5], axis=None), np.take(MATRIX, [0, -1, 5])),
    "taken in two axes": lambda: (
        made("Take", MATRIX, [[0, 1], [-1, 2]], axis=1),
        np.take(MATRIX, [[0, 1], [-1, 2]], axis=1),
    ),
    "taken along all": lambda: (
        made("TakeAlongAxis", MATRIX, np.array([3, -1, 0]), axis=None),
        np.take_along_axis(MATRIX, np.array([3, 11, 0]), None),
    ),
    "remainders of truths": lambda: (made("Mod", np.array([True, False]), np.array([True, True])), [0, 0]),
    "softmax of all": lambda: (made("Softmax", X, axis=None), np.exp(X) / np.exp(X).sum()),
    "products over named axes": lambda: (
        made("Tensordot", X, X, axes=([1, 2], [1, 2])),
        np.tensordot(X, X, ([1, 2], [1, 2])),
    ),
    "products over one axis each": lambda: (made("Tensordot", X, X[0], axes=(1, 0)), np.tensordot(X, X[0], (1, 0))),
    "a range of one end": lambda: (made("Arange", 4), np.arange(4)),
    "a range downwards": lambda: (made("Arange", 5, -3, -2), np.arange(5, -3, -2)),
    "a range of fractions": lambda: (made("Arange", 0.5, 2, 0.25), np.arange(0.5, 2, 0.25)),
    "a full array": lambda: (made("Full", 3, shape=(2, 2)), np.full((2, 2), 3)),
    "a full array of a given shape": lambda: (
        made("Full", 0.5, call={"shape": np.array([2, 3])}),
        np.full((2, 3), 0.5),
    ),
    "two axes squeezed": lambda: (made("Squeeze", X[:1, :1], axis=[0, 1]), X[0, 0]),
    "how many": lambda: (made("Size", X), 24),
    "how many axes": lambda: (made("Ndim", X), 3),
    "every other step from the end": lambda: (made("GetItem", X, (slice(None), slice(None, None, -2))), X[:, ::-2]),
    "an element from the end": lambda: (made("GetItem", X, (0, np.array(-1))), X[0, -1]),
    "joined flat": lambda: (made("Concatenate", [MATRIX, X], axis=None), np.concatenate([MATRIX, X], axis=None)),
    "joined lists": lambda: (made("Concatenate", [torch.tensor([1, 2]), [3, 4]], axis=0), [1, 2, 3, 4]),
    "dot with a number": lambda: (made("Dot", MATRIX, np.float32(3)), MATRIX * 3),
    "place of the largest number": lambda: (made("Nanargmax", ENDS, axis=1), np.nanargmax(ENDS, 1)),
    "place of the smallest number": lambda: (made("Nanargmin", ENDS, axis=1), np.nanargmin(ENDS, 1)),
    "rounded integers": lambda: (made("Round", N * 17, decimals=-1), np.round(N * 17, -1)),
    "rounded": lambda: (made("Round", MATRIX, decimals=1), np.round(MATRIX, 1)),
    "not zero, apart": lambda: (made("CountNonzero", N, axis=()), (N != 0).astype("int32")),
    "trapezoids of places": lambda: (
        made("Trapezoid", MATRIX, x=[0.0, 1.0, 4.0, 4.5]),
        np.trapezoid(MATRIX, [0.0, 1.0, 4.0, 4.5]),
    ),
    "trapezoids along an axis": lambda: (
        made("Trapezoid", MATRIX, dx=2.0, axis=0),
        np.trapezoid(MATRIX, dx=2.0, axis=0),
    ),
    "a wide number beside narrow ones": lambda: (
        made("Add", torch.tensor([1, 2], dtype=torch.int32), torch.tensor(0.5)),
        [1.5, 2.5],
    ),
    "matrix and vector": lambda: (made("tf>Matvec", MATRIX, X[0, 0]), MATRIX @ X[0, 0]),
    "matrix turned and vector": lambda: (
        made("tf>Matvec", MATRIX, PAIR, call={"transpose_a": True}),
        MATRIX.T @ PAIR,
    ),
    "singular values": lambda: (
        made("tf>Svd", MATRIX, call={"compute_uv": False}),
        np.linalg.svd(MATRIX, compute_uv=False),
    ),
    "orthogonal matrix": lambda: (made("tf>Qr", MATRIX.T)[:1], np.linalg.qr(MATRIX.T)[0]),
    "triangular matrix of all rows": lambda: (
        made("tf>Qr", MATRIX.T, call={"full_matrices": True})[1:],
        np.linalg.qr(MATRIX.T, "complete")[1],
    ),
    "left singular vectors of few columns": lambda: (
        [np.abs(made("tf>Svd", MATRIX.T)[1])],
        np.abs(np.linalg.svd(MATRIX.T, full_matrices=False)[0]),
    ),
    "norm of a matrix": lambda: (made("tf>Norm", MATRIX, call={"ord": 1, "axis": [0, 1]}), np.linalg.norm(MATRIX, 1)),
    "largest norm of a matrix": lambda: (
        made("tf>Norm", MATRIX, call={"ord": np.inf, "axis": [-2, -1], "keepdims": True}),
        np.linalg.norm(MATRIX, np.inf, keepdims=True),
    ),
    "mean over no axis": lambda: (made("tf>Mean", MATRIX, call={"axis": []}), MATRIX),
    "mean of integers": lambda: (
        made("tf>Mean", np.array([[-7, 2], [4, 4]], "int32"), call={"axis": 1}),
        [-2, 4],  # cut off, not rounded down
    ),
    "confusion": lambda: (
        made("tf>ConfusionMatrix", np.array([0, 2, 2]), np.array([0, 2, 1])),
        [[1, 0, 0], [0, 0, 0], [0, 1, 1]],
    ),
    "bias with channels first": lambda: (
        made("tf>BiasAdd", X, PAIR, call={"data_format": "NCHW"}),
        X + PAIR[:, None],
    ),
    "bias with channels last": lambda: (made("tf>BiasAdd", X, X[0, 0]), X + X[0, 0]),
}


@pytest.mark.parametrize("name", AS_NUMPY)
def test_numbers_are_those_of_numpy(name: str) -> None:
    found, expected = AS_NUMPY[name]()
    check(found, expected, tolerance=1e-5)


@pytest.mark.parametrize(("given", "dtype"), [({}, torch.int32), ({"out_type": "int64"}, torch.int64)])
def test_a_shape_has_the_type_of_tensorflow(given: dict[str, str], dtype: torch.dtype) -> None:
    found = OPERATIONS["tf>Shape"]()(X, **given)
    assert (found.tolist(), found.dtype) == ([2, 3, 4], dtype)


def test_normalized_by_the_norm_of_all() -> None:
    norm = np.linalg.norm(MATRIX)
    check(made("tf>NormalizeBy", MATRIX), MATRIX / norm, [[norm]])
    norms = np.linalg.norm(MATRIX, axis=1, keepdims=True)
    check(made("tf>NormalizeBy", MATRIX, call={"axis": 1}), MATRIX / norms, norms, tolerance=1e-5)


@pytest.mark.parametrize(("endpoint", "step"), [(True, 0.5), (False, 0.4)])
def test_the_step_between_numbers_is_told(endpoint: bool, step: float) -> None:
    expected = np.linspace(1, 3, 5, endpoint=endpoint)
    check(made("Linspace", np.float32(1), np.float32(3), num=5, endpoint=endpoint, retstep=True), expected, step)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_as_many_different_elements_as_asked_for(size: int) -> None:
    found = made("Unique", np.array([3, 1, 3, 2]), size=size, fill_value=9)
    check(found, np.array([1, 2, 3, 9, 9])[:size])


def test_segments_are_as_many_as_their_numbers_say() -> None:
    rows = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], "float32")
    check(made("SegmentSum", rows, np.array([0, 2, 0])), [[6, 8], [0, 0], [3, 4]])
    check(made("SegmentSum", rows, np.array([0, 2, -1]), num_segments=2), [[1, 2], [0, 0]])
    check(made("SegmentMax", rows, np.array([1, 1, 0]), num_segments=2), [[5, 6], [3, 4]])


@pytest.mark.parametrize("window", ["hann", "hamming", None, [0.5, 1.0, 1.0, 0.5, 0.25, 0.75]])
def test_a_short_time_transform_takes_any_window(window: Any) -> None:
    signal = RNG.standard_normal((1, 20)).astype("float32")
    given = np.array(window, "float32") if isinstance(window, list) else window
    expected = keras.ops.stft(signal, 6, 3, 8, window=given)
    found = made("STFT", signal, sequence_length=6, sequence_stride=3, fft_length=8, window=window)
    check(found, *(part.numpy() for part in expected), tolerance=1e-5)


def test_a_window_has_the_length_of_the_sequences() -> None:
    with pytest.raises(ConfigError, match="expected 'hann', 'hamming', numbers or None"):
        OPERATIONS["STFT"](4, 2, 4, window="kaiser")
    with pytest.raises(GraphError, match=r"window has shape \(3,\), expected \(4,\)"):
        made("STFT", np.zeros((1, 8), "float32"), sequence_length=4, sequence_stride=2, fft_length=4, window=[1, 2, 3])


@pytest.mark.parametrize("axes", [1, (1, 2), -1, (2, 1)])
def test_layer_normalization_over_other_axes(axes: Any) -> None:
    over = (axes,) if isinstance(axes, int) else axes
    lengths = [X.shape[axis] for axis in sorted(axis % 3 for axis in over)]
    gamma, beta = (RNG.uniform(0.5, 1.5, lengths).astype("float32") for _ in range(2))
    shape = [n if axis in [a % 3 for a in over] else 1 for axis, n in enumerate(X.shape)]
    mean, variance = X.mean(over, keepdims=True), X.var(over, keepdims=True)
    expected = (X - mean) / np.sqrt(variance + 1e-3) * gamma.reshape(shape) + beta.reshape(shape)
    check(made("LayerNorm", X, gamma, beta, axis=axes, epsilon=1e-3), expected, tolerance=1e-5)


def attention(query: np.ndarray, key: np.ndarray, value: np.ndarray, allowed: Any = None) -> np.ndarray:
    """Attention by its definition, one head at a time."""
    y = np.zeros_like(query)
    for row, head in np.ndindex(query.shape[0], query.shape[2]):
        at = head * key.shape[2] // query.shape[2]
        scores = query[row, :, head] @ key[row, :, at].T / math.sqrt(query.shape[-1])
        if allowed is not None:
            scores = np.where(allowed, scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        y[row, :, head] = weights / weights.sum(-1, keepdims=True) @ value[row, :, at]
    return y


def test_heads_of_a_query_share_those_of_keys_in_groups() -> None:
    query = RNG.standard_normal((2, 5, 4, 3)).astype("float32")
    key, value = (RNG.standard_normal((2, 5, 2, 3)).astype("float32") for _ in range(2))
    check(made("DotProductAttention", query, key, value), attention(query, key, value), tolerance=1e-5)
    causal = np.tril(np.ones((5, 5), bool))
    found = made("DotProductAttention", query, key, value, is_causal=True)
    check(found, attention(query, key, value, causal), tolerance=1e-5)
    mask = RNG.random((5, 5)) < 0.5
    np.fill_diagonal(mask, True)
    found = made("DotProductAttention", query, key, value, is_causal=True, call={"mask": mask[None, None]})
    check(found, attention(query, key, value, causal & mask), tolerance=1e-5)


@pytest.mark.parametrize("axis", [None, 0, -1])
@pytest.mark.parametrize("narrow", [True, False])
def test_faked_quantisation_has_bounds_for_all_or_for_each_place_of_an_axis(axis: int | None, narrow: bool) -> None:
    low, high = np.array([-1.0, -0.3, -2.0], "float32"), np.array([1.5, 0.6, 0.1], "float32")
    x = RNG.uniform(-3, 3, (3, 3)).astype("float32")
    if axis is None:
        low, high = low[0], high[0]
    found = made("FakeQuantWithMinMaxVars", x, low, high, num_bits=4, narrow_range=narrow, axis=axis)[0]
    # Keras on torch always uses the last axis, where TensorFlow has another meaning.
    turned = x.T if axis == 0 else x
    oracle = fake_quant_with_min_max_vars(torch.tensor(turned), low, high, 4, narrow, None if axis is None else -1)
    expected = oracle.detach().numpy()
    np.testing.assert_allclose(found, expected.T if axis == 0 else expected, atol=1e-5)


def test_sparse_labels_may_have_an_axis_of_their_own() -> None:
    scores, labels = MATRIX, np.array([0, 3, 1])
    expected = np.log(np.exp(scores).sum(-1)) - scores[np.arange(3), labels]
    for given in (labels, labels[:, None]):
        check(made("SparseCategoricalCrossentropy", given, scores, from_logits=True), expected, tolerance=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_scores_of_paths_have_the_type_of_the_numbers(dtype: str) -> None:
    paths, scores = made("CTCDecode", X.astype(dtype), [3, 2], strategy="beam_search", beam_width=3, top_paths=2)
    assert (paths.dtype, scores.dtype) == ("int32", dtype)


def test_patches_that_begin_outside_of_the_image() -> None:
    expected = keras.ops.image.extract_patches(IMAGES, (2, 3), strides=(2, 2), padding="same").numpy()
    check(made("ExtractPatches", IMAGES, size=(2, 3), strides=(2, 2), padding="same"), expected)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("PadImages", {"top_padding": 1, "target_height": 8, "left_padding": 2, "right_padding": 1}),
        ("PadImages", {"bottom_padding": 1, "target_height": 8, "right_padding": 1, "target_width": 6 + 4}),
        ("CropImages", {"top_cropping": 1, "target_height": 3, "left_cropping": 2, "right_cropping": 1}),
        ("CropImages", {"bottom_cropping": 1, "target_height": 3, "right_cropping": 1, "target_width": 2}),
    ],
)
def test_two_of_three_numbers_tell_the_third(name: str, options: dict[str, int]) -> None:
    function = {"PadImages": keras.ops.image.pad_images, "CropImages": keras.ops.image.crop_images}[name]
    check(made(name, IMAGES, **options), function(IMAGES, **options).numpy())


def test_images_of_integers_are_scaled_within_their_values() -> None:
    image = RNG.integers(0, 200, (4, 5, 1)).astype("uint8")
    scale, move = np.array([1.5, 0.5], "float32"), np.array([0.5, 0.2], "float32")
    options = {"method": "cubic", "spatial_dims": (0, 1), "antialias": True}
    floats = made("ScaleAndTranslate", image.astype("float32"), (6, 3, 1), scale, move, **options)[0]
    found = made("ScaleAndTranslate", image, (6, 3, 1), scale, move, **options)[0]
    assert found.dtype == "uint8"
    np.testing.assert_array_equal(found, np.clip(np.round(floats), image.min(), image.max()))


def test_types_of_images_span_their_values() -> None:
    """tf.image.convert_image_dtype: integers are converted by whole factors."""

    def converted(values: list[float], given: str, wanted: str, **call: Any) -> list[float]:
        (found,) = made("tf>ConvertImage", np.array(values, given), call={"dtype": wanted, **call})
        assert found.dtype == wanted
        return list(found)

    assert converted([0, 1, 255], "uint8", "uint8") == [0, 1, 255]
    assert converted([0, 1, 128, 255], "uint8", "int16") == [0, 128, 128 * 128, 255 * 128]
    assert converted([0, 127, 128, 32767], "int16", "uint8") == [0, 0, 1, 255]
    assert converted([0.25, 2.0], "float32", "float64") == [0.25, 2.0]
    assert converted([0, 51, 255], "uint8", "float32") == pytest.approx([0, 0.2, 1])
    assert converted([0.0, 0.5, 1.0, 2.0, -1.0], "float32", "uint8", saturate=True) == [0, 127, 255, 255, 0]


def test_a_crop_of_one_pixel_lies_in_the_middle_of_its_box() -> None:
    image = np.arange(12, dtype="float32").reshape(1, 3, 4, 1)
    found = made("tf>CropAndResize", image, [[0.0, 0.0, 1.0, 1.0]], [0], [1, 1])
    check(found, [[[[image[0, 1, 1:3, 0].mean()]]]])
    found = made("tf>CropAndResize", image, [[0.0, 0.0, 1.0, 1.0]], [0], [3, 1])
    check(found, [[[[1.5]], [[5.5]], [[9.5]]]])


@pytest.mark.parametrize("n", [None, 3, 8])
@pytest.mark.parametrize("kind", [2, 3])
def test_cosine_transforms_of_other_lengths(kind: int, n: int | None) -> None:
    x = RNG.standard_normal(5)
    given = x if n is None else np.pad(x[:n], (0, max(0, n - 5)))
    at = np.arange(len(given))
    if kind == 2:
        expected = [2 * (given * np.cos(np.pi * k * (2 * at + 1) / (2 * len(at)))).sum() for k in at]
    else:
        factors = [np.where(at == 0, 1, 2) * np.cos(np.pi * at * (2 * k + 1) / (2 * len(at))) for k in at]
        expected = [(given * factor).sum() for factor in factors]
    check(made("tf>Dct", x, call={"type": kind, "n": n}), expected, tolerance=1e-8)


REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "pads of another number": (lambda: made("Pad", X, pad_width=((1, 1), (1, 1))), GraphError, "two numbers for each"),
    "pads under zero": (lambda: made("Pad", MATRIX, pad_width=((1, -1),)), GraphError, "two numbers for each of 2"),
    "sparse tensors": (lambda: OPERATIONS["ConvertToTensor"](sparse=True), ConfigError, "are not supported"),
    "ragged tensors": (lambda: OPERATIONS["ConvertToTensor"](ragged=True), ConfigError, "are not supported"),
    "no element type": (lambda: OPERATIONS["Cast"](dtype="float7"), ConfigError, "Cast: option 'dtype' is 'float7'"),
    "targets out of the steps": (
        lambda: made("CTCLoss", np.ones((1, 2), int), np.zeros((1, 4, 3), "float32"), [3], [4]),
        DataError,
        "target_length is up to 3, expected from 0 to 2",
    ),
    "outputs out of the steps": (
        lambda: made("CTCLoss", np.ones((1, 2), int), np.zeros((1, 4, 3), "float32"), [2], [5]),
        DataError,
        "output_length is up to 5, expected from 0 to 4",
    ),
    "outputs under zero": (
        lambda: made("CTCLoss", np.ones((2, 2), int), np.zeros((2, 4, 3), "float32"), [2, 2], [-1, 4]),
        DataError,
        "output_length is up to 4, expected from 0 to 4",
    ),
    "targets among no classes": (
        lambda: made("CTCLoss", np.full((1, 2), 3), np.zeros((1, 4, 3), "float32"), [2], [4]),
        DataError,
        "a target is out of range for 3 classes",
    ),
    "targets under zero": (
        lambda: made("CTCLoss", np.full((1, 2), -1), np.zeros((1, 4, 3), "float32"), [2], [4]),
        DataError,
        "a target is out of range for 3 classes",
    ),
    "too few coordinates": (
        lambda: made("MapCoordinates", MATRIX, [[0.0]], order=1),
        GraphError,
        "got coordinates of 1 axes, expected 2",
    ),
    "a shape of other axes": (
        lambda: made("ScaleAndTranslate", IMAGES[0], (4, 4), [1, 1], [0, 0], method="linear", spatial_dims=(0, 1)),
        GraphError,
        r"output_shape is \(4, 4\), expected 3 lengths",
    ),
    "padded to a smaller size": (
        lambda: made("PadImages", IMAGES, top_padding=0, target_height=4, left_padding=0, target_width=9),
        GraphError,
        "images of 5 x 6 can't be padded to a smaller size",
    ),
    "cropped to nothing": (
        lambda: made("CropImages", IMAGES, top_cropping=2, bottom_cropping=3, left_cropping=0, right_cropping=0),
        GraphError,
        "can't crop 2 and 3 pixels from an axis of length 5",
    ),
    "cropped to more": (
        lambda: made("CropImages", IMAGES, top_cropping=1, target_height=5, left_cropping=0, right_cropping=0),
        GraphError,
        "can't crop 1 and -1 pixels from an axis of length 5",
    ),
    "an index out of the axis": (
        lambda: made("TakeAlongAxis", MATRIX, np.array([[4]]), axis=1),
        DataError,
        "an index is out of range for 4 elements",
    ),
    "an index under the axis": (
        lambda: made("TakeAlongAxis", MATRIX, np.array([[-5]]), axis=1),
        DataError,
        "an index is out of range for 4 elements",
    ),
    "parts of another length": (
        lambda: made("tf>SplitSizes", MATRIX, sizes=(1, 2), axis=1),
        GraphError,
        r"can't split 4 elements into parts of \[1, 2\]",
    ),
    "parts of more": (
        lambda: made("tf>SplitSizes", MATRIX, sizes=(5, -1), axis=1),
        GraphError,
        "can't split 4 elements",
    ),
    "a cap on scores": (
        lambda: made("DotProductAttention", *[np.zeros((1, 2, 1, 3), "float32")] * 3, attn_logits_soft_cap=3.0),
        GraphError,
        "attn_logits_soft_cap is not supported",
    ),
    "a remainder of zero": (lambda: made("Fmod", N, np.zeros(4, int)), DataError, "integer division by zero"),
    "a quotient by zero": (lambda: made("tf>FloorDivide", N, np.zeros(4, int)), DataError, "integer division by zero"),
    "a place out of the array": (
        lambda: made("Scatter", np.array([[3]]), np.array([1.0]), (3,)),
        DataError,
        r"an index is out of range for shape \(3,\)",
    ),
    "a place under the array": (
        lambda: made("Scatter", np.array([[-4]]), np.array([1.0]), (3,)),
        DataError,
        r"an index is out of range for shape \(3,\)",
    ),
    "segments beyond number": (
        lambda: made("SegmentSum", np.ones(1, "float32"), np.array([10_000_000])),
        DataError,
        "got segment id 10000000, expected at most 10000000",
    ),
    "a row that isn't there": (
        lambda: made("tf>Gather", MATRIX, np.array([3])),
        DataError,
        "an index is out of range, expected from 0 to 2",
    ),
    "a row before the first": (lambda: made("tf>Gather", MATRIX, np.array([-1])), DataError, "expected from 0 to 2"),
    "a mask beyond number": (
        lambda: made("tf>SequenceMask", np.array([1, 2]), call={"maxlen": 5_000_001}),
        DataError,
        "maxlen is 5000001, expected from 0 to 10000000",
    ),
    "a mask under zero": (
        lambda: made("tf>SequenceMask", np.array([1, 2]), call={"maxlen": -1}),
        DataError,
        "maxlen is -1",
    ),
    "a matrix beyond number": (lambda: made("tf>Eye", torch.tensor(4000)), GraphError, "4000 x 4000, expected at most"),
    "numbers beyond number": (
        lambda: made("tf>Linspace", np.float32([1, 2]), np.float32([3, 4]), 5_000_001),
        GraphError,
        "5000001 numbers per range",
    ),
    "no numbers": (
        lambda: made("tf>Linspace", np.float32(1), np.float32(3), 0),
        GraphError,
        "0 numbers per range",
    ),
    "repeats under zero": (lambda: made("tf>Repeat", MATRIX, -1), GraphError, r"repeats are \[-1\], expected from 0"),
    "an image in a smaller one": (
        lambda: made("tf>PadTo", IMAGES, 0, 0, 4, 6),
        GraphError,
        r"an image of \(5, 6\) doesn't fit in \(4, 6\)",
    ),
    "an image at the edge": (
        lambda: made("tf>PadTo", IMAGES, 1, 0, 5, 6),
        GraphError,
        r"an image of \(5, 6\) doesn't fit in \(5, 6\)",
    ),
    "a box of no image": (
        lambda: made("tf>CropAndResize", IMAGES, [[0.0, 0.0, 1.0, 1.0]], [2], [2, 2]),
        DataError,
        "box_indices has an index out of range for 2 images",
    ),
    "too many segments": (
        lambda: made("tf>SegmentSum", np.ones(2, "float32"), np.array([0, 1]), 10_000_001),
        DataError,
        "got 10000001 segments",
    ),
    "too large numbers to count": (
        lambda: made("tf>Bincount", np.array([10_000_000])),
        DataError,
        "got numbers up to 10000001",
    ),
    "too many classes": (
        lambda: made("tf>ConfusionMatrix", np.array([4000]), np.array([0])),
        DataError,
        "got 4001 classes, expected fewer",
    ),
    "a window of its own": (
        lambda: made("tf>Stft", X, 4, 2, call={"window_fn": "mine"}),
        GraphError,
        "window_fn is a function, which is not supported",
    ),
    "a window of its own back": (
        lambda: made("tf>InverseStft", X.astype("complex64"), 4, 2, call={"window_fn": "mine"}),
        GraphError,
        "window_fn is a function, which is not supported",
    ),
    "cosines of another type": (
        lambda: made("tf>Dct", X, call={"type": 1}),
        GraphError,
        "a discrete cosine transform of type 1 along axis -1 is not supported",
    ),
    "cosines along another axis": (lambda: made("tf>Dct", X, call={"axis": 0}), GraphError, "along axis 0 is not"),
    "pooling with pads": (
        lambda: made("tf>MaxPool", IMAGES, 2, 2, [[0, 0], [1, 1], [1, 1], [0, 0]]),
        GraphError,
        "pooling with explicit paddings is not supported",
    ),
    "pooling with gaps": (
        lambda: made("tf>Pool", IMAGES, [2, 2], "MAX", call={"dilations": [1, 2]}),
        GraphError,
        "dilated pooling is not supported",
    ),
    "windows of four axes": (
        lambda: made("MaxPool", np.zeros((1, 2, 2, 2, 2, 1), "float32"), pool_size=2),
        GraphError,
        "got an input of 6 axes, expected rows, channels, and 1 to 3 more",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_meaning_or_no_bounds_is_refused(name: str) -> None:
    make, kind, text = REFUSED[name]
    with pytest.raises(kind, match=text):
        make()


@pytest.mark.parametrize("axes", [(3,), (1, 3), (3, 1, 1)])
def test_indices_of_a_scatter_may_have_any_axes(axes: tuple[int, ...]) -> None:
    indices, values = np.array([[0, 1], [1, 2], [0, 1]]).reshape(*axes, 2), np.arange(1, 4.0).reshape(axes)
    check(made("Scatter", indices, values, (2, 3)), keras.ops.scatter(indices, values, (2, 3)))
