"""The closed table of operations: what a file may name as one."""

from __future__ import annotations

from collections.abc import Mapping

from layergraph.functional.layer import Layer
from layergraph.layers.table import merged
from layergraph.ops import elementwise, reductions, shapes

#: Keras class name -> class.
OPERATIONS: Mapping[str, type[Layer]] = merged([elementwise.OPERATIONS, reductions.OPERATIONS, shapes.OPERATIONS])
