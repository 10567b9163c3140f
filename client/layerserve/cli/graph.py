"""The command `graph`, which draws a served model or a model file."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from layerserve import Client
from layerserve.cli import extensions
from layerserve.cli.options import Label, Version
from layerserve.cli.output import print_line
from layerserve.cli.server_commands import on_server
from layerserve.errors import InvalidArgument
from layerserve.models.drawing import ModelGraph, RankDir, checked_format
from layerserve.models.node_shapes import LayerNode, LayerNodes, NodeShapes, NodeTensor
from layerserve.values.tensor_spec import TensorSpec

#: Suffixes of model files. Names with one of them, or with a slash, are paths.
SUFFIXES = (".keras", ".h5", ".hdf5", ".pb", ".json")


@on_server
def graph(
    client: Client,
    source: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|FILE",
            help="Name of a served model, or path of a model file or version folder: with a slash, or a suffix like "
            ".keras.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="File to write: .svg, .png, .pdf or .dot.  [default: SVG to standard output]"
        ),
    ] = None,
    rankdir: Annotated[str, typer.Option(metavar="TB|LR", help="From top to bottom, or from left to right.")] = "TB",
    limit: Annotated[int, typer.Option(min=1, metavar="COUNT", help="Maximum number of nodes.")] = 1000,
    plugins: Annotated[
        str | None, typer.Option(metavar="TEXT", help="As for `layerserve inspect`; only with a file.")
    ] = None,
    version: Version = None,
    label: Label = None,
) -> None:
    """Draw the nodes of a model with their shapes. Requires graphviz, but not for .dot.

    The nodes of a shared layer are coloured; a nested model is drawn once, in a frame. A file is read without a server,
    which requires the extra `server`.
    """
    if output is not None:
        checked_format(output)
    elif sys.stdout.isatty():
        raise InvalidArgument("--output: got none, expected a file, or a standard output that is no terminal")
    if "/" in source or source.lower().endswith(SUFFIXES):
        if version is not None or label is not None:
            raise InvalidArgument(f"graph: got --version or --label with the file {source}, expected a served model")
        shapes = file_shapes(source, plugins)
    else:
        if plugins is not None:
            raise InvalidArgument(f"graph: got --plugins with the served model {source}, expected a file")
        shapes = client.node_shapes(source, version=version, label=label)
    drawing = ModelGraph(shapes, cast(RankDir, rankdir), limit)
    if output is None:
        print(drawing.svg())
    else:
        print_line(f"wrote {drawing.save(output)}")


def file_shapes(path: str, plugins: str | None = None) -> NodeShapes:
    """Returns the nodes of a model file, by `layerserve inspect`. Raises InvalidArgument if it can't be read.

    Ends the command if the packages that read files are missing.
    """
    arguments = [path, "--json", *([] if plugins is None else ["--plugins", plugins])]
    with redirect_stdout(io.StringIO()) as printed:
        status = extensions.run("inspect", arguments)
    if not printed.getvalue():
        raise typer.Exit(status)
    report = json.loads(printed.getvalue())
    if status:
        raise InvalidArgument(f"{path}: {'; '.join(report['problems'])}")
    return _shapes(report)


def _shapes(report: Mapping[str, Any]) -> NodeShapes:
    layers = [
        LayerNodes(
            path=layer["path"],
            name=layer["name"],
            class_name=layer["class"],
            nodes=tuple(_node(layer["path"], node) for node in layer["nodes"]),
            parameter_count=layer["parameters"],
            trainable=layer["trainable"],
            nested_outputs=tuple(map(_tensor, layer["nested_outputs"])),
        )
        for layer in report["layers"]
    ]
    tensors = [_tensor({**output, "masked": False}) for output in report["outputs"]]
    return NodeShapes(report["file"], 0, layers, _specs(report["inputs"]), _specs(report["outputs"]), tensors)


def _specs(specs: Sequence[Mapping[str, Any]]) -> list[TensorSpec]:
    return [TensorSpec(spec["name"], tuple(spec["shape"]), spec["dtype"]) for spec in specs]


def _node(path: str, node: Mapping[str, Any]) -> LayerNode:
    made = [{**one, "from": f"{path}:{node['index']}:{place}"} for place, one in enumerate(node["outputs"])]
    return LayerNode(node["index"], tuple(map(_tensor, node["inputs"])), tuple(map(_tensor, made)))


def _tensor(tensor: Mapping[str, Any]) -> NodeTensor:
    # A layer's path may have colons, too.
    path, node, place = tensor["from"].rsplit(":", 2)
    shape = tuple(tensor["shape"])
    return NodeTensor(path, int(node), int(place), shape, tensor["dtype"], tensor.get("argument", ""), tensor["masked"])
