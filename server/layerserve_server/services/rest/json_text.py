"""JSON to values and back. Numbers may be NaN, Infinity and -Infinity, as bare words.

Imports no torch.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from layerserve_server.errors import InvalidRequestError, safe_text
from layerserve_server.transport.chunking import CHUNK_ELEMENTS

#: Words that JSON doesn't have, but Python's parser and those of other servers do.
WORDS = (b"NaN", b"Infinity")
#: In each number that is too large for a float64.
LARGE = re.compile(rb"[eE]\+?[0-9]{3}|[0-9]{200}")
#: In the text of each release of orjson for too little memory.
NO_MEMORY = "memory"


def loads(body: bytes, what: str = "the body") -> Any:
    """Returns the value of a JSON text. Of a key that is given twice the last value counts.

    Raises InvalidRequestError if it isn't JSON, and MemoryError.
    """
    try:
        return orjson.loads(body)
    except SystemError:
        # What orjson makes of too little memory for a list or an object.
        raise MemoryError from None
    except ValueError as error:
        # It reports too little memory for deep lists that end early, too: Python's parser tells the two apart.
        if NO_MEMORY not in str(error) and not any(word in body for word in WORDS):
            raise _no_json(what, body, error) from None
    try:
        # Python's parser makes infinity of a number that is too large, which orjson refuses.
        return json.loads(body, parse_float=_finite if LARGE.search(body) else None)
    except (ValueError, RecursionError) as error:
        raise _no_json(what, body, error) from None


def _no_json(what: str, body: bytes, error: Exception) -> InvalidRequestError:
    begins = safe_text(body[:20].decode("utf-8", "replace"), 80)
    return InvalidRequestError(f"{what} isn't JSON: {safe_text(str(error), 200)}; it begins with '{begins}'")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {text[:40]} is too large")
    return number


def object_of(body: bytes, keys: Sequence[str] = (), example: str = "") -> dict[str, Any]:
    """Returns the JSON object of a body; an empty body is an empty object.

    With `keys` it may have no others. `example` is a body, for the error. Raises InvalidRequestError.
    """
    value = loads(body) if body else {}
    if not isinstance(value, dict):
        hint = f"; send {example}" if example else ""
        raise InvalidRequestError(f"the body: got {kind_of(value)}, expected an object{hint}")
    if keys:
        check_keys(value, keys, "")
    return value


def check_keys(value: Mapping[str, Any], keys: Sequence[str], label: str) -> None:
    """Raises InvalidRequestError if an object has other keys."""
    for key in value:
        if key not in keys:
            path = f"{label}.{key}" if label else key
            raise InvalidRequestError(f"{safe_text(path, 80)}: unknown key, expected one of {', '.join(keys)}")


def field(value: Mapping[str, Any], key: str, kind: type, label: str = "", *, default: Any = None) -> Any:
    """Returns a value of an object, or the default if it isn't there. Raises InvalidRequestError for another type."""
    if key not in value:
        return default
    found = value[key]
    if not isinstance(found, kind) or (kind is int and isinstance(found, bool)):
        path = f"{label}.{key}" if label else key
        expected = {str: "a string", int: "an integer", list: "a list", dict: "an object", bool: "true or false"}[kind]
        raise InvalidRequestError(f"{path}: got {kind_of(found)}, expected {expected}")
    return found


def text_bytes(text: str, label: str) -> bytes:
    """Returns a string in UTF-8. Raises InvalidRequestError if it has half of a surrogate pair."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InvalidRequestError(f"{label}: got a string with half of a surrogate pair, expected Unicode") from None


def kind_of(value: object) -> str:
    """Returns what a value is, for error texts."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return f"the number {safe_text(repr(value), 40)}" if not _long(value) else "a number of many digits"
    if isinstance(value, str):
        return f"the string '{safe_text(value, 40)}'"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return "an object"


def dumps(value: object) -> bytes:
    """Returns a value as JSON, which may have strings that aren't valid Unicode escaped."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value).encode()


def dumps_array(array: npt.NDArray[Any]) -> bytes:
    """Returns numbers or strings as nested lists. Numbers that aren't finite are NaN, Infinity and -Infinity."""
    return written(array_pieces(array))


def written(pieces: Iterable[bytes]) -> bytes:
    """Returns pieces as one text."""
    stream = io.BytesIO()
    for piece in pieces:
        stream.write(piece)
    return stream.getvalue()


def array_pieces(array: npt.NDArray[Any]) -> Iterator[bytes]:
    """Yields the text of `dumps_array` in pieces."""
    if array.size <= CHUNK_ELEMENTS or not array.ndim:
        yield _dumps_piece(array)
        return
    step = max(1, CHUNK_ELEMENTS * len(array) // array.size)
    yield b"["
    for start in range(0, len(array), step):
        if start:
            yield b","
        if step == 1:
            yield from array_pieces(array[start, ...])
        else:
            yield _dumps_piece(array[start : start + step])[1:-1]
    yield b"]"


def _dumps_piece(array: npt.NDArray[Any]) -> bytes:
    if array.dtype.kind == "O" or (array.dtype.kind == "f" and not np.isfinite(array).all()):
        return json.dumps(array.tolist()).encode()
    if array.dtype == np.float16 or not array.ndim:
        return orjson.dumps(array.tolist())
    return orjson.dumps(np.ascontiguousarray(array), option=orjson.OPT_SERIALIZE_NUMPY)


def _long(value: float) -> bool:
    return isinstance(value, int) and value.bit_length() > 128
