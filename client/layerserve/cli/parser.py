"""argparse parser with help and errors in typer's style, for commands that don't use typer."""

from __future__ import annotations

import argparse
import difflib
import shutil
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

#: Maximum width of the text and of the first column, and the space after that, in characters; the same as typer's.
_WIDTH, _FIRST, _SPACE = 80, 30, 2
#: Beginning of argparse's error for arguments that it doesn't know.
_UNKNOWN = "unrecognized arguments: "
#: Number of groups that argparse makes itself, for arguments and options without a group.
_OWN_GROUPS = 2


class Parser(argparse.ArgumentParser):
    """Parses a command's arguments. `-h` and `--help` are included.

    Groups of arguments are sections of the help. `advanced` are the options that only `--help-all` shows.
    """

    def __init__(self, *, prog: str, description: str, **options: Any) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False, add_help=False, **options)
        self.advanced: list[argparse.Action] = []
        # Always shown last.
        self._last = [self.add_argument("-h", "--help", action="help", help="Show this message and exit.")]

    def add_help_all(self, text: str) -> None:
        """Adds the flag `--help-all`, which shows the `advanced` options, too. `text` is its help."""
        none = argparse.SUPPRESS
        self._last.append(self.add_argument("--help-all", action=_HelpAll, nargs=0, dest=none, default=none, help=text))

    def format_usage(self) -> str:
        """Returns the first line of the help."""
        words = [_positional(action) for action in self._actions if not action.option_strings]
        return " ".join(["Usage:", self.prog, "[OPTIONS]", *words]) + "\n"

    def format_help(self, *, everything: bool = False) -> str:
        """Returns the help, with `everything` that of the advanced options included."""
        width = max(40, min(shutil.get_terminal_size().columns, _WIDTH) - 2)
        parts = [self.format_usage()]
        for paragraph in (self.description or "").split("\n\n"):
            parts.append(textwrap.fill(paragraph, width, initial_indent="  ", subsequent_indent="  ") + "\n")
        hidden = [] if everything else self.advanced
        shown = [one for one in self._actions if one.option_strings and one not in self._last and one not in hidden]
        titles = {
            id(one): str(group.title) for group in self._action_groups[_OWN_GROUPS:] for one in group._group_actions
        }
        arguments = [action for action in self._actions if not action.option_strings]
        commands = [action for action in arguments if isinstance(action, argparse._SubParsersAction)]
        sections = {"Arguments": [(_positional(one), one.help) for one in arguments if one not in commands]}
        for one in shown:
            if id(one) in titles:
                sections.setdefault(titles[id(one)], []).append((_flags(one), one.help))
        others = [one for one in shown if id(one) not in titles]
        sections["Options"] = [(_flags(one), one.help) for one in [*others, *self._last]]
        sections["Commands"] = [(one.dest, one.help) for action in commands for one in action._choices_actions]
        for title, rows in sections.items():
            if rows:
                parts.append(f"{title}:\n{_definitions(rows, width)}")
        return "\n".join(parts)

    def error(self, message: str) -> NoReturn:
        """Prints the error, with the options that an unknown one may stand for, and exits with status 2."""
        hint = self._near(message.removeprefix(_UNKNOWN).split()) if message.startswith(_UNKNOWN) else ""
        self.exit(2, f"{self.format_usage()}Try '{self.prog} --help' for help.\n\nError: {message}{hint}\n")

    def _near(self, words: Sequence[str]) -> str:
        known = [name for action in self._actions for name in action.option_strings if name.startswith("--")]
        # Other servers' flags have underscores: --grpc_port.
        given = [word.partition("=")[0].replace("_", "-") for word in words if word.startswith("--")]
        found = dict.fromkeys(near for word in given for near in difflib.get_close_matches(word, known))
        return f"; did you mean {' or '.join(found)}?" if found else ""


class _HelpAll(argparse.Action):
    """Prints the help with the advanced options, and exits."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        assert isinstance(parser, Parser)
        print(parser.format_help(everything=True), end="")
        parser.exit()


def with_default(text: str, default: object) -> str:
    """Returns an option's help with its default value, in typer's style."""
    return f"{text}  [default: {default}]"


def _positional(action: argparse.Action) -> str:
    if isinstance(action, argparse._SubParsersAction):
        return "COMMAND [ARGS]..."
    name = str(action.metavar or action.dest)
    return {"?": f"[{name}]", "*": f"[{name}]..."}.get(str(action.nargs), name)


def _flags(action: argparse.Action) -> str:
    joint = " / " if isinstance(action, argparse.BooleanOptionalAction) else ", "
    names = joint.join(action.option_strings)
    return names if action.nargs == 0 else f"{names} {action.metavar}"


def _definitions(rows: Sequence[tuple[str, str | None]], width: int) -> str:
    first = min(max(len(name) for name, _ in rows), _FIRST)
    return "".join(f"{line}\n" for name, text in rows for line in _definition(name, text or "", first, width))


def _definition(name: str, text: str, first: int, width: int) -> Iterable[str]:
    indent = " " * (2 + first + _SPACE)
    lines = textwrap.wrap(text, max(20, width - len(indent))) or [""]
    if len(name) > first:
        yield f"  {name}"
    else:
        yield f"  {name:{first + _SPACE}}{lines.pop(0)}".rstrip()
    yield from (indent + line for line in lines)
