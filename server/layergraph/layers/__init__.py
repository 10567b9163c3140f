"""Layers by Keras's names, one file a family."""

from layergraph.functional.input import Input, InputLayer
from layergraph.layers.core import Dense

__all__ = ["Dense", "Input", "InputLayer"]
