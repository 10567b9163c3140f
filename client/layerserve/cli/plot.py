"""The command `plot`, which shows the logs of several runs together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from layerserve.cli.history_plot import check_plot, print_series, save_series
from layerserve.cli.options import Address, Json, connect
from layerserve.cli.output import print_json, print_line
from layerserve.connection import DEFAULT_ADDRESS
from layerserve.errors import InvalidArgument

By = Literal["epoch", "step"]


def plot(
    context: typer.Context,
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Ids of runs.")],
    log: Annotated[list[str] | None, typer.Option(metavar="LOG", help="Only these logs.  [default: all logs]")] = None,
    by: Annotated[str, typer.Option(metavar="epoch|step", help="What the points are.")] = "epoch",
    points: Annotated[int, typer.Option(metavar="COUNT", help="Maximum number of points of a line.")] = 1000,
    to: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Plot to this file. Requires layerserve[plot].")
    ] = None,
    address: Address = DEFAULT_ADDRESS,
    as_json: Json = False,
) -> None:
    """Show the logs of runs over one another, a panel per log and a line per run.

    JSON: {run: {log: {"positions", "values", "seconds"}}}.
    """
    if by not in ("epoch", "step"):
        raise InvalidArgument(f"--by: got {by}, expected epoch or step")
    check_plot(to, "--to")
    with connect(context, address) as client:
        found = client.series(runs, log or (), max_points=points, by=cast(By, by))
    if as_json:
        arrays = ("positions", "values", "seconds")
        print_json(
            {
                run: {name: {array: getattr(one, array).tolist() for array in arrays} for name, one in series.items()}
                for run, series in found.items()
            },
            indent=None,
        )
    elif not any(found.values()):
        print_line("no logs")
    elif to is None:
        print_series(found, by)
    else:
        save_series(to, found, by)
