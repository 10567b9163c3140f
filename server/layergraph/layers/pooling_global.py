"""Pooling over entire axes, to one value or a fixed number (keras.layers.Global*Pooling*, Adaptive*Pooling*)."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from layergraph.config.options import anything, boolean, one_of, option
from layergraph.functional.call_context import CallContext
from layergraph.functional.layer import Layer
from layergraph.functional.weights import Weights
from layergraph.layers.spatial import SpatialLayer, data_format


class _GlobalPooling(SpatialLayer):
    """Pools each channel to one value. Output (rows, channels); with `keepdims` the spatial axes stay, of length 1."""

    data_format: str = option(data_format, default=None)
    keepdims: bool = option(boolean, default=False)

    def pooled_axes(self, x: torch.Tensor) -> tuple[int, ...]:
        """Returns the axes to pool over. Raises GraphError for another rank."""
        self.check_rank(x.ndim)
        return self.spatial_axes


class _GlobalMaxPooling(_GlobalPooling):
    """Maximum of each channel."""

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        """Computes the outputs. Raises DataError if an axis is empty."""
        self.check_windows(self.lengths(x), [1] * self.rank)
        return self.floating(x).amax(self.pooled_axes(x), keepdim=self.keepdims)


class _GlobalAveragePooling(_GlobalPooling):
    """Mean of each channel."""

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        """Computes the outputs. An empty axis gives NaN, as in Keras."""
        return self.floating(x).mean(self.pooled_axes(x), keepdim=self.keepdims)


class GlobalMaxPooling1D(_GlobalMaxPooling):
    """Maximum over one axis (keras.layers.GlobalMaxPooling1D)."""

    rank = 1


class GlobalMaxPooling2D(_GlobalMaxPooling):
    """Maximum over images (keras.layers.GlobalMaxPooling2D)."""

    rank = 2


class GlobalMaxPooling3D(_GlobalMaxPooling):
    """Maximum over volumes (keras.layers.GlobalMaxPooling3D)."""

    rank = 3


class GlobalAveragePooling1D(_GlobalPooling):
    """Mean over one axis, of the unmasked steps if there is a mask (keras.layers.GlobalAveragePooling1D).

    mask_rule   what a mask of numbers does: as in `keras3`, or weigh the steps, as up to Keras 3.14 (`weights`). Set
                from the file's version
    """

    mask_rule: str = option(one_of("keras3", "weights"), default="keras3", kw_only=True, saved=False)

    rank = 1
    supports_masking = True

    def forward(
        self, context: CallContext, w: Weights, x: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Computes the outputs. A row without steps, or with all of them masked, gives NaN, as in Keras."""
        x = self.floating(x)
        axes = self.pooled_axes(x)
        if mask is None:
            return x.mean(axes, keepdim=self.keepdims)
        mask = mask.unsqueeze(1 if self.channels_first else 2)
        if self.mask_rule == "weights":
            weights = mask.to(x.dtype)
            x = x * weights
        else:
            weights = mask.bool().to(x.dtype)
            x = x.where(mask.bool(), 0)
        return x.sum(axes, keepdim=self.keepdims) / weights.sum(axes, keepdim=self.keepdims)

    def compute_mask(self, context: CallContext, inputs: Any, mask: Any) -> Any:
        """None: the output has no timesteps."""
        return None


class GlobalAveragePooling2D(_GlobalAveragePooling):
    """Mean over images (keras.layers.GlobalAveragePooling2D)."""

    rank = 2


class GlobalAveragePooling3D(_GlobalAveragePooling):
    """Mean over volumes (keras.layers.GlobalAveragePooling3D)."""

    rank = 3


class _AdaptivePooling(SpatialLayer):
    """Pools over `output_size` windows of (nearly) equal length per axis, which overlap by a step where necessary.

    Input (rows, *spatial, channels), output (rows, *output_size, channels).
    """

    output_size: Any = option(anything)
    data_format: str = option(data_format, default=None)

    def setup(self) -> None:
        self.each_axis("output_size")

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        self.check_windows(self.lengths(x), [1] * self.rank)
        y = self.pool(self.to_torch(self.floating(x)), self.torch_sizes(self.output_size))
        return self.from_torch(y)

    def pool(self, x: torch.Tensor, output_size: tuple[int, ...]) -> torch.Tensor:
        """Applies the pooling in torch's layout."""
        raise NotImplementedError


class _AdaptiveAveragePooling(_AdaptivePooling):
    """Mean of each window."""

    def pool(self, x: torch.Tensor, output_size: tuple[int, ...]) -> torch.Tensor:
        pool: Any = functional.adaptive_avg_pool2d if x.ndim == 4 else functional.adaptive_avg_pool3d
        pooled: torch.Tensor = pool(x, output_size)
        return pooled


class _AdaptiveMaxPooling(_AdaptivePooling):
    """Maximum of each window."""

    def pool(self, x: torch.Tensor, output_size: tuple[int, ...]) -> torch.Tensor:
        pool: Any = functional.adaptive_max_pool2d if x.ndim == 4 else functional.adaptive_max_pool3d
        pooled: torch.Tensor = pool(x, output_size)
        return pooled


class AdaptiveAveragePooling1D(_AdaptiveAveragePooling):
    """Means of a fixed number of windows over one axis (keras.layers.AdaptiveAveragePooling1D)."""

    rank = 1


class AdaptiveAveragePooling2D(_AdaptiveAveragePooling):
    """Means of a fixed number of windows over images (keras.layers.AdaptiveAveragePooling2D)."""

    rank = 2


class AdaptiveAveragePooling3D(_AdaptiveAveragePooling):
    """Means of a fixed number of windows over volumes (keras.layers.AdaptiveAveragePooling3D)."""

    rank = 3


class AdaptiveMaxPooling1D(_AdaptiveMaxPooling):
    """Maxima of a fixed number of windows over one axis (keras.layers.AdaptiveMaxPooling1D)."""

    rank = 1


class AdaptiveMaxPooling2D(_AdaptiveMaxPooling):
    """Maxima of a fixed number of windows over images (keras.layers.AdaptiveMaxPooling2D)."""

    rank = 2


class AdaptiveMaxPooling3D(_AdaptiveMaxPooling):
    """Maxima of a fixed number of windows over volumes (keras.layers.AdaptiveMaxPooling3D)."""

    rank = 3


LAYERS: dict[str, type[Layer]] = {
    "GlobalMaxPooling1D": GlobalMaxPooling1D,
    "GlobalMaxPooling2D": GlobalMaxPooling2D,
    "GlobalMaxPooling3D": GlobalMaxPooling3D,
    "GlobalAveragePooling1D": GlobalAveragePooling1D,
    "GlobalAveragePooling2D": GlobalAveragePooling2D,
    "GlobalAveragePooling3D": GlobalAveragePooling3D,
    "AdaptiveAveragePooling1D": AdaptiveAveragePooling1D,
    "AdaptiveAveragePooling2D": AdaptiveAveragePooling2D,
    "AdaptiveAveragePooling3D": AdaptiveAveragePooling3D,
    "AdaptiveMaxPooling1D": AdaptiveMaxPooling1D,
    "AdaptiveMaxPooling2D": AdaptiveMaxPooling2D,
    "AdaptiveMaxPooling3D": AdaptiveMaxPooling3D,
}
