"""Keras graphs on torch, as a library: read, build, run, train and save functional models without Keras.

import layergraph
from layergraph import Input, Model, layers

x = Input((784,))
model = Model(x, layers.Dense(10, activation="softmax")(x))
"""

from layergraph import layers
from layergraph.functional import operators
from layergraph.functional.input import Input
from layergraph.functional.naming import clear_session
from layergraph.models.loading import load_model
from layergraph.models.model import Model
from layergraph.models.sequential import Sequential
from layergraph.ops import operations

__all__ = ["Input", "Model", "Sequential", "clear_session", "layers", "load_model"]

operators.install(operations)
