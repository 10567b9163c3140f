"""The data of a run on a command line: `--x`, `--y`, `--data` and others. Commands have them by `flags`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from layerserve import Client
from layerserve.cli.array_files import read_arrays
from layerserve.cli.model_specs import ModelSpecs
from layerserve.cli.slice_commands import source_of
from layerserve.errors import InvalidArgument

ARRAYS = "[NAME=]PATH"

_Arrays = list[str] | None

#: The options of an evaluation, by name.
EVALUATION_DATA: Mapping[str, Any] = {
    "x": Annotated[
        _Arrays,
        typer.Option(
            "--x",
            metavar=ARRAYS,
            help="Input data: .npy, .npz (all arrays, or PATH:KEY), .json, or columns of a .csv, .tsv or .parquet file "
            "(those named like the inputs, or PATH:COLUMN,COLUMN); server:PATH[:KEY] is a file of the server, "
            "dataset:ID:KEY an array of a dataset.",
        ),
    ],
    "y": Annotated[_Arrays, typer.Option("--y", metavar=ARRAYS, help="Targets, in the same forms.")],
    "data": Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="One file for --x and --y, with an array or a column of the name of each input and output; dataset:ID "
            "is a dataset with all data, by its ID or the first digits.",
        ),
    ],
    "sample_weight": Annotated[_Arrays, typer.Option(metavar=ARRAYS, help="Weight of each row in the loss.")],
    "fill": Annotated[
        str | None,
        typer.Option(
            metavar="VALUE", help="Read in place of missing values of .csv and .parquet files.  [default: refused]"
        ),
    ],
}
#: The options of a training.
TRAINING_DATA: Mapping[str, Any] = {
    **EVALUATION_DATA,
    "validation_x": Annotated[_Arrays, typer.Option(metavar=ARRAYS, help="Validation inputs.")],
    "validation_y": Annotated[_Arrays, typer.Option(metavar=ARRAYS, help="Validation targets.")],
    "validation_data": Annotated[
        str | None, typer.Option(metavar="PATH", help="One file for --validation-x and --validation-y.")
    ],
}


def read_data(client: Client, specs: ModelSpecs, given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the data that options name, as arguments of the client's methods. What has all data is `x` alone.

    Raises InvalidArgument for one of inputs and targets without the other, and as `read_arrays` does.
    """
    fill = given.get("fill")
    data = given["data"]
    x, y = given["x"] or (data and [data]), given["y"] or (data and [data])
    if not x or not y:
        raise typer.BadParameter("missing data: pass --x and --y, or --data")
    found: dict[str, Any] = {}
    if given["sample_weight"]:
        found["sample_weight"] = read_arrays(given["sample_weight"], None, fill)
    if validation := _validation(given):
        inputs, targets = validation
        found["validation_data"] = (
            read_arrays(inputs, specs.inputs, fill),
            read_arrays(targets, specs.outputs, fill),
        )
    source = source_of(x[0]) if x == y else None
    whole = None if source is None else source.whole(client, x[0].removeprefix(source.prefix))
    if whole is not None:
        return {"x": whole, "y": None, **found}
    return {"x": read_arrays(x, specs.inputs, fill), "y": read_arrays(y, specs.outputs, fill), **found}


def _validation(given: Mapping[str, Any]) -> tuple[list[str], list[str]] | None:
    """Returns the arguments for inputs and targets to validate with; None if there are none."""
    x, y, data = (given.get(f"validation_{name}") for name in ("x", "y", "data"))
    if bool(x) != bool(y) and not data:
        raise InvalidArgument("validation: got one of --validation-x and --validation-y, expected both or none")
    both = [data] if data else []
    return (x or both, y or both) if x or y or data else None
