"""The command `predict`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from layerserve.calls.connection import DEFAULT_ADDRESS
from layerserve.cli.array_files import STDIN, read_arrays, write_arrays
from layerserve.cli.model_specs import ModelSpecs
from layerserve.cli.options import Address, Json, Label, ModelName, Version, connect
from layerserve.cli.output import print_json, print_line
from layerserve.values.tables import shape_text


def predict(
    context: typer.Context,
    model: ModelName,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            "-i",
            metavar="[NAME=]PATH",
            help="Input file: .npy, .npz (all arrays, or PATH:KEY), .json, or - for JSON on standard input. "
            "Can be repeated.  [default: -]",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="PATH", help="Write the outputs to this .npy, .npz or .json file."),
    ] = None,
    outputs: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Comma-separated outputs or other tensors (layer, layer:node or layer:node:tensor).  "
            "[default: all outputs]",
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size", "-b", metavar="N", min=1, help="Rows in a request.  [default: all, in requests of 32 MiB]"
        ),
    ] = None,
    address: Address = DEFAULT_ADDRESS,
    version: Version = None,
    label: Label = None,
    as_json: Json = False,
) -> None:
    """Compute the outputs of a model.

    JSON inputs are an object with a nested list for each input name, or a single nested list if the model has one
    input. Arrays of a .npz file that aren't inputs of the model are ignored.

    JSON: {"model", "version", "outputs": {NAME: nested list}}, also in a .json file. Numbers that JSON can't represent
    are written as "NaN", "Infinity" and "-Infinity".
    """
    if not inputs:
        if sys.stdin.isatty():
            raise typer.BadParameter("missing input: pass --input, or JSON on standard input", context)
        inputs = [STDIN]
    names = [name.strip() for name in outputs.split(",")] if outputs else None
    with connect(context, address) as client:
        given = read_arrays(inputs, ModelSpecs(client, model, version, label).inputs)
        prediction = client.predict_named(model, given, names, batch_size=batch_size, version=version, label=label)
    document = {"model": prediction.model, "version": prediction.version, "outputs": dict(prediction)}
    if output is not None:
        write_arrays(output, prediction, document)
    if as_json:
        print_json({**document, "outputs": {}} if output else document, indent=None)
        return
    print_line(f"{prediction.model} version {prediction.version}")
    for name, array in prediction.items():
        print_line(f"{name}: {array.dtype} {shape_text(array.shape)}")
        if output is None:
            print_line(np.array2string(array, precision=4, suppress_small=True, threshold=200))
    if output is not None:
        print_line(f"written to {output}")
