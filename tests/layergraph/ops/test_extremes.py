"""Functions of one tensor at the ends of each dtype: signed zeros, subnormal and large numbers, infinities, NaN."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import layergraph
import numpy as np
import pytest
import torch
from oracles import flat, keras

ops = keras.ops

NAMES = (
    *("abs", "angle", "arccos", "arccosh", "arcsin", "arcsinh", "arctan", "arctanh", "cbrt", "celu", "conj", "copy"),
    *("cos", "cosh", "deg2rad", "elu", "erf", "erfc", "erfinv", "exp", "exp2", "expm1", "fabs", "gelu", "hard_shrink"),
    *("hard_sigmoid", "hard_silu", "hard_tanh", "i0", "imag", "isfinite", "isinf", "isnan", "isneginf", "isposinf"),
    *("isreal", "leaky_relu", "log", "log10", "log1p", "log2", "log_sigmoid", "logical_not", "nan_to_num", "negative"),
    *("ones_like", "rad2deg", "real", "reciprocal", "relu", "relu6", "round", "rsqrt", "selu", "sigmoid", "sign"),
    *("signbit", "silu", "sin", "sinc", "sinh", "soft_shrink", "softplus", "softsign", "sparse_plus", "sparse_sigmoid"),
    *("sqrt", "square", "squareplus", "tan", "tanh", "tanh_shrink", "trunc", "zeros_like", "softmax", "log_softmax"),
    *("bitwise_invert", "cumsum", "cumprod", "sort", "argsort", "flip", "sum", "mean", "max", "min", "prod", "var"),
    *("std", "any", "all", "argmax", "argmin", "logsumexp", "nansum", "nanmean", "nanmax", "nanmin", "nanvar"),
)
CASES: Mapping[str, Callable[[Any], Any]] = {
    **{name: getattr(ops, name) for name in NAMES},
    "threshold": lambda x: ops.threshold(x, 1, 0),
    "clip": lambda x: ops.clip(x, -1, 2),
    "normalize": lambda x: ops.normalize(x, axis=-1),
    "power": lambda x: ops.power(x, 2),
}
FLOATS = np.array(
    [
        *(0.0, -0.0, 1e-38, -1e-38, 1e-8, 1e38, -1e38, np.inf, -np.inf, np.nan, 0.5, -0.5, 1.0, -1.0, 2.5, 3.5, 6.0),
        *(17.0, -17.0, 88.7, 89.0, -104.0, 700.0, 1e4, -1e4, 1e9),
    ]
)
INTEGERS = np.array([0, 1, -1, 2, -2, 3, 7, -7, 100])
DATA = {
    **dict.fromkeys(("float16", "float32"), FLOATS),
    **dict.fromkeys(("int8", "int32", "int64"), INTEGERS),
    "uint8": np.abs(INTEGERS),
    "bool": INTEGERS > 0,
}
#: Where Keras on torch computes in bytes, and overflows.
KERAS_OVERFLOWS = {
    (name, dtype) for name in ("normalize", "sparse_plus", "sparse_sigmoid") for dtype in ("int8", "uint8")
}


@pytest.mark.parametrize("dtype", DATA)
@pytest.mark.filterwarnings("ignore")
def test_extreme_numbers_give_keras_numbers(dtype: str) -> None:
    with np.errstate(over="ignore"):
        x = DATA[dtype].astype(dtype)[None]
    entry = keras.Input((x.shape[1],), dtype=dtype)
    made, expected = {}, {}
    for name, call in CASES.items():
        try:
            symbol, value = call(entry), call(ops.convert_to_tensor(x))
        except Exception:  # Keras on torch can't compute it.
            continue
        made[name], expected[name] = symbol, ops.convert_to_numpy(value)
    assert len(made) >= 80
    wrong = {}
    for name, got in zip(made, _ours(keras.Model(entry, list(made.values())), x), strict=True):
        want = expected[name]
        # Some operations of Keras on torch give another dtype than Keras says.
        kept = str(made[name].dtype) != want.dtype.name or got.dtype == want.dtype
        if not kept or not _same(got, want, dtype):
            wrong[name] = (got, want)
    assert {name: values for name, values in wrong.items() if (name, dtype) not in KERAS_OVERFLOWS} == {}


@pytest.mark.parametrize("axis", [(), []])
@pytest.mark.parametrize("keepdims", [True, False])
@pytest.mark.parametrize("name", ["sum", "mean", "max", "min", "amax", "amin", "var", "prod", "any", "all"])
def test_no_axes_reduce_nothing(name: str, axis: Any, keepdims: bool) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype("float32")
    entry = keras.Input((3, 4))
    model = keras.Model(entry, getattr(ops, name)(entry, axis=axis, keepdims=keepdims))
    (got,) = _ours(model, x)
    (want,) = flat(model.predict_on_batch(x))
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, 1e-5, 1e-5)


def _ours(model: Any, x: np.ndarray) -> list[np.ndarray]:
    loaded = layergraph.models.model_from_json(model.to_json())
    return list(loaded.plan().run({loaded.input_names[0]: x}).values())


def _same(got: np.ndarray, want: np.ndarray, dtype: str) -> bool:
    tolerance = 2e-3 if dtype == "float16" else 1e-5
    with np.errstate(invalid="ignore"):
        return got.shape == want.shape and np.allclose(
            got.astype("float64"), want.astype("float64"), tolerance, tolerance, equal_nan=True
        )


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
@pytest.mark.parametrize(
    "name", ["abs", "bitwise_invert", "negative", "sign", "square", "add", "maximum", "left_shift"]
)
def test_unsigned_integers_wrap_around_as_in_numpy(name: str, dtype: str) -> None:
    """Stock Keras on torch computes uint16 in int32, and uint32 in int64."""
    values = np.array([[0, 1, 5, np.iinfo(dtype).max]], dtype)
    count = 2 if name in ("add", "maximum", "left_shift") else 1
    inputs = [layergraph.Input((4,), dtype=dtype) for _ in range(count)]
    given = [values, np.full_like(values, 3)][:count]
    got = layergraph.Model(inputs, getattr(layergraph.ops, name)(*inputs)).predict(given if count > 1 else values)
    expected = getattr(np, {"bitwise_invert": "invert"}.get(name, name))(*given)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_hues_of_grey_and_black_pixels_and_their_gradients(dtype: str) -> None:
    pixels = torch.tensor([[[[0.5, 0.5, 0.5], [0.0, 0.0, 0.0], [0.2, 0.9, 0.4], [1.0, 1.0, 1.0]]]])
    x = layergraph.Input((1, 4, 3), dtype=dtype)
    model = layergraph.Model(x, layergraph.ops.image.rgb_to_hsv(x))
    found = []
    for convert in (lambda images: model(images), ops.image.rgb_to_hsv):
        images = pixels.to(getattr(torch, dtype)).requires_grad_()
        made = convert(images)
        (gradient,) = torch.autograd.grad(made.sum(), images)
        found.append((made.detach(), gradient))
    for own, want in zip(*found, strict=True):
        assert want.isfinite().all()
        torch.testing.assert_close(own, want)


@pytest.mark.parametrize("name", ["nancumsum", "nancumprod"])
def test_cumulative_results_skip_nan_alone(name: str) -> None:
    """As in NumPy and JAX; stock Keras on torch also makes infinities finite."""
    values = np.array([[1.5, np.nan, 2.0, np.inf, 3.0]], "float32")
    x = layergraph.Input((5,))
    got = layergraph.Model(x, getattr(layergraph.ops, name)(x, axis=1)).predict(values)
    np.testing.assert_array_equal(got, getattr(np, name)(values, axis=1))
