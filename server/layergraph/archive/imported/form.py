"""The form of what was read of a file: names in its folder, and errors as JSON."""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import Any, Final, TypeAlias

from layergraph.errors import CorruptFileError, ModelFileError, UnsafeFileError, UnsupportedModelError

#: Number of the form, which changes with it.
FORMAT = 1
DESCRIPTION, ARRAYS, ASSETS = "archive.json", "arrays.safetensors", "assets"
#: Key of the arrays' memory orders in the metadata of their file.
ORDERS: Final = "orders"
#: An array to be read, by its index; and the order of its axes in memory from slowest to fastest, None for its own.
Wanted: TypeAlias = "tuple[int, tuple[int, ...] | None]"
_ERRORS: Final = {kind.__name__: kind for kind in (CorruptFileError, UnsafeFileError, UnsupportedModelError)}
#: Maximum number and length of an error's problems that are passed on.
_MAX_PROBLEMS, _MAX_PROBLEM_LENGTH = 50, 2000


def error_fields(error: ModelFileError) -> list[Any]:
    """An error as JSON; `raised` makes it an error again."""
    problems = [problem[:_MAX_PROBLEM_LENGTH] for problem in error.problems[:_MAX_PROBLEMS]]
    if more := len(error.problems) - len(problems):
        problems.append(f"and {more} more")
    return [type(error).__name__, PurePath(error.path).name, problems]


def raised(fields: Any, path: Path) -> ModelFileError:
    """The error of a file at `path`, or of another file of the same model."""
    kind, name, problems = fields
    where = path.with_name(name) if isinstance(name, str) and name and PurePath(name).name == name else path
    if not isinstance(problems, list) or not all(isinstance(problem, str) for problem in problems):
        raise TypeError("problems of an error aren't texts")
    return _ERRORS.get(kind, CorruptFileError)(where, problems)
