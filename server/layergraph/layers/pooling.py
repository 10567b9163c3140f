"""Pooling over windows (keras.layers.MaxPooling*, AveragePooling*)."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from layergraph.config.options import anything, option
from layergraph.functional.call_context import CallContext
from layergraph.functional.layer import Layer
from layergraph.functional.weights import Weights
from layergraph.layers.pooling_global import LAYERS as GLOBAL_POOLING
from layergraph.layers.spatial import SpatialLayer, data_format, padding, same_padding


class _Pooling(SpatialLayer):
    """Pools each window of each channel to one value. `strides` defaults to `pool_size`.

    Input (rows, *spatial, channels), output (rows, *windows, channels).
    """

    pool_size: Any = option(anything, default=2)
    strides: Any = option(anything, default=None)
    padding: str = option(padding, default="valid")
    data_format: str = option(data_format, default=None)

    def setup(self) -> None:
        """Expands sizes to one value per axis. Raises ConfigError for an unsupported padding."""
        self.each_axis("pool_size")
        if self.strides is None:
            self.strides = self.pool_size
        self.each_axis("strides")
        self.check_padding(self.padding)

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        lengths = self.lengths(x)
        same = self.padding == "same"
        self.check_windows(lengths, [1] * self.rank if same else self.pool_size)
        pads = [
            same_padding(*axis) if same else (0, 0) for axis in zip(lengths, self.pool_size, self.strides, strict=True)
        ]
        # torch pads both sides equally. Where Keras pads one more element after than before, padding first would copy.
        # Instead, with strides, the number of windows is rounded up, which adds the last one. Without strides, both
        # sides get the larger padding, and the first window, which that adds, is cropped below.
        surplus = [
            after - before if stride == 1 else 0 for (before, after), stride in zip(pads, self.strides, strict=True)
        ]
        y = self.pool(
            self.to_torch(self.floating(x)),
            self.torch_sizes(self.pool_size),
            self.torch_sizes(self.strides),
            self.torch_sizes([before + extra for (before, _), extra in zip(pads, surplus, strict=True)], 0),
            same,
        )
        return self.cropped(self.from_torch(y), [(extra, 0) for extra in surplus])

    def pool(
        self, x: torch.Tensor, window: tuple[int, ...], strides: tuple[int, ...], pads: tuple[int, ...], round_up: bool
    ) -> torch.Tensor:
        """Applies the pooling in torch's layout."""
        raise NotImplementedError


class _MaxPooling(_Pooling):
    """Maximum of each window; padding counts as minus infinity."""

    def pool(
        self, x: torch.Tensor, window: tuple[int, ...], strides: tuple[int, ...], pads: tuple[int, ...], round_up: bool
    ) -> torch.Tensor:
        pool: Any = functional.max_pool2d if x.ndim == 4 else functional.max_pool3d
        pooled: torch.Tensor = pool(x, window, strides, pads, ceil_mode=round_up)
        return pooled


class _AveragePooling(_Pooling):
    """Mean of each window without padding, as in TensorFlow (Keras on torch includes padding in some cases)."""

    def pool(
        self, x: torch.Tensor, window: tuple[int, ...], strides: tuple[int, ...], pads: tuple[int, ...], round_up: bool
    ) -> torch.Tensor:
        if x.ndim == 4:
            return functional.avg_pool2d(x, window, strides, pads, round_up, count_include_pad=False)
        # torch's avg_pool3d rejects windows longer than an axis. The mean of a volume is the mean over depth of the
        # means of its images; the layout makes all of these views.
        rows, channels, depth = x.shape[:3]
        images = self.pool(x.movedim(2, 1).flatten(0, 1), window[1:], strides[1:], pads[1:], round_up)
        height, width = images.shape[2:]
        columns = images.reshape(rows, depth, channels, height * width).movedim(1, 2)
        means = self.pool(columns, (window[0], 1), (strides[0], 1), (pads[0], 0), round_up)
        return means.reshape(rows, channels, means.shape[2], height, width)


class MaxPooling1D(_MaxPooling):
    """Maximum of windows over one axis (keras.layers.MaxPooling1D)."""

    rank = 1


class MaxPooling2D(_MaxPooling):
    """Maximum of windows over images (keras.layers.MaxPooling2D)."""

    rank = 2


class MaxPooling3D(_MaxPooling):
    """Maximum of windows over volumes (keras.layers.MaxPooling3D)."""

    rank = 3


class AveragePooling1D(_AveragePooling):
    """Mean of windows over one axis (keras.layers.AveragePooling1D)."""

    rank = 1


class AveragePooling2D(_AveragePooling):
    """Mean of windows over images (keras.layers.AveragePooling2D)."""

    rank = 2


class AveragePooling3D(_AveragePooling):
    """Mean of windows over volumes (keras.layers.AveragePooling3D)."""

    rank = 3


LAYERS: dict[str, type[Layer]] = {
    "MaxPooling1D": MaxPooling1D,
    "MaxPooling2D": MaxPooling2D,
    "MaxPooling3D": MaxPooling3D,
    "AveragePooling1D": AveragePooling1D,
    "AveragePooling2D": AveragePooling2D,
    "AveragePooling3D": AveragePooling3D,
    **GLOBAL_POOLING,
}
