"""Every layer of the table is compared with an oracle: each has a case in a file of this folder."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from layergraph.layers import keras1
from layergraph.layers.table import LAYERS
from oracles import keras

HERE = Path(__file__).parent
#: The input layer, which has no numbers; layers whose oracle tests aren't parametrised; and layers that Keras 3 lacks:
#: test_tensorflow_functions and training/test_added_losses compare them with tf.keras 2.15, test_old_keras with Keras
#: 1.2 to 2.3.
ELSEWHERE = {
    "InputLayer",
    "SpectralNormalization",
    "ThresholdedReLU",
    "LocallyConnected1D",
    "LocallyConnected2D",
    "AddLoss",
    "AddMetric",
    *keras1.LAYERS,
}


def loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"oracle_cases_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look up their module there.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def parameters(module: ModuleType) -> Iterator[Any]:
    """The parameters of the module's tests."""
    for test in vars(module).values():
        for mark in getattr(test, "pytestmark", ()) if callable(test) else ():
            if mark.name == "parametrize":
                yield mark.args[1]


def class_names(value: Any) -> Iterator[str]:
    """The layers named by a parameter: cases, Keras layers in their options, class names."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from class_names(item)
    elif isinstance(value, dict):
        yield from class_names(list(value.values()))
    elif hasattr(value, "class_name"):
        yield value.class_name
        yield from class_names(value.config)
    elif isinstance(value, keras.layers.Layer):
        yield type(value).__name__
        yield from class_names(list(value._layers))


def test_every_layer_has_an_oracle_case() -> None:
    named = {
        name
        for path in sorted(HERE.glob("test_*.py"))
        for parameter in parameters(loaded(path))
        for name in class_names(parameter)
    }
    assert sorted(set(LAYERS) - named - ELSEWHERE) == []
