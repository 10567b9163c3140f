"""Random image augmentation in training; in inference images pass unchanged (keras.layers.RandomFlip and others)."""

from __future__ import annotations

from typing import Any

import torch

from layergraph.config.options import (
    Expected,
    anything,
    fraction,
    number,
    one_of,
    option,
    optional,
    positive_int,
)
from layergraph.errors import GraphError
from layergraph.functional.call_context import CallContext
from layergraph.functional.layer import Layer
from layergraph.functional.weights import Weights
from layergraph.layers.interpolation import resize
from layergraph.layers.preprocessing.images import ImageLayer, middle_of_resized, smart_resize

FILL_MODES = ("reflect", "wrap", "constant", "nearest")


def bounds(value: Any) -> Any:
    """Validator: a number, or the lower and upper bound of random values."""
    if isinstance(value, (list, tuple)):
        if len(value) != 2:
            raise Expected("a number, or two of them")
        return tuple(_kept(item) for item in value)
    return _kept(value)


def _kept(value: Any) -> float:
    """Keeps integers as integers: Keras accepts nothing else as a number of bits."""
    return value if type(value) is int and abs(value) < 2**31 else number(value)


def value_range(value: Any) -> tuple[float, float]:
    """Validator: the lowest and highest value of a pixel."""
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise Expected("two numbers, the lowest and the highest value of a pixel")
    lowest, highest = sorted(number(item) for item in value)
    return lowest, highest


class RandomImageLayer(ImageLayer):
    """Changes images randomly in training."""

    seed: Any = option(anything, default=None, kw_only=True)

    def forward(self, context: CallContext, w: Weights, inputs: torch.Tensor) -> torch.Tensor:
        """Returns the images, changed in training. Raises GraphError if the layer isn't supported in training."""
        x = self.converted(inputs)
        if not context.training:
            return x
        return self.from_planes(self.changed(context, self.planes(x)), x.ndim)

    def compute_mask(self, context: CallContext, inputs: Any, mask: Any) -> Any:
        """The inputs' mask, if they are unchanged."""
        return None if context.training else mask

    def changed(self, context: CallContext, x: torch.Tensor) -> torch.Tensor:
        """Changes images (rows, channels, height, width), each with its own random values."""
        raise GraphError(
            f"layer '{self.name}' ({type(self).__name__}): not supported in training; in inference it passes images "
            "unchanged, so expected a model without the layer for training"
        )


class Unseeded(RandomImageLayer):
    """A layer whose config lacks the seed, as in Keras."""

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["seed"]
        return config


class RandomFlip(RandomImageLayer):
    """Flips images randomly (keras.layers.RandomFlip). mode: horizontal, vertical, horizontal_and_vertical."""

    mode: str = option(one_of("horizontal", "vertical", "horizontal_and_vertical"), default="horizontal_and_vertical")

    def changed(self, context: CallContext, x: torch.Tensor) -> torch.Tensor:
        """Flips the images in each direction with probability 0.5."""
        if "horizontal" in self.mode:
            x = torch.where(_chance(context, x, 0.5), x.flip(3), x)
        if "vertical" in self.mode:
            x = torch.where(_chance(context, x, 0.5), x.flip(2), x)
        return x


class RandomBrightness(RandomImageLayer):
    """Adds a random number to an image's pixels, `factor` times the value range (keras.layers.RandomBrightness)."""

    factor: Any = option(bounds)
    value_range: tuple[float, float] = option(value_range, default=(0, 255))

    def changed(self, context: CallContext, x: torch.Tensor) -> torch.Tensor:
        """Changes the brightness."""
        low, high = self.value_range
        delta = _drawn(context, x, self.factor) * (high - low)
        return (x + delta).clamp(low, high)


class RandomContrast(RandomImageLayer):
    """Scales pixels randomly around their channel's mean (keras.layers.RandomContrast)."""

    factor: Any = option(bounds)
    value_range: tuple[float, float] = option(value_range, default=(0, 255))

    def changed(self, context: CallContext, x: torch.Tensor) -> torch.Tensor:
        """Changes the contrast."""
        # For a single number, Keras 3 uses the upper half only.
        low, high = sorted(self.factor) if isinstance(self.factor, tuple) else (0.0, abs(self.factor))
        scale = _uniform(context, x, 1 - low, 1 + high)
        mean = x.mean((2, 3), keepdim=True)
        return ((x - mean) * scale + mean).clamp(*self.value_range)


class RandomCrop(RandomImageLayer):
    """Crops images at a random position, the same for the batch; smaller images are resized (keras.layers.RandomCrop).

    image_rule   in inference `keras3` passes images unchanged; `keras2` crops to the aspect ratio and resizes;
                 `shorter_side`, as in tf.keras up to 2.6, resizes to the shorter side and crops the middle
    """

    height: int = option(positive_int)
    width: int = option(positive_int)
    image_rule: str = option(one_of("keras3", "keras2", "shorter_side"), default="keras3", kw_only=True, saved=False)

    def forward(self, context: CallContext, w: Weights, inputs: torch.Tensor) -> torch.Tensor:
        if context.training or self.image_rule == "keras3":
            return super().forward(context, w, inputs)
        x = self.converted(inputs)
        cropped = smart_resize if self.image_rule == "keras2" else middle_of_resized
        return self.from_planes(cropped(self.planes(x), (self.height, self.width)), x.ndim)

    def changed(self, context: CallContext, x: torch.Tensor) -> torch.Tensor:
        """Crops all images at the same position."""
        free = x.shape[2] - self.height, x.shape[3] - self.width
        if min(free) < 0:
            return resize(x, (self.height, self.width), "bilinear")
        top, left = (int(torch.randint(0, room + 1, (), generator=context.generator)) for room in free)
        return x[:, :, top : top + self.height, left : left + self.width]


class RandomGrayscale(Unseeded):
    """Converts a fraction `factor` of the images to grayscale (keras.layers.RandomGrayscale)."""

    factor: float = option(fraction, default=0.5)

    def changed(self, context: CallContext, x: torch.Tensor) -> torch.Tensor:
        """Converts some images, with the weights of red, green and blue of ITU-R BT.601."""
        weights = torch.tensor([0.2989, 0.587, 0.114], dtype=x.dtype, device=x.device).reshape(1, 3, 1, 1)
        return torch.where(_chance(context, x, self.factor), (x * weights).sum(1, keepdim=True), x)


class RandomInvert(RandomImageLayer):
    """Inverts images randomly (keras.layers.RandomInvert). factor: the probability, or the bounds of a random one."""

    factor: Any = option(bounds, default=1.0)
    value_range: tuple[float, float] = option(value_range, default=(0, 255))

    def changed(self, context: CallContext, x: torch.Tensor) -> torch.Tensor:
        """Inverts some images."""
        low, high = self.factor if isinstance(self.factor, tuple) else (0.0, self.factor)
        chosen = _uniform(context, x, 0, 1) < _uniform(context, x, low, high)
        return torch.where(chosen, self.value_range[1] - x, x)


class _Warp(RandomImageLayer):
    """A random affine transformation of images."""

    fill_mode: str = option(one_of(*FILL_MODES), default="reflect", kw_only=True)
    interpolation: str = option(one_of("bilinear", "nearest"), default="bilinear", kw_only=True)
    fill_value: float = option(number, default=0.0, kw_only=True)

    def warped(self, x: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
        """Warps images: pixel (x, y, 1) is sampled at `matrix` @ (x, y, 1); (rows, 2, 3), in pixels from the centre."""
        height, width = x.shape[2:]
        across = torch.arange(width, device=x.device, dtype=x.dtype) - (width - 1) / 2
        down = torch.arange(height, device=x.device, dtype=x.dtype) - (height - 1) / 2
        ys, xs = torch.meshgrid(down, across, indexing="ij")
        places = torch.stack([xs, ys, torch.ones_like(xs)], -1) @ matrix.to(x.dtype).transpose(1, 2).unsqueeze(1)
        from_x = self._inside(places[..., 0] + (width - 1) / 2, width)
        from_y = self._inside(places[..., 1] + (height - 1) / 2, height)
        # grid_sample's coordinates go from -1 to 1 between the outer edges of the pixels.
        if self.fill_mode == "wrap":
            # One column and row on each side, so that interpolation between the last pixel and the first wraps around.
            x = torch.nn.functional.pad(x, (1, 1, 1, 1), mode="circular")
            from_x, from_y, width, height = from_x + 1, from_y + 1, width + 2, height + 2
        grid = torch.stack([(from_x * 2 + 1) / width - 1, (from_y * 2 + 1) / height - 1], -1)
        padding = {"reflect": "reflection", "constant": "zeros"}.get(self.fill_mode, "border")
        fill = self.fill_value if self.fill_mode == "constant" else 0.0
        sampled = torch.nn.functional.grid_sample(
            x - fill, grid, mode=self.interpolation, padding_mode=padding, align_corners=False
        )
        return sampled + fill

    def _inside(self, places: torch.Tensor, length: int) -> torch.Tensor:
        return places.remainder(length) if self.fill_mode == "wrap" else places


class RandomRotation(_Warp):
    """Rotates images randomly around their centre (keras.layers.RandomRotation). factor: fractions of a full turn."""

    factor: Any = option(bounds)

    def changed(self, context: CallContext, x: torch.Tensor) -> torch.Tensor:
        """Rotates the images."""
        angle = _drawn(context, x, self.factor).flatten() * (2 * torch.pi)
        cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
        matrix = torch.stack([cos, -sin, zero, sin, cos, zero], 1).reshape(-1, 2, 3)
        return self.warped(x, matrix)


class RandomTranslation(_Warp):
    """Translates images randomly by a fraction of their size (keras.layers.RandomTranslation)."""

    height_factor: Any = option(bounds)
    width_factor: Any = option(bounds)

    def changed(self, context: CallContext, x: torch.Tensor) -> torch.Tensor:
        """Translates the images."""
        down = _drawn(context, x, self.height_factor).flatten() * x.shape[2]
        across = _drawn(context, x, self.width_factor).flatten() * x.shape[3]
        one, zero = torch.ones_like(down), torch.zeros_like(down)
        return self.warped(x, torch.stack([one, zero, -across, zero, one, -down], 1).reshape(-1, 2, 3))


class RandomZoom(_Warp):
    """Zooms images randomly (keras.layers.RandomZoom). Positive factors zoom out."""

    height_factor: Any = option(bounds)
    width_factor: Any = option(optional(bounds), default=None)

    def changed(self, context: CallContext, x: torch.Tensor) -> torch.Tensor:
        """Zooms the images; without a width factor the aspect ratio is preserved."""
        down = 1 + _drawn(context, x, self.height_factor).flatten()
        across = down if self.width_factor is None else 1 + _drawn(context, x, self.width_factor).flatten()
        zero = torch.zeros_like(down)
        return self.warped(x, torch.stack([across, zero, zero, zero, down, zero], 1).reshape(-1, 2, 3))


def _uniform(
    context: CallContext, x: torch.Tensor, low: float | torch.Tensor, high: float | torch.Tensor
) -> torch.Tensor:
    """Draws a number from low to high for each image: (rows, 1, 1, 1)."""
    drawn = context.drawn((x.shape[0], 1, 1, 1), x, lambda empty: empty.uniform_(generator=context.generator))
    return low + drawn * (high - low)


def _drawn(context: CallContext, x: torch.Tensor, limits: Any) -> torch.Tensor:
    """Draws a number for each image, between two bounds, or from -limit to limit for one."""
    low, high = limits if isinstance(limits, tuple) else (-abs(limits), abs(limits))
    return _uniform(context, x, low, high)


def _chance(context: CallContext, x: torch.Tensor, probability: float) -> torch.Tensor:
    return _uniform(context, x, 0, 1) < probability


LAYERS: dict[str, type[Layer]] = {
    "RandomBrightness": RandomBrightness,
    "RandomContrast": RandomContrast,
    "RandomCrop": RandomCrop,
    "RandomFlip": RandomFlip,
    "RandomGrayscale": RandomGrayscale,
    "RandomInvert": RandomInvert,
    "RandomRotation": RandomRotation,
    "RandomTranslation": RandomTranslation,
    "RandomZoom": RandomZoom,
}
