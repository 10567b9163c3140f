"""`preprocess_input` of the modules of `keras.applications`."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

#: The mode of each module (see `keras.applications.imagenet_utils`); None if its model scales by itself.
MODES: Final[dict[str, str | None]] = {
    "convnext": None,
    "densenet": "torch",
    "efficientnet": None,
    "efficientnet_v2": None,
    "inception_resnet_v2": "tf",
    "inception_v3": "tf",
    "mobilenet": "tf",
    "mobilenet_v2": "tf",
    "mobilenet_v3": None,
    "nasnet": "tf",
    "resnet": "caffe",
    "resnet50": "caffe",
    "resnet_v2": "tf",
    "vgg16": "caffe",
    "vgg19": "caffe",
    "xception": "tf",
}
#: Means and standard deviations of the channels of ImageNet: of RGB from 0 to 1, and of BGR from 0 to 255.
_RGB_MEAN, _RGB_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_BGR_MEAN = (103.939, 116.779, 123.68)

Pixels = npt.NDArray[np.float32]


def preprocessed(pixels: Pixels, module: str) -> Pixels:
    """Returns what `preprocess_input` of a module of `keras.applications` makes of pixels from 0 to 255.

    The channels, three of RGB, are the last axis.
    """
    mode = MODES[module]
    if mode is None:
        return pixels
    if mode == "tf":
        pixels = pixels / np.float32(127.5) - np.float32(1.0)
    elif mode == "torch":
        pixels = (pixels / np.float32(255.0) - _channels(_RGB_MEAN)) / _channels(_RGB_DEVIATION)
    else:
        pixels = pixels[..., ::-1] - _channels(_BGR_MEAN)
    return pixels


def _channels(values: Any) -> Pixels:
    return np.asarray(values, np.float32)
