from __future__ import annotations

import pytest
from layerserve import LayerNode, LayerNodes, LayerNotFound, NodeTensor


@pytest.fixture
def shapes(client):
    return client.node_shapes("shared")


def test_layers_come_by_path_in_the_models_order(shapes):
    assert (shapes.model, shapes.version, list(shapes)) == ("shared", 1, ["a", "conv", "add", "unused"])
    conv = shapes["conv"]
    assert (conv.path, conv.name, conv.class_name, conv.parameter_count, conv.trainable) == (
        "conv",
        "conv",
        "Conv2D",
        112,
        True,
    )


def test_each_call_has_its_shapes(shapes):
    conv = shapes["conv"]
    assert conv.input_shape_at(0) == (None, 8, 8, 3)
    assert conv.input_shape_at(1) == (None, 16, 16, 3)
    assert conv.output_shape_at(1) == (None, 16, 16, 4)


def test_each_call_says_where_its_tensors_come_from(shapes):
    taken = shapes["conv"].input_at(1)
    assert (taken.layer, taken.node_index, taken.tensor_index, taken.dtype, taken.argument, taken.masked) == (
        "b",
        0,
        0,
        "float32",
        "inputs",
        False,
    )
    assert shapes["conv"].output_at(1).node_index == 1


def test_a_graph_arrives_as_it_is(client, server):
    inputs = (NodeTensor("lstm", 1, 2, (None, 3), "float16", "initial_state[1]", masked=True),)
    outputs = (NodeTensor("in/out", 4, 5, (2, None), "int32", "", masked=False),)
    layer = LayerNodes("in/out", "out", "Model", (LayerNode(4, inputs, outputs),), 7, False, nested_outputs=inputs)
    server.add_model("graph", lambda a: {}, [], [], layers=[layer])
    assert list(client.node_shapes("graph").values()) == [layer]


def test_several_tensors_give_lists_and_none_gives_an_empty_one(shapes):
    add = shapes["add"]
    assert add.input_shape_at(0) == [(None, 8, 8, 4), (None, 8, 8, 4)]
    assert [tensor.argument for tensor in add.input] == ["inputs[0]", "inputs[1]"]
    assert add.input_shape == [(None, 8, 8, 4), (None, 8, 8, 4)]
    assert shapes["a"].input_shape_at(0) == []
    assert shapes["a"].output_shape == (None, 8, 8, 3)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("input", r"use input_at\(node_index\) instead"),
        ("output", r"use output_at\(node_index\) instead"),
        ("input_shape", r"different input shapes.*use input_shape_at\(node_index\) instead"),
        ("output_shape", r"different output shapes.*use output_shape_at\(node_index\) instead"),
    ],
)
def test_what_is_ill_defined_is_an_attribute_error_that_says_what_to_call(shapes, name, hint):
    with pytest.raises(AttributeError, match=f"'conv' has 2 inbound nodes.*ill-defined; {hint}|{hint}"):
        getattr(shapes["conv"], name)
    assert not hasattr(shapes["conv"], name)


@pytest.mark.parametrize("name", ["input", "output", "input_shape", "output_shape"])
def test_a_layer_that_was_never_called_has_none(shapes, name):
    with pytest.raises(AttributeError, match="'unused' has never been called"):
        getattr(shapes["unused"], name)


@pytest.mark.parametrize("index", [2, -1])
@pytest.mark.parametrize("method", ["input_at", "output_at", "input_shape_at", "output_shape_at"])
def test_a_call_that_was_not_is_a_value_error(shapes, method, index):
    with pytest.raises(ValueError, match=rf"'conv': asked for the .* at node {index}, expected a number below 2"):
        getattr(shapes["conv"], method)(index)


def test_some_layers_may_be_asked_for(client):
    assert list(client.node_shapes("shared", ["add", "a"])) == ["add", "a"]
    with pytest.raises(LayerNotFound, match="'nope'"):
        client.node_shapes("shared", ["nope"])


def test_a_wrong_path_names_the_near_ones(shapes):
    with pytest.raises(LayerNotFound, match="unknown layer 'convv'; did you mean 'conv'"):
        shapes["convv"]
    assert "convv" not in shapes
    assert shapes.get("convv") is None
