"""Operations as nodes: models of keras.ops saved by stock Keras give its numbers here."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import layergraph
import numpy as np
import pytest
from layergraph.errors import DataError
from layergraph.ops.table import OPERATIONS
from model_oracles import compare
from oracles import assert_close, flat, keras

ops = keras.ops
X = np.random.default_rng(0).uniform(0.1, 0.9, (2, 3, 4)).astype("float32")
Y = np.random.default_rng(1).uniform(0.1, 0.9, (2, 3, 4)).astype("float32")
N = np.random.default_rng(2).integers(-3, 4, (2, 3, 4)).astype("int32")

#: Of floats x and y and integers i, all (rows, 3, 4).
Model = Callable[[Any, Any, Any], Any]
UNARY = [
    "abs absolute negative sign square isfinite isinf isnan logical_not copy stop_gradient zeros_like ones_like",
    "arccos arcsin arcsinh arctan arctanh ceil cos cosh erf exp expm1 floor log log10 log1p log2 reciprocal rsqrt",
    "sin sinh sqrt tan tanh hard_sigmoid hard_silu hard_tanh log_sigmoid relu relu6 selu sigmoid silu softplus",
    "softsign sparse_plus sparse_sigmoid tanh_shrink elu celu gelu leaky_relu softmax log_softmax",
    "ravel squeeze transpose flip",
]
INTEGER_UNARY = "abs negative sign square exp floor sin sqrt relu logical_not zeros_like"
BINARY = [
    "add subtract multiply divide true_divide floor_divide mod power arctan2 maximum minimum",
    "equal not_equal greater greater_equal less less_equal logical_and logical_or logical_xor",
]
REDUCTIONS = "sum mean max min var std logsumexp any all argmax argmin"
MODELS: dict[str, Model] = {
    **{name: lambda x, y, i, name=name: getattr(ops, name)(x) for name in " ".join(UNARY).split()},
    **{f"{name} of integers": lambda x, y, i, name=name: getattr(ops, name)(i) for name in INTEGER_UNARY.split()},
    **{name: lambda x, y, i, name=name: getattr(ops, name)(x, y) for name in " ".join(BINARY).split()},
    **{
        f"{name} and a number": lambda x, y, i, name=name: getattr(ops, name)(x, 0.5)
        for name in " ".join(BINARY).split()
    },
    **{
        f"{name} of a number": lambda x, y, i, name=name: getattr(ops, name)(2, x)
        for name in ["add", "subtract", "multiply", "divide", "power", "maximum", "less"]
    },
    **{
        f"integers {name} floats": lambda x, y, i, name=name: getattr(ops, name)(i, x)
        for name in ["add", "subtract", "multiply", "divide", "mod", "maximum", "equal", "less"]
    },
    **{
        f"integers {name} integers": lambda x, y, i, name=name: [
            getattr(ops, name)(i, i * i + 1),
            getattr(ops, name)(i, 2),
        ]
        for name in ["add", "subtract", "multiply", "divide", "floor_divide", "mod", "maximum", "equal", "less"]
    },
    **{
        f"{name} over {axis} {keepdims}": lambda x, y, i, name=name, axis=axis, keepdims=keepdims: getattr(ops, name)(
            x, axis=axis, keepdims=keepdims
        )
        for name in REDUCTIONS.split()
        for axis, keepdims in ((None, False), (1, False), (-1, True), ((1, 2), False))
        if not (name.startswith("arg") and isinstance(axis, tuple))
    },
    **{
        f"{name} of integers over steps": lambda x, y, i, name=name: getattr(ops, name)(i, axis=1)
        for name in ["sum", "mean", "max", "var", "any", "argmin"]
    },
    "convert": lambda x, y, i: [ops.convert_to_tensor(x), ops.convert_to_tensor(i, "float32", sparse=False)],
    "cast": lambda x, y, i: [ops.cast(i, "float32"), ops.cast(10 * x, "int32"), ops.cast(i, "bool")],
    "arccosh": lambda x, y, i: ops.arccosh(x + 1),
    "clip": lambda x, y, i: [ops.clip(x, 0.3, 0.6), ops.clip(i, -1, 2)],
    "where": lambda x, y, i: [ops.where(x > y, x, y), ops.where(x > 0.5, x, 0.0), ops.where(i > 0, i, 0)],
    "activations": lambda x, y, i: [
        keras.activations.relu(x, negative_slope=0.1, max_value=0.7, threshold=0.3),
        keras.activations.gelu(x, approximate=True),
        keras.activations.softmax(x, axis=1),
    ],
    "matmul": lambda x, y, i: [ops.matmul(x, ops.transpose(y, (0, 2, 1))), x @ ops.swapaxes(y, 1, 2)],
    "einsum": lambda x, y, i: [ops.einsum("btc,bsc->bts", x, y), ops.einsum("btc->bct", x)],
    "normalize": lambda x, y, i: [ops.normalize(x), ops.normalize(x, axis=1), ops.normalize(x, order=1)],
    "expand and squeeze": lambda x, y, i: [ops.expand_dims(x, 1), ops.squeeze(ops.expand_dims(x, (1, -1)), (1, -1))],
    "reshape": lambda x, y, i: [ops.reshape(x, (-1, 12)), ops.reshape(x, (-1, 2, 6))],
    "transpose": lambda x, y, i: [
        ops.transpose(x, (0, 2, 1)),
        ops.moveaxis(x, 1, 2),
        ops.flip(x, 1),
        ops.roll(x, 1, axis=1),
    ],
    "join": lambda x, y, i: [
        ops.concatenate([x, y], axis=-1),
        ops.stack([x, y], axis=1),
        ops.concatenate([x, y], axis=1),
    ],
    "split": lambda x, y, i: [*ops.split(x, 2, axis=-1), *ops.split(x, [1, 2], axis=1), *ops.unstack(x, axis=1)],
    "repeat": lambda x, y, i: [ops.repeat(x, 2, axis=1), ops.tile(x, (1, 2, 1))],
    "take": lambda x, y, i: [ops.take(x, [0, -1], axis=1), ops.take(x, 1, axis=-1)],
    "broadcast": lambda x, y, i: ops.broadcast_to(ops.mean(x, axis=0, keepdims=True), (5, 3, 4)),
    "slices": lambda x, y, i: [
        x[:, 1:],
        x[:, 0],
        x[..., -1],
        x[:, :, None, 1:3],
        x[:, -2:, ::2],
    ],
    "operators": lambda x, y, i: [
        x + 1,
        1 - x,
        x * y,
        2 / x,
        -x,
        x**2,
        2**x,
        x // 0.3,
        x % 0.3,
        abs(x - 0.5),
        (x > y) & (x < 0.8),
        (x > y) | (x < 0.2),
        (x > y) ^ (x < 0.2),
        ~(x > y),
        x >= y,
        x <= y,
    ],
}


#: In `.h5` an operation has no module; these share their class names with layers, or have options.
IN_H5 = ["add", "multiply", "softmax", "sum over 1 False", "cast", "clip", "join", "reshape", "operators", "slices"]


@pytest.mark.parametrize(("name", "ending"), [*((n, "keras") for n in MODELS), *((n, "h5") for n in IN_H5)])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_operations_give_keras_numbers(name: str, ending: str, tmp_path: Path) -> None:
    inputs = [keras.Input((3, 4)), keras.Input((3, 4)), keras.Input((3, 4), dtype="int32")]
    made = MODELS[name](*inputs)
    outputs = [*(made if isinstance(made, (list, tuple)) else [made]), *(keras.layers.Flatten()(t) for t in inputs)]
    model = keras.Model(inputs, outputs)
    path = tmp_path / f"model.{ending}"
    model.save(path)
    loaded = layergraph.load_model(path)
    expected = flat(model.predict_on_batch([X, Y, N]))
    compare(loaded, [X, Y, N], expected, 1e-5)
    for got, want in zip(loaded.outputs, expected, strict=True):
        assert got.dtype == want.dtype.name


def test_operators_make_nodes() -> None:
    inputs = [layergraph.Input((3, 4)), layergraph.Input((3, 4)), layergraph.Input((3, 4), dtype="int32")]
    others = [keras.Input((3, 4)), keras.Input((3, 4)), keras.Input((3, 4), dtype="int32")]
    for name in ("operators", "slices"):
        ours = layergraph.Model(inputs, [*MODELS[name](*inputs), inputs[2] * 1.5])
        theirs = keras.Model(others, [*MODELS[name](*others), others[2] * 1.5])
        compare(ours, [X, Y, N], theirs.predict_on_batch([X, Y, N]), 1e-5)


def test_an_array_on_the_left_makes_a_node() -> None:
    x = layergraph.Input((4,), name="x")
    model = layergraph.Model(x, np.arange(4, dtype="float32") - x)
    assert_close(model.plan().run({"x": X[:, 0]}).popitem()[1], np.arange(4, dtype="float32") - X[:, 0])


@pytest.mark.parametrize(
    "key", [np.s_[:, 2:0:-1], np.s_[..., ::-2], np.s_[:, None, 5:1:-1], np.s_[:, 1:1:-1], np.s_[:, -1]]
)
def test_subscripts_are_those_of_numpy(key: Any) -> None:
    x = layergraph.Input((3, 4), name="x")
    model = layergraph.Model(x, OPERATIONS["GetItem"](name="y")(x, key))
    assert_close(model.plan().run({"x": X})["y"], X[key])


def test_integers_divided_by_zero_are_refused() -> None:
    x = layergraph.Input((2,), dtype="int32", name="x")
    for y in (x // x, x % x):
        with pytest.raises(DataError, match="divided by zero"):
            layergraph.Model(x, y).plan().run({"x": np.array([[1, 0]], "int32")})


@pytest.mark.parametrize("name", ["operators", "slices"])
def test_stock_keras_opens_what_operators_made(name: str, tmp_path: Path) -> None:
    inputs = [layergraph.Input((3, 4)), layergraph.Input((3, 4)), layergraph.Input((3, 4), dtype="int32")]
    relu, rsqrt = (OPERATIONS[operation]()(inputs[0]) for operation in ("Relu", "Rsqrt"))
    model = layergraph.Model(inputs, [*MODELS[name](*inputs), inputs[2] * 1.5, relu, rsqrt])
    model.save(tmp_path / "model.keras")
    expected = keras.models.load_model(tmp_path / "model.keras").predict_on_batch([X, Y, N])
    compare(model, [X, Y, N], expected, 1e-5)


def test_an_operation_has_the_config_that_keras_writes() -> None:
    inputs = [keras.Input((3, 4))] * 2
    for operation in keras.Model(
        inputs[0], [ops.mean(inputs[0], axis=1), ops.zeros_like(inputs[0], "bool")]
    ).operations:
        if type(operation).__name__ in OPERATIONS:
            config = operation.get_config()
            ours = OPERATIONS[type(operation).__name__].from_config(config)
            assert ours.get_config() == config
            assert ours.keras_module == type(operation).__module__


def test_every_operation_has_a_case() -> None:
    made = set()
    for build in MODELS.values():
        inputs = [keras.Input((3, 4)), keras.Input((3, 4)), keras.Input((3, 4), dtype="int32")]
        model = keras.Model(inputs, build(*inputs))
        made |= {type(operation).__name__ for operation in model.operations}
    # Mish stands in files only as an operation that Keras writes for itself.
    assert set(OPERATIONS) - made <= {"Amax", "Amin", "Abs", "Mish", "TrueDivide"}
