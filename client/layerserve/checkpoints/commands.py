"""The command `checkpoint`: the checkpoints that training runs keep."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from layerserve import Client
from layerserve.checkpoints.checkpoint import CheckpointList
from layerserve.cli.array_files import read_arrays
from layerserve.cli.groups import new_group
from layerserve.cli.options import Format, RunId
from layerserve.cli.predict import print_outputs
from layerserve.cli.server_commands import Result, on_server
from layerserve.cli.slice_commands import SliceCommands
from layerserve.cli.whole_ids import checkpoint_name, run_id

Name = Annotated[
    str,
    typer.Argument(
        metavar="RUN/CHECKPOINT", help="The checkpoint; CHECKPOINT may be best or last.", show_default=False
    ),
]

app = new_group("List, download, publish, delete and predict with the checkpoints that runs keep.")


@app.command("list")
@on_server
def list_checkpoints(client: Client, run: RunId) -> Result:
    """List the checkpoints of a run, oldest first.

    JSON: {"checkpoints": [{"run_id", "id", "epoch", "step", "logs", "bytes", "time", "best", "published"}]}.
    """
    run = run_id(client, run)
    found = client.checkpoints.list(run)
    table = CheckpointList(found).table(f"Checkpoints of run {run}")
    return Result({"checkpoints": found}, table if found else "no checkpoints")


@app.command()
@on_server
def download(
    client: Client,
    name: Name,
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="File, or directory, to save it to.", show_default=False)
    ] = Path(),
    state: Annotated[
        bool, typer.Option("--state", help="Save the whole state of the run instead of a model file.")
    ] = False,
    format: Format = None,
) -> Result:
    """Save a checkpoint as a model file: what a run that ends there publishes. JSON: {"path"}."""
    saved = str(client.checkpoints.download(checkpoint_name(client, name), path, state=state, format=format))
    return Result({"path": saved}, saved)


@app.command()
@on_server
def publish(
    client: Client,
    name: Name,
    label: Annotated[str | None, typer.Option("--label", "-l", metavar="TEXT", help="Label for the version.")] = None,
    format: Format = None,
) -> Result:
    """Publish a checkpoint as the next version of its model, unless it is published. JSON: {"version"}."""
    name = checkpoint_name(client, name)
    version = client.checkpoints.publish(name, label=label, format=format)
    return Result({"version": version}, f"checkpoint {name} is published as version {version}")


@app.command()
@on_server
def predict(
    client: Client,
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
    as_json: bool = False,
) -> None:
    """Compute outputs of the model of a checkpoint, which the server loads for that.

    JSON: {"checkpoint", "outputs": {NAME: nested list}}, also in a .json file.
    """
    names = [one.strip() for one in outputs.split(",")] if outputs else None
    name = checkpoint_name(client, name)
    found = client.checkpoints.predict_named(name, read_arrays(inputs), names)
    print_outputs({"checkpoint": name}, "", found, output, as_json)


@app.command()
@on_server
def delete(client: Client, name: Name) -> Result:
    """Delete a checkpoint. A version that was published of it is kept. JSON: {"deleted"}."""
    name = checkpoint_name(client, name)
    client.checkpoints.delete(name)
    return Result({"deleted": name}, f"checkpoint {name} is deleted")


COMMANDS = SliceCommands(groups={"checkpoint": app})
