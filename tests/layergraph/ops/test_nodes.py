"""Operations as nodes: models with keras.ops, saved by stock Keras, have its numbers here."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import layergraph
import numpy as np
import pytest
from layergraph.errors import DataError
from layergraph.ops.table import OPERATIONS
from model_oracles import compare
from operation_cases import FAMILIES
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
    "normalize": lambda x, y, i: [
        ops.normalize(x),
        ops.normalize(x, axis=1),
        ops.normalize(x, axis=[]),
        ops.normalize(x, order=1),
    ],
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


def more(x: Any, y: Any, i: Any) -> dict[str, Any]:
    """Outputs of more operations, by name; all in a few models, for speed."""
    j = ops.abs(i) + 1
    image, square = (
        ops.expand_dims(x, -1),
        ops.matmul(ops.transpose(x, (0, 2, 1)), x) + ops.reshape(ops.eye(4), (1, 4, 4)),
    )
    colours = ops.stack([image[..., 0], ops.expand_dims(y, -1)[..., 0], image[..., 0] * 0.5], axis=-1)
    wide = ops.reshape(x, (-1, 4, 3))
    rounds = "round trunc cbrt exp2 deg2rad rad2deg real conj conjugate angle sinc signbit i0 isposinf isneginf isreal"
    made = {name: getattr(ops, name)(x) for name in f"{rounds} fabs erfc".split() if hasattr(ops, name)}
    pairs = "hypot logaddexp logaddexp2 heaviside fmax fmin fmod nextafter divide_no_nan isclose ldexp"
    made |= {name: getattr(ops, name)(x, i if name == "ldexp" else y) for name in pairs.split() if hasattr(ops, name)}
    bits = "bitwise_and bitwise_or bitwise_xor gcd lcm left_shift right_shift bitwise_left_shift bitwise_right_shift"
    made |= {name: getattr(ops, name)(j, j * 2 if "shift" not in name else j) for name in bits.split()}
    made |= {"bitwise_not": ops.bitwise_not(i), "bitwise_invert": ops.bitwise_invert(i), "erfinv": ops.erfinv(x)}
    made |= {"nan_to_num": ops.nan_to_num(x / 0.0), "full_like": ops.full_like(x, 2), "round2": ops.round(x, 2)}
    made |= {
        name: getattr(ops, name)(x) for name in ["soft_shrink", "hard_shrink", "squareplus", "glu", "sparsemax"]
    } | {"threshold": ops.threshold(x, 0.5, 2.0)}
    for name in [
        "prod",
        "median",
        "nanmax",
        "nanmean",
        "nanmedian",
        "nanmin",
        "nanprod",
        "nanstd",
        "nansum",
        "nanvar",
        "ptp",
        "nanargmax",
        "nanargmin",
    ]:
        if hasattr(ops, name):
            made |= {f"{name}_all": getattr(ops, name)(x), f"{name}_1": getattr(ops, name)(x, axis=1)}
    for name in ["quantile", "percentile", "nanquantile", "nanpercentile"]:
        if hasattr(ops, name):
            made[name] = getattr(ops, name)(x, np.array(0.3), axis=1)
            made[f"{name}_k"] = getattr(ops, name)(x, np.array([0.2, 0.4]), axis=-1, keepdims=True)
    made |= {
        "average": ops.average(x, axis=1),
        "average_w": ops.average(x, axis=-1, weights=np.array([0.1, 0.2, 0.3, 0.4])),
    }
    for name in ["cumsum", "cumprod", "nancumsum", "nancumprod"]:
        if hasattr(ops, name):
            made |= {name: getattr(ops, name)(x, axis=1), f"{name}_i": getattr(ops, name)(i, axis=-1)}
    made |= {"sort": ops.sort(x, axis=1), "argsort": ops.argsort(x)}
    values, indices = ops.top_k(x, 2)
    made |= {
        "top_k": values,
        "top_k_i": indices,
        "diff": ops.diff(x, axis=1),
        "digitize": ops.digitize(x, np.array([0.2, 0.5])),
    }
    made |= {
        "in_top_k": ops.in_top_k(j[:, 0, 0] % 4, x[:, 0], 2),
        "searchsorted": ops.searchsorted(ops.arange(5), ops.ravel(i)),
    }
    made["trapezoid"] = ops.trapezoid(x, dx=0.5) if hasattr(ops, "trapezoid") else x
    made |= {f"pad_{mode}": ops.pad(x, ((0, 0), (1, 2), (2, 1)), mode) for mode in ("constant", "reflect")}
    made |= {"pad_v": ops.pad(x, ((0, 0), (1, 0), (0, 0)), "constant", 2.0), "rot90": ops.rot90(x, axes=(1, 2))}
    made |= {"append": ops.append(x, y, axis=1), "diagonal": ops.diagonal(x, axis1=1, axis2=2), "tril": ops.tril(x)}
    made |= {"trace": ops.trace(x, axis1=1, axis2=2), "triu": ops.triu(x, 1), "hstack": ops.hstack([x, y])}
    made |= {"vstack": ops.vstack([x, y]), "dstack": ops.dstack([x, y]), "diag": ops.diag(x[:, 0])}
    for name, parts in {"hsplit": 3, "array_split": 2, "dsplit": 2}.items():
        if hasattr(ops, name):
            split = getattr(ops, name)(x, parts, axis=1) if name == "array_split" else getattr(ops, name)(x, parts)
            made |= {f"{name}_{k}": part for k, part in enumerate(split)}
    if hasattr(ops, "fliplr"):
        made |= {"fliplr": ops.fliplr(x), "flipud": ops.flipud(x)}
    made |= {"take_along": ops.take_along_axis(x, i % 3, axis=1), "one_hot": ops.one_hot(j, 5)}
    made |= {f"meshgrid_{k}": grid for k, grid in enumerate(ops.meshgrid(x[0, 0], y[0, 0]))}
    made |= {"slice": ops.slice(x, (0, 1, 1), (2, 2, 2)), "update": ops.slice_update(x, (0, 1, 0), y[:, :1])}
    if hasattr(ops, "depth_to_space"):
        made["depth_to_space"] = ops.depth_to_space(ops.expand_dims(x, 1), 2)
        made["space_to_depth"] = ops.space_to_depth(ops.reshape(x, (-1, 2, 6, 1)), 2)
    made |= {
        "dot": ops.dot(x, ops.transpose(y[0])),
        "inner": ops.inner(x[0], y[0]),
        "outer": ops.outer(x[0, 0], y[0, 0]),
    }
    made |= {
        "vdot": ops.vdot(x[0, 0], y[0, 0]),
        "tensordot": ops.tensordot(x[0], ops.transpose(y[0]), axes=1),
    }
    made |= {"norm": ops.norm(x, axis=-1), "norm_1": ops.norm(x, ord=1, axis=1, keepdims=True), "det": ops.det(square)}
    made |= {"cholesky": ops.cholesky(square), "inv": ops.inv(square), "solve": ops.solve(square, wide[..., :1] + 0.0)}
    made |= {"triangular": ops.solve_triangular(square, wide), "logdet": ops.logdet(square)}
    pools = {"max_pool": {"pool_size": 2}, "average_pool": {"pool_size": 2, "strides": 1}}
    pools |= {"adaptive_max_pool": {"output_size": (2,)}, "adaptive_average_pool": {"output_size": (2,)}}
    for name, options in pools.items():
        if hasattr(ops, name):
            made[name] = getattr(ops, name)(x, **options)
            if "adaptive" not in name:
                made[f"{name}_2"] = getattr(ops, name)(image, **options)
    kernel = np.random.default_rng(4).standard_normal((2, 2, 1, 3)).astype("float32")
    made |= {"conv": ops.conv(image, kernel, padding="same"), "depthwise": ops.depthwise_conv(image, kernel)}
    mean, variance = ops.moments(x, axes=[1])
    made |= {"mean": mean, "variance": variance}
    made |= {"layer_norm": ops.layer_normalization(x), "rms": ops.rms_normalization(x)}
    made |= {"bce": ops.binary_crossentropy(x, y), "bce_l": ops.binary_crossentropy(x, y, from_logits=True)}
    made |= {"cce": ops.categorical_crossentropy(x, y), "cce_l": ops.categorical_crossentropy(x, y, from_logits=True)}
    made["scce"] = ops.sparse_categorical_crossentropy(j[..., 0] % 4, y)
    heads = ops.expand_dims(x, 2)
    made |= {"attention": ops.dot_product_attention(heads, heads, heads + 1)}
    made["causal"] = ops.dot_product_attention(heads, heads, heads + 1, is_causal=True)
    made |= {"resize": ops.image.resize(image, (5, 3)), "grey": ops.image.rgb_to_grayscale(colours)}
    made |= {"hsv": ops.image.rgb_to_hsv(colours), "rgb": ops.image.hsv_to_rgb(colours)}
    made |= {
        "pad_images": ops.image.pad_images(image, 1, 2, 3, 0),
        "crop_images": ops.image.crop_images(image, 1, 0, 0, 2),
    }
    made["patches"] = ops.image.extract_patches(colours, (2, 2), padding="valid")
    return {name: value for name, value in made.items() if not isinstance(value, np.ndarray)}


#: In `.h5` an operation has no module; these share their class names with layers, or have options.
IN_H5 = ["add", "multiply", "softmax", "sum over 1 False", "cast", "clip", "join", "reshape", "operators", "slices"]
PARTS = 12


def compare_all(made: Callable[..., dict[str, Any]], path: Path) -> None:
    """Compares the named outputs of one model, saved by stock Keras."""
    inputs = [keras.Input((3, 4)), keras.Input((3, 4)), keras.Input((3, 4), dtype="int32")]
    outputs = {name: flat(value) for name, value in made(*inputs).items()}
    outputs["inputs"] = [keras.layers.Flatten()(tensor) for tensor in inputs]
    model = keras.Model(inputs, [output for each in outputs.values() for output in each])
    expected = flat(model.predict_on_batch([X, Y, N]))
    model.save(path)
    loaded = layergraph.load_model(path)
    results = loaded.plan().run(dict(zip(loaded.input_names, [X, Y, N], strict=True)))
    names = [name for name, each in outputs.items() for _ in each]
    wrong = {}
    for name, got, want, spec in zip(names, results.values(), expected, loaded.outputs, strict=True):
        same = got.shape == want.shape and np.allclose(got, want, 1e-5, 1e-5, equal_nan=True)
        if not same or (name in MODELS and spec.dtype != want.dtype.name):
            wrong[name] = (got, want, spec)
    assert not wrong


@pytest.mark.parametrize("part", range(PARTS))
def test_operations_give_keras_numbers(part: int, tmp_path: Path) -> None:
    """Some in each model, for speed."""
    compare_all(lambda *inputs: {name: MODELS[name](*inputs) for name in [*MODELS][part::PARTS]}, tmp_path / "m.keras")


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_operations_in_an_h5_give_keras_numbers(tmp_path: Path) -> None:
    compare_all(lambda *inputs: {name: MODELS[name](*inputs) for name in IN_H5}, tmp_path / "m.h5")


@pytest.mark.parametrize("part", range(3))
def test_further_operations_give_keras_numbers(part: int, tmp_path: Path) -> None:
    compare_all(lambda *inputs: dict(sorted(more(*inputs).items())[part::3]), tmp_path / "m.keras")


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
        with pytest.raises(DataError, match="division by zero"):
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
    model = keras.Model(inputs[0], [ops.mean(inputs[0], axis=1), ops.zeros_like(inputs[0], "bool")])
    operations = [operation for operation in model.operations if not isinstance(operation, keras.layers.InputLayer)]
    assert sorted(type(operation).__name__ for operation in operations) == ["Mean", "ZerosLike"]
    for operation in operations:
        config = operation.get_config()
        ours = OPERATIONS[type(operation).__name__].from_config(config)
        assert ours.get_config() == config
        assert ours.keras_module == type(operation).__module__


#: Operations that Keras on torch can't compute as nodes; test_ops_families has their tests.
ELSEWHERE = {"ConvTranspose", "CountNonzero", "Cross", "FakeQuantWithMinMaxVars", "Histogram", "Nonzero"}
#: Mish stands in files only as an operation that Keras writes for itself; the others are other names of operations, or
#: those of tf.shape and its like, which the fixtures of TensorFlow prove.
OTHER_NAMES = {"Abs", "Amax", "Amin", "Arange", "Conj", "Full", "Mish", "Ndim", "Size", "TrueDivide"}


@pytest.mark.filterwarnings("ignore:You passed `rms_scaling=True`")
def test_every_operation_has_a_case() -> None:
    builders = [*MODELS.values(), lambda x, y, i: list(more(x, y, i).values())]
    builders += [case for family in FAMILIES.values() for case in family(ops).values()]
    made = set()
    for build in builders:
        inputs = [keras.Input((3, 4)), keras.Input((3, 4)), keras.Input((3, 4), dtype="int32")]
        model = keras.Model(inputs, build(*inputs))
        made |= {type(operation).__name__ for operation in model.operations}
    ours = {name for name in OPERATIONS if not name.startswith("tf>")}
    assert sorted(ours - made - ELSEWHERE - OTHER_NAMES) == []


#: Operations that take functions, and random ones, whose results can't be compared.
REFUSED = {"AssociativeScan", "Cond", "ForiLoop", "JVP", "Map", "Scan", "Switch", "VectorizedMap", "WhileLoop"} | {
    "ElasticTransform"
}


def test_every_operation_of_keras_is_known_or_refused() -> None:
    found = set()
    for module in ("core", "einops", "image", "linalg", "math", "nn", "numpy"):
        members = vars(importlib.import_module(f"keras.src.ops.{module}"))
        found |= {
            name
            for name, item in members.items()
            if isinstance(item, type)
            and issubclass(item, keras.Operation)
            and item.__module__ == f"keras.src.ops.{module}"
        }
    assert sorted(found - set(OPERATIONS) - REFUSED) == ["SegmentReduction"]
    assert not REFUSED & set(OPERATIONS)
