"""Image resizing with TensorFlow's kernels (tf.image.resize) and half-pixel centres."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

import torch
from torch.nn import functional

Kernel = Callable[[torch.Tensor], torch.Tensor]


def _triangle(x: torch.Tensor) -> torch.Tensor:
    return (1 - x.abs()).clamp(min=0)


def _cubic(x: torch.Tensor, b: float, c: float) -> torch.Tensor:
    """Cubic kernels of Mitchell and Netravali, "Reconstruction Filters in Computer Graphics" (1988)."""
    x = x.abs()
    near = (12 - 9 * b - 6 * c) * x**3 + (-18 + 12 * b + 6 * c) * x**2 + 6 - 2 * b
    far = (-b - 6 * c) * x**3 + (6 * b + 30 * c) * x**2 + (-12 * b - 48 * c) * x + 8 * b + 24 * c
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0)) / 6


def _keys(x: torch.Tensor) -> torch.Tensor:
    # a = -0.5, where torch's bicubic has -0.75.
    return _cubic(x, 0.0, 0.5)


def _mitchell(x: torch.Tensor) -> torch.Tensor:
    return _cubic(x, 1 / 3, 1 / 3)


def _lanczos3(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x.abs() < 3, torch.sinc(x) * torch.sinc(x / 3), 0.0)


def _lanczos5(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x.abs() < 5, torch.sinc(x) * torch.sinc(x / 5), 0.0)


def _gaussian(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x.abs() < 1.5, torch.exp(-2 * x**2), 0.0)


#: Interpolation -> its kernel, a function of the distance in pixels.
KERNELS: Mapping[str, Kernel] = {
    "bilinear": _triangle,
    "bicubic": _keys,
    "mitchellcubic": _mitchell,
    "lanczos3": _lanczos3,
    "lanczos5": _lanczos5,
    "gaussian": _gaussian,
}

#: Names of all interpolations.
INTERPOLATIONS = ("nearest", "area", *KERNELS)


def resize(x: torch.Tensor, size: tuple[int, int], interpolation: str, *, antialias: bool = False) -> torch.Tensor:
    """Resizes images (rows, channels, height, width) to `size`, in floating point.

    `antialias` widens the kernel when downsampling; it has no effect on 'nearest' and 'area'.
    """
    if interpolation == "nearest":
        return _nearest(x, size)
    # On `meta` only the shape matters, which is the same for all kernels.
    if x.is_meta or (interpolation == "bilinear" and not antialias):
        return functional.interpolate(x, size, mode="bilinear", align_corners=False)
    for axis, length in ((2, size[0]), (3, size[1])):
        matrix = _weights(x.shape[axis], length, interpolation, antialias).to(x.device, x.dtype)
        x = torch.tensordot(x, matrix, dims=([axis], [1])).movedim(-1, axis)
    return x


def _nearest(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    for axis, length in ((2, size[0]), (3, size[1])):
        places = (torch.arange(length, device=x.device) + 0.5) * (x.shape[axis] / length)
        x = x.index_select(axis, places.long().clamp(max=x.shape[axis] - 1))
    return x


@lru_cache(maxsize=32)
@torch.inference_mode(False)  # An inference tensor couldn't be used in training later.
def _weights(old: int, new: int, interpolation: str, antialias: bool) -> torch.Tensor:
    """Returns the weight of each old pixel in each new one: (new, old), with rows that sum to 1."""
    scale = old / new
    steps = torch.arange(old, dtype=torch.float64)
    if interpolation == "area":
        edges = torch.arange(new + 1, dtype=torch.float64) * scale
        covered = torch.minimum(edges[1:, None], steps + 1) - torch.maximum(edges[:-1, None], steps)
        return (covered.clamp(min=0) / scale).float()
    centres = (torch.arange(new, dtype=torch.float64)[:, None] + 0.5) * scale - 0.5
    if interpolation == "bicubic" and not antialias:
        # TensorFlow reads this kernel from a table with 1024 entries per pixel.
        centres = (centres * 1024).round() / 1024
    stretch = max(scale, 1.0) if antialias else 1.0
    weights = KERNELS[interpolation]((steps - centres) / stretch)
    # Weights outside of the image are dropped, and the others normalised.
    total = weights.sum(1, keepdim=True)
    return torch.where(total.abs() < 1000 * torch.finfo(torch.float32).tiny, 0.0, weights / total).float()
