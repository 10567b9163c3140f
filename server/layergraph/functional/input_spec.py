"""What a layer expects of its input, as custom layers state it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass
class InputSpec:
    """Rank, shape and dtype of an input (keras.InputSpec), which custom layers set as `input_spec`.

    It has no effect: shapes are checked where they are computed.
    """

    dtype: Any = None
    shape: Any = None
    ndim: int | None = None
    max_ndim: int | None = None
    min_ndim: int | None = None
    axes: Mapping[int, int | None] | None = None
    allow_last_axis_squeeze: bool = False
    name: str | None = None
    optional: bool = False

    def __post_init__(self) -> None:
        if self.shape is not None:
            self.shape = tuple(self.shape)
            self.ndim = len(self.shape)
        self.axes = {int(axis): length for axis, length in (self.axes or {}).items()}
