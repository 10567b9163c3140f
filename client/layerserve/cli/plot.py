"""The command `run plot`, which shows the logs of several runs together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from layerserve import Client
from layerserve.cli.history_plot import check_plot, print_series
from layerserve.cli.output import print_json, print_line
from layerserve.cli.server_commands import on_server
from layerserve.cli.whole_ids import run_id
from layerserve.errors import InvalidArgument
from layerserve.training.series import Best

By = Literal["epoch", "step"]


@on_server
def plot(
    client: Client,
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="IDs of runs, or their first digits.")],
    log: Annotated[list[str] | None, typer.Option(metavar="LOG", help="Only these logs.  [default: all logs]")] = None,
    by: Annotated[str, typer.Option(metavar="epoch|step", help="What the points are.")] = "epoch",
    points: Annotated[int, typer.Option(metavar="COUNT", help="Maximum number of points of a line.")] = 1000,
    to: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Plot to this file: .png, .svg or .pdf. Requires matplotlib."),
    ] = None,
    as_json: bool = False,
) -> None:
    """Show the logs of runs over one another, a panel per log and a line per run, with the best epoch of each run.

    JSON: {run: {log: {"positions", "values", "seconds"}}}.
    """
    if by not in ("epoch", "step"):
        raise InvalidArgument(f"--by: got {by}, expected epoch or step")
    check_plot(to, "--to")
    runs = [run_id(client, run) for run in runs]
    found = client.series(runs, log or (), max_points=points, by=cast(By, by))
    best = {} if as_json or by == "step" else {run: one for run in runs if (one := _best(client, run))}
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
        print_series(found, best)
    else:
        found.curves(best).save(to)


def _best(client: Client, run: str) -> Best | None:
    info = client.run(run).info()
    if info.best_epoch is None:
        return None
    ((log, value),) = info.best.items()
    return Best(log, info.best_epoch, value)
