"""Models and node shapes as tables, for terminals and notebooks."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from layerserve.model_info import EngineChoice, ModelInfo, TensorSpec
    from layerserve.node_shapes import LayerNode, LayerNodes, NodeShapes, NodeTensor

_MODEL_COLUMNS = ("Model", "#Version", "State", "Labels", "Inputs", "Outputs", "#Parameters", "Engine")
_NODE_COLUMNS = ("Layer", "Class", "#Node", "Input", "From", "Output", "#Parameters")


@dataclass(frozen=True)
class Table:
    """A table of plain text; cells may have several lines. Columns whose name starts with '#' are numeric."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def html(self) -> str:
        """Returns the table as HTML. All text is escaped, since names come from model files."""
        aligned = ["right" if column.startswith("#") else "left" for column in self.columns]
        head = _html_row("th", aligned, [column.lstrip("#") for column in self.columns])
        body = "".join(_html_row("td", aligned, row) for row in self.rows)
        caption = f'<caption style="text-align: left">{html.escape(self.title)}</caption>'
        return f"<table>{caption}<thead>{head}</thead><tbody>{body}</tbody></table>"


def _html_row(tag: str, aligned: Sequence[str], cells: Sequence[str]) -> str:
    shown = (html.escape(cell).replace("\n", "<br>") for cell in cells)
    return (
        "<tr>"
        + "".join(
            f'<{tag} style="text-align: {side}">{text}</{tag}>' for side, text in zip(aligned, shown, strict=True)
        )
        + "</tr>"
    )


def shape_text(shape: Sequence[int | None]) -> str:
    """Formats a shape as Keras does: "(None, 3)"."""
    return str(tuple(shape))


def models_table(models: Iterable[ModelInfo], title: str) -> Table:
    """Returns a table with a row per version."""
    return Table(title, _MODEL_COLUMNS, [_model_row(info) for info in models])


def _model_row(info: ModelInfo) -> tuple[str, ...]:
    state = f"{info.state}: {info.reason}" if info.reason else info.state
    return (
        info.name,
        f"{info.version}{' *' * info.served_by_default}{' pinned' * info.pinned}",
        state,
        ", ".join(info.labels),
        _specs_text(info.inputs),
        _specs_text(info.outputs),
        f"{info.parameter_count:,}" if info.inputs else "",
        "still being chosen" if info.choosing_engine else _engines_text(info.engines),
    )


def _engines_text(engines: tuple[EngineChoice, ...]) -> str:
    """Returns the engine's name, or a line per row count if they differ."""
    names = {choice.engine for choice in engines}
    if len(names) < 2:
        differences = [f" (differs by {choice.difference:.2g})" for choice in engines if choice.difference]
        return "".join([*names, *differences])
    return "\n".join(f"{choice.engine} ({choice.rows} row{'s' * (choice.rows != 1)})" for choice in engines)


def _specs_text(specs: tuple[TensorSpec, ...]) -> str:
    return "\n".join(f"{spec.name} {shape_text(spec.shape)} {spec.dtype}" for spec in specs)


def nodes_table(shapes: NodeShapes) -> Table:
    """Returns a table with a row per node."""
    rows = [row for layer in shapes.values() for row in _layer_rows(layer)]
    return Table(f"{shapes.model} version {shapes.version}", _NODE_COLUMNS, rows)


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
    inputs = "\n".join(shape_text(tensor.shape) for tensor in node.inputs)
    outputs = "\n".join(shape_text(tensor.shape) + (" masked" if tensor.masked else "") for tensor in node.outputs)
    return inputs, "\n".join(map(_source_text, node.inputs)), outputs


def _source_text(tensor: NodeTensor) -> str:
    return f"{tensor.layer}:{tensor.node_index}:{tensor.tensor_index}"
