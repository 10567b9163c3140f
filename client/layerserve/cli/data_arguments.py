"""The data of a run on a command line: `--x`, `--y`, `--data` and `--fill`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from layerserve import Client
from layerserve.cli.array_files import read_arrays
from layerserve.cli.model_specs import ModelSpecs
from layerserve.cli.slice_commands import source_of

ARRAYS = "[NAME=]PATH"

Arrays = Annotated[
    list[str] | None,
    typer.Option(
        "--x",
        metavar=ARRAYS,
        help="Input data: .npy, .npz (all arrays, or PATH:KEY), .json, or columns of a .csv, .tsv or .parquet file "
        "(those named like the inputs, or PATH:COLUMN,COLUMN); server:PATH[:KEY] is a file of the server, "
        "dataset:ID:KEY an array of a dataset.",
    ),
]
Targets = Annotated[list[str] | None, typer.Option("--y", metavar=ARRAYS, help="Targets, in the same forms.")]
SampleWeight = Annotated[list[str] | None, typer.Option(metavar=ARRAYS, help="Weight of each row in the loss.")]
Data = Annotated[
    str | None,
    typer.Option(
        metavar="PATH",
        help="One file for --x and --y, with an array or a column of the name of each input and output; dataset:ID is "
        "a dataset with all data, by its ID or the first digits.",
    ),
]
Fill = Annotated[
    str | None,
    typer.Option(
        metavar="VALUE", help="Read in place of missing values of .csv and .parquet files.  [default: refused]"
    ),
]


def of_one_file(x: list[str] | None, y: list[str] | None, data: str | None) -> tuple[list[str], list[str]]:
    """Returns the arguments for inputs and targets: `data` for those not given."""
    both = [data] if data else None
    x, y = x or both, y or both
    if not x or not y:
        raise typer.BadParameter("missing data: pass --x and --y, or --data")
    return x, y


def read_data(client: Client, specs: ModelSpecs, x: list[str], y: list[str], fill: str | None) -> tuple[Any, Any]:
    """Returns inputs and targets. What has all data is both."""
    source = source_of(x[0]) if x == y else None
    whole = None if source is None else source.whole(client, x[0].removeprefix(source.prefix))
    if whole is not None:
        return whole, None
    return read_arrays(x, specs.inputs, fill), read_arrays(y, specs.outputs, fill)
