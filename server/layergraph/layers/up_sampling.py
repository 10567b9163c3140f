"""Layers that repeat or interpolate along the spatial axes (keras.layers.UpSampling*)."""

from __future__ import annotations

from typing import Any

import torch

from layergraph.config.options import Expected, anything, one_of, option
from layergraph.functional.call_context import CallContext
from layergraph.functional.layer import Layer
from layergraph.functional.weights import Weights
from layergraph.layers.interpolation import INTERPOLATIONS, resize
from layergraph.layers.spatial import SpatialLayer, data_format


def interpolation(value: Any) -> str:
    """Validator: the name of an interpolation, case-insensitive."""
    name = value.lower() if isinstance(value, str) else value
    if name in INTERPOLATIONS:
        return str(name)
    raise Expected("one of " + ", ".join(INTERPOLATIONS))


class _UpSampling(SpatialLayer):
    """Repeats each step of the spatial axes `size` times."""

    size: Any = option(anything, default=2)
    data_format: str = option(data_format, default=None)

    def setup(self) -> None:
        self.each_axis("size")

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        self.check_rank(x.ndim)
        return self.repeated(self.floating(x))

    def repeated(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the input with its steps repeated, in one copy."""
        inserted = x
        expanded = list(x.shape)
        shape = list(x.shape)
        for axis, times in reversed(list(zip(self.spatial_axes, self.size, strict=True))):
            inserted = inserted.unsqueeze(axis + 1)
            expanded.insert(axis + 1, times)
            shape[axis] *= times
        return inserted.expand(expanded).reshape(shape)


class UpSampling1D(_UpSampling):
    """Repeats each step of one axis `size` times (keras.layers.UpSampling1D)."""

    rank = 1

    def get_config(self) -> dict[str, Any]:
        """Keras's config has a single number as size, and no data format."""
        config = super().get_config() | {"size": self.size[0]}
        if not self.channels_first:
            del config["data_format"]
        return config


class UpSampling2D(_UpSampling):
    """Enlarges images by integer factors (keras.layers.UpSampling2D).

    image_rule   position of pixels for `bilinear`: centres with `keras3`; `corner` as in multi-backend Keras
    """

    rank = 2
    interpolation: str = option(interpolation, default="nearest")
    image_rule: str = option(one_of("keras3", "corner"), default="keras3", kw_only=True, saved=False)

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        if self.interpolation in ("nearest", "area"):
            # With an integer factor, every new pixel lies within one old pixel.
            return super().forward(context, w, x)
        if self.interpolation == "bilinear" and self.image_rule == "corner":
            x = self.floating(x)
            for axis, times in zip(self.spatial_axes, self.size, strict=True):
                x = _between_corners(x, axis, times)
            return x
        height, width = (n * size for n, size in zip(self.lengths(x), self.size, strict=True))
        return self.from_torch(resize(self.to_torch(self.floating(x)), (height, width), self.interpolation))


def _between_corners(x: torch.Tensor, axis: int, times: int) -> torch.Tensor:
    """Interpolates linearly from each step to the next (TensorFlow's resize_bilinear without half-pixel centres)."""
    places = torch.arange(x.shape[axis] * times, device=x.device)
    low = places // times
    share = ((places % times).to(x.dtype) / times).reshape([-1 if i == axis else 1 for i in range(x.ndim)])
    high = (low + 1).clamp(max=x.shape[axis] - 1)
    return torch.lerp(x.index_select(axis, low), x.index_select(axis, high), share)


class UpSampling3D(_UpSampling):
    """Enlarges volumes by integer factors (keras.layers.UpSampling3D)."""

    rank = 3


LAYERS: dict[str, type[Layer]] = {
    "UpSampling1D": UpSampling1D,
    "UpSampling2D": UpSampling2D,
    "UpSampling3D": UpSampling3D,
}
