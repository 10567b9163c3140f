"""Inputs of models of images."""

from __future__ import annotations

from typing import Any

from layergraph.config.options import Expected, shape
from layergraph.functional.input import Input
from layergraph.functional.tensor import Shape, Tensor


def image_shape(value: Any) -> Shape:
    """Validator: height, width and channels; None for unknown lengths."""
    lengths = shape(value)
    if len(lengths) != 3:
        raise Expected("a shape such as [null, null, 3]")
    return lengths


def image_input(lengths: Shape) -> Tensor:
    """An input of images (rows, height, width, channels), under the name that Keras gives to a first input."""
    return Input(shape=lengths, name="input_layer")
