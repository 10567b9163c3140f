"""The closed table of operations: what a file may name, whatever its module."""

from __future__ import annotations

from collections.abc import Mapping

from layergraph.functional.layer import Layer
from layergraph.ops import arrays, logic

#: Keras class name of the operation -> class.
OPERATIONS: Mapping[str, type[Layer]] = {
    "All": logic.All,
    "Any": logic.Any,
    "BroadcastTo": arrays.BroadcastTo,
    "Cast": arrays.Cast,
    "Concatenate": arrays.Concatenate,
    "Equal": logic.Equal,
    "ExpandDims": arrays.ExpandDims,
    "LogicalAnd": logic.LogicalAnd,
    "LogicalNot": logic.LogicalNot,
    "LogicalOr": logic.LogicalOr,
    "NotEqual": logic.NotEqual,
    "OnesLike": arrays.OnesLike,
    "Squeeze": arrays.Squeeze,
    "ZerosLike": arrays.ZerosLike,
}
