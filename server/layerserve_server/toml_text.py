"""TOML to values and back: the server's settings, those of models, and tokens."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import datetime
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class TomlError(ValueError):
    """A text isn't TOML."""


def parse_toml(text: str) -> dict[str, Any]:
    """Parses a TOML text. Raises TomlError, also for integers of more than 64 bits, as TOML asks for."""
    try:
        values: dict[str, Any] = tomllib.loads(text)
    except RecursionError:
        raise TomlError("is nested too deep") from None
    except ValueError as error:
        # Not only TOMLDecodeError: Python has a limit of its own on digits.
        raise TomlError(str(error)) from error
    for number in _integers(values):
        if not -(2**63) <= number < 2**63:
            # Not the number itself, which may be too long to be written in decimal.
            raise TomlError(f"got an integer of {number.bit_length()} bits, expected at most 64 with the sign")
    return values


def toml_value(value: object) -> str:
    """Returns a boolean, number, time, text or list of these in TOML's syntax; other values as texts."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(toml_value, value))}]"
    escaped = "".join(c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in str(value))
    return f'"{escaped}"'


def _integers(values: dict[str, Any]) -> Iterator[int]:
    rest: list[Any] = [values]
    while rest:
        value = rest.pop()
        if isinstance(value, dict):
            rest += value.values()
        elif isinstance(value, list):
            rest += value
        elif isinstance(value, int):
            yield value
