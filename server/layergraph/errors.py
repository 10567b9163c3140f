"""Errors of layergraph. What a user can mend is one of these; anything else is a defect of ours.

LayerGraphError
├── ModelFileError              a model file can't be used
│   ├── CorruptFileError        it is damaged, truncated, or no model file at all
│   ├── UnsupportedModelError   it needs what layergraph doesn't have; `problems` lists all of it
│   └── UnsafeFileError         it does what a model file has no business doing
├── ConfigError                 an option of a layer, optimizer, loss or metric is wrong
├── GraphError                  layers and tensors don't fit together
├── DataError                   arrays don't fit the model
│   └── UnknownTensorError      a name is no tensor of the model
├── NotCompiledError            training was asked of a model without optimizer or loss
└── NonFiniteLossError          training gave a loss that is NaN or infinite
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path


class LayerGraphError(Exception):
    """Root of all errors that layergraph raises on purpose."""


class ModelFileError(LayerGraphError):
    """A model file can't be used. `path` names the file, `problems` everything found wrong, one text each."""

    def __init__(self, path: str | Path, problems: str | Sequence[str]) -> None:
        self.path = str(path)
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        shown = self.problems[:MAX_PROBLEMS]
        more = len(self.problems) - len(shown)
        text = "; ".join(shown) + (f"; and {more} more" if more else "")
        super().__init__(f"{Path(path).name}: {text}")


#: Problems that one message names at the most: a file can be made to have millions.
MAX_PROBLEMS = 50


class CorruptFileError(ModelFileError):
    """The file is damaged, truncated, or no model file at all."""


class UnsupportedModelError(ModelFileError):
    """The file needs what layergraph doesn't have, such as custom classes; `problems` lists all of it."""


class UnsafeFileError(ModelFileError):
    """The file does what a model file has no business doing, such as pointing at other files."""


class ConfigError(LayerGraphError, ValueError):
    """An option of a layer, optimizer, loss or metric is wrong. The text names owner, option and value."""


class GraphError(LayerGraphError, ValueError):
    """Layers and tensors don't fit together: shapes, arity, loops, disconnected tensors."""


class DataError(LayerGraphError, ValueError):
    """Arrays don't fit the model. The text names the array, what came and what was expected."""


class UnknownTensorError(DataError):
    """A name is no input, output or tensor of the model."""


class NotCompiledError(LayerGraphError, RuntimeError):
    """Training was asked of a model without optimizer or loss."""


class NonFiniteLossError(LayerGraphError, ArithmeticError):
    """Training gave a loss that is NaN or infinite. `epoch` and `step` count from 1."""

    def __init__(self, value: float, epoch: int, step: int) -> None:
        self.value = value
        self.epoch = epoch
        self.step = step
        super().__init__(f"loss is {value} in step {step} of epoch {epoch}")


def unknown_name(kind: str, name: object, known: Iterable[str]) -> str:
    """Text for a name that isn't in a table: the near names, or all of them where they are few.

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
