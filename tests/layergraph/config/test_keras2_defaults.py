"""Defaults of options that a Keras 2 config lacks: those of Keras 2, not of Keras 3."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from layergraph.config.diagnostics import Diagnostics
from layergraph.config.keras_versions import KERAS1, KERAS2, MULTI_BACKEND, Generation
from layergraph.config.reader import read_graph
from layergraph.functional.layer import Layer
from layergraph.layers.table import LAYERS
from layergraph.models.reading import vocabulary

#: Layer -> the options that it was created with, and its config written by tf.keras 2.15.
TOLD: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "fixtures" / "keras2_defaults.json").read_text("utf-8")
)
#: Before these options existed the behaviour was fixed, and isn't the later default; files without them mean it.
EARLIER = {"GRU": {"reset_after": False}, "GRUCell": {"reset_after": False}}
#: Fixed in cuDNN layers, which lack these options.
CUDNN = {
    "CuDNNGRU": {"activation": "tanh", "recurrent_activation": "sigmoid", "reset_after": True, "use_bias": True},
    "CuDNNLSTM": {"activation": "tanh", "recurrent_activation": "sigmoid", "unit_forget_bias": True, "use_bias": True},
}


def layer_of(kind: str, config: dict[str, Any], generation: Generation = KERAS2) -> Layer:
    """The layer in a file of that generation."""
    item = {"class_name": kind, "config": {**config, "name": "it"}}
    problems = Diagnostics()
    model = {"class_name": "Sequential", "config": {"name": "model", "layers": [item]}}
    spec = read_graph(model, generation, Path("model.h5"), problems, vocabulary()).layers[-1]
    assert not problems.texts
    known = LAYERS[spec.class_name]
    return known.from_config({key: value for key, value in spec.config.items() if key in known._options})


def comparable(config: Any) -> Any:
    """The config without seeds, with numbers rounded to 32 bits."""
    if isinstance(config, dict):
        return {key: comparable(value) for key, value in config.items() if key != "seed"}
    if isinstance(config, list):
        return [comparable(value) for value in config]
    return float(f"{config:.6g}") if isinstance(config, float) else config


@pytest.mark.parametrize("kind", TOLD)
def test_what_a_config_does_not_name_is_as_in_keras_2(kind: str) -> None:
    given, whole = TOLD[kind]["given"], TOLD[kind]["config"]
    config = {key: value for key, value in whole.items() if key in given}
    assert config.keys() == given.keys()
    expected = layer_of(kind, {**whole, **EARLIER.get(kind, {})}).get_config()
    assert comparable(layer_of(kind, config).get_config()) == comparable(expected)


@pytest.mark.parametrize("kind", CUDNN)
def test_cudnns_layers_are_those_that_compute_as_it_does(kind: str) -> None:
    config = layer_of(kind, TOLD[kind]["config"]).get_config()
    assert {option: config[option] for option in CUDNN[kind]} == CUDNN[kind]


@pytest.mark.parametrize("generation", [KERAS1, MULTI_BACKEND, KERAS2], ids=lambda generation: generation.name)
def test_early_files_mean_the_earlier_gru_and_slope(generation: Generation) -> None:
    units = "output_dim" if generation is KERAS1 else "units"
    gru = layer_of("GRU", {units: 3}, generation).get_config()
    assert (gru["units"], gru["reset_after"]) == (3, False)
    assert layer_of("LeakyReLU", {}, generation).get_config()["negative_slope"] == 0.3
    assert layer_of("LeakyReLU", {"alpha": 0.1}, generation).get_config()["negative_slope"] == 0.1
