"""Geometric transforms of images (keras.ops.image)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from layergraph.config.options import boolean, integer, list_of, number, one_of, option, optional
from layergraph.errors import ConfigError, GraphError
from layergraph.functional.call_context import CallContext
from layergraph.functional.weights import Weights
from layergraph.ops.operation import Operation

_IMAGE = "keras.src.ops.image"


def _mirrored(index: torch.Tensor, length: int) -> torch.Tensor:
    last = length - 1
    return ((index + last) % (2 * last) - last).abs() if last else torch.zeros_like(index)


def _reflected(index: torch.Tensor, length: int) -> torch.Tensor:
    return torch.div(_mirrored(2 * index + 1, 2 * length + 1) - 1, 2, rounding_mode="floor")


#: Index of the pixel used for a position outside of the image, by scipy.ndimage's modes.
_OUTSIDE: Mapping[str, Callable[[torch.Tensor, int], torch.Tensor]] = {
    "constant": lambda index, length: index.clamp(0, length - 1),
    "nearest": lambda index, length: index.clamp(0, length - 1),
    "wrap": lambda index, length: index % length,
    "mirror": _mirrored,
    "reflect": _reflected,
}


def sampled(
    x: torch.Tensor,
    coordinates: Sequence[torch.Tensor],
    order: int,
    fill_mode: str,
    fill_value: Any,
    *,
    by_row: bool = False,
) -> torch.Tensor:
    """Samples x at coordinates, which may be fractional: one tensor per axis, all of the same shape.

    Order 0 takes the nearest element, order 1 interpolates linearly. With fill mode 'constant', positions outside of x
    get `fill_value`. With `by_row`, the first axis of x and of each tensor is rows, each with its own coordinates.
    Remaining axes of x are kept.
    """
    rows: tuple[torch.Tensor, ...] = ()
    if by_row:
        rows = (torch.arange(x.shape[0], device=x.device).reshape(-1, *[1] * (coordinates[0].ndim - 1)),)
    lengths = x.shape[len(rows) : len(rows) + len(coordinates)]
    spread = (...,) + (None,) * (x.ndim - len(rows) - len(coordinates))
    total: Any = 0
    for corner in itertools.product(*(_neighbours(at, order) for at in coordinates)):
        pairs = list(zip(corner, lengths, strict=True))
        places = tuple(_OUTSIDE[fill_mode](index, length) for (index, _), length in pairs)
        values = x[rows + places]
        if fill_mode == "constant":
            inside = torch.stack([(index >= 0) & (index < length) for (index, _), length in pairs]).all(0)
            values = torch.where(inside[spread], values, fill_value)
        for _, weight in corner:
            values = values if weight is None else values * weight[spread]
        total = total + values
    if not x.is_floating_point():
        total = torch.round(total) if total.is_floating_point() else total
    result: torch.Tensor = total.to(x.dtype)
    return result


def _neighbours(at: torch.Tensor, order: int) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
    """Indices along one axis with their weights."""
    if order == 0:
        return [((torch.round(at) if at.is_floating_point() else at).to(torch.int64), None)]
    low = torch.floor(at)
    part = at - low
    index = low.to(torch.int64)
    return [(index, 1 - part), (index + 1, part)]


class MapCoordinates(Operation):
    """The elements at the coordinates (keras.ops.image.map_coordinates)."""

    keras_module = _IMAGE

    order: int = option(integer)
    fill_mode: str = option(one_of(*_OUTSIDE), default="constant")
    fill_value: float = option(number, default=0)

    def setup(self) -> None:
        """Raises ConfigError for spline orders above 1."""
        if self.order not in (0, 1):
            raise ConfigError(f"MapCoordinates: option 'order' is {self.order}, expected 0 or 1")

    def forward(self, context: CallContext, w: Weights, inputs: torch.Tensor, coordinates: Any) -> torch.Tensor:  # type: ignore[override]
        axes = [torch.as_tensor(at, device=inputs.device) for at in coordinates]
        if len(axes) != inputs.ndim:
            raise GraphError(f"got coordinates of {len(axes)} axes, expected {inputs.ndim}")
        return sampled(inputs, axes, self.order, self.fill_mode, self.fill_value)


class _Projection(Operation):
    """Base of projective transforms of an image (height, width, channels) or rows of them."""

    keras_module = _IMAGE

    interpolation: str = option(one_of("bilinear", "nearest"), default="bilinear")
    fill_value: float = option(number, default=0)
    data_format: Any = option(optional(one_of("channels_last", "channels_first")), default=None)

    fill_mode: Any = "constant"

    def projected(self, images: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
        """The images transformed by factors (rows or 1, 8): a0 a1 a2 b0 b1 b2 c0 c1 of TensorFlow's transforms."""
        if images.is_meta:
            return torch.empty_like(images)
        single = images.ndim == 3
        x = images.unsqueeze(0) if single else images
        x = x.movedim(1, -1) if self.data_format == "channels_first" else x
        factors = factors.expand(x.shape[0], 8)
        row = torch.arange(x.shape[1], dtype=factors.dtype, device=x.device)[None, :, None]
        column = torch.arange(x.shape[2], dtype=factors.dtype, device=x.device)[None, None, :]
        a0, a1, a2, b0, b1, b2, c0, c1 = (factor[:, None, None] for factor in factors.unbind(1))
        depth = row * c1 + column * c0 + 1
        sources = [(row * b1 + column * b0 + b2) / depth, (row * a1 + column * a0 + a2) / depth]
        order = 0 if self.interpolation == "nearest" else 1
        y = sampled(x, sources, order, self.fill_mode, self.fill_value, by_row=True)
        y = y.movedim(-1, 1) if self.data_format == "channels_first" else y
        return y.squeeze(0) if single else y


class AffineTransform(_Projection):
    """The images transformed by one transform, or by one per row (keras.ops.image.affine_transform)."""

    interpolation: str = option(one_of("bilinear", "nearest"), default="bilinear")
    fill_mode: Any = option(one_of(*_OUTSIDE), default="constant")
    fill_value: float = option(number, default=0)
    data_format: Any = option(optional(one_of("channels_last", "channels_first")), default=None)

    def forward(self, context: CallContext, w: Weights, images: torch.Tensor, transform: Any) -> torch.Tensor:  # type: ignore[override]
        factors = torch.as_tensor(transform, device=images.device)
        return self.projected(images, factors if factors.ndim == 2 else factors.unsqueeze(0))


class PerspectiveTransform(_Projection):
    """The images, with four start points (x, y) mapped to four end points (keras.ops.image.perspective_transform)."""

    def forward(  # type: ignore[override]
        self, context: CallContext, w: Weights, images: torch.Tensor, start_points: Any, end_points: Any
    ) -> torch.Tensor:
        starts, ends = (
            torch.as_tensor(points, device=images.device).to(images.dtype).reshape(-1, 4, 2)
            for points in (start_points, end_points)
        )
        x, y = ends.unbind(-1)
        zero, one = torch.zeros_like(x), torch.ones_like(x)
        across = torch.stack([x, y, one, zero, zero, zero, -starts[..., 0] * x, -starts[..., 0] * y], -1)
        down = torch.stack([zero, zero, zero, x, y, one, -starts[..., 1] * x, -starts[..., 1] * y], -1)
        equations = torch.stack([across, down], 2).flatten(1, 2)
        return self.projected(images, torch.linalg.solve(equations, starts.flatten(1)))


# Scaling.


def _triangle(x: torch.Tensor) -> torch.Tensor:
    return (1 - x).clamp_min(0)


def _cubic(x: torch.Tensor) -> torch.Tensor:
    near, far = ((1.5 * x - 2.5) * x) * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x >= 2, 0, torch.where(x >= 1, far, near))


def _lanczos(radius: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def kernel(x: torch.Tensor) -> torch.Tensor:
        y = radius * torch.sin(math.pi * x) * torch.sin(math.pi * x / radius)
        y = torch.where(x > 1e-3, y / torch.where(x != 0, math.pi**2 * x**2, 1), 1)
        return torch.where(x > radius, 0, y)

    return kernel


_KERNELS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    **dict.fromkeys(("linear", "bilinear", "trilinear", "triangle"), _triangle),
    **dict.fromkeys(("cubic", "bicubic", "tricubic"), _cubic),
    "lanczos3": _lanczos(3.0),
    "lanczos5": _lanczos(5.0),
}


class ScaleAndTranslate(Operation):
    """The images scaled and translated along some axes (keras.ops.image.scale_and_translate)."""

    keras_module = _IMAGE

    spatial_dims: Any = option(list_of(integer))
    method: str = option(one_of(*_KERNELS))
    antialias: bool = option(boolean, default=True)

    def forward(  # type: ignore[override]
        self, context: CallContext, w: Weights, images: torch.Tensor, output_shape: Any, scale: Any, translation: Any
    ) -> torch.Tensor:
        shape = tuple(int(n) for n in output_shape)
        if len(shape) != images.ndim:
            raise GraphError(f"output_shape is {shape}, expected {images.ndim} lengths")
        scale, translation = (torch.as_tensor(v, device=images.device) for v in (scale, translation))
        y = images if images.is_floating_point() else images.to(torch.float32)
        for at, axis in enumerate(self.spatial_dims):
            axis = axis % images.ndim
            weights = self._weights(images.shape[axis], shape[axis], scale[at], translation[at]).to(y.dtype)
            y = torch.tensordot(y, weights, dims=([axis], [0])).movedim(-1, axis)
        if images.is_floating_point():
            return y
        return torch.minimum(torch.maximum(y.round(), images.min()), images.max()).to(images.dtype)

    def _weights(self, old: int, new: int, scale: torch.Tensor, translation: torch.Tensor) -> torch.Tensor:
        """Weights of the old elements in each new one: (old, new)."""
        inverse = 1 / scale
        width = inverse.clamp_min(1) if self.antialias else 1
        source = (
            (torch.arange(new, dtype=scale.dtype, device=scale.device) + 0.5) * inverse - translation * inverse - 0.5
        )
        places = torch.arange(old, dtype=scale.dtype, device=scale.device)
        weights = _KERNELS[self.method]((source - places[:, None]).abs() / width)
        total = weights.sum(0, keepdim=True)
        known = total.abs() > 1000 * torch.finfo(torch.float32).eps
        weights = torch.where(known, weights / torch.where(total != 0, total, 1), 0)
        return torch.where((source >= -0.5) & (source <= old - 0.5), weights, 0)


OPERATIONS: dict[str, type[Operation]] = {
    "AffineTransform": AffineTransform,
    "MapCoordinates": MapCoordinates,
    "PerspectiveTransform": PerspectiveTransform,
    "ScaleAndTranslate": ScaleAndTranslate,
}
