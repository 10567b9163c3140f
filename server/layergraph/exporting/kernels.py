"""ONNX operations that ONNX Runtime lacks in a type, such as sums of truth values, or crashes with, in terms of others.

Numbers stay the same: small integers wrap around when they are cast back, and torch's kernels of bfloat16 compute in
float32, too.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import Any

#: Types that take the place of others, in the order in which they are tried, by names of ONNX.
_WIDER: Mapping[str, Sequence[str]] = {
    "BFLOAT16": ("FLOAT",),
    **dict.fromkeys(("BOOL", "INT8", "INT16", "UINT8", "UINT16"), ("INT32", "INT64")),
    "UINT32": ("INT64",),
}

#: Types of values by name: protobufs, or None where ONNX can't infer one.
_Types = Mapping[str, Any]


def with_kernels(onnx: Any, model: Any, opens: Callable[[bytes], object]) -> None:
    """Rewrites `model`. `opens` raises an error for a model for which there is no kernel."""
    try:
        inferred = onnx.shape_inference.infer_shapes(model)
    except Exception:
        # Opening the file gives an error that names what is wrong with it.
        return
    _Rewriter(onnx, model, opens).rewrite(model.graph, inferred.graph, {})


class _Rewriter:
    """Rewrites the graphs of a model."""

    def __init__(self, onnx: Any, model: Any, opens: Callable[[bytes], object]) -> None:
        self._onnx = onnx
        self._imports = list(model.opset_import)
        self._version = model.ir_version
        self._opset = next(one.version for one in self._imports if not one.domain)
        self._opens = opens
        self._known: dict[bytes, bool] = {}
        self._names = (f"layergraph_{number}" for number in itertools.count())
        self._elements = onnx.TensorProto.DataType

    def rewrite(self, graph: Any, inferred: Any, outer: _Types) -> None:
        """Rewrites a graph and those of its nodes. `inferred` is the same graph with types."""
        values = (*inferred.input, *inferred.output, *inferred.value_info)
        types = {**outer, **{value.name: value.type for value in values}}
        types |= {t.name: self._tensor_type(t.data_type) for t in inferred.initializer if t.name not in types}
        cast = {name for node in graph.node if node.op_type == "Cast" for name in node.input}
        nodes: list[Any] = []
        for node, twin in zip(graph.node, inferred.node, strict=True):
            bodies = list(zip(subgraphs(node), subgraphs(twin), strict=True))
            for inner, inner_twin in bodies:
                self.rewrite(inner, inner_twin, types)
            if self._crashes(node, types, cast):
                nodes += self._transposed(node)
            else:
                nodes += [node] if bodies else self._replaced(node, types)
        # Nodes are moved, as those of a field of protobuf are destroyed with it.
        copies = [self._onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(copies)

    def _crashes(self, node: Any, types: _Types, cast: Set[str]) -> bool:
        """Whether the node moves the first axis to the last but one, and its result may be cast.

        ONNX Runtime (1.32 at least) crashes when it fuses such a transposition, a cast and a product of matrices. It
        inserts casts itself where types lack a kernel.
        """
        if node.op_type != "Transpose" or node.domain:
            return False
        axes = next((list(one.ints) for one in node.attribute if one.name == "perm"), [])
        element = types[node.input[0]].tensor_type.elem_type if node.input[0] in types else 0
        moves = len(axes) > 2 and axes == [*range(1, len(axes) - 1), 0, len(axes) - 1]
        return moves and (element != self._elements.Value("FLOAT") or node.output[0] in cast)

    def _transposed(self, node: Any) -> list[Any]:
        """The transposition with one more axis, of length 1."""
        make, helper = self._onnx.helper.make_node, self._onnx.helper
        axes = next(list(one.ints) for one in node.attribute if one.name == "perm")
        rank = len(axes)
        place, wide, moved = (next(self._names) for _ in range(3))
        tensor = helper.make_tensor(place, self._elements.Value("INT64"), [1], [rank])
        return [
            make("Constant", [], [place], value=tensor),
            make("Unsqueeze", [node.input[0], place], [wide]),
            make("Transpose", [wide], [moved], perm=[*axes, rank]),
            make("Squeeze", [moved, place], [node.output[0]]),
        ]

    def _replaced(self, node: Any, types: _Types) -> list[Any]:
        """The node, with casts if it has no kernel otherwise."""
        variables = self._variables(node, types)
        narrow = {name: self._elements.Name(element) for name, element in variables.items()}
        narrow = {name: element for name, element in narrow.items() if element in _WIDER}
        if not narrow or self._has_kernel(node, types, {}):
            return [node]
        choices = itertools.product(*([element, *_WIDER[element]] for element in narrow.values()))
        changes = [
            {name: self._elements.Value(new) for name, new in zip(narrow, chosen, strict=True) if new != narrow[name]}
            for chosen in choices
        ]
        for change in sorted(changes[1:], key=len):
            if self._has_kernel(node, types, change):
                return self._cast(node, variables, change)
        return [node]

    def _variables(self, node: Any, types: _Types) -> dict[str, int]:
        """The element types of the variables, such as T, in the declaration of a node's operation."""
        found = {}
        for name, variable in self._formal(node):
            element = types[name].tensor_type.elem_type if name in types else 0
            if element:
                found[variable] = element
        return found

    def _formal(self, node: Any) -> Iterator[tuple[str, str]]:
        """The names of the node's inputs and outputs, each with the variable of its type."""
        if node.domain:
            return
        schema = self._onnx.defs.get_schema(node.op_type, self._opset)
        for names, formal in ((node.input, schema.inputs), (node.output, schema.outputs)):
            for place, name in enumerate(names):
                # The last one may stand for any number of values.
                declared = formal[min(place, len(formal) - 1)]
                if name and not declared.type_str.startswith(("tensor(", "seq(", "optional(")):
                    yield name, declared.type_str

    def _has_kernel(self, node: Any, types: _Types, change: Mapping[str, int]) -> bool:
        """Whether the node alone can be opened, with other types for some variables."""
        helper, formal = self._onnx.helper, dict(self._formal(node))
        alone = self._onnx.NodeProto.FromString(node.SerializeToString())
        alone.name = ""
        renamed = {name: f"v{place}" for place, name in enumerate(dict.fromkeys((*node.input, *node.output))) if name}
        for field in (alone.input, alone.output):
            field[:] = [renamed.get(name, "") for name in field]

        def values(names: Sequence[str]) -> list[Any]:
            made = []
            for name in dict.fromkeys(filter(None, names)):
                element = change.get(formal.get(name, ""), 0)
                kind = self._tensor_type(element) if element else types.get(name)
                if kind is None:
                    raise KeyError(name)
                made.append(helper.make_value_info(renamed[name], _without_shape(kind)))
            return made

        try:
            graph = helper.make_graph([alone], "alone", values(node.input), values(node.output))
        except KeyError:
            # An unknown type: nothing can be found out.
            return True
        model = helper.make_model(graph, opset_imports=self._imports, ir_version=self._version).SerializeToString()
        if model not in self._known:
            try:
                self._opens(model)
                self._known[model] = True
            except Exception:
                self._known[model] = False
        return self._known[model]

    def _cast(self, node: Any, variables: Mapping[str, int], change: Mapping[str, int]) -> list[Any]:
        """The node with casts before and after it."""
        make, formal = self._onnx.helper.make_node, dict(self._formal(node))
        before, after = [], []
        for name in dict.fromkeys(filter(None, node.input)):
            if (variable := formal.get(name, "")) in change:
                wide = next(self._names)
                before.append(make("Cast", [name], [wide], to=change[variable]))
                node.input[:] = [wide if one == name else one for one in node.input]
        for name in dict.fromkeys(filter(None, node.output)):
            if (variable := formal.get(name, "")) in change:
                wide = next(self._names)
                after.append(make("Cast", [wide], [name], to=variables[variable]))
                node.output[:] = [wide if one == name else one for one in node.output]
        return [*before, node, *after]

    def _tensor_type(self, element: int) -> Any:
        return self._onnx.helper.make_tensor_type_proto(element, None)


def subgraphs(node: Any) -> Iterator[Any]:
    """The graphs in a node's attributes, such as the body of a loop."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g


def _without_shape(kind: Any) -> Any:
    copied = type(kind).FromString(kind.SerializeToString())
    if copied.HasField("tensor_type"):
        copied.tensor_type.ClearField("shape")
    return copied
