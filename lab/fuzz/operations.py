"""Compares random graphs of operations with stock Keras 3: `make -C lab fuzz FUZZ=operations COUNT=200 SEED=0`.

Every tensor of a graph is an output, so the first that differs is the operation at fault.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"

import keras
import layergraph
import numpy as np
from random_operations import OperationMaker, Step, data
from runner import Fuzzer, Skipped, run

ops = keras.ops

UNARY = [
    "abs",
    "absolute",
    "negative",
    "sign",
    "square",
    "isfinite",
    "isnan",
    "logical_not",
    "copy",
    "zeros_like",
    "ones_like",
    "arctan",
    "arcsinh",
    "ceil",
    "cos",
    "cosh",
    "erf",
    "exp",
    "expm1",
    "floor",
    "sin",
    "sinh",
    "tan",
    "tanh",
    "round",
    "trunc",
    "cbrt",
    "exp2",
    "deg2rad",
    "sigmoid",
    "relu",
    "relu6",
    "selu",
    "silu",
    "softplus",
    "softsign",
    "hard_sigmoid",
    "hard_silu",
    "hard_tanh",
    "log_sigmoid",
    "elu",
    "celu",
    "gelu",
    "leaky_relu",
    "tanh_shrink",
    "sparse_plus",
    "soft_shrink",
    "hard_shrink",
    "squareplus",
    "reciprocal",
    "sqrt",
    "log1p",
    "signbit",
    "sinc",
    "isinf",
]
BINARY = [
    "add",
    "subtract",
    "multiply",
    "divide",
    "true_divide",
    "maximum",
    "minimum",
    "arctan2",
    "power",
    "floor_divide",
    "mod",
    "equal",
    "not_equal",
    "greater",
    "greater_equal",
    "less",
    "less_equal",
    "logical_and",
    "logical_or",
    "logical_xor",
    "hypot",
    "logaddexp",
    "fmax",
    "fmin",
    "divide_no_nan",
    "fmod",
]
REDUCTIONS = [
    "sum",
    "mean",
    "max",
    "min",
    "var",
    "std",
    "prod",
    "any",
    "all",
    "logsumexp",
    "median",
    "count_nonzero",
    "nansum",
    "nanmean",
    "nanmax",
    "ptp",
    "amax",
    "amin",
]
ARGUMENT = ["argmax", "argmin"]
TYPES = [
    "float32",
    "float32",
    "float32",
    "float64",
    "float16",
    "bfloat16",
    "int32",
    "int64",
    "int8",
    "uint8",
    "int16",
    "bool",
]


def unary(m: OperationMaker) -> Any:
    return getattr(ops, m.pick(UNARY))(m.any())


def binary(m: OperationMaker) -> Any:
    x, name = m.any(), m.pick(BINARY)
    kind = m.rng.random()
    if kind < 0.45:
        return getattr(ops, name)(x, m.alike(x))
    if kind < 0.6:
        return getattr(ops, name)(x, m.any())
    other = m.constant(x)
    return getattr(ops, name)(x, other) if m.flag(0.7) else getattr(ops, name)(other, x)


def operator(m: OperationMaker) -> Any:
    x = m.any()
    y = m.alike(x) if m.flag() else m.constant(x)
    return m.pick(
        [
            lambda: x + y,
            lambda: y - x,
            lambda: x * y,
            lambda: x / y,
            lambda: y / x,
            lambda: x // y,
            lambda: x % y,
            lambda: x**2,
            lambda: -x,
            lambda: abs(x),
            lambda: x > y,
            lambda: x <= y,
            lambda: (x > y) & (x < 1),
            lambda: ~(x > y),
        ]
    )()


def reduction(m: OperationMaker) -> Any:
    x = m.any()
    return getattr(ops, m.pick(REDUCTIONS))(x, axis=m.axes(x), **({"keepdims": True} if m.flag(0.3) else {}))


def argument(m: OperationMaker) -> Any:
    x = m.any()
    return getattr(ops, m.pick(ARGUMENT))(x, axis=m.pick([None, m.axis(x)]), keepdims=m.flag(0.3))


def cumulative(m: OperationMaker) -> Any:
    x = m.rank(1)
    name = m.pick(["cumsum", "cumprod", "sort", "argsort", "flip", "diff", "softmax", "log_softmax"])
    return getattr(ops, name)(x, axis=m.axis(x))


def cast(m: OperationMaker) -> Any:
    return ops.cast(m.any(), m.pick(TYPES))


def typed(m: OperationMaker) -> Any:
    x = m.any()
    return m.pick(
        [
            lambda: ops.ones_like(x, dtype=m.pick(TYPES)),
            lambda: ops.zeros_like(x, dtype=m.pick(TYPES)),
            lambda: ops.full_like(x, m.scalar(), dtype=m.pick([None, *TYPES])),
            lambda: ops.cumsum(x, axis=m.axis(x), dtype=m.pick(["float32", "int32", "float64"])),
            lambda: ops.prod(x, axis=m.axis(x), dtype=m.pick(["float32", "float64"])),
            lambda: ops.one_hot(ops.cast(x, "int32"), int(m.rng.integers(2, 6)), axis=m.pick([-1, 1])),
            lambda: ops.one_hot(ops.abs(ops.cast(x, "int32")), 4, dtype=m.pick(TYPES)),
            lambda: ops.saturate_cast(x * 100, m.pick(["uint8", "int8", "int16"])),
        ]
    )()


def subscript(m: OperationMaker) -> Any:
    x = m.rank(2)
    return x[m.key(x)]


def reshape(m: OperationMaker) -> Any:
    x = m.rank(2)
    sizes = [n for n in m.shape(x)[1:] if n is not None]
    if len(sizes) < len(m.shape(x)) - 1:
        return ops.reshape(x, (-1, sizes[-1])) if m.shape(x)[-1] is not None else ops.ravel(x)
    total = int(np.prod(sizes))
    divisors = [n for n in range(1, total + 1) if total % n == 0]
    first = m.pick(divisors)
    return m.pick(
        [
            lambda: ops.reshape(x, (-1, total)),
            lambda: ops.reshape(x, (-1, first, total // first)),
            lambda: ops.reshape(x, (-1, sizes[-1])),
            lambda: ops.reshape(ops.reshape(x, (-1, sizes[-1])) * 2, (-1, *sizes)),
            lambda: keras.layers.Flatten()(x),
            lambda: keras.layers.Reshape((first, -1))(x),
        ]
    )()


def arrange(m: OperationMaker) -> Any:
    x = m.rank(2)
    rank = len(m.shape(x))
    order = (0, *(int(a) + 1 for a in m.rng.permutation(rank - 1)))
    axis = m.axis(x, rows=False)
    pads = [(0, 0), *((int(a), int(b)) for a, b in m.rng.integers(0, 2, (rank - 1, 2)))]
    repeats = [1, *(int(n) for n in m.rng.integers(1, 3, rank - 1))]
    return m.pick(
        [
            lambda: ops.transpose(x, order),
            lambda: ops.swapaxes(x, m.axis(x, rows=False), m.axis(x, rows=False)),
            lambda: ops.moveaxis(x, m.axis(x, rows=False), m.axis(x, rows=False)),
            lambda: ops.expand_dims(x, m.axis(x, rows=False)),
            lambda: ops.expand_dims(x, (1, -1)),
            lambda: ops.squeeze(ops.expand_dims(x, axis), axis),
            lambda: ops.squeeze(x, [a for a, n in enumerate(m.shape(x)) if n == 1]),
            lambda: ops.roll(x, m.pick([1, -2]), axis=axis),
            lambda: ops.roll(x, (1, 2), axis=(axis, rank - 1)),
            lambda: ops.flip(x, axis=(axis, rank - 1)),
            lambda: ops.repeat(x, 2, axis=axis),
            lambda: ops.repeat(x, [2, *[1] * (m.shape(x)[axis] - 1)], axis=axis),
            lambda: ops.tile(x, repeats),
            lambda: ops.pad(x, pads, mode=m.pick(["constant", "reflect", "symmetric"])),
            lambda: ops.pad(x, pads, constant_values=m.pick([1, 0.5, -2])),
            lambda: ops.rot90(x, k=m.pick([1, 2, 3]), axes=(rank - 2, rank - 1)),
            lambda: ops.broadcast_to(ops.mean(x, axis=0, keepdims=True), (4, *m.shape(x)[1:])),
        ]
    )()


def joined(m: OperationMaker) -> Any:
    x = m.rank(2)
    others = [m.alike(x) for _ in range(int(m.rng.integers(1, 3)))]
    axis = m.axis(x, rows=False)
    return m.pick(
        [
            lambda: ops.concatenate([x, *others], axis=axis),
            lambda: ops.concatenate([x, *others], axis=0),
            lambda: ops.stack([x, *others], axis=axis),
            lambda: ops.append(x, others[0], axis=axis),
            lambda: keras.layers.Concatenate(axis=axis)([x, *others]),
            lambda: keras.layers.Add()([x, *others]),
            lambda: ops.hstack([x, *others]),
            lambda: ops.dstack([x, *others]),
        ]
    )()


def parted(m: OperationMaker) -> Any:
    x = m.rank(2)
    axis = m.axis(x, rows=False)
    size = m.shape(x)[axis]
    return m.pick(
        [
            lambda: ops.split(x, size, axis=axis),
            lambda: ops.split(x, 2, axis=axis),
            lambda: ops.split(x, [1], axis=axis),
            lambda: ops.split(x, [1, size - 1], axis=axis),
            lambda: ops.unstack(x, axis=axis),
            lambda: ops.array_split(x, 2, axis=axis),
            lambda: ops.top_k(x, 2),
            lambda: ops.moments(x, [axis], keepdims=m.flag()),
        ]
    )()


def taken(m: OperationMaker) -> Any:
    x = m.rank(2)
    axis = m.axis(x, rows=False)
    size = m.shape(x)[axis]
    indices = [int(n) for n in m.rng.integers(-size, size, 3)]
    return m.pick(
        [
            lambda: ops.take(x, indices, axis=axis),
            lambda: ops.take(x, indices[0], axis=axis),
            lambda: ops.take(x, np.array([indices[:2], indices[1:]]), axis=axis),
            lambda: ops.take_along_axis(x, ops.argsort(x, axis=axis), axis=axis),
            lambda: ops.where(x > 0, x, m.pick([m.alike(x), m.scalar()])),
            lambda: ops.where(x > 0, m.scalar(), m.scalar()),
            lambda: ops.clip(x, *m.pick([(-1, 1), (0.2, 0.7), (0, 2)])),
            lambda: ops.quantile(x, m.pick([0.3, 0.5]), axis=axis),
            lambda: ops.tril(x) if m.flag() else ops.triu(x, k=1),
            lambda: ops.diagonal(x, axis1=-2, axis2=-1),
            lambda: ops.digitize(x, np.array([-0.5, 0.0, 0.5])),
            lambda: ops.nan_to_num(x / (x - x), nan=1.0, posinf=2.0, neginf=-2.0),
            lambda: ops.isclose(x, m.alike(x)),
            lambda: ops.round(x, m.pick([0, 1, 2])),
        ]
    )()


def products(m: OperationMaker) -> Any:
    x = m.rank(2, "float", "int")
    y = m.alike(x)
    last = m.shape(x)[-1]
    rank = len(m.shape(x))
    back = (*range(rank - 2), rank - 1, rank - 2)
    matrix = m.rng.standard_normal((last, 3)).astype("float32")
    return m.pick(
        [
            lambda: ops.matmul(x, ops.transpose(y, back)),
            lambda: ops.matmul(x, matrix),
            lambda: x @ matrix,
            lambda: ops.dot(x, matrix),
            lambda: ops.tensordot(x, matrix, axes=1),
            lambda: ops.tensordot(x, matrix, axes=[[rank - 1], [0]]),
            lambda: ops.einsum("...i,ij->...j", x, matrix),
            lambda: ops.einsum("bti,bsi->bts", x, y),
            lambda: ops.einsum("bij->bji", x),
            lambda: ops.norm(x, axis=m.axis(x), ord=m.pick([None, 1, 2])),
            lambda: ops.normalize(x, axis=m.axis(x), order=m.pick([1, 2])),
            lambda: ops.layer_normalization(ops.cast(x, "float32")),
            lambda: ops.average(x, axis=m.axis(x)),
            lambda: keras.layers.Dense(3)(x),
            lambda: keras.layers.Dot(axes=-1)([x, y]),
        ]
    )()


def shaped(m: OperationMaker) -> Any:
    """Shapes as values."""
    x = m.rank(2)
    return m.pick(
        [
            lambda: ops.reshape(x, (ops.shape(x)[0], -1)),
            lambda: ops.reshape(x, (-1, *ops.shape(x)[1:])),
            lambda: ops.broadcast_to(x[:, :1], ops.shape(x)),
            lambda: ops.arange(ops.shape(x)[1], dtype="float32"),
            lambda: ops.zeros((ops.shape(x)[0], 2)),
        ]
    )()


STEPS: list[Step] = [
    unary, unary, binary, binary, binary, operator, operator, reduction, reduction, argument, cumulative, cast, typed,
    subscript, subscript, reshape, arrange, arrange, joined, parted, taken, taken, products, products, shaped,
]  # fmt: skip


def made(seed: int) -> tuple[Any, list[np.ndarray], list[np.ndarray]]:
    """The graph of a seed, data, and Keras's outputs for them. Raises Skipped if Keras can't compute it."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    maker = OperationMaker(seed, lambda t: t.shape, lambda t: str(t.dtype))
    inputs = [
        keras.Input((3, 4)),
        keras.Input((3, 4)),
        keras.Input((None, 4)),
        keras.Input((3, 4), dtype="int32"),
        keras.Input((3,), dtype=maker.pick(["int32", "bool", "float32", "float16"])),
    ]
    maker.tensors = list(inputs)
    maker.grow(STEPS, int(maker.rng.integers(4, 14)))
    outputs = maker.tensors[len(inputs) :]
    arrays = [data(tuple(t.shape), str(t.dtype), maker.rng) for t in inputs]
    try:
        model = keras.Model(inputs, outputs)
        expected = keras.tree.flatten(model.predict_on_batch(arrays))
    except Exception as error:
        raise Skipped(f"{type(error).__name__}: {error}") from error
    return model, arrays, [np.asarray(value) for value in expected]


def check(seed: int, folder: Path) -> None:
    """Raises AssertionError, with the first operation at fault, if the graph of a seed gives other numbers than Keras.

    Raises Skipped if Keras can't compute or save it.
    """
    model, arrays, expected = made(seed)
    ending = ".h5" if seed % 5 == 0 else ".keras"
    try:
        model.save(folder / f"model{ending}")
    except Exception as error:
        raise Skipped(f"{type(error).__name__}: {error}") from error
    loaded = layergraph.load_model(folder / f"model{ending}")
    results = list(loaded.plan().run(dict(zip(loaded.input_names, arrays, strict=True))).values())
    halves = any(value.dtype.name in ("float16", "bfloat16") for value in [*expected, *arrays])
    # Some operations of Keras on torch give another type than Keras says; bfloat16 comes out as float32 here.
    sure = all(str(t.dtype) == value.dtype.name for t, value in zip(model.outputs, expected, strict=True))
    for got, want, tensor in zip(results, expected, model.outputs, strict=True):
        operation = tensor._keras_history.operation
        options = {k: v for k, v in operation.get_config().items() if k != "name"}
        node = operation._inbound_nodes[tensor._keras_history.node_index].arguments
        what = f"{type(operation).__name__} {str(options)[:150]} of {str([*node.args, node.kwargs])[:250]}"
        same = got.shape == want.shape
        same &= not sure or got.dtype.name == want.dtype.name.replace("bfloat16", "float32")
        assert same, f"{what}: got {got.dtype}{got.shape}, expected {want.dtype}{want.shape}"
        # What was computed in 16 bits before differs too.
        loose = 2e-2 if halves else 1e-5
        a, b = (np.asarray(v, "complex128" if v.dtype.kind == "c" else "float64") for v in (got, want))
        close = np.allclose(a, b, rtol=loose, atol=loose, equal_nan=True)
        assert close, f"{what}: differs by {np.nanmax(np.abs(a - b))}"


if __name__ == "__main__":
    sys.exit(run(Fuzzer("operations", "graphs", check)))
