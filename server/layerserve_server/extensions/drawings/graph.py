"""The node graph: every call of every layer as a box, a drawing for the model and one for each model in it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from layerserve.v1 import graph_pb2 as pb
from layerserve.values import tensors

from layerserve_server.errors import safe_text
from layerserve_server.extensions.drawings.layout import Box, Layout, layout, text_width

#: Maximum numbers of boxes and of lines on a page, and of drawings.
MAX_BOXES, MAX_LINES, MAX_DRAWINGS = 1500, 4000, 60
#: Maximum length of a line of text in a box, in characters.
MAX_LETTERS = 32
#: Longer addresses aren't links.
MAX_ADDRESS = 400
#: Number of colours of shared layers.
SHARED_COLOURS = 6


def shape(lengths: Sequence[int]) -> str:
    """Returns a shape as Keras's summary has it: "(None, 28, 28)"."""
    return str(tuple(None if length < 0 else length for length in list(lengths)[: tensors.MAX_RANK]))


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a layer."""

    layer: pb.LayerNodes
    node: pb.LayerNode
    nested: bool

    @property
    def shared(self) -> bool:
        """Whether the layer is called more than once."""
        return len(self.layer.nodes) > 1

    @property
    def lines(self) -> Sequence[str]:
        """The lines of its box; the last one only if it has parameters."""
        times = f" · call {self.node.index}" if self.shared else ""
        shapes = ", ".join(shape(one.shape) for one in self.node.outputs[:3])
        count = self.layer.parameter_count
        lines = (
            safe_text(self.layer.name, MAX_LETTERS),
            safe_text(self.layer.class_name, MAX_LETTERS - len(times)) + times,
            safe_text(shapes, MAX_LETTERS),
            f"{count:,} parameter{'s' * (count != 1)}" if count else "",
        )
        return [*filter(None, lines)]

    @property
    def kind(self) -> str:
        """What sets its box apart: a model, an input, or nothing."""
        return "nested" if self.nested else "" if self.node.inputs else "input"

    @property
    def path(self) -> str:
        """Path of its layer, which the boxes of a shared layer have in common."""
        return self.layer.path

    @property
    def address(self) -> str:
        """Its tensor's address; empty if that is too long for a link."""
        address = f"{self.layer.path}:{self.node.index}"
        return address if len(address) <= MAX_ADDRESS else ""

    @property
    def title(self) -> str:
        """All about it in one line."""
        took = ", ".join(f"{one.argument} {shape(one.shape)}" for one in self.node.inputs[:8])
        gave = ", ".join(shape(one.shape) for one in self.node.outputs[:8])
        return safe_text(
            f"{self.layer.path}, {self.layer.class_name}, call {self.node.index} of {len(self.layer.nodes)}: "
            f"{took or 'no inputs'} → {gave}; {self.layer.parameter_count:,} parameters",
            600,
        )


@dataclass(frozen=True, slots=True)
class End:
    """An output of a model, below the call that computes it."""

    name: str
    tensor: pb.NodeTensor

    shared = False
    kind = "output"
    path = ""

    @property
    def lines(self) -> Sequence[str]:
        """The lines of its box: the name, which may say already what it is, and the shape."""
        what = [] if self.name.startswith("output") else ["output"]
        return [safe_text(self.name, MAX_LETTERS), *what, safe_text(shape(self.tensor.shape), MAX_LETTERS)]

    @property
    def address(self) -> str:
        """Its tensor's address; empty if that is too long for a link."""
        address = f"{self.tensor.layer}:{self.tensor.node_index}:{self.tensor.tensor_index}"
        return address if len(address) <= MAX_ADDRESS else ""

    @property
    def title(self) -> str:
        """All about it in one line."""
        return safe_text(f"Output {self.name}: {shape(self.tensor.shape)}, of {self.address or 'a layer'}", 600)


@dataclass(frozen=True, slots=True)
class Drawing:
    """The calls of one model, and its outputs after them."""

    #: Path of the nested model; empty for the whole.
    path: str
    class_name: str
    calls: Sequence[Call | End]
    layout: Layout
    #: By position in `calls`: the colour of a layer that is called several times.
    colours: Sequence[int]
    #: Number of its calls, and of lines, that aren't drawn.
    calls_left_out: int
    lines_left_out: int

    @property
    def boxes(self) -> Iterable[tuple[Call | End, Box, int]]:
        """The calls and outputs with their places and colours."""
        return zip(self.calls, self.layout.boxes, self.colours, strict=True)


@dataclass(slots=True)
class _Level:
    """Layers of one model."""

    class_name: str = ""
    layers: list[pb.LayerNodes] = field(default_factory=list)
    ends: list[End] = field(default_factory=list)


def level_of(layer: pb.LayerNodes) -> str:
    """Returns the path of the model that a layer is in; names may have "/" themselves."""
    return layer.path[: -len(layer.name)].rstrip("/") if layer.path.endswith(layer.name) else ""


def drawings(response: pb.GetNodeShapesResponse, level: str | None = None) -> tuple[list[Drawing], list[str]]:
    """Draws a model and the models in it, or one of them; also returns the paths of those that had no room."""
    levels: dict[str, _Level] = {}
    for layer in response.layers:
        levels.setdefault(level_of(layer), _Level()).layers.append(layer)
    for layer in response.layers:
        if layer.path in levels:
            levels[layer.path].class_name = layer.class_name
            several = len(layer.nested_outputs) > 1
            levels[layer.path].ends = [
                End(f"output {at}" if several else "output", one) for at, one in enumerate(layer.nested_outputs)
            ]
    if "" in levels:
        pairs = zip(response.outputs, response.output_tensors, strict=False)
        levels[""].ends = [End(spec.name, one) for spec, one in pairs]
    found: list[Drawing] = []
    rest: list[str] = []
    boxes, lines = MAX_BOXES, MAX_LINES
    for path, one in levels.items():
        if level is not None and path != level:
            continue
        if boxes <= 0 or len(found) >= MAX_DRAWINGS:
            rest.append(path)
            continue
        drawing = _drawing(path, one, levels.keys(), boxes, lines)
        boxes -= len(drawing.calls)
        lines -= len(drawing.layout.paths)
        found.append(drawing)
    return found, rest


def _drawing(path: str, level: _Level, nested: Iterable[str], boxes: int, lines: int) -> Drawing:
    nested = set(nested)
    total = sum(len(layer.nodes) for layer in level.layers)
    calls: list[Call] = []
    for layer in level.layers:
        calls += [Call(layer, node, layer.path in nested) for node in layer.nodes[: boxes - len(calls)]]
        if len(calls) >= boxes:
            break
    places = {(call.layer.path, call.node.index): at for at, call in enumerate(calls)}
    ends = level.ends[: boxes - len(calls)]
    taken_by = [*(call.node.inputs for call in calls), *([end.tensor] for end in ends)]
    edges: dict[tuple[int, int], None] = {}
    left_out = 0
    for at, inputs in enumerate(taken_by):
        for taken in inputs:
            source = places.get((taken.layer, taken.node_index))
            if source is None or source == at or (source, at) in edges:
                continue
            if len(edges) >= lines:
                left_out += 1
                continue
            edges[source, at] = None
    drawn: list[Call | End] = [*calls, *ends]
    widths = [text_width([len(line) for line in one.lines]) for one in drawn]
    shared: dict[str, int] = {}
    for call in calls:
        if call.shared:
            shared.setdefault(call.layer.path, len(shared) % SHARED_COLOURS)
    colours = [shared.get(one.path, -1) if one.shared else -1 for one in drawn]
    return Drawing(path, level.class_name, drawn, layout(widths, list(edges)), colours, total - len(calls), left_out)
