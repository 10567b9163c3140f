"""Names that Keras derives from class names."""

from __future__ import annotations

import re


def snake_case(name: str) -> str:
    """Converts `Conv2DTranspose` to `conv2d_transpose`, by Keras's two substitutions."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()
