"""The command `predict`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from layerserve import Client
from layerserve.cli.array_files import STDIN, read_arrays, write_arrays
from layerserve.cli.model_specs import ModelSpecs
from layerserve.cli.options import Label, ModelName, Outputs, Version
from layerserve.cli.output import print_json, print_line
from layerserve.cli.server_commands import on_server
from layerserve.values.tables import shape_text
from layerserve.values.tensors import Array


@on_server
def predict(
    client: Client,
    model: ModelName,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            "-i",
            metavar="[NAME=]PATH",
            help="Input file: .npy, .npz (all arrays, or PATH:KEY), .json, an image, such as .jpg, for an input that "
            "takes them (several are its rows), or - for JSON on standard input. Can be repeated.  [default: -]",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="PATH", help="Write the outputs to this .npy, .npz or .json file."),
    ] = None,
    outputs: Outputs = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size", "-b", metavar="N", min=1, help="Rows in a request.  [default: all, in requests of 32 MiB]"
        ),
    ] = None,
    version: Version = None,
    label: Label = None,
    timing: Annotated[
        bool,
        typer.Option(
            "--timing", help="Also print how long the request waited and computed in the server, and in total."
        ),
    ] = False,
    as_json: bool = False,
) -> None:
    """Compute the outputs of a model.

    JSON inputs are an object with a nested list for each input name, or a single nested list if the model has one
    input. Arrays of a .npz file that aren't inputs of the model are ignored.

    JSON: {"model", "version", "outputs": {NAME: nested list}}, also in a .json file, and with --timing "timing", in
    milliseconds. Numbers that JSON can't represent are written as "NaN", "Infinity" and "-Infinity".
    """
    if not inputs:
        if sys.stdin.isatty():
            raise typer.BadParameter("missing input: pass --input, or JSON on standard input")
        inputs = [STDIN]
    names = [name.strip() for name in outputs.split(",")] if outputs else None
    given = read_arrays(inputs, ModelSpecs(client, model, version, label).inputs)
    prediction = client.predict_named(
        model, given, names, batch_size=batch_size, version=version, label=label, timing=timing
    )
    head: dict[str, Any] = {"model": prediction.model, "version": prediction.version}
    title = f"{prediction.model} version {prediction.version}"
    if timing:
        head["timing"] = prediction.timing
        times = [f"{name} {milliseconds:.3f} ms" for name, milliseconds in prediction.timing.items()]
        title += f": {', '.join(times) or 'this server reports no times'}"
    print_outputs(head, title, prediction, output, as_json)


def print_outputs(
    head: Mapping[str, Any], title: str, outputs: Mapping[str, Array], path: Path | None, as_json: bool
) -> None:
    """Prints the outputs of a prediction, or writes them to a file and prints what they are.

    `head` is what JSON has before them, and `title` the first line for people; none if it is empty.
    """
    document = {**head, "outputs": dict(outputs)}
    if path is not None:
        write_arrays(path, outputs, document)
    if as_json:
        print_json({**head, "outputs": {}} if path else document, indent=None)
        return
    if title:
        print_line(title)
    for name, array in outputs.items():
        print_line(f"{name}: {array.dtype} {shape_text(array.shape)}")
        if path is None:
            print_line(np.array2string(array, precision=4, suppress_small=True, threshold=200))
    if path is not None:
        print_line(f"written to {path}")
