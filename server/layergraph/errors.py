"""Errors of layergraph. Errors that a user can fix are one of these; any other exception is a bug.

LayerGraphError
├── ModelFileError              a model file can't be used
│   ├── CorruptFileError        it is damaged, truncated, or no model file
│   ├── UnsupportedModelError   it needs features that layergraph lacks; `problems` lists all of them
│   └── UnsafeFileError         it contains something that a model file must not contain
├── ConfigError                 an option of a layer, optimizer, loss or metric is invalid
├── GraphError                  layers and tensors don't fit together
├── DataError                   arrays don't fit the model
│   └── UnknownTensorError      a name is no tensor of the model
├── NotCompiledError            a model without optimizer or loss can't be trained
└── NonFiniteLossError          the loss became NaN or infinite in training
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path


class LayerGraphError(Exception):
    """Base class of all errors that layergraph raises on purpose."""


class ModelFileError(LayerGraphError):
    """A model file can't be used. `path` is the file, `problems` has one text for each problem found."""

    def __init__(self, path: str | Path, problems: str | Sequence[str]) -> None:
        self.path = str(path)
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        shown = self.problems[:MAX_PROBLEMS]
        more = len(self.problems) - len(shown)
        text = "; ".join(shown) + (f"; and {more} more" if more else "")
        super().__init__(f"{Path(path).name}: {text}")


#: Maximum number of problems in one message: a crafted file can have millions.
MAX_PROBLEMS = 50


class CorruptFileError(ModelFileError):
    """The file is damaged, truncated, or no model file."""


class UnsupportedModelError(ModelFileError):
    """The file needs features that layergraph lacks, such as custom classes; `problems` lists all of them."""


class UnsafeFileError(ModelFileError):
    """The file contains something that a model file must not contain, such as references to other files."""


class ConfigError(LayerGraphError, ValueError):
    """An option of a layer, optimizer, loss or metric is invalid. The text has owner, option and value."""


class GraphError(LayerGraphError, ValueError):
    """Layers and tensors don't fit together: shapes, arity, loops, disconnected tensors."""


class DataError(LayerGraphError, ValueError):
    """Arrays don't fit the model. The text has the array's name, what it got and what was expected."""


class UnknownTensorError(DataError):
    """A name is no input, output or tensor of the model."""


class NotCompiledError(LayerGraphError, RuntimeError):
    """A model without optimizer or loss can't be trained."""


class NonFiniteLossError(LayerGraphError, ArithmeticError):
    """The loss became NaN or infinite in training. `epoch` and `step` count from 1."""

    def __init__(self, value: float, epoch: int, step: int) -> None:
        self.value = value
        self.epoch = epoch
        self.step = step
        super().__init__(f"loss is {value} in step {step} of epoch {epoch}")


def unknown_name(kind: str, name: object, known: Iterable[str]) -> str:
    """Returns the text for a name that isn't in a table: with similar names, or all names if there are few.

    Example: unknown_name("optimizer", "adm", TABLE) -> "unknown optimizer 'adm'; did you mean 'adam'?"
    """
    choices = sorted(set(known))
    shown = str(name)[:80]
    near = difflib.get_close_matches(shown.lower(), choices, n=3, cutoff=0.6)
    near = near or difflib.get_close_matches(shown, choices, n=3, cutoff=0.6)
    if near:
        return f"unknown {kind} {shown!r}; did you mean " + " or ".join(repr(n) for n in near) + "?"
    if not choices:
        return f"unknown {kind} {shown!r}; there is none"
    return f"unknown {kind} {shown!r}; known: {', '.join(choices[:40])}" + (" ..." if len(choices) > 40 else "")
