"""The command `codegen`."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path
from typing import Annotated

import typer

from layerserve import Client
from layerserve.cli.model_specs import ModelSpecs
from layerserve.cli.options import Label, ModelName, Version
from layerserve.cli.output import print_line
from layerserve.cli.server_commands import on_server
from layerserve.codegen import module_source
from layerserve.errors import InvalidArgument


@on_server
def codegen(
    client: Client,
    model: ModelName,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Python file to write.  [default: standard output]"),
    ] = None,
    class_name: Annotated[
        str | None, typer.Option("--class", metavar="NAME", help="Name of the class.  [default: the model's name]")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; show the differences, with status 1 if there are any.")
    ] = False,
    version: Version = None,
    label: Label = None,
) -> None:
    """Write a typed Python class for a model.

    Its method `predict` takes the model's inputs by name and returns its outputs, with shapes and dtypes in docstrings;
    a second class does the same for asyncio. They raise ModelMismatch if the server has another model by then.
    """
    if check and output is None:
        raise InvalidArgument("--check: got it without --output, expected the file to compare with")
    found = ModelSpecs(client, model, version, label)
    source = module_source(model, found.inputs(), found.outputs(), class_name)
    if output is None:
        sys.stdout.write(source)
    elif not check:
        output.write_text(source, "utf-8")
        print_line(f"written to {output}")
    elif difference := _difference(output, source):
        sys.stdout.write(difference)
        raise typer.Exit(1)


def _difference(path: Path, source: str) -> str:
    """Returns what would change in a file; empty for nothing."""
    current = path.read_text("utf-8") if path.exists() else ""
    names = str(path), f"{path} (of the server)"
    return "".join(difflib.unified_diff(current.splitlines(True), source.splitlines(True), *names))
