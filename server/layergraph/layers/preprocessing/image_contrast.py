"""Contrast of images, evened out in training and inference (keras.layers.AutoContrast and CLAHE)."""

from __future__ import annotations

import torch

from layergraph.config.options import nonnegative, option, sizes
from layergraph.errors import DataError
from layergraph.functional.call_context import CallContext
from layergraph.functional.layer import Layer
from layergraph.functional.weights import Weights
from layergraph.layers.preprocessing.augmentation import value_range
from layergraph.layers.preprocessing.images import ImageLayer

#: Values that a pixel is told apart by.
_LEVELS = 256


def ranged(x: torch.Tensor, source: tuple[float, float], target: tuple[float, float]) -> torch.Tensor:
    """Values of one range in another."""
    if source == target:
        return x
    return (x - source[0]) / (source[1] - source[0]) * (target[1] - target[0]) + target[0]


class AutoContrast(ImageLayer):
    """Each channel of an image stretched to the whole range of values (keras.layers.AutoContrast)."""

    value_range: tuple[float, float] = option(value_range, default=(0, 255))

    def forward(self, context: CallContext, w: Weights, inputs: torch.Tensor) -> torch.Tensor:
        """The stretched images; what has a single value stays as it is."""
        original = self.converted(inputs)
        x = ranged(original, self.value_range, (0, 255))
        # Keras takes axes 1 and 2 for height and width, wherever the channels are.
        low, high = x.amin((1, 2), keepdim=True), x.amax((1, 2), keepdim=True)
        scale = 255.0 / (high - low)
        stretched = ranged((x * scale - low * scale).clamp(0, 255), (0, 255), self.value_range)
        return torch.where(stretched.isnan(), original, stretched)


class ContrastLimitedAdaptiveHistogramEqualization(ImageLayer):
    """Values spread evenly in each of some tiles, between which pixels are interpolated (Zuiderveld, 1994).

    This is keras.layers.ContrastLimitedAdaptiveHistogramEqualization.

    clip_limit       how many times more pixels than on average may have one value; 0 is any number
    tile_grid_size   numbers of tiles down and across
    """

    value_range: tuple[float, float] = option(value_range, default=(0, 255))
    clip_limit: float = option(nonnegative, default=4.0)
    tile_grid_size: tuple[int, ...] = option(sizes(2), default=(8, 8))

    def forward(self, context: CallContext, w: Weights, inputs: torch.Tensor) -> torch.Tensor:
        """The equalized images. Raises DataError for images smaller than what a tile lacks."""
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
        """The new value of each level in each tile, with the outermost tiles twice."""
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
    """For each place on an axis the tile before it and how far it is on the way to the next."""
    places = (torch.arange(length, dtype=torch.float32, device=x.device) - tile / 2.0) / tile + 1.0
    before = places.floor()
    return before.to(torch.int64), places - before


def _mirrored(x: torch.Tensor, axis: int, more: int) -> torch.Tensor:
    """The image with `more` steps after it, which mirror its last ones."""
    if not more:
        return x
    if more > x.shape[axis]:
        raise DataError(
            f"axis {axis} of the image is {x.shape[axis]} long, expected at least {more}, which a tile lacks"
        )
    return torch.cat([x, x.narrow(axis, x.shape[axis] - more, more).flip(axis)], axis)


LAYERS: dict[str, type[Layer]] = {
    "AutoContrast": AutoContrast,
    "ContrastLimitedAdaptiveHistogramEqualization": ContrastLimitedAdaptiveHistogramEqualization,
}
