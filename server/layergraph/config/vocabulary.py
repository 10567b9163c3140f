"""The names that a config may use for something that exists here."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What the reader looks names up in. Nothing is imported by a name of a file.

    layers        class names of Keras's layers
    operations    class names of operations
    lambdas       names of Lambda layers -> names of the classes that stand for them
    activations   names of custom functions
    """

    layers: Container[str]
    operations: Container[str]
    lambdas: Mapping[str, str]
    activations: Container[str]
