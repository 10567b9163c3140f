"""The closed table of layers: what a file may name. A config never leads to an import."""

from __future__ import annotations

from collections.abc import Mapping

from layergraph.functional.input import InputLayer
from layergraph.functional.layer import Layer
from layergraph.layers import core

#: Keras class name -> class, merged from the families. A duplicate is an error.
LAYERS: Mapping[str, type[Layer]] = {
    "InputLayer": InputLayer,
    "Dense": core.Dense,
}
