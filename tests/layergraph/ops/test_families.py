"""The less common operations as nodes: stock Keras's numbers, or NumPy's where Keras on torch can't compute them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import layergraph
import numpy as np
import pytest
import torch
from layergraph.errors import ConfigError, DataError, GraphError
from layergraph.ops.table import OPERATIONS
from operation_cases import FAMILIES
from oracles import assert_close, flat, keras

X = np.random.default_rng(0).uniform(0.1, 0.9, (2, 3, 4)).astype("float32")
Y = np.random.default_rng(1).uniform(0.1, 0.9, (2, 3, 4)).astype("float32")
N = np.random.default_rng(2).integers(-3, 4, (2, 3, 4)).astype("int32")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.filterwarnings("ignore:You passed `rms_scaling=True`")
def test_operations_give_keras_numbers(family: str, tmp_path: Path) -> None:
    inputs = [keras.Input((3, 4)), keras.Input((3, 4)), keras.Input((3, 4), dtype="int32")]
    made = {name: flat(case(*inputs)) for name, case in FAMILIES[family](keras.ops).items()}
    names = [f"{name} {k}" for name, outputs in made.items() for k in range(len(outputs))]
    model = keras.Model(inputs, [output for outputs in made.values() for output in outputs])
    expected = flat(model.predict_on_batch([X, Y, N]))
    model.save(tmp_path / "model.keras")
    loaded = layergraph.load_model(tmp_path / "model.keras")
    results = loaded.plan().run(dict(zip(loaded.input_names, [X, Y, N], strict=True)))
    wrong = {}
    for name, got, want in zip(names, results.values(), expected, strict=True):
        if got.shape != want.shape or got.dtype != want.dtype or not np.allclose(got, want, 1e-5, 1e-5, equal_nan=True):
            wrong[name] = (got.shape, want.shape, got.dtype, want.dtype)
    assert not wrong


def computed(name: str, options: dict[str, Any], *args: Any) -> Any:
    """Result of an operation on arrays, as a node of a model whose inputs they are."""
    inputs = [layergraph.Input(arg.shape[1:], dtype=arg.dtype.name, name=f"x{k}") for k, arg in enumerate(args)]
    model = layergraph.Model(inputs, OPERATIONS[name](**options)(*inputs))
    return list(model.plan().run({f"x{k}": arg for k, arg in enumerate(args)}).values())


KERNEL = np.random.default_rng(4).standard_normal((2, 2, 3, 4)).astype("float32")


@pytest.mark.parametrize(
    ("name", "options", "args", "expected"),
    [
        ("Nonzero", {}, [N], np.nonzero(N)),
        ("Histogram", {"bins": 4, "range": (0.2, 0.8)}, [Y], np.histogram(Y, bins=4, range=(0.2, 0.8))),
        ("Histogram", {}, [N], np.histogram(N)),
        ("CountNonzero", {"axis": 1}, [N], [np.count_nonzero(N, axis=1)]),
        ("Cross", {}, [X[..., :3], Y[..., :3]], [np.cross(X[..., :3], Y[..., :3])]),
        ("Cross", {"axis": 1}, [X, Y], [np.cross(X, Y, axis=1)]),
    ],
)
def test_operations_that_keras_on_torch_computes_otherwise(
    name: str, options: dict[str, Any], args: list[Any], expected: Any
) -> None:
    results = computed(name, options, *args)
    assert len(results) == len(expected)
    for got, want in zip(results, expected, strict=True):
        assert_close(got, want)


@pytest.mark.parametrize(
    "options",
    [
        {"strides": 2, "padding": "same"},
        {"strides": (2, 1)},
        {"strides": 2, "padding": "same", "output_padding": 1},
        {"data_format": "channels_first"},
    ],
)
def test_transposed_convolution_gives_keras_numbers(options: dict[str, Any]) -> None:
    # Keras 3.15 creates the node, but mixes up its options when it computes it: this is the function.
    image = np.random.default_rng(5).standard_normal((2, 5, 4, 4)).astype("float32")
    image = image.transpose(0, 3, 1, 2).copy() if "data_format" in options else image
    x = layergraph.Input(image.shape[1:], name="x")
    model = layergraph.Model(x, OPERATIONS["ConvTranspose"](**options, name="y")(x, KERNEL))
    assert_close(model.plan().run({"x": image})["y"], keras.ops.conv_transpose(image, KERNEL, **options), 1e-4)


def test_a_quantised_tensor_has_few_values(tmp_path: Path) -> None:
    x = keras.Input((3, 4))
    model = keras.Model(x, keras.quantizers.fake_quant_with_min_max_vars(x, 0.0, 0.7))
    model.save(tmp_path / "model.keras")
    loaded = layergraph.load_model(tmp_path / "model.keras")
    result = loaded.plan().run({loaded.input_names[0]: X})
    assert_close(next(iter(result.values())), model.predict_on_batch(X), 1e-6)


@pytest.mark.parametrize(
    ("name", "options", "arg", "message"),
    [
        ("Bincount", {}, np.array([[-1, 2]], "int32"), "expected from 0"),
        ("Bincount", {}, np.array([[2_000_000_000]], "int32"), "expected from 0"),
    ],
)
def test_data_that_would_take_any_memory_is_refused(name: str, options: dict[str, Any], arg: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        computed(name, options, arg)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: OPERATIONS["CTCDecode"](strategy="beam_search", beam_width=10**9), None),
        (lambda x: OPERATIONS["MapCoordinates"](order=3), "expected 0 or 1"),
        (lambda x: OPERATIONS["STFT"](8, 2, 4), "at least 8"),
        (lambda x: OPERATIONS["Bincount"](sparse=True), "expected false"),
    ],
)
def test_options_that_mean_nothing_are_refused(make: Callable[[Any], Any], message: str | None) -> None:
    if message is None:
        x = layergraph.Input((3, 4), name="x")
        model = layergraph.Model(x, make(x)(x, np.array([3, 3], "int32")))
        with pytest.raises(GraphError, match="beam"):
            model.plan().run({"x": X})
        return
    with pytest.raises(ConfigError, match=message):
        make(None)


def test_lengths_that_are_a_constant_fit_so_many_rows_only() -> None:
    x = layergraph.Input((3, 4), name="x")
    plan = layergraph.Model(x, OPERATIONS["CTCDecode"]()(x, np.array([3, 3], "int32"))).plan()
    plan.run({"x": X[:1].repeat(2, 0)})
    with pytest.raises(DataError, match=r"sequence_lengths has shape \(2,\), expected \(3,\)"):
        plan.run({"x": X[:1].repeat(3, 0)})


def test_a_pattern_that_does_not_fit_is_refused() -> None:
    x = layergraph.Input((3, 4))
    for pattern in ("b h -> h b", "b h w -> b h", "b (h w) c -> b h w c", "b h w", "(("):
        with pytest.raises(GraphError, match="pattern"):
            OPERATIONS["Rearrange"]()(x, pattern)


@pytest.mark.parametrize("images", [(2, 5, 6, 3), (5, 6, 3)])
def test_projections_of_images_with_channels_first_are_those_with_channels_last(images: tuple[int, ...]) -> None:
    x = torch.from_numpy(np.random.default_rng(0).standard_normal(images).astype("float32"))
    transform = [1.0, 0.2, -0.5, 0.1, 0.9, 0.3, 0.0, 0.0]
    last = OPERATIONS["AffineTransform"](data_format="channels_last")(x, transform)
    first = OPERATIONS["AffineTransform"](data_format="channels_first")(x.movedim(-1, -3), transform)
    torch.testing.assert_close(first.movedim(-3, -1), last)
    assert not torch.equal(last, x)
