"""The names that a config may refer to."""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Names known to the reader. No name of a file causes an import.

    layers        class names of Keras's layers, and of registered ones
    operations    class names of operations
    lambdas       names of Lambda layers -> class names of their replacements
    activations   names of custom functions
    models        class names of KerasHub's models
    """

    layers: Container[str]
    operations: Container[str]
    lambdas: Mapping[str, str]
    activations: Container[str]
    models: Collection[str] = frozenset()
