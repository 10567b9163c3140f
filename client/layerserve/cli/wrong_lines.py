"""Errors of wrong command lines: what was got, what is expected, and where an option belongs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

#: Options with files of data, the first of which a command has.
_DATA_OPTIONS = {"--input": "--input FILE", "--data": "--x FILE and --y FILE, or --data FILE"}
_DATA_FILE = re.compile(r"\.(npy|npz|json|csv|tsv|parquet)\b")

#: How the learning rate is set, which Keras has in the optimizer.
LEARNING_RATE = (
    "the learning rate is part of the optimizer: "
    """--optimizer '{"class_name": "Adam", "config": {"learning_rate": 0.001}}'"""
)


def explain(error: Exception, group: Any, command: str = "") -> None:
    """Changes the message of typer's error for an option or argument that is wrong, of a group or of its `command`."""
    # By name, as releases of typer have classes of their own.
    kind = type(error).__name__
    if kind == "BadParameter":
        _show_got(error)
    elif kind == "NoSuchOption" and (text := _place(vars(error), group, command)):
        vars(error).update(message=text, possibilities=None)
    elif kind == "UsageError" and (text := _data_option(vars(error))):
        vars(error).update(message=text)


def _show_got(error: Exception) -> None:
    """Adds what was got, which releases of typer that check with pydantic leave out."""
    if errors := getattr(error.__cause__, "errors", None):
        found = errors()[0]
        expected = re.sub("^Input should be |, unable to parse.*", "", str(found["msg"]))
        vars(error).update(message=f"got {found['input']!r}, expected {expected}")


def _data_option(error: Mapping[str, Any]) -> str:
    """Returns the options that files of data belong to which were given as arguments; empty if there are none."""
    message: str = error["message"]
    if not message.startswith("Got unexpected extra argument") or not _DATA_FILE.search(message) or not error["ctx"]:
        return ""
    options = {option for parameter in error["ctx"].command.params for option in parameter.opts}
    places = [place for option, place in _DATA_OPTIONS.items() if option in options]
    return f"{message}; data is given by {places[0]}" if places else ""


def _place(error: Mapping[str, Any], group: Any, command: str) -> str:
    """Returns where an unknown option belongs; empty if that isn't known."""
    name: str = error["option_name"]
    if not command:
        found = any(name in parameter.opts for one in group.commands.values() for parameter in one.params)
        return f"{name} follows the command's name: layerserve COMMAND {name} ..." if found else ""
    if any(name in parameter.opts for parameter in group.params):
        return f"{name} precedes the command's name: layerserve {name} ... {command}"
    options = {option for parameter in error["ctx"].command.params for option in parameter.opts} if error["ctx"] else ()
    return LEARNING_RATE if name in ("--learning-rate", "--lr") and "--optimizer" in options else ""
