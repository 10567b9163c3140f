"""Integrated gradients: closed forms, completeness, and what they can't be computed of.

The laboratory compares them with captum's (`make -C lab explanations`).
"""

from __future__ import annotations

import numpy as np
import pytest
from layergraph import Input, Model, layers, ops
from layergraph.errors import DataError, ExplanationError, ShapeError, UnknownTensorError
from layergraph.explaining.integrated_gradients import integrated_gradients
from layergraph.utils import set_random_seed

RNG = np.random.default_rng(3)


def rows(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype("float32")


def close(got, expected) -> None:
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_a_linear_model_gives_its_weights_times_the_difference():
    x = Input((3,), name="x")
    model = Model(x, layers.Dense(2)(x))
    kernel = model.get_weights()[0]
    given, baseline = rows(4, 3), rows(1, 3)
    found = integrated_gradients(model, {"x": given}, target=[1], baselines={"x": baseline}, n_steps=1)
    close(found.attributions["x"], (given - baseline) * kernel[:, 1])
    close(found.outputs, model.predict(given)[:, 1])
    close(found.baseline_outputs, np.repeat(model.predict(baseline)[:, 1], 4))
    close(found.delta, np.zeros(4))


def test_products_are_shared_between_their_factors():
    a, b = Input((2,), name="a"), Input((2,), name="b")
    model = Model([a, b], ops.sum(a * b + a * a, axis=-1))
    one, other = rows(5, 2), rows(5, 2)
    start = {"a": rows(5, 2), "b": rows(5, 2)}
    found = integrated_gradients(model, {"a": one, "b": other}, baselines=start, n_steps=2)
    means = (one + start["a"]) / 2, (other + start["b"]) / 2
    close(found.attributions["a"], (one - start["a"]) * means[1] + one**2 - start["a"] ** 2)
    close(found.attributions["b"], (other - start["b"]) * means[0])
    # An input that isn't explained keeps its value.
    alone = integrated_gradients(model, {"a": one, "b": other}, to=["b"], n_steps=2)
    close(alone.attributions["b"], one * other)
    with pytest.raises(ExplanationError, match=r"baseline 'a': got one.* depend on \['b'\] alone"):
        integrated_gradients(model, {"a": one, "b": other}, to=["b"], baselines={"a": one})


def pictures() -> tuple[Model, dict[str, np.ndarray]]:
    image = Input((7, 7, 2), name="image")
    h = layers.Conv2D(3, 3, activation="relu", name="conv")(image)
    h = layers.Dropout(0.5)(layers.BatchNormalization(name="norm")(h))
    h = layers.Dense(4, activation="softmax", name="class")(layers.Flatten()(layers.MaxPooling2D()(h)))
    return Model(image, h), {"image": rows(6, 7, 7, 2)}


def words() -> tuple[Model, dict[str, np.ndarray]]:
    ids, price = Input((None,), dtype="int32", name="ids"), Input((1,), name="price")
    shared = layers.LSTM(5, return_sequences=True, name="lstm")
    h = layers.Embedding(9, 5, mask_zero=True, name="embedding")(ids)
    h = layers.Concatenate()([layers.GlobalAveragePooling1D()(shared(shared(h))), price])
    return Model([ids, price], {"a": layers.Dense(2, name="a")(h), "b": layers.Dense(1, name="b")(h)}), {
        "ids": np.array([[1, 2, 3, 0], [4, 0, 0, 0], [5, 6, 7, 8]], "int32"),
        "price": rows(3, 1),
    }


def nested() -> tuple[Model, dict[str, np.ndarray]]:
    inner_x = Input((4,), name="inner_x")
    inner = Model(inner_x, layers.Dense(4, activation="tanh", name="dense")(inner_x), name="inner")
    x = Input((4,), name="x")
    return Model(x, layers.Dense(1, name="y")(inner(inner(x)) * x)), {"x": rows(3, 4)}


def fixed() -> tuple[Model, dict[str, np.ndarray]]:
    x = Input(batch_shape=(2, 3), name="x")
    return Model(x, layers.Dense(2, activation="tanh", name="y")(layers.Dense(4, activation="tanh", name="h")(x))), {
        "x": rows(2, 3)
    }


CASES = [
    (pictures, {"target": [[0], [1], [2], [3], [0], [1]]}),
    (pictures, {"target": [2], "to": ["norm"]}),
    (pictures, {"target": [1, 2, 0], "output": "conv"}),
    (words, {"target": [1], "output": "a", "to": ["embedding", "price"]}),
    (words, {"output": "b", "to": ["lstm:0:0"]}),
    (words, {"output": "b", "to": ["price"]}),
    (nested, {}),
    (nested, {"to": ["inner:1/dense"]}),
    (fixed, {"target": [[1], [0]]}),
    (fixed, {"target": [1], "to": ["h"]}),
]


@pytest.mark.parametrize(("make", "options"), CASES)
def test_attributions_add_up_whatever_is_computed_together(make, options):
    set_random_seed(7)
    model, inputs = make()
    found = integrated_gradients(model, inputs, **options, n_steps=40)
    names = options.get("to") or list(inputs)
    total = sum(found.attributions[name].reshape(len(found.outputs), -1).sum(1) for name in names)
    assert np.abs(total - (found.outputs - found.baseline_outputs)).max() < 5e-3
    close(found.delta, total - (found.outputs - found.baseline_outputs))
    assert any(found.attributions[name].any() for name in names)
    alone = integrated_gradients(model, inputs, **options, n_steps=40, kept_bytes=1)
    for name in names:
        close(alone.attributions[name], found.attributions[name])
    # Ends of the path are the model's own outputs, by the plan that serves.
    output = options.get("output") or model.output_names[0]
    served = model.plan([output]).run(inputs)[output]
    element = np.broadcast_to(np.array(options.get("target", [0]), int), (len(served), served.ndim - 1))
    close(found.outputs, [row[tuple(at)] for row, at in zip(served, element, strict=True)])


def test_an_inner_tensor_starts_at_what_the_baselines_give():
    set_random_seed(7)
    model, inputs = words()
    baselines = {"ids": np.array([[8, 8, 8, 8]], "int32")}
    found = integrated_gradients(model, inputs, output="b", to=["embedding"], baselines=baselines)
    table = model.get_layer("embedding").get_weights()[0]
    moved = table[inputs["ids"]] - table[8]
    # No difference, no attribution: the last row has an 8. Masks are those of the inputs.
    assert not found.attributions["embedding"][moved == 0].any()
    assert not found.attributions["embedding"][inputs["ids"] == 0].any()
    assert found.attributions["embedding"][:, 0].any()


def test_text_is_explained_by_what_is_computed_of_it():
    text = Input((1,), dtype="string", name="text")
    ids = layers.TextVectorization(vocabulary=["good", "bad"], output_sequence_length=3, name="words")(text)
    h = layers.Embedding(4, 2, name="embedding")(ids)
    model = Model(text, layers.Dense(1)(layers.Flatten()(h)))
    given = {"text": np.array([[b"good good"], [b"bad"]], object)}
    found = integrated_gradients(model, given, to=["embedding"])
    # The baseline is the empty text, whose ids are all 0, as are those after the last word.
    assert not found.attributions["embedding"][1, 1:].any()
    assert found.attributions["embedding"][0, :2].all()
    with pytest.raises(ExplanationError, match="input 'text': got string, expected floats"):
        integrated_gradients(model, given)


def test_rows_that_depend_on_one_another_are_refused():
    x = Input((3,), name="x")
    model = Model(x, x - ops.mean(x, axis=0))
    with pytest.raises(ExplanationError, match="rows depend on one another"):
        integrated_gradients(model, {"x": rows(2, 3)}, target=[0])


def test_a_tensor_without_a_gradient_is_named():
    x = Input((3,), name="x")
    model = Model(x, ops.cast(ops.argmax(x, axis=-1), "float32"))
    with pytest.raises(ExplanationError, match=r"tensor 'x': output .* has no gradient by it"):
        integrated_gradients(model, {"x": rows(2, 3)})


REFUSED = [
    ({"target": [0, 0]}, ShapeError, r"target: got shape \(2,\), expected .*\(1,\) or \(6, 1\)"),
    ({"target": [4]}, ExplanationError, r"target: got \[4\]"),
    ({"target": [-1]}, ExplanationError, "expected indices from 0"),
    ({}, ExplanationError, "target: got none"),
    ({"target": [0], "to": ["nowhere"]}, UnknownTensorError, "nowhere"),
    ({"target": [0], "to": ["norm", "norm:0:0"]}, ExplanationError, "'norm': got it under another name"),
    ({"target": [0], "output": "conv:0", "to": ["norm"]}, ExplanationError, "doesn't depend on it"),
    ({"target": [0], "baselines": {"image": rows(2, 7, 7, 2)}}, ShapeError, "baseline 'image'"),
    ({"target": [0], "baselines": {"other": rows(1, 1)}}, ExplanationError, "baseline 'other'"),
]


@pytest.mark.parametrize(("options", "error", "text"), REFUSED)
def test_what_doesnt_fit_is_refused(options, error, text):
    model, inputs = pictures()
    with pytest.raises(error, match=text):
        integrated_gradients(model, inputs, **options)


def test_inputs_are_checked():
    model, inputs = pictures()
    with pytest.raises(DataError, match="input 'image' is missing"):
        integrated_gradients(model, {}, target=[0])
    with pytest.raises(ShapeError, match="input 'image'"):
        integrated_gradients(model, {"image": inputs["image"][:, :6]}, target=[0])
    with pytest.raises(DataError, match="got no rows"):
        integrated_gradients(model, {"image": inputs["image"][:0]}, target=[0])


def test_no_gradients_are_left_on_the_weights():
    model, inputs = pictures()
    integrated_gradients(model, inputs, target=[0])
    assert all(weight.value.grad is None and not weight.value.requires_grad for weight in model.weights)
    close(model.predict(inputs["image"]), model.plan().run(inputs)["class"])
