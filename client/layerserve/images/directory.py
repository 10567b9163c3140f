"""Images in the folders of their classes, as arrays for training: decoded while they are sent, some rows at a time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from layerserve.errors import InvalidArgument, InvalidTensor
from layerserve.images.decoder import ImageDecoder, ImageError
from layerserve.images.options import ImageOptions, Interpolation
from layerserve.values.tensor_spec import TensorSpec
from layerserve.values.tensors import Array

#: Files that are images, by their suffix: those of Keras, and WebP.
SUFFIXES: Final = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")
#: Channels by color mode.
CHANNELS: Final = {"grayscale": 1, "rgb": 3, "rgba": 4}

ColorMode = Literal["grayscale", "rgb", "rgba"]
LabelMode = Literal["int", "categorical", "binary"]


class ImageRows:
    """Encoded images as an array (rows, height, width, channels) of float32, from 0 to 255.

    It is sliced as an h5py dataset is: a slice decodes its images and no others. They are resized as
    `keras.utils.image_dataset_from_directory` does.
    """

    dtype: Final = np.dtype("float32")

    def __init__(
        self,
        images: Sequence[bytes | str | os.PathLike[str]],
        image_size: tuple[int, int] = (256, 256),
        *,
        color_mode: ColorMode = "rgb",
        interpolation: Interpolation = "bilinear",
        crop_to_aspect_ratio: bool = False,
    ) -> None:
        """`images` are encoded, or paths of files. Raises InvalidArgument for options that don't fit."""
        if color_mode not in CHANNELS:
            raise InvalidArgument(f"color_mode: got {color_mode!r}, expected one of {', '.join(CHANNELS)}")
        try:
            height, width = image_size
            options = ImageOptions(
                loader="image_dataset_from_directory",
                interpolation=interpolation,
                crop_to_aspect_ratio=crop_to_aspect_ratio,
                size=(height, width),
            )
        except (ValueError, TypeError) as error:
            raise InvalidArgument(f"image_size or interpolation: {error}") from error
        self._images = images
        self.shape = (len(images), height, width, CHANNELS[color_mode])
        self._decode = ImageDecoder(TensorSpec("x", (None, *self.shape[1:]), "float32"), options)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, rows: slice) -> Array:
        """Returns the array of some rows. Raises InvalidTensor, with the file or the row, for what is no image."""
        decoded = [self._row(row) for row in range(len(self))[rows]]
        return np.stack(decoded) if decoded else np.empty((0, *self.shape[1:]), self.dtype)

    def _row(self, row: int) -> Array:
        image = self._images[row]
        data = image if isinstance(image, bytes) else Path(image).read_bytes()
        try:
            return self._decode(data)
        except ImageError as error:
            place = f"image {row}" if isinstance(image, bytes) else str(image)
            raise InvalidTensor(f"{place}: {error}") from None


@dataclass(frozen=True, slots=True)
class ImageFolder:
    """The images of a folder: `x`, their labels `y`, the names of the classes by label, and the files by row."""

    x: ImageRows
    y: Array
    class_names: tuple[str, ...]
    paths: tuple[Path, ...]


def images_from_directory(
    directory: str | os.PathLike[str],
    label_mode: LabelMode = "int",
    *,
    class_names: Sequence[str] | None = None,
    color_mode: ColorMode = "rgb",
    image_size: tuple[int, int] = (256, 256),
    interpolation: Interpolation = "bilinear",
    crop_to_aspect_ratio: bool = False,
    follow_links: bool = False,
) -> ImageFolder:
    """Finds the images in the folders of their classes, as `keras.utils.image_dataset_from_directory` does.

    Each folder in `directory` is a class, in alphanumerical order or in that of `class_names`; its images may be in
    folders below it. `y` is, by `label_mode`, (rows,) of int32, (rows, classes) of float32 with a 1 for the class, or
    (rows, 1) of 0 and 1 for two classes. Rows come in the order of the folders and files: `train` shuffles them.
    Images are decoded when they are sent. The other arguments are Keras's.

    Raises InvalidArgument for arguments that don't fit, or a directory without images, and OSError.
    """
    folder = Path(directory)
    found = sorted(one.name for one in folder.iterdir() if one.is_dir() and not one.name.startswith("."))
    classes = found if class_names is None else list(class_names)
    if not set(classes) <= set(found):
        raise InvalidArgument(f"class_names: got {classes}, expected folders of {folder}: {found}")
    if label_mode not in ("int", "categorical", "binary"):
        raise InvalidArgument(f"label_mode: got {label_mode!r}, expected 'int', 'categorical' or 'binary'")
    if label_mode == "binary" and len(classes) != 2:
        raise InvalidArgument(f"label_mode: got 'binary' for {len(classes)} classes, expected two")
    by_class = [_images_below(folder / name, follow_links=follow_links) for name in classes]
    paths = [path for images in by_class for path in images]
    if not paths:
        raise InvalidArgument(f"{folder}: got no images in folders of classes, expected {', '.join(SUFFIXES)} files")
    x = ImageRows(
        paths,
        image_size,
        color_mode=color_mode,
        interpolation=interpolation,
        crop_to_aspect_ratio=crop_to_aspect_ratio,
    )
    labels = np.repeat(np.arange(len(classes), dtype="int32"), [len(images) for images in by_class])
    return ImageFolder(x, _encoded(labels, label_mode, len(classes)), tuple(classes), tuple(paths))


def _images_below(folder: Path, *, follow_links: bool) -> list[Path]:
    walked: list[Any] = sorted(os.walk(folder, followlinks=follow_links), key=lambda one: str(one[0]))
    return [Path(at, name) for at, _, names in walked for name in sorted(names) if name.lower().endswith(SUFFIXES)]


def _encoded(labels: Array, mode: LabelMode, classes: int) -> Array:
    if mode == "categorical":
        return np.eye(classes, dtype="float32")[labels]
    return labels.astype("float32")[:, None] if mode == "binary" else labels
