"""Models of stock Keras and files of tf.keras 2.15 that loading and saving are tested with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import layergraph
import numpy as np
from oracles import assert_close

FIXTURES = Path(__file__).parents[1] / "fixtures" / "keras2"


def numbered(arrays: Any, what: str) -> list[np.ndarray]:
    return [arrays[f"{what}_{i}"] for i in range(sum(name.startswith(f"{what}_") for name in arrays))]


def check_fixture(path: Path, tolerance: float = 1e-5) -> layergraph.Model:
    """Loads a file; its outputs must be those that the `.npz` beside it has for its inputs. Returns the model."""
    model = layergraph.load_model(path)
    with np.load(path.with_suffix(".npz")) as arrays:
        inputs, expected = numbered(arrays, "input"), numbered(arrays, "output")
    result = model.plan().run(dict(zip(model.input_names, inputs, strict=True)))
    assert len(result) == len(expected)
    for got, want in zip(result.values(), expected, strict=True):
        assert_close(got, want, tolerance)
    return model


def masked() -> keras.Model:
    """Every way in which Keras 3 writes a mask into a file as a node."""
    make = keras.layers
    ids, x = keras.Input((5,), dtype="int32", name="ids"), keras.Input((5, 4), name="x")
    embedded, other = make.Embedding(9, 4, mask_zero=True)(ids), make.Embedding(9, 4, mask_zero=True)(ids)
    sequences = [
        embedded,
        make.Masking(0.5)(x),
        make.Add()([embedded, other]),
        make.Add()([embedded, x]),
        make.Concatenate()([embedded, other]),
        make.Concatenate()([embedded, x]),
        make.Concatenate(axis=1)([embedded, x]),
        make.TimeDistributed(make.Dense(3))(embedded),
        make.Bidirectional(make.LSTM(3, return_sequences=True))(embedded),
        keras.Sequential([make.Dense(3), make.Dropout(0.5)])(embedded),
    ]
    inner_in = keras.Input((5, 4))
    inner = keras.Model(inner_in, make.LSTM(2)(inner_in))
    outputs = [make.LSTM(2)(s) for s in sequences] + [inner(embedded), make.GlobalAveragePooling1D()(embedded)]
    return keras.Model([ids, x], outputs)


def nested() -> keras.Model:
    """Models in models, called several times, also as outputs; states as arguments; dicts in and out."""
    make = keras.layers
    a, b = keras.Input((4,), name="a"), keras.Input((3, 4), name="b")
    inner_in = keras.Input((4,))
    inner = keras.Model(inner_in, make.BatchNormalization()(make.Dense(4, activation="tanh")(inner_in)), name="inner")
    stack = keras.Sequential([make.Dense(4), make.Dense(4, use_bias=False)], name="stack")
    outer_in = keras.Input((4,))
    outer = keras.Model(outer_in, [inner(stack(outer_in)), stack(inner(outer_in))], name="outer")
    first, second = outer(a)
    states = make.LSTM(4, return_state=True)(b)
    last = make.LSTM(4)(b, initial_state=states[1:])
    return keras.Model(
        {"b": b, "a": a},
        {"z": inner(inner(first)), "y": second, "x": make.TimeDistributed(inner)(b), "w": last, "v": stack(last)},
    )


def frozen() -> keras.Model:
    """Legacy files order the weights of a nested model by what is trainable."""
    make = keras.layers
    x = keras.Input((4,))
    y = make.BatchNormalization()(make.Dense(4, name="fixed")(x))
    inner = keras.Model(x, make.BatchNormalization()(make.Dense(4)(y)))
    inner.get_layer("fixed").trainable = False
    top = keras.Input((4,))
    return keras.Model(top, make.Dense(3)(inner(top)))


def images() -> keras.Model:
    make = keras.layers
    image = keras.Input((9, 8, 3))
    x = make.Conv2D(4, 3, padding="same", activation="relu", kernel_regularizer="l2")(image)
    y = make.MaxPooling2D(2, padding="same")(make.BatchNormalization()(make.add([x, make.Conv2D(4, 1)(x)])))
    return keras.Model(image, make.Dense(3, activation="softmax")(make.Flatten()(y)))


def halves() -> keras.Model:
    """Weights in a type of their own."""
    x = keras.Input((4,))
    return keras.Model(x, keras.layers.Dense(3, dtype="bfloat16")(keras.layers.Dense(4, dtype="float64")(x)))


#: Keras warns where a mask ends; the graphs here let some end on purpose.
ENDING_MASKS = "ignore:Layer .* was passed an input with a mask attached to it"


def predict(model: keras.Model, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Outputs in flat order for inputs in flat order."""
    # A Sequential has no `input` in Keras before it is called.
    nested = arrays[0] if isinstance(model, keras.Sequential) else keras.tree.pack_sequence_as(model.input, arrays)
    return list(keras.tree.flatten(model.predict_on_batch(nested)))


MODELS = [masked, nested, frozen, images]


def example(model: keras.Model) -> list[np.ndarray]:
    random = np.random.default_rng(5)
    arrays = []
    for tensor in model.inputs:
        shape = [3 if length is None else length for length in tensor.shape]
        ids = random.integers(0, 3, shape).astype("int32")
        values = random.standard_normal(shape).astype("float32")
        if values.ndim == 3:
            values[0, -2:] = 0.5
        arrays.append(ids if tensor.dtype == "int32" else values)
    return arrays
