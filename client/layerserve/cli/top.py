"""The command `top`, which shows models, rates and runs of a server while it works."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer

from layerserve import Client
from layerserve.cli.output import print_json, print_table
from layerserve.cli.server_commands import on_server
from layerserve.cli.top_readings import MODEL_COLUMNS, RUN_COLUMNS, Reader
from layerserve.errors import InvalidArgument
from layerserve.values.tables import Table, count_text


@on_server
def top(
    client: Client,
    interval: Annotated[
        float, typer.Option(min=0.2, max=3600, metavar="SECONDS", help="Time between two readings, in seconds.")
    ] = 1.0,
    once: Annotated[
        bool, typer.Option("--once", help="Print the rates of one interval and exit, without a terminal.")
    ] = False,
    as_json: bool = False,
) -> None:
    """Show the models with their rates, latencies, batches and queues, and the runs, while the server works.

    Keys: s and S sort by another column, r reverses, / filters by name, Escape clears the filter, p pauses, q quits.
    Requires textual, but not with --once.

    JSON, of one reading: {"models": [{column: text}], "runs": [{column: text}], "problems": {what: text}}.
    """
    if not (once or as_json or sys.stdout.isatty()):
        raise InvalidArgument("top: got a standard output that is no terminal, expected one, or --once")
    if once or as_json:
        _print_once(client, interval, as_json=as_json)
        return
    try:
        from layerserve.cli.top_view import TopView
    except ModuleNotFoundError as error:
        raise InvalidArgument(f"top: requires {error.name}: pip install textual") from None
    TopView(Reader(client), client.address, interval).run()


def _print_once(client: Client, interval: float, *, as_json: bool) -> None:
    reader = Reader(client)
    reader.read()
    time.sleep(interval)
    reading = reader.read()
    if as_json:
        models = [dict(zip(_names(MODEL_COLUMNS), row.cells, strict=True)) for row in reading.models]
        runs = [dict(zip(_names(RUN_COLUMNS), row.cells, strict=True)) for row in reading.runs]
        print_json({"models": models, "runs": runs, "problems": reading.problems})
    else:
        for columns, rows, noun in ((MODEL_COLUMNS, reading.models, "model"), (RUN_COLUMNS, reading.runs, "run")):
            if rows:
                print_table(Table(count_text(len(rows), noun), columns, [row.cells for row in rows]))
    if reading.problems and not as_json:
        raise InvalidArgument(
            "; ".join(text if what == "server" else f"{what}: {text}" for what, text in reading.problems.items())
        )


def _names(columns: tuple[str, ...]) -> list[str]:
    return [column.removeprefix("#") for column in columns]
