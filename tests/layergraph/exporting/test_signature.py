"""Names of inputs and outputs in exports to TensorFlow. The laboratory compares them with real exports."""

import layergraph
import pytest
from layergraph import layers
from layergraph.exporting.signature import Signature


@pytest.fixture
def dense():
    return layers.Dense(2, name="d")


def of_keras_2(model):
    model.keras_version = "2.15.0"
    return model


def test_keras_2_names_outputs_by_layers_with_numbers(dense):
    x = layergraph.Input((2,), name="a")
    y = dense(x)
    other = layers.Dense(2, name="d_1")(x)
    model = of_keras_2(layergraph.Model(x, [y, dense(y), other, y]))
    assert model.signatures == {"serving_default": Signature(("a",), ("d", "d_1", "d_1_1", "d_2"))}


def test_keras_2_names_the_outputs_of_a_dict_by_their_layers(dense):
    x = layergraph.Input((2,), name="a")
    model = of_keras_2(layergraph.Model(x, {"z": dense(x), "b": layers.Dense(1, name="other")(x)}))
    assert model.signatures["serving_default"].outputs == ("other", "d")
    assert model.output_names == ["b", "z"]


def test_keras_3_numbers_outputs_or_has_the_keys_of_a_dict(dense):
    x = layergraph.Input((2,), name="a")
    assert layergraph.Model(x, dense(x)).signatures["serve"] == Signature(("a",), ("output_0",))
    assert layergraph.Model(x, [dense(x), x]).signatures["serving_default"].outputs == ("output_0", "output_1")
    assert layergraph.Model(x, {"z": dense(x), "b": x}).signatures["serving_default"].outputs == ("b", "z")


def test_inputs_without_a_name_are_listed_in_the_order_of_their_creation(dense):
    first, named, second = layergraph.Input((2,)), layergraph.Input((2,), name="a"), layergraph.Input((2,))
    model = layergraph.Model([second, named, first], layers.Add()([first, named, second]))
    own = model.signatures["serving_default"]
    assert own.inputs == tuple(model.input_names)
    assert own.unnamed == (model.input_names[2], model.input_names[0])


def test_the_tenth_input_comes_after_the_second():
    inputs = [layergraph.Input((2,), name=f"input_layer_{number}") for number in (10, 2)]
    model = layergraph.Model(inputs, layers.Add()(inputs))
    assert model.signatures["serving_default"].unnamed == ("input_layer_2", "input_layer_10")
