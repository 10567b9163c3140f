"""The closed table of operations: what a file may name as one."""

from __future__ import annotations

from collections.abc import Mapping

from layergraph.functional.layer import Layer
from layergraph.layers.table import merged
from layergraph.ops import (
    arrangement,
    elementwise,
    images,
    linear_algebra,
    neural,
    numbers,
    reductions,
    shapes,
    statistics,
)

#: Keras class name -> class.
OPERATIONS: Mapping[str, type[Layer]] = merged(
    [
        elementwise.OPERATIONS,
        numbers.OPERATIONS,
        reductions.OPERATIONS,
        statistics.OPERATIONS,
        shapes.OPERATIONS,
        arrangement.OPERATIONS,
        linear_algebra.OPERATIONS,
        neural.OPERATIONS,
        images.OPERATIONS,
    ]
)

for _name, _known in OPERATIONS.items():
    # TensorFlow's own are told from Keras's of the same name by a prefix, in files too.
    if _name.startswith("tf>"):
        _known.__name__ = _name
