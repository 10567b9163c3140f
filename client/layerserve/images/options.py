"""How encoded images become the array of an input."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, get_args

from layerserve.images.preprocessing import MODES

Loader = Literal["load_img", "image_dataset_from_directory"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]

#: Interpolations of each function of Keras; the first is its default.
INTERPOLATIONS: Final[dict[str, tuple[str, ...]]] = {
    "load_img": get_args(Interpolation),
    "image_dataset_from_directory": ("bilinear", "nearest"),
}
#: Maximum number of pixels of an image: that of a phone's largest photo.
MAX_PIXELS: Final = 50_000_000
#: Maximum size of an encoded image, in bytes.
MAX_BYTES: Final = 32 << 20


@dataclass(frozen=True, slots=True)
class ImageOptions:
    """How encoded images become the array of an input. Raises ValueError for options that don't fit together.

    `loader` is the function of `keras.utils` whose resizing is used. `load_img` resizes with Pillow, in whole numbers:
    the pixels are equal to Keras's. `image_dataset_from_directory` resizes with floats and without antialiasing, as
    `tf.image.resize` does: from equal pixels it computes equal numbers. Pillow's pixels are TensorFlow's, but for JPEG,
    which differs by up to 4 of 255 (1 on average), colors as gray (1 for PNG), and 16 bits, which TensorFlow cuts to 8.
    """

    loader: Loader = "load_img"
    #: Interpolation of the resizing; by default the loader's: "nearest" or "bilinear".
    interpolation: Interpolation | None = None
    #: Whether the middle of the image is cut out, with the ratio of the input, instead of distorting the image. It is
    #: called `keep_aspect_ratio` in `load_img`.
    crop_to_aspect_ratio: bool = False
    #: Height and width, where the model's input leaves them open. Without it images keep their size.
    size: tuple[int, int] | None = None
    #: The values for black and white.
    range: tuple[float, float] = (0.0, 255.0)
    #: Module of `keras.applications` whose `preprocess_input` is applied, such as "resnet50".
    preprocess_input: str | None = None
    #: Maximum number of pixels, read from the header before an image is decoded.
    max_pixels: int = MAX_PIXELS
    #: Maximum size of an encoded image, in bytes.
    max_bytes: int = MAX_BYTES

    def __post_init__(self) -> None:
        known = INTERPOLATIONS.get(self.loader)
        if known is None:
            raise ValueError(f"loader: got {self.loader!r}, expected one of {', '.join(INTERPOLATIONS)}")
        if self.interpolation is not None and self.interpolation not in known:
            raise ValueError(
                f"interpolation: got {self.interpolation!r} with loader {self.loader!r}, expected one of "
                f"{', '.join(known)}"
            )
        if self.preprocess_input is not None:
            if self.preprocess_input not in MODES:
                raise ValueError(
                    f"preprocess_input: got {self.preprocess_input!r}, expected a module of keras.applications: "
                    f"{', '.join(MODES)}"
                )
            if self.range != (0.0, 255.0):
                raise ValueError(
                    f"range: got {list(self.range)} with preprocess_input {self.preprocess_input!r}, expected one of "
                    "the two"
                )
        low, high = self.range
        if not (math.isfinite(low) and math.isfinite(high)) or low == high:
            raise ValueError(f"range: got {[low, high]}, expected two finite numbers that differ")
        if self.size is not None and min(self.size) < 1:
            raise ValueError(f"size: got {list(self.size)}, expected a height and a width from 1")

    @property
    def filter(self) -> str:
        """The interpolation, or the loader's default."""
        return self.interpolation or INTERPOLATIONS[self.loader][0]


#: Those of `load_img`.
DEFAULTS: Final = ImageOptions()
