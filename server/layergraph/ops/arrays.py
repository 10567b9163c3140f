"""Making and reshaping arrays (keras.ops.expand_dims, concatenate, zeros_like, ...)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from typing_extensions import Self

from layergraph.config.options import integer, list_of, one_or_list_of, option, optional
from layergraph.functional.dtypes import dtype as element_type
from layergraph.functional.dtypes import torch_dtype
from layergraph.functional.run import Run
from layergraph.ops.operation import Operation


class ExpandDims(Operation):
    """Adds axes of length 1 (keras.ops.expand_dims)."""

    axis: Any = option(one_or_list_of(integer))

    def forward(self, run: Run, w: Any, x: torch.Tensor) -> torch.Tensor:
        """Computes the result."""
        axes = self.axis if isinstance(self.axis, tuple) else (self.axis,)
        rank = x.ndim + len(axes)
        for axis in sorted(axis % rank for axis in axes):
            x = x.unsqueeze(axis)
        return x


class Squeeze(Operation):
    """Takes axes of length 1 away (keras.ops.squeeze)."""

    axis: Any = option(optional(one_or_list_of(integer)), default=None)

    def forward(self, run: Run, w: Any, x: torch.Tensor) -> torch.Tensor:
        """Computes the result."""
        return x.squeeze() if self.axis is None else x.squeeze(self.axis)


class Concatenate(Operation):
    """Joins arrays along `axis` (keras.ops.concatenate)."""

    axis: int = option(integer, default=0)

    def forward(self, run: Run, w: Any, xs: list[torch.Tensor]) -> torch.Tensor:
        """Computes the result, in the widest of the types."""
        return torch.cat(list(xs), dim=self.axis)


class _Typed(Operation):
    """An operation whose `dtype` is not a policy, but the type of its result."""

    result_dtype: str = option(optional(element_type), default=None)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """In files, the type of the result is named `dtype`."""
        return super().from_config({("result_dtype" if key == "dtype" else key): config[key] for key in config})

    def get_config(self) -> dict[str, Any]:
        """Name and type of the result."""
        config = super().get_config()
        return {"name": config["name"], "dtype": self.result_dtype}

    def _result_dtype(self, x: torch.Tensor) -> torch.dtype:
        return torch_dtype(self.result_dtype) if self.result_dtype else x.dtype


class Cast(_Typed):
    """x in another type (keras.ops.cast)."""

    def forward(self, run: Run, w: Any, x: torch.Tensor) -> torch.Tensor:
        """Computes the result."""
        return x.to(self._result_dtype(x))


class ZerosLike(_Typed):
    """Zeros of the shape of x (keras.ops.zeros_like)."""

    def forward(self, run: Run, w: Any, x: torch.Tensor) -> torch.Tensor:
        """Computes the result."""
        return torch.zeros_like(x, dtype=self._result_dtype(x))


class OnesLike(_Typed):
    """Ones of the shape of x (keras.ops.ones_like)."""

    def forward(self, run: Run, w: Any, x: torch.Tensor) -> torch.Tensor:
        """Computes the result."""
        return torch.ones_like(x, dtype=self._result_dtype(x))


class BroadcastTo(Operation):
    """x repeated along axes of length 1 until it has `shape` (keras.ops.broadcast_to)."""

    shape: tuple[int, ...] = option(list_of(integer))

    def forward(self, run: Run, w: Any, x: torch.Tensor) -> torch.Tensor:
        """Computes the result."""
        return x.broadcast_to(self.shape)
