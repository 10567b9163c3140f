"""One option: its name, type, default, range, unit and help, and where it stands in a message."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

from layerserve.options.kinds import Kind


@dataclass(frozen=True)
class Option:
    """An option, as its line in a table describes it."""

    name: str
    default: Any
    #: Which values are valid, and how they travel.
    kind: Kind
    #: What it does, in one sentence.
    help: str
    #: What a number of it counts.
    unit: str
    #: What holds where it isn't given, if its default doesn't say it.
    otherwise: str
    #: The field of the specification that carries it, as a path: "nan_policy", "budget.seconds".
    path: str
    #: Whether evaluation has it too.
    evaluates: bool
    #: Further spellings on the command line: short ones, and names that it had before.
    flags: tuple[str, ...]
    #: Its type in signatures, and the text of it.
    type: Any
    annotation: str

    @property
    def fields(self) -> tuple[str, ...]:
        """All fields of the specification that it fills, as paths."""
        parts = self.path.split(".")
        return (self.path, *(".".join([*parts[:-1], field]) for field in self.kind.beside))

    def write(self, spec: Any, value: Any) -> None:
        """Put a value into the specification. Raises InvalidArgument for one that is not valid."""
        if value is None and self.default is None:
            return
        encoded = self.kind.encode(self.name, value)
        if encoded is not None:
            self.kind.write(*self._place(spec), encoded)

    def read(self, spec: Any) -> Any:
        """Its value in a specification; None where it is not given."""
        return self.kind.read(*self._place(spec))

    def _place(self, spec: Any) -> tuple[Any, str]:
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
    flags: Sequence[str] = (),
) -> Any:
    """A line of a table: the field of a dataclass, with what `Option` says of it. `field` is the message's own name."""
    described = {
        "kind": kind,
        "help": help,
        "unit": unit,
        "otherwise": otherwise,
        "field": field,
        "evaluates": evaluates,
        "flags": tuple(flags),
    }
    return dataclasses.field(default=default, metadata=described)


def options_of(table: type[Any], message: str = "") -> tuple[Option, ...]:
    """The options of a table. Its fields stand in this field of the specification, or in the specification itself."""
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
    """Raises TypeError, as Python does, for a name that is no option."""
    known = [option.name for option in options]
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}{hint}")


def fill(spec: Any, options: Sequence[Option], given: Mapping[str, object]) -> None:
    """Put options into a specification, with the defaults of those that aren't given. Raises InvalidArgument."""
    for option in options:
        option.write(spec, given.get(option.name, option.default))
