"""The commands `models`, `wait`, `shapes` and `download`."""

from __future__ import annotations

from typing import Annotated

import typer

from layerserve import Client
from layerserve.cli.options import Format, Label, ModelName, Version
from layerserve.cli.server_commands import Result, on_server
from layerserve.errors import InvalidArgument
from layerserve.models.info import Models


@on_server
def models(
    client: Client,
    name: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="Only show this model.  [default: all models]", show_default=False),
    ] = None,
) -> Result:
    """List the models of the server, with all versions.

    Versions that failed to load are listed with the reason. An asterisk marks the default version, "pinned" one that a
    command made the default, and "canary 5%" the one that so many callers get instead.

    JSON: {"models": [{"name", "version", "state", "reason", "labels", "inputs", "outputs", "file", "file_bytes",
    "keras_version", "parameter_count", "ready_time", "training_run", "compiled", "served_by_default", "engines",
    "choosing_engine", "pinned", "memory_bytes", "last_used", "canary_share"]}]; an input or output is {"name",
    "shape", "dtype", "encoding"} with null for an axis of any length and "image" for an input that takes image files,
    one of the engines {"rows", "engine", "milliseconds", "difference"}.
    """
    found = client.models(name)
    nothing = f"no model {name!r}" if name else "no models"
    return Result({"models": found}, Models(found).table(f"Models on {client.address}") if found else nothing)


@on_server
def wait(
    client: Client,
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="Also wait for this model.  [default: the server alone]"),
    ] = None,
    timeout: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="Maximum time to wait, in seconds.")] = 60.0,
    version: Version = None,
    label: Label = None,
) -> Result:
    """Wait until the server is serving, and until it has a model that is ready.

    A model that doesn't exist yet may still be uploaded; one that failed to load is an error at once, and so is the end
    of a server that has answered.

    JSON: {"ready"}, the address, or the model.
    """
    if model is None and (version is not None or label is not None):
        raise InvalidArgument("wait: got --version or --label without MODEL, expected all or none")
    # Zero is too short for a call, but means one.
    client.wait_until_ready(timeout or 1.0, model=model, version=version, label=label)
    return Result({"ready": model or client.address}, f"{f'model {model}' if model else client.address} is ready")


@on_server
def shapes(
    client: Client,
    model: ModelName,
    layer: Annotated[
        str | None,
        typer.Argument(metavar="LAYER", help="Only show this layer.  [default: all layers]", show_default=False),
    ] = None,
    version: Version = None,
    label: Label = None,
) -> Result:
    """Show the input and output shapes of each node of each layer of a model.

    For each node (call of a layer), show the shapes of its inputs, the layers and nodes they come from, and the shapes
    of its outputs.

    JSON: {"model", "version", "inputs", "outputs", "layers": [{"path", "name", "class_name", "nodes",
    "parameter_count", "trainable"}]}; a node is {"index", "inputs", "outputs"}, a tensor at it {"layer", "node_index",
    "tensor_index", "shape", "dtype", "argument", "masked"}.
    """
    found = client.node_shapes(model, [layer] if layer else [], version=version, label=label)
    document = {name: getattr(found, name) for name in ("model", "version", "inputs", "outputs")}
    return Result({**document, "layers": list(found.values())}, found.table())


@on_server
def download(
    client: Client,
    model: ModelName,
    # A str, since a Path would lose the slash at the end.
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH", help="File to write, or a directory, which ends with a slash if it doesn't exist yet."
        ),
    ] = "./",
    version: Version = None,
    label: Label = None,
    format: Format = None,
) -> Result:
    """Download the file of a model.

    The SHA-256 checksum of the file is verified. Incomplete files are removed.

    JSON: {"path"}.
    """
    saved = str(client.download(model, path, version=version, label=label, format=format))
    return Result({"path": saved}, saved)
