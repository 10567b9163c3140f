"""Decoding of JPEG, PNG, WebP, BMP and GIF files to the array of a model's input."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

# Imported so that Pillow knows WebP: it imports by itself the other formats only.
from PIL import Image, UnidentifiedImageError, WebPImagePlugin  # noqa: F401

from layerserve.images.options import DEFAULTS, ImageOptions
from layerserve.images.preprocessing import MODES, preprocessed
from layerserve.images.resizing import dataset_resized, load_img_resized
from layerserve.values.tensor_spec import TensorSpec

#: The formats that are decoded, by Pillow's names. No other code of Pillow sees the bytes.
FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
#: What their files begin with.
_SIGNATURES: Final = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF", b"GIF8", b"BM")
#: Maximum height and width, in pixels: that of JPEG and GIF. WebP has less, PNG and BMP have more.
MAX_SIDE: Final = 65535

#: Modes of Pillow by the number of channels, as `color_mode` of Keras's functions has them.
_MODES: Final = {1: "L", 3: "RGB", 4: "RGBA"}
#: Modes that a gray image keeps, with values beyond 255.
_GRAY: Final = ("L", "I;16", "I")
#: Dtypes of inputs, with that of the array. Integers have to hold 255.
_DTYPES: Final = {
    **{name: name for name in ("float16", "float32", "float64")},
    **{name: name for name in ("uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")},
    # NumPy has no bfloat16.
    "bfloat16": "float32",
}


class ImageError(ValueError):
    """Bytes aren't an image that can be decoded. The text says what was got and expected, without a place.

    `reason` is "format" (no JPEG, PNG, WebP, BMP or GIF file), "damaged" (cut off, or with contents that make no
    sense), "pixels" or "bytes" (too large).
    """

    def __init__(self, reason: Literal["format", "damaged", "pixels", "bytes"], text: str) -> None:
        super().__init__(text)
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return ImageError, (self.reason, str(self))


class ImageDecoder:
    """Decodes images for an input: `ImageDecoder(spec, options)(bytes)` is the array of one row.

    The array has the shape of the input without its first axis, and its dtype (float32 for bfloat16, which NumPy
    lacks). Channels are from the signature, 1, 3 or 4, and are the last axis or, if that can't be, the first one;
    without such an axis an image is gray. They are converted as by `color_mode` of `keras.utils.load_img`. The first
    frame of an animation counts, and, as in Keras, the orientation in EXIF doesn't.

    Raises ValueError if images can't be the rows of the input, and ImageError for an image. Nothing limits the time
    and memory of Pillow's decoders but `options`, so decode images of strangers in another process.
    """

    def __init__(self, spec: TensorSpec, options: ImageOptions = DEFAULTS) -> None:
        """`spec` is the input. Its height and width may be open (see `ImageOptions.size`)."""
        self._options = options
        label = f"input {spec.name!r}"
        if spec.dtype not in _DTYPES:
            raise ValueError(f"{label}: got dtype {spec.dtype}, expected one that holds pixels: {', '.join(_DTYPES)}")
        self.dtype = np.dtype(_DTYPES[spec.dtype])
        self._channels, self._axis = _channels_of(spec, label)
        if self.dtype.kind != "f" and (options.range != (0.0, 255.0) or options.preprocess_input):
            raise ValueError(
                f"{label}: got dtype {spec.dtype} with range or preprocess_input, expected pixels from 0 to 255"
            )
        if options.preprocess_input and MODES[options.preprocess_input] and self._channels != 3:
            raise ValueError(
                f"{label}: got shape {spec.shape} with preprocess_input {options.preprocess_input!r}, expected 3 "
                "channels"
            )
        row = list(spec.shape[1:])
        if self._axis is not None:
            del row[self._axis]
        self._size = _size_of(row[0], row[1], options, label)
        #: The shape of an array that is returned, with None for a length that is the image's, and its dtype.
        self.shape: tuple[int | None, ...] = self._size or (None, None)
        if self._axis is not None:
            self.shape = (*self.shape, self._channels) if self._axis else (self._channels, *self.shape)

    @property
    def max_row_bytes(self) -> int:
        """Maximum size of an array that is returned, in bytes."""
        height, width = self._size or (1, self._options.max_pixels)
        return height * width * self._channels * self.dtype.itemsize

    def __call__(self, data: bytes) -> npt.NDArray[Any]:
        """Returns the array of an image. Raises ImageError."""
        options, size = self._options, self._size
        if len(data) > options.max_bytes:
            raise ImageError("bytes", f"got an image of {len(data)} bytes, expected at most {options.max_bytes}")
        with _decoding(data, options.max_pixels):
            image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
            _check_size(image, options.max_pixels)
            image.load()
            # A frame may be larger than the header says.
            _check_size(image, options.max_pixels)
            image = _converted(image, self._channels)
            if size is not None and options.loader == "load_img":
                image = load_img_resized(image, size, options.filter, crop=options.crop_to_aspect_ratio)
            pixels: npt.NDArray[Any] = np.asarray(image)
        if self._channels == 1:
            pixels = pixels[..., np.newaxis]
        if size is not None and options.loader != "load_img":
            pixels = dataset_resized(pixels, size, options.filter, crop=options.crop_to_aspect_ratio)
        return self._arranged(self._scaled(pixels))

    def _scaled(self, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        options = self._options
        if self.dtype.kind != "f":
            # Floats are cut off, as when Keras converts the data to the dtype of an input.
            return pixels.astype(self.dtype)
        scaled = pixels.astype(np.float32)
        if options.preprocess_input:
            scaled = preprocessed(scaled, options.preprocess_input)
        elif options.range != (0.0, 255.0):
            low, high = options.range
            scaled = scaled / np.float32(255.0 / (high - low)) + np.float32(low)
        return scaled.astype(self.dtype, copy=False)

    def _arranged(self, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Returns pixels (height, width, channels) with the axes of the input, contiguous."""
        if self._axis is None:
            pixels = pixels[..., 0]
        elif self._axis == 0:
            pixels = pixels.transpose(2, 0, 1)
        return np.ascontiguousarray(pixels)


def _channels_of(spec: TensorSpec, label: str) -> tuple[int, int | None]:
    """Returns the number of channels of an input, and the axis of a row that has them; None for gray without one."""
    row = spec.shape[1:]
    if len(row) == 2:
        return 1, None
    if len(row) == 3:
        for axis in (2, 0):
            if (length := row[axis]) in _MODES:
                return int(length), axis
    raise ValueError(
        f"{label}: got shape {spec.shape}, expected rows of images: (height, width) or, with 1, 3 or 4 channels, "
        "(height, width, channels) or (channels, height, width)"
    )


def _size_of(height: int | None, width: int | None, options: ImageOptions, label: str) -> tuple[int, int] | None:
    """Returns the height and width of a row; None if both are open."""
    size = options.size
    if size is None:
        if height is None and width is None:
            return None
        if height is None or width is None:
            raise ValueError(f"{label}: got one open length of height and width; pass the size")
        return height, width
    if height not in (None, size[0]) or width not in (None, size[1]):
        raise ValueError(f"{label}: got size {list(size)}, expected that of the input: {[height, width]}")
    return size


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels or max(width, height) > MAX_SIDE:
        raise ImageError(
            "pixels",
            f"got an image of {width} x {height} pixels, expected at most {max_pixels}, and {MAX_SIDE} on a side",
        )


def _converted(image: Image.Image, channels: int) -> Image.Image:
    """Returns an image with this number of channels, as `load_img` converts it."""
    if channels == 1 and image.mode in _GRAY:
        return image
    mode = _MODES[channels]
    return image if image.mode == mode else image.convert(mode)


@contextmanager
def _decoding(data: bytes, max_pixels: int) -> Iterator[None]:
    """Raises ImageError in place of what Pillow raises."""
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError("pixels", f"got too many pixels ({error}), expected at most {max_pixels}") from error
    except (ImageError, Warning):
        raise
    except UnidentifiedImageError as error:
        if data.startswith(_SIGNATURES):
            raise ImageError("damaged", "got an image whose header is damaged, expected a whole one") from error
        got = f"{len(data)} bytes that begin with {data[:16]!r}" if data else "no bytes"
        raise ImageError("format", f"got {got}, expected a JPEG, PNG, WebP, BMP or GIF image") from error
    except MemoryError as error:
        raise ImageError("pixels", "got an image that takes too much memory, expected a smaller one") from error
    except Exception as error:
        # Pillow raises errors of many kinds: OSError, SyntaxError, struct.error, ValueError, EOFError, ...
        text = str(error)[:200] or type(error).__name__
        raise ImageError("damaged", f"got a damaged image ({text}), expected a whole one") from error
