"""Activation functions and activation layers against stock Keras."""

import layergraph
import numpy as np
import pytest
import torch
from keras.src.activations import ALL_OBJECTS_DICT
from layergraph import layers
from layergraph.errors import ConfigError, GraphError
from layergraph.layers.activation_functions import ACTIVATIONS, keras2_hard_sigmoid, linear, relu
from layergraph.layers.activations import activation
from layergraph.layers.keras1 import ParametricSoftplus
from oracles import LayerCase, assert_close, check_layer, keras

OURS_ALONE = {"keras2_hard_sigmoid"}
#: Requires arguments, so Keras can't use it by name either.
UNUSABLE = {"threshold"}


def test_every_function_of_keras_is_there() -> None:
    assert set(ACTIVATIONS) - OURS_ALONE == set(ALL_OBJECTS_DICT) - UNUSABLE


@pytest.mark.parametrize("name", sorted(set(ACTIVATIONS) - OURS_ALONE))
@pytest.mark.parametrize("scale", [0.5, 3.0, 30.0])
def test_function_gives_keras_numbers(name: str, scale: float) -> None:
    x = (scale * np.random.default_rng(0).standard_normal((5, 7, 6))).astype("float32")
    x[0, 0] = [0.0, 1.0, -1.0, 3.0, -3.0, 0.5]
    assert_close(ACTIVATIONS[name](torch.from_numpy(x)).numpy(), keras.activations.get(name)(x), 1e-6)


def test_keras2_hard_sigmoid_has_slope_one_fifth() -> None:
    x = torch.tensor([-3.0, -2.5, -1.0, 0.0, 1.0, 2.5, 3.0])
    assert_close(keras2_hard_sigmoid(x).numpy(), np.array([0, 0, 0.3, 0.5, 0.7, 1, 1], "float32"))


@pytest.mark.parametrize("value", [relu, "relu", {"class_name": "function", "config": "relu"}])
def test_a_function_is_found_in_every_form(value: object) -> None:
    assert activation(value) is relu
    assert layers.Dense(2, activation=value).get_config()["activation"] == "relu"


def test_nothing_is_linear() -> None:
    x = torch.ones(2)
    assert activation(None) is linear
    assert linear(x) is x


def test_a_lambda_of_keras_2_is_named_as_code() -> None:
    """The form in which Keras 2.13 to 2.15 write it: marshalled code, defaults, closure."""
    with pytest.raises(ConfigError, match=r"option 'activation' is .*: a lambda holds Python code, which is never run"):
        layers.Dense.from_config({"name": "d", "units": 2, "activation": {"value": ["4wEAAAAA", None, None]}})


def test_a_layer_as_an_activation_is_kept_in_the_config() -> None:
    config = layers.Dense(2, activation=layers.LeakyReLU(0.1)).get_config()
    again = layers.Dense.from_config(config)
    assert config["activation"]["class_name"] == "LeakyReLU"
    assert again.activation.negative_slope == 0.1


NAMES = ["relu", "softmax", "sigmoid", "linear", "hard_silu", "log_softmax", "elu"]
CASES = [
    *(LayerCase("Activation", {"activation": name}, [(2, 3, 4)], unknown_axes=name == "relu") for name in NAMES),
    LayerCase("Activation", {"activation": keras.layers.PReLU()}, [(2, 3)]),
    *(
        LayerCase("ReLU", {"max_value": m, "negative_slope": s, "threshold": t}, [(3, 40)])
        for m in (None, 0.0, 1.0, 6.0)
        for s in (0.0, 0.2)
        for t in (0.0, 0.5, 2.0)
    ),
    LayerCase("LeakyReLU", {}, [(2, 9)]),
    LayerCase("LeakyReLU", {"negative_slope": 0.0}, [(2, 9)]),
    LayerCase("ELU", {}, [(2, 9)]),
    LayerCase("ELU", {"alpha": 0.3}, [(2, 9)]),
    LayerCase("PReLU", {}, [(2, 3, 4)]),
    LayerCase("PReLU", {"shared_axes": [1], "alpha_initializer": "ones"}, [(2, 3, 4)], unknown_axes=True),
    LayerCase(
        "PReLU", {"shared_axes": [1, 2], "alpha_regularizer": "l2", "alpha_constraint": "non_neg"}, [(2, 3, 4, 5)]
    ),
    LayerCase("PReLU", {"shared_axes": 1}, [(2, 3, 4)]),
    *(LayerCase("Softmax", {"axis": axis}, [(2, 3, 4)]) for axis in (-1, 1, 2, [1, 2], [-1], (1, -1))),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_layer_gives_keras_numbers(case: LayerCase) -> None:
    check_layer(case)


@pytest.mark.parametrize("kind", ["bool", "float32"])
@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 1, 4), (4,)])
def test_softmax_takes_masked_elements_out(kind: str, shape: tuple) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3, 4)).astype("float32")
    mask = rng.integers(0, 2, shape).astype(kind)
    want = keras.layers.Softmax()(x, mask=mask)
    assert_close(layers.Softmax()(x, mask=mask).numpy(), want)


def test_softmax_refuses_a_mask_that_does_not_fit() -> None:
    with pytest.raises(GraphError, match="broadcasts to the inputs"):
        layers.Softmax()(layergraph.Input((3, 4)), mask=layergraph.Input((2, 4), dtype="bool"))


def test_softmax_takes_a_mask_by_name_alone() -> None:
    x, mask = layergraph.Input((4,), name="x"), layergraph.Input((4,), dtype="bool", name="mask")
    model = layergraph.Model([x, mask], layers.Softmax(name="y")(x, mask=mask))
    got = model.plan().run({"x": np.zeros((1, 4), "float32"), "mask": np.array([[True, False, True, False]])})["y"]
    assert_close(got, np.array([[0.5, 0, 0.5, 0]], "float32"))


def test_thresholded_relu_keeps_what_is_above() -> None:
    got = layers.ThresholdedReLU(theta=0.5)(np.array([-1.0, 0.4, 0.5, 0.6], "float32"))
    assert_close(got.numpy(), np.array([0, 0, 0, 0.6], "float32"))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ReLU", {"max_value": -1}),
        ("LeakyReLU", {"negative_slope": -0.1}),
        ("ReLU", {"threshold": None}),
        ("Activation", {}),
        ("Softmax", {"axis": "last"}),
    ],
)
def test_wrong_options_are_named(name: str, options: dict) -> None:
    with pytest.raises(ConfigError, match=f"{name}: option"):
        getattr(layers, name)(**options)


def test_prelu_refuses_an_axis_that_is_not_there() -> None:
    with pytest.raises(GraphError, match="shared axis 3, expected 1 to 2"):
        layers.PReLU(shared_axes=[3])(layergraph.Input((2, 2)))


def test_softmax_over_nothing_follows_the_release() -> None:
    """Keras 3.10 and later give zeros where everything is masked; earlier releases give equal values."""
    x, mask = np.array([[0.5, 1.5]], "float32"), np.zeros((1, 2), bool)
    for rule, want in (("keras3", [[0.0, 0.0]]), ("keras2", [[0.5, 0.5]])):
        np.testing.assert_allclose(layers.Softmax(mask_rule=rule)(x, mask=mask).numpy(), want)
    assert "mask_rule" not in layers.Softmax().get_config()


def test_large_sums_of_a_softplus_stay_what_they_are() -> None:
    """exp overflows above 88."""
    layer = ParametricSoftplus()
    layer.build((None, 3))
    x = torch.tensor([[9.0, 20.0, 1000.0]])
    torch.testing.assert_close(layer(x), x)
