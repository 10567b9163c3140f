"""Groups of commands, whose help shows whole sentences where typer's cuts them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import typer
from typer.core import TyperGroup

#: More than any sentence has, in characters.
WHOLE = 1000

HELP_OPTIONS = {"help_option_names": ["-h", "--help"]}


class Group(TyperGroup):
    """A group of commands."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Writes the commands."""
        self.write_section(ctx, formatter, "Commands", self.list_commands(ctx))

    def write_section(self, ctx: Any, formatter: Any, title: str, names: Iterable[str], width: int = 0) -> None:
        """Writes the commands of these names that exist, below a title. Names take `width` characters or more."""
        found = [(name, command) for name in names if (command := self.get_command(ctx, name)) is not None]
        if found:
            with formatter.section(title):
                formatter.write_dl([(f"{name:{width}}", one.get_short_help_str(WHOLE)) for name, one in found])


def new_group(text: str) -> typer.Typer:
    """Makes a group of commands with a help text, such as those of `run`."""
    return typer.Typer(
        cls=Group, no_args_is_help=True, rich_markup_mode=None, context_settings=HELP_OPTIONS.copy(), help=text
    )
