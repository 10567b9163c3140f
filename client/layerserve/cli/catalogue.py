"""The commands that look at models: `models`, `shapes` and `download`."""

from __future__ import annotations

from typing import Annotated

import typer

from layerserve.cli.options import Address, Format, Json, Label, ModelName, Version, connect
from layerserve.cli.output import print_json, print_line, print_table, shape_text
from layerserve.connection import DEFAULT_ADDRESS
from layerserve.model_info import EngineChoice, ModelInfo, TensorSpec
from layerserve.node_shapes import LayerNode, LayerNodes, NodeTensor


def models(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="Only this model.", show_default=False)] = None,
    address: Address = DEFAULT_ADDRESS,
    as_json: Json = False,
) -> None:
    """List the models of the server, with all versions.

    Versions that failed to load are among them, with the reason; * marks the one that answers by default.

    JSON: {"models": [{"name", "version", "state", "reason", "labels", "inputs", "outputs", "file", "file_bytes",
    "keras_version", "parameter_count", "ready_time", "training_run", "compiled", "served_by_default", "engines"}]}; an
    input or output is {"name", "shape", "dtype"} with null for an axis of any length, one of the engines {"rows",
    "engine", "milliseconds", "difference"}.
    """
    with connect(context, address) as client:
        found = client.models(name)
    if as_json:
        print_json({"models": found})
    elif not found:
        print_line(f"no model {name!r}" if name else "no models")
    else:
        columns = ("Model", "#Version", "State", "Labels", "Inputs", "Outputs", "#Parameters", "Engine")
        print_table(f"Models on {address}", columns, map(_model_row, found))


def _model_row(info: ModelInfo) -> tuple[str, ...]:
    state = f"{info.state}: {info.reason}" if info.reason else info.state
    return (
        info.name,
        f"{info.version} *" if info.served_by_default else str(info.version),
        state,
        ", ".join(info.labels),
        _specs_text(info.inputs),
        _specs_text(info.outputs),
        f"{info.parameter_count:,}" if info.inputs else "",
        _engines_text(info.engines),
    )


def _engines_text(engines: tuple[EngineChoice, ...]) -> str:
    """One name, or one for each row count where they differ."""
    names = {choice.engine for choice in engines}
    if len(names) < 2:
        differences = [f" (differs by {choice.difference:.2g})" for choice in engines if choice.difference]
        return "".join([*names, *differences])
    return "\n".join(f"{choice.engine} ({choice.rows} row{'s' * (choice.rows != 1)})" for choice in engines)


def _specs_text(specs: tuple[TensorSpec, ...]) -> str:
    return "\n".join(f"{spec.name} {shape_text(spec.shape)} {spec.dtype}" for spec in specs)


def shapes(
    context: typer.Context,
    model: ModelName,
    layer: Annotated[
        str | None, typer.Argument(metavar="[LAYER]", help="Only this layer, by its path.", show_default=False)
    ] = None,
    address: Address = DEFAULT_ADDRESS,
    version: Version = None,
    label: Label = None,
    as_json: Json = False,
) -> None:
    """Show every call of every layer of a model.

    For each call: what went in, which layer, call and output it came from, and what came out.

    JSON: {"model", "version", "inputs", "outputs", "layers": [{"path", "name", "class_name", "nodes",
    "parameter_count", "trainable"}]}; a node is {"index", "inputs", "outputs"}, a tensor at it {"layer", "node_index",
    "tensor_index", "shape", "dtype", "argument", "masked"}.
    """
    with connect(context, address) as client:
        found = client.node_shapes(model, [layer] if layer else [], version=version, label=label)
    if as_json:
        print_json(
            {
                "model": found.model,
                "version": found.version,
                "inputs": found.inputs,
                "outputs": found.outputs,
                "layers": list(found.values()),
            }
        )
        return
    columns = ("Layer", "Class", "#Node", "Input", "From", "Output", "#Parameters")
    rows = [row for nodes in found.values() for row in _layer_rows(nodes)]
    print_table(f"{found.model} version {found.version}", columns, rows)


def _layer_rows(layer: LayerNodes) -> list[tuple[str, ...]]:
    first = (layer.path, layer.class_name)
    parameters = f"{layer.parameter_count:,}"
    if not layer.nodes:
        return [(*first, "", "never called", "", "", parameters)]
    rows: list[tuple[str, ...]] = []
    for node in layer.nodes:
        rows.append((*first, str(node.index), *_node_cells(node), parameters))
        first, parameters = ("", ""), ""
    return rows


def _node_cells(node: LayerNode) -> tuple[str, str, str]:
    taken = "\n".join(shape_text(tensor.shape) for tensor in node.inputs)
    given = "\n".join(shape_text(tensor.shape) + (" masked" if tensor.masked else "") for tensor in node.outputs)
    return taken, "\n".join(map(_source_text, node.inputs)), given


def _source_text(tensor: NodeTensor) -> str:
    return f"{tensor.layer}:{tensor.node_index}:{tensor.tensor_index}"


def download(
    context: typer.Context,
    model: ModelName,
    # No Path: that would lose the slash at the end.
    path: Annotated[
        str, typer.Argument(metavar="[PATH]", help="File to write, or a directory with a slash at its end.")
    ] = "./",
    address: Address = DEFAULT_ADDRESS,
    version: Version = None,
    label: Label = None,
    format: Format = None,
    as_json: Json = False,
) -> None:
    """Save the file of a model.

    It is checked against its SHA-256, and appears whole or not at all.

    JSON: {"path"}.
    """
    with connect(context, address) as client:
        saved = client.download(model, path, version=version, label=label, format=format)
    if as_json:
        print_json({"path": str(saved)})
    else:
        print_line(str(saved))
