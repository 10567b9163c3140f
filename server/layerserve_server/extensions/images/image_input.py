"""Inputs that take encoded images: `ImageInput` is an `InputDecoder`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from math import prod
from typing import cast

import numpy as np
from layergraph.errors import unknown_name
from layerserve.images.options import ImageOptions
from layerserve.values.tensor_spec import TensorSpec as ClientSpec

from layerserve_server.errors import InvalidTensorError, VersionFailedError, safe_text
from layerserve_server.extensions.images.model_settings import ImageModelSettings
from layerserve_server.extensions.images.pool import ImagePool, Images
from layerserve_server.inference.admission import shape_text
from layerserve_server.inference.input_decoder import InputDecoder
from layerserve_server.inference.runner import Array, TensorSpec
from layerserve_server.repository.model_settings import ModelSettings
from layerserve_server.transport.call import Call


class ImageInputs:
    """Makes the decoders of a version's inputs."""

    def __init__(self, pool: ImagePool, *, max_pixels: int, max_bytes: int) -> None:
        """`max_bytes` is the maximum size of the arrays of a request: as much as a request could have as arrays."""
        self._pool = pool
        self._max_pixels = max_pixels
        self._max_bytes = max_bytes

    def decoders(self, settings: ModelSettings, specs: Sequence[TensorSpec]) -> Mapping[str, InputDecoder]:
        """Returns the decoders by name. Raises VersionFailedError if an input can't have images as its rows."""
        if not isinstance(settings, ImageModelSettings):
            return {}
        if settings.inputs and find_spec("PIL") is None:
            raise VersionFailedError("inputs: requires Pillow: pip install Pillow")
        by_name = {spec.name: spec for spec in specs}
        found: dict[str, InputDecoder] = {}
        for name, one in settings.inputs.items():
            label = f"inputs.{safe_text(name, 80)}"
            spec = by_name.get(name)
            if spec is None:
                raise VersionFailedError(f"{label}: {unknown_name('input', name, by_name)}")
            try:
                options = one.options(max_pixels=self._max_pixels, max_bytes=self._max_bytes)
                found[name] = ImageInput(ClientSpec(name, spec.shape, spec.dtype), options, self._pool, self._max_bytes)
            except ValueError as error:
                raise VersionFailedError(f"{label}: {error}") from error
        return found


class ImageInput:
    """Decodes the images of an input."""

    encoding = "image"

    def __init__(self, spec: ClientSpec, options: ImageOptions, pool: ImagePool, max_bytes: int) -> None:
        """Raises ValueError if images can't be the rows of the input."""
        # Imported here, since Pillow may be missing.
        from layerserve.images.decoder import ImageDecoder

        from layerserve_server.extensions.images.worker import described

        decoder = ImageDecoder(spec, options)
        self._name = spec.name
        self._shape, self._dtype = decoder.shape, decoder.dtype
        self._row_bytes = decoder.max_row_bytes
        self._input = described(spec, options)
        self._pool = pool
        self._max_bytes = max_bytes

    def decode(self, elements: Sequence[bytes], call: Call, done: Callable[[Array | Exception], None]) -> None:
        """See `InputDecoder`."""
        label, size = f"input '{safe_text(self._name, 80)}'", len(elements) * self._row_bytes
        if None not in self._shape and size > self._max_bytes:
            raise InvalidTensorError(
                f"{label}: got {len(elements)} images, whose arrays have {size} bytes, expected at most "
                f"{self._max_bytes} (setting 'max_message_bytes'); send fewer rows at a time"
            )
        # As much as there may be, since the size of open axes isn't known before.
        call.hold(min(size, self._max_bytes))
        rows = Rows(label, self._shape, self._dtype, len(elements), self._max_bytes)

        def ended(error: Exception | None) -> None:
            outcome: Array | Exception | None = error
            if outcome is None:
                try:
                    outcome = rows.all()
                except InvalidTensorError as differ:
                    outcome = differ
            done(outcome)

        images = Images(self._input, label, elements, _caller(call), rows.put, ended)
        call.on_gone(images.cancel)
        self._pool.add(images)


def _caller(call: Call) -> object:
    """Returns whose images those of a call are: its name, or without one its connection."""
    return call.caller.owner or call.client()


class Rows:
    """The rows of a request's images. Each is put by one thread."""

    def __init__(
        self, label: str, shape: tuple[int | None, ...], dtype: np.dtype[np.generic], count: int, max_bytes: int
    ) -> None:
        self._label = label
        self._shape = shape
        self._dtype = dtype
        self._max_bytes = max_bytes
        lengths = [length for length in shape if length is not None]
        self._whole = np.empty((count, *lengths), dtype) if len(lengths) == len(shape) else None
        self._several: list[Array | None] = [None] * count

    def put(self, index: int, shape: Sequence[int]) -> memoryview:
        """Returns where the bytes of a row of this shape belong.

        Raises InvalidTensorError if it is too large, and ValueError if the shape isn't the input's.
        """
        if len(shape) != len(self._shape) or any(
            length not in (got, None) for got, length in zip(shape, self._shape, strict=True)
        ):
            raise ValueError(f"got shape {shape}, expected {self._shape}")
        if self._whole is not None:
            row = self._whole[index]
        else:
            size = prod(shape) * self._dtype.itemsize
            if size * len(self._several) > self._max_bytes:
                raise InvalidTensorError(
                    f"{self._label}, row {index + 1}: got {len(self._several)} images, of which one has {size} bytes "
                    f"as an array, expected at most {self._max_bytes} bytes together (setting 'max_message_bytes'); "
                    "send fewer rows at a time"
                )
            row = self._several[index] = np.empty(shape, self._dtype)
        return memoryview(row.reshape(-1)).cast("B")

    def all(self) -> Array:
        """Returns all rows. Raises InvalidTensorError if they differ in size."""
        if self._whole is not None:
            return self._whole
        rows = cast("list[Array]", self._several)
        for index, row in enumerate(rows):
            if row.shape != rows[0].shape:
                raise InvalidTensorError(
                    f"{self._label}, row {index + 1}: got an image of shape {shape_text(row.shape)}, expected "
                    f"{shape_text(rows[0].shape)}, as in the first row; set the input's size in the model's settings"
                )
        return np.stack(rows) if rows else np.empty((0, *(length or 1 for length in self._shape)), self._dtype)
