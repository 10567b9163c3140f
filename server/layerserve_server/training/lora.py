"""LoRA settings of a run, as they come from a client."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from layerserve_server.errors import InvalidRequestError, safe_text

#: Maximum rank: above that of any useful one, so that a few bytes of settings ask for little memory.
MAX_RANK = 4096


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_RANK


def _positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf


def _patterns(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) for one in value)


#: For each setting: whether a value is valid, and what is.
SETTINGS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "rank": (_whole, f"a whole number from 1 to {MAX_RANK}"),
    "alpha": (_positive, "a number above 0"),
    "layers": (_patterns, "a list of patterns"),
    "keep": (lambda value: isinstance(value, bool), "true or false"),
}


def lora_settings(given: Any) -> dict[str, Any]:
    """Returns checked settings, without those that are null. Raises InvalidRequestError."""
    if not isinstance(given, Mapping) or "rank" not in given:
        raise InvalidRequestError("lora: expected an object with a rank")
    settings = {name: value for name, value in given.items() if value is not None or name == "rank"}
    for name, value in settings.items():
        if name not in SETTINGS:
            raise InvalidRequestError(f"lora: unknown setting '{safe_text(name, 40)}', expected {', '.join(SETTINGS)}")
        valid, expected = SETTINGS[name]
        if not valid(value):
            raise InvalidRequestError(f"lora.{name}: got {safe_text(repr(value), 60)}, expected {expected}")
    return settings
