"""Output of the commands: tables or JSON."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict, is_dataclass
from datetime import datetime
from typing import Any

import numpy as np
from rich.console import Console

from layerserve.values.tables import Table
from layerserve.values.tensors import Array

#: Width of tables if the output isn't a terminal, in columns, so that they aren't cut at 80.
PIPE_WIDTH = 200


def console() -> Console:
    return Console() if sys.stdout.isatty() else Console(width=PIPE_WIDTH)


def print_table(table: Table) -> None:
    """Prints a table."""
    console().print(table.rich())


def print_line(text: str) -> None:
    console().print(text, markup=False, highlight=False, soft_wrap=True)


def print_json(document: Any, indent: int | None = 2) -> None:
    """Prints a document as standard JSON."""
    print(json.dumps(plain(document), indent=indent, allow_nan=False))


def plain(value: Any) -> Any:
    """Converts a value to JSON types.

    Dataclasses become objects, times ISO 8601 strings, unknown axes null. Numbers that JSON can't represent become the
    strings "NaN", "Infinity" and "-Infinity", as in protobuf's JSON.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, np.ndarray):
        return plain(_elements(value))
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value


def _elements(array: Array) -> Any:
    if array.dtype in (np.float32, np.float16):
        # Through the shortest text: 0.1 in float32 is printed as 0.1, not as 0.10000000149011612.
        array = array.astype("U32").astype(np.float64)
    return array.tolist()
