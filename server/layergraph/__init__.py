"""Keras graphs on torch: load, build, run, train and save functional models without Keras.

import layergraph
from layergraph import Input, Model, layers

x = Input((784,))
model = Model(x, layers.Dense(10, activation="softmax")(x))

Names are Keras's: `import layergraph as keras` is sufficient for many of its guides.
"""

import importlib
from typing import TYPE_CHECKING, Any

from layergraph import layers
from layergraph.functional import operators
from layergraph.functional.input import Input
from layergraph.functional.input_spec import InputSpec
from layergraph.functional.naming import clear_session
from layergraph.layers import Layer
from layergraph.models.loading import load_model
from layergraph.models.model import Model
from layergraph.models.sequential import Sequential
from layergraph.ops import operations

if TYPE_CHECKING:
    from layergraph import (
        activations,
        callbacks,
        constraints,
        initializers,
        losses,
        metrics,
        models,
        ops,
        optimizers,
        random,
        regularizers,
        saving,
        utils,
    )

__all__ = [
    "Input",
    "InputSpec",
    "Layer",
    "Model",
    "Sequential",
    "activations",
    "callbacks",
    "clear_session",
    "constraints",
    "initializers",
    "layers",
    "load_model",
    "losses",
    "metrics",
    "models",
    "ops",
    "optimizers",
    "random",
    "regularizers",
    "saving",
    "utils",
]

operators.install(operations)

#: Names of Keras that custom layers use, and what they use here.
_INSTEAD = {
    "Variable": "self.add_weight(...) in a layer",
    "backend": "layergraph.ops",
}


def __getattr__(name: str) -> Any:
    # Imported on first use, which keeps `import layergraph` fast.
    if name in __all__:
        return importlib.import_module(f"layergraph.{name}")
    instead = f"; expected {_INSTEAD[name]}" if name in _INSTEAD else ""
    raise AttributeError(f"module 'layergraph' has no attribute '{name}'{instead}")
