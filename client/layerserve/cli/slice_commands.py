"""What a slice of the client adds to the command line: the `COMMANDS` of its module `commands`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import typer

from layerserve import Client, slice_table
from layerserve.cli.server_commands import Result


@dataclass(frozen=True)
class Source:
    """Data that arguments such as `--x` name by a prefix.

    Behind the prefix is a text. `array(text, fill)` returns the array that it names, with `fill` in place of missing
    values. `whole(client, text)` returns all data of a run, or None if the text names one array.
    """

    prefix: str
    array: Callable[[str, str | None], Any]
    whole: Callable[[Client, str], Any]


@dataclass(frozen=True)
class Mode:
    """A flag of `train` and `evaluate`, with which they do something else with the same arguments.

    `start(client, "train")` returns what is called in place of `client.train`, and `result` makes what is printed of
    what that returns.
    """

    name: str
    help: str
    start: Callable[[Client, str], Callable[..., Any]]
    result: Callable[[Any], Result]


@dataclass(frozen=True, kw_only=True)
class SliceCommands:
    """Groups of commands by name, sources of data, and modes."""

    groups: Mapping[str, typer.Typer] = field(default_factory=dict)
    sources: Sequence[Source] = ()
    modes: Sequence[Mode] = ()


@cache
def slice_commands() -> tuple[SliceCommands, ...]:
    """Returns what all slices add."""
    return tuple(module.COMMANDS for _, module in slice_table.modules("commands"))


def source_of(argument: str) -> Source | None:
    """Returns the source that an argument names."""
    sources = [source for added in slice_commands() for source in added.sources]
    return next((source for source in sources if argument.startswith(source.prefix)), None)


def all_modes() -> list[Mode]:
    """Returns the modes of `train` and `evaluate`."""
    return [mode for added in slice_commands() for mode in added.modes]


def mode_of(flags: Mapping[str, Any]) -> Mode | None:
    """Returns the mode whose flag is set."""
    return next((mode for mode in all_modes() if flags[mode.name]), None)
