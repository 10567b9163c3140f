"""Errors of layergraph. Errors that a user can fix are of these types; any other exception is a bug in layergraph.

LayerGraphError
├── ModelFileError              a model file can't be used
│   ├── CorruptFileError        it is damaged, truncated, or not a model file
│   ├── UnsupportedModelError   it needs unsupported features; `problems` lists all of them
│   └── UnsafeFileError         it contains unsafe references, such as to other files
├── ConfigError                 an option of a layer, optimizer, loss or metric is invalid
├── GraphError                  layers and tensors are incompatible
├── DataError                   arrays don't match the model
│   ├── ElementError            an element is invalid for a layer, such as an id outside of a table
│   └── UnknownTensorError      a name isn't a tensor of the model
├── ExportError                 a model can't be exported to a format
├── NotSteppableError           a model can't compute a sequence step by step
├── OutOfMemoryError            a layer's output doesn't fit into the memory
├── NotCompiledError            training was requested of a model without optimizer or loss
├── NonFiniteLossError          the training loss is NaN or infinite
└── NonFiniteWeightError        a step of training has made a weight NaN or infinite
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path


class LayerGraphError(Exception):
    """Base class of all errors that layergraph raises deliberately. Names from files in its text are printable."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(printable(arg) if isinstance(arg, str) else arg for arg in args))


def printable(text: str) -> str:
    """Escapes control characters and lone surrogates: in a terminal or log they could pass for other output."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


class ModelFileError(LayerGraphError):
    """A model file can't be used. `path` names the file; `problems` has one text per problem found."""

    def __init__(self, path: str | Path, problems: str | Sequence[str]) -> None:
        self.path = str(path)
        self.problems = tuple(map(printable, (problems,) if isinstance(problems, str) else problems))
        shown = self.problems[:MAX_PROBLEMS]
        more = len(self.problems) - len(shown)
        text = "; ".join(shown) + (f"; and {more} more" if more else "")
        super().__init__(f"{Path(path).name}: {text}")


#: Maximum number of problems in one error text: a crafted file may have millions.
MAX_PROBLEMS = 50


class CorruptFileError(ModelFileError):
    """The file is damaged, truncated, or not a model file."""


class UnsupportedModelError(ModelFileError):
    """The file needs unsupported features, such as custom classes; `problems` lists all of them."""


class UnsafeFileError(ModelFileError):
    """The file contains something unsafe in a model file, such as references to other files."""


class ConfigError(LayerGraphError, ValueError):
    """An option of a layer, optimizer, loss or metric is invalid. The text names owner, option and value."""


class GraphError(LayerGraphError, ValueError):
    """Layers and tensors are incompatible: shapes, number of inputs, cycles, disconnected tensors."""


class DataError(LayerGraphError, ValueError):
    """Arrays don't match the model. The text names the array, what was received and what was expected."""


class ShapeError(DataError):
    """An array has the wrong shape: `what` it is, the shape that was `got`, and what was `expected`, as a text."""

    def __init__(self, what: str, got: tuple[int, ...], expected: object) -> None:
        self.what, self.got, self.expected = what, tuple(got), str(expected)
        super().__init__(f"{what}: got shape {self.got}, expected {self.expected}")


class ElementError(DataError):
    """An element of an input is invalid for a layer, such as an id outside of a table. Others may be valid."""


class UnknownTensorError(DataError):
    """A name isn't an input, output or tensor of the model."""


class ExportError(LayerGraphError):
    """A model can't be exported: the format lacks an operation, or the file doesn't compute the model's outputs."""


class NotSteppableError(LayerGraphError):
    """A model can't compute a sequence step by step. `layer` is the path of the cause, or ""; `reason` says why."""

    def __init__(self, reason: str, layer: str = "", class_name: str = "") -> None:
        self.layer, self.class_name, self.reason = printable(layer), printable(class_name), printable(reason)
        named = f"layer '{layer}' ({class_name}) " if layer else ""
        super().__init__(f"the model can't be stepped: {named}{reason}")


class ExplanationError(LayerGraphError, ValueError):
    """An output can't be explained by a tensor. The text names the tensor and the reason."""


class OutOfMemoryError(LayerGraphError, MemoryError):
    """A layer needs more memory than there is. Less data may fit."""


class NotCompiledError(LayerGraphError, RuntimeError):
    """Training was requested of a model without optimizer or loss."""


class NonFiniteLossError(LayerGraphError, ArithmeticError):
    """The training loss is NaN or infinite. `epoch` and `step` are counted from 1."""

    def __init__(self, value: float, epoch: int, step: int) -> None:
        self.value = value
        self.epoch = epoch
        self.step = step
        super().__init__(f"loss is {value} in step {step} of epoch {epoch}")


class NonFiniteWeightError(LayerGraphError, ArithmeticError):
    """A step of training has made a weight NaN or infinite. `path` names the weight; `step` counts from 1."""

    def __init__(self, path: str, step: int) -> None:
        self.path = path
        self.step = step
        super().__init__(f"weight '{path}' isn't finite after step {step}")


def unknown_name(kind: str, name: object, known: Iterable[str]) -> str:
    """Returns an error text for a name that isn't in a table: with similar names, or else up to 40 known ones.

    Example: unknown_name("optimizer", "adm", TABLE) -> "unknown optimizer 'adm'; did you mean 'adam'?"
    """
    return f"unknown {kind} {str(name)[:80]!r}; {known_names(name, known)}"


def known_names(name: object, known: Iterable[str]) -> str:
    """Returns the end of such a text: "did you mean 'adam'?"."""
    choices = sorted(set(known))
    shown = str(name)[:80]
    near = difflib.get_close_matches(shown.lower(), choices, n=3, cutoff=0.6)
    near = near or difflib.get_close_matches(shown, choices, n=3, cutoff=0.6)
    if near:
        return "did you mean " + " or ".join(repr(n) for n in near) + "?"
    if not choices:
        return "none exist"
    return f"known: {', '.join(choices[:40])}" + (" ..." if len(choices) > 40 else "")
