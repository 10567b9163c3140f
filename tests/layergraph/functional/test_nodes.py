"""Nodes: calls of a layer, and the methods that describe them."""

import numpy as np
import pytest
import torch
from layergraph import Input, Model
from layergraph.errors import ConfigError, DataError, GraphError, UnknownTensorError
from layergraph.layers import BatchNormalization, Concatenate, Dense, Embedding, Flatten, Masking
from layergraph.models.model import MAX_PLANS


def two_calls() -> tuple[Dense, object, object]:
    shared = Dense(2, name="shared")
    return shared, shared(Input((4,), name="a")), shared(Input((4,), name="b"))


def test_a_layer_called_once_has_an_output() -> None:
    layer, given = Dense(2), Input((4,))
    made = layer(given)
    assert (layer.input, layer.output) == (given, made)
    assert made.ndim == 2
    assert (layer.input_shape, layer.output_shape) == ((None, 4), (None, 2))


def test_a_name_is_unicode() -> None:
    """It is in replies of servers and in files."""
    for make in (lambda name: Dense(2, name=name), lambda name: Input((4,), name=name)):
        with pytest.raises(ConfigError, match=r"option 'name' is '\\ud800', expected Unicode text"):
            make("\ud800")


def test_a_layer_called_twice_has_no_single_output() -> None:
    shared, first, second = two_calls()
    with pytest.raises(AttributeError, match=r"multiple inbound nodes.*\"layer output\" is ill-defined.*get_output_at"):
        _ = shared.output
    with pytest.raises(AttributeError, match=r"\"layer input\" is ill-defined.*get_input_at"):
        _ = shared.input
    assert shared.get_output_at(0) is first
    assert shared.get_output_at(1) is second
    assert shared.output_shape == (None, 2), "equal shapes have one answer"


def test_shapes_that_differ_have_no_single_answer() -> None:
    layer = Dense(2)
    layer(Input((4,)))
    layer(Input((7, 4)))
    with pytest.raises(AttributeError, match=r"different input shapes.*get_input_shape_at"):
        _ = layer.input_shape
    assert layer.get_input_shape_at(1) == (None, 7, 4)
    assert layer.get_output_shape_at(1) == (None, 7, 2)


def test_a_layer_never_called_has_neither() -> None:
    with pytest.raises(AttributeError, match="never been called"):
        _ = Dense(2).output
    with pytest.raises(ValueError, match="has only 2 inbound nodes"):
        two_calls()[0].get_output_at(2)


@pytest.fixture(name="nested")
def nested_model() -> Model:
    """outer: x -> a/b (a model) -> Dense 'head' on both of its calls."""
    entry = Input((4,), name="entry")
    inner = Model(entry, Dense(3, name="deep/er")(Dense(4, name="first")(entry)), name="a/b")
    x, y = Input((4,), name="x"), Input((4,), name="y")
    head = Dense(2, name="head:1")
    return Model([x, y], [head(inner(x)), head(inner(y))], name="outer")


def test_any_tensor_has_an_address(nested: Model) -> None:
    data = {"x": np.ones((2, 4), "float32"), "y": np.zeros((2, 4), "float32")}
    plan = nested.plan(["a/b:1", "a/b:0/deep/er", "head:1:0", "x"])
    result = plan.run(data)
    inner = nested.get_layer("a/b")
    np.testing.assert_allclose(result["a/b:1"], inner(data["y"]).detach().numpy(), rtol=1e-6)
    np.testing.assert_allclose(result["a/b:0/deep/er"], inner(data["x"]).detach().numpy(), rtol=1e-6)
    np.testing.assert_array_equal(result["x"], data["x"])


def test_only_what_is_asked_for_is_computed(nested: Model) -> None:
    plan = nested.plan(["a/b:1/first"])
    assert [step.call.layer.name for step in plan.steps] == ["first"]
    assert [spec.name for spec in plan.input_specs] == ["y"]


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("nowhere", "unknown tensor 'nowhere'"),
        ("head:1", "has 2 nodes; expected one of \\['head:1:0', 'head:1:1'\\]"),
        ("head:1:7", "layer 'head:1' has no node 7, expected a number below 2"),
        ("head:1:0:3", "the node has no output 3, expected a number below 1"),
        ("a/b/first", "has 2 nodes"),
        ("a/b:0/", "unknown tensor"),
        ("", "unknown tensor"),
    ],
)
def test_a_wrong_address_is_refused(nested: Model, address: str, text: str) -> None:
    with pytest.raises(UnknownTensorError, match=text):
        nested.plan([address])


def test_outputs_of_one_layer_get_names_of_their_own(nested: Model) -> None:
    assert nested.output_names == ["head:1:0:0", "head:1:1:0"]
    assert [spec.shape for spec in nested.output_specs] == [(None, 2), (None, 2)]


def test_the_node_table_says_where_each_tensor_comes_from(nested: Model) -> None:
    rows = {row.path: row for row in nested.node_table()}
    head = rows["head:1"]
    assert [[(t.layer, t.node_index, t.shape) for t in node.inputs] for node in head.nodes] == [
        [("a/b", 0, (None, 3))],
        [("a/b", 1, (None, 3))],
    ]
    assert rows["a/b/deep/er"].nodes[0].inputs[0].layer == "a/b/first"
    assert [(t.layer, t.node_index, t.shape) for t in rows["a/b"].nested_outputs] == [("a/b/deep/er", 0, (None, 3))]
    assert head.nested_outputs == ()
    assert [(t.layer, t.node_index, t.tensor_index) for t in nested.output_nodes()] == [
        ("head:1", 0, 0),
        ("head:1", 1, 0),
    ]
    assert rows["a/b"].class_name == "Functional"
    assert rows["a/b"].parameter_count == 4 * 4 + 4 + 4 * 3 + 3


def test_a_model_is_called_like_a_layer_on_other_shapes() -> None:
    entry = Input((None, 4))
    inner = Model(entry, Dense(3)(entry))
    made = inner(Input((6, 4)))
    assert made.shape == (None, 6, 3)
    assert inner.get_output_shape_at(0) == (None, 6, 3)


def test_a_model_can_be_cut_out_of_another() -> None:
    x = Input((4,))
    middle = Dense(3, activation="relu")(x)
    whole = Model(x, Dense(2)(middle))
    head = Model(middle, whole.outputs[0])
    body = Model(x, middle)
    data = np.random.default_rng(0).standard_normal((5, 4)).astype("float32")
    np.testing.assert_allclose(head(body(data)).detach(), whole(data).detach(), rtol=1e-6)


def test_a_model_that_was_moved_makes_new_plans() -> None:
    """Old plans hold the weights on the previous device."""
    x = Input((3,))
    model = Model(x, Dense(2)(x))
    before = model.plan()
    assert model.plan() is before
    assert model.to("cpu") is model
    assert model.plan() is not before


def test_layers_are_found_by_name_or_place(nested: Model) -> None:
    assert nested.get_layer("x") is nested.get_layer(index=0)
    assert nested.get_layer(index=-1) is nested.layers[-1] is nested.get_layer(index=len(nested.layers) - 1)
    assert nested.get_layer(index=-len(nested.layers)) is nested.layers[0]
    for index in (len(nested.layers), -len(nested.layers) - 1):
        with pytest.raises(ValueError, match=f"model 'outer' has 4 layers, none at index {index}"):
            nested.get_layer(index=index)
    with pytest.raises(ValueError, match=r"no such layer: first; existing layers are: \['x', 'y', 'a/b', 'head:1'\]"):
        nested.get_layer("first")


def test_masks_of_calls_are_boolean_tensors() -> None:
    ids = Input((5,), dtype="int32", name="ids")
    embedding, dense = Embedding(9, 4, mask_zero=True), Dense(2)
    dense(embedding(ids))
    assert embedding.input_mask is None
    for mask in (embedding.output_mask, dense.input_mask, dense.output_mask, dense.get_input_mask_at(0)):
        assert (mask.shape, mask.dtype) == ((None, 5), "bool")
    dense(Masking()(Input((7, 4))))
    assert dense.get_output_mask_at(1).shape == (None, 7)
    for attribute in ("input_mask", "output_mask"):
        with pytest.raises(AttributeError, match="multiple inbound nodes"):
            getattr(dense, attribute)


def test_weights_that_training_leaves_alone_are_told_apart() -> None:
    layer = BatchNormalization()
    layer(Input((3,)))
    assert [weight.name for weight in layer.trainable_weights] == ["gamma", "beta"]
    assert [weight.name for weight in layer.non_trainable_weights] == ["moving_mean", "moving_variance"]
    layer.trainable = False
    assert layer.trainable_weights == []
    assert layer.non_trainable_weights == layer.weights


def test_a_weight_takes_values_of_its_shape_alone() -> None:
    layer = Dense(2, name="d")
    layer(Input((3,)))
    kernel = layer.weights[0]
    for take in (kernel.bind, kernel.assign):
        with pytest.raises(DataError, match=r"got shape \(2, 3\), expected \(3, 2\)"):
            take(torch.ones(2, 3))
    kernel.assign(np.full((3, 2), 2.0))
    bound = torch.full((3, 2), 5.0)
    np.testing.assert_array_equal(kernel.numpy(), np.full((3, 2), 2.0, "float32"))
    kernel.bind(bound)
    np.testing.assert_array_equal(kernel.numpy(), bound)


def test_calls_need_their_arguments_and_no_others() -> None:
    layer = Dense(2, name="d")
    with pytest.raises(GraphError, match="layer 'd' \\(Dense\\): called without 'inputs'"):
        layer(training=True)
    with pytest.raises(GraphError, match=r"called with 1 arguments and \['other'\], expected \['inputs'"):
        layer(Input((3,)), other=1)


def test_what_the_inputs_do_not_reach_is_told() -> None:
    x, y = Input((3,), name="x"), Input((3,), name="y")
    middle = Dense(2, name="d")(y)
    with pytest.raises(GraphError, match="graph disconnected: input 'y' is needed but isn't among the inputs"):
        Model(x, Concatenate()([x, middle]))
    with pytest.raises(GraphError, match="got 1 inputs, expected 2"):
        Model([x, y], [x, middle])(np.ones((1, 3), "float32"))


def test_a_tensor_of_a_graph_is_its_own_input() -> None:
    made = Dense(2)(Input((3,)))
    assert Input(tensor=made) is made


def test_only_so_many_choices_of_outputs_keep_their_plans(nested: Model) -> None:
    """The plan of the model's own outputs is always kept."""
    x = Input((1,))
    layers = [Dense(1, name=f"d{i}") for i in range(MAX_PLANS + 1)]
    model = Model(x, [layer(x) for layer in layers])
    own, first = model.plan(), model.plan(["d0"])
    assert model.plan(["d0"]) is first
    last = [model.plan([f"d{i}"]) for i in range(1, MAX_PLANS)]
    assert len(model._plans) == MAX_PLANS
    assert model.plan() is own
    assert model.plan([f"d{MAX_PLANS - 1}"]) is last[-1]
    assert model.plan(["d0"]) is not first


@pytest.mark.parametrize("given", [(4, 3), (4, 3, 1)])
@pytest.mark.parametrize("own", [(3,), (3, 1)])
def test_a_model_adapts_a_last_axis_of_one(own: tuple[int, ...], given: tuple[int, ...]) -> None:
    """As in Keras, for arrays and symbolic tensors; dtypes are adapted, too."""
    entry = Input(own)
    inner = Model(entry, Flatten()(entry) if len(own) > 1 else Dense(3, "relu", use_bias=False)(entry))
    for weight in inner.weights:
        weight.assign(np.eye(3))
    array = np.arange(12).reshape(given)
    expected = np.arange(12, dtype="float32").reshape(4, 3)
    np.testing.assert_array_equal(inner(array).detach(), expected)
    x = Input(given[1:], dtype="int32")
    np.testing.assert_array_equal(Model(x, inner(x)).predict(array.astype("int32")), expected)
