"""The models of Triton's examples and tests, made of Keras layers. Names, shapes and dtypes are theirs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from layergraph import Input, Model, ops
from layergraph.layers import Add, Identity, Rescaling, SimpleRNN, StringLookup, Subtract

Shape = Sequence[int | None]


def add_sub(dtype: str = "int32", shape: Shape = (None, 16), *, output: str = "") -> Model:
    """Sum and difference of two inputs, perhaps as another dtype."""
    a, b = (Input(batch_shape=shape, name=f"INPUT{index}", dtype=dtype) for index in range(2))
    made = [layer([a, b]) for layer in (Add(), Subtract())]
    return Model([a, b], [_named(index, one, output or dtype) for index, one in enumerate(made)])


def sub_add() -> Model:
    """Difference and sum."""
    a, b = (Input((16,), name=f"INPUT{index}", dtype="int32") for index in range(2))
    return Model([a, b], [Subtract(name="OUTPUT0")([a, b]), Add(name="OUTPUT1")([a, b])])


def _named(index: int, tensor: Any, dtype: str) -> Any:
    return Identity(dtype=dtype, name=f"OUTPUT{index}")(ops.cast(tensor, dtype))


def add_sub_of_texts() -> Model:
    """Sum and difference of whole numbers in decimal digits."""
    words = [str(number) for number in range(-100, 101)]
    inputs = [Input((16,), name=f"INPUT{index}", dtype="string") for index in range(2)]
    # The index of a number is larger by 101: the first word is at 1.
    a, b = (StringLookup(vocabulary=words)(one) for one in inputs)
    outputs = [ops.subtract(ops.add(a, b), 101), ops.add(ops.subtract(a, b), 101)]
    return Model(
        inputs,
        [StringLookup(vocabulary=words, invert=True, name=f"OUTPUT{index}")(one) for index, one in enumerate(outputs)],
    )


def identity(dtype: str, shape: Shape, count: int = 1) -> Model:
    """As many outputs as inputs, each as its input."""
    inputs = [Input(batch_shape=shape, name=f"INPUT{index}", dtype=dtype) for index in range(count)]
    return Model(inputs, [Identity(name=f"OUTPUT{index}")(one) for index, one in enumerate(inputs)])


def affine(factor: float, offset: float) -> Model:
    """TensorFlow Serving's half_plus_two and its like."""
    x = Input(batch_shape=(None,), name="x")
    # Keras names the outputs of a signature by the keys of a dict, and otherwise by number.
    return Model(x, {"y": Rescaling(factor, offset, name="y")(x)})


def larger_at_start() -> Model:
    """A number, larger by one if it is the first of its sequence."""
    x = Input((None,), name="INPUT", dtype="int32")
    numbers = ops.expand_dims(ops.cast(x, "float32"), -1)
    # The first unit is always 1, and the second is what the first was a step before.
    units = SimpleRNN(2, activation="linear", return_sequences=True)
    before = units(numbers)[:, :, 1]
    units.set_weights([np.zeros((1, 2)), np.array([[0, 1], [0, 0]]), np.array([1, 0])])
    larger = ops.subtract(ops.add(ops.squeeze(numbers, -1), 1.0), before)
    return Model(x, Identity(dtype="int32", name="OUTPUT")(ops.cast(larger, "int32")))


def slow_identity(seconds: float) -> Model:
    """An identity that takes its time, by a layer of the plugin `peer_plugin`."""
    from peer_plugin import Delay

    x = Input((None,), name="INPUT0", dtype="int32")
    return Model(x, Delay(seconds=seconds, name="OUTPUT0")(x))


#: Of the dtypes of identities, how many axes a row has.
AXES = {"float32": 1, "float16": 2, "object": 2, "bool": 1}


def zero(dtype: str, count: int, *, rows: bool) -> Callable[[], Model]:
    """Identities of the tests with lengths of 0."""
    shape = [None] * (AXES[dtype] + rows if (dtype, count) != ("object", 1) else 1 + rows)
    return lambda: identity("string" if dtype == "object" else dtype, shape, count)


MODELS: dict[str, Callable[[], Model]] = {
    "simple": add_sub,
    "simple_int8": lambda: add_sub("int8"),
    "simple_string": add_sub_of_texts,
    "simple_identity": lambda: identity("string", (None, None)),
    "simple_identity_int64": lambda: identity("int64", (None, None)),
    "identity_fp32": lambda: identity("float32", (None, None)),
    "identity_bytes": lambda: identity("string", (None, None)),
    "string_identity": lambda: identity("string", (None,)),
    "simple_sequence": larger_at_start,
    # Whether it is the first comes as a number or as a bool there, not here.
    "onnx_sequence_int32": larger_at_start,
    "onnx_sequence_bool": larger_at_start,
    "half_plus_two": lambda: affine(0.5, 2.0),
    "half_plus_three": lambda: affine(0.5, 3.0),
    "sm_model": add_sub,
    "onnx_int32_int32_int32": add_sub,
    "addsub": add_sub,
    "subadd": sub_add,
    "input_all_required": lambda: identity("float32", (None,), 3),
    "pt_identity": lambda: identity("float32", (None, 8)),
    "onnx_int32_int8_int8": lambda: add_sub(output="int8"),
    "onnx_nobatch_int32_int8_int8": lambda: add_sub(shape=(16,), output="int8"),
    "onnx_object_int32_int32": lambda: Model(
        (made := add_sub_of_texts()).inputs,
        [_named(index, one, "int32") for index, one in enumerate(_as_numbers(made.inputs))],
    ),
    "onnx_zero_1_object_1_element": lambda: identity("string", (None, 1)),
    "onnx_zero_1_float32_queue": lambda: slow_identity(3.0),
    "custom_identity_int32": lambda: slow_identity(3.0),
    **{
        f"{kind}{'' if rows else '_nobatch'}_zero_{count}_{dtype}": zero(dtype, count, rows=rows)
        # The last three are pipelines there.
        for kind in ("onnx", "simple_zero", "sequence_zero", "fan_zero")
        for dtype in AXES
        for count in (1, 3)
        for rows in (True, False)
    },
}


#: Text of the file of settings, by model.
SETTINGS = {
    "simple_sequence": "[sequences]\n",
    **dict.fromkeys(("onnx_sequence_int32", "onnx_sequence_bool"), "[sequences]\nidle_seconds = 5.0\n"),
}


def _as_numbers(inputs: Sequence[Any]) -> list[Any]:
    words = [str(number) for number in range(-100, 101)]
    a, b = (StringLookup(vocabulary=words)(one) for one in inputs)
    return [ops.subtract(ops.add(a, b), 202), ops.subtract(a, b)]


def put(names: Sequence[str], folder: Path) -> None:
    """Writes version 1 of models, and their settings, into a repository."""
    for name in names:
        save(name, folder / name / "1" / "model.keras")
        if name in SETTINGS:
            (folder / name / "layerserve.toml").write_text(SETTINGS[name])


def save(name: str, path: Path) -> None:
    """Writes a model as a file, in a folder of its own."""
    path.parent.mkdir(parents=True)
    MODELS[name]().save(path)
