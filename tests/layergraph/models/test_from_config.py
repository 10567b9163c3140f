"""Building a model from a spec that no file reader has checked: unknown classes and options are refused, too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from layergraph import Input, Model, layers
from layergraph.config.keras_versions import KERAS3
from layergraph.config.spec import CallSpec, GraphSpec, LayerSpec, TensorRef
from layergraph.errors import ConfigError, CorruptFileError, DataError, GraphError, UnsupportedModelError
from layergraph.functional.call_key import CallCache
from layergraph.functional.shard import Shard
from layergraph.functional.stored_form import _same
from layergraph.functional.strings import Strings
from layergraph.models.from_config import rebuild

X = LayerSpec("x", "InputLayer", {"name": "x", "batch_shape": [None, 3], "dtype": "float32"}, (CallSpec(()),))


def graph(kind: str, call: CallSpec | None = None, **config: Any) -> GraphSpec:
    call = call or CallSpec((TensorRef("x", 0, 0),))
    layer = LayerSpec("a", kind, {"name": "a", **config}, (call,))
    return GraphSpec("m", (X, layer), [TensorRef("x", 0, 0)], [TensorRef("a", 0, 0)])


def test_a_spec_becomes_its_model() -> None:
    model = rebuild(graph("Dense", units=2), KERAS3.ignores).model
    assert (model.name, model.input_shape, model.output_shape) == ("m", (None, 3), (None, 2))


@pytest.mark.parametrize(
    ("spec", "error", "text"),
    [
        (graph("Frobnicate"), ConfigError, "layer 'a': class 'Frobnicate' is not supported"),
        (graph("Dense", units=2, colour=1), ConfigError, r"layer 'a' \(Dense\): option 'colour' is not supported"),
        (graph("Dense", units=-2), ConfigError, "option 'units' is -2, expected a positive integer"),
        (
            graph("Concatenate", CallSpec(([TensorRef("x", 0, 0), "text"],))),
            GraphError,
            "layer 'a'",
        ),
        (graph("Dense", CallSpec((TensorRef("x", 0, 7),)), units=2), GraphError, "there is no output 7 of call 0"),
    ],
)
def test_what_is_not_known_is_refused(spec: GraphSpec, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        rebuild(spec, KERAS3.ignores)


@pytest.mark.parametrize(
    ("layer", "changed", "error", "text"),
    [
        (1, {"class_name": "Frobnicate"}, UnsupportedModelError, "class 'Frobnicate' is not supported"),
        (1, {"config": {"name": "a", "units": -2}}, UnsupportedModelError, "option 'units' is -2"),
        (1, {"class_name": "CategoryEncoding", "config": {"name": "a"}}, UnsupportedModelError, "num_tokens"),
        (0, {"config": {"name": "x", "batch_shape": [None]}}, CorruptFileError, "layer 'a' "),
        (1, {"inbound_nodes": []}, CorruptFileError, "there is no output 0 of call 0"),
    ],
)
def test_a_config_that_makes_no_model_is_refused(
    layer: int, changed: dict[str, Any], error: type[Exception], text: str
) -> None:
    x = Input((3,), name="x")
    config = Model(x, layers.Dense(2, name="a")(x)).get_config()
    config["layers"][layer].update(changed)
    with pytest.raises(error, match=text):
        Model.from_config(config)


def test_the_latest_results_are_kept() -> None:
    memory: CallCache[int] = CallCache(2)
    for number, key in enumerate("abc"):
        memory.keep(key, number)
    assert [memory.get(key) for key in "abc"] == [None, 1, 2]
    memory.keep(None, 5)
    assert memory.get(None) is None
    assert memory.get("b") == 1


def test_rows_of_a_worker_go_so_often_into_an_axis() -> None:
    shard = Shard(1, (0, 2, 6))
    assert shard.chosen(slice(10, 16)) == slice(12, 16)
    assert shard.chosen(torch.tensor([5, 3, 1, 0, 2, 4])).tolist() == [1, 0, 2, 4]
    assert (shard.rows, shard.count, shard.total) == (slice(2, 6), 4, 6)
    assert [shard.per_row(length) for length in (4, 12)] == [1, 3]
    with pytest.raises(GraphError, match="first axis of length 6 can't be split by row: the worker has 4 rows"):
        shard.per_row(6)
    assert Shard.of(7, 1, 3) == Shard(1, (0, 2, 4, 7))
    assert Shard.of(3, 0, 3) == Shard(0, (0, 1, 2, 3))
    assert Shard.of(2, 0, 3) is None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (np.ones(2), [1.0, 1.0], True),
        (np.ones(2), np.array([1.0, 2.0]), False),
        ({"a": [1, (2, 3)]}, {"a": [1, [2, 3]]}, True),
        ({"a": 1}, {"b": 1}, False),
        ([1, 2], [1, 2, 3], False),
        (1, 1.0, True),
        ("a", "b", False),
        ({"a": 1}, [1], False),
        ([1], 1, False),
    ],
)
def test_forms_of_a_file_are_compared_by_what_they_say(one: Any, other: Any, same: bool) -> None:
    assert _same(one, other) is same
    assert _same(other, one) is same


def test_text_is_text_that_has_bytes() -> None:
    assert Strings.of(np.array(["ä", b"b"], object)).values.tolist() == ["ä".encode(), b"b"]
    with pytest.raises(DataError, match="input 'x': got text that can't be encoded as UTF-8"):
        Strings.of(np.array(["\ud800"], object), "input 'x'")
    with pytest.raises(DataError, match="got an element of type int, expected text or bytes"):
        Strings.of(np.array([1], object))
    with pytest.raises(DataError, match="but only its shape is known"):
        _ = Strings((2,)).values


def test_masks_of_a_model_are_as_many_as_its_inputs() -> None:
    a, b = Input((3, 4), name="a"), Input((3, 4), name="b")
    inner = Model([a, b], layers.Concatenate()([a, b]), name="inner")
    given = torch.ones(2, 3, dtype=torch.bool)
    x = np.ones((2, 3, 4), "float32")
    with pytest.raises(GraphError, match="model 'inner': got 1 masks, expected 2"):
        inner([x, x], mask=[given])


def test_tensors_of_a_call_are_written_by_position_and_all_else_by_name() -> None:
    """As in Keras: tensors are positional, since later releases may rename arguments."""
    x = Input((3, 4), name="x")
    attended = layers.MultiHeadAttention(2, 3, name="a")(x, x, use_causal_mask=True)
    _, node = (layer["inbound_nodes"] for layer in Model(x, attended).get_config()["layers"])
    assert [each["class_name"] for each in node[0]["args"]] == ["__keras_tensor__"] * 2
    assert node[0]["kwargs"] == {"use_causal_mask": True}
    recurrent = layers.GRU(2, name="g")
    mask = Input((3,), dtype="bool", name="mask")
    config = Model([x, mask], recurrent(x, None, mask)).get_config()
    (call,) = next(layer["inbound_nodes"] for layer in config["layers"] if layer["name"] == "g")
    assert [each["class_name"] for each in call["args"]] == ["__keras_tensor__"]
    assert [name for name, value in call["kwargs"].items() if isinstance(value, dict)] == ["mask"]
