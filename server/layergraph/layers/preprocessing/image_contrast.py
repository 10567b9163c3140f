"""Contrast equalization, in training and inference (keras.layers.AutoContrast and CLAHE)."""

from __future__ import annotations

import torch

from layergraph.config.options import nonnegative, option, sizes
from layergraph.errors import DataError
from layergraph.functional.call_context import CallContext
from layergraph.functional.layer import Layer
from layergraph.functional.weights import Weights
from layergraph.layers.preprocessing.augmentation import value_range
from layergraph.layers.preprocessing.images import ImageLayer

#: Number of levels of a pixel.
_LEVELS = 256


def ranged(x: torch.Tensor, source: tuple[float, float], target: tuple[float, float]) -> torch.Tensor:
    """Rescales values from one range to another."""
    if source == target:
        return x
    return (x - source[0]) / (source[1] - source[0]) * (target[1] - target[0]) + target[0]


class AutoContrast(ImageLayer):
    """Stretches each channel of an image to the full range of values (keras.layers.AutoContrast)."""

    value_range: tuple[float, float] = option(value_range, default=(0, 255))

    def forward(self, context: CallContext, w: Weights, inputs: torch.Tensor) -> torch.Tensor:
        """Computes the stretched images; constant channels stay unchanged."""
        original = self.converted(inputs)
        x = ranged(original, self.value_range, (0, 255))
        # Keras treats axes 1 and 2 as height and width, whatever the data format.
        low, high = x.amin((1, 2), keepdim=True), x.amax((1, 2), keepdim=True)
        scale = 255.0 / (high - low)
        stretched = ranged((x * scale - low * scale).clamp(0, 255), (0, 255), self.value_range)
        return torch.where(stretched.isnan(), original, stretched)


class ContrastLimitedAdaptiveHistogramEqualization(ImageLayer):
    """Equalizes the histogram of each tile, with interpolation between tiles (CLAHE; Zuiderveld, 1994).

    Source: keras.layers.ContrastLimitedAdaptiveHistogramEqualization.

    clip_limit       maximum number of pixels of one level, relative to the average; 0 means no limit
    tile_grid_size   number of tiles vertically and horizontally
    """

    value_range: tuple[float, float] = option(value_range, default=(0, 255))
    clip_limit: float = option(nonnegative, default=4.0)
    tile_grid_size: tuple[int, ...] = option(sizes(2), default=(8, 8))

    def forward(self, context: CallContext, w: Weights, inputs: torch.Tensor) -> torch.Tensor:
        """Computes the equalized images. Raises DataError for images smaller than the padding of their tiles."""
        x = ranged(self.planes(inputs).to(torch.float32), self.value_range, (0, 255))
        y = ranged(self._equalized(x), (0, 255), self.value_range)
        return self.from_planes(y, inputs.ndim).to(inputs.dtype)

    def _equalized(self, x: torch.Tensor) -> torch.Tensor:
        down, across = self.tile_grid_size
        height, width = x.shape[2:]
        tile = -(-height // down), -(-width // across)
        padded = _mirrored(_mirrored(x, 2, tile[0] * down - height), 3, tile[1] * across - width)
        levels = padded.clamp(0, _LEVELS - 1).to(torch.int64)
        tables = self._tables(levels, tile)  # (rows, channels, down + 2, across + 2, levels)
        if x.is_meta:
            return x
        top, part_down = _neighbours(padded.shape[2], tile[0], x)
        left, part_across = _neighbours(padded.shape[3], tile[1], x)
        rows = torch.arange(x.shape[0], device=x.device)[:, None, None, None]
        channels = torch.arange(x.shape[1], device=x.device)[:, None, None]

        def looked_up(below: int, right: int) -> torch.Tensor:
            return tables[rows, channels, (top + below)[:, None], left + right, levels]

        upper = torch.lerp(looked_up(0, 0), looked_up(0, 1), part_across)
        lower = torch.lerp(looked_up(1, 0), looked_up(1, 1), part_across)
        return torch.lerp(upper, lower, part_down[:, None])[:, :, :height, :width]

    def _tables(self, levels: torch.Tensor, tile: tuple[int, int]) -> torch.Tensor:
        """Returns the new value of each level in each tile, with the outermost tiles repeated."""
        rows, channels = levels.shape[:2]
        down, across = self.tile_grid_size
        size = tile[0] * tile[1]
        tiles = levels.reshape(rows, channels, down, tile[0], across, tile[1]).transpose(3, 4).flatten(4)
        counts = torch.zeros((rows, channels, down, across, _LEVELS), device=levels.device)
        counts = counts.scatter_add(4, tiles, torch.ones_like(tiles, dtype=torch.float32))
        if self.clip_limit > 0:
            clipped = counts.clamp(max=self.clip_limit * size / _LEVELS)
            counts = clipped + (counts - clipped).sum(4, keepdim=True) / _LEVELS
        total = counts.cumsum(4)
        lowest = total[..., :1]
        room = size - lowest
        table = ((total - lowest) * (_LEVELS - 1) / torch.where(room == 0, 1, room)).clamp(0, _LEVELS - 1)
        table = torch.cat([table[:, :, :1], table, table[:, :, -1:]], 2)
        return torch.cat([table[:, :, :, :1], table, table[:, :, :, -1:]], 3)


def _neighbours(length: int, tile: int, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns, for each position on an axis, the index of the tile before it and the weight of the next one."""
    places = (torch.arange(length, dtype=torch.float32, device=x.device) - tile / 2.0) / tile + 1.0
    before = places.floor()
    return before.to(torch.int64), places - before


def _mirrored(x: torch.Tensor, axis: int, more: int) -> torch.Tensor:
    """Pads the end of an axis with `more` steps that mirror its last ones. Raises DataError if it is too short."""
    if not more:
        return x
    if more > x.shape[axis]:
        raise DataError(
            f"axis {axis} of the image is {x.shape[axis]} long, expected at least {more}, the padding of its tiles"
        )
    return torch.cat([x, x.narrow(axis, x.shape[axis] - more, more).flip(axis)], axis)


LAYERS: dict[str, type[Layer]] = {
    "AutoContrast": AutoContrast,
    "ContrastLimitedAdaptiveHistogramEqualization": ContrastLimitedAdaptiveHistogramEqualization,
}
