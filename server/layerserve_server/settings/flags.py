"""Flags of `layerserve serve` for the settings, with their help."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le
from layerserve.cli.parser import Parser, with_default
from pydantic.fields import FieldInfo

#: Placeholder of a value in the help, by the last word of a setting's name, or else by its type.
_BY_NAME = {"seconds": "SECONDS", "bytes": "BYTES", "port": "PORT"}
_BY_TYPE: dict[Any, str] = {int: "N", float: "X", str: "TEXT"}

_DESCRIPTION = (
    "Serve Keras models over gRPC.\n\n"
    "Every option can also be set by an environment variable (LAYERSERVE_GRPC_PORT for --grpc-port) or in a TOML file "
    "(grpc_port). An option takes precedence over the environment, and the environment over the file."
)


def read_flags(argv: Sequence[str], fields: Mapping[str, FieldInfo]) -> dict[str, Any]:
    """Returns the settings on a command line, as strings. Raises SystemExit for an unknown flag, as argparse does."""
    values = vars(_parser(fields).parse_args(list(argv)))
    return {name: ",".join(value) if isinstance(value, list) else value for name, value in values.items()}


def _parser(fields: Mapping[str, FieldInfo]) -> Parser:
    parser = Parser(prog="layerserve serve", description=_DESCRIPTION, argument_default=argparse.SUPPRESS)
    for title, names in sections(fields):
        group = parser.add_argument_group(title)
        for name in names:
            field = fields[name]
            flag = "--" + name.replace("_", "-")
            if name == "path":
                action = parser.add_argument(name, metavar="PATH", nargs="?")
            elif field.annotation is bool:
                action = group.add_argument(flag, action=argparse.BooleanOptionalAction)
            elif extra(field).get("repeated"):
                action = group.add_argument(flag, action="append", metavar=_metavar(name, field))
            else:
                action = group.add_argument(flag, metavar=_metavar(name, field))
            # Set afterwards, since some Python releases append their own default to a help passed to add_argument.
            action.help = with_default(field.description or "", _default(name, field))
            if not is_basic(field):
                parser.advanced.append(action)
    parser.add_help_all(f"Show all {len(fields)} settings and exit.")
    return parser


def sections(fields: Mapping[str, FieldInfo]) -> Iterator[tuple[str, list[str]]]:
    """Yields the titles of the sections of settings, with the names of their settings."""
    title, names = "", list[str]()
    for name, field in fields.items():
        begun = str(extra(field).get("section", ""))
        if begun and names:
            yield title, names
            names = []
        title = begun or title
        names.append(name)
    yield title, names


def is_basic(field: FieldInfo) -> bool:
    """Whether a setting is in `--help`; the others are in `--help-all` only."""
    return bool(extra(field).get("basic"))


def _metavar(name: str, field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return f"[{'|'.join(map(str, get_args(field.annotation)))}]"
    word = _BY_NAME.get(name.rpartition("_")[2])
    return word or _BY_TYPE.get(field.annotation, "PATH")


def _default(name: str, field: FieldInfo) -> str:
    """Returns the default and the bounds of a setting in the style of typer: "64; x>=1"."""
    default: Any = field.default
    if isinstance(default, bool):
        return ("" if default else "no-") + name.replace("_", "-")
    if default is None or default == "":
        return unset(field)
    if isinstance(default, (str, Path)):
        return str(default)
    least = [f"{one.ge}<=" for one in field.metadata if isinstance(one, Ge)]
    least += [f"{one.gt}<" for one in field.metadata if isinstance(one, Gt)]
    most = [f"<={one.le}" for one in field.metadata if isinstance(one, Le)]
    bounds = "".join([*least, "x", *most])
    if least and not most:
        bounds = "x>" + ("=" if "=" in least[0] else "") + least[0].rstrip("<=")
    return f"{default}; {bounds}" if bounds != "x" else str(default)


def unset(field: FieldInfo) -> str:
    """Returns the description of the default of a setting that has no default value."""
    return str(extra(field).get("unset", "none"))


def extra(field: FieldInfo) -> Mapping[str, Any]:
    """Returns what a setting has beside its type and description: `section`, `basic`, `unset`, `exists`, ..."""
    found = field.json_schema_extra
    return found if isinstance(found, dict) else {}
