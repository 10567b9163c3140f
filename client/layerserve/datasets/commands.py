"""The commands `dataset upload`, `dataset list`, `dataset show` and `dataset delete`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from layerserve import Client
from layerserve.cli.array_files import read_arrays
from layerserve.cli.groups import new_group
from layerserve.cli.server_commands import Result, on_server
from layerserve.cli.slice_commands import SliceCommands, Source
from layerserve.cli.upload_bar import UploadBar
from layerserve.datasets.array import DatasetArray
from layerserve.datasets.info import DatasetInfo, DatasetList
from layerserve.errors import InvalidArgument

_Dataset = Annotated[
    str, typer.Argument(metavar="DATASET", help="ID of the dataset, or its first digits.", show_default=False)
]
_ARRAYS = "[NAME=]PATH"

group = new_group("Upload, list, show and delete datasets.")


@group.command()
@on_server
def upload(
    client: Client,
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]",
            help="A .npz, .parquet, .csv or .tsv file, or a folder with a folder of images for each class.",
            show_default=False,
        ),
    ] = None,
    x: Annotated[
        list[str] | None,
        typer.Option("--x", metavar=_ARRAYS, help="Input data in place of FILE: .npy, .npz or .json."),
    ] = None,
    y: Annotated[list[str] | None, typer.Option("--y", metavar=_ARRAYS, help="Targets, in the same forms.")] = None,
    sample_weight: Annotated[
        list[str] | None, typer.Option(metavar=_ARRAYS, help="Weight of each row in the loss.")
    ] = None,
    image_size: Annotated[
        str | None, typer.Option(metavar="HEIGHT,WIDTH", help="Size of the images of a folder.  [default: 256,256]")
    ] = None,
    label_mode: Annotated[
        str | None,
        typer.Option(metavar="[int|categorical|binary]", help="Form of the labels of a folder.  [default: int]"),
    ] = None,
    title: Annotated[str, typer.Option(metavar="TEXT", help="Text to keep with the dataset.")] = "",
    keep_days: Annotated[
        float | None,
        typer.Option(metavar="N", help="Days without use until it is removed.  [default: the server's]"),
    ] = None,
    shared: Annotated[bool, typer.Option("--shared", help="All callers may see and use it.")] = False,
) -> Result:
    """Upload a dataset, and print its ID. After an interruption, the same command goes on where the upload was.

    JSON: {"id", "title", "format", "bytes", "rows", "arrays", "owner", "shared", "created_time", "used_time",
    "expires_time"}.
    """
    if path is not None and (x or y or sample_weight):
        raise InvalidArgument("dataset: got a FILE and arrays, expected one of the two")
    inputs, targets = path or (read_arrays(x) if x else None), read_arrays(y) if y else None
    if path is not None and path.is_dir():
        inputs, targets = _images(path, image_size, label_mode)
    elif image_size or label_mode:
        raise InvalidArgument("dataset: got --image-size or --label-mode, which are for a folder of images only")
    with UploadBar() as shown:
        info = client.datasets.upload(
            inputs,
            targets,
            sample_weight=read_arrays(sample_weight) if sample_weight else None,
            title=title,
            keep_seconds=None if keep_days is None else keep_days * 86400,
            shared=shared,
            progress=shown,
        )
    return Result(info, info.id)


def _images(folder: Path, size: str | None, label_mode: str | None) -> tuple[Any, Any]:
    """Returns the images of a folder and their labels. Raises InvalidArgument, also if Pillow isn't installed."""
    try:
        from layerserve.images.directory import images_from_directory
    except ImportError as missing:
        raise InvalidArgument(f"{folder}: images require {missing.name}: pip install Pillow") from None
    try:
        height, width = map(int, (size or "256,256").split(","))
    except ValueError:
        raise InvalidArgument(f"--image-size: got {size}, expected a height and a width such as 256,256") from None
    mode: Any = label_mode or "int"
    found = images_from_directory(folder, mode, image_size=(height, width))
    return found.x, found.y


@group.command("list")
@on_server
def list_all(client: Client) -> Result:
    """List datasets, newest first. JSON: {"datasets": [...]}, each as for `layerserve dataset upload`."""
    found = client.datasets.list()
    table = DatasetList(found).table(f"Datasets on {client.address}")
    return Result({"datasets": found}, table if found else "no datasets")


@group.command()
@on_server
def show(client: Client, dataset: _Dataset) -> Result:
    """Describe a dataset, with its first rows. JSON: as for `layerserve dataset upload`."""
    info = client.datasets.get(dataset)
    return Result(info, info.table())


@group.command()
@on_server
def delete(client: Client, dataset: _Dataset) -> Result:
    """Delete a dataset. JSON: {"deleted"}."""
    client.datasets.delete(dataset)
    return Result({"deleted": dataset}, f"dataset {dataset} is deleted")


def _array(rest: str, fill: str | None) -> DatasetArray:
    id, _, key = rest.partition(":")
    return DatasetArray(id, key, fill=fill)


def _whole(client: Client, rest: str) -> DatasetInfo | None:
    return None if ":" in rest else client.datasets.get(rest)


COMMANDS = SliceCommands(groups={"dataset": group}, sources=[Source("dataset:", _array, _whole)])
