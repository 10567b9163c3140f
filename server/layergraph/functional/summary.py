"""The table printed by `model.summary()`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layergraph.functional.nest import flatten, map_structure

if TYPE_CHECKING:
    from layergraph.functional.functional import Functional
    from layergraph.functional.layer import Layer


def summary_table(model: Functional) -> str:
    """Returns the table: each layer's class, output shape, number of parameters and inbound layers, then totals."""
    header = ("Layer (type)", "Output Shape", "Param #", "Connected to")
    rows = [_row(model, layer) for layer in model.graph.layers]
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (header, *rows)
    ]
    rule = "-" * max(len(line) for line in lines)
    total = model.count_params()
    trainable = sum(weight.size for weight in model.trainable_weights)
    return "\n".join(
        [
            f'Model: "{model.name}"',
            rule,
            lines[0],
            rule,
            *lines[1:],
            rule,
            f"Total params: {total:,}",
            f"Trainable params: {trainable:,}",
            f"Non-trainable params: {total - trainable:,}",
        ]
    )


def _row(model: Functional, layer: Layer) -> tuple[str, str, str, str]:
    nodes = model.graph.nodes_of(layer)
    shapes = [map_structure(lambda tensor: str(tensor.shape), node.outputs) for node in nodes]
    distinct = list(dict.fromkeys(", ".join(flatten(shape)) for shape in shapes))
    sources = [model.address(tensor).removesuffix(":0").removesuffix(":0") for n in nodes for tensor in n.input_tensors]
    return (
        f"{layer.name} ({layer.keras_class_name})",
        "; ".join(distinct),
        f"{layer.count_params():,}",
        ", ".join(sources),
    )
