"""Drawings of a model's graph: DOT text, and images by graphviz (keras.utils.plot_model)."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from layergraph.errors import ConfigError
from layergraph.functional.functional import Functional
from layergraph.functional.layer import Layer
from layergraph.functional.nest import flatten

#: Output formats of `dot`.
_FORMATS = ("png", "svg", "pdf", "jpg")


def model_to_dot(
    model: Functional,
    show_shapes: bool = False,
    show_dtype: bool = False,
    show_layer_names: bool = True,
    rankdir: str = "TB",
    dpi: int = 200,
    show_trainable: bool = False,
) -> str:
    """Returns the graph as DOT text: a box for each layer, an arrow for each pair of connected layers.

    rankdir   "TB" for top to bottom, "LR" for left to right

    Raises GraphError for a model that isn't built. Source: keras.utils.model_to_dot, which returns a pydot object.
    """
    lines = [f"digraph {_quoted(model.name)} {{", f"  graph [rankdir={_quoted(rankdir)}, dpi={int(dpi)}]"]
    lines.append('  node [shape=box, fontname="Helvetica"]')
    numbers = {layer: number for number, layer in enumerate(model.graph.layers)}
    for layer, number in numbers.items():
        parts = [layer.name, f"({layer.keras_class_name})"] if show_layer_names else [layer.keras_class_name]
        parts += _details(model, layer, show_shapes, show_dtype, show_trainable)
        lines.append(f"  {number} [label={_quoted(chr(10).join(parts))}]")
    lines += [f"  {numbers[one]} -> {numbers[other]}" for one, other in _arrows(model)]
    return "\n".join([*lines, "}", ""])


def plot_model(
    model: Functional,
    to_file: str | os.PathLike[str] = "model.png",
    show_shapes: bool = False,
    show_dtype: bool = False,
    show_layer_names: bool = False,
    rankdir: str = "TB",
    dpi: int = 200,
    show_trainable: bool = False,
) -> Path:
    """Writes a drawing of the graph: `.png`, `.svg`, `.pdf` or `.jpg` by graphviz, `.dot` without it. Returns the path.

    Raises ConfigError for another suffix, and if graphviz isn't installed or fails. Source: keras.utils.plot_model.
    """
    path = Path(to_file)
    text = model_to_dot(model, show_shapes, show_dtype, show_layer_names, rankdir, dpi, show_trainable)
    kind = path.suffix.removeprefix(".")
    if kind == "dot":
        path.write_text(text, "utf-8")
        return path
    if kind not in _FORMATS:
        raise ConfigError(f"plot_model: got path '{path.name}', expected one that ends in {_endings()}")
    program = shutil.which("dot")
    if program is None:
        raise ConfigError(
            "plot_model: the program `dot` of graphviz isn't installed, expected it on PATH (apt install graphviz, "
            "brew install graphviz, or https://graphviz.org/download); a path that ends in .dot is written without it"
        )
    done = subprocess.run(
        [program, f"-T{kind}", "-o", str(path)], input=text.encode(), capture_output=True, check=False
    )
    if done.returncode:
        raise ConfigError(f"plot_model: graphviz failed: {done.stderr.decode(errors='replace').strip()[:200]}")
    return path


def _endings() -> str:
    return ", ".join(f".{kind}" for kind in (*_FORMATS, "dot"))


def _details(model: Functional, layer: Layer, shapes: bool, dtype: bool, trainable: bool) -> Iterator[str]:
    outputs = [tensor for node in model.graph.nodes_of(layer) for tensor in node.output_tensors]
    if shapes:
        yield "Output shape: " + ", ".join(dict.fromkeys(str(tensor.shape) for tensor in outputs))
    if dtype:
        yield "Output dtype: " + ", ".join(dict.fromkeys(tensor.dtype for tensor in outputs))
    if trainable and layer.weights:
        yield "Trainable" if layer.trainable else "Not trainable"


def _arrows(model: Functional) -> list[tuple[Layer, Layer]]:
    """Pairs of connected layers, each once."""
    nodes = [node for node in model.graph.nodes if not node.is_input]
    return list(dict.fromkeys((t.history.layer, node.layer) for node in nodes for t in flatten(node.input_tensors)))


def _quoted(text: str) -> str:
    """A DOT string; names of layers may contain any characters, and graphviz reads "&lt;" as in HTML."""
    shown = "".join(one if one.isprintable() or one == "\n" else ascii(one)[1:-1] for one in text)
    return '"' + shown.replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
