"""Commands that ask a server: functions of a client, whose results are printed for people or as JSON."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import typer

from layerserve.calls.connection import DEFAULT_ADDRESS
from layerserve.cli.options import Address, Json, connect
from layerserve.cli.output import print_json, print_line, print_table
from layerserve.values.tables import Table


@dataclass(frozen=True)
class Result:
    """What a command prints: a document as JSON, or a table or a line for people.

    `problems` are printed to standard error behind it. With them, the exit status is 1.
    """

    document: Any
    shown: Table | str
    problems: Sequence[str] = ()


def on_server(command: Callable[..., Result | None]) -> Callable[..., None]:
    """Decorator that makes a command of a function of a client and of the command's arguments.

    It adds `--address`, and `--json` unless the function returns None, and prints the result. A function that prints by
    itself gets `as_json` if it has such a parameter, and typer's `context` likewise.
    """
    signature = inspect.signature(command, eval_str=True)
    own = list(signature.parameters.values())[1:]
    named = {one.name for one in own}

    @functools.wraps(command)
    def run(*, context: typer.Context, address: str, as_json: bool = False, **arguments: Any) -> None:
        given = {"context": context, "as_json": as_json}
        with connect(context, address) as client:
            result = command(client, **{name: given[name] for name in given.keys() & named}, **arguments)
        if result is not None:
            _show(result, as_json)

    added = [keyword("address", Address, DEFAULT_ADDRESS)]
    if signature.return_annotation is not None or "as_json" in named:
        added.append(keyword("as_json", Json, False))
    kept = [one.replace(kind=one.KEYWORD_ONLY) for one in own if one.name not in ("context", "as_json")]
    shown = [keyword("context", typer.Context, inspect.Parameter.empty), *kept, *added]
    run.__annotations__ = {one.name: one.annotation for one in shown}
    run.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    return run


def keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    """Returns a parameter that typer makes an option of."""
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _show(result: Result, as_json: bool) -> None:
    if as_json:
        print_json(result.document)
    elif isinstance(result.shown, Table):
        print_table(result.shown)
    else:
        print_line(result.shown)
    for problem in result.problems:
        print(f"layerserve: {' '.join(problem.split())}", file=sys.stderr)
    if result.problems:
        raise typer.Exit(1)
