"""JSON objects and dataclasses that are read from files: their values have the types of their fields."""

from __future__ import annotations

import functools
import logging
import types
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

from layerserve_server.disk import json_object
from layerserve_server.errors import safe_text

logger = logging.getLogger(__name__)

#: Maximum size of a file that `read_object` reads, in bytes.
MAX_BYTES = 64 << 20
#: Files whose damage was logged.
_logged: set[Path] = set()

#: Whole numbers of the contract's int32 fields; others fit int64.
Int32: TypeAlias = Annotated[int, range(-(2**31), 2**31)]
INT64 = range(-(2**63), 2**63)
#: The latest Unix time that a Timestamp can have, in whole seconds: the end of the year 9999.
LATEST = 253_402_300_799
Time: TypeAlias = Annotated[float, range(LATEST + 1)]

#: What reading a damaged file raises.
DAMAGED = (OSError, ValueError, KeyError, TypeError, AttributeError)

R = TypeVar("R")
Check: TypeAlias = Callable[[Any], bool]


def read_object(path: Path) -> dict[str, Any]:
    """Reads the JSON object in a file that this server wrote; empty if there is no file.

    If the file is damaged, that is logged once, and the object is empty.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ValueError(f"got more than {MAX_BYTES} bytes")
        return json_object(content)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log_damaged(path, error)
        return {}


def log_damaged(path: Path, error: Exception) -> None:
    """Logs why a file can't be read, once for each file."""
    if path not in _logged:
        _logged.add(path)
        logger.warning("%s can't be read: %s", path, safe_text(str(error), 200))


def checked(record: R, names: Container[str] | None = None) -> R:
    """Returns a dataclass, whose values, or those of these names, were read from a file.

    Raises TypeError if one hasn't its field's type.
    """
    kind: Any = type(record)
    for name, fits, expected in _checks(kind):
        if names is not None and name not in names:
            continue
        value = getattr(record, name)
        if not fits(value):
            raise TypeError(f"{name}: got {str(value)[:80]!r} of type {type(value).__name__}, expected {expected}")
    return record


@functools.cache
def _checks(kind: type) -> Sequence[tuple[str, Check, str]]:
    hints = get_type_hints(kind, include_extras=True)
    named = ((field.name, hints[field.name]) for field in fields(kind) if field.init)
    return [(name, _check(hint), _text(hint)) for name, hint in named]


def _text(hint: Any) -> str:
    if get_origin(hint) is Annotated:
        number, limits = get_args(hint)
        return f"{number.__name__} from {limits.start} to {limits.stop - 1}"
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("collections.abc.", "")


def _check(hint: Any) -> Check:
    """Returns whether a value has the type of an annotation, as a function."""
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if kind is Annotated:
        number, limits = _check(parts[0]), parts[1]
        return lambda value: number(value) and limits.start <= value < limits.stop
    if kind in (Union, types.UnionType):
        choices = [_check(part) for part in parts]
        return lambda value: any(fits(value) for fits in choices)
    if kind is int:
        return lambda value: type(value) is int and value in INT64
    if kind is float:
        return lambda value: type(value) is float or (type(value) is int and value in INT64)
    if kind is Any:
        return lambda value: True
    if isinstance(kind, type) and is_dataclass(kind):
        return lambda value: isinstance(value, kind) and checked(value) is value
    if not parts:
        return lambda value: isinstance(value, kind)
    of = [_check(part) for part in parts if part is not ...]
    if issubclass(kind, Mapping):
        key, item = of
        return lambda value: isinstance(value, kind) and all(map(key, value)) and all(map(item, value.values()))
    return lambda value: isinstance(value, kind) and not isinstance(value, str) and all(map(of[0], value))
