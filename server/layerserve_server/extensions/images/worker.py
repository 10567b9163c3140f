"""The job that decodes images, in a sandbox, until the server closes the channel.

The server sends {"input": what `described` gives, "bytes": size} and an image. The reply is {"shape": shape} and the
array's bytes, or {"reason": ..., "text": ...} if it is no image that can be decoded.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from typing import Any

import numpy as np
from layerserve.images.decoder import ImageDecoder, ImageError
from layerserve.images.options import ImageOptions
from layerserve.values.tensor_spec import TensorSpec

from layerserve_server.importing import sandbox
from layerserve_server.jobs.channel import Channel

#: Number of inputs whose decoders are kept.
MAX_KEPT = 64
#: What images in base64 begin with: JPEG, PNG, GIF, WebP and BMP. No image itself begins so.
_BASE64 = (b"/9j/", b"iVBORw0KGgo", b"R0lGOD", b"UklGR", b"Qk")


def described(spec: TensorSpec, options: ImageOptions) -> str:
    """Returns an input and how images become its rows, as a text."""
    return json.dumps([[spec.name, spec.shape, spec.dtype], asdict(options)])


def decode_images(arguments: Mapping[str, Any], channel: Channel) -> dict[str, Any]:
    """The job. It ends with an error when the channel is closed."""
    sandbox.enter(sandbox.python_folders(), (), None, 0)
    while True:
        request = channel.request()
        data = channel.read(request["bytes"])
        try:
            row: Any = np.ascontiguousarray(_decoder(request["input"])(_without_base64(data)))
        except ImageError as error:
            channel.send({"reason": error.reason, "text": str(error)})
            continue
        channel.send({"shape": row.shape})
        channel.send_bytes(memoryview(row).cast("B"))


@lru_cache(MAX_KEPT)
def _decoder(text: str) -> ImageDecoder:
    (name, shape, dtype), options = json.loads(text)
    pairs: dict[str, Any] = {key: tuple(one) if isinstance(one, list) else one for key, one in options.items()}
    return ImageDecoder(TensorSpec(name, tuple(shape), dtype), ImageOptions(**pairs))


def _without_base64(data: bytes) -> bytes:
    """Returns the bytes of an image that is given in base64, as in JSON."""
    if data.startswith(_BASE64):
        try:
            return base64.b64decode(data, validate=True)
        except (binascii.Error, ValueError):
            pass
    return data
