"""Filters of images, and similarity of images (keras.ops.image and nn)."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from layergraph.config.options import nonnegative, number, one_of, option, optional, positive_int, sizes
from layergraph.functional.call_context import CallContext
from layergraph.functional.weights import Weights
from layergraph.ops.operation import Operation, as_tensors


class _Filter(Operation):
    keras_module = "keras.src.ops.image"

    data_format: Any = option(optional(one_of("channels_last", "channels_first")), default=None, kw_only=True)

    def channels_first(self, images: torch.Tensor) -> torch.Tensor:
        """Images as (rows, channels, height, width)."""
        x = images.unsqueeze(0) if images.ndim == 3 else images
        return x if self.data_format == "channels_first" else x.movedim(-1, 1)

    def as_given(self, y: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """The inverse conversion, for (rows, channels, height, width, ...)."""
        y = y if self.data_format == "channels_first" else y.movedim(1, 3)
        return y.squeeze(0) if images.ndim == 3 else y


def _by_channel(x: torch.Tensor, kernel: torch.Tensor, padding: tuple[int, int] = (0, 0)) -> torch.Tensor:
    """Each channel of (rows, channels, height, width) convolved with a kernel (height, width)."""
    channels = x.shape[1]
    return functional.conv2d(x, kernel.expand(channels, 1, *kernel.shape), padding=padding, groups=channels)


def _gaussian(size: int, sigma: float, like: torch.Tensor) -> torch.Tensor:
    """A Gaussian window (size,) with a sum of 1."""
    at = torch.arange(size, dtype=like.dtype, device=like.device) - (size - 1) / 2
    values = torch.exp(-0.5 * (at / sigma) ** 2)
    return values / values.sum()


class GaussianBlur(_Filter):
    """The blurred images (keras.ops.image.gaussian_blur)."""

    kernel_size: Any = option(sizes(2), default=(3, 3))
    sigma: Any = option(sizes(2, nonnegative), default=(1.0, 1.0))  # type: ignore[arg-type]

    def forward(self, context: CallContext, w: Weights, images: torch.Tensor) -> torch.Tensor:
        height, width = self.kernel_size
        first, second = self.sigma
        # Keras multiplies the windows in this order: the second sigma is that along the height.
        kernel = torch.outer(_gaussian(width, second, images), _gaussian(height, first, images)).reshape(height, width)
        y = _by_channel(self.channels_first(images), kernel, (height // 2, width // 2))
        return self.as_given(y, images)


class SobelEdges(_Filter):
    """The vertical and horizontal gradients of each pixel, along a new last axis (keras.ops.image.sobel_edges)."""

    def forward(self, context: CallContext, w: Weights, images: torch.Tensor) -> torch.Tensor:
        across = torch.tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], dtype=images.dtype, device=images.device)
        x = self.channels_first(images)
        return self.as_given(torch.stack([_by_channel(x, k, (1, 1)) for k in (across.T, across)], -1), images)


class SSIM(_Filter):
    """The structural similarity of each pair of images; 1 for equal images (keras.ops.image.ssim).

    Source: Wang et al. 2004, "Image quality assessment".
    """

    max_val: float = option(number, default=1.0)
    filter_size: int = option(positive_int, default=11)
    filter_sigma: float = option(number, default=1.5)
    k1: float = option(number, default=0.01)
    k2: float = option(number, default=0.03)

    def forward(self, context: CallContext, w: Weights, image1: torch.Tensor, image2: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        floats = [image if image.is_floating_point() else image.to(torch.float32) for image in (image1, image2)]
        a, b = (self.channels_first(image) for image in floats)
        window = _gaussian(self.filter_size, self.filter_sigma, a)
        kernel = torch.outer(window, window)
        mean_a, mean_b = _by_channel(a, kernel), _by_channel(b, kernel)
        var_a = _by_channel(a * a, kernel) - mean_a * mean_a
        var_b = _by_channel(b * b, kernel) - mean_b * mean_b
        both = _by_channel(a * b, kernel) - mean_a * mean_b
        c1, c2 = (self.k1 * self.max_val) ** 2, (self.k2 * self.max_val) ** 2
        similarity = (2 * mean_a * mean_b + c1) * (2 * both + c2)
        similarity = similarity / ((mean_a * mean_a + mean_b * mean_b + c1) * (var_a + var_b + c2))
        y = similarity.mean((1, 2, 3))
        return (y.squeeze(0) if image1.ndim == 3 else y).to(image1.dtype)


class PSNR(Operation):
    """The peak signal-to-noise ratio in decibels, by the mean error over all rows (keras.ops.psnr)."""

    keras_module = "keras.src.ops.nn"

    max_val: float = option(number)

    def forward(self, context: CallContext, w: Weights, x1: Any, x2: Any) -> torch.Tensor:  # type: ignore[override]
        a, b = as_tensors(x1, x2)
        largest = torch.as_tensor(self.max_val, dtype=a.dtype, device=a.device)
        return 20 * torch.log10(largest) - 10 * torch.log10((a - b).square().mean())


OPERATIONS: dict[str, type[Operation]] = {
    "GaussianBlur": GaussianBlur,
    "PSNR": PSNR,
    "SSIM": SSIM,
    "SobelEdges": SobelEdges,
}
