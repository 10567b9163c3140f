"""Weights: variables of layers, trainable or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from layergraph.errors import DataError
from layergraph.functional.dtypes import torch_dtype

#: Creates the initial value of a weight: (shape, dtype) -> tensor.
Initializer = Callable[[tuple[int, ...], torch.dtype], torch.Tensor]


class Weight:
    """A named variable of a layer. Its tensor is created on first use: a graph takes no memory until it runs.

    `value` stays the same tensor object once created: plans hold it and training updates it in place. In memory it is
    laid out as torch's kernels read it (`memory_order`), under Keras's shape.
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
        #: Initial value of `trainable`: freezing and unfreezing a layer doesn't make its statistics trainable.
        self.created_trainable = trainable
        #: Whether the weight is cast to the layer's compute dtype.
        self.autocast = autocast
        #: Axes from the slowest to the fastest in memory, where torch needs another order than Keras's. The shape
        #: remains Keras's; a kernel in the wrong order would be copied in every call.
        self.memory_order = memory_order
        self.regularizer = regularizer
        self.constraint = constraint
        self._value: torch.Tensor | None = None

    @property
    def path(self) -> str:
        """`layer/kernel`, with the enclosing layers that Keras names in a new model; patterns match against it."""
        return f"{self.owner}/{self.name}"

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def value(self) -> torch.Tensor:
        """The tensor; created by the initializer on first use if none was bound."""
        if self._value is None:
            self._value = self._laid_out(self.initializer(self.shape, torch_dtype(self.dtype)))
        return self._value

    def bind(self, value: torch.Tensor) -> None:
        """Uses `value` as the weight's tensor, without a copy if dtype and memory order fit. Raises DataError if the
        shape differs.
        """
        if tuple(value.shape) != self.shape:
            raise DataError(f"weight '{self.path}': got shape {tuple(value.shape)}, expected {self.shape}")
        self._value = self._laid_out(value.to(torch_dtype(self.dtype)))

    def exchange(self, value: torch.Tensor) -> torch.Tensor:
        """Uses another tensor of the same form, for a while; returns the one before, to be put back."""
        before, self._value = self.value, value
        return before

    def _laid_out(self, value: torch.Tensor) -> torch.Tensor:
        """Returns the same values in the weight's memory order."""
        if self.memory_order is None:
            return value
        back = [self.memory_order.index(axis) for axis in range(value.ndim)]
        return value.permute(self.memory_order).contiguous().permute(back)

    def assign(self, value: np.ndarray[Any, Any] | torch.Tensor) -> None:
        """Copies `value` into the weight, in place. Raises DataError if the shape differs."""
        source = torch.as_tensor(np.array(value) if not isinstance(value, torch.Tensor) else value)
        if tuple(source.shape) != self.shape:
            raise DataError(f"weight '{self.path}': got shape {tuple(source.shape)}, expected {self.shape}")
        with torch.no_grad():
            self.value.copy_(source)

    @property
    def is_finite(self) -> bool:
        """Whether no value is NaN or infinite."""
        value = self.value.detach()
        # A sum takes a fraction of the time, but may overflow.
        return bool(value.sum().isfinite()) or bool(value.isfinite().all())

    def numpy(self) -> np.ndarray[Any, Any]:
        """Returns a copy of the values; bfloat16 as float32."""
        value = self.value.detach().cpu()
        copy: np.ndarray[Any, Any] = (value.float() if value.dtype == torch.bfloat16 else value).numpy().copy()
        return copy

    def __repr__(self) -> str:
        return f"<Weight {self.path} shape={self.shape} dtype={self.dtype}>"
