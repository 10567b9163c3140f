"""Dtypes of inputs that files give in other words, or leave out."""

from __future__ import annotations

import re
from typing import Any

from layergraph.config.spec import LayerSpec

#: Text of any length, as NumPy names its dtype: of an array that a model was built for.
_NUMPY_TEXT = re.compile(r"[<>=|]?[US][0-9]{0,9}|(str|bytes)[0-9]{1,9}|[|]?O|object")
#: Lookup layers, and what they look up.
_LOOKED_UP = {"TextVectorization": "string", "StringLookup": "string", "IntegerLookup": "int64"}


def without_numpy(dtype: Any) -> Any:
    """Returns 'string' for NumPy's names of text; anything else unchanged."""
    return "string" if isinstance(dtype, str) and _NUMPY_TEXT.fullmatch(dtype) else dtype


def looked_up(layer: LayerSpec) -> str | None:
    """The dtype of what a lookup layer takes; None for other layers, and for a lookup of indices."""
    return None if layer.config.get("invert") else _LOOKED_UP.get(layer.class_name)
