"""Sequential models: a stack of layers, each called on the output of the one before."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from layergraph.errors import GraphError
from layergraph.functional import scopes
from layergraph.functional.input import Input, InputLayer
from layergraph.functional.layer import Layer
from layergraph.functional.naming import default_name
from layergraph.functional.nest import Structure, flatten
from layergraph.functional.tensor import Shape, Tensor
from layergraph.models.model import Model


class Sequential(Model):
    """A stack of layers (keras.Sequential). Its graph exists once its input shape is known.

    layers   layers and optionally, first, an `Input`; otherwise the shape is the first layer's `input_shape=`, or taken
             from the first call
    """

    def __init__(
        self, layers: Iterable[Layer | Tensor] | None = None, name: str | None = None, trainable: bool = True
    ) -> None:
        super().__init__(None, None, name=name, trainable=trainable)
        self._stack: list[Layer] = []
        self._input: Tensor | None = None
        #: The output of each layer of the stack.
        self._ends: list[Any] = []
        for layer in layers or ():
            self._put(layer)
        self._rebuild()

    @staticmethod
    def _default_name() -> str:
        return default_name("Sequential")

    @property
    def keras_class_name(self) -> str:
        """The class name in files."""
        return "Sequential"

    @property
    def layers(self) -> list[Layer]:
        """The stack, without its input."""
        return list(self._stack)

    def add(self, layer: Layer | Tensor) -> None:
        """Adds a layer on top. Raises GraphError if it is no layer, or if its name is taken."""
        self._put(layer)
        self._rebuild()

    def _put(self, layer: Layer | Tensor) -> None:
        if isinstance(layer, Tensor):
            layer = layer.history.layer
        if not isinstance(layer, Layer):
            raise GraphError(f"model '{self.name}': got {layer!r}, expected a layer")
        if isinstance(layer, InputLayer):
            if self._stack or self._input is not None:
                raise GraphError(f"model '{self.name}': an Input can only come first")
            self._input = layer.inbound_nodes[0].outputs
        else:
            if layer.name in self.sublayers:
                raise GraphError(f"model '{self.name}': it has a layer named {layer.name!r} already")
            if not self._stack and self._input is None:
                shape = _known_input_shape(layer)
                self._input = None if shape is None else Input(batch_shape=shape)
            self._stack.append(layer)
            self.sublayers[layer.name] = layer

    def pop(self) -> Layer:
        """Removes the top layer and returns it. Raises GraphError if there is none."""
        if not self._stack:
            raise GraphError(f"model '{self.name}' has no layers")
        layer = self._stack.pop()
        del self._ends[len(self._stack) :]
        self.sublayers = {known.name: known for known in self._stack}
        self._rebuild()
        return layer

    def build_for(self, args: tuple[Structure, ...]) -> None:
        """Takes the input shape from the arguments of the first call. Raises GraphError for several inputs."""
        if self._graph is None:
            tensors = flatten(args[0])
            if len(tensors) != 1:
                raise GraphError(f"model '{self.name}': got {len(tensors)} inputs, expected 1")
            first = tensors[0]
            dtype = first.dtype if isinstance(first, Tensor) else str(first.dtype).removeprefix("torch.")
            self._input = Input(batch_shape=(None, *first.shape[1:]), dtype=dtype)
            self._rebuild()

    def _rebuild(self) -> None:
        """Makes missing calls. Earlier calls are kept, so that each layer has one node in the stack."""
        self._graph = None
        self.built = False
        if self._input is None or not self._stack:
            return
        with scopes.building(self):
            for layer in self._stack[len(self._ends) :]:
                self._ends.append(layer(self._ends[-1] if self._ends else self._input))
        self._set_graph([self._input], flatten(self._ends[-1]))
        self.sublayers = {layer.name: layer for layer in self._stack}


def _known_input_shape(layer: Layer) -> Shape | None:
    """The input shape by a first layer: its `input_shape=`, or its own input if it is a model."""
    if layer.announced_shape is not None:
        return layer.announced_shape
    inner = layer.inner_model
    if inner is not None and inner.built and len(inner.inputs) == 1:
        return inner.inputs[0].shape
    return None
