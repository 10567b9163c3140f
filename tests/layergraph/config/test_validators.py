"""Validators of single classes' options: the values at their limits, and those just beyond."""

from __future__ import annotations

from typing import Any

import pytest
from layergraph import Input, Model
from layergraph.config.options import Expected
from layergraph.config.spec import MAX_LAYERS
from layergraph.errors import ConfigError
from layergraph.layers import Dense, ReversibleEmbedding
from layergraph.layers.activation_functions import ACTIVATIONS
from layergraph.layers.activations import activation
from layergraph.layers.hub.masked_lm import _embedding
from layergraph.layers.hub.positions import positive_number
from layergraph.layers.quantized.quantizers import Int8QuantizationConfig, quantization_config
from layergraph.models.hub import architecture, convolutional, tasks
from layergraph.models.hub.images import image_shape
from layergraph.training.losses import _axes
from layergraph.training.optimizers import multi_optimizer
from layergraph.training.optimizers.formulas import formula
from layergraph.training.optimizers.table import OPTIMIZERS

X = Input((3,))
MODEL = Model(X, Dense(2)(X))
LOOKUP = ReversibleEmbedding(3, 2)
SGD = OPTIMIZERS["SGD"]()
SCALED = OPTIMIZERS["LossScaleOptimizer"](SGD)

TAKEN = [
    (architecture.layer_count, 0, 0),
    (architecture.layer_count, MAX_LAYERS, MAX_LAYERS),
    (architecture.per_stack, [1] * MAX_LAYERS, (1,) * MAX_LAYERS),
    (architecture.per_stack, (5000,), (5000,)),
    (architecture.layers_per_stack, [1, MAX_LAYERS - 1], (1, MAX_LAYERS - 1)),
    (convolutional._filters, [[4, 8], [2]], ((4, 8), (2,))),
    (convolutional._filters, [[4] * MAX_LAYERS], ((4,) * MAX_LAYERS,)),
    (image_shape, [None, 8, 3], (None, 8, 3)),
    (tasks._model, MODEL, MODEL),
    (positive_number, 1e-9, 1e-9),
    (positive_number, 3, 3),
    (_embedding, LOOKUP, LOOKUP),
    (_axes, None, None),
    (_axes, -1, (-1,)),
    (_axes, [0, 2], (0, 2)),
    (formula, SGD, SGD),
    (multi_optimizer._by_pattern, {"a.*": SGD}, {"a.*": SGD}),
    (activation, "relu", ACTIVATIONS["relu"]),
]
SEVERAL = "a list of 1 to 1000 integers"
NAME = "the name of an activation function"
REFUSED = [
    *((architecture.layer_count, value, "an integer") for value in (-1, True)),
    (architecture.layer_count, MAX_LAYERS + 1, "an integer from 0 to 1000"),
    *((architecture.per_stack, value, SEVERAL) for value in (3, [], [1] * (MAX_LAYERS + 1), "12")),
    (architecture.per_stack, [0], "a positive integer"),
    (architecture.layers_per_stack, [1, MAX_LAYERS], "integers with a sum of at most 1000"),
    *((convolutional._filters, value, "lists of 1 to 1000 integers in total") for value in ([], [[4] * 501] * 2)),
    (convolutional._filters, [[]], SEVERAL),
    *((image_shape, value, "a shape such as [null, null, 3]") for value in ([8, 8], [8, 8, 8, 3])),
    (tasks._model, Dense(2), "a model"),
    *((positive_number, value, "a number above 0") for value in (0, -0.5)),
    (_embedding, Dense(2), "a ReversibleEmbedding"),
    *((_axes, value, "an integer, a list of integers, or None") for value in ("a", 1.5, [1, "a"])),
    *((formula, value, "an optimizer other than LossScale") for value in (3, SCALED)),
    (multi_optimizer._by_pattern, [SGD], "optimizers by regular expression"),
    (multi_optimizer._by_pattern, {"(": SGD}, "regular expression"),
    (multi_optimizer._by_pattern, {str(n): SGD for n in range(5000)}, "regular expressions"),
    *((quantization_config, value, "a quantization config") for value in (3, "int8")),
    (activation, 3, f"{NAME}, or an activation layer"),
    (activation, print, f"{NAME}, or an activation layer"),
    (activation, {"value": ["code"]}, f"{NAME}: a lambda holds Python code, which is never run"),
    (activation, "rele", f"{NAME}; unknown activation 'rele'"),
]


@pytest.mark.parametrize(("validate", "value", "result"), TAKEN)
def test_a_value_at_the_limit_is_taken(validate: Any, value: Any, result: Any) -> None:
    assert validate(value) == result


@pytest.mark.parametrize(("validate", "value", "text"), REFUSED)
def test_a_value_beyond_it_is_refused_with_what_is_expected(validate: Any, value: Any, text: str) -> None:
    with pytest.raises(Expected) as refused:
        validate(value)
    assert text in str(refused.value)


def test_a_quantization_config_is_one_or_its_serialised_form() -> None:
    given = Int8QuantizationConfig()
    assert quantization_config(given) is given
    form = {"class_name": "Int8QuantizationConfig", "config": {}}
    assert isinstance(quantization_config(form), Int8QuantizationConfig)


def test_what_a_layer_does_with_masks_is_one_of_known_words() -> None:
    with pytest.raises(ConfigError, match="Dense: mask_use is 'lost', expected one of "):
        Dense(2).treat_masks("lost")
