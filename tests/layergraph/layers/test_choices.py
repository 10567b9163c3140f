"""Rarely used options of layers: Keras's numbers for them, and errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import layergraph
import numpy as np
import pytest
import torch
from layergraph import layers
from layergraph.config.options import Expected
from layergraph.errors import ConfigError, DataError, GraphError
from layergraph.functional.dtypes import any_dtype_policy
from layergraph.layers.applications import CustomScaleLayer
from layergraph.layers.convolutional.locally_connected import LocallyConnected1D
from layergraph.layers.keras1 import CosineMerge, MaxoutDense
from layergraph.layers.normalization.batch import axes
from layergraph.layers.preprocessing.encoding import encoded
from layergraph.layers.preprocessing.image_contrast import ContrastLimitedAdaptiveHistogramEqualization
from layergraph.layers.quantized.equations import QuantizedDense, QuantizedEinsumDense
from oracles import LayerCase, check_layer, random_arrays

RNG = np.random.default_rng(0)
SOUND = RNG.standard_normal((2, 64)).astype("float32")

CASES = [
    LayerCase("PReLU", {"shared_axes": 1}, [(2, 3, 4)]),
    LayerCase("PReLU", {"shared_axes": [1, 2]}, [(2, 3, 4, 2)]),
    LayerCase("Dot", {"axes": 1}, [(2, 3), (2, 3)], [SOUND[:, :3], SOUND[:, 3:6].astype("float64")]),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_layer_gives_keras_numbers(case: LayerCase) -> None:
    check_layer(case)


def test_a_window_of_values() -> None:
    """The values of the Hann window give the same result as its name."""
    options = {"fft_length": 16, "sequence_stride": 5, "num_mel_bins": 4}
    values = torch.hann_window(16, periodic=True).tolist()
    named, given = (layers.MelSpectrogram(window=window, **options)(SOUND) for window in ("hann", values))
    np.testing.assert_allclose(given, named, atol=1e-5)
    with pytest.raises(ConfigError, match="option 'window' has 15 values, expected 16"):
        layers.MelSpectrogram(window=values[1:], **options)


def test_an_activation_with_weights_has_the_shape_of_the_outputs() -> None:
    (x,) = random_arrays([(2, 3, 4)])
    dense = layers.EinsumDense("abc,cd->abd", output_shape=[3, 5], activation=layers.PReLU(alpha_initializer="ones"))
    plain = layers.EinsumDense("abc,cd->abd", output_shape=[3, 5])
    plain(x)
    assert dense(x).shape == (2, 3, 5)
    assert [weight.shape for weight in dense.weights] == [(4, 5), (3, 5)]
    kernel, slopes = RNG.standard_normal((4, 5)), RNG.random((3, 5))
    dense.set_weights([kernel, slopes])
    plain.set_weights([kernel])
    y = plain(x).detach().numpy()
    np.testing.assert_allclose(dense(x).detach().numpy(), np.where(y > 0, y, slopes * y), rtol=1e-5)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_windows_with_kernels_of_their_own_take_such_activations(data_format: str) -> None:
    layer = LocallyConnected1D(2, 3, activation=layers.PReLU(alpha_initializer="ones"), data_format=data_format)
    x = layergraph.Input((7, 4) if data_format == "channels_last" else (4, 7))
    assert layer(x).shape == ((None, 5, 2) if data_format == "channels_last" else (None, 2, 5))
    assert layer.weights[-1].shape == layer.output_shape[1:]


def test_categories_of_one_value() -> None:
    assert encoded(torch.tensor(2), "multi_hot", 4, torch.float32).tolist() == [0, 0, 1, 0]
    assert encoded(torch.tensor(2), "one_hot", 4, torch.float32).tolist() == [[0, 0, 1, 0]]
    assert encoded(torch.tensor([2, 2, 5, -1]), "count", 4, torch.float32).tolist() == [0, 0, 2, 0]


@pytest.mark.parametrize("name", ["uint8", "uint16", "int8", "int16", "float16", "bfloat16"])
def test_counts_of_long_rows_dont_begin_anew_and_go_on(name: str) -> None:
    """A byte begins anew at 256, and adding 1 to 256 in bfloat16 changes nothing."""
    dtype, row = getattr(torch, name), torch.zeros((1, 3000), dtype=torch.int64)
    counts = encoded(row, "count", 2, dtype)
    assert counts.dtype == (dtype if dtype.is_floating_point else torch.int32)
    assert counts[0].tolist() == torch.tensor([3000, 0]).to(counts.dtype).tolist()
    found = encoded(row[:, :256], "multi_hot", 2, dtype)
    assert (found.dtype, found[0].tolist()) == (dtype, [1, 0])


def result(layer: Any, x: Any, texts: np.ndarray) -> np.ndarray:
    model = layergraph.Model(x, layer(x))
    (value,) = model.plan().run({model.input_names[0]: texts}).values()
    return value


def test_hashed_rows_of_one_text_are_vectors() -> None:
    x = layergraph.Input((1,), dtype="string")
    flat = layergraph.Input((), dtype="string")
    texts = np.array(["a", "b", "a"])
    hashed = layers.Hashing(5, output_mode="one_hot")
    wide = result(hashed, x, texts[:, None])
    assert wide.shape == (3, 5)
    np.testing.assert_array_equal(wide.sum(1), [1, 1, 1])
    np.testing.assert_array_equal(wide, result(hashed, flat, texts))
    numbers = result(layers.Hashing(5), flat, texts)
    np.testing.assert_array_equal(wide.argmax(1), numbers)


def lookup(vocabulary: list[str] | None = None, **options: Any) -> layers.StringLookup:
    return layers.StringLookup(vocabulary=vocabulary, **options)


@pytest.mark.parametrize(
    ("content", "size", "terms"),
    [
        (b"a\nb", None, ("a", "b")),
        (b"a\nb\n", None, ("a", "b")),
        (b"a\nb\n\n\n", None, ("a", "b")),
        (b"a\r\nb\r\nc", None, ("a", "b", "c")),  # as Keras on Windows writes it
        (b"a\nb\n", 3, ("a", "b", "")),  # one index for unknown values; the empty string is a term
        (b"a\nb\n\n", 3, ("a", "b", "")),
    ],
)
def test_a_vocabulary_beside_the_config_ends_as_its_size_says(
    content: bytes, size: int | None, terms: tuple[str, ...]
) -> None:
    layer = lookup(vocabulary_size=size)
    if size is not None:
        # `size` includes the index for unknown values, the file doesn't.
        with pytest.raises(ConfigError, match=f"has {len(terms) + 1} terms, expected 3, which is vocabulary_size"):
            layer.load_asset("vocabulary", content)
        return
    layer.load_asset("vocabulary", content)
    assert layer.vocabulary == terms
    layer.load_asset("vocabulary", b"other")
    assert layer.vocabulary == terms


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"[UNK]\na\nb\nc", "'vocabulary.txt' has 4 lines, expected 3, .* a term with a line break can't be read"),
        (b"[UNK]\nb\na\nb", "'vocabulary.txt' has 4 lines, expected 3, .* a term with a line break can't be read"),
        (b"[UNK]\ncaf\xe9\na", "'vocabulary.txt' isn't UTF-8 text"),  # the code page of Windows
    ],
)
def test_a_vocabulary_beside_the_config_that_cannot_be_read_is_refused(content: bytes, text: str) -> None:
    """tf.keras doesn't mark line breaks within terms, so that it loads other terms, or fails."""
    with pytest.raises(ConfigError, match=f"StringLookup: {text}"):
        lookup(vocabulary_size=3).load_asset("vocabulary.txt", content)


def test_axes_in_a_list() -> None:
    assert [axes(value) for value in (3, [3], (-1,), [2, 1])] == [3, 3, -1, (1, 2)]
    for wrong in ([1, 1], []):
        with pytest.raises(Expected, match=r"an axis, or a list of different ones|at least one"):
            axes(wrong)


def test_a_mask_in_a_list_is_the_mask() -> None:
    """As passed by a wrapper that has masks of inputs and states."""
    layer = layers.GRU(3)
    (x,) = random_arrays([(2, 4, 3)])
    mask = np.array([[True, True, False, True], [True, False, False, False]])
    one = layer(x, mask=mask).detach().numpy()
    np.testing.assert_array_equal(layer(x, mask=[torch.from_numpy(mask)]).detach().numpy(), one)
    assert np.abs(layer(x).detach().numpy() - one).max() > 1e-3


def test_steps_of_text_are_split_or_taken_whole() -> None:
    x = layergraph.Input((2,), dtype="string")
    layer = layers.TextVectorization(split=None, vocabulary=["a b", "c"])
    got = result(layer, x, np.array([["a b", "c"], ["x", "A b"]]))
    np.testing.assert_array_equal(got, [[2, 3], [1, 2]])
    later = layers.TextVectorization()
    later.set_vocabulary(["c", "a"])
    flat = layergraph.Input((), dtype="string")
    np.testing.assert_array_equal(result(later, flat, np.array(["a c b"])), [[3, 2, 1]])


TEXT = layergraph.Input((2, 3), dtype="string")
REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "a sum of one": (
        lambda: CustomScaleLayer(1.0, name="s")(layergraph.Input((2,))),
        GraphError,
        r"layer 's' \(CustomScaleLayer\): got Tensor, expected two tensors",
    ),
    "a sum of three": (
        lambda: CustomScaleLayer(1.0, name="s")([layergraph.Input((2,))] * 3),
        GraphError,
        "got list, expected two tensors",
    ),
    "crossed floats": (
        lambda: layers.HashedCrossing(5, name="h")([layergraph.Input((1,)), layergraph.Input((1,), dtype="int32")]),
        GraphError,
        "expected text or integers",
    ),
    "an image smaller than its padding": (
        lambda: ContrastLimitedAdaptiveHistogramEqualization(tile_grid_size=(8, 8))(
            np.zeros((1, 9, 3, 1), "float32"), training=True
        ),
        DataError,
        "axis 3 of the image is 3 long, expected at least 5, the padding of its tiles",
    ),
    "statistics in nine lists": (
        lambda: layers.Normalization(mean=np.zeros([1] * 9).tolist(), variance=1),
        ConfigError,
        "option 'mean' is .* expected numbers",
    ),
    "a variance without a mean": (
        lambda: layers.Normalization(variance=[1.0]),
        ConfigError,
        "got option 'variance' without 'mean', expected both or none",
    ),
    "rows of steps for a layer of Keras 1": (
        lambda: MaxoutDense(3, name="m")(layergraph.Input((2, 3))),
        GraphError,
        r"layer 'm' \(MaxoutDense\): got shape \(None, 2, 3\), expected \(rows, features\)",
    ),
    "cosines of steps": (
        lambda: CosineMerge(axes=1)([layergraph.Input((2, 3))] * 2),
        GraphError,
        r"expected two of \(rows, features\)",
    ),
    "a vocabulary of another size": (
        lambda: lookup(vocabulary_size=4).set_vocabulary(["a", "b"]),
        ConfigError,
        "has 3 terms, expected 4, which is vocabulary_size",
    ),
    "one text in a row for vectors of one": (
        lambda: layers.TextVectorization(output_mode="one_hot"),
        ConfigError,
        "option 'output_mode' is 'one_hot', expected another unless 'split' is null",
    ),
    "texts in three axes": (
        lambda: layers.TextVectorization(split=None, name="t", vocabulary=["a"])(TEXT),
        GraphError,
        r"got shape .*, expected \(rows, n\)",
    ),
    "quantised without quantisation": (
        lambda: QuantizedDense(3, dtype="float32"),
        ConfigError,
        "dtype policy 'float32' has no quantization",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused(name: str) -> None:
    make, kind, text = REFUSED[name]
    with pytest.raises(kind, match=text):
        make()


def test_quantised_layers_need_lengths() -> None:
    policy = any_dtype_policy("int8_from_float32")
    with pytest.raises(GraphError, match=r"layer 'd' \(Dense\): expected a known length of the inputs' last axis"):
        QuantizedDense(3, name="d", dtype=policy)(layergraph.Input((None,)))
    layer = QuantizedEinsumDense("abc,cd->abd", output_shape=(3, 5), name="e", dtype=policy)
    with pytest.raises(GraphError, match=r"layer 'e' \(EinsumDense\): expected known lengths of all axes"):
        layer(layergraph.Input((3, None)))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_integers_that_are_enlarged_are_rounded_and_cut_off(interpolation: str) -> None:
    """Cubic interpolation exceeds the range of the dtype."""
    extreme = np.where(RNG.random((1, 6, 6, 1)) < 0.5, 0, 255).astype("uint8")
    resizing = layers.Resizing(13, 13, interpolation=interpolation)
    real = resizing(extreme.astype("float32")).numpy()
    got = resizing(extreme).numpy()
    assert got.dtype == "uint8"
    np.testing.assert_array_equal(got, np.clip(np.round(real), 0, 255))
    assert (real.min() < -1 and real.max() > 256) == (interpolation == "bicubic")
