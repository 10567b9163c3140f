"""The state of optimizers: for each weight a tensor in each slot, and all of it as arrays with Keras's names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

Tensor = torch.Tensor
Tensors = list[Tensor]


class Trainable(Protocol):
    """The interface of a weight for optimizers: `value` is always the same tensor, updated in place."""

    @property
    def value(self) -> Tensor: ...

    @property
    def path(self) -> str: ...

    @property
    def constraint(self) -> Any: ...


@dataclass(frozen=True, slots=True)
class Variable:
    """One array of an optimizer's state, with Keras's name (`iteration`, `dense_kernel_momentum`)."""

    name: str
    value: np.ndarray[Any, Any] | Tensor

    def numpy(self) -> np.ndarray[Any, Any]:
        """Returns a copy in the dtype that Keras saves."""
        if not isinstance(self.value, Tensor):
            return np.array(self.value)
        value = self.value.detach().cpu()
        copy: np.ndarray[Any, Any] = (value.float() if value.dtype == torch.bfloat16 else value).numpy().copy()
        return copy


#: Placeholder in a list of slots for a weight without that slot.
ABSENT = torch.empty(0)


@dataclass(slots=True)
class Slots:
    """The state of a list of weights: their tensors and, by slot name, one tensor per weight, or ABSENT."""

    weights: Tensors
    by_name: dict[str, Tensors]

    def chosen(self, indices: Sequence[int]) -> Slots:
        """The slots of some of the weights."""
        return Slots(
            [self.weights[i] for i in indices],
            {name: [tensors[i] for i in indices] for name, tensors in self.by_name.items()},
        )


def misfit(state: Sequence[Variable], arrays: Sequence[np.ndarray[Any, Any] | Tensor]) -> str | None:
    """The reason why arrays don't fit a state; None if they do."""
    if len(arrays) != len(state):
        return f"got {len(arrays)} arrays of state, expected {len(state)}"
    for variable, array in zip(state, arrays, strict=True):
        if tuple(array.shape) != tuple(variable.value.shape):
            return f"{variable.name} has shape {tuple(array.shape)}, expected {tuple(variable.value.shape)}"
    return None
