"""Nodes: one call of a layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layergraph.functional.nest import Structure, flatten, walk
from layergraph.functional.tensor import Tensor

if TYPE_CHECKING:
    from layergraph.functional.layer import Layer


class Node:
    """A call of `layer` with `args` and `kwargs`, nested structures that hold tensors, and its `outputs`."""

    __slots__ = ("args", "index", "input_tensors", "kwargs", "layer", "output_tensors", "outputs", "stored", "training")

    def __init__(
        self,
        layer: Layer,
        args: tuple[Structure, ...],
        kwargs: dict[str, Structure],
        outputs: Structure,
        training: bool | None,
    ) -> None:
        self.layer = layer
        self.args = args
        self.kwargs = kwargs
        self.outputs = outputs
        #: All tensors among the arguments, and all outputs, in flat order.
        self.input_tensors: list[Tensor] = [leaf for leaf in flatten([list(args), kwargs]) if isinstance(leaf, Tensor)]
        self.output_tensors: list[Tensor] = flatten(outputs)
        #: The `training` argument of the call; None means that of the context.
        self.training = training
        #: The call in the file that the model was loaded from, with tensors in it; see `CallSpec`.
        self.stored: Structure = None
        self.index = len(layer.inbound_nodes)
        layer.inbound_nodes.append(self)

    @property
    def is_input(self) -> bool:
        """Whether this is the node of an InputLayer."""
        return not self.args and not self.kwargs

    def named_inputs(self) -> list[tuple[str, Tensor]]:
        """The input tensors with the names of their arguments: `inputs`, `inputs[1]`, `initial_state[0]`."""
        names = self.layer.call_argument_names
        named = [(names[i] if i < len(names) else f"args[{i}]", arg) for i, arg in enumerate(self.args)]
        return [
            (name + "".join(f"[{key!r}]" if isinstance(key, str) else f"[{key}]" for key in path), leaf)
            for name, value in [*named, *sorted(self.kwargs.items())]
            for path, leaf in walk(value)
            if isinstance(leaf, Tensor)
        ]
