"""States: what a model keeps of a sequence between two steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = "np.ndarray[Any, Any]"


@dataclass(frozen=True, slots=True)
class StateSpec:
    """A state: its name, the shape of one row, and its dtype. In bfloat16, arrays are float32, as those of outputs.

    next_name   name of the step model's output that is the state after the step; `name` is that of its input
    layer       path of the layer that the state belongs to
    first       the state before the first timestep, of one row; None for zeros, and for what `start` computes
    computed    whether it comes from inputs of the first step (see `Stepper.first_inputs`)
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    next_name: str
    layer: str
    first: Array | None = None
    computed: bool = False

    def zeros(self, rows: int) -> Array:
        """The state before the first timestep, unless it is computed from inputs."""
        dtype = "float32" if self.dtype == "bfloat16" else self.dtype
        if self.first is None:
            return np.zeros((rows, *self.shape), dtype)
        return np.repeat(self.first[None].astype(dtype), rows, axis=0)
