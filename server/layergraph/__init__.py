"""Keras graphs on torch: load, build, run, train and save functional models without Keras.

import layergraph
from layergraph import Input, Model, layers

x = Input((784,))
model = Model(x, layers.Dense(10, activation="softmax")(x))

Names are Keras's: `import layergraph as keras` is sufficient for many of its guides.
"""

import importlib
from typing import TYPE_CHECKING, Any

from layergraph import errors as errors
from layergraph.functional import operators

if TYPE_CHECKING:
    from layergraph import (
        activations,
        callbacks,
        constraints,
        initializers,
        layers,
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
    from layergraph.functional.input import Input
    from layergraph.functional.input_spec import InputSpec
    from layergraph.functional.naming import clear_session
    from layergraph.layers import Layer
    from layergraph.models.loading import load_model
    from layergraph.models.model import Model
    from layergraph.models.sequential import Sequential

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

#: Modules of the names that aren't modules themselves.
_MODULES = {
    "Input": "functional.input",
    "InputSpec": "functional.input_spec",
    "Layer": "layers",
    "Model": "models",
    "Sequential": "models",
    "clear_session": "functional.naming",
    "load_model": "models",
}

#: Names of Keras that custom layers use, and what they use here.
_INSTEAD = {
    "Variable": "self.add_weight(...) in a layer",
    "backend": "layergraph.ops",
}


def _operations() -> operators.Table:
    from layergraph.ops import operations

    return operations()


# Before any other module of the package is imported.
operators.install(_operations)


def __getattr__(name: str) -> Any:
    # Imported on first use: what uses `layergraph.errors` or `layergraph.archive` only doesn't need torch.
    if name in __all__:
        module = importlib.import_module(f"layergraph.{_MODULES.get(name, name)}")
        return getattr(module, name) if name in _MODULES else module
    instead = f"; expected {_INSTEAD[name]}" if name in _INSTEAD else ""
    raise AttributeError(f"module 'layergraph' has no attribute '{name}'{instead}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
