"""The command `explain`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from layerserve import Client
from layerserve.cli.array_files import STDIN, read_arrays, write_arrays
from layerserve.cli.model_specs import ModelSpecs
from layerserve.cli.options import Label, ModelName, Version
from layerserve.cli.output import print_json, print_line
from layerserve.cli.server_commands import on_server
from layerserve.errors import InvalidArgument
from layerserve.values.tables import shape_text


@on_server
def explain(
    client: Client,
    model: ModelName,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input", "-i", metavar="[NAME=]PATH", help="Input file, as for predict. Can be repeated.  [default: -]"
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="INDEX[,INDEX]",
            help="Element of each row of the output to explain, such as a class: an index for each axis. Can be "
            "repeated, with one for each row.  [default: the only element]",
        ),
    ] = None,
    of: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Output to explain, or another tensor.  [default: the only output]"),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Comma-separated inputs or other tensors (layer, layer:node or layer:node:tensor) that the output is "
            "attributed to.  [default: all inputs]",
        ),
    ] = None,
    baselines: Annotated[
        list[str] | None,
        typer.Option(
            "--baseline",
            metavar="[NAME=]PATH",
            help="File with the baseline of an input, one row or as many as the input has. Can be repeated.  "
            "[default: zeros]",
        ),
    ] = None,
    steps: Annotated[int, typer.Option(metavar="N", min=1, help="Number of points between baselines and inputs.")] = 50,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="PATH", help="Write the attributions to this .npy, .npz or .json file."),
    ] = None,
    version: Version = None,
    label: Label = None,
    as_json: bool = False,
) -> None:
    """Compute how much each element of the inputs adds to an output, by integrated gradients.

    JSON: {"model", "version", "outputs", "baseline_outputs", "convergence_delta", "attributions": {NAME: nested list}}.
    """
    if not inputs:
        if sys.stdin.isatty():
            raise typer.BadParameter("missing input: pass --input, or JSON on standard input")
        inputs = [STDIN]
    specs = ModelSpecs(client, model, version, label).inputs
    found = client.explain(
        model,
        read_arrays(inputs, specs),
        _target(target),
        output=of,
        to=[name.strip() for name in to.split(",")] if to else None,
        baselines=read_arrays(baselines, specs) if baselines else None,
        n_steps=steps,
        version=version,
        label=label,
    )
    numbers = {name: getattr(found, name) for name in ("outputs", "baseline_outputs", "convergence_delta")}
    head = {"model": found.model, "version": found.version, **numbers}
    document = {**head, "attributions": found.by_tensor}
    if output is not None:
        write_arrays(output, found.by_tensor, document)
    if as_json:
        print_json({**head, "attributions": {}} if output else document, indent=None)
        return
    print_line(f"{found.model} version {found.version}")
    for name, array in numbers.items():
        print_line(f"{name}: {np.array2string(array, precision=4, threshold=20)}")
    for name, array in found.by_tensor.items():
        print_line(f"attributions to {name}: {array.dtype} {shape_text(array.shape)}")
        if output is None:
            print_line(np.array2string(array, precision=4, suppress_small=True, threshold=200))
    if output is not None:
        print_line(f"written to {output}")


def _target(texts: list[str] | None) -> tuple[int, ...] | list[tuple[int, ...]] | None:
    """Returns the target in texts: an element for all rows, or one for each. Raises InvalidArgument."""
    if not texts:
        return None
    try:
        elements = [tuple(int(index) for index in text.split(",")) for text in texts]
    except ValueError:
        raise InvalidArgument(f"--target: got {', '.join(texts)}, expected indices such as 3 or 0,3") from None
    return elements if len(elements) > 1 else elements[0]
