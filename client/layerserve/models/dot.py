"""The nodes of a model as a graph in DOT, the language of graphviz."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from layerserve.models.node_shapes import LayerNode, LayerNodes, NodeShapes, NodeTensor
from layerserve.values.tables import count_text, line_text, shape_text

#: Maximum number of characters of a line, and of tensors that a box names.
MAX_CHARACTERS, MAX_TENSORS = 60, 4
#: Maximum number of arrows, for each node that may be drawn. Graphviz takes longer than linear time.
ARROWS_PER_NODE = 4

_HEAD = """digraph {{
  graph [rankdir={rankdir}, compound=true, fontname="Helvetica", fontsize=12, labelloc=t, label={title}]
  node [shape=box, style="rounded,filled", fillcolor="#ffffff", color="#5b6770", fontname="Helvetica", fontsize=10]
  edge [color="#5b6770"]"""
_BORDER = ', shape=ellipse, style=filled, fillcolor="#e8eef4"'
_SHARED = ', fillcolor="#fdf1d8"'
_NESTED = ", peripheries=2"
_UNCALLED = ', style="rounded,dashed"'
_PLAIN = ", shape=plaintext, style=solid"


def dot(shapes: NodeShapes, rankdir: str, limit: int) -> str:
    """Returns the nodes of a model in DOT: a box for each, an arrow for each tensor between two of them.

    Inputs and outputs are ellipses. The nodes of a shared layer are coloured, with dashed lines between them. A nested
    model has a double border at each node, and a dotted line to a frame with its own nodes, which is drawn once. Of
    more than `limit` nodes the first are drawn, and a box has the number of the others.
    """
    return _Drawing(shapes, limit).text(rankdir)


class _Drawing:
    """The lines of a drawing. Names aren't ids in it, since they may have any characters."""

    def __init__(self, shapes: NodeShapes, limit: int) -> None:
        self._shapes = shapes
        self._limit = limit
        self._lines: list[str] = []
        #: Ids of the drawn nodes, by path and node index, and of tensors whose node isn't among `shapes`.
        self._ids: dict[tuple[str, int], str] = {}
        #: The arrows from tensors to ids. Their nodes may be drawn later.
        self._arrows: list[tuple[NodeTensor, str]] = []
        #: Paths of the models whose frames are open, the innermost last.
        self._open: list[str] = []
        self._frames = 0
        self._drawn = 0
        self._left_out = 0

    def text(self, rankdir: str) -> str:
        self._lines.append(_HEAD.format(rankdir=rankdir, title=_quoted(self._shapes.title)))
        for layer in self._shapes.values():
            self._close_frames(layer.path[: -len(layer.name) - 1])
            self._layer(layer)
        self._close_frames("")
        self._outputs(self._shapes.output_tensors, [spec.name for spec in self._shapes.outputs])
        for tensor, id in self._arrows[: ARROWS_PER_NODE * self._limit]:
            if source := self._source(tensor):
                self._line(f"{source} -> {id}")
        if self._left_out:
            self._line(f"more [label={_quoted(count_text(self._left_out, 'more node'))}{_PLAIN}]")
        return "\n".join([*self._lines, "}", ""])

    def _layer(self, layer: LayerNodes) -> None:
        """Draws the nodes of a layer, and opens the frame of a nested model."""
        if not layer.nodes:
            self._box(layer, -1, [layer.name, layer.class_name, "never called"], _UNCALLED)
        ids = []
        for node in layer.nodes:
            if id := self._box(layer, node.index, _node_lines(layer, node), _style(layer)):
                ids.append(id)
                self._arrows += [(tensor, id) for tensor in node.inputs]
        for one, following in pairwise(ids):
            self._line(f"{one} -> {following} [style=dashed, dir=none, constraint=false]")
        if layer.nested_outputs and ids:
            self._open_frame(layer, ids)

    def _box(self, layer: LayerNodes, index: int, lines: Sequence[str], style: str) -> str:
        """Draws a node. Returns its id; an empty text if the drawing is full."""
        if self._drawn >= self._limit:
            self._left_out += 1
            return ""
        id = self._ids[layer.path, index] = f"n{self._drawn}"
        self._drawn += 1
        self._line(f"{id} [label={_quoted(*lines)}{style}]")
        return id

    def _open_frame(self, layer: LayerNodes, ids: Sequence[str]) -> None:
        frame, self._frames = f"cluster_{self._frames}", self._frames + 1
        point = f"p{self._frames}"
        for id in ids:
            self._line(f"{id} -> {point} [style=dotted, arrowhead=none, lhead={frame}]")
        self._line(f"subgraph {frame} {{")
        self._open.append(layer.path)
        self._line(f'label={_quoted(f"{layer.name} ({layer.class_name})")}; style=rounded; color="#9aa5ae"')
        self._line(f"{point} [shape=point, style=invis]")
        self._outputs(layer.nested_outputs, [f"output {index}" for index in range(len(layer.nested_outputs))])

    def _close_frames(self, parent: str) -> None:
        """Closes the frames of models that aren't `parent`, from the innermost."""
        while self._open and self._open[-1] != parent:
            self._open.pop()
            self._line("}")

    def _outputs(self, tensors: Sequence[NodeTensor], names: Sequence[str]) -> None:
        for index, (tensor, name) in enumerate(zip(tensors[: self._limit], names, strict=False)):
            id = f"o{self._frames if self._open else 0}_{index}"
            self._line(f"{id} [label={_quoted(name, _tensor_text(tensor))}{_BORDER}]")
            self._arrows.append((tensor, id))

    def _source(self, tensor: NodeTensor) -> str:
        """Returns the id of the node that makes a tensor; an empty text if the drawing was full before it."""
        key = tensor.layer, tensor.node_index
        if key not in self._ids and not self._left_out:
            # Only some layers were asked for.
            id = self._ids[key] = f"x{len(self._ids)}"
            self._line(f"{id} [label={_quoted(f'{tensor.layer}:{tensor.node_index}', _tensor_text(tensor))}{_PLAIN}]")
        return self._ids.get(key, "")

    def _line(self, text: str) -> None:
        self._lines.append("  " + text)


def _node_lines(layer: LayerNodes, node: LayerNode) -> list[str]:
    called = f", node {node.index} of {len(layer.nodes)}" if len(layer.nodes) > 1 else ""
    parameters = f", {layer.parameter_count:,} parameters" if layer.parameter_count else ""
    frozen = "" if layer.trainable else ", not trainable"
    outputs = _shapes_text(node.outputs)
    shapes = f"{_shapes_text(node.inputs)} → {outputs}" if node.inputs else outputs
    return [layer.name + called, f"{layer.class_name}{parameters}{frozen}", shapes]


def _style(layer: LayerNodes) -> str:
    if layer.class_name == "InputLayer":
        return _BORDER
    return _SHARED * (len(layer.nodes) > 1) + _NESTED * bool(layer.nested_outputs)


def _shapes_text(tensors: Sequence[NodeTensor]) -> str:
    shown = [shape_text(tensor.shape) for tensor in tensors[:MAX_TENSORS]]
    if len(tensors) > MAX_TENSORS:
        shown.append(f"{len(tensors) - MAX_TENSORS} more")
    return ", ".join(shown)


def _tensor_text(tensor: NodeTensor) -> str:
    return f"{shape_text(tensor.shape)} {tensor.dtype}"


def _quoted(*lines: str) -> str:
    r"""Returns lines as a string of DOT in which nothing is markup: neither \N, nor "&lt;", nor control characters."""
    return '"' + "\\n".join(map(_escaped, lines)) + '"'


def _escaped(line: str) -> str:
    # These two are no characters of XML.
    shown = line_text(line.replace("\ufffe", "\\ufffe").replace("\uffff", "\\uffff"), MAX_CHARACTERS)
    return shown.replace("\\", "\\\\").replace('"', '\\"').replace("&", "&amp;")
