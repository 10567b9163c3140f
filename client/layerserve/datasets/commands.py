"""The commands `dataset upload`, `dataset list`, `dataset show` and `dataset delete`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from layerserve import Client
from layerserve.calls.connection import DEFAULT_ADDRESS
from layerserve.cli.array_files import read_arrays
from layerserve.cli.groups import new_group
from layerserve.cli.options import Address, Json, connect
from layerserve.cli.output import print_json, print_line, print_table
from layerserve.cli.slice_commands import SliceCommands, Source
from layerserve.cli.upload_bar import UploadBar
from layerserve.datasets.array import DatasetArray
from layerserve.datasets.info import DatasetInfo, DatasetList
from layerserve.errors import InvalidArgument

_Dataset = Annotated[
    str, typer.Argument(metavar="DATASET", help="ID of the dataset, or its first digits.", show_default=False)
]
_ARRAYS = "[NAME=]PATH"


def upload(
    context: typer.Context,
    path: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="A .npz, .parquet, .csv or .tsv file.", show_default=False)
    ] = None,
    x: Annotated[
        list[str] | None,
        typer.Option("--x", metavar=_ARRAYS, help="Input data in place of FILE: .npy, .npz or .json."),
    ] = None,
    y: Annotated[list[str] | None, typer.Option("--y", metavar=_ARRAYS, help="Targets, in the same forms.")] = None,
    sample_weight: Annotated[
        list[str] | None, typer.Option(metavar=_ARRAYS, help="Weight of each row in the loss.")
    ] = None,
    title: Annotated[str, typer.Option(metavar="TEXT", help="Text to keep with the dataset.")] = "",
    keep_days: Annotated[
        float | None,
        typer.Option(metavar="N", help="Days without use until it is removed.  [default: the server's]"),
    ] = None,
    shared: Annotated[bool, typer.Option("--shared", help="All callers may see and use it.")] = False,
    address: Address = DEFAULT_ADDRESS,
    as_json: Json = False,
) -> None:
    """Upload a dataset, and print its ID. After an interruption, the same command goes on where the upload was.

    JSON: {"id", "title", "format", "bytes", "rows", "arrays", "owner", "shared", "created_time", "used_time",
    "expires_time"}.
    """
    if path is not None and (x or y or sample_weight):
        raise InvalidArgument("dataset: got a FILE and arrays, expected one of the two")
    with connect(context, address) as client, UploadBar() as shown:
        info = client.datasets.upload(
            path or (read_arrays(x) if x else None),
            read_arrays(y) if y else None,
            sample_weight=read_arrays(sample_weight) if sample_weight else None,
            title=title,
            keep_seconds=None if keep_days is None else keep_days * 86400,
            shared=shared,
            progress=shown,
        )
    if as_json:
        print_json(info)
    else:
        print_line(info.id)


def list_all(context: typer.Context, address: Address = DEFAULT_ADDRESS, as_json: Json = False) -> None:
    """List datasets, newest first. JSON: {"datasets": [...]}, each as for `layerserve dataset upload`."""
    with connect(context, address) as client:
        found = client.datasets.list()
    if as_json:
        print_json({"datasets": found})
    elif not found:
        print_line("no datasets")
    else:
        print_table(DatasetList(found).table(f"Datasets on {address}"))


def show(context: typer.Context, dataset: _Dataset, address: Address = DEFAULT_ADDRESS, as_json: Json = False) -> None:
    """Describe a dataset, with its first rows. JSON: as for `layerserve dataset upload`."""
    with connect(context, address) as client:
        info = client.datasets.get(dataset)
    if as_json:
        print_json(info)
    else:
        print_table(info.table())


def delete(
    context: typer.Context, dataset: _Dataset, address: Address = DEFAULT_ADDRESS, as_json: Json = False
) -> None:
    """Delete a dataset. JSON: {"deleted"}."""
    with connect(context, address) as client:
        client.datasets.delete(dataset)
    if as_json:
        print_json({"deleted": dataset})
    else:
        print_line(f"dataset {dataset} is deleted")


def _array(rest: str, fill: str | None) -> DatasetArray:
    id, _, key = rest.partition(":")
    return DatasetArray(id, key, fill=fill)


def _whole(client: Client, rest: str) -> DatasetInfo | None:
    return None if ":" in rest else client.datasets.get(rest)


def _group() -> typer.Typer:
    """Makes the group of these commands."""
    group = new_group("Upload, list, show and delete datasets.")
    group.command("upload")(upload)
    group.command("list")(list_all)
    group.command("show")(show)
    group.command("delete")(delete)
    return group


COMMANDS = SliceCommands(groups={"dataset": _group()}, sources=[Source("dataset:", _array, _whole)])
