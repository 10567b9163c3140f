"""Weights: the state that a layer learns or keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from layergraph.errors import DataError
from layergraph.functional.dtypes import torch_dtype

#: Gives the first value of a weight: (shape, dtype) -> tensor.
Initializer = Callable[[tuple[int, ...], torch.dtype], torch.Tensor]


class Weight:
    """A named array of a layer. Its tensor is made when first needed: a graph costs no memory until it runs.

    `value` stays the same tensor object once made: plans hold it and training changes it in place.
    """

    __slots__ = (
        "_value",
        "autocast",
        "constraint",
        "created_trainable",
        "dtype",
        "initializer",
        "memory_order",
        "name",
        "owner",
        "regularizer",
        "shape",
        "trainable",
    )

    def __init__(
        self,
        owner: str,
        name: str,
        shape: tuple[int, ...],
        dtype: str,
        initializer: Initializer,
        *,
        trainable: bool = True,
        autocast: bool = True,
        memory_order: tuple[int, ...] | None = None,
        regularizer: Callable[[torch.Tensor], torch.Tensor] | None = None,
        constraint: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        self.owner = owner
        self.name = name
        self.shape = shape
        self.dtype = dtype
        self.initializer = initializer
        self.trainable = trainable
        #: What `trainable` was at first: freezing and unfreezing a layer doesn't make its statistics trainable.
        self.created_trainable = trainable
        #: Whether a layer that computes in another type gets the weight in that type.
        self.autocast = autocast
        #: The axes from the slowest to the fastest in memory, where torch wants another order than Keras. The shape
        #: stays Keras's; a kernel in the wrong order is copied in every call.
        self.memory_order = memory_order
        self.regularizer = regularizer
        self.constraint = constraint
        self._value: torch.Tensor | None = None

    @property
    def path(self) -> str:
        """`layer/kernel`, with the layers around it that Keras names in a model just made: patterns meet it."""
        return f"{self.owner}/{self.name}"

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def value(self) -> torch.Tensor:
        """The tensor; made by the initializer where nothing was bound."""
        if self._value is None:
            self._value = self._laid_out(self.initializer(self.shape, torch_dtype(self.dtype)))
        return self._value

    def bind(self, value: torch.Tensor) -> None:
        """Takes `value` as the weight's tensor, without a copy if the type fits. Raises DataError for another shape."""
        if tuple(value.shape) != self.shape:
            raise DataError(f"weight '{self.path}': got shape {tuple(value.shape)}, expected {self.shape}")
        self._value = self._laid_out(value.to(torch_dtype(self.dtype)))

    def _laid_out(self, value: torch.Tensor) -> torch.Tensor:
        """The same values in the memory order that the weight wants."""
        if self.memory_order is None:
            return value
        back = [self.memory_order.index(axis) for axis in range(value.ndim)]
        return value.permute(self.memory_order).contiguous().permute(back)

    def assign(self, value: np.ndarray[Any, Any] | torch.Tensor) -> None:
        """Copies `value` into the weight, in place. Raises DataError for another shape."""
        source = torch.as_tensor(np.array(value) if not isinstance(value, torch.Tensor) else value)
        if tuple(source.shape) != self.shape:
            raise DataError(f"weight '{self.path}': got shape {tuple(source.shape)}, expected {self.shape}")
        with torch.no_grad():
            self.value.copy_(source)

    def numpy(self) -> np.ndarray[Any, Any]:
        """A copy of the values."""
        value = self.value.detach().cpu()
        return np.array(value.float() if value.dtype == torch.bfloat16 else value)

    def __repr__(self) -> str:
        return f"<Weight {self.path} shape={self.shape} dtype={self.dtype}>"
