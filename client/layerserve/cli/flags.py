"""Flags of commands for the options of training, made from the tables in `layerserve.training.options`."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, TypeVar

import typer

from layerserve.cli.server_commands import keyword
from layerserve.cli.slice_commands import Mode
from layerserve.errors import InvalidArgument
from layerserve.training.options.arguments import Several, Split
from layerserve.training.options.kinds import (
    Callbacks,
    Flag,
    Group,
    Json,
    Key,
    Kind,
    Log,
    Metadata,
    Monitored,
    Number,
    Patterns,
    Setting,
    Settings,
    ShareOrName,
    Size,
    Text,
    Weights,
    Whole,
    Words,
)
from layerserve.training.options.option import Option
from layerserve.training.options.signature import expand

F = TypeVar("F", bound=Callable[..., Any])

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def flags(options: Sequence[Option], data: Mapping[str, Any], modes: Sequence[Mode] = ()) -> Callable[[F], F]:
    """Decorator that adds flags for these options, data and modes to a command. It receives them as `**options`.

    `data` are annotations by name (see `data_arguments`).
    """

    def shown(command: F) -> F:
        # typer doesn't evaluate a signature's annotations
        arrays = [keyword(name, annotation, None) for name, annotation in data.items()]
        parameters = [*arrays, *map(_parameter, options), *map(_mode_parameter, modes)]
        expand(command, parameters, before="version", eval_str=True)
        return command

    return shown


def read_flags(options: Sequence[Option], given: Mapping[str, Any]) -> dict[str, Any]:
    """Converts the given flags to options of the client. Raises InvalidArgument if a text is invalid."""
    return {option.name: _value(option, given[option.name]) for option in options if given[option.name] is not None}


def _value(option: Option, given: Any) -> Any:
    if isinstance(option, Several):
        return _object(option, given)
    return _FORMS[type(option.kind)].read(flag_name(option), given)


def given_flags(context: typer.Context, options: Sequence[Option], given: Mapping[str, Any]) -> dict[str, Any]:
    """Like `read_flags`; with a checkpoint to go on from, without defaults that are those of the checkpoint's run."""
    if given["from_checkpoint"] is not None:
        # By name, as releases of typer have classes of their own.
        sources = {option.name: getattr(context.get_parameter_source(option.name), "name", "") for option in options}
        own = {option.name for option in options if option.continues and sources[option.name] != "COMMANDLINE"}
        given = {name: None if name in own else value for name, value in given.items()}
    return read_flags(options, given)


def flag_name(option: Option) -> str:
    """Returns an option's flag: steps_per_epoch -> --steps-per-epoch."""
    return "--" + option.name.replace("_", "-")


def _parameter(option: Option) -> inspect.Parameter:
    kind, form, name = option.kind, _FORMS[type(option.kind)], flag_name(option)
    if form.type is bool:
        name += f"/--no-{name.removeprefix('--')}"
    default = None if form.type == list[str] else option.default
    text = " ".join(filter(None, (option.help, form.help)))
    if isinstance(option, Several):
        text += f" {_fields_text(option)}"
    if option.default is None and option.otherwise:
        text += f"  [default: {option.otherwise}]"
    described = typer.Option(
        name,
        *option.flags,
        help=text,
        metavar=f"[{'|'.join(kind.words)}]" if isinstance(kind, Words) else form.metavar,
        min=kind.least if isinstance(kind, Number) and form.type is not str and kind.least >= 0 else None,
    )
    return keyword(option.name, Annotated[form.type if default is not None else form.type | None, described], default)


def _mode_parameter(mode: Mode) -> inspect.Parameter:
    described = typer.Option("--" + mode.name.replace("_", "-"), help=mode.help)
    return keyword(mode.name, Annotated[bool, described], False)


def _bytes(flag: str, text: str) -> int:
    """Parses a size in bytes: 2G -> 2147483648. Raises InvalidArgument."""
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].isalpha() else (text, "")
    try:
        return int(float(number) * _UNITS[unit])
    except (ValueError, KeyError, OverflowError):
        raise InvalidArgument(f"{flag}: got {text!r}, expected bytes, or a number with K, M, G or T") from None


def _json(flag: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidArgument(f"{flag}: got {text!r}, expected JSON ({error})") from None


def _name_or_json(flag: str, text: str) -> Any:
    return _json(flag, text) if text.lstrip().startswith(("{", "[")) else text


def _names_or_json(flag: str, texts: Sequence[str]) -> Any:
    """Returns a list of names; for a single JSON list or object, that itself, such as a dict by output."""
    values = [_name_or_json(flag, text) for text in texts]
    return values[0] if len(values) == 1 and isinstance(values[0], (list, dict)) else values


def pairs(flag: str, texts: Sequence[str]) -> dict[str, str]:
    """Parses KEY=VALUE texts. Raises InvalidArgument if one has no '=', or a key comes twice."""
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or key in found:
            problem = "a key twice" if equals else "no '='"
            raise InvalidArgument(f"{flag}: got {text!r} with {problem}, expected KEY=VALUE for different keys")
        found[key] = value
    return found


def _fields_text(option: Several) -> str:
    if option.holder is Split:
        return 'Such as {"use": "train", "shares": {"train": 0.8, "test": 0.2}, "seed": 7}.'
    names = (["best"] if option.choice is not None else []) + list(option.parts)
    before = "'no', 'best', or " if option.choice is not None else ""
    return f"{before}KEY=VALUE, separated by commas, of {', '.join(names)}."


def _object(option: Several, texts: Sequence[str]) -> Any:
    """Reads an object: KEY=VALUE, separated by commas, or JSON. Raises InvalidArgument."""
    flag = flag_name(option)
    given: dict[str, Any] = {}
    for text in texts:
        if text.lstrip().startswith("{"):
            given |= _json(flag, text)
            continue
        for word in text.split(","):
            key, equals, value = word.strip().partition("=")
            if option.choice is not None and not equals and key in ("no", "best"):
                given[key] = True
            elif not equals:
                raise InvalidArgument(f"{flag}: got {word!r}, expected {_fields_text(option).removesuffix('.')}")
            else:
                given[key] = _field(option, f"{flag} {key}", key, value)
    if given.pop("no", False):
        if given:
            raise InvalidArgument(f"{flag}: got 'no' with {', '.join(given)}, expected one of the two")
        return False
    known = [line.name for line in fields(option.holder)]
    if unknown := [key for key in given if key not in known]:
        raise InvalidArgument(f"{flag}: got {unknown[0]!r}, expected {', '.join(known)}")
    try:
        return option.holder(**given)
    except TypeError as error:
        raise InvalidArgument(f"{flag}: got {', '.join(given)}, expected {', '.join(known)} ({error})") from None


def _field(option: Several, flag: str, key: str, text: str) -> Any:
    """Reads the field of an object; one that it doesn't have stays text."""
    kind = option.parts[key].kind if key in option.parts else None
    try:
        if isinstance(kind, Size):
            return _bytes(flag, text)
        return int(text) if isinstance(kind, Whole) else float(text) if isinstance(kind, Number) else text
    except ValueError:
        assert kind is not None
        raise InvalidArgument(f"{flag}: got {text!r}, expected {kind.expects}") from None


def _share_or_name(flag: str, text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


@dataclass(frozen=True)
class _Form:
    """How a kind of value is parsed on the command line: typer's type, then `read` to convert it."""

    type: Any
    metavar: str | None = None
    help: str = ""
    read: Callable[[str, Any], Any] = lambda flag, value: value


_REPEATED = "May be given several times."
_FORMS: dict[type[Kind], _Form] = {
    Flag: _Form(bool),
    Group: _Form(list[str], "KEY=VALUE|JSON", "May be given several times."),
    ShareOrName: _Form(str, "X|NAME", read=_share_or_name),
    Monitored: _Form(str, "LOG"),
    Text: _Form(str, "TEXT"),
    Key: _Form(str, "KEY"),
    Metadata: _Form(list[str], "KEY=VALUE", _REPEATED, pairs),
    Log: _Form(str, "LOG"),
    Words: _Form(str),
    Whole: _Form(int, "N"),
    Number: _Form(float, "X"),
    Size: _Form(str, "SIZE", "Bytes, or such as 500M or 2G.", _bytes),
    Patterns: _Form(list[str], "PATTERN", _REPEATED),
    Setting: _Form(str, "NAME|JSON", "A name, or JSON.", _name_or_json),
    Settings: _Form(list[str], "NAME|JSON", f"A name, or JSON. {_REPEATED}", _names_or_json),
    Callbacks: _Form(list[str], "NAME|JSON", f"A name, or JSON. {_REPEATED}", _names_or_json),
    Weights: _Form(str, "JSON", "", _json),
    Json: _Form(str, "JSON", "", _json),
}
