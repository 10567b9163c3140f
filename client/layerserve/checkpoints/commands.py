"""The command `checkpoint`: the checkpoints that training runs keep."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from layerserve.calls.connection import DEFAULT_ADDRESS
from layerserve.checkpoints.checkpoint import CheckpointList
from layerserve.cli.array_files import read_arrays, write_arrays
from layerserve.cli.groups import new_group
from layerserve.cli.options import Address, Format, Json, RunId, connect
from layerserve.cli.output import print_json, print_line, print_table
from layerserve.cli.slice_commands import SliceCommands
from layerserve.cli.whole_ids import checkpoint_name, run_id
from layerserve.values.tables import shape_text

Name = Annotated[
    str,
    typer.Argument(
        metavar="RUN/CHECKPOINT", help="The checkpoint; CHECKPOINT may be best or last.", show_default=False
    ),
]

app = new_group("List, download, publish, delete and predict with the checkpoints that runs keep.")


@app.command("list")
def list_checkpoints(
    context: typer.Context, run: RunId, address: Address = DEFAULT_ADDRESS, as_json: Json = False
) -> None:
    """List the checkpoints of a run, oldest first.

    JSON: {"checkpoints": [{"run_id", "id", "epoch", "step", "logs", "bytes", "time", "best", "published"}]}.
    """
    with connect(context, address) as client:
        run = run_id(client, run)
        found = client.checkpoints.list(run)
    if as_json:
        print_json({"checkpoints": found})
    elif not found:
        print_line("no checkpoints")
    else:
        print_table(CheckpointList(found).table(f"Checkpoints of run {run}"))


@app.command()
def download(
    context: typer.Context,
    name: Name,
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="File, or directory, to save it to.", show_default=False)
    ] = Path(),
    state: Annotated[
        bool, typer.Option("--state", help="Save the whole state of the run instead of a model file.")
    ] = False,
    format: Format = None,
    address: Address = DEFAULT_ADDRESS,
    as_json: Json = False,
) -> None:
    """Save a checkpoint as a model file: what a run that ends there publishes. JSON: {"path"}."""
    with connect(context, address) as client:
        name = checkpoint_name(client, name)
        saved = client.checkpoints.download(name, path, state=state, format=format)
    print_json({"path": str(saved)}) if as_json else print_line(str(saved))


@app.command()
def publish(
    context: typer.Context,
    name: Name,
    label: Annotated[str | None, typer.Option("--label", "-l", metavar="TEXT", help="Label for the version.")] = None,
    format: Format = None,
    address: Address = DEFAULT_ADDRESS,
    as_json: Json = False,
) -> None:
    """Publish a checkpoint as the next version of its model, unless it is published. JSON: {"version"}."""
    with connect(context, address) as client:
        name = checkpoint_name(client, name)
        version = client.checkpoints.publish(name, label=label, format=format)
    print_json({"version": version}) if as_json else print_line(f"checkpoint {name} is published as version {version}")


@app.command()
def predict(
    context: typer.Context,
    name: Name,
    inputs: Annotated[
        list[str],
        typer.Option(
            "--input", "-i", metavar="[NAME=]PATH", help="Input file, as for layerserve predict. Can be repeated."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="PATH", help="Write the outputs to this .npy, .npz or .json file."),
    ] = None,
    outputs: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Comma-separated outputs.  [default: all outputs]")
    ] = None,
    address: Address = DEFAULT_ADDRESS,
    as_json: Json = False,
) -> None:
    """Compute outputs of the model of a checkpoint, which the server loads for that.

    JSON: {"checkpoint", "outputs": {NAME: nested list}}, also in a .json file.
    """
    names = [one.strip() for one in outputs.split(",")] if outputs else None
    with connect(context, address) as client:
        name = checkpoint_name(client, name)
        found = client.checkpoints.predict_named(name, read_arrays(inputs), names)
    document = {"checkpoint": name, "outputs": found}
    if output is not None:
        write_arrays(output, found, document)
    if as_json:
        print_json({**document, "outputs": {}} if output else document, indent=None)
        return
    for one, array in found.items():
        print_line(f"{one}: {array.dtype} {shape_text(array.shape)}")
        if output is None:
            print_line(np.array2string(array, precision=4, suppress_small=True, threshold=200))
    if output is not None:
        print_line(f"written to {output}")


@app.command()
def delete(context: typer.Context, name: Name, address: Address = DEFAULT_ADDRESS, as_json: Json = False) -> None:
    """Delete a checkpoint. A version that was published of it is kept. JSON: {"deleted"}."""
    with connect(context, address) as client:
        name = checkpoint_name(client, name)
        client.checkpoints.delete(name)
    print_json({"deleted": name}) if as_json else print_line(f"checkpoint {name} is deleted")


COMMANDS = SliceCommands(groups={"checkpoint": app})
