"""Description of an option: its name, type, default, range, unit, help, and field in a message."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

from layerserve.training.options.kinds import Kind

#: Arguments of Keras that a run doesn't have -> what takes their place.
KERAS: Mapping[str, str] = {
    "verbose": "run.wait(progress=True) shows the progress",
    "learning_rate": "it is an option of the optimizer: {'class_name': 'Adam', 'config': {'learning_rate': 0.001}}",
    "initial_epoch": "from_checkpoint goes on from the checkpoint of a run",
}


@dataclass(frozen=True)
class Option:
    """An option, as declared by a field of a table."""

    name: str
    default: Any
    #: The valid values and their encoding.
    kind: Kind
    #: Description in one sentence.
    help: str
    #: Unit of a number.
    unit: str
    #: Description of the default, if `default` doesn't express it.
    otherwise: str
    #: Path of its field in the spec: "nan_policy", "budget.seconds".
    path: str
    #: Whether `evaluate` has the option, too.
    evaluates: bool
    #: Whether a run that goes on from a checkpoint has, by default, the value of the checkpoint's run.
    continues: bool
    #: Short flags on the command line.
    flags: tuple[str, ...]
    #: Its type in signatures, and the annotation as text.
    type: Any
    annotation: str

    def part(self, name: str) -> str:
        """Returns how an option inside of this argument is written; empty if there is none of this name."""
        return ""

    @property
    def fields(self) -> tuple[str, ...]:
        """Paths of all fields of the spec that the option sets."""
        parts = self.path.split(".")
        return (self.path, *(".".join([*parts[:-1], field]) for field in self.kind.beside))

    def write(self, spec: Any, value: Any) -> None:
        """Sets the option in a spec. Raises InvalidArgument if the value is invalid."""
        if value is None and self.default is None:
            return
        encoded = self.kind.encode(self.name, value)
        if encoded is not None:
            self.kind.write(*self._message_and_field(spec), encoded)

    def read(self, spec: Any) -> Any:
        """Returns the option's value in a spec; None if it isn't set."""
        return self.kind.read(*self._message_and_field(spec))

    def _message_and_field(self, spec: Any) -> tuple[Any, str]:
        *parts, field = self.path.split(".")
        for part in parts:
            spec = getattr(spec, part)
        return spec, field


def option(
    default: Any,
    kind: Kind,
    help: str,
    *,
    unit: str = "",
    otherwise: str = "",
    field: str = "",
    evaluates: bool = False,
    continues: bool = False,
    flags: Sequence[str] = (),
) -> Any:
    """Declares an option as a dataclass field. `field` is its name in the message if that differs; see `Option`."""
    described = {
        "kind": kind,
        "help": help,
        "unit": unit,
        "otherwise": otherwise,
        "field": field,
        "evaluates": evaluates,
        "continues": continues,
        "flags": tuple(flags),
    }
    return dataclasses.field(default=default, metadata=described)


def options_of(table: type[Any], message: str = "") -> tuple[Option, ...]:
    """Returns the options of a table. `message` is the field of the spec that has them; empty for the spec itself."""
    types = get_type_hints(table)
    found = []
    for line in dataclasses.fields(table):
        described = dict(line.metadata)
        path = ".".join(filter(None, (message, described.pop("field") or line.name)))
        found.append(
            Option(
                name=line.name,
                default=line.default,
                path=path,
                type=types[line.name],
                annotation=str(line.type),
                **described,
            )
        )
    return tuple(found)


def check_names(function: str, options: Sequence[Option], given: Iterable[str]) -> None:
    """Raises TypeError, as Python does, if a name isn't an option."""
    known = [option.name for option in options]
    for name in given:
        if name not in known:
            inside = [option.part(name) for option in options if option.part(name)]
            near = inside or [repr(one) for one in difflib.get_close_matches(name, known, 1)]
            hint = f"; {KERAS[name]}" if name in KERAS else f"; did you mean {near[0]}?" if near else ""
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}{hint}")


def fill(spec: Any, options: Sequence[Option], given: Mapping[str, object]) -> None:
    """Sets options in a spec, by default to their default values. Raises InvalidArgument if a value is invalid."""
    for option in options:
        option.write(spec, given.get(option.name, option.default))
