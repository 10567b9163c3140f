"""Parses untrusted JSON, from a model file or a request."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NoReturn

from layergraph.archive.limits import LoadLimits
from layergraph.errors import CorruptFileError

#: What Keras 2 wrote for the type of NumPy's numbers and arrays: {"type": "ndarray", "value": 0.3}.
_NUMPY_TYPES = re.compile(r"ndarray|bool_?|u?int(8|16|32|64)|float(16|32|64)")

#: Key of a layer's object for options that only layergraph has; Keras ignores it.
OWN_KEY: Final = "layerserve"

#: Keys of what operations are called with: of every layer, and of TensorFlow's nodes in Keras 2.
_CALLS = frozenset({"inbound_nodes", "constants"})

#: Maximum number of digits of an integer, more than any config needs; Python's own limit raises a bare ValueError.
_MAX_DIGITS = 40


class JsonError(ValueError):
    """A text isn't JSON, or exceeds the limits. The text completes "config.json ..."."""


def json_value(
    text: str,
    *,
    most: int,
    values: int,
    depth: int,
    as_object: Callable[[list[tuple[str, Any]]], Any] | None = None,
    as_constant: Callable[[str], Any] | None = None,
) -> Any:
    """Parses a JSON text of at most `most` characters, `values` values (and containers), and nesting depth `depth`.

    as_object     makes the value of an object from its pairs of key and value; by default a dict
    as_constant   makes the value of NaN, Infinity or -Infinity; by default they are errors

    Raises JsonError for invalid JSON, NaN and Infinity, repeated keys, or anything above the limits.
    """
    if len(text) > most:
        raise JsonError(f"has {len(text)} characters, expected at most {most}")
    if text.count(",") + text.count("[") + text.count("{") > values:
        raise JsonError(f"has more than {values} values")
    try:
        parsed = json.loads(
            text,
            parse_constant=as_constant or _no_constant,
            parse_float=_finite,
            parse_int=_integer,
            object_pairs_hook=as_object or _unique_keys,
        )
    except RecursionError:
        raise JsonError(f"is nested more than {depth} deep") from None
    except JsonError:
        raise
    except ValueError as wrong:
        raise JsonError(f"isn't valid JSON: {str(wrong)[:200]}") from None
    if _deeper_than(parsed, depth):
        raise JsonError(f"is nested more than {depth} deep")
    return parsed


def json_object(text: str | bytes, path: Path, what: str, limits: LoadLimits) -> dict[str, Any]:
    """Parses the JSON object in `text` (UTF-8). `what` names the text in errors, such as "config.json".

    NumPy's numbers and arrays, which Keras 2 wrote with their type, become numbers and lists. The infinity after the
    last boundary of TensorFlow 2.4's Discretization is left out: the layer gets the option `bin_rule` instead.

    Raises CorruptFileError for invalid JSON, NaN, Infinity outside of calls, repeated keys, or anything above `limits`.
    """
    try:
        plain = text.decode("utf-8") if isinstance(text, bytes) else text
    except UnicodeDecodeError as wrong:
        raise CorruptFileError(path, f"{what} isn't UTF-8: byte {wrong.start} can't be decoded") from None
    try:
        parsed = json_value(
            plain,
            most=limits.config_bytes,
            values=limits.config_values,
            depth=limits.config_depth,
            as_object=_from_keras2,
            as_constant=infinity,
        )
        if "Infinity" in plain and (found := _stray_constant(parsed)):
            _no_constant(found)
    except JsonError as wrong:
        raise CorruptFileError(path, f"{what} {wrong}") from None
    if not isinstance(parsed, dict):
        raise CorruptFileError(path, f"{what} is a JSON {type(parsed).__name__}, expected an object")
    return parsed


def _no_constant(name: str) -> NoReturn:
    raise JsonError(f"has the value {name}, expected finite numbers")


def infinity(name: str) -> float:
    """The value of a constant in JSON. Raises JsonError for NaN."""
    return _no_constant(name) if name == "NaN" else float(name)


def config_text(config: Any) -> str:
    """Returns a config as JSON. Raises JsonError for NaN, Infinity outside of calls, and what JSON doesn't have."""
    try:
        text = json.dumps(config)
    except TypeError as wrong:
        raise JsonError(f"can't be written: {wrong}") from None
    if ("NaN" in text or "Infinity" in text) and (found := _stray_constant(config)):
        _no_constant(found)
    return text


def _stray_constant(value: Any) -> str | None:
    """Returns a number that a config can't have, by its name in JSON: NaN, or an infinity outside of calls.

    Operations are called with infinities, as in masks of attention.
    """
    waiting = [(value, False)]
    while waiting:
        item, in_call = waiting.pop()
        if isinstance(item, dict):
            waiting.extend((part, in_call or key in _CALLS) for key, part in item.items())
        elif isinstance(item, list):
            waiting.extend((part, in_call) for part in item)
        elif isinstance(item, float) and not math.isfinite(item) and not (in_call and math.isinf(item)):
            return json.dumps(item)
    return None


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise JsonError(f"has the number {digits[:40]}, expected finite numbers")
    return value


def _integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise JsonError(f"has an integer of {len(digits)} digits, expected at most {_MAX_DIGITS}")
    return int(digits)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise JsonError(f"has the key {key[:80]!r} twice in one object")
            seen.add(key)
    return result


def _from_keras2(pairs: list[tuple[str, Any]]) -> Any:
    """An object; what Keras 2 wrote as {"type": "ndarray", "value": 0.3} as the value alone."""
    result = _unique_keys(pairs)
    if result.get("class_name") == "Discretization":
        return _with_finite_bins(result)
    if result.keys() == {"type", "value"}:
        kind = result["type"]
        if isinstance(kind, str) and _NUMPY_TYPES.fullmatch(kind):
            return result["value"]
    return result


def _with_finite_bins(layer: dict[str, Any]) -> dict[str, Any]:
    """A Discretization without the infinity that TensorFlow 2.4 appends to its boundaries, again on each loading."""
    config = layer.get("config")
    bins = config.get("bins") if isinstance(config, dict) else None
    if not isinstance(config, dict) or not isinstance(bins, list) or not bins or bins[-1] != math.inf:
        return layer
    finite = list(bins)
    while finite and finite[-1] == math.inf:
        finite.pop()
    return {**layer, "config": {**config, "bins": finite}, OWN_KEY: {"bin_rule": "lower"}}


def _deeper_than(value: Any, limit: int) -> bool:
    """Whether containers are nested more than `limit` deep; iterative, since the limit protects from recursion."""
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(limit):
        inner: list[Any] = []
        for item in level:
            items = item.values() if isinstance(item, dict) else item
            inner.extend(child for child in items if isinstance(child, (dict, list)))
        if not inner:
            return False
        level = inner
    return True
